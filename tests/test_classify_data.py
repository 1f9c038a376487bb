"""Image folders of classification: what is found, what is refused, and samples that follow from their draw alone."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from classify_folders import COLOURS, make_folders

from utils.balance.samplers import Draw
from utils.classification.crops import squares, write_crops
from utils.classification.dataset import ClassificationDataset
from utils.classification.folders import find_data, measured_split, scan_split, training_split
from utils.dataloaders import create_classification_dataloader
from utils.errors import InputError, MissingFileError, WorkError


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return make_folders(tmp_path / "set", {"train": 4, "val": 2})


def test_classes_and_samples_are_those_of_image_folder(folders: Path) -> None:
    from torchvision.datasets import ImageFolder

    own, other = ClassificationDataset(folders / "train", False, 32), ImageFolder(str(folders / "train"))
    assert isinstance(own, ImageFolder)
    assert own.classes == other.classes and own.class_to_idx == other.class_to_idx
    assert own.samples == other.samples and own.targets == other.targets and len(own) == 12
    image, target = own[5]
    assert image.shape == (3, 32, 32) and image.dtype == torch.float32 and target == 1


def test_validation_pixels_are_the_centre_square_normalised(folders: Path) -> None:
    """A flat grey image gives (value/255 - mean)/std in every pixel."""
    cv2.imwrite(str(folders / "val" / "red" / "0.png"), np.full((30, 60, 3), 51, np.uint8))
    dataset = ClassificationDataset(folders / "val", False, 16, classes=sorted(COLOURS))
    image, target = dataset[4]
    expected = (0.2 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert target == 2
    assert torch.allclose(image, expected[:, None, None].expand(3, 16, 16), atol=1e-6)


def test_a_draw_gives_the_same_bytes_whatever_came_before(folders: Path) -> None:
    first = ClassificationDataset(folders / "train", True, 32, seed=3)
    second = ClassificationDataset(folders / "train", True, 32, seed=3)
    _ = [second[i] for i in (4, 1, 7)]
    draw = Draw(2, 5, 11)
    assert torch.equal(first[draw][0], second[draw][0])
    assert not torch.equal(first[draw][0], first[Draw(2, 5, 12)][0])
    other_seed = ClassificationDataset(folders / "train", True, 32, seed=4)
    assert not torch.equal(first[draw][0], other_seed[draw][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_any_number_of_workers_makes_the_same_batches(folders: Path, workers: int) -> None:
    def epoch(count: int) -> list[torch.Tensor]:
        loader = create_classification_dataloader(folders / "train", 32, 4, workers=count, seed=1)
        loader.set_epoch(2)
        return [part for batch in loader for part in batch]

    assert all(map(torch.equal, epoch(0), epoch(workers)))


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_caches_change_no_pixel(folders: Path, cache: str) -> None:
    plain = ClassificationDataset(folders / "train", True, 32)
    cached = ClassificationDataset(folders / "train", True, 32, cache)
    assert all(torch.equal(plain[Draw(i, 0, i)][0], cached[Draw(i, 0, i)][0]) for i in range(len(plain)))
    again = ClassificationDataset(folders / "train", True, 32, cache)
    assert again.samples == plain.samples  # files of the disk cache are no images and no problem
    assert not again.split.skipped


def test_the_splits_are_train_and_test_or_val(folders: Path) -> None:
    assert training_split(folders) == folders / "train" and measured_split(folders) == folders / "val"
    make_folders(folders / "x", {"test": 1})
    (folders / "x" / "test").rename(folders / "test")
    assert measured_split(folders) == folders / "test"
    with pytest.raises(MissingFileError, match="train does not exist"):
        training_split(folders / "train")
    with pytest.raises(MissingFileError, match="neither .*test nor .*val exists"):
        measured_split(folders / "train")


def test_unreadable_files_are_listed_and_totalled(folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folders / "train" / "red" / "bad.png").write_bytes(b"no image")
    (folders / "train" / "blue" / "note.docx").write_bytes(b"text")
    (folders / "train" / "loose.png").write_bytes(b"")
    (folders / "train" / ".hidden").mkdir()
    with caplog.at_level(logging.WARNING, logger="yolov5"):
        split = scan_split(folders / "train")
    assert split.classes == sorted(COLOURS) and split.counts().tolist() == [4, 4, 4]
    text = caplog.text
    assert "bad.png: cannot be read" in text or "bad.png" in text
    assert "loose.png: lies in no class folder" in text and "note.docx: no image by its suffix" in text
    assert "3 files skipped, 12 used; lost by class: blue: 1, red: 1" in text


def refuse_more_than_half(root: Path) -> None:
    for file in [*root.glob("train/*/0.png"), *root.glob("train/*/1.png"), *root.glob("train/red/*.png")]:
        file.write_bytes(b"damaged")


def refuse_whole_class(root: Path) -> None:
    for file in root.glob("train/red/*.png"):
        file.write_bytes(b"damaged")


def refuse_empty_class(root: Path) -> None:
    (root / "train" / "yellow").mkdir()


def refuse_no_classes(root: Path) -> None:
    (root / "train").rename(root / "old")
    (root / "train").mkdir()


def refuse_no_images(root: Path) -> None:
    for file in root.glob("train/*/*.png"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (refuse_more_than_half, "8 of 12 images would be left out, at most half may be; the first: .*0.png: "),
        (refuse_whole_class, "all images of red would be left out"),
        (refuse_empty_class, "yellow: no image found in this class folder"),
        (refuse_no_classes, "train: no class folder found"),
        (refuse_no_images, "train: no image found; the suffixes looked for are bmp"),
    ],
)
def test_sets_that_cannot_be_trained_are_refused_in_one_line(folders: Path, spoil: object, said: str) -> None:
    spoil(folders)
    with pytest.raises(InputError, match=said) as error:
        scan_split(folders / "train")
    assert len(str(error.value).splitlines()) == 1


def test_classes_of_validation_are_those_of_training(folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An unknown class is refused; one without images is said, and the others keep their training numbers."""
    (folders / "val" / "green").rename(folders / "val" / "grene")
    with pytest.raises(InputError, match="class folders grene are not among the 3 classes .* allowed are blue, green"):
        scan_split(folders / "val", sorted(COLOURS), every_class=False)
    (folders / "val" / "grene").rename(folders / "elsewhere")
    with caplog.at_level(logging.WARNING, logger="yolov5"):
        split = scan_split(folders / "val", sorted(COLOURS), every_class=False)
    assert split.counts().tolist() == [2, 0, 2] and "no images of green, which are not measured" in caplog.text


def test_an_image_that_changes_after_the_scan_ends_the_work(folders: Path) -> None:
    dataset = ClassificationDataset(folders / "train", False, 32)
    cv2.imwrite(dataset.im_files[0], np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(WorkError, match="0.png: has 20x20 pixels where 48x40 were found before"):
        dataset[0]


def test_data_is_a_folder_or_a_known_name(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.paths.datasets_dir", lambda: tmp_path)
    assert find_data(folders) == folders and find_data("set") == tmp_path / "set"
    with pytest.raises(MissingFileError, match="--data nowhere: no such folder.*stock set: mnist"):
        find_data("nowhere")
    (tmp_path / "d.yaml").write_text("names: [a]")
    with pytest.raises(InputError, match="is a file.*utils.classification.crops --data"):
        find_data(tmp_path / "d.yaml")


def test_a_stock_set_is_fetched_only_when_missing_and_says_when_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def offline(url: str, **_: object) -> None:
        asked.append(url)
        raise InputError(f"{url}: cannot be fetched: no network")

    monkeypatch.setattr("utils.paths.datasets_dir", lambda: tmp_path)
    monkeypatch.setattr("utils.downloads.download", offline)
    with pytest.raises(InputError, match="--data mnist: not in .* and cannot be fetched .*mnist.zip unpacked there"):
        find_data("mnist")
    assert len(asked) == 1 and asked[0].endswith("/mnist.zip")
    (tmp_path / "mnist").mkdir()
    assert find_data("mnist") == tmp_path / "mnist" and len(asked) == 1


def test_crops_are_squares_around_the_boxes() -> None:
    """By hand: a box of 20 x 10 at the left edge has a square of 24 from x 0; y from 50 - 12."""
    image = np.arange(100 * 200, dtype=np.int64).reshape(100, 200, 1).repeat(3, 2)
    rows = np.array([[1, 10 / 200, 50 / 100, 20 / 200, 10 / 100], [0, 0.5, 0.5, 1.0, 1.0]])
    (first, small), (second, large) = squares(image, rows, 1.2)
    assert (first, second) == (1, 0)
    assert small.shape == (24, 24, 3) and small[0, 0, 0] == 38 * 200 and small[-1, -1, 0] == 61 * 200 + 23
    assert large.shape == (240, 240, 3) and large[0, 0, 0] == 0
    assert (large[100:, 0] == image[99, 0]).all() and (large[0, 200:] == image[0, 199]).all()


def test_crops_become_a_folder_per_class(tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    counts = write_crops(tiny_data, out)
    assert {split: sum(found.values()) for split, found in counts.items()} == {"train": 12, "val": 6}
    assert scan_split(out / "train").counts().sum() == 12
    with pytest.raises(InputError, match="exists and is not empty"):
        write_crops(tiny_data, out)
    assert not list(tmp_path.glob(".crops*"))
