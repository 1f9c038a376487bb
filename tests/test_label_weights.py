"""Weights per label: the file's checks, the join with cleaned labels, and the way to the targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from utils.data.collate import collate_quad
from utils.data.label_weights import find_label_weights, join_label_weights, read_label_weights
from utils.dataset import LoadImagesAndLabels
from utils.errors import InputErrors, MissingFileError
from utils.logs import LOGGER

ROWS = ["0 0.5 0.5 0.2 0.2", "1 0.3 0.3 0.2 0.2", "0 0.7 0.7 0.2 0.2"]


def csv_file(folder: Path, *lines: str, header: str = "image,row,weight") -> Path:
    path = folder / "weights.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def label_files(folder: Path, *contents: list[str]) -> list[str]:
    files = []
    for number, rows in enumerate(contents):
        files.append(str(folder / f"{number}.txt"))
        Path(files[-1]).write_text("\n".join(rows) + "\n")
    return files


def join(folder: Path, lines: list[str], contents: list[list[str]], counts: list[int]) -> list[list[float]]:
    path = csv_file(folder, *lines)
    files = label_files(folder, *contents)
    images = [f"/data/images/{number}.jpg" for number in range(len(contents))]
    labels = [np.zeros((n, 5), np.float32) for n in counts]
    return [w.tolist() for w in join_label_weights(path, read_label_weights(path), images, files, labels)]


def test_weights_reach_their_labels_and_the_others_are_1(tmp_path: Path) -> None:
    weights = join(tmp_path, ["1.jpg,2,0.25", "images/0.jpg, 0, 0", "/data/images/1.jpg,0,1"], [ROWS, ROWS], [3, 3])
    assert weights == [[0, 1, 1], [1, 1, 0.25]]


def test_rows_count_in_the_label_file_not_among_the_cleaned_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second row repeats the first and the third has no area: the fourth of the file is the second label."""
    monkeypatch.setattr(LOGGER, "propagate", True)
    rows = [ROWS[0], ROWS[0], "1 0.5 0.5 0 0.2", ROWS[2]]
    assert join(tmp_path, ["0.jpg,3,0.5", "0.jpg,0,0.75"], [rows], [2]) == [[0.75, 0.5]]
    assert join(tmp_path, ["0.jpg,2,0.5"], [rows], [2]) == [[1, 1]]
    assert "1 weights are for rows that label cleaning dropped" in caplog.text


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("9.jpg,0,1", "line 2: image '9.jpg' is the name of no image of the training set"),
        ("0.jpg,3,1", "0.txt, allowed 0-2"),
        ("0.jpg,-1,1", "row '-1' is not a whole number of at least 0"),
        ("0.jpg,1.0,1", "row '1.0' is not a whole number"),
        ("0.jpg,0,1.5", "weight '1.5' is not a number from 0 to 1"),
        ("0.jpg,0,-0.1", "weight '-0.1' is not a number from 0 to 1"),
        ("0.jpg,0,nan", "weight 'nan' is not a number from 0 to 1"),
        ("0.jpg,0,", "weight '' is not a number from 0 to 1"),
        (",0,1", "line 2: no image"),
        ("0.jpg", "row '' is not a whole number"),
        ("0.jpg,0,1\n0.jpg,0,1", "line 3: image '0.jpg', row 0 repeats line 2"),
    ],
)
def test_wrong_lines_are_refused(line: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(InputErrors) as error:
        join(tmp_path, [line], [ROWS], [3])
    assert text in str(error.value) and "weights.csv" in str(error.value)


def test_all_problems_come_at_once_but_not_endlessly(tmp_path: Path) -> None:
    with pytest.raises(InputErrors) as error:
        join(tmp_path, [f"{n}.jpg,0,1" for n in range(1, 31)], [ROWS], [3])
    assert len(error.value.problems) == 21 and "10 more" in error.value.problems[-1]


def test_a_name_that_two_images_share_needs_its_folder(tmp_path: Path) -> None:
    files = label_files(tmp_path, ROWS, ROWS)
    images, labels = ["/data/a/x.jpg", "/data/b/x.jpg"], [np.zeros((3, 5))] * 2
    path = csv_file(tmp_path, "x.jpg,0,0.5")
    with pytest.raises(InputErrors, match="2 images, give more of the path"):
        join_label_weights(path, read_label_weights(path), images, files, labels)
    path = csv_file(tmp_path, "b/x.jpg,0,0.5")
    joined = join_label_weights(path, read_label_weights(path), images, files, labels)
    assert [w.tolist() for w in joined] == [[1, 1, 1], [0.5, 1, 1]]


def test_header(tmp_path: Path) -> None:
    with pytest.raises(InputErrors, match=r"'image,line,weight' lacks row; expected are image,row,weight"):
        read_label_weights(csv_file(tmp_path, "a,0,1", header="image,line,weight"))
    found = read_label_weights(csv_file(tmp_path, "0.5,reason,0,a.jpg", header="weight, note, row, image"))
    assert found == [(2, "a.jpg", 0, 0.5)]
    (tmp_path / "weights.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputErrors, match="UTF-8"):
        read_label_weights(tmp_path / "weights.csv")


def test_the_file_is_looked_for_beside_the_data_set(tmp_path: Path) -> None:
    path = csv_file(tmp_path)
    assert find_label_weights("weights.csv", tmp_path) == path
    with pytest.raises(MissingFileError, match=r"label_weights: other.csv: no such file"):
        find_label_weights("other.csv", tmp_path)


# On the way to the loss -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mosaic", [0.0, 1.0], ids=["alone", "mosaic and mixup"])
def test_every_target_carries_the_weight_of_its_label(mosaic: float, tiny_data: Path) -> None:
    """Green labels weigh 0.25 and blue ones 0.75, so column 6 must follow the class through all augmentation."""
    from utils.hyperparameters import Hyperparameters

    folder = tiny_data.parent / "tiny" / "images" / "train"
    low = Path(__file__).parents[1] / "data/hyps/hyp.scratch-low.yaml"
    hyp = Hyperparameters.load(low).replace(mosaic=mosaic, mixup=mosaic, flipud=0.5, degrees=10.0)
    dataset = LoadImagesAndLabels(str(folder), 64, 4, augment=True, hyp=hyp)
    for i, rows in enumerate(dataset.labels):
        dataset.labels[i] = np.concatenate((rows, np.where(rows[:, :1] > 0, 0.75, 0.25).astype(np.float32)), 1)
    samples = [dataset[i % 8] for i in range(24)]
    targets = torch.cat([sample[1] for sample in samples])
    assert targets.shape[1] == 7 and len(targets) > 20
    assert torch.equal(targets[:, 6], torch.where(targets[:, 1] > 0, 0.75, 0.25))
    quad = collate_quad(samples, rng=np.random.default_rng(0))[1]
    assert torch.equal(quad[:, 6], torch.where(quad[:, 1] > 0, 0.75, 0.25))
    plain = collate_quad([(s[0], s[1][:, :6], *s[2:]) for s in samples], rng=np.random.default_rng(0))[1]
    assert torch.equal(quad[:, :6], plain)
