"""train.py --diagnose: pictures of each epoch's class confusions in TensorBoard."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from utils.callbacks import Callbacks
from utils.diagnosis.epoch_confusions import EpochConfusions, attach_confusions

NAMES = {0: "bolt", 1: "nut", 2: "screw"}
SIZE = 100, 80  # width, height


class Log:
    def __init__(self):
        self.shown = []
        self.tensorboard = self

    def pixels(self, tag, image, step):
        self.shown.append((tag, image.shape, step))


@pytest.fixture
def run(tmp_path):
    """A run with three validation images that hold a bolt each, at the same place."""
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        cv2.imwrite(str(file), np.full((SIZE[1], SIZE[0], 3), 90, np.uint8))
    dataset = argparse.Namespace(
        im_files=list(map(str, files)), label_files=[str(file.with_suffix(".txt")) for file in files],
        labels=[np.array([[0, 0.5, 0.5, 0.2, 0.25]], np.float32)] * 3, shapes=np.array([SIZE] * 3),
    )  # fmt: skip
    opt = argparse.Namespace(diagnose=True, noplots=False, evolve=None)
    data = argparse.Namespace(names=NAMES, nc=3)
    return argparse.Namespace(
        opt=opt,
        data=data,
        callbacks=Callbacks(),
        log=Log(),
        val_loader=argparse.Namespace(dataset=dataset),
        files=files,
    )


def validate(run, classes, conf=0.9):
    """Run the hooks of a validation that finds the object of each image as a class, None for nothing."""
    for file, cls in zip(run.files, classes, strict=True):
        if cls is not None:
            found = torch.tensor([[40.0, 30, 60, 50, conf, cls]])
            run.callbacks.run("on_val_image_end", found, found, Path(file), NAMES, torch.zeros(3, 64, 64))
    run.callbacks.run("on_val_end", *range(10))


def test_each_epoch_shows_its_most_frequent_confusions(run):
    attach_confusions(run)
    run.callbacks.run("on_train_epoch_end", epoch=0)
    validate(run, [1, 1, 2])
    run.callbacks.run("on_train_epoch_end", epoch=1)
    validate(run, [0, None, 2])
    tags = [(tag, step) for tag, _, step in run.log.shown]
    assert tags == [
        ("epoch_confusions/bolt_taken_for_nut", 0), ("epoch_confusions/bolt_taken_for_screw", 0),
        ("epoch_confusions/bolt_taken_for_screw", 1),
    ]  # fmt: skip
    assert run.log.shown[0][1][1] > run.log.shown[1][1][1]  # two crops side by side, and one


def test_nothing_is_shown_for_right_and_for_unsure_detections_and_after_the_last_epoch(run):
    attach_confusions(run)
    run.callbacks.run("on_train_epoch_end", epoch=0)
    validate(run, [0, 0, None])
    run.callbacks.run("on_train_epoch_end", epoch=1)
    validate(run, [1, 1, 1], conf=0.2)
    validate(run, [1, 1, 1])  # the closing validation of the best weights belongs to no epoch
    assert run.log.shown == []


@pytest.mark.parametrize("change", [{"diagnose": False}, {"noplots": True}, {"evolve": 3}, {"nc": 1}])
def test_it_is_off_where_it_is_not_asked_for(run, change):
    for key, value in change.items():
        setattr(run.data if key == "nc" else run.opt, key, value)
    attach_confusions(run)
    assert not any(run.callbacks.get_registered_actions().values())


def test_it_costs_little(run):
    """300 detections on each of 500 images are matched and drawn in a second or so of one core."""
    import time

    rng = np.random.default_rng(0)
    dataset = run.val_loader.dataset
    dataset.im_files = dataset.im_files[:1] * 500
    dataset.im_files = [f"{file}#{number}" for number, file in enumerate(dataset.im_files)]
    dataset.label_files, dataset.labels = dataset.label_files * 200, dataset.labels * 200
    dataset.label_files, dataset.labels, dataset.shapes = (
        dataset.label_files[:500], dataset.labels[:500], np.array([SIZE] * 500)
    )  # fmt: skip
    watcher = EpochConfusions(run)
    watcher.begin(0)
    low = rng.uniform(0, 50, (300, 2))
    rows = np.concatenate((low, low + 20, rng.uniform(0, 0.5, (300, 1)), rng.integers(1, 3, (300, 1))), 1)
    begin = time.process_time()
    for file in dataset.im_files:
        watcher.gather(None, torch.from_numpy(rows), Path(file), NAMES, None)
    assert len(watcher._chosen()) == 8  # of the one pair
    assert time.process_time() - begin < 5
