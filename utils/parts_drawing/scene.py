"""One picture of parts on a bench: what lies where, drawn in order, with boxes from the pixels that stay visible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from utils.parts_drawing import settings
from utils.parts_drawing.bench import TILE, Ground, draw_chips, draw_flat_tool, draw_surface
from utils.parts_drawing.render import (
    Camera,
    Lens,
    Lighting,
    Material,
    Sprite,
    cast_shadow,
    paste,
    rasterise,
    shade,
    window_on,
)
from utils.parts_drawing.settings import BOLT, COUPLING, NUT, SCREW, SUPERSAMPLING, WASHER
from utils.parts_drawing.shapes import BUILDERS, TOOLS, Mesh, cable, hex_key, pencil

COARSE = 4  # pixels a cell of the map that placing looks at
TRIES = 40
NOBODY, CLUTTER = -1, -2  # owners of visible pixels beside the parts' own numbers
TOOL, COLOURED = -2, -3  # kinds of objects beside the parts: steel, or lacquered and plastic

ZINC = Material((0.90, 0.88, 0.84), (0.16, 0.15, 0.14), 0.35)
STEEL = Material((0.78, 0.79, 0.80), (0.10, 0.10, 0.10), 0.50)
BRIGHT = Material((0.95, 0.96, 0.97), (0.08, 0.08, 0.08), 0.12)
YELLOW = Material((0.48, 0.74, 0.86), (0.06, 0.13, 0.17), 0.35)
BRASS = Material((0.36, 0.68, 0.88), (0.05, 0.12, 0.17), 0.25)
BLACK = Material((0.24, 0.23, 0.22), (0.05, 0.05, 0.05), 0.55)
FINISHES = {
    SCREW: (ZINC, YELLOW, YELLOW, BLACK, BRIGHT, BRASS),
    BOLT: (ZINC, ZINC, STEEL, STEEL, YELLOW, BLACK, BRIGHT),
    NUT: (ZINC, ZINC, STEEL, YELLOW, BRASS, BRIGHT),
    WASHER: (ZINC, ZINC, STEEL, YELLOW, BRIGHT),
    COUPLING: (ZINC, ZINC, STEEL, STEEL, YELLOW, BLACK, BRIGHT),
}
PLASTIC = ((0.10, 0.12, 0.55), (0.06, 0.42, 0.70), (0.45, 0.20, 0.08), (0.12, 0.12, 0.12), (0.15, 0.45, 0.18))


@dataclass(frozen=True)
class Picture:
    """A drawn picture and its truth.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        classes: (n,) class numbers of the labelled parts.
        xyxy: (n, 4) float boxes of their visible pixels, in pixels of the image.
        owner: (H * S, W * S) int16 map, S the supersampling: which part is visible, -1 bench, -2 clutter. Parts
            are numbered as they were asked for.
        numbers: (n,) the labelled parts' numbers in ``owner``.
    """

    image: np.ndarray
    classes: np.ndarray
    xyxy: np.ndarray
    owner: np.ndarray
    numbers: np.ndarray

    def xywhn(self) -> np.ndarray:
        """Return (n, 4) boxes as centre and size, normalised by the image's width and height."""
        height, width = self.image.shape[:2]
        low, high = self.xyxy[:, :2], self.xyxy[:, 2:]
        return np.concatenate(((low + high) / 2, high - low), 1) / np.array([width, height, width, height])

    def outlines(self) -> list[np.ndarray]:
        """Return n outlines (points, 2) of the parts' visible pixels, normalised; holes are filled."""
        from utils.segment.outlines import mask_outline

        sides = np.array(self.owner.shape[::-1])
        masks = ((self.owner == number).astype(np.uint8) for number in self.numbers)
        return [(mask_outline(mask) + 0.5) / sides for mask in masks]


@dataclass(frozen=True)
class Placed:
    """An object on the bench: its class, TOOL or COLOURED, its mesh in world coordinates, the height it lies at."""

    kind: int
    mesh: Mesh
    ground: float


def _rotation(axis: int, angle: float) -> np.ndarray:
    matrix = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[j, i], matrix[i, j] = np.sin(angle), -np.sin(angle)
    return matrix


def pose(mesh: Mesh, kind: int, rng: np.random.Generator) -> Mesh:
    """Return the mesh turned as it comes to rest, its lowest point at z = 0, its middle above x = y = 0."""
    roll, yaw = rng.uniform(0, 2 * np.pi, 2)
    lean = rng.normal(0, 0.02, 2)
    if rng.random() < settings.STANDING.get(kind, 0.0):
        flip = np.pi if kind in {SCREW, BOLT} or rng.random() < 0.5 else 0.0
        turn = _rotation(1, flip + lean[0])
    elif kind == WASHER:
        turn = _rotation(1, rng.uniform(0.15, 0.4))
    else:
        flats = np.round(roll / (np.pi / 3)) * (np.pi / 3) + np.pi / 6
        roll = flats if kind in {NUT, COUPLING} else roll
        turn = _rotation(1, np.pi / 2 - mesh.tilt + lean[0]) @ _rotation(2, roll)
    vertices = mesh.vertices @ (_rotation(2, yaw) @ turn).T
    low, high = vertices.min(0), vertices.max(0)
    return replace(mesh, vertices=vertices - np.array([*(low + high)[:2] / 2, low[2]]))


def _hull(mesh: Mesh, camera: Camera) -> np.ndarray:
    pixels, _ = camera.project(mesh.vertices)
    return cv2.convexHull(np.rint(pixels / COARSE * 16).astype(np.int32))


class Layout:
    """Finds places: keeps a coarse map of who covers which cell of the picture."""

    def __init__(self, camera: Camera, rng: np.random.Generator):
        self.camera, self.rng = camera, rng
        width, height = camera.size
        self.map = np.full((-(-height // COARSE), -(-width // COARSE)), NOBODY, np.int16)
        self.areas: list[int] = []

    def _cover(self, mesh: Mesh) -> tuple[np.ndarray, float]:
        """Return the map's cells under a mesh, and the share of its outline that lies inside the picture."""
        hull = _hull(mesh, self.camera)
        cells = np.zeros(self.map.shape, np.uint8)
        cv2.fillConvexPoly(cells, hull, 1, cv2.LINE_8, 4)
        whole = cv2.contourArea((hull / 16).astype(np.float32))
        return cells > 0, min(1.0, float(cells.sum()) / max(whole, 1.0))

    def _worst_hidden(self, cells: np.ndarray) -> float:
        """Return the largest share of any earlier part that would be hidden once these cells are covered too."""
        left = np.bincount(self.map[(self.map >= 0) & ~cells], minlength=len(self.areas))
        touched = np.unique(self.map[cells & (self.map >= 0)])
        return max((1 - left[k] / self.areas[k] for k in touched), default=0.0)

    def _try(self, mesh: Mesh, edge: bool) -> tuple[Mesh, np.ndarray, float, float]:
        width, height = self.camera.size
        margin = -0.03 if edge else 0.05
        spot = self.rng.uniform((margin * width, margin * height), ((1 - margin) * width, (1 - margin) * height))
        x, y = self.camera.on_bench(spot)
        moved = replace(mesh, vertices=mesh.vertices + np.array([x, y, 0.0]))
        cells, inside = self._cover(moved)
        return moved, cells, inside, self._worst_hidden(cells)

    def place(self, mesh: Mesh) -> tuple[Mesh, float]:
        """Return the mesh where it hides little enough of the others, and the height that it lies at."""
        overlap = self.rng.random() < settings.OVERLAP_SHARE
        edge = self.rng.random() < settings.TRUNCATED_SHARE
        best, best_cost = None, np.inf
        for _ in range(TRIES):
            moved, cells, inside, hidden = self._try(mesh, edge)
            outside = max(0.0, (settings.MIN_INSIDE if edge else 0.985) - inside)
            excess = max(0.0, hidden - (settings.MAX_HIDDEN if overlap else 0.04))
            cost = 4 * outside + excess
            if cost < best_cost:
                best, best_cost = (moved, cells), cost
            if cost == 0:
                break
        moved, cells = best
        lift = 0.0
        if (self.map[cells] >= 0).sum() > 0.06 * cells.sum():
            lift = 3.0
            moved = replace(moved, vertices=moved.vertices + np.array([0.0, 0.0, lift]))
            cells, _ = self._cover(moved)
        self.areas.append(max(int(cells.sum()), 1))
        self.map[cells] = len(self.areas) - 1
        return moved, lift


def _camera(rng: np.random.Generator, size: tuple[int, int]) -> Camera:
    distance = rng.uniform(*settings.CAMERA_DISTANCE_MM)
    lens = Lens(size[0] * distance / rng.uniform(*settings.VIEW_MM), size)
    angles = (rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(*settings.ELEVATION_DEG)), rng.normal(0, 0.06))
    return Camera.above(np.array([*rng.uniform(-8, 8, 2), 0.0]), angles, distance, lens)


def _place_parts(classes: Sequence[int], camera: Camera, rng: np.random.Generator, lookalike: float) -> list[Placed]:
    """Return the parts in the order asked for."""
    layout = Layout(camera, rng)
    builders = {**BUILDERS, COUPLING: partial(BUILDERS[COUPLING], lookalike=lookalike)}
    placed = []
    for kind in classes:
        mesh, lift = layout.place(pose(builders[kind](rng), kind, rng))
        placed.append(Placed(kind, mesh, lift))
    return placed


def _moved(mesh: Mesh, rng: np.random.Generator, spread: float) -> Mesh:
    return replace(mesh, vertices=mesh.vertices + np.array([*rng.uniform(-spread, spread, 2), 0.0]))


def _clutter(rng: np.random.Generator) -> tuple[list[Placed], list[Placed]]:
    """Return the tools that lie under the parts and the cables that run over them."""
    under = []
    for _ in range(int(rng.integers(settings.TOOLS[0], settings.TOOLS[1] + 1))):
        build = TOOLS[int(rng.integers(len(TOOLS)))]
        mesh = build(rng)
        if build is hex_key:
            mesh = replace(mesh, vertices=mesh.vertices @ _rotation(2, rng.uniform(0, 6.28)).T)
        else:
            mesh = pose(mesh, TOOL, rng)
        under.append(Placed(COLOURED if build is pencil else TOOL, _moved(mesh, rng, 75.0), 0.0))
    over = []
    if rng.random() < settings.CABLE_SHARE:
        mesh = cable(rng, 260.0)
        mesh = replace(mesh, vertices=mesh.vertices @ _rotation(2, rng.uniform(0, 6.28)).T)
        over.append(Placed(COLOURED, _moved(mesh, rng, 60.0), 0.0))
    return under, over


def _materials(kind: int, rng: np.random.Generator) -> list[Material]:
    """Return an object's surfaces: one for a part, three for a tool."""
    if kind in {TOOL, COLOURED}:
        plastic = [Material((0.10, 0.10, 0.10), PLASTIC[int(rng.integers(len(PLASTIC)))], 0.4) for _ in range(2)]
        steel = (STEEL, ZINC, BLACK)[int(rng.integers(3))]
        return [steel if kind == TOOL else plastic[0], plastic[1], Material((0.1,) * 3, (0.05,) * 3, 0.5)]
    base = FINISHES[kind][int(rng.integers(len(FINISHES[kind])))]
    tone = rng.uniform(0.86, 1.08)
    rust = rng.uniform(0.25, 0.75) if rng.random() < settings.RUST_SHARE else 0.0
    mirror = tuple(tone * v for v in base.mirror)
    return [Material(mirror, base.matt, float(np.clip(base.roughness + rng.uniform(-0.12, 0.15), 0.05, 0.9)), rust)]


def _owners(sprites: list[Sprite], numbers: list[int], size: tuple[int, int]) -> np.ndarray:
    """Return the supersampled map of what is visible where, the later sprites in front."""
    owner = np.full((size[1] * SUPERSAMPLING, size[0] * SUPERSAMPLING), NOBODY, np.int16)
    for sprite, number in zip(sprites, numbers, strict=True):
        rows, columns, mask = window_on(sprite, sprite.mask, size)
        owner[rows, columns][mask] = number
    return owner


def visible_box(mask: np.ndarray) -> np.ndarray:
    """Return (4,) xyxy around the True pixels of a (H, W) mask, the far edges one beyond the last pixel."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


def _boxes(owner: np.ndarray, sprites: list[Sprite]) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers (n,) and xyxy (n, 4), in pixels of the image, of the parts that are visible enough."""
    numbers, boxes = [], []
    size = (owner.shape[1] // SUPERSAMPLING, owner.shape[0] // SUPERSAMPLING)
    for number, sprite in enumerate(sprites):
        rows, columns, _ = window_on(sprite, sprite.faces, size)
        mask = owner[rows, columns] == number
        seen = np.count_nonzero(mask)
        if seen and seen >= settings.MIN_VISIBLE * np.count_nonzero(sprite.faces):
            numbers.append(number)
            corner = np.array([columns.start, rows.start] * 2)
            boxes.append((visible_box(mask) + corner) / SUPERSAMPLING)
    return np.array(numbers, int), np.array(boxes).reshape(-1, 4)


def _expose(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (H, W, 3) uint8 of float colours: lens and motion blur, exposure, highlights, noise."""
    height, width = picture.shape[:2]
    scale = width / settings.IMAGE_SIZE[0]
    if rng.random() < settings.BLUR_SHARE:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(*settings.BLUR_SIGMA) * scale)
    if rng.random() < settings.MOTION_SHARE:
        reach = int(rng.integers(settings.MOTION_PIXELS[0], settings.MOTION_PIXELS[1] + 1) * scale)
        kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
        step = reach / 2 * np.array([np.cos(angle := rng.uniform(0, np.pi)), np.sin(angle)])
        ends = [tuple(int(v) for v in np.rint(reach + sign * step)) for sign in (-1, 1)]
        cv2.line(kernel, ends[0], ends[1], 1.0)
        picture = cv2.filter2D(picture, -1, kernel / kernel.sum())
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    picture = picture * (1 - rng.uniform(0.0, 0.16) * (x * x + y * y))[..., None]
    picture = picture * np.float32(rng.uniform(*settings.EXPOSURE) * (1 + rng.uniform(-0.03, 0.03, 3)))
    knee = 0.75
    bright = knee + (1 - knee) * (1 - np.exp((knee - picture) / (1 - knee)))
    picture = np.where(picture > knee, bright, picture)
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(*settings.NOISE))
    picture = picture + noise * (0.6 + 0.8 * np.sqrt(np.clip(picture, 0, 1)))
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _bench(camera: Camera, rng: np.random.Generator) -> tuple[np.ndarray, Ground]:
    width, height = camera.size
    pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1).astype(np.float32)
    seen = camera.on_bench(pixels)
    turn = rng.uniform(0, 2 * np.pi)
    seen = seen.astype(np.float32)
    x = seen[..., 0] * np.cos(turn) + seen[..., 1] * np.sin(turn)
    y = seen[..., 1] * np.cos(turn) - seen[..., 0] * np.sin(turn)
    tile = rng.standard_normal((TILE, TILE)).astype(np.float32)
    ground = Ground(x.astype(np.float32), y.astype(np.float32), tile, rng)
    picture = draw_surface(ground)
    if rng.random() < 0.2:
        draw_flat_tool(picture, ground)
    return picture, ground


def draw_scene(
    rng: np.random.Generator,
    classes: Sequence[int],
    *,
    size: tuple[int, int] = settings.IMAGE_SIZE,
    lookalike: float = settings.LOOKALIKE,
) -> Picture:
    """Draw parts of the given classes on a bench.

    Shapes and places use one child of ``rng``, colours and noise another: the labels depend on the first alone.

    Args:
        rng: where all chance comes from; the same state gives the same picture.
        classes: class numbers of CLASS_NAMES, at least one, in the order the parts are laid down.
        size: width and height in pixels.
        lookalike: share of couplings of the bolt-like kind.
    """
    places, looks = rng.spawn(2)
    camera = _camera(places, size)
    parts = _place_parts(classes, camera, places, lookalike)
    under, over = _clutter(places)
    part_sprites = [rasterise(part.mesh, camera) for part in parts]
    clutter = {id(item): rasterise(item.mesh, camera) for item in [*under, *over]}
    canvas, _ = _bench(camera, looks)
    lighting = Lighting.random(looks, canvas.mean((0, 1)))
    draw_chips(canvas, looks)
    canvas *= lighting.tint.astype(np.float32)
    sprites = [*(clutter[id(item)] for item in under), *part_sprites, *(clutter[id(item)] for item in over)]
    for item, sprite in zip([*under, *parts, *over], sprites, strict=True):
        cast_shadow(canvas, item.mesh, camera, lighting, item.ground)
        paste(canvas, sprite, shade(sprite, camera, _materials(item.kind, looks), lighting, looks))
    order = [CLUTTER] * len(under) + list(range(len(parts))) + [CLUTTER] * len(over)
    owner = _owners(sprites, order, size)
    numbers, xyxy = _boxes(owner, part_sprites)
    return Picture(_expose(canvas, looks), np.asarray(classes)[numbers], xyxy, owner, numbers)
