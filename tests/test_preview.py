from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

import preview
from utils.errors import InputError, InputErrors, WorkError

ROOT = Path(__file__).resolve().parents[1]
PLAIN = ROOT / "data/hyps/hyp.scratch-low.yaml"


@pytest.fixture
def recipe(tmp_path) -> Path:
    """A recipe that pastes the blue class and turns its images."""
    hyp = yaml.safe_load(PLAIN.read_text())
    hyp |= {"rare_paste": 1.0, "sampler_t": 1.0, "rare_paste_scale": [1.0, 1.5], "rare_aug_p": 1.0, "mosaic": 0.0,
            "album_rare": [{"RandomRotate90": 1.0}]}  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(hyp))
    return path


def test_grid_has_a_row_per_image_and_a_column_per_stage(tiny_data, recipe, tmp_path):
    side = 100 + preview.TITLE + preview.GAP, 100 + preview.GAP
    options = {"data": str(tiny_data), "imgsz": 96, "cell": 100, "index": [0, 3, 5]}
    out = preview.run(hyp=str(recipe), out=str(tmp_path / "new" / "grid.png"), **options)
    assert cv2.imread(str(out)).shape == (3 * side[0] + preview.GAP, 3 * side[1] + preview.GAP, 3)
    out = preview.run(hyp=str(PLAIN), out=str(tmp_path / "plain.png"), **options)
    assert cv2.imread(str(out)).shape == (3 * side[0] + preview.GAP, 2 * side[1] + preview.GAP, 3)


def test_cells_show_what_training_sees(tiny_data, recipe):
    """Without mosaic the lone image and the sample hold the same objects; pasted ones are marked and blue."""
    opt = preview.build_parser().parse_args(["--data", str(tiny_data), "--hyp", str(recipe), "--imgsz", "96"])
    dataset, names = preview.build_dataset(opt)
    assert names == {0: "green", 1: "blue"}
    pasted = 0
    for i in range(8):
        before, changed, sample = preview.make_row(dataset, i, i)
        assert len(before.boxes) == len(dataset.labels[i]) and f"{i}: {i}.png" == before.title
        np.testing.assert_array_equal(before.image, dataset.load_image(i)[0])
        assert sample.image.shape == (96, 96, 3) and len(sample.boxes) <= len(changed.boxes)
        for (cls, x1, y1, x2, y2), marked in zip(changed.boxes, changed.marked, strict=True):
            if marked and cls == 1:
                pasted += 1
                middle = changed.image[int((y1 + y2) / 2), int((x1 + x2) / 2)].astype(int)
                assert middle[0] > middle[1] + 60
    assert pasted >= 4


def test_seed_chooses_images():
    chosen = [tuple(preview.choose_images(50, 4, seed, None)) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2] and len(set(chosen[0])) == 4
    assert preview.choose_images(3, 10, 0, None) != [] and preview.choose_images(9, 1, 0, [2, 2]) == [2, 2]
    with pytest.raises(InputError, match="--index 9: allowed is 0 to 8"):
        preview.choose_images(9, 1, 0, [0, 9])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "--count 0: allowed is 1 to 100"),
        ({"out": "grid.txt"}, "--out grid.txt: allowed are file names that end in .png"),
        ({"cell": 5, "seed": -1}, "--seed -1"),
        ({"imgs": 3}, "did you mean imgsz"),
    ],
)
def test_bad_options_are_refused(options, words, tmp_path):
    with pytest.raises(InputErrors, match=words.replace(".", r"\.")):
        preview.run(**({"out": str(tmp_path / "x.png")} | options))


def test_unwritable_target_is_named(tiny_data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkError, match="--out .*file/grid.png"):
        preview.run(data=str(tiny_data), hyp=str(PLAIN), out=str(tmp_path / "file" / "grid.png"), imgsz=96, count=1)


def test_command_ends_with_one_line(tiny_data, recipe, tmp_path):
    recipe.write_text(recipe.read_text().replace("RandomRotate90", "RandomRotate9"))
    command = [sys.executable, "preview.py", "--data", str(tiny_data), "--hyp", str(recipe), "--out", "x.png"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and "album_rare, item 1 (RandomRotate9)" in lines[0] and "'RandomRotate90'" in lines[0]
    assert not (ROOT / "x.png").exists()
