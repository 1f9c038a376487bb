"""The layers of the stack, each prepared through the names that a YOLOv5 clone has, so one text serves both sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from speed_parts import data_layers, model_layers, result_layers
from speed_parts.work import Side, Work


class Layer(NamedTuple):
    """How a layer is timed.

    Attributes:
        prepare: (side, settings) -> work.
        unit: what is counted.
        threads: of torch and OpenCV; 0 leaves the machine's.
        about: one line for the table's legend.
    """

    prepare: Callable[[Side, dict], Work]
    unit: str
    threads: int
    about: str


LAYERS = {
    "scan": Layer(data_layers.scan, "image", 0, "read and check all labels and image headers, no cache"),
    "warm": Layer(data_layers.warm, "image", 0, "open the data set with its label cache in place"),
    "sample-ram": Layer(data_layers.sample_ram, "sample", 1, "mosaic, warp, colour, flip; decoded images in memory"),
    "sample-disk": Layer(data_layers.sample_disk, "sample", 1, "the same from image files"),
    "sample-pool": Layer(data_layers.sample_pool, "sample", 1, "the same, ours with mosaic_pool 8"),
    "sample-device": Layer(
        data_layers.sample_device, "sample", 1, "as sample-ram, ours with colours and flips left to the device"
    ),
    "batch-ram": Layer(data_layers.batch_ram, "image", 1, "batches of 16 from the loader in its own process, collated"),
    "batch-val": Layer(data_layers.batch_val, "image", 1, "validation batches from files, letterboxed"),
    "transfer": Layer(data_layers.transfer, "image", 0, "a batch of bytes to the device and to floats from 0 to 1"),
    "augment": Layer(data_layers.augment, "image", 1, "colours and flips: ours on the device, the peer's on the CPU"),
    "forward": Layer(model_layers.forward, "image", 0, "yolov5n, fused, one 640 x 640 image, no gradient"),
    "forward-batch": Layer(model_layers.forward_batch, "image", 0, "the same, 16 images of 320 x 320"),
    "train-forward": Layer(model_layers.train_forward, "image", 0, "training mode with graph, 8 x 320 x 320"),
    "loss": Layer(model_layers.loss, "batch", 0, "loss forward and backward, 16 x 640 x 640, 189 boxes or so"),
    "loss-static": Layer(model_layers.loss_static, "batch", 0, "the same, ours in the static form, CUDA's default"),
    "backward": Layer(model_layers.backward, "image", 0, "backward pass of the network alone, 8 x 320 x 320"),
    "optimizer": Layer(model_layers.optimizer, "step", 0, "unscale, clip, step, zero, moving average of yolov5n"),
    "step": Layer(model_layers.step, "image", 0, "a whole training step, 8 x 320 x 320"),
    "nms": Layer(result_layers.nms, "image", 0, "suppression at confidence 0.001, IoU 0.6, 16 images of coco128"),
    "ap": Layer(result_layers.average_precision, "prediction", 0, "AP of 300,000 predictions, 80 classes"),
    "match": Layer(result_layers.match, "image", 0, "matching 300 detections with 12 labels, ten thresholds"),
    "confusion": Layer(result_layers.confusion, "image", 0, "the confusion matrix's share of an image"),
}
