"""Tell the classes of images, videos, streams or of what is on the screen with a trained classification network.

    python classify/predict.py --weights yolov5s-cls.pt --source image.jpg

Sources are those of detect.py. Results go to runs/predict-cls/exp, exp2, ...
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

FILE = Path(__file__).resolve()
ROOT = FILE.parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # run by path: the project's folder takes the place of classify/
elif str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from utils.errors import InputError, run_command  # noqa: E402
from utils.forwarding import forwarding  # noqa: E402
from utils.logs import LOGGER, colorstr, setup_logging  # noqa: E402
from utils.prediction import can_show, check_options, closing, parse_options, report  # noqa: E402

# Names that code written against YOLOv5 imports from here.
__getattr__ = forwarding(__name__, {
    "Annotator": "utils.annotator",
    "IMG_FORMATS": "utils.images",
    "Profile": "utils.helpers",
    "VID_FORMATS": "utils.images",
})  # fmt: skip

# Options of detect.py that have no meaning for whole images.
NOT_HERE = (
    "--conf-thres", "--class-thres", "--cls-tau", "--iou-thres", "--max-det", "--save-format", "--save-csv",
    "--save-conf", "--save-crop", "--classes", "--agnostic-nms", "--augment", "--line-thickness", "--hide-labels",
    "--hide-conf", "--visualize",
)  # fmt: skip


def run(  # noqa: PLR0913, PLR0917  (inherited signature)
    weights: str | Path | Sequence[str] = ROOT / "yolov5s-cls.pt",
    source: str | Path = ROOT / "data/images",
    data: str | Path = ROOT / "data/coco128.yaml",
    imgsz: int | Sequence[int] = (224, 224),
    device: str = "",
    view_img: bool = False,
    save_txt: bool = False,
    nosave: bool = False,
    update: bool = False,
    project: str | Path = ROOT / "runs/predict-cls",
    name: str = "exp",
    exist_ok: bool = False,
    half: bool = False,
    dnn: bool = False,
    vid_stride: int = 1,
) -> None:
    """Classify a source and write the five likeliest classes of each image.

    The arguments are the command's options; ``imgsz`` is (height, width), equal ones: the middle square of an image is
    scaled to them.

    Raises:
        InputError: a wrong option, file or source; nothing was written.
        WorkError: nothing in the source could be read, or a result could not be written.
    """
    import torch

    from models.backends import DetectMultiBackend
    from utils.augmentations import classify_transforms
    from utils.classification.networks import names_of, require_classifier
    from utils.classification.prediction import ClassWriter, predict_all
    from utils.detection import Clock
    from utils.general import check_img_size
    from utils.outputs.detection_output import OutputOptions
    from utils.paths import increment_path
    from utils.sources import check_source, open_source
    from utils.torch_utils import select_device

    imgsz = [imgsz, imgsz] if isinstance(imgsz, int) else list(imgsz)
    check_options(imgsz, {}, {"vid-stride": vid_stride}, 0)
    if imgsz[0] != imgsz[1]:
        raise InputError(f"--imgsz {imgsz[0]} {imgsz[1]}: allowed is one side, images are squares here")
    source = check_source(str(source))
    model = DetectMultiBackend(weights, device=select_device(device), dnn=dnn, data=data, fp16=half)
    require_classifier(model, weights)
    imgsz = check_img_size(imgsz, s=model.stride)
    dataset = open_source(source, imgsz, model.stride, bool(model.pt), vid_stride, classify_transforms(imgsz[0]))
    images = not nosave and not source.endswith(".txt")
    options = OutputOptions(images=images, txt=save_txt, view=view_img and can_show())
    clock = Clock(model.device)
    with closing(dataset), torch.inference_mode():
        model.warmup(imgsz=(1, 3, *imgsz))  # refuses a size that the file was not made for
        save_dir = increment_path(Path(project) / name, exist_ok=exist_ok, mkdir=True)
        with ClassWriter(save_dir, names_of(model), options) as writer:
            seen = predict_all(model, dataset, writer, clock)
    report(dataset, seen, save_dir, writer, clock, imgsz)
    if update:
        from utils.checkpoint import strip_optimizer

        strip_optimizer(weights if isinstance(weights, (str, Path)) else weights[0])


def parse_opt() -> argparse.Namespace:
    """Read the command line; ``imgsz`` becomes [height, width]."""
    return parse_options(
        "Classify images, videos, streams or the screen.", ROOT / "yolov5s-cls.pt", ROOT / "runs/predict-cls",
        without=NOT_HERE, imgsz=224,
    )  # fmt: skip


def main(opt: argparse.Namespace) -> None:
    """Run with the command line's options."""
    setup_logging()
    LOGGER.info(colorstr("predict: ") + ", ".join(f"{k}={v}" for k, v in vars(opt).items()))
    run(**vars(opt))


if __name__ == "__main__":
    run_command(lambda: main(parse_opt()))
