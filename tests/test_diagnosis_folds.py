"""Predictions out of sample: dealing images into folds, training and predicting each, going on after interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.diagnosis.audit_folds import make_folds, out_of_sample, train_with
from utils.diagnosis.data import GroundTruth, ImageInfo, Predictions, sort_objects, sort_predictions
from utils.errors import InputError


def infos(count: int) -> list[ImageInfo]:
    return [ImageInfo(f"/set/images/{k}.png", f"/set/labels/{k}.txt", 200, 200) for k in range(count)]


def labelled(counts: list[list[int]]) -> GroundTruth:
    """Return images with so many boxes of each class."""
    image = [i for i, row in enumerate(counts) for n in row for _ in range(n)]
    cls = [c for row in counts for c, n in enumerate(row) for _ in range(n)]
    boxes = np.tile((0.0, 0.0, 10.0, 10.0), (len(image), 1))
    return sort_objects(infos(len(counts)), image, boxes, cls, {k: str(k) for k in range(len(counts[0]))})


def test_folds_part_the_images_and_spread_rare_classes() -> None:
    counts = [[3, 0]] * 17 + [[2, 1]] * 3
    folds = make_folds(labelled(counts), 3, seed=1)
    assert [fold.number for fold in folds] == [1, 2, 3]
    assert sorted(np.concatenate([fold.held for fold in folds]).tolist()) == list(range(20))
    for fold in folds:
        assert sorted([*fold.train, *fold.held]) == list(range(20)) and not set(fold.train) & set(fold.held)
        assert sum(i >= 17 for i in fold.held) == 1  # each holds one of the rare class
    again = make_folds(labelled(counts), 3, seed=1)
    assert all(np.array_equal(a.held, b.held) for a, b in zip(folds, again, strict=True))
    other = make_folds(labelled(counts), 3, seed=2)
    assert not all(np.array_equal(a.held, b.held) for a, b in zip(folds, other, strict=True))


def test_folds_keep_groups_together() -> None:
    groups = np.array([7, 7, 7, 1, 1, 2, 3, 4, -5, -5])
    for fold in make_folds(labelled([[1, 0]] * 10), 3, groups=groups):
        assert not set(groups[fold.held]) & set(groups[fold.train])


def test_a_group_that_is_nearly_everything_is_dealt_out() -> None:
    groups = np.array([0] * 9 + [1])
    folds = make_folds(labelled([[1, 0]] * 10), 3, groups=groups)
    assert sorted(len(fold.held) for fold in folds) == [3, 3, 4]


@pytest.mark.parametrize("folds", [0, 1, 4])
def test_folds_out_of_range(folds: int) -> None:
    with pytest.raises(InputError, match=f"--folds is {folds}, allowed are 2 to 3"):
        make_folds(labelled([[1, 0]] * 3), folds)


class Recorder:
    """Trains and predicts by writing down what it was asked to do."""

    def __init__(self) -> None:
        self.trained: list[tuple[dict[str, Any], Path]] = []
        self.predicted: list[tuple[Path, list[str]]] = []

    def train(self, data: dict[str, Any], folder: Path) -> Path:
        self.trained.append((data, folder))
        folder.mkdir()
        (folder / "last.pt").write_text("")
        return folder / "last.pt"

    def predict(self, weights: Path, images: list[ImageInfo]) -> Predictions:
        self.predicted.append((weights, [info.path for info in images]))
        n = len(images)
        number = [float(Path(info.path).stem) for info in images]
        boxes = np.column_stack((number, np.zeros(n), np.array(number) + 10, np.full(n, 10.0)))
        return sort_predictions(np.arange(n), boxes, np.full(n, 0.5), np.zeros(n, int))


def test_every_image_is_predicted_by_the_model_that_did_not_see_it(tmp_path: Path) -> None:
    truth = labelled([[1, 0]] * 7)
    work, folds = Recorder(), make_folds(truth, 3)
    pred = out_of_sample(truth, folds, work.train, work.predict, tmp_path / "folds", "x")
    assert pred.image.tolist() == list(range(7)) and pred.boxes[:, 0].tolist() == list(range(7))
    for fold, (data, _), (weights, images) in zip(folds, work.trained, work.predicted, strict=True):
        listed = [Path(data[split]).read_text().split() for split in ("train", "val")]
        assert listed[1] == images == [truth.images[i].path for i in fold.held]
        assert listed[0] == [truth.images[i].path for i in fold.train]
        assert data["names"] == truth.names and weights.parent.name == f"fold{fold.number}"


def test_interrupted_folds_go_on(tmp_path: Path) -> None:
    truth = labelled([[1, 0]] * 7)
    work, folds = Recorder(), make_folds(truth, 3)

    def broken(weights: Path, images: list[ImageInfo]) -> Predictions:
        if len(work.predicted) == 1:
            raise KeyboardInterrupt
        return work.predict(weights, images)

    with pytest.raises(KeyboardInterrupt):
        out_of_sample(truth, folds, work.train, broken, tmp_path, "x")
    pred = out_of_sample(truth, folds, work.train, work.predict, tmp_path, "x")
    assert (len(work.trained), len(work.predicted), len(pred)) == (3, 3, 7)
    out_of_sample(truth, folds, work.train, work.predict, tmp_path, "x")
    assert len(work.predicted) == 3
    changed = GroundTruth(truth.images, truth.image, truth.boxes + 1, truth.cls, truth.line, truth.names)
    again = Recorder()
    with pytest.raises(FileExistsError):  # the recorder's folders are there: it was asked to train again
        out_of_sample(changed, folds, again.train, again.predict, tmp_path, "x")


def test_train_with_takes_the_last_epoch(tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    class Done:
        save_dir = str(tmp_path / "fold1")

    def run(**options: Any) -> Done:
        asked.update(options)
        return Done()

    weights = train_with(run, epochs=3, noval=False)({"train": "x"}, tmp_path / "fold1")
    assert weights == tmp_path / "fold1" / "weights" / "last.pt"
    assert asked == {
        "epochs": 3, "noval": False, "noplots": True, "project": str(tmp_path), "name": "fold1", "exist_ok": True,
        "data": {"train": "x"},
    }  # fmt: skip
