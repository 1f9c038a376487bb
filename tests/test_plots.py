"""Pictures of batches, labels, curves and runs: what is drawn, at which size, for which inputs."""

import errno
import json
import os
import sys
import threading
import warnings
from inspect import signature

import cv2
import numpy as np
import pytest
import torch

from utils import plots
from utils.annotator import colors
from utils.errors import InputError, MissingFileError, WorkError
from utils.loggers.csv_log import RESULT_COLUMNS
from utils.plotting import curves, label_plots
from utils.plotting.figures import new_figure, shorten, shown_name, style_name
from utils.plotting.label_plots import plot_targets_txt, plot_val_txt
from utils.plotting.run_plots import read_table, smoothed

NAMES = {0: "screw", 1: "$bolt$ of quite a long name, really", 2: "_nut"}


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _size(path):
    return cv2.imread(str(path)).shape[1::-1]


# Batches ---------------------------------------------------------------------------------------------------------


def _has_color(tile, number):
    return (np.abs(tile.astype(int) - colors(number, True)).max(2) < 12).sum() > 20


@pytest.mark.parametrize("largest", [1.0, 255.0], ids=["0-1", "0-255"])
def test_mosaic_places_images_and_boxes(tmp_path, largest):
    """Four images of 64 x 96 in two rows; image 2's box of class 3 lies in the lower left tile alone."""
    images = torch.full((4, 3, 64, 96), 0.4 * largest)
    images[0, 0, 0, 0] = largest
    targets = torch.tensor([[2, 3, 0.5, 0.5, 0.5, 0.5]])
    path = tmp_path / "batch.png"
    plots.plot_images(images, targets, None, path, NAMES)
    picture = cv2.imread(str(path))
    assert picture.shape == (128, 192, 3)
    tiles = [picture[y : y + 64, x : x + 96] for y in (0, 64) for x in (0, 96)]
    assert [_has_color(tile, 3) for tile in tiles] == [False, False, True, False]
    assert np.abs(tiles[2][48, 30].astype(int) - colors(3, True)).max() < 12, "the lower edge, at y = 48"
    assert picture[30, 150].tolist() == [102, 102, 102]


def test_pixel_boxes_below_the_least_confidence_are_left_out(tmp_path):
    images = torch.zeros(1, 3, 100, 100)
    rows = np.array([[0, 0, 50, 50, 40, 40, 0.24], [0, 1, 50, 50, 80, 80, 0.25]])
    plots.plot_images(images, rows, ["a.jpg"], tmp_path / "a.png", ["x", "y"])
    picture = cv2.imread(str(tmp_path / "a.png"))
    assert not _has_color(picture, 0)
    assert _has_color(picture, 1)
    assert np.abs(picture[90, 50].astype(int) - colors(1, True)).max() < 12


def test_large_batches_are_made_smaller_and_cut_to_sixteen(tmp_path):
    plots.plot_images(torch.zeros(20, 3, 640, 640), torch.zeros(0, 6), None, tmp_path / "b.jpg")
    assert _size(tmp_path / "b.jpg") == (1920, 1920)
    plots.plot_images(
        torch.zeros(3, 3, 640, 320), torch.zeros(0, 7), ["ü" * 300] * 3, tmp_path / "c.jpg", threaded=False
    )
    assert _size(tmp_path / "c.jpg") == (640, 1280)


def test_the_batch_itself_is_not_drawn_on(tmp_path):
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    plots.plot_images(images, torch.tensor([[0, 0, 0.5, 0.5, 0.4, 0.4]]), ["a"], tmp_path / "a.jpg", NAMES)
    assert images.sum() == 0


def test_pictures_from_several_threads_are_all_complete(tmp_path):
    def draw(i):
        plots.plot_images(torch.zeros(4, 3, 64, 64), torch.zeros(0, 6), None, tmp_path / f"{i}.jpg", NAMES)
        curves.plot_mc_curve(np.linspace(0, 1, 50), np.ones((2, 50)), tmp_path / f"{i}.png", NAMES)

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {_size(tmp_path / f"{i}.jpg") for i in range(2)} == {(128, 128)}
    assert {_size(tmp_path / f"{i}.png") for i in range(2)} == {(2250, 1500)}


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(WorkError, match=r"nowhere.a.jpg: the picture cannot be written"):
        plots.plot_images(torch.zeros(1, 3, 32, 32), torch.zeros(0, 6), None, tmp_path / "nowhere" / "a.jpg")

    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(WorkError, match="No space left"):
        plots.plot_images(torch.zeros(1, 3, 32, 32), torch.zeros(0, 6), None, tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_output_to_target_by_hand():
    """xyxy 10, 20, 30, 60 is centre (20, 40), size (20, 40)."""
    output = [torch.zeros(0, 6), torch.tensor([[10.0, 20, 30, 60, 0.9, 2], [0, 0, 4, 2, 0.5, 1], [0, 0, 1, 1, 0.1, 0]])]
    rows = plots.output_to_target(output, max_det=2)
    assert rows.dtype == np.float32
    assert rows.tolist() == [[1, 2, 20, 40, 20, 40, pytest.approx(0.9)], [1, 1, 2, 1, 4, 2, 0.5]]
    assert plots.output_to_target([]).shape == (0, 7)


# Labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "nc"), [(0, 1), (2000, 80)], ids=["none", "eighty"])
def test_label_pictures_for_any_number_of_labels(tmp_path, n, nc):
    rng = np.random.default_rng(0)
    labels = np.c_[rng.integers(0, nc, n), rng.random((n, 4))]
    plots.plot_labels(labels, [f"class {i}" for i in range(nc)], tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.jpg", "labels_correlogram.jpg"]
    assert _size(tmp_path / "labels.jpg") == (2000, 2000)


def test_label_pictures_know_classes_without_a_name(monkeypatch):
    named = []
    monkeypatch.setattr(label_plots, "name_ticks", lambda axes, axis, names, fontsize: named.extend(names))
    monkeypatch.setattr(label_plots, "save_figure", lambda *_args: None)
    plots.plot_labels(np.array([[2, 0.5, 0.5, 1, 1]]), ["only one"])
    assert named == [(0, "only one"), (1, "1"), (2, "2")]


def test_hist2d_counts_neighbours():
    x = np.array([0.0, 0, 0, 1])
    assert plots.hist2d(x, x, n=5) == pytest.approx([np.log(3)] * 3 + [0])


def test_old_text_plots(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savetxt("val.txt", np.random.default_rng(0).random((50, 4)) * 600)
    np.savetxt("targets.txt", np.random.default_rng(0).random((50, 4)))
    plot_val_txt()
    plot_targets_txt()
    assert {"hist1d.png", "hist2d.png", "targets.jpg"} <= {p.name for p in tmp_path.iterdir()}


# Curves ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def figures(monkeypatch):
    """Collect the figures instead of writing them."""
    drawn = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path, dpi: drawn.append(figure))
    return drawn


def _legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_precision_recall_legend_names_classes_and_the_mean(figures):
    px = np.linspace(0, 1, 100)
    ap = np.array([[0.5, 0.1], [0.9, 0.1], [0.1, 0.1]])
    curves.plot_pr_curve(px, [1 - px, 1 - px**2, px * 0], ap, names=NAMES)
    long_name = "$bolt$ of quite a long …"
    assert _legend(figures[0]) == ["screw 0.500", f"{long_name} 0.900", "_nut 0.100", "all classes 0.500 mAP@0.5"]
    mean = figures[0].axes[0].get_lines()[-1].get_ydata()
    assert mean == pytest.approx((1 - px + 1 - px**2) / 3)


@pytest.mark.parametrize(("nc", "entries"), [(1, 2), (20, 21), (21, 1), (80, 1)])
def test_from_21_classes_on_the_legend_holds_the_mean_alone(figures, nc, entries):
    px = np.linspace(0, 1, 100)
    curves.plot_pr_curve(px, np.ones((nc, 100)), np.ones((nc, 10)), names=[f"c{i}" for i in range(nc)])
    assert len(_legend(figures[0])) == entries
    assert len(figures[0].axes[0].get_lines()) == nc + 1


def test_curves_without_any_class_say_so(tmp_path, figures):
    curves.plot_pr_curve(np.linspace(0, 1, 9), [], np.zeros((0, 10)))
    curves.plot_mc_curve(np.linspace(0, 1, 9), np.zeros((0, 9)))
    assert [figure.axes[0].texts[0].get_text() for figure in figures] == ["no labelled class"] * 2


def test_metric_curve_names_its_best_confidence(figures):
    """A triangle with its top at 0.4: smoothing keeps the place."""
    px = np.linspace(0, 1, 1001)
    triangle = np.where(px < 0.4, px / 0.4, (1 - px) / 0.6)
    curves.plot_mc_curve(px, np.stack([triangle, triangle]), names=["a", "b"], ylabel="F1")
    text = _legend(figures[0])[-1]
    assert text.startswith("all classes 0.9")
    assert float(text.split()[-1]) == pytest.approx(0.4, abs=0.02)


def test_smoothing_is_the_references(golden):
    from utils.metrics import smooth

    y = np.random.default_rng(0).random(1000)
    assert curves._smooth(y) == pytest.approx(smooth(y, 0.05))


def test_curve_files_have_their_size(tmp_path):
    px = np.linspace(0, 1, 100)
    curves.plot_pr_curve(px, [px], np.ones((1, 10)), tmp_path / "PR_curve.png", {0: "cell"})
    assert _size(tmp_path / "PR_curve.png") == (2250, 1500)


# Confusion matrix ------------------------------------------------------------------------------------------------


def test_columns_are_normalised_and_empty_ones_stay_empty():
    matrix = np.array([[6.0, 0, 1], [2, 0, 3], [0, 0, 0]])
    assert curves.column_normalised(matrix).tolist() == [[0.75, 0, 0.25], [0.25, 0, 0.75], [0, 0, 0]]


def test_confusion_matrix_has_true_below_and_predicted_at_the_left(figures):
    matrix = np.array([[6.0, 0, 1], [2, 0, 3], [2, 0, 0]])
    curves.plot_confusion_matrix(matrix, ["screw", "bolt"], "x.png")
    axes = figures[0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("True", "Predicted")
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [t.get_text() for t in ticks] == ["screw", "bolt", "background"]
    cells = {t.get_position(): t.get_text() for t in axes.texts}
    assert cells == {(0, 0): "0.60", (0, 1): "0.20", (0, 2): "0.20", (2, 0): "0.25", (2, 1): "0.75"}
    curves.plot_confusion_matrix(matrix, ["screw", "bolt"], "x.png", normalize=False)
    assert {t.get_text() for t in figures[1].axes[0].texts} == {"6", "2", "1", "3"}


@pytest.mark.parametrize("nc", [1, 40])
def test_confusion_matrix_of_any_size_even_without_counts(tmp_path, nc):
    curves.plot_confusion_matrix(np.zeros((nc + 1, nc + 1)), [f"name {i}" for i in range(nc)], tmp_path / "m.png")
    width, height = _size(tmp_path / "m.png")
    assert width >= 3000 and height >= 2250


def test_confusion_matrix_numbers_classes_without_names(figures):
    curves.plot_confusion_matrix(np.eye(3), {}, "x.png")
    assert [t.get_text() for t in figures[0].axes[0].get_xticklabels()] == ["0", "1", "background"]


# Runs ------------------------------------------------------------------------------------------------------------


def _results(path, epochs):
    rng = np.random.default_rng(0)
    rows = [[e, *rng.random(13)] for e in range(epochs)]
    lines = [",".join(f"{n:>20}" for n in RESULT_COLUMNS), *(",".join(f"{v:20.5g}" for v in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("epochs", [0, 1, 30])
def test_results_picture_is_2400_by_1200(tmp_path, epochs):
    _results(tmp_path / "results.csv", epochs)
    plots.plot_results(tmp_path / "results.csv")
    assert _size(tmp_path / "results.png") == (2400, 1200)


def test_results_of_a_folder_are_drawn_together(tmp_path):
    _results(tmp_path / "results.csv", 3)
    _results(tmp_path / "results_b.csv", 5)
    plots.plot_results(dir=tmp_path)
    assert (tmp_path / "results.png").exists()


def test_results_with_undefined_values_are_drawn(tmp_path):
    _results(tmp_path / "results.csv", 6)
    text = (tmp_path / "results.csv").read_text().splitlines()
    text[3] = ",".join([f"{2:20}", *[f"{'nan':>20}"] * 12, f"{'inf':>20}"])
    (tmp_path / "results.csv").write_text("\n".join(text))
    plots.plot_results(tmp_path / "results.csv")
    assert (tmp_path / "results.png").exists()


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        (None, MissingFileError, "no such file"),
        ("a,b\n1,2\n", InputError, "2 columns, at least 11 needed"),
        ("a,b\n1,2,3\n", InputError, "row 2 has 3 fields, the header 2"),
        ("a,b\n1,x\n", InputError, "no number"),
    ],
    ids=["missing", "few-columns", "ragged", "text"],
)
def test_bad_result_files_are_named(tmp_path, text, error, match):
    path = tmp_path / "results.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=f"results.csv.*{match}"):
        plots.plot_results(path)


def test_empty_folders_are_named(tmp_path):
    with pytest.raises(MissingFileError, match="no results"):
        plots.plot_results(dir=tmp_path)
    with pytest.raises(MissingFileError, match="no study"):
        plots.plot_val_study(dir=tmp_path)


def test_smoothing_keeps_constants_and_bridges_gaps():
    assert smoothed(np.full(10, 3.0)) == pytest.approx(3)
    assert smoothed(np.array([1.0, np.nan, 1, 1])) == pytest.approx(1)
    assert np.isnan(smoothed(np.full(3, np.nan))).all()


def test_evolution_is_drawn_beside_its_file(tmp_path):
    header = [*(f"metrics/{i}" for i in range(4)), "val/a", "val/b", "val/c", *(f"key{i}" for i in range(7))]
    rng = np.random.default_rng(0)
    rows = [",".join(f"{v:20.5g}" for v in rng.random(14)) for _ in range(9)]
    (tmp_path / "evolve.csv").write_text("\n".join([",".join(header), *rows]) + "\n")
    plots.plot_evolve(tmp_path / "evolve.csv")
    assert (tmp_path / "evolve.png").exists()
    (tmp_path / "evolve.csv").write_text(",".join(header) + "\n")
    with pytest.raises(InputError, match="evolve.csv"):
        plots.plot_evolve(tmp_path / "evolve.csv")


def test_study_is_drawn(tmp_path):
    sizes = list(range(256, 1537, 128))
    np.savetxt(tmp_path / "study_coco_yolov5n.txt", np.random.default_rng(0).random((len(sizes), 10)), fmt="%10.4g")
    plots.plot_val_study(dir=tmp_path, x=sizes)
    assert (tmp_path / "study.png").exists()
    np.savetxt(tmp_path / "study_short.txt", np.zeros((2, 4)))
    with pytest.raises(InputError, match=r"study_short.txt: 4 columns"):
        plots.plot_val_study(tmp_path / "study_coco_yolov5n.txt")


def test_drawing_the_learning_rate_changes_no_scheduler(tmp_path):
    optimizer = torch.optim.SGD([nn_parameter := torch.nn.Parameter(torch.ones(2))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))
    plots.plot_lr_scheduler(optimizer, scheduler, 5, tmp_path)
    assert (tmp_path / "LR.png").exists()
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert scheduler.last_epoch == 0
    assert nn_parameter.tolist() == [1, 1]


# The rest --------------------------------------------------------------------------------------------------------


def test_feature_maps_are_saved(tmp_path):
    plots.feature_visualization(torch.rand(2, 20, 12, 16), "models.common.C3", 4, n=16, save_dir=tmp_path)
    assert np.load(tmp_path / "stage4_C3_features.npy").shape == (20, 12, 16)
    assert (tmp_path / "stage4_C3_features.png").exists()
    plots.feature_visualization([torch.rand(1)], "models.yolo.Detect", 24, save_dir=tmp_path)
    plots.feature_visualization(torch.rand(1, 3, 1, 1), "Pool", 9, save_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_classification_grid_is_saved(tmp_path):
    path = tmp_path / "images.jpg"
    labels = torch.tensor([0, 1, 2])
    assert plots.imshow_cls(torch.zeros(3, 3, 32, 32), labels, labels.flip(0), NAMES, verbose=True, f=path) == path
    assert _size(path)[0] > 100


def test_figures_change_no_global_state(tmp_path):
    import matplotlib as mpl

    pyplot_was_there = "matplotlib.pyplot" in sys.modules

    def state():  # the backend is settled when it is first looked at
        return {key: mpl.rcParams[key] for key in mpl.rcParams if key != "backend"}

    before = state()
    curves.plot_confusion_matrix(np.eye(3), ["螺", "سيارة"], tmp_path / "m.png")
    assert state() == before
    assert "matplotlib.pyplot" not in sys.modules or pyplot_was_there


def test_names_in_figures_are_literal_and_short():
    text = new_figure(2, 2).text(0.5, 0.5, "$x_{1}$")
    style_name(text)
    assert text.get_parse_math() is False
    assert shorten("a  b\n c") == "a b c"
    assert len(shorten("x" * 99)) == 24
    assert shown_name("", 3) == ""


def test_read_table_takes_empty_fields_for_undefined(tmp_path):
    (tmp_path / "t.csv").write_text("a, b\n1,\n\n3,4\n")
    header, table = read_table(tmp_path / "t.csv")
    assert header == ["a", "b"]
    assert np.isnan(table[0, 1]) and table[1].tolist() == [3, 4]


def test_every_name_of_the_contract_is_here(contract):
    facts = json.loads((contract / "api.json").read_text())["utils.plots"]
    old = json.loads((contract / "api_v7.json").read_text())["modules"]["utils.plots"]
    kept = (set(old) | set(facts["absent_at_head"])) - {"profile_idetection"}
    for name in {*facts["functions"], *facts["constants"], *facts["also_importable_from_here"], *kept}:
        assert hasattr(plots, name), name
    for name, fact in facts["functions"].items():
        expected = [p if isinstance(p, str) else p[0] for p in fact["params"]]
        if "*args" not in expected:
            assert list(signature(getattr(plots, name)).parameters)[: len(expected)] == expected, name
