"""Measure a classification network on the images of a folder per class.

    python classify/val.py --weights yolov5s-cls.pt --data ../datasets/imagenette160

Images of ``test/`` are measured, else those of ``val/``. Results go to runs/val-cls/exp, exp2, ...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve()
ROOT = FILE.parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # run by path: the project's folder takes the place of classify/
elif str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from utils.errors import InputErrors, run_command  # noqa: E402
from utils.forwarding import forwarding  # noqa: E402
from utils.logs import LOGGER, colorstr, setup_logging  # noqa: E402

# Names that code written against YOLOv5 imports from here.
__getattr__ = forwarding(__name__, {
    "Profile": "utils.helpers",
    "smart_amp_autocast": "utils.torch_utils",
})  # fmt: skip


def run(  # noqa: PLR0913, PLR0917  (inherited signature)
    data: str | Path = ROOT / "../datasets/mnist",
    weights: str | Path | Sequence[str] = ROOT / "yolov5s-cls.pt",
    batch_size: int = 128,
    imgsz: int = 224,
    device: str = "",
    workers: int = 8,
    verbose: bool = False,
    project: str | Path = ROOT / "runs/val-cls",
    name: str = "exp",
    exist_ok: bool = False,
    half: bool = False,
    dnn: bool = False,
    model: Any = None,
    dataloader: Any = None,
    criterion: Any = None,
    pbar: Any = None,
) -> tuple[float, float, float]:
    """Measure weights, or during training a network with its loader.

    The arguments are the command's options; ``model``, ``dataloader``, ``criterion`` ((logits, classes) -> loss) and
    ``pbar`` (a progress bar to go on with) are those of a training run, for which nothing is written.

    Returns:
        Top-1 accuracy, top-5 accuracy, mean loss.

    Raises:
        InputError: an argument, the data set or the weights do not fit; nothing was written.
        WorkError: an image has become unreadable, or an output cannot be written.
    """
    from utils.classification.evaluation import evaluate

    training = model is not None
    if training:
        from utils.classification.networks import names_of

        half &= next(model.parameters()).device.type == "cuda"
        model = (model.half() if half else model.float()).eval()
        result = evaluate(
            model, dataloader, names_of(model), criterion=criterion, half=half, amp=True, bar=pbar
        )  # fmt: skip
    else:
        model, dataloader = _open(data, weights, batch_size, imgsz, device, workers, half, dnn)
        result = evaluate(
            model, dataloader, dict(enumerate(dataloader.dataset.classes)), criterion=criterion, device=model.device,
            half=model.fp16,
        )  # fmt: skip
    if pbar is not None:
        pbar.set_description(f"{pbar.desc[:-36]}{result.loss:>12.3g}{result.top1:>12.3g}{result.top5:>12.3g}")
    if verbose:
        result.log_table()
    if not training:
        _save(result, Path(project) / name, exist_ok, (1, 3, imgsz, imgsz))
    return result.top1, result.top5, result.loss


def _open(  # noqa: PLR0913, PLR0917
    data: str | Path, weights: Any, batch_size: int, imgsz: int, device: str, workers: int, half: bool, dnn: bool
) -> tuple[Any, Any]:
    """Return the network as a DetectMultiBackend and the loader of the measured images."""
    problems = [
        f"--{name} {value}: allowed are whole numbers of at least {least}"
        for name, value, least in (("batch-size", batch_size, 1), ("imgsz", imgsz, 1), ("workers", workers, 0))
        if value < least
    ]
    if problems:
        raise InputErrors(problems)
    from models.backends import DetectMultiBackend
    from utils.classification.folders import find_data, measured_split, scan_split
    from utils.classification.networks import names_of, require_classifier
    from utils.dataloaders import create_classification_dataloader
    from utils.general import check_img_size
    from utils.torch_utils import select_device

    folder = measured_split(find_data(data))
    model = DetectMultiBackend(weights, device=select_device(device, batch_size=batch_size), dnn=dnn, fp16=half)
    require_classifier(model, weights)
    imgsz = check_img_size(imgsz, s=model.stride)
    model.warmup(imgsz=(batch_size, 3, imgsz, imgsz))
    names = names_of(model)
    split = scan_split(folder, [names[c] for c in sorted(names)], colorstr(f"{folder.name}: "), every_class=False)
    loader = create_classification_dataloader(split, imgsz, batch_size, augment=False, workers=workers, shuffle=False)
    return model, loader


def _save(result: Any, folder: Path, exist_ok: bool, shape: tuple[int, ...]) -> None:
    """Make the run folder with the table by class and the confusion matrix, and log the speed."""
    from utils.paths import increment_path

    save_dir = increment_path(folder, exist_ok=exist_ok, mkdir=True)
    result.save(save_dir)
    times = "{:.1f}ms pre-process, {:.1f}ms inference, {:.1f}ms post-process".format(*result.speed)
    LOGGER.info(f"Speed: {times} per image at shape {shape}")
    LOGGER.info(f"Results saved to {colorstr('bold', save_dir)}")


def parse_opt() -> argparse.Namespace:
    """Read the command line."""
    from utils.classification.options import as_switch

    parser = argparse.ArgumentParser(description="Measure a classification network.")
    add = parser.add_argument
    add("--data", type=str, default=ROOT / "../datasets/mnist", help="folder with test/ or val/, or a set's name")
    add("--weights", nargs="+", type=str, default=ROOT / "yolov5s-cls.pt", help="classification model")
    add("--batch-size", type=int, default=128, help="images per step")
    add("--imgsz", "--img", "--img-size", type=int, default=224, help="side of the images in pixels")
    add("--device", default="", help="cpu, or a GPU's number")
    add("--workers", type=int, default=8, help="most loader processes")
    add("--verbose", nargs="?", const=True, default=True, help="list every class; False lists none")
    add("--project", default=ROOT / "runs/val-cls", help="folder of the run folders")
    add("--name", default="exp", help="run folder, numbered when it exists")
    add("--exist-ok", action="store_true", help="use the run folder even if it exists")
    add("--half", action="store_true", help="float16 on CUDA")
    add("--dnn", action="store_true", help="use OpenCV for ONNX files")
    opt = parser.parse_args()
    opt.verbose = as_switch("verbose", opt.verbose)
    return opt


def main(opt: argparse.Namespace) -> None:
    """Run with the command line's options."""
    setup_logging()
    LOGGER.info(colorstr("val: ") + ", ".join(f"{key}={value}" for key, value in vars(opt).items()))
    run(**vars(opt))


if __name__ == "__main__":
    run_command(lambda: main(parse_opt()))
