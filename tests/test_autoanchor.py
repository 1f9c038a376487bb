"""Anchor fit against upstream's numbers, and the search for better anchors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from utils.autoanchor import (
    anchor_fit,
    box_sides,
    check_anchor_order,
    check_anchors,
    k_means,
    kmean_anchors,
    side_ratios,
)

ANCHORS = {
    "p5": [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]],
    "p6": [
        [19, 27, 44, 40, 38, 94],
        [96, 68, 86, 152, 180, 137],
        [140, 301, 303, 264, 238, 542],
        [436, 615, 739, 380, 925, 792],
    ],
    "tiny": [[10, 14, 23, 27, 37, 58], [81, 82, 135, 169, 344, 319]],
}
FOLDERS = {"coco128": "coco128/labels/train2017", "bccd_train": "bccd/labels/train"}


def head_of(layers: list[list[int]], flipped: bool = False) -> SimpleNamespace:
    stride = torch.tensor([8.0, 16.0, 32.0, 64.0][: len(layers)])
    anchors = torch.tensor(layers).float().view(len(layers), -1, 2)
    anchors = anchors.flip(0) if flipped else anchors
    return SimpleNamespace(anchors=anchors / stride.view(-1, 1, 1), stride=stride)


def model_of(head: SimpleNamespace) -> Any:
    return SimpleNamespace(model=[head])


def random_set(seed: int = 0, images: int = 20, clusters: int = 9) -> SimpleNamespace:
    rng = np.random.default_rng(seed)
    centres = np.geomspace(0.03, 0.7, clusters)
    labels = []
    for _ in range(images):
        sides = rng.choice(centres, (8, 1)) * rng.uniform(0.8, 1.25, (8, 2))
        labels.append(np.concatenate((np.zeros((8, 1)), np.full((8, 2), 0.5), sides.clip(0, 1)), 1))
    return SimpleNamespace(shapes=np.full((images, 2), [640, 480]), labels=labels)


def real_set(shared: Path, name: str) -> SimpleNamespace:
    """Return labels of a data set; its images' sizes are found through cv2."""
    import cv2

    folder = shared / "datasets" / FOLDERS[name]
    if not folder.exists():
        pytest.skip(f"needs {folder}")
    images = sorted((shared / "datasets" / FOLDERS[name].replace("labels", "images")).glob("*.*"))
    shapes, labels = [], []
    for image in images:
        shapes.append(cv2.imread(str(image)).shape[1::-1])
        path = folder / f"{image.stem}.txt"
        text = path.read_text() if path.exists() else ""
        rows = np.array([line.split() for line in text.splitlines()], dtype=np.float64).reshape(-1, 5)
        labels.append(np.unique(rows, axis=0))
    return SimpleNamespace(shapes=np.array(shapes), labels=labels)


@pytest.mark.parametrize("name", FOLDERS)
def test_golden_fit(golden: Any, shared: Path, name: str) -> None:
    facts = golden("schedule_and_data")[0]["datasets"][name]["anchor_fit_without_scale_jitter"]
    dataset = real_set(shared, name)
    for key, wanted in facts.items():
        anchors, imgsz = key.split("_")
        fit = anchor_fit(np.array(ANCHORS[anchors]).reshape(-1, 2), box_sides(dataset, int(imgsz)), wanted["thr"])
        assert fit.recall == pytest.approx(wanted["bpr"], rel=1e-5)
        assert fit.anchors_per_box == pytest.approx(wanted["anchors_per_target"], rel=1e-5)
        assert fit.mean_ratio == pytest.approx(wanted["mean_best_ratio"], rel=1e-5)


def test_golden_search(golden: Any, shared: Path) -> None:
    facts = golden("schedule_and_data")[0]["datasets"]["bccd_train"]["kmean_anchors_one_run"]
    dataset = real_set(shared, "bccd_train")
    found = kmean_anchors(dataset, n=9, img_size=640, gen=300, verbose=False, rng=np.random.default_rng(0))
    assert found.shape == (9, 2) and found.dtype == np.float32
    assert (np.diff(found.prod(1)) >= 0).all()
    fit = anchor_fit(found, box_sides(dataset, 640), 4.0)
    assert fit.recall >= facts["bpr"] - 0.005
    assert fit.fitness == pytest.approx(facts["fitness_mean_best_over_thr"], abs=0.02)


def test_fit_by_hand() -> None:
    """Boxes (10, 20) and (100, 100), anchors (10, 10) and (20, 80): side ratios .5 and .25; .1 and .2; limit 1/3."""
    anchors, sides = np.array([[10.0, 10], [20, 80]]), np.array([[10.0, 20], [100, 100]])
    assert np.allclose(side_ratios(anchors, sides), [[0.5, 0.25], [0.1, 0.2]])
    assert anchor_fit(anchors, sides, 3.0) == pytest.approx((0.5, 0.5, 0.35, 0.25))


def test_sides_are_in_pixels_of_the_longer_side() -> None:
    dataset = SimpleNamespace(shapes=np.array([[200, 100]]), labels=[np.array([[0, 0.5, 0.5, 0.5, 0.5]])])
    assert np.allclose(box_sides(dataset, 640), [[320, 160]])
    jittered = box_sides(dataset, 640, np.random.default_rng(1))
    assert 0.9 <= jittered[0, 0] / 320 <= 1.1 and jittered[0, 0] == pytest.approx(2 * jittered[0, 1])


@pytest.mark.parametrize("flipped", [False, True])
def test_anchor_order(flipped: bool) -> None:
    head = head_of(ANCHORS["p5"])
    wanted = head.anchors.clone()
    if flipped:
        head.anchors = head.anchors.flip(0) * 1.0
    kept = head.anchors
    check_anchor_order(head)
    assert torch.equal(head.anchors, wanted) or not flipped
    assert head.anchors is kept


def test_k_means_finds_separate_clusters() -> None:
    rng = np.random.default_rng(5)
    centres = np.array([[0.0, 0], [10, 0], [0, 10]])
    points = np.concatenate([c + rng.normal(scale=0.1, size=(50, 2)) for c in centres])
    found = k_means(points, 3, rng)
    assert np.allclose(found[np.lexsort(found.round().T)], centres[np.lexsort(centres.T)], atol=0.2)


@pytest.mark.parametrize("boxes", [1, 2, 5])
def test_fewer_boxes_than_anchors(boxes: int) -> None:
    labels = [np.array([[0, 0.5, 0.5, 0.1 * (i + 1), 0.1]]) for i in range(boxes)]
    dataset = SimpleNamespace(shapes=np.full((boxes, 2), 640), labels=labels)
    found = kmean_anchors(dataset, n=9, gen=5, verbose=False, rng=np.random.default_rng(0))
    assert found.shape == (9, 2) and np.isfinite(found).all() and (found >= 2).all()


def test_same_seed_same_anchors() -> None:
    a, b = (kmean_anchors(random_set(), gen=20, verbose=False, rng=np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(a, b)


def test_without_boxes() -> None:
    dataset = SimpleNamespace(shapes=np.array([[640, 640]]), labels=[np.zeros((0, 5))])
    with pytest.raises(ValueError, match="no box"):
        kmean_anchors(dataset)
    head = head_of(ANCHORS["p5"])
    kept = head.anchors.clone()
    check_anchors(dataset, model_of(head))
    assert torch.equal(head.anchors, kept)


def test_poor_anchors_are_replaced_in_place_and_in_order() -> None:
    head = head_of([[400, 8] * 3, [410, 8] * 3, [420, 8] * 3])
    kept, dataset = head.anchors, random_set()
    check_anchors(dataset, model_of(head), imgsz=640, rng=np.random.default_rng(0))
    assert head.anchors is kept
    pixels = head.anchors * head.stride.view(-1, 1, 1)
    assert (pixels.prod(-1).mean(-1).diff() > 0).all()
    assert anchor_fit(pixels.view(-1, 2).numpy(), box_sides(dataset, 640), 4.0).recall > 0.98


def test_good_anchors_stay() -> None:
    dataset = random_set()
    found = kmean_anchors(dataset, gen=50, verbose=False, rng=np.random.default_rng(0)).reshape(3, 6).tolist()
    head = head_of(found)
    kept = head.anchors.clone()
    check_anchors(dataset, model_of(head), rng=np.random.default_rng(0))
    assert torch.equal(head.anchors, kept)


def test_dataset_yaml_path(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        for i in range(4):
            cv2.imwrite(str(tmp_path / f"images/{split}/{i}.png"), np.zeros((64, 96, 3), np.uint8))
            (tmp_path / f"labels/{split}/{i}.txt").write_text(f"0 .5 .5 {0.2 + 0.1 * i} .4\n")
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: [a]\n")
    found = kmean_anchors(str(data), n=3, img_size=640, gen=5, verbose=False, rng=np.random.default_rng(0))
    assert found.shape == (3, 2)
    assert 100 < found[:, 0].mean() < 350
