"""Boxes, labels, fonts and crops."""

import logging

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.annotator import Annotator, Colors, claim_file, colors, crop_box, readable_on, save_one_box
from utils.errors import WorkError
from utils.plotting import fonts


def _grey(height=120, width=160):
    return np.full((height, width, 3), 90, np.uint8)


def test_twenty_colours_differ_and_repeat():
    palette = [colors(i) for i in range(20)]
    assert len(set(palette)) == 20
    assert colors(23) == colors(3)
    assert colors(torch.tensor(2.0)) == palette[2]
    assert colors(5, True) == palette[5][::-1]
    assert Colors.hex2rgb("#FF8001") == (255, 128, 1)


def test_first_colours_stay_apart_for_red_green_blind_eyes():
    """With Machado's (2009) full deuteranopia matrix any two of the first six keep a distance of 40 in RGB."""
    deutan = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]])
    seen = np.array([colors(i) for i in range(6)]) @ deutan.T
    distance = np.linalg.norm(seen[:, None] - seen[None], axis=2) + 999 * np.eye(6)
    assert distance.min() > 40


@pytest.mark.parametrize("color", [colors(i) for i in range(20)])
def test_label_text_contrasts_with_its_ground(color):
    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(color), luminance(readable_on(color))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 3.0


@pytest.mark.parametrize("pil", [False, True])
def test_box_and_label_are_drawn_above_the_box(pil):
    im = _grey()
    annotator = Annotator(im, line_width=2, pil=pil)
    annotator.box_label([40, 50, 100, 100], "bolt 0.90", (10, 200, 30))
    result = annotator.result()
    assert result.shape == im.shape
    assert tuple(result[75, 40]) == (10, 200, 30), "left edge"
    assert tuple(result[75, 70]) == (90, 90, 90), "inside stays"
    above = result[30:49, 41:110].reshape(-1, 3)
    assert (above == (10, 200, 30)).all(1).mean() > 0.4, "label ground"
    assert (above.max(1) < 60).any() or (above.min(1) > 220).any(), "label text"


def test_a_numpy_image_is_drawn_in_place_and_a_view_is_copied():
    im = _grey()
    assert Annotator(im).im is im
    reverse = im[..., ::-1]
    annotator = Annotator(reverse)
    annotator.box_label([10, 10, 50, 50])
    assert (reverse == 90).all()
    assert annotator.result().shape == reverse.shape


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 1), (40, 60, 4)], ids=["grey", "grey-1", "alpha"])
def test_other_channel_counts_become_three(shape):
    annotator = Annotator(np.zeros(shape, np.uint8))
    annotator.box_label([5, 5, 30, 30], "a", (255, 0, 0))
    assert annotator.result().shape == (40, 60, 3)


@given(
    box=st.tuples(*[st.floats(-1e4, 1e4)] * 4),
    label=st.text(max_size=30),
    pil=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_box_and_text_can_be_drawn(box, label, pil):
    x1, y1, x2, y2 = box
    annotator = Annotator(_grey(40, 50), pil=pil)
    annotator.box_label((min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), label, (1, 2, 3))
    assert annotator.result().shape == (40, 50, 3)


def test_labels_stay_inside_the_image():
    """A label at the right or upper border moves in: its whole text can be read."""
    blank = np.zeros((100, 200, 3), np.uint8)
    annotator = Annotator(blank, line_width=1, font_size=12)
    width, height = annotator.text_size("coupling 0.55")
    annotator.box_label([190, 0, 199, 30], "coupling 0.55", (0, 0, 255))
    ground = (blank == (0, 0, 255)).all(2)
    ground[:, 189:] = False
    assert ground.any(0).sum() >= width - 12
    assert blank[:height].any()


def test_text_has_the_height_asked_for():
    assert 12 <= Annotator(_grey(), font_size=12).text_size("Ag")[1] <= 18
    assert Annotator(_grey(), font_size=24).text_size("Ag")[1] > 24


# Fonts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def said(monkeypatch, caplog):
    monkeypatch.setattr(fonts, "_said", set())
    monkeypatch.setattr(logging.getLogger("yolov5"), "propagate", True)
    caplog.set_level(logging.WARNING, "yolov5")
    return caplog


@pytest.fixture
def no_system_fonts(monkeypatch):
    monkeypatch.setattr(fonts, "system_fonts", lambda: ())
    fonts.find_font.cache_clear()
    yield
    fonts.find_font.cache_clear()


def test_default_font_comes_with_matplotlib():
    assert fonts.default_font().endswith("DejaVuSans.ttf")
    assert fonts.find_font("screw 0.9", "Arial.ttf") == fonts.default_font()
    assert fonts.can_draw(fonts.default_font(), "Größe ñ Ж α")
    assert not fonts.can_draw(fonts.default_font(), "螺")


def test_names_without_a_font_become_numbers_said_once(said, no_system_fonts):
    names = ["screw", "螺栓", "联轴器"]
    assert fonts.drawable_names(names) == {0: "screw", 1: "class 1", 2: "class 2"}
    assert fonts.drawable_names(dict(enumerate(names)))[2] == "class 2"
    assert [record.getMessage().count("classes 1, 2") for record in said.records] == [1]


def test_a_system_font_is_used_where_it_has_the_letters(monkeypatch):
    monkeypatch.setattr(fonts, "system_fonts", lambda: ("a.ttf", "cjk.ttc"))
    monkeypatch.setattr(fonts, "_draws", lambda path, c: path == "cjk.ttc" or ord(c) < 128)
    fonts.find_font.cache_clear()
    assert fonts.find_font("螺 3") == "cjk.ttc"
    assert fonts.find_font("bolt") == fonts.default_font()
    fonts.find_font.cache_clear()


def test_annotator_replaces_an_undrawable_name_by_its_number(said, no_system_fonts):
    annotator = Annotator(_grey(), example={0: "screw", 7: "联 轴"})
    assert annotator._shown("联 轴 0.52") == "class 7 0.52"
    assert annotator._shown("screw 0.52") == "screw 0.52"
    assert fonts.drawable_text("联x")[0] == "?x"


def test_an_unknown_font_is_said_and_replaced(said):
    assert fonts.find_font("abc", "NoSuchFont-17.ttf") == fonts.default_font()
    assert "NoSuchFont-17.ttf" in said.text


def test_right_to_left_text_needs_shaping(monkeypatch):
    assert fonts.is_right_to_left("سيارة") and not fonts.is_right_to_left("Größe")
    monkeypatch.setattr(fonts, "_shapes_text", lambda: False)
    assert not fonts.can_draw(fonts.default_font(), "سيارة")


# Crops -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gain", "pad", "square", "expected"),
    [
        (1.0, 0, False, [10, 20, 50, 40]),
        (1.0, 10, False, [5, 15, 55, 45]),
        (1.5, 0, False, [0, 15, 60, 45]),
        (1.0, 0, True, [10, 10, 50, 50]),
        (1.02, 10, True, [4, 4, 55, 55]),
    ],
)
def test_crop_box_by_hand(gain, pad, square, expected):
    """Box 10-50 by 20-40, centre (30, 30): size times gain plus pad about the centre, cut to whole pixels."""
    assert crop_box(torch.tensor([10.0, 20, 50, 40]), (100, 100, 3), gain, pad, square) == expected


def test_crop_box_keeps_to_the_image():
    assert crop_box(torch.tensor([[-20.0, 5, 300, 90]]), (60, 80), 1.0, 0, False) == [0, 5, 80, 60]


def test_crops_have_the_reference_shapes(golden):
    facts, arrays = golden("autoshape")
    sizes = {"0": (426, 640, 3), "1": (640, 480, 3)}
    shapes = []
    for image, size in sizes.items():
        for row in arrays[f"paths_640/xyxy/{image}"]:
            x1, y1, x2, y2 = crop_box(torch.tensor(row[:4]), size, 1.02, 10, False)
            shapes.append([y2 - y1, x2 - x1, 3])
    assert sorted(shapes) == sorted(facts["crop_save_false"]["im_shapes"])


def test_crop_is_saved_in_its_colours_and_repeats_are_numbered(tmp_path):
    rgb = np.zeros((60, 60, 3), np.uint8)
    rgb[..., 0] = 200
    file = tmp_path / "crops" / "bolt" / "a.b.png"
    crop = save_one_box(torch.tensor([10.0, 10, 40, 30]), rgb, file)
    assert crop[0, 0].tolist() == [0, 0, 200], "BGR is returned"
    same = save_one_box(torch.tensor([10.0, 10, 40, 30]), crop, file, BGR=True)
    save_one_box(torch.tensor([10.0, 10, 40, 30]), rgb, file, save=False)
    assert sorted(p.name for p in file.parent.iterdir()) == ["a.b-2.jpg", "a.b.jpg"]
    for name in ("a.b.jpg", "a.b-2.jpg"):
        saved = cv2.imread(str(file.parent / name))
        assert abs(saved.astype(int) - [0, 0, 200]).max() <= 3, name
    assert same.shape[2] == 3


def test_thousands_of_crops_find_a_free_number_quickly(tmp_path):
    names = [claim_file(tmp_path / "f.jpg").name for _ in range(40)]
    assert names[:3] == ["f.jpg", "f-2.jpg", "f-3.jpg"]
    assert len(set(names)) == 40


def test_a_crop_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "crops").write_text("a file, no folder")
    with pytest.raises(WorkError, match=r"crops.*cannot be written"):
        save_one_box(torch.tensor([0.0, 0, 9, 9]), _grey(), tmp_path / "crops" / "x.jpg")
