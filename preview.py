"""Show what an augmentation recipe does to your own images: a picture of before and after with boxes.

python preview.py --data mydata.yaml --hyp hyp.balanced.yaml --out grid.png
python preview.py --data mydata.yaml --hyp my_recipe.yaml --index 3 17 42 --seed 5

Every row is one training image: as it is, after rare_paste and the album pipelines (when the recipe has any; pasted
objects are marked +), and as a training sample with mosaic, warp, colour and flips.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

FILE = Path(__file__).resolve()
ROOT = FILE.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from utils.errors import InputError, InputErrors, WorkError, run_command  # noqa: E402
from utils.logs import LOGGER, colorstr, setup_logging  # noqa: E402

if TYPE_CHECKING:
    import numpy as np

    from utils.dataset import LoadImagesAndLabels

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MOST_ROWS = 100
GAP = 6  # pixels between cells
TITLE = 22  # pixels of a line of text
GROUND = 245


class Cell(NamedTuple):
    """One picture of the grid: pixels (h, w, 3) BGR, boxes (n, 5) class, xyxy pixels, and a caption."""

    image: np.ndarray
    boxes: np.ndarray
    marked: Sequence[bool]
    title: str


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(description="Show what an augmentation recipe does to your own training images.")
    add = parser.add_argument
    add("--data", type=str, default=ROOT / "data/coco128.yaml", help="data set YAML")
    add("--hyp", type=str, default=ROOT / "data/hyps/hyp.scratch-low.yaml", help="hyperparameter YAML: the recipe")
    add("--out", type=str, default="preview.png", help="picture to write, replaced if it exists")
    add("--count", type=int, default=6, help="images to show, drawn by --seed")
    add("--index", type=int, nargs="+", help="numbers of the images to show instead, from 0")
    add("--seed", type=int, default=0, help="another seed shows other images and other random changes")
    add("--imgsz", "--img", "--img-size", type=int, default=640, help="training image size in pixels")
    add("--cell", type=int, default=400, help="side of each picture of the grid in pixels")
    add("--single-cls", action="store_true", help="treat all classes as one")
    return parser


def check_options(opt: argparse.Namespace) -> None:
    """Raise InputErrors with every option that is out of range."""
    ranges = {"count": (1, MOST_ROWS), "seed": (0, 2**31 - 1), "imgsz": (32, 4096), "cell": (64, 2000)}
    problems = [
        f"--{name} {getattr(opt, name)}: allowed is {low} to {high}"
        for name, (low, high) in ranges.items()
        if not low <= getattr(opt, name) <= high
    ]
    if opt.index and len(opt.index) > MOST_ROWS:
        problems.append(f"--index: {len(opt.index)} images given, allowed are {MOST_ROWS}")
    if Path(opt.out).suffix.lower() not in SUFFIXES:
        problems.append(f"--out {opt.out}: allowed are file names that end in {', '.join(SUFFIXES)}")
    if problems:
        raise InputErrors(problems)


def build_dataset(opt: argparse.Namespace) -> tuple[LoadImagesAndLabels, dict[int, str]]:
    """Return the training images under the recipe, and the class names."""
    from utils.dataset import LoadImagesAndLabels
    from utils.dataset_yaml import check_dataset
    from utils.hyperparameters import Hyperparameters
    from utils.paths import check_yaml

    hyp_file = check_yaml(opt.hyp)
    hyp = Hyperparameters.load(hyp_file)
    facts = check_dataset(check_yaml(opt.data))
    names = {0: "item"} if opt.single_cls and len(facts["names"]) != 1 else dict(facts["names"])
    hyp.validate_for(names, source=str(hyp_file))
    dataset = LoadImagesAndLabels(
        facts["train"], opt.imgsz, augment=True, hyp=hyp, single_cls=opt.single_cls, seed=opt.seed, nc=len(names),
        names=names, require_labels=True, prefix=colorstr("preview: "),
    )  # fmt: skip
    return dataset, names


def choose_images(n: int, count: int, seed: int, index: Sequence[int] | None) -> list[int]:
    """Return the image numbers to show: those asked for, or ``count`` drawn ones."""
    from utils.rng import Stream, make_rng

    if index is None:
        return make_rng(seed, stream=Stream.ORDER).permutation(n)[:count].tolist()
    beyond = [i for i in index if not 0 <= i < n]
    if beyond:
        raise InputError(f"--index {beyond[0]}: allowed is 0 to {n - 1}, the data set has {n} training images")
    return list(index)


def make_row(dataset: LoadImagesAndLabels, i: int, position: int) -> list[Cell]:
    """Return the cells of image ``i``: before, changed alone (where the recipe does that), as a training sample."""
    import numpy as np

    from utils.balance.samplers import Draw
    from utils.boxes import xywhn2xyxy
    from utils.data.training_image import SampleRandomness

    def boxes(labels: np.ndarray, h: int, w: int) -> np.ndarray:
        rows = np.array(labels[:, :5], dtype=np.float64)
        rows[:, 1:] = xywhn2xyxy(rows[:, 1:], w, h)
        return rows

    im = dataset.load_image(i)[0]
    labels = dataset.labels[i]
    title = f"{i}: {Path(dataset.im_files[i]).name}"
    cells = [Cell(im, boxes(labels, *im.shape[:2]), [False] * len(labels), title)]
    if dataset.changes is not None:
        changed = dataset.training_image(i, SampleRandomness(dataset.seed, 0, position))
        title = f"image alone (rare pipeline chance {dataset.changes.chances[i]:.2g})"
        cells.append(Cell(changed.load(), boxes(changed.labels, *changed.hw), changed.pasted.tolist(), title))
    sample, targets, _, _ = dataset[Draw(i, 0, position)]
    pixels = sample.numpy()[::-1].transpose(1, 2, 0)
    rows = boxes(targets[:, 1:].numpy(), *pixels.shape[:2])
    cells.append(Cell(pixels, rows, [False] * len(rows), "training sample"))
    return cells


def draw_cell(cell: Cell, side: int, names: dict[int, str]) -> np.ndarray:
    """Return a cell as (side + title, side, 3) BGR."""
    import cv2
    import numpy as np

    from utils.annotator import Annotator, colors

    h, w = cell.image.shape[:2]
    scale = side / max(h, w)
    size = max(round(w * scale), 1), max(round(h * scale), 1)
    shrinking = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(np.ascontiguousarray(cell.image), size, interpolation=shrinking)
    annotator = Annotator(small, line_width=1, font_size=11, example=names)
    for (number, *box), pasted in zip(cell.boxes.tolist(), cell.marked, strict=True):
        cls = int(number)
        label = f"{'+' if pasted else ''}{names.get(cls, cls)}"
        annotator.box_label([v * scale for v in box], label, colors(cls, bgr=True))
    out = np.full((side + TITLE, side, 3), GROUND, np.uint8)
    drawn = annotator.result()
    out[TITLE : TITLE + drawn.shape[0], : drawn.shape[1]] = drawn
    caption = Annotator(out, line_width=1, font_size=13)
    shown = cell.title
    while caption.text_size(shown)[0] > side - 4 and len(shown) > 2:
        shown = f"…{shown[2:]}"
    caption.text((2, 2), shown, (40, 40, 40))
    return caption.result()


def draw_grid(rows: Sequence[Sequence[Cell]], side: int, names: dict[int, str]) -> np.ndarray:
    """Return the rows of cells as one picture, BGR."""
    import numpy as np

    columns = max(map(len, rows))
    height, width = side + TITLE + GAP, side + GAP
    picture = np.full((len(rows) * height + GAP, columns * width + GAP, 3), GROUND, np.uint8)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            tile = draw_cell(cell, side, names)
            top, left = GAP + y * height, GAP + x * width
            picture[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return picture


def main(opt: argparse.Namespace) -> Path:
    """Draw the grid and return its path."""
    from utils.cv import require_cv2

    require_cv2()
    setup_logging()
    check_options(opt)
    from utils.images import write_image

    dataset, names = build_dataset(opt)
    chosen = choose_images(len(dataset), opt.count, opt.seed, opt.index)
    rows = [make_row(dataset, i, position) for position, i in enumerate(chosen)]
    out = Path(opt.out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_image(out, draw_grid(rows, opt.cell, names))
    except (ValueError, OSError) as error:
        raise WorkError(f"--out {out}: {getattr(error, 'strerror', None) or error}") from None
    LOGGER.info(f"{len(rows)} of {len(dataset)} training images: {colorstr('bold', out)}")
    return out


def run(**kwargs: Any) -> Path:
    """Draw a grid from Python: every option by name, as in ``preview.run(data="my.yaml", hyp="my_hyp.yaml")``."""
    from utils.training.options import apply_keywords

    return main(apply_keywords(build_parser().parse_args([]), kwargs))


if __name__ == "__main__":
    run_command(lambda: main(build_parser().parse_args()))
