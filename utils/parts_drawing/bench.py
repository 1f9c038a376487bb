"""The bench under the parts: wood, sheet metal, rubber mat, board, concrete; its stains, scratches, chips, flat tools.

Surfaces are functions of the bench position that each pixel sees, so perspective comes by itself. Colours are BGR,
float32, 1.0 is white.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from utils.parts_drawing.settings import CHIPS, SCRATCHES, STAIN_SHARE

TILE = 256


@dataclass(frozen=True)
class Ground:
    """What surfaces are computed from.

    Attributes:
        x, y: (H, W) float32 bench position of each pixel, millimetres.
        tile: (TILE, TILE) float32 random values of mean 0, deviation 1.
        rng: generator of the surface's colours and sizes.
    """

    x: np.ndarray
    y: np.ndarray
    tile: np.ndarray
    rng: np.random.Generator

    def noise(self, scale_x: float, scale_y: float, shift: float | np.ndarray = 0.0) -> np.ndarray:
        """Return (H, W) smooth noise whose grains are 1 / scale millimetres long."""
        x = np.float32(scale_x) * self.x + np.float32(17.3) + np.float32(shift)
        y = np.float32(scale_y) * self.y + np.float32(5.1) + np.float32(shift)
        return cv2.remap(self.tile, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)

    def colour(self, *choices: tuple[float, float, float]) -> np.ndarray:
        """Return one of the colours, a little changed."""
        base = np.array(choices[int(self.rng.integers(len(choices)))])
        return (base * self.rng.uniform(0.85, 1.15) + self.rng.uniform(-0.02, 0.02, 3)).astype(np.float32)


def _tinted(value: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return value[..., None] * colour


def wood(ground: Ground) -> np.ndarray:
    """Return planks with grain along x and dark joints."""
    width = ground.rng.uniform(55, 110)
    plank = np.floor(ground.y / width + 0.37)
    shift = plank.astype(np.float32) * np.float32(23.0)
    bend = 2.5 * ground.noise(0.012, 0.03, shift)
    bent = Ground(ground.x, ground.y + bend, ground.tile, ground.rng)
    grain = 0.5 * bent.noise(0.008, 0.16, shift) + 0.35 * bent.noise(0.02, 0.6, shift) + 0.3 * bent.noise(0.06, 2.0)
    tone = 1 + 0.11 * grain + 0.06 * np.sin(plank * 12.9)
    joint = np.abs(np.mod(ground.y / width + 0.37, 1.0) - 0.5)
    tone *= 1 - 0.6 * np.clip((joint - 0.5) * width + 1.0, 0, 1)
    return _tinted(tone, ground.colour((0.30, 0.45, 0.62), (0.42, 0.58, 0.72), (0.20, 0.30, 0.44), (0.36, 0.46, 0.55)))


def sheet(ground: Ground) -> np.ndarray:
    """Return brushed sheet metal, dulled by use."""
    tone = 1 + 0.05 * ground.noise(0.012, 1.6) + 0.04 * ground.noise(0.03, 3.5) + 0.07 * ground.noise(0.02, 0.02)
    return _tinted(tone, ground.colour((0.44, 0.43, 0.42), (0.34, 0.33, 0.32), (0.56, 0.56, 0.55)))


def mat(ground: Ground) -> np.ndarray:
    """Return a rubber mat: fine grain, sometimes ribs or a printed grid."""
    tone = 1 + 0.05 * ground.noise(1.1, 1.1) + 0.05 * ground.noise(0.05, 0.05)
    kind = int(ground.rng.integers(3))
    colour = ground.colour((0.13, 0.13, 0.13), (0.36, 0.22, 0.12), (0.22, 0.34, 0.14), (0.18, 0.18, 0.40))
    if kind == 1:
        tone *= 1 + 0.20 * np.sin(ground.y * (2 * np.pi / ground.rng.uniform(4.0, 7.0)))
    picture = _tinted(tone, colour)
    if kind == 2:
        for pitch, strength in ((10.0, 0.12), (50.0, 0.25)):
            away = np.minimum(*(np.abs(np.mod(v / pitch, 1.0) - 0.5) for v in (ground.x, ground.y)))
            picture += (strength * np.clip(1.2 - away * pitch / 0.35, 0, 1))[..., None]
    return picture


def board(ground: Ground) -> np.ndarray:
    """Return cardboard, laminate or paper: pale and nearly even."""
    tone = 1 + 0.02 * ground.noise(0.9, 0.9) + 0.03 * ground.noise(0.015, 0.015) + 0.015 * ground.noise(0.05, 1.2)
    return _tinted(tone, ground.colour((0.48, 0.62, 0.72), (0.74, 0.76, 0.77), (0.70, 0.70, 0.62), (0.62, 0.66, 0.68)))


def concrete(ground: Ground) -> np.ndarray:
    """Return a blotchy, speckled floor or stone slab."""
    tone = 1 + 0.08 * ground.noise(0.03, 0.03) + 0.06 * ground.noise(0.15, 0.15) + 0.08 * ground.noise(1.3, 1.3)
    tone -= 0.35 * np.clip(ground.noise(0.45, 0.45) - 2.1, 0, 1)
    return _tinted(tone, ground.colour((0.52, 0.54, 0.55), (0.40, 0.42, 0.43)))


def cloth(ground: Ground) -> np.ndarray:
    """Return a woven shop towel."""
    weave = np.sin(ground.x * 2.6) * np.sin(ground.y * 2.6)
    tone = 1 + 0.08 * weave + 0.06 * ground.noise(0.4, 0.4) + 0.10 * ground.noise(0.02, 0.02)
    return _tinted(tone, ground.colour((0.50, 0.30, 0.18), (0.22, 0.22, 0.55), (0.55, 0.58, 0.60)))


SURFACES: tuple[Callable[[Ground], np.ndarray], ...] = (wood, wood, wood, sheet, mat, mat, board, concrete, cloth)


def draw_surface(ground: Ground) -> np.ndarray:
    """Return the (H, W, 3) bench with stains, scratches and the light's falloff, nothing lying on it yet."""
    rng = ground.rng
    picture = SURFACES[int(rng.integers(len(SURFACES)))](ground)
    if rng.random() < STAIN_SHARE:
        size = rng.uniform(0.008, 0.02)
        patch = np.clip(ground.noise(size, size) + 0.3 * ground.noise(5 * size, 5 * size) - rng.uniform(0.9, 1.5), 0, 1)
        patch = np.clip(2.5 * patch, 0, 1) * rng.uniform(0.25, 0.6)
        picture *= (1 - patch)[..., None] + patch[..., None] * np.float32((0.35, 0.45, 0.55))
    _scratch(picture, rng)
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0.0006, 0.0022)
    slope = 1 + fall * (np.cos(angle) * ground.x + np.sin(angle) * ground.y)
    return np.clip(picture * np.clip(slope, 0.55, 1.35)[..., None], 0, 1.2).astype(np.float32)


def _scratch(picture: np.ndarray, rng: np.random.Generator) -> None:
    """Draw thin bright and dark lines, in place."""
    height, width = picture.shape[:2]
    strength = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(SCRATCHES[0], SCRATCHES[1] + 1))):
        start, angle = rng.uniform(0, (width, height)), rng.uniform(0, 2 * np.pi)
        t = np.linspace(0, rng.uniform(0.04, 0.35) * width, 8)
        bend = rng.uniform(-0.004, 0.004) * t
        line = start + np.stack((t * np.cos(angle + bend), t * np.sin(angle + bend)), -1)
        points = np.rint(line * 16).astype(np.int32)
        cv2.polylines(strength, [points], False, float(rng.uniform(-0.22, 0.25)), 1, cv2.LINE_8, 4)
    picture *= 1 + cv2.GaussianBlur(strength, (0, 0), 0.6)[..., None]


def draw_chips(picture: np.ndarray, rng: np.random.Generator) -> None:
    """Strew small turnings and dust: bright bent lines with a dark side, in place."""
    height, width = picture.shape[:2]
    scale = width / 416
    dark = 0.35 * cv2.resize(picture, (1, 1), interpolation=cv2.INTER_AREA)[0, 0]
    for _ in range(int(rng.integers(CHIPS[0], CHIPS[1] + 1))):
        centre, turn, size = rng.uniform(0, (width, height)), rng.uniform(0, 360), rng.uniform(1.2, 4.0) * scale
        centre, axes = np.rint(centre * 16).astype(int).tolist(), np.rint([size * 16, size * 9]).astype(int).tolist()
        extent, bright = rng.uniform(60, 260), rng.uniform(0.5, 1.0)
        tint = rng.choice(np.array([[0.95, 0.95, 0.95], [0.55, 0.75, 0.9]]))
        for shift, colour in ((10, dark), (0, bright * tint)):
            place = (centre[0] + shift, centre[1] + shift)
            cv2.ellipse(picture, place, axes, turn, 0, extent, [float(c) for c in colour], 1, cv2.LINE_8, 4)


def _spanner_outline(size: int) -> np.ndarray:
    """Return a (size / 4, size) silhouette 0 or 1 of an open spanner with a ring at the other end."""
    height = size // 4
    shape = np.zeros((height, size), np.uint8)
    middle, r = height // 2, int(height * 0.46)
    cv2.rectangle(shape, (r, int(middle - 0.24 * height)), (size - r, int(middle + 0.24 * height)), 1, -1)
    cv2.circle(shape, (r + 1, middle), r, 1, -1)
    cv2.circle(shape, (size - r - 2, middle), int(0.9 * r), 1, -1)
    gap = np.array([[-3, -0.36 * r], [0.9 * r, -0.36 * r], [1.15 * r, 0], [0.9 * r, 0.36 * r], [-3, 0.36 * r]])
    turn = np.deg2rad(15)
    gap = (gap - (r, 0)) @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) + (r, middle)
    cv2.fillPoly(shape, [np.rint(gap).astype(np.int32)], 0)
    cv2.circle(shape, (size - r - 2, middle), int(0.52 * r), 0, -1)
    return shape


def _ruler_picture(size: int) -> np.ndarray:
    """Return a (size / 7, size) steel rule, values around 1, with millimetre marks."""
    height = size // 7
    rule = np.ones((height, size), np.float32)
    for number, x in enumerate(np.arange(4, size - 4, max(4, size // 150))):
        rule[: int(height * (0.45 if number % 10 == 0 else 0.3 if number % 5 == 0 else 0.18)), x] = 0.35
    return rule


def draw_flat_tool(picture: np.ndarray, ground: Ground) -> None:
    """Lay a spanner or a steel rule on the bench, with bevelled edges and a shadow, in place."""
    rng = ground.rng
    size = 512
    if rng.random() < 0.5:
        shape = _spanner_outline(size)
        pattern, length = np.ones(shape.shape, np.float32), rng.uniform(110, 170)
    else:
        pattern, length = _ruler_picture(size), rng.uniform(150, 220)
        shape = np.ones(pattern.shape, np.uint8)
    shape, pattern = np.pad(shape, 2), np.pad(pattern, 2, constant_values=1)
    rise = np.minimum(cv2.distanceTransform(shape, cv2.DIST_L2, 3), 9.0)
    slope_y, slope_x = np.gradient(cv2.GaussianBlur(rise, (0, 0), 2.0))
    lit = (0.62 + 0.30 * (slope_x * 0.6 - slope_y * 0.8)).astype(np.float32) * pattern
    corner, angle, unit = rng.uniform(-70, 70, 2), rng.uniform(0, 2 * np.pi), size / length
    across, along = ground.x - np.float32(corner[0]), ground.y - np.float32(corner[1])
    u = (across * np.cos(angle) + along * np.sin(angle)).astype(np.float32) * np.float32(unit) + size / 2
    v = (along * np.cos(angle) - across * np.sin(angle)).astype(np.float32) * np.float32(unit) + shape.shape[0] / 2
    u, v = u.astype(np.float32), v.astype(np.float32)
    outline = cv2.GaussianBlur(shape.astype(np.float32), (0, 0), 1.2)
    cover = cv2.remap(outline, u, v, cv2.INTER_LINEAR, borderValue=0)
    shadow = cv2.remap(cv2.GaussianBlur(outline, (0, 0), 4), u - 5, v - 7, cv2.INTER_LINEAR, borderValue=0)
    picture *= 1 - 0.5 * (shadow * (1 - cover))[..., None]
    brushed = 1 + 0.05 * ground.noise(0.05, 2.0) + 0.16 * ground.noise(0.012, 0.012)
    steel = (cv2.remap(lit, u, v, cv2.INTER_LINEAR) * brushed)[..., None] * ground.colour((0.86, 0.84, 0.82))
    picture *= 1 - cover[..., None]
    picture += cover[..., None] * steel
