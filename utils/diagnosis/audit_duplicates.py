"""Images that occur twice, or nearly so: across splits (L15, L16), and with labels that contradict (L17).

The search never compares all pairs. Hashes within a distance of d bits share at least two of d + 2 bands of bits
without a difference (pigeonhole), so that only those which share two bands are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from utils.diagnosis.audit_boxes import Labelled, usable
from utils.diagnosis.audit_findings import Finding
from utils.diagnosis.audit_images import Images, pixel_digest, thumbnail
from utils.diagnosis.audit_pairs import pairs_between, pairs_within
from utils.diagnosis.data import iou

HASH_BITS = 64
MAX_DISTANCE = 4  # bits
MAX_DIFFERENCE = 8.0  # mean grey levels at 64 x 64
SAME_PIXELS = 1.0  # below that, thumbnails of the same pixels may differ when files are decoded in different ways
ROUNDING = 1.0  # of means of means
DENSE = 64  # candidate pairs an image of a cluster; beyond that, neighbours alone are compared
NEIGHBOURS = 32
SAME_OBJECT = 0.5  # IoU
AT_ONCE = 100_000


def near_pairs(hashes: np.ndarray, distance: int = MAX_DISTANCE) -> np.ndarray:
    """Return all pairs (m, 2) of places i < j, rising, whose hashes differ in at most ``distance`` bits.

    Args:
        hashes: (n,) uint64, all different.
        distance: 0 to 62 bits.
    """
    hashes = np.asarray(hashes, np.uint64)
    found = [np.zeros((0, 2), np.int32)]
    for key in _band_keys(hashes, distance + 2):
        order = np.argsort(key, kind="stable")
        counts = np.unique(key[order], return_counts=True)[1]
        for i, j in pairs_within(counts):
            a, b = order[i], order[j]
            close = np.bitwise_count(hashes[a] ^ hashes[b]) <= distance
            found.append(np.sort(np.column_stack((a[close], b[close])).astype(np.int32), 1))
    return np.unique(np.concatenate(found), axis=0)


def _band_keys(hashes: np.ndarray, bands: int) -> Iterator[np.ndarray]:
    """Yield (n,) keys, one for each two of the bands that the bits are cut into."""
    edges = np.linspace(0, HASH_BITS, bands + 1).astype(int).tolist()
    masks = [((1 << b) - 1) ^ ((1 << a) - 1) for a, b in zip(edges, edges[1:], strict=False)]
    for first, second in combinations(masks, 2):
        yield hashes & np.uint64(first | second)


@dataclass(frozen=True)
class Twins:
    """Images and their closest near-duplicates.

    Attributes:
        pairs: (m, 2) places of images, i < j, each pair once: the closest of each image, in its own split and in
            others.
        difference: (m,) mean difference of the grey thumbnails (64, 64).
        identical: (m,) bool, all decoded pixels are equal.
        group: (N,) group of each image: near-duplicates, and theirs, are of one group (by the coarse thumbnails, which
            take some more for near than ``pairs`` does).
    """

    pairs: np.ndarray
    difference: np.ndarray
    identical: np.ndarray
    group: np.ndarray


def find_twins(images: Images, split: np.ndarray) -> Twins:
    """Return near-duplicates: hashes that differ in at most 4 bits, thumbnails that differ by less than 8 grey levels.

    Of a cluster that is so dense that its pairs outnumber its images by far (frames of a camera that stands still),
    every image is compared with its neighbours in brightness alone.

    Args:
        images: of ``read_pixels``.
        split: (N,) number of each image's split.
    """
    best = _Closest(len(images.paths), split)
    for i, j in _candidates(images):
        gap = np.abs(images.thumbs[i].astype(np.int16) - images.thumbs[j]).mean((1, 2))
        near = gap < MAX_DIFFERENCE + ROUNDING
        best.take(i[near], j[near], gap[near])
    pairs = best.pairs()
    thumbs = {place: thumbnail(images.paths[place]).astype(np.int16) for place in np.unique(pairs).tolist()}
    difference = np.array([np.abs(thumbs[i] - thumbs[j]).mean() for i, j in pairs.tolist()])
    keep = difference < MAX_DIFFERENCE
    pairs, difference = pairs[keep], difference[keep]
    digests: dict[int, bytes] = {}
    identical = np.zeros(len(pairs), bool)
    for k, (i, j) in enumerate(pairs.tolist()):
        if difference[k] < SAME_PIXELS and (images.sizes[i] == images.sizes[j]).all():
            for place in (i, j):
                digests.setdefault(place, pixel_digest(images.paths[place]))
            identical[k] = digests[i] == digests[j]
    return Twins(pairs, difference, identical, best.group)


class _Closest:
    """The closest candidate of each image, in its own split and in others."""

    def __init__(self, count: int, split: np.ndarray):
        self.count, self.split = count, np.asarray(split)
        self.best = np.full((2, count), np.iinfo(np.int64).max)
        self.group = np.arange(count)

    def take(self, i: np.ndarray, j: np.ndarray, gap: np.ndarray) -> None:
        """Consider pairs (k,) and their differences."""
        across = (self.split[i] != self.split[j]).astype(np.int64)
        rank = np.round(gap * 1000).astype(np.int64) * self.count
        np.minimum.at(self.best, (across, i), rank + j)
        np.minimum.at(self.best, (across, j), rank + i)
        self.group = _components(self.count, self.group[np.column_stack((i, j))])[self.group]

    def pairs(self) -> np.ndarray:
        """Return them as pairs (m, 2), i < j."""
        _, image = np.nonzero(self.best < np.iinfo(np.int64).max)
        partner = self.best[self.best < np.iinfo(np.int64).max] % self.count
        return np.unique(np.sort(np.column_stack((image, partner)), 1), axis=0)


def _candidates(images: Images) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield places (i, j) of images to compare by their thumbnails."""
    readable = np.flatnonzero(images.readable)
    hashes, group = np.unique(images.dhash[readable], return_inverse=True)
    order = np.argsort(group, kind="stable")
    members, sizes = readable[order], np.bincount(group, minlength=len(hashes))  # those of a hash lie side by side
    pairs = near_pairs(hashes)
    cluster = _components(len(hashes), pairs)
    dense = _dense(cluster, sizes, pairs)
    yield from _within(members[~dense[group[order]]], sizes[~dense])
    yield from _between(members, sizes, pairs[~dense[pairs[:, 0]]])
    for number in np.unique(cluster[dense]):
        crowd = members[cluster[group[order]] == number]
        crowd = crowd[np.argsort(images.thumbs[crowd].mean((1, 2)), kind="stable")]
        for step in range(1, NEIGHBOURS + 1):
            yield crowd[:-step], crowd[step:]


def _within(members: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs of members of equal hashes."""
    for i, j in pairs_within(sizes, AT_ONCE):
        yield members[i], members[j]


def _between(members: np.ndarray, sizes: np.ndarray, pairs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield all pairs of members of near hashes (m, 2)."""
    starts = np.cumsum(sizes) - sizes
    block = np.cumsum(sizes[pairs[:, 0]] * sizes[pairs[:, 1]]) // AT_ONCE
    for chosen in np.split(pairs, np.flatnonzero(np.diff(block)) + 1):
        left, right = chosen.T
        count = sizes[left] * sizes[right]
        a, b = pairs_between(sizes[left], sizes[right])
        yield members[np.repeat(starts[left], count) + a], members[np.repeat(starts[right], count) + b]


def _dense(cluster: np.ndarray, sizes: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return which hashes (n,) belong to clusters with more than DENSE pairs an image."""
    images = np.bincount(cluster, sizes, minlength=len(sizes))
    count = np.bincount(cluster, sizes * (sizes - 1.0) / 2, minlength=len(sizes))
    count += np.bincount(cluster[pairs[:, 0]], sizes[pairs].prod(1, dtype=np.float64), minlength=len(sizes))
    return (count > DENSE * images)[cluster]


def _components(count: int, pairs: np.ndarray) -> np.ndarray:
    """Return for each of ``count`` nodes the smallest node that the edges (m, 2) connect it with."""
    label = np.arange(count)
    while True:
        low = label[pairs].min(1, initial=count)
        before = label.copy()
        np.minimum.at(label, pairs[:, 0], low)
        np.minimum.at(label, pairs[:, 1], low)
        label = label[label]
        if (label == before).all():
            return label


# Findings -------------------------------------------------------------------------------------------------------------


def leaks(twins: Twins, paths: list[str], split: np.ndarray, splits: list[str]) -> list[Finding]:
    """Return L15 and L16, each about the image of the later split.

    Args:
        twins: near-duplicates among the images.
        paths: N images.
        split: (N,) place in ``splits`` of each.
        splits: names such as train and val, in order.
    """
    findings = []
    for (i, j), difference, identical in zip(
        twins.pairs.tolist(), twins.difference.tolist(), twins.identical.tolist(), strict=True
    ):
        if split[i] == split[j]:
            continue
        first, later = (i, j) if split[i] < split[j] else (j, i)
        where = f"{paths[first]} of {splits[split[first]]}"
        if identical:
            text = f"this image of {splits[split[later]]} has the same pixels as {where}"
            findings.append(Finding("L15", "error", paths[later], message=text, image=paths[later], other=paths[first]))
        else:
            text = f"this image of {splits[split[later]]} is nearly {where} (mean difference {difference:.1f} of 255)"
            findings.append(
                Finding("L16", "warning", paths[later], message=text, image=paths[later], other=paths[first])
            )
    return findings


def contradictions(twins: Twins, paths: list[str], labelled: Labelled, file: np.ndarray) -> list[Finding]:
    """Return L17: boxes that a near-duplicate has with another class, or not at all.

    Args:
        twins: near-duplicates among the images.
        paths: N images.
        labelled: rows of the label files.
        file: (N,) place of each image's label file.
    """
    fit = np.flatnonzero(usable(labelled))
    own_file = labelled.rows.file[fit]
    corners = labelled.rows.corners()[fit]
    findings = []
    for i, j in twins.pairs.tolist():
        if file[i] == file[j]:
            continue
        a, b = (np.arange(*np.searchsorted(own_file, (file[k], file[k] + 1))) for k in (i, j))
        matched = _match(corners[a], corners[b])
        for x, y in matched:
            r, s = int(fit[a[x]]), int(fit[b[y]])
            mine, theirs = labelled.rows.values[r, 0], labelled.rows.values[s, 0]
            if mine != theirs:
                text = f"{labelled.class_text(mine)} here, {labelled.class_text(theirs)} in the nearly same {paths[j]}"
                findings.append(_twin_finding(labelled, r, f"{text}, line {labelled.rows.line[s]}", paths[j]))
        for own, other, used in ((a, j, {x for x, _ in matched}), (b, i, {y for _, y in matched})):
            for k in (k for k in range(len(own)) if k not in used):
                r = int(fit[own[k]])
                text = (
                    f"{labelled.class_text(labelled.rows.values[r, 0])}, but no box in the nearly same {paths[other]}"
                )
                findings.append(_twin_finding(labelled, r, text, paths[other]))
    return findings


def _twin_finding(labelled: Labelled, r: int, text: str, other: str) -> Finding:
    return replace(labelled.finding(r, "L17", "warning", text), other=other)


def _match(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of boxes (n, 4) and (m, 4), each used once, by falling IoU from 0.5."""
    overlap = iou(a, b)
    matched, used_a, used_b = [], set(), set()
    for place in np.argsort(-overlap, axis=None, kind="stable").tolist():
        x, y = divmod(place, max(len(b), 1))
        if overlap[x, y] < SAME_OBJECT:
            break
        if x not in used_a and y not in used_b:
            matched.append((x, y))
            used_a.add(x)
            used_b.add(y)
    return matched
