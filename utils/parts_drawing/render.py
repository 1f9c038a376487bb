"""From meshes to pixels: camera, raster, metal under lamps, shadows, and what the camera's sensor adds.

Colours are BGR, float32, 1.0 is white. World coordinates are millimetres with the bench at z = 0 and z upwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from utils.parts_drawing.settings import SUPERSAMPLING
from utils.parts_drawing.shapes import Mesh

RASTER_SHIFT = 4  # fractional bits of the polygon filler's coordinates
OUTSIDE_PIXELS = 160  # how far beyond the picture's border objects are still drawn, to know their whole area


@dataclass(frozen=True)
class Camera:
    """A pinhole camera above the bench.

    Attributes:
        place: (3,) its position.
        axes: (3, 3) rows right, down, forward.
        focal: focal length in pixels.
        size: picture width and height in pixels.
    """

    place: np.ndarray
    axes: np.ndarray
    focal: float
    size: tuple[int, int]

    @classmethod
    def above(cls, target: np.ndarray, angles: tuple[float, float, float], distance: float, lens: Lens) -> Camera:
        """Return the camera that looks at a target (3,) under (azimuth, elevation, roll) in radians."""
        azimuth, elevation, roll = angles
        flat = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        forward = -np.cos(elevation) * flat - np.array([0.0, 0.0, np.sin(elevation)])
        right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
        down = np.cross(forward, right)
        c, s = np.cos(roll), np.sin(roll)
        axes = np.stack((c * right + s * down, c * down - s * right, forward))
        return cls(target - distance * forward, axes, lens.focal, lens.size)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (N, 2) pixel positions and (N,) depths of (N, 3) points."""
        local = (points - self.place) @ self.axes.T
        centre = np.array(self.size) / 2
        return local[:, :2] / local[:, 2:] * self.focal + centre, local[:, 2]

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Return (..., 3) directions through (..., 2) pixel positions, not normalised."""
        centre = np.array(self.size, pixels.dtype) / 2
        axes = self.axes.astype(pixels.dtype)
        return ((pixels - centre) / pixels.dtype.type(self.focal)) @ axes[:2] + axes[2]

    def on_bench(self, pixels: np.ndarray) -> np.ndarray:
        """Return (..., 2) bench positions seen at (..., 2) pixel positions."""
        rays = self.rays(pixels)
        return self.place[:2] - rays[..., :2] * (self.place[2] / rays[..., 2:])


@dataclass(frozen=True)
class Lens:
    """Focal length in pixels and picture size (width, height)."""

    focal: float
    size: tuple[int, int]


@dataclass(frozen=True)
class Lighting:
    """The lamps around the bench.

    Attributes:
        lamps: (L, 3) unit directions towards them, the first casts the shadows.
        power: (L,) brightness.
        tint: (3,) colour of the light.
        bands: (K, 4) wave vectors and phases of the dark and bright room that metal mirrors.
        floor: (3,) colour of the bench as metal mirrors it.
        softness: width of the shadows' edges as a share of the height that casts them.
    """

    lamps: np.ndarray
    power: np.ndarray
    tint: np.ndarray
    bands: np.ndarray
    floor: np.ndarray
    softness: float

    @classmethod
    def random(cls, rng: np.random.Generator, floor: np.ndarray) -> Lighting:
        """Return two or three lamps high enough that shadows stay shorter than the parts are high."""
        count = int(rng.integers(2, 4))
        azimuth = rng.uniform(0, 2 * np.pi, count)
        elevation = np.deg2rad(rng.uniform(48, 75, count))
        across = np.cos(elevation)
        lamps = np.stack((across * np.cos(azimuth), across * np.sin(azimuth), np.sin(elevation)), -1)
        power = np.concatenate(([1.0], rng.uniform(0.3, 0.7, count - 1)))
        warm = rng.uniform(-0.07, 0.07)
        bands = np.column_stack((rng.normal(0, 3.2, (3, 3)), rng.uniform(0, 6.28, 3)))
        tint = np.array([1 - warm, 1.0, 1 + warm])
        return cls(lamps, power, tint, bands, floor, rng.uniform(0.15, 0.5))


@dataclass(frozen=True)
class Material:
    """A surface: mirror colour (3,) BGR, matt colour (3,) BGR, roughness 0 to 1, share of rust or dirt spots."""

    mirror: tuple[float, float, float]
    matt: tuple[float, float, float]
    roughness: float
    rust: float = 0.0


@dataclass(frozen=True)
class Sprite:
    """One object as seen: a window of the supersampled picture.

    Attributes:
        x, y: the window's corner in supersampled pixels; corner and size are whole pixels of the picture.
        faces: (h, w) int32, number of the face seen plus 1, 0 beside the object.
        mesh: the object in world coordinates.
        normals: (F, 3) unit normals of its faces.
    """

    x: int
    y: int
    faces: np.ndarray
    mesh: Mesh
    normals: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """Return (h, w) bool, the object's silhouette."""
        return self.faces > 0


def face_normals(mesh: Mesh) -> np.ndarray:
    """Return (F, 3) unit normals; the diagonals serve faces that taper to a point as well."""
    a, b, c, d = (mesh.vertices[mesh.faces[:, k]] for k in range(4))
    normals = np.cross(c - a, d - b)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def rasterise(mesh: Mesh, camera: Camera) -> Sprite:
    """Draw the faces that look at the camera, the far ones first, into the object's own window."""
    normals = face_normals(mesh)
    centres = sum(mesh.vertices[mesh.faces[:, k]] for k in range(4)) / 4
    towards = np.einsum("ij,ij->i", camera.place - centres, normals)
    pixels, _ = camera.project(mesh.vertices)
    pixels = pixels * SUPERSAMPLING
    margin = OUTSIDE_PIXELS * SUPERSAMPLING
    low = np.maximum(np.floor(pixels.min(0)).astype(int) - 2, -margin)
    high = np.minimum(np.ceil(pixels.max(0)).astype(int) + 3, np.array(camera.size) * SUPERSAMPLING + margin)
    low = low // SUPERSAMPLING * SUPERSAMPLING
    width, height = -(-np.maximum(high - low, 1) // SUPERSAMPLING) * SUPERSAMPLING
    front = np.flatnonzero(towards > 1e-9)
    depth = ((centres[front] - camera.place) @ camera.axes[2]) - mesh.bias[front]
    front = front[np.argsort(-depth, kind="stable")]
    corners = np.rint((pixels[mesh.faces[front]] - low - 0.5) * 2**RASTER_SHIFT).astype(np.int32)
    window = np.zeros((height, width), np.int32)
    for corner, number in zip(corners, (front + 1).tolist(), strict=True):
        cv2.fillConvexPoly(window, corner, number, cv2.LINE_8, RASTER_SHIFT)
    return Sprite(int(low[0]), int(low[1]), window, mesh, normals)


def surroundings(direction: np.ndarray, roughness: float, lighting: Lighting) -> np.ndarray:
    """Return (N, 3) light arriving from (N, 3) unit directions as a surface of this roughness mirrors it."""
    up = direction[:, 2]
    rise = np.clip((up + 0.25) / 0.7, 0, 1)
    rise = rise * rise * (3 - 2 * rise)
    waves = np.sin(direction @ lighting.bands[:, :3].T.astype(np.float32) + lighting.bands[:, 3].astype(np.float32))
    room = 0.40 + (0.30 * (1 - roughness)) * waves.mean(1)
    light = (rise * room)[:, None] + (1 - rise)[:, None] * (0.55 * lighting.floor.astype(np.float32))
    spread = 5.0 + 70.0 * (1 - roughness) ** 2
    for lamp, power in zip(lighting.lamps, lighting.power, strict=True):
        glow = np.exp(spread * (direction @ lamp.astype(np.float32) - 1.0))
        light += (power * (0.55 + 1.5 * (1 - roughness)) * glow)[:, None]
    return light * lighting.tint.astype(np.float32)


def _smooth_normals(sprite: Sprite, seen: np.ndarray) -> np.ndarray:
    """Return (N, 3) normals at the window's flat pixel numbers ``seen``, softened over a pixel.

    The softening lets edges catch light and hides the facets of round surfaces.
    """
    table = np.concatenate((np.zeros((1, 3)), sprite.normals)).astype(np.float32)
    normals = cv2.GaussianBlur(table.take(sprite.faces, axis=0), (3, 3), 0.45 * SUPERSAMPLING)
    normals = normals.reshape(-1, 3).take(seen, axis=0)
    return normals / np.maximum(np.sqrt(np.einsum("ij,ij->i", normals, normals)), 1e-6)[:, None]


def _directions(sprite: Sprite, camera: Camera, seen: np.ndarray) -> np.ndarray:
    """Return (N, 3) unit directions from the camera through the window's flat pixel numbers ``seen``."""
    rows, columns = np.divmod(seen.astype(np.int32), sprite.faces.shape[1])
    pixels = np.empty((len(seen), 2), np.float32)
    pixels[:, 0], pixels[:, 1] = columns + (sprite.x + 0.5), rows + (sprite.y + 0.5)
    view = camera.rays(pixels / np.float32(SUPERSAMPLING))
    view /= np.sqrt(np.einsum("ij,ij->i", view, view))[:, None]
    return view


def _wear(shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two (h, w) noises of mean 0: blotches some pixels wide, and grain."""
    height, width = shape
    coarse = rng.standard_normal((height // 5 + 2, width // 5 + 2), dtype=np.float32)
    return cv2.resize(coarse, (width, height)), rng.standard_normal((height, width), dtype=np.float32)


def shade(
    sprite: Sprite, camera: Camera, materials: list[Material], lighting: Lighting, rng: np.random.Generator
) -> np.ndarray:
    """Return (h, w, 3) colours of a sprite's window; pixels beside the object are 0."""
    wear, grain = _wear(sprite.faces.shape, rng)
    seen = np.flatnonzero(sprite.faces)
    number = sprite.faces.reshape(-1).take(seen) - 1
    wear, grain = wear.reshape(-1).take(seen), grain.reshape(-1).take(seen)
    normals = _smooth_normals(sprite, seen)
    rough = np.float32(materials[0].roughness)
    normals += rough * np.stack((0.045 * wear, -0.045 * wear, 0.012 * grain), -1)
    view = _directions(sprite, camera, seen)
    mirrored = view - (2 * np.einsum("ij,ij->i", view, normals))[:, None] * normals
    lamps = np.clip(normals @ lighting.lamps.T.astype(np.float32), 0, None) @ lighting.power.astype(np.float32)
    matt_light = (0.35 + 0.55 * lamps)[:, None] * lighting.tint.astype(np.float32)
    paints = sprite.mesh.paint[number] if sprite.mesh.paint.any() else None
    colour = np.zeros((len(number), 3), np.float32)
    for paint, material in enumerate(materials):
        chosen = slice(None) if paints is None else np.flatnonzero(paints == paint)
        colour[chosen] = _material_colour(material, mirrored[chosen], matt_light[chosen], wear[chosen], lighting)
        if paints is None:
            break
    colour *= (sprite.mesh.light.astype(np.float32)[number] * (1 + 0.04 * wear + 0.03 * grain))[:, None]
    window = np.zeros((sprite.faces.size, 3), np.float32)
    window[seen] = np.minimum(colour, 4)
    return window.reshape(*sprite.faces.shape, 3)


def _material_colour(
    material: Material, mirrored: np.ndarray, matt_light: np.ndarray, wear: np.ndarray, lighting: Lighting
) -> np.ndarray:
    """Return (N, 3) colours of one material from (N, 3) mirrored directions, (N, 3) lamp light and (N,) blotches."""
    mirror = surroundings(mirrored, material.roughness, lighting) * np.float32(material.mirror)
    colour = mirror + matt_light * np.float32(material.matt)
    if material.rust:
        spots = np.clip((wear + (3.0 * material.rust - 1.6)) * 2.0, 0, 0.85)[:, None]
        colour = colour * (1 - spots) + spots * matt_light * np.float32((0.11, 0.22, 0.40))
    return colour


def window_on(sprite: Sprite, values: np.ndarray, size: tuple[int, int]) -> tuple[slice, slice, np.ndarray]:
    """Cut a sprite-sized array (h, w[, c]) to the picture of ``size`` (width, height).

    Returns:
        Rows and columns of the supersampled picture and the values there; empty for a sprite that lies outside.
    """
    height, width = sprite.faces.shape
    x0, x1 = np.clip((sprite.x, sprite.x + width), 0, size[0] * SUPERSAMPLING).tolist()
    y0, y1 = np.clip((sprite.y, sprite.y + height), 0, size[1] * SUPERSAMPLING).tolist()
    return slice(y0, y1), slice(x0, x1), values[y0 - sprite.y : y1 - sprite.y, x0 - sprite.x : x1 - sprite.x]


def paste(canvas: np.ndarray, sprite: Sprite, colours: np.ndarray) -> None:
    """Draw a shaded sprite on a canvas (H, W, 3) at picture size, edges smoothed by the supersampling."""
    size = (canvas.shape[1], canvas.shape[0])
    rows, columns, layer = window_on(sprite, colours, size)
    if layer.size == 0:
        return
    s = SUPERSAMPLING
    small = (layer.shape[1] // s, layer.shape[0] // s)
    cover = window_on(sprite, sprite.mask, size)[2].astype(np.float32)
    part = canvas[rows.start // s : rows.stop // s, columns.start // s : columns.stop // s]
    part *= 1 - cv2.resize(cover, small, interpolation=cv2.INTER_AREA)[..., None]
    part += cv2.resize(layer, small, interpolation=cv2.INTER_AREA)


def cast_shadow(canvas: np.ndarray, mesh: Mesh, camera: Camera, lighting: Lighting, ground: float) -> None:
    """Darken a canvas (H, W, 3) where an object keeps the first lamp's light from the plane z = ``ground``.

    A second, narrower darkening where the object touches the plane keeps it from floating.
    """
    height, width = canvas.shape[:2]
    above = np.maximum(mesh.vertices[:, 2] - ground, 0.0)
    lamp = lighting.lamps[0]
    points = mesh.vertices - (above / lamp[2])[:, None] * lamp
    close = above < 0.35 * above.max() + 0.3
    reach = float(lighting.softness * above.max() * camera.focal / np.linalg.norm(camera.place))
    for chosen, spread, strength in ((slice(None), 0.6 + 0.5 * reach, 0.62), (close, 1.6, 0.45)):
        shadow = _splat(camera.project(points[chosen])[0], (width, height), spread)
        if shadow is not None:
            x, y, dark = shadow
            canvas[y : y + dark.shape[0], x : x + dark.shape[1]] *= (1 - strength * dark)[..., None]


def _splat(pixels: np.ndarray, size: tuple[int, int], spread: float) -> tuple[int, int, np.ndarray] | None:
    """Return corner and (h, w) softened cover 0 to 1 of a dense cloud of (N, 2) pixel positions, cut to the picture."""
    margin = int(3 * spread) + 3
    low = np.floor(pixels.min(0)).astype(int) - margin
    high = np.ceil(pixels.max(0)).astype(int) + margin
    low, high = np.maximum(low, -200), np.minimum(high, np.array(size) + 200)
    shape = high - low
    if (shape <= 0).any():
        return None
    cover = np.zeros((shape[1], shape[0]), np.float32)
    column, row = (np.rint(pixels) - low).astype(int).T
    inside = (column >= 0) & (column < shape[0]) & (row >= 0) & (row < shape[1])
    cover[row[inside], column[inside]] = 1.0
    cover = cv2.morphologyEx(cover, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    cover = cv2.GaussianBlur(cover, (0, 0), spread)
    x0, y0 = np.maximum(low, 0)
    x1, y1 = np.minimum(high, size)
    if x1 <= x0 or y1 <= y0:
        return None
    return int(x0), int(y0), cover[y0 - low[1] : y1 - low[1], x0 - low[0] : x1 - low[0]]
