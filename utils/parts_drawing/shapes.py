"""Meshes of the drawn parts and of the tools beside them: cross-sections lofted along an axis, in millimetres.

A loft is a grid of vertices, rings along a profile times angles around the axis; min(circle, hexagon) as cross-section
gives the chamfered corners of hexagonal parts. Profiles run so that normals point out of the material: outside upwards,
the top inwards, a bore downwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.parts_drawing.settings import BOLT, COUPLING, LOOKALIKE, NUT, SCREW, WASHER

SEGMENTS = 36  # a multiple of 6 puts vertices on a hexagon's corners
ROUND = np.inf


@dataclass(frozen=True)
class Mesh:
    """Quadrilaterals of one object.

    Attributes:
        vertices: (V, 3) millimetres, the axis along z.
        faces: (F, 4) vertex numbers, seen counter-clockwise from outside; a corner may be doubled.
        light: (F,) share of the surroundings' light that reaches the face: low in bores, slots and thread roots.
        bias: (F,) millimetres by which a face is drawn in front of its true place (engraved outlines).
        paint: (F,) which of the object's materials covers the face, 0 the first.
        tilt: radians by which the axis dips when the object lies down.
    """

    vertices: np.ndarray
    faces: np.ndarray
    light: np.ndarray
    bias: np.ndarray
    paint: np.ndarray
    tilt: float = 0.0


@dataclass(frozen=True)
class Ring:
    """One cross-section of a profile: height, circle radius, half the width across flats, light, paint."""

    z: float
    radius: float
    flats: float = ROUND
    light: float = 1.0
    paint: int = 0


def ring_faces(rings: int, segments: int, closed: bool = False) -> np.ndarray:
    """Return (F, 4) vertex numbers joining each ring of a grid to the next; ``closed`` joins the last to the first."""
    i = np.arange(rings if closed else rings - 1)[:, None]
    j = np.arange(segments)[None]
    following, k = (i + 1) % rings, (j + 1) % segments
    corners = (i * segments + j, i * segments + k, following * segments + k, following * segments + j)
    return np.stack(np.broadcast_arrays(*corners), -1).reshape(-1, 4)


def loft(rings: list[Ring], closed: bool = False, twist: np.ndarray | None = None, segments: int = SEGMENTS) -> Mesh:
    """Return the mesh of a profile.

    Args:
        rings: the cross-sections in order.
        closed: True for a profile that returns to its start (a ring with a bore).
        twist: (len(rings), segments) millimetres added to the radii: threads, knurls, flutes.
        segments: angles around the axis.
    """
    theta = np.arange(segments) * (2 * np.pi / segments)
    radius = np.array([ring.radius for ring in rings])[:, None]
    flats = np.array([ring.flats for ring in rings])[:, None]
    hexagon = flats / np.cos(np.mod(theta, np.pi / 3) - np.pi / 6)
    r = np.minimum(radius, hexagon)
    if twist is not None:
        r = np.maximum(r + twist, 0.0)
    z = np.broadcast_to(np.array([ring.z for ring in rings])[:, None], r.shape)
    vertices = np.stack((r * np.cos(theta), r * np.sin(theta), z), -1).reshape(-1, 3)
    faces = ring_faces(len(rings), segments, closed)
    start = faces[:, 0] // segments
    light = np.array([ring.light for ring in rings])
    light = np.minimum(light, np.roll(light, -1))[start]
    paint = np.array([ring.paint for ring in rings])[start]
    if twist is not None:
        depth = twist.reshape(-1)[faces].mean(1)
        light = light * np.clip(1.0 + 0.9 * depth, 0.35, 1.0)
    return Mesh(vertices, faces, light, np.zeros(len(faces)), paint)


def thread(z: np.ndarray, pitch: float, depth: float, segments: int = SEGMENTS) -> np.ndarray:
    """Return (len(z), segments) of a helical thread: 0 at the crests, -depth at the roots."""
    turn = z[:, None] / pitch - np.arange(segments)[None] / segments
    return -depth * np.abs(2.0 * np.mod(turn, 1.0) - 1.0)


def _steps(start: float, stop: float, step: float) -> np.ndarray:
    return np.linspace(start, stop, max(2, int(np.ceil(abs(stop - start) / step)) + 1))


def _flat(rings: list[Ring]) -> tuple[list[Ring], np.ndarray]:
    return rings, np.zeros((len(rings), SEGMENTS))


def _threaded(z0: float, z1: float, radius: float, pitch: float, depth: float) -> tuple[list[Ring], np.ndarray]:
    z = _steps(z0, z1, pitch / 4)
    return [Ring(float(v), radius) for v in z], thread(z, pitch, depth)


def _assemble(sections: list[tuple[list[Ring], np.ndarray]], closed: bool = False) -> Mesh:
    rings = [ring for section, _ in sections for ring in section]
    return loft(rings, closed, np.concatenate([twist for _, twist in sections]))


def _hexagon(z0: float, z1: float, flats: float, chamfer: tuple[bool, bool]) -> list[Ring]:
    """Return the rings of a hexagonal length with chamfered ends (bottom, top) where wanted."""
    corner, reach = flats * 1.15, 0.13 * flats
    rings = []
    if chamfer[0]:
        rings += [Ring(z0 + reach * t, 0.99 * flats + (corner - 0.99 * flats) * t, flats) for t in (0.0, 0.5, 1.0)]
        z0 += reach
    else:
        rings.append(Ring(z0, corner * 1.02, flats))
    stop = z1 - reach if chamfer[1] else z1
    rings += [Ring(float(v), corner * 1.02, flats) for v in _steps(z0, stop, 2.5)[1:]]
    if chamfer[1]:
        rings += [Ring(z1 - reach * t, 0.99 * flats + (corner - 0.99 * flats) * t, flats) for t in (0.5, 0.0)]
    return rings


def _bore(top: float, bottom: float, radius: float, pitch: float) -> tuple[list[Ring], np.ndarray]:
    """Return the rings of a threaded bore from its chamfered top edge down to its bottom edge."""
    edge = 0.14 * radius
    z = _steps(top - edge, bottom + edge, pitch / 2)
    half = (top - bottom) / 2
    depth = 1.0 - np.abs(z - (top + bottom) / 2) / half
    light = np.clip(0.62 - 0.62 * depth * min(2.0, half / radius), 0.10, 0.62)
    rings = [Ring(top, radius + edge, light=0.95)]
    rings += [Ring(float(v), radius, light=float(s)) for v, s in zip(z, light, strict=True)]
    rings += [Ring(bottom, radius + edge, light=0.95)]
    twist = np.zeros((len(rings), SEGMENTS))
    twist[1:-1] = thread(z, pitch, 0.09 * radius) + 0.09 * radius
    return rings, twist


def _engraved(mesh: Mesh, polygons: list[np.ndarray], z: float, light: float) -> Mesh:
    """Return the mesh with dark quadrilaterals on its flat top: (4, 2) xy corners each, counter-clockwise."""
    first = len(mesh.vertices)
    corners = np.concatenate([np.column_stack((polygon, np.full(4, z))) for polygon in polygons])
    faces = first + np.arange(4 * len(polygons)).reshape(-1, 4)
    n = len(faces)
    return Mesh(
        np.concatenate((mesh.vertices, corners)),
        np.concatenate((mesh.faces, faces)),
        np.concatenate((mesh.light, np.full(n, light))),
        np.concatenate((mesh.bias, np.full(n, 3.0))),
        np.concatenate((mesh.paint, np.zeros(n, mesh.paint.dtype))),
        mesh.tilt,
    )


def _with_tilt(mesh: Mesh, tilt: float) -> Mesh:
    return Mesh(mesh.vertices, mesh.faces, mesh.light, mesh.bias, mesh.paint, tilt)


def _cross(size: float, width: float) -> list[np.ndarray]:
    bar = np.array([[-size, -width], [size, -width], [size, width], [-size, width]])
    return [bar, bar[:, ::-1] * np.array([-1.0, 1.0])]


def _socket(radius: float) -> list[np.ndarray]:
    angle = np.arange(6) * (np.pi / 3)
    corner = radius * np.column_stack((np.cos(angle), np.sin(angle)))
    return [corner[[0, 1, 2, 3]], corner[[3, 4, 5, 0]]]


def _screw_head(kind: int, z: float, radius: float, neck: float) -> list[Ring]:
    """Return the rings of a countersunk (0), pan (1) or cheese (2) head above height z."""
    if kind == 0:
        return [Ring(z, neck), Ring(z + 0.9 * radius, radius), Ring(z + 1.05 * radius, radius)]
    if kind == 1:
        angle = np.linspace(0.0, 0.46 * np.pi, 6)
        dome = [Ring(float(z + 0.2 * radius + 0.6 * radius * np.sin(a)), float(radius * np.cos(a))) for a in angle]
        return [Ring(z, neck), Ring(z, radius), *dome]
    return [Ring(z, neck), Ring(z, radius), Ring(z + 0.9 * radius, radius), Ring(z + radius, 0.9 * radius)]


def screw(rng: np.random.Generator) -> Mesh:
    """Return a slim screw: pointed or blunt tip, coarse thread, round head with a slot, cross or hexagonal recess."""
    radius, length = rng.uniform(1.7, 2.5), rng.uniform(20.0, 40.0)
    head, kind, recess = radius * rng.uniform(1.85, 2.15), int(rng.integers(3)), int(rng.integers(3))
    pointed, pitch = rng.random() < 0.6, rng.uniform(1.9, 2.5)
    tip = 3.2 * radius if pointed else 0.4 * radius
    z = _steps(0.0, tip, pitch / 4)
    blunt = 0.12 if pointed else 0.75
    tip_rings = [Ring(0.0, 0.0)] + [Ring(float(v), float(radius * (blunt + (1 - blunt) * v / tip))) for v in z]
    tip_twist = np.concatenate((np.zeros((1, SEGMENTS)), thread(z, pitch, 0.28 * radius) * (z / tip)[:, None]))
    smooth = rng.uniform(0.0, 0.3) if rng.random() < 0.5 else 0.0
    end = length * (1 - smooth)
    sections = [(tip_rings, tip_twist), _threaded(tip, end, radius, pitch, 0.3 * radius)]
    top_rings = _screw_head(kind, length, head, 0.85 * radius)
    top = top_rings[-1].z
    sections.append(_flat([Ring(end, 0.85 * radius), *top_rings, Ring(top, 0.0)]))
    mesh = _assemble(sections)
    width = 0.16 * head
    polygons = [_cross(0.85 * head, width)[:1], _cross(0.58 * head, width), _socket(0.52 * head)][recess]
    if kind == 1:
        polygons = [0.7 * polygon for polygon in polygons]
    return _with_tilt(_engraved(mesh, polygons, top + 0.01, 0.12), float(np.arctan((head - radius) / length)))


def bolt(rng: np.random.Generator) -> Mesh:
    """Return a bolt: one hexagonal head, with or without flange, on a thick shank threaded to its chamfered tip."""
    radius, length = rng.uniform(3.6, 5.0), rng.uniform(14.0, 30.0)
    flats, height = radius * rng.uniform(1.55, 1.75), radius * rng.uniform(1.15, 1.5)
    pitch, plain = rng.uniform(1.7, 2.2), rng.uniform(0.15, 0.45) if rng.random() < 0.4 else 0.03
    end, cut = length * (1 - plain), 0.2 * radius
    sections = [
        _flat([Ring(0.0, 0.0), Ring(0.0, 0.75 * radius), Ring(cut, 0.93 * radius)]),
        _threaded(cut, end, radius, pitch, 0.2 * radius),
        _flat([Ring(end, 0.96 * radius), Ring(length, 0.96 * radius)]),
    ]
    if rng.random() < 0.25:
        flange = 1.3 * flats
        rings = [Ring(length, flange), Ring(length + 0.25 * radius, flange), Ring(length + 0.5 * radius, 1.12 * flats)]
        sections.append(_flat(rings))
    sections.append(_flat(_hexagon(length, length + height, flats, (False, True))))
    sections.append(_flat([Ring(length + height, 0.9 * flats), Ring(length + height, 0.0)]))
    return _with_tilt(_assemble(sections), float(np.arctan((flats - radius) / length)))


def nut(rng: np.random.Generator) -> Mesh:
    """Return a hexagonal nut with chamfered corners and a threaded bore."""
    flats = rng.uniform(7.2, 9.6)
    bore, height = flats * rng.uniform(0.54, 0.62), flats * rng.uniform(0.75, 1.0)
    outer = _hexagon(0.0, height, flats, (True, True))
    return _assemble([_flat(outer), _bore(height, 0.0, bore, 1.7)], closed=True)


def washer(rng: np.random.Generator) -> Mesh:
    """Return a flat washer: a thin ring with a plain bore."""
    outer = rng.uniform(8.0, 11.5)
    bore, height = outer * rng.uniform(0.42, 0.62), rng.uniform(1.2, 2.2)
    bevel = 0.25 * height
    rings = [
        *(Ring(0.0, outer - bevel), Ring(bevel, outer), Ring(height - bevel, outer), Ring(height, outer - bevel)),
        *(Ring(height, (outer + bore) / 2), Ring(height, bore + 0.3, light=0.95)),
        *(Ring(height - 0.3, bore, light=0.7), Ring(0.0, bore, light=0.45)),
        *(Ring(0.0, bore), Ring(0.0, (outer + bore) / 2)),
    ]
    return loft(rings, closed=True)


def _grooved(z0: float, z1: float, radius: float, grooves: int, depth: float) -> list[Ring]:
    """Return a turned sleeve with ``grooves`` rings cut into it."""
    width = (z1 - z0) / (2 * grooves + 1)
    rings = [Ring(z0, radius)]
    for number in range(grooves):
        z = z0 + width * (2 * number + 1)
        low = radius - depth
        rings += [Ring(z, radius), Ring(z + 0.2 * width, low, light=0.55), Ring(z + 0.8 * width, low, light=0.55)]
        rings.append(Ring(z + width, radius))
    return [*rings, Ring(z1, radius)]


def coupling(rng: np.random.Generator, lookalike: float = LOOKALIKE) -> Mesh:
    """Return a coupling: a threaded sleeve open at both ends, hexagonal at one end, at both, or all along.

    ``lookalike`` is the probability of the first kind, which passes for a bolt from the side.
    """
    flats, length = rng.uniform(6.0, 8.2), rng.uniform(19.0, 32.0)
    bore = flats * rng.uniform(0.58, 0.68)
    one_end = rng.random() < lookalike
    both_ends = rng.random() < 0.65
    grooves = int(rng.integers(3, 6))
    if one_end:
        head = rng.uniform(0.28, 0.4) * length
        outer = [Ring(0.0, 0.86 * flats), *_grooved(0.06 * length, length - head, 0.92 * flats, grooves, 0.1 * flats)]
        outer += _hexagon(length - head, length, flats, (False, True))
    elif both_ends:
        head = rng.uniform(0.24, 0.32) * length
        outer = _hexagon(0.0, head, flats, (True, False))
        outer += _grooved(head, length - head, 0.88 * flats, grooves - 1, 0.12 * flats)
        outer += _hexagon(length - head, length, flats, (False, True))
    else:
        outer = _hexagon(0.0, length, flats, (True, True))
    return _assemble([_flat(outer), _bore(length, 0.0, bore, 2.0)], closed=True)


BUILDERS = {SCREW: screw, BOLT: bolt, NUT: nut, WASHER: washer, COUPLING: coupling}


def tube(path: np.ndarray, radius: float, segments: int = 12) -> Mesh:
    """Return a tube of constant radius along (n, 3) points: keys, cables."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    side = np.cross(along, np.array([0.0, 0.0, 1.0]))
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(side, along)
    angle = np.arange(segments) * (2 * np.pi / segments)
    offset = side[:, None] * np.cos(angle)[None, :, None] + up[:, None] * np.sin(angle)[None, :, None]
    vertices = (path[:, None] + radius * offset).reshape(-1, 3)
    faces = ring_faces(len(path), segments)
    return Mesh(vertices, faces, np.ones(len(faces)), np.zeros(len(faces)), np.zeros(len(faces), int))


def hex_key(rng: np.random.Generator) -> Mesh:
    """Return an L-shaped key lying on the bench."""
    radius, long, short, bend = rng.uniform(1.6, 2.6), rng.uniform(60, 90), rng.uniform(18, 28), 7.0
    turn = np.linspace(0.0, np.pi / 2, 8)
    straight = np.column_stack((_steps(-long, 0.0, 6.0), np.zeros(len(_steps(-long, 0.0, 6.0)))))
    arc = np.column_stack((bend * np.sin(turn), bend * (1 - np.cos(turn))))[1:]
    leg = np.column_stack((np.full(5, bend), bend + np.linspace(0.0, short, 6)[1:]))
    plane = np.concatenate((straight, arc, leg))
    return tube(np.column_stack((plane, np.full(len(plane), radius))), radius, segments=6)


def cable(rng: np.random.Generator, reach: float) -> Mesh:
    """Return a cable that winds across ``reach`` millimetres of bench along x."""
    x = np.linspace(-reach, reach, 90)
    y = sum(rng.uniform(4.0, 16.0) * np.sin(x * rng.uniform(0.008, 0.03) + rng.uniform(0, 6.28)) for _ in range(3))
    radius = rng.uniform(1.6, 2.4)
    return tube(np.column_stack((x, y, np.full(len(x), radius))), radius)


def screwdriver(rng: np.random.Generator) -> Mesh:
    """Return a screwdriver: fluted plastic handle (paint 1) and steel blade (paint 0)."""
    blade, handle, radius = rng.uniform(50, 80), rng.uniform(60, 80), rng.uniform(9.0, 12.0)
    rings = [Ring(0.0, 0.0), Ring(0.0, 1.6), *(Ring(float(v), 2.6) for v in _steps(3.0, blade, 6.0))]
    grip = np.array([0.6, 0.95, 1.0, 0.97, 0.9, 0.92, 0.98, 1.0, 0.96, 0.7, 0.0])
    for share, size in zip(np.linspace(0, 1, len(grip)), grip, strict=True):
        rings.append(Ring(float(blade + share * handle), float(size * radius), paint=1))
    wave = 0.09 * radius * np.cos(6 * np.arange(SEGMENTS) * 2 * np.pi / SEGMENTS)
    flutes = np.zeros((len(rings), SEGMENTS))
    flutes[-len(grip) + 1 : -2] = wave - 0.09 * radius
    return _with_tilt(loft(rings, twist=flutes), float(np.arctan(radius / (blade + handle))))


def drill(rng: np.random.Generator) -> Mesh:
    """Return a twist drill: a fluted bit with a plain shank."""
    radius, fluted, shank = rng.uniform(2.2, 4.0), rng.uniform(35, 60), rng.uniform(20, 30)
    z = _steps(0.0, fluted, 1.2)
    rings = [Ring(-radius, 0.0)] + [Ring(float(v), radius) for v in z]
    angle = np.arange(SEGMENTS) * (2 * np.pi / SEGMENTS)
    wave = -0.35 * radius * np.clip(np.cos(2 * angle[None] - z[:, None] * 0.35), 0, 1) ** 0.7
    twist = np.concatenate((np.zeros((1, SEGMENTS)), wave, np.zeros((3, SEGMENTS))))
    rings += [Ring(fluted, radius), Ring(fluted + shank, radius), Ring(fluted + shank, 0.0)]
    return loft(rings, twist=twist)


def pencil(rng: np.random.Generator) -> Mesh:
    """Return a hexagonal pencil: lead (paint 2), wood (paint 1), lacquer (paint 0)."""
    length, flats = rng.uniform(70, 110), 3.3
    rings = [Ring(0.0, 0.0, paint=2), Ring(0.0, 0.4, paint=2), Ring(4.0, 1.1, paint=1), Ring(15.0, 3.4, flats)]
    rings += [Ring(float(v), 3.9, flats) for v in _steps(16.0, length, 5.0)]
    return loft([*rings, Ring(length, 0.0, paint=1)])


TOOLS = (hex_key, screwdriver, drill, pencil)
