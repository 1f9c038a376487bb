"""--augment-on-device: OpenCV's colours to one level, the same draws and labels, no wait for the device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import train
from segment import train as segment_train
from tests.segment_data import draw_shapes
from tests.test_dataset import ALL, OFF, USUAL, build, make_set
from tests.test_train import KILL_SCRIPT, SMALL
from utils.augmentations import HsvChange
from utils.balance.samplers import Draw
from utils.checkpoint import load_checkpoint
from utils.data import device_augment as device_part
from utils.data.finish import Finish, write_planes
from utils.dataloaders import create_dataloader
from utils.dataset import LoadImagesAndLabels
from utils.errors import InputError
from utils.segment.dataloaders import create_dataloader as create_mask_dataloader
from utils.training import options
from utils.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[1]
DRAWS = [Draw(k % 8, 0, k) for k in range(32)]
COLOURS = {"hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4}


def all_colours(step: int = 1) -> torch.Tensor:
    """Return every ``step``-th red with all greens and blues, (256 / step, 3, 256, 256) uint8."""
    levels = torch.arange(256, dtype=torch.uint8)
    red, green, blue = torch.meshgrid(levels[::step], levels, levels, indexing="ij")
    return torch.stack((red, green, blue), 1)


def bgr(image: torch.Tensor) -> np.ndarray:
    """Return an image (3, h, w) RGB as OpenCV has it, (h, w, 3) BGR."""
    return np.ascontiguousarray(image.numpy().transpose(1, 2, 0)[..., ::-1])


def levels_apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.int() - b.int()).abs()


def finish_of(seed: int, upside_down: bool = False, mirror: bool = False) -> Finish:
    return Finish((), HsvChange.draw(*COLOURS.values(), np.random.default_rng(seed)), upside_down, mirror)


def finished(image: torch.Tensor, finish: Finish) -> torch.Tensor:
    """Return an image (3, h, w) RGB as the loader finishes it."""
    out = np.empty(image.shape, np.uint8)
    finish.apply(bgr(image), out)
    return torch.from_numpy(out)


# The device's part ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [15, pytest.param(1, marks=pytest.mark.slow)])
def test_hue_saturation_and_value_are_those_of_opencv(step: int) -> None:
    """With step 1 for each of the 16.7 million colours."""
    for image in all_colours(step).split(1):
        expected = cv2.cvtColor(bgr(image[0]), cv2.COLOR_BGR2HSV)
        np.testing.assert_array_equal(device_part.to_hsv(image)[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_the_way_back_is_that_of_opencv_to_one_level(step: int) -> None:
    """With step 1 all 11.8 million; one pixel in 6,700 differs, in the last digit of OpenCV's products."""
    saturation, value = np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2, indexing="ij")
    differing = 0
    for hue in range(0, 180, step):
        hsv = np.dstack((np.full_like(value, hue), saturation, value))
        expected = np.empty((3, 256, 256), np.uint8)
        write_planes(expected, cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))
        found = device_part.to_rgb(torch.from_numpy(hsv).permute(2, 0, 1)[None])[0]
        apart = levels_apart(found, torch.from_numpy(expected))
        assert apart.max() <= 1
        differing += int((apart.amax(0) > 0).sum())
    assert differing <= 3e-4 * 256 * 256 * len(range(0, 180, step))


@pytest.mark.parametrize("step", [51, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_change_is_the_loaders_to_one_level(step: int, seed: int) -> None:
    finish, images = finish_of(seed), all_colours(step)
    found = torch.cat([device_part.change_images(part, device_part.pack([finish])) for part in images.split(1)])
    apart = torch.stack([levels_apart(a, finished(b, finish)) for a, b in zip(found, images, strict=True)])
    assert apart.max() <= 1
    assert (apart.amax(1) > 0).float().mean() < 2e-3


@pytest.mark.parametrize("at_once", [1, 64 * 48 * 2, 2**22])
def test_each_image_of_a_batch_gets_its_own_change(at_once: int, monkeypatch) -> None:
    monkeypatch.setattr(device_part, "_PIXELS_AT_ONCE", at_once)
    images = torch.randint(0, 256, (5, 3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    finishes = [finish_of(k, bool(k & 1), bool(k & 2)) for k in range(4)] + [Finish((), None, True, False)]
    before = images.clone()
    found = device_part.change_images(images, device_part.pack(finishes))
    assert found.dtype == torch.uint8 and torch.equal(images, before)
    for image, changed, finish in zip(images, found, finishes, strict=True):
        assert levels_apart(changed, finished(image, finish)).max() <= 1
    assert torch.equal(found[4], images[4].flip(1))  # no colours to change: nothing is converted


def test_grey_stays_grey_and_flips_alone_are_exact() -> None:
    grey = torch.arange(256, dtype=torch.uint8).repeat(3, 1)[None, :, None]
    found = device_part.change_images(grey, device_part.pack([finish_of(3)]))
    assert torch.equal(found[0, 0], found[0, 1]) and torch.equal(found[0, 0], found[0, 2])
    images = torch.randint(0, 256, (4, 3, 6, 10), dtype=torch.uint8)
    rows = device_part.pack([Finish((), None, bool(k & 1), bool(k & 2)) for k in range(4)])
    expected = [images[0], images[1].flip(1), images[2].flip(2), images[3].flip(1, 2)]
    assert torch.equal(device_part.change_images(images, rows), torch.stack(expected))


def test_quarters_are_changed_one_by_one() -> None:
    quarters = torch.randint(0, 256, (4, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = device_part.pack([finish_of(k, bool(k & 1), bool(k & 2)) for k in range(4)])
    whole = torch.cat((torch.cat(quarters[:2].unbind(), 1), torch.cat(quarters[2:].unbind(), 1)), 2)[None]
    top_left, bottom_left, top_right, bottom_right = device_part.change_images(quarters, rows)
    found = device_part.change_images(whole, rows[None])[0]
    assert torch.equal(found[:, :32, :48], top_left) and torch.equal(found[:, 32:, :48], bottom_left)
    assert torch.equal(found[:, :32, 48:], top_right) and torch.equal(found[:, 32:, 48:], bottom_right)


def test_nothing_waits_for_the_device() -> None:
    """Tensors without numbers pass through: no shape and no branch depends on what they hold."""
    with FakeTensorMode():
        images = torch.empty((5, 3, 64, 96), dtype=torch.uint8)
        assert device_part.change_images(images, torch.empty((5, device_part.WIDTH), dtype=torch.uint8)).shape == (
            5, 3, 64, 96,
        )  # fmt: skip
        rows = torch.empty((5, 4, device_part.WIDTH), dtype=torch.uint8)
        assert device_part.change_images(images, rows).shape == (5, 3, 64, 96)


def test_the_change_can_be_compiled_as_one_graph() -> None:
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    rows = device_part.pack([finish_of(k, mirror=k == 1) for k in range(3)])
    compiled = torch.compile(device_part.change_images, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(images, rows), device_part.change_images(images, rows))


@pytest.mark.gpu
@pytest.mark.parametrize("seed", [0, 1])
def test_a_gpu_changes_as_the_cpu_does_and_is_not_waited_for(seed: int) -> None:
    finish, images = finish_of(seed, mirror=bool(seed)), all_colours(4)
    rows = device_part.pack([finish] * len(images))
    feed = device_part.with_changes(lambda batch, device: (batch[0], ()))
    batch, device = (images.pin_memory(), None, rows.pin_memory()), torch.device("cuda")
    feed(batch, device)  # the first call loads kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        found, _ = feed(batch, device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    hsv = device_part.to_hsv(images.cuda()).cpu()
    assert torch.equal(hsv, device_part.to_hsv(images))
    apart = levels_apart(found.cpu(), device_part.change_images(images, rows))
    assert apart.max() <= 1 and (apart > 0).float().mean() < 1e-3
    for k in (0, 17, 63):
        assert levels_apart(found[k].cpu(), finished(images[k], finish)).max() <= 1


# The loader's part ----------------------------------------------------------------------------------------------------


def both_ways(folder: Path, hyp: dict, **more) -> tuple[tuple, tuple]:
    """Return a batch as always, and one whose colours and flips were left and then made by the device's part."""
    data = build(folder, augment=True, hyp=hyp, **more)
    batch = data.collate_fn(data.__getitems__(DRAWS))
    data.leave_changes = True
    *left, rows = data.collate_fn(data.__getitems__(DRAWS))
    assert len(batch) == 4 and rows.dtype == torch.uint8 and rows.shape == (32, device_part.WIDTH)
    return batch, (device_part.change_images(left[0], rows), *left[1:])


@pytest.mark.parametrize("polygons", [False, True], ids=["boxes", "polygons"])
@pytest.mark.parametrize("hyp", [USUAL, ALL, OFF, OFF | {"fliplr": 0.5}], ids=["usual", "all", "off", "flips"])
def test_labels_are_the_same_numbers(tmp_path, polygons: bool, hyp: dict) -> None:
    """Whatever is drawn after colours and flips of one image, or in another, does not move."""
    batch, left = both_ways(make_set(tmp_path / "set", polygons), hyp)
    assert torch.equal(batch[1], left[1]) and batch[2:] == left[2:]


@pytest.mark.parametrize("hyp", [ALL, USUAL | {"mosaic": 0.0}, OFF, OFF | {"fliplr": 0.5, "flipud": 0.5}])
@pytest.mark.parametrize("effects", [False, True])
def test_pixels_are_the_same_to_one_level(tmp_path, hyp: dict, effects: bool, monkeypatch) -> None:
    """Where colours come after the warp: all but views that are zoomed in. Effects come before both."""
    if effects:
        monkeypatch.setattr("utils.augmentations.Albumentations.draw", effects_that_always_fire)
    batch, left = both_ways(make_set(tmp_path / "set"), hyp)
    apart = levels_apart(batch[0], left[0])
    assert apart.max() <= 1
    assert (apart.amax(1) > 0).float().mean() < 0.05  # OpenCV rounds the last pixels of a row, and cuts off the others
    if not hyp["hsv_s"]:
        assert not apart.any()


def effects_that_always_fire(self, rng: np.random.Generator, p: float = 1.0) -> list:
    rng.random(2)
    return [(self.transform[0][1], int(rng.integers(2**31)))]


def test_zoomed_mosaics_differ_a_little(tmp_path) -> None:
    """Without the option they are coloured before they are enlarged, with it after."""
    batch, left = both_ways(make_set(tmp_path / "set"), USUAL)
    assert levels_apart(batch[0], left[0]).float().mean() < 1.5


def test_rectangular_batches_and_groups_of_partners(tmp_path) -> None:
    folder = make_set(tmp_path / "set")
    data = build(folder, augment=True, hyp=USUAL, rect=True, stride=32)
    draws = [Draw(k, 0, k) for k in range(4)]
    images = data.collate_fn(data.__getitems__(draws))[0]
    data.leave_changes = True
    left = data.collate_fn(data.__getitems__(draws))
    assert levels_apart(device_part.change_images(left[0], left[4]), images).max() <= 1
    batch, other = both_ways(folder, USUAL | {"mosaic_pool": 4})
    assert torch.equal(batch[1], other[1])


def test_single_samples_are_always_finished(tmp_path) -> None:
    """Only whole batches carry what is left to do."""
    data = build(make_set(tmp_path / "set"), augment=True, hyp=USUAL)
    expected = data[DRAWS[3]][0]
    data.leave_changes = True
    data.__getitems__(DRAWS[:2])
    assert torch.equal(data[DRAWS[3]][0], expected)


def test_a_failing_batch_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    data = build(make_set(tmp_path / "set"), augment=True, hyp=USUAL)
    data.leave_changes = True
    with monkeypatch.context() as patch:
        patch.setattr(LoadImagesAndLabels, "_item", lambda *_: (_ for _ in ()).throw(RuntimeError("no")))
        with pytest.raises(RuntimeError):
            data.__getitems__(DRAWS[:3])
    assert len(data.__getitems__(DRAWS[:2]).changes) == 2


@pytest.mark.parametrize("count", [8, 7])
def test_quads(tmp_path, count: int) -> None:
    """Labels are the same; tiled pixels to one level, enlarged ones nearly, since they are coloured afterwards."""
    data = build(make_set(tmp_path / "set"), augment=True, hyp=USUAL | {"mosaic": 0.0, "flipud": 0.5})
    tiled = 0
    for epoch in range(6):
        draws = [Draw(k, epoch, k) for k in range(count)]
        data.leave_changes = False
        images, targets, *files = data.collate_fn4(data.__getitems__(draws))
        data.leave_changes = True
        left = data.collate_fn4(data.__getitems__(draws))
        assert torch.equal(left[1], targets) and list(left[2:4]) == files
        changed = device_part.change_images(left[0], left[4])
        for k, rows in enumerate(left[4]):
            apart = levels_apart(changed[k], images[k])
            tiled += not torch.equal(rows[0], rows[1])
            assert apart.max() <= 1 if not torch.equal(rows[0], rows[1]) else apart.float().mean() < 1.5
    assert 0 < tiled < 6 * len(left[4])


@pytest.mark.parametrize("quad", [False, True])
def test_any_number_of_workers_makes_the_same_batches(tmp_path, quad: bool) -> None:
    folder, found = make_set(tmp_path / "set"), []
    for workers in (0, 2):
        loader, data = create_dataloader(
            str(folder), 64, 8, 32, hyp=USUAL, augment=True, cache="ram", workers=workers, shuffle=True, quad=quad
        )
        data.leave_changes = True
        loader.set_epoch(3)
        found.append(list(loader))
        loader.close()
    for a, b in zip(*found, strict=True):
        assert len(a) == 5 and all(torch.equal(a[k], b[k]) for k in (0, 1, 4)) and a[2] == b[2]


def test_two_processes_share_the_batches_of_one(tmp_path, monkeypatch) -> None:
    """Seven images in batches of four: the same rows and pixels, and a stand-in where a process has no image."""
    folder = make_set(tmp_path / "set")
    (folder / "7.png").unlink()

    def epoch(rank: int, world: int) -> list:
        monkeypatch.setenv("WORLD_SIZE", str(world))
        loader, data = create_dataloader(
            str(folder), 64, 4 // world, 32, hyp=USUAL, augment=True, rank=rank, workers=0, shuffle=True
        )
        data.leave_changes = True
        return [
            [(file, image, row) for image, file, row in zip(batch[0], batch[2], batch[4], strict=True)][
                : loader.batch_sampler.real_count(k)
            ]
            for k, batch in enumerate(loader)
        ]

    alone, shared = epoch(-1, 1), [epoch(rank, 2) for rank in (0, 1)]
    for number, samples in enumerate(alone):
        others = {file: (image, row) for process in shared for file, image, row in process[number]}
        assert len(others) == len(samples)
        for file, image, row in samples:
            assert torch.equal(image, others[file][0]) and torch.equal(row, others[file][1])


def test_masks_lie_where_the_flipped_pixels_do(tmp_path) -> None:
    """Masks are drawn of flipped outlines: nothing is left to the device but the image."""
    path = draw_shapes(tmp_path / "shapes")
    folder, found = str(path.parent / "images" / "train"), []
    hyp = OFF | {"fliplr": 0.5, "flipud": 0.5, "mosaic": 0.5}
    for leave in (False, True):
        loader, data = create_mask_dataloader(
            folder, 64, 8, 32, hyp=hyp, augment=True, workers=0, mask_downsample_ratio=4, overlap_mask=True
        )
        data.leave_changes = leave
        found += list(loader)
    plain, left = found
    assert torch.equal(plain[4], left[4]) and torch.equal(plain[1], left[1])
    assert torch.equal(device_part.change_images(left[0], left[5]), plain[0])


# The option -----------------------------------------------------------------------------------------------------------


def test_it_is_refused_on_the_cpu_in_one_line(tiny_data) -> None:
    words = ["--data", str(tiny_data), "--weights", "", "--cfg", "yolov5n.yaml", "--device", "cpu"]
    run = subprocess.run(
        [sys.executable, "train.py", *words, "--augment-on-device"], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert "--augment-on-device: this run trains on the CPU" in run.stderr.strip().splitlines()[-1]


def test_a_resumed_run_must_have_it_as_well(tmp_path) -> None:
    given = {"augment_on_device": True}
    with pytest.raises(InputError, match="--augment-on-device True: the run of last.pt was started with False"):
        options.resumed_options(
            train.build_parser().parse_args([]), Path("last.pt"), {"augment_on_device": False}, given
        )


class Drawn(Exception):
    """Ends a run at its first picture."""


@pytest.mark.parametrize("task", ["boxes", *(pytest.param(t, marks=pytest.mark.slow) for t in ("quad", "masks"))])
def test_a_run_trains_on_and_draws_the_augmented_pixels(task: str, tiny_data, tmp_path, monkeypatch) -> None:
    """What train_batch0.jpg is drawn from is what a run without the option trains on, to one level."""
    monkeypatch.setattr(options, "check_device", lambda opt, device: None)
    script, model = (segment_train, "yolov5n-seg.yaml") if task == "masks" else (train, "yolov5n.yaml")
    data = draw_shapes(tmp_path / "shapes") if task == "masks" else tiny_data
    hyp = {**read_yaml(ROOT / "data" / "hyps" / "hyp.scratch-low.yaml"), "mosaic": 0.0}
    drawn: list[torch.Tensor] = []

    def draw_batch(self, images: torch.Tensor, batch: tuple, path: Path, facts: object) -> None:
        drawn.append(images)
        raise Drawn(len(batch))

    monkeypatch.setattr("utils.training.tasks.detection.Detection.draw_batch", draw_batch)
    monkeypatch.setattr("utils.training.tasks.segmentation.Segmentation.draw_batch", draw_batch)
    for on in (False, True):
        with pytest.raises(Drawn, match=str(4 + (task == "masks") + on)):
            script.run(
                data=str(data), hyp=hyp, weights="", cfg=model, imgsz=64, epochs=1, batch_size=8, workers=0,
                device="cpu", noautoanchor=True, project=str(tmp_path / "runs"), augment_on_device=on,
                quad=task == "quad",
            )  # fmt: skip
    assert drawn[0].shape == drawn[1].shape and drawn[0].dtype == drawn[1].dtype
    apart = 255 * (drawn[0] - drawn[1]).abs()
    assert apart.mean() < 2 if task == "quad" else apart.max() < 1.01


@pytest.mark.slow
def test_killed_and_resumed_ends_with_the_same_bits(tiny_data, tmp_path) -> None:
    """Three epochs of two steps; SIGKILL strikes in the middle of epoch 1."""
    without_check = "import sys; from utils.training import options; options.check_device = lambda opt, device: None\n"
    arguments = ["--data", str(tiny_data), *SMALL, "--epochs", "3", "--noplots", "--workers", "2"]
    arguments += ["--project", str(tmp_path / "runs"), "--augment-on-device", "--name"]

    def python(*command: str) -> int:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, check=False).returncode

    command = without_check + "import train; train.main(train.parse_opt())"
    script = without_check + KILL_SCRIPT.format(root=str(ROOT), step=2, arguments=[*arguments, "cut"])
    cut, whole = tmp_path / "runs" / "cut", tmp_path / "runs" / "whole"
    assert python("-c", command, *arguments, "whole") == 0 and python("-c", script) == -9
    assert python("-c", command, "--resume", str(cut / "weights" / "last.pt")) == 0
    assert (cut / "results.csv").read_text() == (whole / "results.csv").read_text()
    ours, theirs = (load_checkpoint(run / "weights" / "last.pt")["model"].state_dict() for run in (cut, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
