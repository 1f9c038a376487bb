"""Masks: from prototypes, drawn from outlines, carried through augmentation, measured."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_data import draw_shapes

from utils.errors import InputError
from utils.hyperparameters import Hyperparameters
from utils.segment import augmentations, general, masks, metrics
from utils.segment.dataloaders import LoadImagesAndLabelsAndMasks, create_dataloader
from utils.segment.plots import draw_masks, plot_images_and_masks, plot_results_with_masks

ROOT = Path(__file__).resolve().parents[1]
SQUARE = np.array([[8.0, 8], [23, 8], [23, 23], [8, 23]])


# From prototypes ------------------------------------------------------------------------------------------------------


def test_crop_mask_keeps_the_pixels_whose_corner_lies_in_the_box():
    cropped = general.crop_mask(torch.ones(2, 4, 5), torch.tensor([[1.0, 1, 3, 4], [0.5, 0, 5, 1.5]]))
    assert cropped[0].nonzero().tolist() == [[r, c] for r in (1, 2, 3) for c in (1, 2)]
    assert cropped[1].nonzero().tolist() == [[r, c] for r in (0, 1) for c in (1, 2, 3, 4)]


def test_masks_are_prototypes_by_coefficients_within_their_boxes():
    """Two prototypes, left half and upper half; a detection of the left half whose box ends at row 4 of 8."""
    protos = torch.full((2, 8, 8), -1.0)
    protos[0, :, :4], protos[1, :4] = 1.0, 1.0
    coefficients, boxes = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 0, 32, 16]])
    found = general.process_mask(protos, coefficients, boxes, (32, 32))
    expected = torch.zeros(1, 8, 8, dtype=torch.bool)
    expected[0, :4, :4] = True
    assert torch.equal(found, expected)
    upsampled = general.process_mask(protos, coefficients, boxes, (32, 32), upsample=True)
    assert upsampled.shape == (1, 32, 32) and upsampled[0, :14, :14].all() and not upsampled[0, 18:].any()
    sharp = general.process_mask_upsample(protos, coefficients, boxes, (32, 32))
    assert sharp[0, 15, :14].all() and not sharp[0, 16:].any()


def test_native_masks_leave_the_padding_of_the_letterbox_out():
    """A picture of 20 x 40 in a square: prototypes 8 x 8 hold it in rows 2 to 5."""
    protos = torch.full((1, 8, 8), -1.0)
    protos[0, 2:4] = 1.0
    found = general.process_mask_native(protos, torch.ones(1, 1) * 9, torch.tensor([[0.0, 0, 40, 20]]), (20, 40))
    assert found.shape == (1, 20, 40) and found[0, :9].all() and not found[0, 11:].any()


def test_no_detections_give_no_masks():
    empty = torch.zeros(0, 2), torch.zeros(0, 4), (32, 32)
    for work_out in (general.process_mask, general.process_mask_upsample, general.process_mask_native):
        assert work_out(torch.zeros(2, 8, 8), *empty).shape[0] == 0
    assert general.masks2segments(torch.zeros(0, 4, 4)) == []


@pytest.mark.parametrize("count", [1, 3, 130])
def test_scale_image_undoes_a_letterbox(count):
    small = np.zeros((32, 32, count), np.uint8)
    small[8:24, :16] = 1  # a picture of 20 x 40 lies in rows 8 to 23
    found = general.scale_image((32, 32), small, (20, 40))
    assert found.shape == (20, 40, count) and found[:, :19].all() and not found[:, 21:].any()
    assert np.array_equal(found, general.scale_image((32, 32), small, (20, 40), ((0.8, 0.8), (0, 8))))


def test_overlap_of_masks():
    first, second = torch.zeros(2, 10), torch.zeros(2, 10)
    first[0, :4], first[1, :5], second[0, 2:6], second[1, :5] = 1, 1, 1, 1
    assert general.mask_iou(first, second).flatten().tolist() == pytest.approx([2 / 6, 4 / 5, 3 / 6, 1], rel=1e-5)
    assert general.masks_iou(first, second).tolist() == pytest.approx([2 / 6, 1.0])


def test_outlines_of_masks_in_one_and_in_several_parts():
    mask = np.zeros((1, 40, 40), np.uint8)
    mask[0, 5:15, 5:15] = 1
    mask[0, 20:36, 20:36] = 1
    whole, largest = (general.masks2segments(torch.from_numpy(mask), s)[0] for s in ("all", "largest"))
    drawn = masks.polygon2mask((40, 40), [whole.reshape(-1)])
    assert (drawn[mask[0] > 0] == 1).all() and drawn.sum() - mask.sum() < 20  # the joining line alone is more
    assert masks.polygon2mask((40, 40), [largest.reshape(-1)]).sum() == 16 * 16
    assert general.masks2segments(torch.zeros(1, 4, 4))[0].shape == (0, 2)
    with pytest.raises(ValueError, match="strategy: 'best'"):
        general.masks2segments(torch.zeros(1, 4, 4), "best")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5))
def test_outlines_of_random_blobs_draw_the_blobs_again(seed, parts):
    rng = np.random.default_rng(seed)
    mask = np.zeros((48, 48), np.uint8)
    for x, y, r in rng.integers((3, 3, 1), (45, 45, 9), (parts, 3)):
        cv2.circle(mask, (int(x), int(y)), int(r), 1, -1)
    outline = general.masks2segments(torch.from_numpy(mask[None]))[0]
    assert masks.polygon2mask((48, 48), [outline.reshape(-1)])[mask > 0].all()


# Drawn from outlines --------------------------------------------------------------------------------------------------


def test_polygons_become_masks_of_their_pixels():
    full = masks.polygons2masks((32, 32), [SQUARE, SQUARE / 2], 1)
    assert full.shape == (2, 32, 32) and full.dtype == np.uint8
    assert full[0].sum() == 16 * 16 and full[0, 8, 8] == full[0, 23, 23] == 1
    assert masks.polygons2masks((32, 32), [SQUARE], 1, 4)[0].sum() == 4 * 4
    assert masks.polygons2masks((32, 48), [], 1, 4).shape == (0, 8, 12)
    assert masks.polygon2mask((32, 32), [SQUARE.reshape(-1)], color=7).max() == 7


def test_smaller_objects_lie_on_top_of_larger_ones():
    inner = SQUARE / 4 + 10
    numbers, order = masks.polygons2masks_overlap((32, 32), [inner, SQUARE])
    assert order.tolist() == [1, 0]
    assert numbers[9, 9] == 1 and numbers[13, 13] == 2 and numbers[0, 0] == 0
    assert masks.polygons2masks_overlap((32, 32), [])[0].shape == (32, 32)


def test_more_objects_than_a_byte_counts_keep_their_numbers():
    rows, columns = np.divmod(np.arange(300), 20)
    corners = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])
    cells = [corners + corner for corner in np.stack((columns, rows), 1) * 3]
    numbers, order = masks.polygons2masks_overlap((64, 64), cells)
    assert numbers.dtype == np.int32 and numbers.max() == 300 and len(set(order.tolist())) == 300


def test_the_built_in_set_has_outlines_of_its_parts_visible_pixels():
    from utils.parts import draw_whole, outline_text

    picture = draw_whole(0, 0, [0, 2, 3])
    outlines = picture.outlines()
    height, width = picture.image.shape[:2]
    for points, (x1, y1, x2, y2) in zip(outlines, picture.xyxy, strict=True):
        box = [*points.min(0), *points.max(0)] * np.array([width, height] * 2)
        assert np.abs(box - (x1, y1, x2, y2)).max() <= 0.5
    scale = picture.owner.shape[1] / width
    drawn = masks.polygons2masks(picture.owner.shape, [p * (width * scale, height * scale) for p in outlines], 1)
    for mask, number in zip(drawn, picture.numbers, strict=True):
        assert mask[picture.owner == number].all()
    lines = outline_text(picture.classes, outlines).splitlines()
    assert [int(line.split()[0]) for line in lines] == picture.classes.tolist()
    assert all(len(line.split()) == 1 + 2 * len(points) for line, points in zip(lines, outlines, strict=True))


# Carried through augmentation -----------------------------------------------------------------------------------------


def test_a_warp_moves_outlines_with_the_pixels():
    """A painted square, turned and moved, is found where its warped outline is drawn."""
    image = np.zeros((64, 64, 3), np.uint8)
    cv2.fillPoly(image, [(SQUARE + 16).astype(np.int32)], (255, 255, 255))
    targets = np.array([[0, 24.0, 24, 40, 40]])
    warped, labels, outlines = augmentations.random_perspective(
        image, targets, [SQUARE + 16], degrees=30, shear=5, rng=np.random.default_rng(3)
    )
    drawn = masks.polygon2mask((64, 64), [outlines[0].reshape(-1)]) > 0
    painted = warped[..., 0] > 127
    assert len(labels) == len(outlines) == 1
    assert (drawn & painted).sum() / (drawn | painted).sum() > 0.85


def test_mixup_joins_outlines():
    image, labels = np.full((8, 8, 3), 100, np.uint8), np.zeros((1, 5))
    mixed, rows, outlines = augmentations.mixup(image, labels, [SQUARE], image, labels, [SQUARE, SQUARE])
    assert np.array_equal(mixed, image) and rows.shape == (2, 5) and len(outlines) == 3


HYPS = {
    "plain": {"mosaic": 0.0, "degrees": 0.0, "translate": 0.0, "scale": 0.0, "fliplr": 0.0},
    "flips": {"mosaic": 0.0, "flipud": 1.0, "fliplr": 1.0},
    "mosaic": {"mosaic": 1.0, "degrees": 20.0, "shear": 5.0},
    "all": {"mosaic": 1.0, "mixup": 1.0, "copy_paste": 1.0, "flipud": 0.5},
    "rare": {"mosaic": 1.0, "rare_paste": 1.0},
}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Return the folder of a drawn set with 8 training images."""
    return draw_shapes(tmp_path_factory.mktemp("shapes") / "set").parent


def _set(shapes, name, **options):
    colours = {"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}
    low = Hyperparameters.load(ROOT / "data/hyps/hyp.scratch-low.yaml").to_dict()
    hyp = Hyperparameters.from_dict({**low, **colours, **HYPS[name]}, "test")
    return LoadImagesAndLabelsAndMasks(
        str(shapes / "images/train"), 64, 4, augment=True, hyp=hyp, names=["disc", "triangle"], nc=2, **options
    )


@pytest.mark.parametrize("name", ["plain", "flips", "mosaic", "rare"])
@pytest.mark.parametrize("overlap", [False, True])
def test_masks_lie_on_the_painted_pixels_and_in_their_boxes(name, overlap, shapes):
    """The set is painted red and blue: what the masks cover is painted, and what is painted is covered."""
    dataset = _set(shapes, name, overlap=overlap)
    together = covered = painted_pixels = 0
    for i in range(len(dataset)):
        image, targets, _, _, found = dataset[i]
        separate = found if not overlap else found == torch.arange(1, len(targets) + 1)[:, None, None]
        assert len(separate) == len(targets)
        low, high = image[1].int(), image[[0, 2]].amax(0).int()
        painted = high - low > 100
        union = separate.bool().any(0) if len(targets) else torch.zeros(64, 64, dtype=torch.bool)
        together += (painted & union).sum()
        covered, painted_pixels = covered + union.sum(), painted_pixels + painted.sum()
        for mask, (_, _, cx, cy, w, h) in zip(separate, targets.tolist(), strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            if len(rows) and not overlap:
                assert abs(columns.min() - (cx - w / 2) * 64) < 2.5 and abs(columns.max() + 1 - (cx + w / 2) * 64) < 2.5
                assert abs(rows.min() - (cy - h / 2) * 64) < 2.5 and abs(rows.max() + 1 - (cy + h / 2) * 64) < 2.5
    assert together / covered > 0.85 and together / painted_pixels > 0.85


def test_every_augmentation_keeps_as_many_masks_as_labels(shapes):
    dataset = _set(shapes, "all", downsample_ratio=4)
    for i in range(len(dataset)):
        image, targets, _, _, found = dataset[i]
        assert found.shape == (len(targets), 16, 16) and image.shape == (3, 64, 64)


def test_numbers_of_overlapping_masks_follow_the_order_of_the_labels(shapes):
    """Class and mask still belong together after labels were sorted by area: discs are red (BGR 40, 40, 230)."""
    dataset = _set(shapes, "plain", overlap=True)
    for i in range(len(dataset)):
        image, targets, _, _, numbers = dataset[i]
        for place, cls in enumerate(targets[:, 1].tolist(), 1):
            pixels = image[:, _eroded(numbers[0] == place)].float()
            if pixels.numel():
                red, _, blue = pixels.mean(1).tolist()
                assert (blue > red) == (cls == 1)


def _eroded(mask: torch.Tensor) -> torch.Tensor:
    """Return a mask (h, w) without its rim."""
    return torch.from_numpy(cv2.erode(mask.numpy().astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)


def test_a_batch_holds_masks_of_all_its_images(shapes):
    loader, dataset = create_dataloader(
        str(shapes / "images/train"), 64, 4, 32, workers=0, mask_downsample_ratio=4, overlap_mask=False
    )
    images, targets, paths, _, found = next(iter(loader))
    assert images.shape == (4, 3, 64, 64) and len(paths) == 4
    assert found.shape == (len(targets), 16, 16) and found.dtype == torch.uint8
    loader, _ = create_dataloader(str(shapes / "images/train"), 64, 4, 32, workers=0, overlap_mask=True)
    numbers = next(iter(loader))[4]
    assert numbers.shape == (4, 64, 64) and numbers.max() == max(len(rows) for rows in dataset.labels[:4])


def test_quad_batches_and_labels_without_outlines_are_refused(shapes, tiny_data):
    with pytest.raises(InputError, match="--quad"):
        create_dataloader(str(shapes / "images/train"), 64, 4, 32, quad=True)
    with pytest.raises(InputError, match="masks need outlines"):
        LoadImagesAndLabelsAndMasks(str(tiny_data.parent / "tiny/images/train"), 64)
    with pytest.raises(InputError, match="mask ratio 0"):
        LoadImagesAndLabelsAndMasks(str(shapes / "images/train"), 64, downsample_ratio=0)


def test_boxes_among_outlines_count_as_rectangles(tmp_path):
    folder = draw_shapes(tmp_path / "mixed", 4).parent
    (folder / "labels/train/0.txt").write_text("1 0.5 0.5 0.5 0.25\n")
    dataset = LoadImagesAndLabelsAndMasks(str(folder / "images/train"), 64)
    found = dataset[0][4][0]
    assert found[24:40, 16:48].all() and found.sum() <= 17 * 33


# Measured and drawn ---------------------------------------------------------------------------------------------------


def test_measures_of_boxes_and_masks():
    """Two classes, three detections: all boxes right, one mask of class 0 wrong."""
    tp_b, tp_m = np.ones((3, 10), bool), np.ones((3, 10), bool)
    tp_m[0] = False
    args = np.array([0.9, 0.8, 0.7]), np.array([0, 0, 1]), np.array([0, 0, 1])
    found = metrics.ap_per_class_box_and_mask(tp_m, tp_b, *args)
    both = metrics.Metrics()
    both.update(found)
    assert both.metric_box.map == pytest.approx(0.995, abs=1e-3)
    assert both.metric_mask.ap[0] < 0.5 and both.metric_mask.ap[1] == pytest.approx(0.995, abs=1e-3)
    assert len(both.mean_results()) == 8 and len(both.class_result(0)) == 8
    assert both.get_maps(3)[0] == pytest.approx(both.metric_box.ap[0] + both.metric_mask.ap[0])
    assert both.get_maps(3)[2] == pytest.approx(both.metric_box.map + both.metric_mask.map)
    assert both.ap_class_index.tolist() == [0, 1]
    assert metrics.Metrics().mean_results() == (0.0,) * 8


def test_fitness_adds_that_of_boxes_and_masks():
    row = np.array([[0.5, 0.5, 0.6, 0.4, 0.5, 0.5, 0.3, 0.2, 9, 9, 9, 9]])
    assert metrics.fitness(row).tolist() == pytest.approx([0.06 + 0.36 + 0.03 + 0.18])


def test_masks_are_drawn_over_the_image_the_first_on_top():
    masked = np.zeros((2, 4, 4), np.uint8)
    masked[0, :2], masked[1, 1:] = 1, 1
    drawn = draw_masks(np.zeros((4, 4, 3), np.uint8), masked, [(200, 0, 0), (0, 200, 0)], 0.5)
    assert drawn[1, 0].tolist() == [100, 0, 0] and drawn[2, 0].tolist() == [0, 100, 0]


def test_a_picture_shows_masks_of_both_forms(tmp_path):
    images = torch.zeros(2, 3, 64, 64)
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.5, 0.5], [0, 0, 0.5, 0.5, 0.2, 0.2], [1, 1, 0.5, 0.5, 0.5, 0.5]])
    separate = torch.zeros(3, 16, 16)
    separate[0, 4:12, 4:12], separate[1, 6:10, 6:10], separate[2, 4:12, 4:12] = 1, 1, 1
    numbers = torch.stack([separate[0] + separate[1], separate[2]])
    for name, form in (("a", separate), ("b", numbers)):
        plot_images_and_masks(images, targets, form, ["x.jpg", "y.jpg"], tmp_path / f"{name}.png", ["u", "v"])
    first, second = (cv2.imread(str(tmp_path / f"{name}.png")) for name in "ab")
    assert first.any() and np.array_equal(first.shape, second.shape)
    assert (np.abs(first.astype(int) - second).max(2) > 0).mean() < 0.05  # the pixels below the smaller one alone


def test_results_are_drawn_with_the_best_epoch_marked(tmp_path):
    header = ",".join(["epoch", *metrics.KEYS])
    rows = [",".join(["0"] + ["0.5"] * 19), ",".join(["1"] + ["0.7"] * 19)]
    (tmp_path / "results.csv").write_text("\n".join([header, *rows]) + "\n")
    plot_results_with_masks(tmp_path / "results.csv")
    assert cv2.imread(str(tmp_path / "results.png")).shape == (1200, 3600, 3)


def test_names_of_the_contract(contract):
    import importlib
    import inspect
    import json

    facts = json.loads((contract / "api.json").read_text())
    for module, found in facts.items():
        if not module.startswith(("utils.segment", "segment.")):
            continue
        ours = importlib.import_module(module)
        for name in {**found.get("constants", {}), **found.get("reexported", {})}:
            assert hasattr(ours, name), f"{module}.{name}"
        for name, about in found.get("functions", {}).items():
            params = [p[0] if isinstance(p, list) else p for p in about["params"]]
            given = [p for p in inspect.signature(getattr(ours, name)).parameters if p not in {"more", "kwargs"}]
            wanted = [p for p in params if not p.startswith("*")]
            assert given[: len(wanted)] == wanted, f"{module}.{name}"
    assert facts["utils.segment.metrics"]["constants"] == {"KEYS": metrics.KEYS, "BEST_KEYS": metrics.BEST_KEYS}
