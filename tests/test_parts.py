"""The built-in data set: what is drawn, that it is the same every time, and that a broken run leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from utils import parts
from utils.dataset_yaml import check_dataset
from utils.errors import InputError, WorkError
from utils.parts import Recipe, class_counts, ensure_dataset, generate, plan_classes
from utils.parts_drawing import scene
from utils.parts_drawing import settings as parts_settings
from utils.parts_drawing.render import Camera, Lens, rasterise, window_on
from utils.parts_drawing.scene import CLUTTER, draw_scene, visible_box
from utils.parts_drawing.settings import BOLT, CLASS_NAMES, COUPLING, NUT, SCREW, SUPERSAMPLING, WASHER
from utils.parts_drawing.shapes import BUILDERS, Ring, loft
from utils.rng import make_rng

ROOT = Path(__file__).resolve().parents[1]
SMALL_SET_DIGEST = "431c2a5d9cefb42367052faa30e6e4573ea4bcdf1ee742325b997b33d594c5cc"
EVERY_CLASS = (SCREW, BOLT, NUT, WASHER, COUPLING)


def labels_digest(root: Path) -> str:
    """Return a digest of all label files with their names."""
    digest = hashlib.sha256()
    for file in sorted((root / "labels").rglob("*.txt")):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def read_labels(folder: Path) -> np.ndarray:
    return np.concatenate([np.loadtxt(file, ndmin=2) for file in sorted(folder.glob("*.txt"))])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 12 + 4 pictures, drawn in this process."""
    root = tmp_path_factory.mktemp("datasets") / "small"
    generate(root, 12, 4, seed=3)
    return root


def test_the_default_set_has_the_promised_counts():
    train, val = (class_counts(Recipe(), split) for split in ("train", "val"))
    assert train.tolist() == [1400, 1000, 500, 400, 66]
    assert 0.01 <= train[COUPLING] / train.sum() <= 0.02
    assert val.min() >= 60


def test_the_rare_class_is_spread_and_every_part_dealt_once():
    counts = class_counts(Recipe(), "train").tolist()
    plan = plan_classes(counts, 400, make_rng(1))
    dealt = np.bincount([kind for kinds in plan for kind in kinds], minlength=5)
    assert dealt.tolist() == counts
    assert sum(COUPLING in kinds for kinds in plan) == 54
    assert min(map(len, plan)) >= 4
    assert max(map(len, plan)) <= 14


@pytest.mark.parametrize("imbalance, share", [(0.0, 0.2), (0.5, 0.0680), (1.0, 0.0196), (2.0, 0.0009)])
def test_imbalance_sets_the_rare_share(imbalance: float, share: float):
    """Shares are the default's to the power of imbalance, normalised: at 1/2, sqrt(66) / sum of sqrt(counts)."""
    counts = class_counts(Recipe(imbalance=imbalance), "train")
    assert counts.sum() == 3366
    assert counts[COUPLING] / counts.sum() == pytest.approx(share, abs=2e-3)
    assert class_counts(Recipe(imbalance=imbalance), "val").tolist() == list(parts_settings.VAL_COUNTS)


def test_tiny_sets_hold_every_class():
    assert class_counts(Recipe(n_train=2), "train").min() == 1


def test_a_set_is_laid_out_as_its_yaml_says(small: Path):
    data = yaml.safe_load((ROOT / "data" / "parts.yaml").read_text())
    assert tuple(data["names"][k] for k in range(5)) == CLASS_NAMES
    assert data["generator"] == "parts"
    for split, count in (("train", 12), ("val", 4)):
        images = sorted((small / data[split]).glob("*.jpg"))
        assert len(images) == count
        assert all((small / "labels" / split / f"{image.stem}.txt").exists() for image in images)
        assert cv2.imread(str(images[0])).shape == (320, 416, 3)
        boxes = read_labels(small / "labels" / split)
        drawn = np.bincount(boxes[:, 0].astype(int), minlength=5)
        assert drawn.tolist() == class_counts(Recipe(12, 4), split).tolist()
        low, high = boxes[:, 1:3] - boxes[:, 3:] / 2, boxes[:, 1:3] + boxes[:, 3:] / 2
        assert low.min() >= -1e-6
        assert high.max() <= 1 + 1e-6
        assert (boxes[:, 3:] * [416, 320]).max(1).min() > 15


def test_two_runs_agree_whatever_the_number_of_processes(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "FEWEST_FOR_WORKERS", 2)
    monkeypatch.setattr(parts, "_cores", lambda: 2)
    generate(tmp_path / "again", 12, 4, seed=3)
    assert labels_digest(tmp_path / "again") == labels_digest(small)
    for image in (small / "images").rglob("*.jpg"):
        assert image.read_bytes() == (tmp_path / "again" / image.relative_to(small)).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again"]


def test_labels_are_the_same_on_every_machine(small: Path):
    """A change makes numbers incomparable: raise VERSION in utils/parts_drawing/settings.py, then note the digest."""
    assert parts_settings.VERSION == 1
    assert labels_digest(small) == SMALL_SET_DIGEST


def test_another_seed_draws_another_set(small: Path, tmp_path: Path):
    generate(tmp_path / "other", 2, 1, seed=4)
    mine, theirs = (root / "labels" / "train" / "00000.txt" for root in (tmp_path / "other", small))
    assert mine.read_bytes() != theirs.read_bytes()


def test_labels_do_not_depend_on_colours(monkeypatch: pytest.MonkeyPatch):
    first = draw_scene(make_rng(7), EVERY_CLASS)
    monkeypatch.setattr(scene, "shade", lambda sprite, *_: np.zeros((*sprite.faces.shape, 3), np.float32))
    second = draw_scene(make_rng(7), EVERY_CLASS)
    assert np.array_equal(first.xyxy, second.xyxy)
    assert not np.array_equal(first.image, second.image)


@pytest.mark.parametrize("seed", range(6))
def test_boxes_are_tight_around_visible_pixels(seed: int):
    picture = draw_scene(make_rng(100 + seed), EVERY_CLASS * 2)
    for number, box in zip(picture.numbers, picture.xyxy, strict=True):
        rows, columns = np.nonzero(picture.owner == number)
        edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / SUPERSAMPLING
        assert np.abs(edges - box).max() < 1


def test_pixels_change_inside_the_box_only_where_the_part_is(monkeypatch: pytest.MonkeyPatch):
    """Painted flat magenta, without shadow, blur and noise, a lone part is found again within a pixel of its box."""
    monkeypatch.setattr(
        "utils.parts_drawing.scene.shade", lambda sprite, *_: sprite.mask[..., None] * np.float32((1.0, 0.0, 1.0))
    )
    monkeypatch.setattr("utils.parts_drawing.scene._clutter", lambda _rng: ([], []))
    monkeypatch.setattr("utils.parts_drawing.scene._expose", lambda image, _rng: np.uint8(np.clip(image, 0, 1) * 255))
    for seed in range(10):
        picture = draw_scene(make_rng(seed), [EVERY_CLASS[seed % 5]])
        magenta = (picture.image[..., 0] > 245) & (picture.image[..., 1] < 40) & (picture.image[..., 2] > 245)
        assert np.abs(visible_box(magenta) - picture.xyxy[0]).max() <= 1.5


def test_a_part_under_another_is_labelled_by_what_is_seen():
    """All parts dropped on one spot: the labelled ones show at least the promised share of themselves."""
    picture = draw_scene(make_rng(5), [BOLT] * 30)
    assert 0 < len(picture.numbers) <= 30
    seen = [np.count_nonzero(picture.owner == number) for number in picture.numbers]
    assert min(seen) > 0
    assert set(np.unique(picture.owner)) <= {CLUTTER, -1, *range(30)}


@pytest.mark.parametrize("kind", EVERY_CLASS)
def test_meshes_are_closed_and_face_outwards(kind: int):
    """The volume by the divergence theorem is positive and below the bounding box's."""
    for seed in range(5):
        mesh = BUILDERS[kind](make_rng(seed))
        a, b, c, d = (mesh.vertices[mesh.faces[:, k]] for k in range(4))
        volume = (np.einsum("ij,ij->i", a, np.cross(b, c)) + np.einsum("ij,ij->i", a, np.cross(c, d))).sum() / 6
        extent = np.ptp(mesh.vertices, axis=0)
        assert 0.05 * extent.prod() < volume < 0.9 * extent.prod()


def test_a_bore_is_seen_through_from_above():
    """A ring of outer radius 10 and bore 5, 1 mm high, seen from straight above: its mask has a hole."""
    ring = loft([Ring(0, 5), Ring(0, 10), Ring(1, 10), Ring(1, 5)], closed=True)
    camera = Camera.above(np.zeros(3), (0.0, np.pi / 2, 0.0), 500.0, Lens(500.0, (100, 100)))
    sprite = rasterise(ring, camera)
    rows, columns, mask = window_on(sprite, sprite.mask, (100, 100))
    assert np.abs(np.array([rows.start, rows.stop]) / SUPERSAMPLING - [40, 60]).max() <= 2
    middle = mask[mask.shape[0] // 2]
    assert not middle[len(middle) // 2]
    # the filler also takes the pixels that an outline crosses: a quarter of a pixel along 2 * pi * 15
    area = np.count_nonzero(mask) / SUPERSAMPLING**2
    assert area == pytest.approx(np.pi * (100 - 25) + np.pi * 30 / 4, rel=0.04)
    assert columns == rows


def test_projection_of_a_point_by_hand():
    """500 mm straight above with focal length 500, a bench point 10 mm aside falls 10 pixels off the middle."""
    camera = Camera.above(np.zeros(3), (0.0, np.pi / 2, 0.0), 500.0, Lens(500.0, (200, 100)))
    pixels, depth = camera.project(np.array([[0.0, 0.0, 0.0], [0.0, 10.0, 0.0]]))
    assert depth == pytest.approx([500.0, 500.0])
    assert np.linalg.norm(pixels[1] - pixels[0]) == pytest.approx(10.0)
    assert camera.on_bench(pixels) == pytest.approx(np.array([[0.0, 0.0], [0.0, 10.0]]), abs=1e-9)


def test_label_noise_changes_as_many_classes_and_lists_them(tmp_path: Path):
    generate(tmp_path / "clean", 6, 1, seed=8)
    generate(tmp_path / "noisy", 6, 1, seed=8, label_noise=0.2)
    clean, noisy = (read_labels(tmp_path / name / "labels" / "train") for name in ("clean", "noisy"))
    assert np.array_equal(clean[:, 1:], noisy[:, 1:])
    wrong = json.loads((tmp_path / "noisy" / "parts.json").read_text())["wrong_labels"]
    assert (clean[:, 0] != noisy[:, 0]).sum() == len(wrong) == round(0.2 * len(clean))
    for entry in wrong:
        line = (tmp_path / "noisy" / entry["label"]).read_text().splitlines()[entry["line"] - 1]
        before = (tmp_path / "clean" / entry["label"]).read_text().splitlines()[entry["line"] - 1]
        assert CLASS_NAMES[int(before.split()[0])] == entry["true"]
        assert line.split()[0] != before.split()[0]


def test_lookalikes_change_couplings_alone_and_the_default_set_says_nothing_of_them(tmp_path: Path):
    """With share 0 and 1 a coupling has another shape from the same state; other parts keep theirs."""
    for kind in EVERY_CLASS:
        none, all_of_them = (draw_scene(make_rng(2), [kind], lookalike=share) for share in (0.0, 1.0))
        assert np.array_equal(none.image, all_of_them.image) == (kind != COUPLING)
    generate(tmp_path / "usual", 2, 1)
    generate(tmp_path / "alike", 2, 1, lookalike=1.0)
    usual, alike = (json.loads((tmp_path / name / "parts.json").read_text())["recipe"] for name in ("usual", "alike"))
    assert alike.pop("lookalike") == 1.0
    assert alike == usual


def test_a_killed_run_leaves_no_data_set_and_the_next_one_succeeds(tmp_path: Path):
    root = tmp_path / "datasets" / "parts"
    code = f"from utils.parts import generate; generate({str(root)!r}, 300, 60)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(root.parent.glob(".parts.*.partial/labels/train/*.txt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not root.exists()
    assert list(root.parent.glob(".parts.*.partial"))
    generate(root, 2, 1)
    assert (root / "parts.json").exists()
    time.sleep(0.5)  # the killed run's own processes end at their next picture
    assert [path.name for path in root.parent.iterdir()] == ["parts"]


def test_two_processes_at_once_make_one_data_set(tmp_path: Path):
    root = tmp_path / "parts"
    code = f"from utils.parts import generate; generate({str(root)!r}, 6, 2)"
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_one_that_lost_the_race_without_locks_uses_the_winners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "parts"
    generate(root, 2, 1)
    before = labels_digest(root)
    monkeypatch.setattr(parts, "_found", lambda _root, real=parts._found, calls=[]: calls.append(1) or real(_root))
    parts._draw_and_rename(root, Recipe(2, 1))
    assert labels_digest(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_a_complete_set_is_left_alone(small: Path):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    ensure_dataset(small)
    generate(small, 12, 4, seed=3)
    assert {path: path.stat().st_mtime_ns for path in small.rglob("*")} == before


def test_folders_with_other_content_are_refused_and_untouched(small: Path, tmp_path: Path):
    mine = tmp_path / "parts"
    mine.mkdir()
    (mine / "photo.txt").write_text("mine")
    with pytest.raises(InputError, match="no data set drawn by the parts generator"):
        ensure_dataset(mine)
    assert (mine / "photo.txt").read_text() == "mine"
    with pytest.raises(InputError, match="other settings"):
        generate(small, 12, 4, seed=5)


def test_another_version_and_lost_files_are_named(tmp_path: Path):
    root = tmp_path / "parts"
    generate(root, 2, 1)
    (root / "images" / "train" / "00001.jpg").unlink()
    with pytest.raises(InputError, match="1 of 2 .jpg files are left"):
        ensure_dataset(root)
    marker = json.loads((root / "parts.json").read_text())
    (root / "parts.json").write_text(json.dumps({**marker, "version": 0}))
    with pytest.raises(InputError, match="version 0 of the parts generator"):
        ensure_dataset(root)


def test_an_empty_folder_is_filled(tmp_path: Path):
    root = tmp_path / "parts"
    root.mkdir()
    generate(root, 1, 1)
    assert (root / "images" / "val" / "00000.jpg").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs a POSIX system")
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path):
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(InputError, match="cannot be written") as caught:
        ensure_dataset(place / "parts")
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts, "_draw_all", full)
    with pytest.raises(WorkError, match="No space left"):
        generate(tmp_path / "parts", 2, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [{"n_train": 0}, {"n_val": 0}, {"imbalance": -1}, {"label_noise": 1.5}, {"seed": -1}, {"lookalike": 2}],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float], tmp_path: Path):
    with pytest.raises(InputError, match="it must be"):
        generate(tmp_path / "parts", **wrong)


def test_the_command_and_its_errors(tmp_path: Path):
    run = [sys.executable, "-m", "utils.parts"]
    options = {"cwd": ROOT, "capture_output": True, "text": True}
    done = subprocess.run([*run, "--out", tmp_path / "d", "--train", "2", "--val", "1"], check=False, **options)
    assert done.returncode == 0, done.stderr
    bad = subprocess.run([*run, "--out", tmp_path / "e", "--train", "0"], check=False, **options)
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)


def test_drawing_is_quick():
    """A picture takes a tenth of a second on one core; the bound leaves room for a busy machine."""
    start = time.process_time()
    for seed in range(4):
        draw_scene(make_rng(seed), EVERY_CLASS + (SCREW, SCREW, BOLT))
    assert time.process_time() - start < 4 * 0.8


def test_the_sample_pictures_are_those_of_the_generator():
    files = sorted((ROOT / "data" / "images").glob("workbench*.jpg"))
    assert len(files) >= 3
    for file in files:
        assert file.stat().st_size <= 120_000
        assert cv2.imread(str(file)).shape == (480, 640, 3)


def test_the_yaml_for_segmentation_draws_outlines(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr("utils.parts._make", lambda root, recipe: drawn.append((root, recipe)))
    monkeypatch.setenv("YOLOv5_DATASETS_DIR", str(tmp_path))
    with pytest.raises(InputError):  # nothing was drawn after all
        check_dataset("parts-seg.yaml")
    assert drawn == [(tmp_path / "parts-seg", Recipe(outlines=True))]
