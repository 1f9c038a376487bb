"""Pictures of batches, and every plot under the name YOLOv5 has for it."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from utils.annotator import Annotator, Colors, colors, save_one_box
from utils.boxes import xywh2xyxy, xyxy2xywh
from utils.logs import LOGGER
from utils.metrics import fitness
from utils.plotting.figures import new_figure, save_figure, shown_name, style_name, write_file
from utils.plotting.fonts import drawable_names, drawable_text, load_font, name_table
from utils.plotting.label_plots import hist2d, plot_labels, plot_targets_txt, plot_val_txt
from utils.plotting.run_plots import (
    butter_lowpass_filtfilt,
    plot_evolve,
    plot_lr_scheduler,
    plot_results,
    plot_val_study,
)
from utils.safe_write import make_whole

__all__ = (
    "LOGGER",
    "RANK",
    "Annotator",
    "Colors",
    "butter_lowpass_filtfilt",
    "check_pil_font",
    "colors",
    "feature_visualization",
    "fitness",
    "hist2d",
    "imshow_cls",
    "output_to_target",
    "plot_evolve",
    "plot_images",
    "plot_labels",
    "plot_lr_scheduler",
    "plot_results",
    "plot_targets_txt",
    "plot_val_study",
    "plot_val_txt",
    "save_one_box",
    "xywh2xyxy",
    "xyxy2xywh",
)

_OWNERS = {  # YOLOv5 offers these names here as well
    "TryExcept": "utils",
    "profile_idetection": "utils.plotting.idetection",
    "threaded": "utils",
}

RANK = int(os.getenv("RANK", "-1"))
LARGEST_MOSAIC = 1920  # pixels of the longer side
MOST_IMAGES = 16
LEAST_CONFIDENCE = 0.25
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def __getattr__(name: str) -> Any:
    """Fetch a name that belongs to another module when it is asked for."""
    if name not in _OWNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_OWNERS[name]), name)


def check_pil_font(font: str = "Arial.ttf", size: int = 10) -> object:
    """Return a PIL font of a size in pixels: the named one where it is installed, else DejaVu Sans."""
    return load_font(drawable_text("abc", font)[1], size)


def output_to_target(output: Sequence[torch.Tensor], max_det: int = 300) -> np.ndarray:
    """Turn detections into the form that plot_images draws.

    Args:
        output: per image (n, 6 or more): xyxy in pixels, confidence, class.
        max_det: most detections kept per image.

    Returns:
        (n, 7) float32: image, class, cx, cy, w, h in pixels, confidence.
    """
    rows = [torch.zeros(0, 7)]
    for i, detections in enumerate(output):
        kept = detections[:max_det].detach().float().cpu()
        image = torch.full((len(kept), 1), float(i))
        rows.append(torch.cat((image, kept[:, 5:6], xyxy2xywh(kept[:, :4]), kept[:, 4:5]), 1))
    return torch.cat(rows).numpy()


def _as_rgb_batch(images: torch.Tensor | np.ndarray) -> np.ndarray:
    """Return images (bs, 3, h, w), 0-1 or 0-255, as (bs, h, w, 3) uint8."""
    if isinstance(images, torch.Tensor):
        images = images.detach().cpu()
        images = (images if images.dtype == torch.uint8 else images.float()).numpy()
    batch = np.asarray(images)
    if batch.dtype != np.uint8 and batch.size and batch.max() <= 1:
        batch = batch * 255.0
    return np.ascontiguousarray(batch.transpose(0, 2, 3, 1).astype(np.uint8, copy=False))


def _tile_size(batch: np.ndarray, columns: int) -> tuple[int, int]:
    """Return (width, height) of each image (bs, h, w, 3) in a mosaic that keeps to its largest side."""
    height, width = batch.shape[1:3]
    scale = min(LARGEST_MOSAIC / columns / max(height, width), 1.0)
    return max(math.ceil(scale * width), 1), max(math.ceil(scale * height), 1)


def _mosaic(tiles: list[np.ndarray], columns: int, size: tuple[int, int]) -> np.ndarray:
    """Lay tiles (h, w, 3) of one size (width, height) out row by row on white."""
    width, height = size
    picture = np.full((math.ceil(len(tiles) / columns) * height, columns * width, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * height, i % columns * width
        picture[y : y + height, x : x + width] = tile
    return picture


def _pixel_boxes(xywh: np.ndarray, size: tuple[int, int], scale: float) -> np.ndarray:
    """Return boxes (n, 4) xywh as xyxy pixels of one tile.

    Args:
        xywh: shares of the image, or pixels of the image before it was scaled (any value above 1.01).
        size: (width, height) of the tile.
        scale: tile width / image width.
    """
    boxes = xywh2xyxy(xywh)
    factor = np.array([*size, *size]) if boxes.size and boxes.max() <= 1.01 else scale
    return boxes * factor


def plot_images(  # noqa: PLR0913 (inherited signature)
    images: torch.Tensor | np.ndarray,
    targets: torch.Tensor | np.ndarray,
    paths: Sequence[str] | None = None,
    fname: str | Path = "images.jpg",
    names: Mapping[int, str] | Sequence[str] | None = None,
    *,
    threaded: bool = False,
) -> None:
    """Save a mosaic of a batch (at most 16 images) with its boxes.

    Args:
        images: (bs, 3, h, w) RGB, 0-1 or 0-255.
        targets: (n, 6) labels image, class, cx, cy, w, h; or (n, 7) with the confidence, drawn from 0.25 on. Boxes are
            shares of the image or pixels.
        paths: file names written on the images.
        fname: the picture's path.
        names: class names.
        threaded: accepted and ignored; the picture is complete when this returns.

    Raises:
        WorkError: the picture cannot be written.
    """
    save_batch(images, targets, paths, fname, names)


def save_batch(  # noqa: PLR0913 (as plot_images, with what masks add)
    images: torch.Tensor | np.ndarray,
    targets: torch.Tensor | np.ndarray,
    paths: Sequence[str] | None,
    fname: str | Path,
    names: Mapping[int, str] | Sequence[str] | None,
    below: Callable[[int, np.ndarray], np.ndarray] | None = None,
) -> None:
    """Do what ``plot_images`` does; ``below`` draws on each image's tile (number, (h, w, 3) RGB) before the boxes."""
    batch = _as_rgb_batch(images[:MOST_IMAGES])
    rows = targets.detach().cpu().float().numpy() if isinstance(targets, torch.Tensor) else np.asarray(targets)
    rows = rows if len(rows) else np.zeros((0, 6))
    columns = max(math.ceil(len(batch) ** 0.5), 1)
    size = _tile_size(batch, columns)
    shown = drawable_names(names)
    tiles = []
    for i, image in enumerate(batch):
        tile = image if size == image.shape[1::-1] else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        tile = tile if below is None else below(i, tile)
        mine = rows[rows[:, 0] == i]
        title = Path(paths[i]).name if paths else ""
        tiles.append(_annotated_tile(tile, mine, size[0] / batch.shape[2], shown, title))
    picture = cv2.cvtColor(_mosaic(tiles, columns, size), cv2.COLOR_RGB2BGR)
    write_file(fname, cv2.imencode(Path(fname).suffix or ".jpg", picture)[1].tobytes())


def _annotated_tile(tile: np.ndarray, rows: np.ndarray, scale: float, names: dict[int, str], title: str) -> np.ndarray:
    """Draw one image's targets, frame and file name.

    Args:
        tile: (h, w, 3) RGB uint8.
        rows: (n, 6 or 7) its targets.
        scale: tile width / image width.
        names: class names by number.
        title: the file name, or ''.
    """
    height, width = tile.shape[:2]
    largest = max(height, width)
    annotator = Annotator(tile, line_width=2 if largest > 300 else 1, font_size=min(max(largest // 30, 10), 22))
    annotator.rectangle((0, 0, width - 1, height - 1), outline=(255, 255, 255), width=2)
    if title:
        _write_title(annotator, title, (4, 4), width - 12)
    _draw_boxes(annotator, rows, _pixel_boxes(rows[:, 2:6], (width, height), scale), names)
    return annotator.result()


def _draw_boxes(annotator: Annotator, rows: np.ndarray, boxes: np.ndarray, names: dict[int, str]) -> None:
    """Draw one image's rows (n, 6 or 7) at their pixel boxes (n, 4) xyxy, the surest last, so on top."""
    has_confidence = rows.shape[1] > 6
    order = np.argsort(rows[:, 6], kind="stable") if has_confidence else range(len(rows))
    for j in order:
        if has_confidence and rows[j, 6] < LEAST_CONFIDENCE:
            continue
        number = int(rows[j, 1])
        label = names.get(number, str(number))
        annotator.box_label(boxes[j], f"{label} {rows[j, 6]:.1f}" if has_confidence else label, colors(number))


def _write_title(annotator: Annotator, title: str, corner: tuple[int, int], width: int) -> None:
    """Write a file name on a dark ground, its start cut off where it is wider than the tile."""
    shown = title
    while annotator.text_size(shown)[0] > width and len(shown) > 2:
        shown = f"…{shown[2:]}"
    text_width, text_height = annotator.text_size(shown)
    annotator.rectangle((*corner, corner[0] + text_width + 3, corner[1] + text_height), fill=(40, 40, 40))
    annotator.text((corner[0] + 2, corner[1]), shown, (235, 235, 235))


def feature_visualization(
    x: torch.Tensor, module_type: str, stage: int, n: int = 32, save_dir: str | Path = Path("runs/detect/exp")
) -> None:
    """Save the feature maps of a layer's first image as one picture, and all of its maps as .npy.

    Args:
        x: (bs, channels, h, w) the layer's output; anything else, such as a detection head's, is passed over.
        module_type: the layer's class, for the file name.
        stage: the layer's number.
        n: most maps drawn.
        save_dir: folder of the files.
    """
    if not isinstance(x, torch.Tensor) or x.dim() != 4 or min(x.shape[2:]) <= 1:
        return
    path = Path(save_dir) / f"stage{stage}_{module_type.rpartition('.')[2]}_features.png"
    maps = x[0].detach().float().cpu().numpy()
    count = min(n, len(maps))
    columns = min(8, count)
    figure = new_figure(columns * 1.5, math.ceil(count / columns) * 1.5 * maps.shape[1] / maps.shape[2])
    grid = figure.subplots(math.ceil(count / columns), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, feature in zip(grid.flat, maps[:count], strict=False):
        axes.imshow(feature)
    LOGGER.info("Saving %s... (%d/%d)", path, count, len(maps))
    save_figure(figure, path, 150)
    make_whole(path.with_suffix(".npy"), lambda part: np.save(part, maps))


@contextlib.contextmanager
def saved_feature_maps(layers: Iterable[torch.nn.Module], folder: Path) -> Iterator[None]:
    """Save what each layer, with its number ``i`` and its ``type``, returns on its first call in this context."""
    folder.mkdir(parents=True, exist_ok=True)

    def save(layer: Any, _: Any, output: Any) -> None:
        feature_visualization(output, layer.type, layer.i, save_dir=folder)
        taken[layer.i].remove()

    taken = {layer.i: layer.register_forward_hook(save) for layer in layers}
    try:
        yield
    finally:
        for handle in taken.values():
            handle.remove()


def imshow_cls(  # noqa: PLR0913 (inherited signature)
    im: torch.Tensor,
    labels: torch.Tensor | None = None,
    pred: torch.Tensor | None = None,
    names: Mapping[int, str] | Sequence[str] | None = None,
    nmax: int = 25,
    verbose: bool = False,
    f: str | Path = Path("images.jpg"),
) -> str | Path:
    """Save a grid of classification images with their true and predicted classes.

    Args:
        im: (bs, 3, h, w) RGB, normalised by ImageNet's mean and deviation.
        labels: (bs,) true classes.
        pred: (bs,) predicted classes.
        names: class names, numbers by default.
        nmax: most images drawn.
        verbose: log the classes.
        f: the picture's path.

    Returns:
        the picture's path.
    """
    table = name_table(names)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    batch = (im[:nmax].detach().cpu().float() * std + mean).clamp(0, 1)
    columns = min(8, max(math.ceil(len(batch) ** 0.5), 1))
    figure = new_figure(columns * 2.2, math.ceil(len(batch) / columns) * 2.4)
    grid = figure.subplots(math.ceil(len(batch) / columns), columns, squeeze=False)
    for i, axes in enumerate(grid.flat):
        axes.axis("off")
        if i >= len(batch):
            continue
        axes.imshow(batch[i].permute(1, 2, 0).numpy())
        classes = [int(v[i]) for v in (labels, pred) if v is not None]
        title = " - ".join(shown_name(table.get(c, str(c)), c) for c in classes)
        color = "black" if len(set(classes)) < 2 else "#b00020"
        style_name(axes.set_title(title, fontsize=8, color=color))
    save_figure(figure, f, 200)
    if verbose:
        for title, values in (("true", labels), ("predicted", pred)):
            if values is not None:
                LOGGER.info("%s: %s", title, " ".join(table.get(int(c), str(int(c))) for c in values[:nmax]))
    return f
