"""The built-in data set ``parts``: screws, bolts, nuts, washers and couplings, drawn when they are first needed.

    python -m utils.parts --out ../datasets/parts-even --train 400 --val 120 --imbalance 0
    python -m utils.parts --pictures data/images

The same arguments give the same label files on every machine, and the same pictures with the same OpenCV. A data set
is drawn into a hidden folder beside its place and renamed when it is whole: a folder that exists is complete, and one
that holds anything else is never touched.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from utils.errors import InputError, WorkError, run_command
from utils.logs import LOGGER, TQDM_BAR_FORMAT, setup_logging
from utils.parts_drawing import settings
from utils.parts_drawing.plan import MISTAKEN_FOR, SPLITS, Recipe, class_counts, mislabelled, plan_classes, split_plan
from utils.parts_drawing.scene import Picture, draw_scene
from utils.parts_drawing.settings import CLASS_NAMES
from utils.rng import make_rng

__all__ = ["Recipe", "class_counts", "draw_scene", "ensure_dataset", "generate", "main", "plan_classes"]

GENERATOR = "parts"
MARKER = "parts.json"
PARTIAL_SUFFIX = ".partial"
REDRAWS = 20
FEWEST_FOR_WORKERS = 24
MOST_WORKERS = 16
PROJECT = Path(__file__).resolve().parents[1]


def draw_whole(seed: int, index: int, classes: Sequence[int], lookalike: float = settings.LOOKALIKE) -> Picture:
    """Draw picture ``index`` so that every part asked for is visible enough to be labelled.

    Raises:
        WorkError: no arrangement was found.
    """
    for attempt in range(REDRAWS):
        picture = draw_scene(make_rng(seed, attempt, index), classes, lookalike=lookalike)
        if len(picture.classes) == len(classes):
            return picture
    raise WorkError(f"parts: no room for {len(classes)} parts in picture {index} of seed {seed}")


def label_text(classes: np.ndarray, xywhn: np.ndarray) -> str:
    """Return a label file's text: ``class cx cy w h`` a line, (n,) classes and (n, 4) normalised boxes."""
    lines = (f"{int(c)} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for c, (x, y, w, h) in zip(classes, xywhn, strict=True))
    return "".join(lines)


def outline_text(classes: np.ndarray, outlines: Sequence[np.ndarray]) -> str:
    """Return a label file's text: ``class x1 y1 x2 y2 ...`` a line, (n,) classes and n normalised outlines."""
    pairs = zip(classes, outlines, strict=True)
    return "".join(f"{int(c)} {' '.join(f'{v:.5f}' for v in points.ravel())}\n" for c, points in pairs)


def jpeg_bytes(image: np.ndarray, quality: int = settings.JPEG_QUALITY) -> bytes:
    """Return a (H, W, 3) uint8 BGR image as JPEG."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _draw_share(folder: Path, recipe: Recipe, share: int, shares: int) -> Iterator[int]:
    """Draw every ``shares``-th picture from ``share`` on into a folder; yield 1 for each."""
    for split in SPLITS:
        plan = split_plan(recipe, split)
        wrong = mislabelled(recipe, plan) if split == "train" else {}
        for index in range(share, len(plan), shares):
            picture = draw_whole(recipe.seed + SPLITS.index(split), index, plan[index], recipe.lookalike)
            classes = picture.classes.copy()
            for position in wrong.get(index, ()):
                classes[position] = MISTAKEN_FOR[int(classes[position])]
            text = (
                outline_text(classes, picture.outlines()) if recipe.outlines else label_text(classes, picture.xywhn())
            )
            (folder / "labels" / split / f"{index:05d}.txt").write_bytes(text.encode())
            (folder / "images" / split / f"{index:05d}.jpg").write_bytes(jpeg_bytes(picture.image))
            yield 1


def _count_lines(stream: Iterator[str], counted: queue.SimpleQueue[int]) -> None:
    for _ in stream:
        counted.put(1)
    counted.put(0)


def _draw_with_workers(folder: Path, recipe: Recipe, workers: int) -> Iterator[int]:
    """Draw with processes of our own; each writes a line per picture and stops when nobody reads them any more.

    They are plain commands: nothing of the calling program is copied or imported again.
    """
    path = os.pathsep.join(filter(None, (str(PROJECT), os.environ.get("PYTHONPATH"))))
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    counted: queue.SimpleQueue[int] = queue.SimpleQueue()
    processes: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryFile("w+") as complaints:
        try:
            for share in range(workers):
                job = json.dumps({"folder": str(folder), "recipe": asdict(recipe), "share": [share, workers]})
                command = [sys.executable, "-m", "utils.parts", "--job", job]
                pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": complaints, "text": True}
                processes.append(subprocess.Popen(command, cwd=PROJECT, env=variables, **pipes))
                threading.Thread(target=_count_lines, args=(processes[-1].stdout, counted), daemon=True).start()
            running = workers
            while running:
                news = counted.get()
                running -= news == 0
                yield from range(1, news + 1)
            if any([process.wait() for process in processes]):  # a list: wait for all of them
                complaints.seek(0)
                reason = (complaints.read().strip().splitlines() or ["a drawing process was ended"])[-1]
                raise WorkError(f"parts: the data set could not be drawn: {reason}")
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _worker(job: str) -> None:
    """Draw one share of a data set, as another process of this module ordered it."""
    order = json.loads(job)
    cv2.setNumThreads(1)
    for _ in _draw_share(Path(order["folder"]), Recipe(**order["recipe"]), *order["share"]):
        sys.stdout.write("1\n")
        sys.stdout.flush()


def _draw_all(folder: Path, recipe: Recipe, name: str) -> None:
    """Draw a whole data set into an empty folder, its marker last."""
    for split in SPLITS:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
    total = recipe.n_train + recipe.n_val
    workers = min(_cores(), MOST_WORKERS, total // (FEWEST_FOR_WORKERS // 2))
    alone = workers < 2 or total < FEWEST_FOR_WORKERS or not sys.executable
    drawn = _draw_share(folder, recipe, 0, 1) if alone else _draw_with_workers(folder, recipe, workers)
    with (
        contextlib.closing(drawn),
        tqdm(total=total, desc=f"Drawing {name}", unit="img", bar_format=TQDM_BAR_FORMAT) as bar,
    ):
        for number in drawn:
            bar.update(number)
    (folder / MARKER).write_text(json.dumps(_description(recipe), indent=2) + "\n", encoding="utf-8")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _description(recipe: Recipe) -> dict[str, object]:
    """Return the marker's content: who drew what, and which training labels are wrong on purpose."""
    plan = split_plan(recipe, "train")
    wrong = [
        {"label": f"labels/train/{image:05d}.txt", "line": position + 1, "true": CLASS_NAMES[plan[image][position]]}
        for image, positions in sorted(mislabelled(recipe, plan).items())
        for position in sorted(positions)
    ]
    counts = {split: dict(zip(CLASS_NAMES, class_counts(recipe, split).tolist(), strict=True)) for split in SPLITS}
    told = asdict(recipe)
    if recipe.lookalike == settings.LOOKALIKE:  # younger than the sets that are about without it
        del told["lookalike"]
    head = {"generator": GENERATOR, "version": settings.VERSION, "recipe": told}
    return {**head, "boxes_before_label_noise": counts, "wrong_labels": wrong}


def _found(root: Path) -> dict[str, object] | None:
    """Return the marker of a complete data set at ``root``, None where nothing is.

    Raises:
        InputError: something else is there, or a data set of another version, or an incomplete one.
    """
    if not root.is_symlink() and not root.exists():
        return None
    if root.is_dir() and not any(root.iterdir()):
        return None
    again = "move or delete the folder to have it drawn again"
    try:
        marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
        version, recipe = marker["version"], Recipe(**marker["recipe"])
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"{root}: exists but is no data set drawn by the parts generator; {again}") from None
    if version != settings.VERSION:
        raise InputError(f"{root}: drawn by version {version} of the parts generator, not {settings.VERSION}; {again}")
    for split in SPLITS:
        for kind, suffix in (("images", ".jpg"), ("labels", ".txt")):
            folder, wanted = root / kind / split, recipe.images(split)
            found = sum(1 for file in folder.glob(f"*{suffix}"))
            if found < wanted:
                raise InputError(f"{folder}: {found} of {wanted} {suffix} files are left; {again}")
    return marker


@contextlib.contextmanager
def _claim(root: Path) -> Iterator[None]:
    """Hold the right to draw at ``root`` against other processes; the system gives it back when this one dies.

    Where locking is unknown (Windows, some network folders) several may draw at once; the rename still lets one win.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path = root.parent / f".{root.name}.lock"
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            LOGGER.info(f"{root}: another process is drawing it, waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            yield
            return
        for leftover in root.parent.glob(f".{root.name}.*{PARTIAL_SUFFIX}"):
            _remove_leftover(leftover)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _remove_leftover(folder: Path) -> None:
    """Remove the folder of a process that was killed; its own workers may write there for one picture more."""
    for _ in range(30):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _draw_and_rename(root: Path, recipe: Recipe) -> None:
    partial = Path(tempfile.mkdtemp(PARTIAL_SUFFIX, f".{root.name}.", root.parent))
    partial.chmod(0o755)
    try:
        _draw_all(partial, recipe, root.name)
        with contextlib.suppress(OSError):
            root.rmdir()  # an empty folder may be in the way; one with files stays
        try:
            partial.rename(root)
        except OSError:
            if _found(root) is None:  # else another process was first: its data set is the same
                raise
    except OSError as error:
        raise WorkError(f"{root}: the data set could not be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def generate(  # noqa: PLR0913
    root: Path | str,
    n_train: int = settings.TRAIN_IMAGES,
    n_val: int = settings.VAL_IMAGES,
    *,
    imbalance: float = 1.0,
    label_noise: float = 0.0,
    seed: int = settings.SEED,
    outlines: bool = False,
    lookalike: float = settings.LOOKALIKE,
) -> None:
    """Draw a data set at ``root``, unless the very same one is there.

    Args:
        root: folder to make; it may exist only when empty or when it holds the same data set.
        n_train: training pictures.
        n_val: validation pictures.
        imbalance: 0 even classes, 1 as uneven as the default set, more is more (see Recipe).
        label_noise: share of training boxes with a wrong class; parts.json lists them.
        seed: of all chance.
        outlines: write outlines as labels, for segmentation.
        lookalike: share of couplings of the kind that passes for a bolt.

    Raises:
        InputError: a setting is out of range, or ``root`` holds something else or cannot be written.
        WorkError: the disk filled up or a drawing process ended.
    """
    recipe = Recipe(n_train, n_val, imbalance, label_noise, seed, outlines, lookalike)
    marker = _make(Path(root), recipe)
    if marker is not None and Recipe(**marker["recipe"]) != recipe:
        raise InputError(
            f"{root}: holds a parts data set with other settings ({marker['recipe']}); choose another folder"
        )


def ensure_dataset(root: Path, outlines: bool = False) -> None:
    """Draw the default data set at ``root`` unless a complete parts data set of any recipe is there.

    Args:
        root: folder to make.
        outlines: draw one with outlines as labels.

    Raises:
        InputError: ``root`` holds something else, another version or an incomplete set, or cannot be written.
        WorkError: the disk filled up or a drawing process ended.
    """
    _make(Path(root), Recipe(outlines=outlines))


def _make(root: Path, recipe: Recipe) -> dict[str, object] | None:
    """Return the marker of the data set found at ``root``, or draw it and return None."""
    root = Path(os.path.abspath(root))
    marker = _found(root)
    if marker is not None:
        return marker
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root.parent).close()
    except OSError as error:
        advice = "the environment variable YOLOv5_DATASETS_DIR names another folder for data sets"
        raise InputError(f"{root.parent}: cannot be written ({error.strerror}); {advice}") from None
    with _claim(root):
        marker = _found(root)
        if marker is None:
            LOGGER.info(f"{root}: drawing {recipe.n_train} training and {recipe.n_val} validation pictures of parts")
            _draw_and_rename(root, recipe)
    return marker


def parse_opt(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog="python -m utils.parts", description="Draw pictures of metal parts.")
    parser.add_argument("--out", type=Path, help="folder of the data set to draw")
    parser.add_argument("--train", type=int, default=settings.TRAIN_IMAGES, help="training pictures")
    parser.add_argument("--val", type=int, default=settings.VAL_IMAGES, help="validation pictures")
    parser.add_argument("--imbalance", type=float, default=1.0, help="0 even classes, 1 as the default set, up to 4")
    parser.add_argument("--label-noise", type=float, default=0.0, help="share of training boxes with a wrong class")
    parser.add_argument("--lookalike", type=float, default=settings.LOOKALIKE, help="share of bolt-like couplings")
    parser.add_argument("--seed", type=int, default=settings.SEED, help="of all chance")
    parser.add_argument("--outlines", action="store_true", help="labels are outlines, for segmentation")
    parser.add_argument("--pictures", type=Path, help="folder for the sample pictures workbench*.jpg")
    parser.add_argument("--sheet", type=Path, help="file for an overview picture with boxes")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.out is options.pictures is options.sheet is options.job is None:
        parser.error("one of --out, --pictures, --sheet is needed")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parse_opt(arguments)
    if options.job is not None:
        _worker(options.job)
        return
    setup_logging()
    if options.out is not None:
        settings_given = {key: getattr(options, key) for key in ("imbalance", "label_noise", "lookalike", "seed")}
        generate(options.out, options.train, options.val, **settings_given, outlines=options.outlines)
    from utils.parts_drawing.gallery import write_pictures, write_sheet

    if options.pictures is not None:
        write_pictures(options.pictures)
    if options.sheet is not None:
        write_sheet(options.sheet)


if __name__ == "__main__":
    run_command(main)
