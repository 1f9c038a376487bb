"""Timed layers from files to batches."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from speed_parts.work import Side, Work

HYP = {
    "hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4, "degrees": 0.0, "translate": 0.1, "scale": 0.5, "shear": 0.0,
    "perspective": 0.0, "flipud": 0.0, "fliplr": 0.5, "mosaic": 1.0, "mixup": 0.0, "copy_paste": 0.0,
}  # fmt: skip
SAMPLES, BATCH = 64, 16


def scan(side: Side, settings: dict[str, Any]) -> Work:
    """Read all labels without a cache."""
    data_set = side.module("utils.dataloaders").LoadImagesAndLabels
    images = settings["images"]
    found = data_set(images, 640)
    return Work(
        lambda: data_set(images, 640), len(found), _label_facts(found), before=lambda: remove_caches(images)
    )  # fmt: skip


def warm(side: Side, settings: dict[str, Any]) -> Work:
    """Open a data set whose label cache is there."""
    data_set = side.module("utils.dataloaders").LoadImagesAndLabels
    images = settings["images"]
    found = data_set(images, 640)
    return Work(lambda: data_set(images, 640), len(found), _label_facts(found))


def sample_ram(side: Side, settings: dict[str, Any]) -> Work:
    """Augment samples of images in memory."""
    return _samples(side, settings, cache_images="ram")


def sample_device(side: Side, settings: dict[str, Any]) -> Work:
    """Augment samples of images in memory, on our side without what --augment-on-device leaves to the device."""
    if not side.is_ours:
        return sample_ram(side, settings)
    data = _data_set(side, settings, cache_images="ram")
    data.leave_changes = True
    groups = [range(k, k + BATCH) for k in range(0, SAMPLES, BATCH)]
    return Work(lambda: [data.__getitems__(group) for group in groups], SAMPLES, _label_facts(data))


def sample_disk(side: Side, settings: dict[str, Any]) -> Work:
    """Augment samples of image files."""
    return _samples(side, settings)


def sample_pool(side: Side, settings: dict[str, Any]) -> Work:
    """Augment samples of image files, on our side with partners from the images that a batch decodes anyway."""
    if not side.is_ours:
        return sample_disk(side, settings)
    loader, data = _loader(side, settings, augment=True, hyp={**HYP, "mosaic_pool": 8}, shuffle=True)
    return Work(lambda: [None for _ in loader], len(data), _label_facts(data))


def batch_ram(side: Side, settings: dict[str, Any]) -> Work:
    """Make the batches of one epoch."""
    loader, data = _loader(side, settings, augment=True, hyp=HYP, cache="ram", shuffle=True)
    return Work(lambda: _pass_over(loader, data), len(data), _label_facts(data))


def batch_val(side: Side, settings: dict[str, Any]) -> Work:
    """Make the batches of one validation pass."""
    loader, data = _loader(side, settings, rect=True, pad=0.5)
    total = float(sum(batch[0].float().sum() for batch in loader)) / 1e6
    return Work(lambda: _pass_over(loader, data), len(data), {"megapixel sum": total, **_label_facts(data)})


def transfer(side: Side, settings: dict[str, Any]) -> Work:
    """Bring a batch to the device and to floats."""
    import torch

    device = torch.device(settings["device"])
    images = torch.randint(0, 256, (BATCH, 3, 640, 640), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets, paths = torch.zeros((0, 6)), [""] * BATCH
    if device.type == "cuda":
        images = images.pin_memory()

    def ours() -> Any:
        return side.module("utils.training.engine").images_and_targets((images, targets, paths, None), device)[0]

    def theirs() -> Any:
        return images.to(device, non_blocking=True).float() / 255

    run = ours if side.is_ours else theirs
    return Work(run, BATCH, {"mean": float(run().mean())}, {"bytes": images.numel() * 5})


def augment(side: Side, settings: dict[str, Any]) -> Work:
    """Change the colours of a batch and flip half of it: ours on the device, the peer's one by one on the CPU."""
    import torch

    device, size = torch.device(settings["device"]), settings["imgsz"]
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 3, size, size)).astype(np.uint8)
    facts = {"images": BATCH}
    if not side.is_ours:
        images, change = list(pixels.transpose(0, 2, 3, 1).copy()), side.module("utils.augmentations").augment_hsv

        def one_by_one() -> Any:
            for k, image in enumerate(images):
                change(image, HYP["hsv_h"], HYP["hsv_s"], HYP["hsv_v"])
                np.ascontiguousarray(np.fliplr(image) if k % 2 else image)

        return Work(one_by_one, BATCH, facts)
    part, finish = side.module("utils.data.device_augment"), side.module("utils.data.finish").Finish
    rng = np.random.default_rng(0)
    rows = part.pack([finish.draw(HYP, None, rng) for _ in range(BATCH)]).to(device)
    batch = torch.from_numpy(pixels).to(device)
    return Work(lambda: part.change_images(batch, rows), BATCH, facts)


def remove_caches(images: str) -> None:
    """Delete the label caches of an image folder."""
    labels = Path(images.replace("/images/", "/labels/"))
    for folder in {labels, labels.parent, Path(images).parent}:
        for pattern in ("*.cache", "*.npz", "*.cache.npy"):
            for file in folder.glob(pattern):
                file.unlink()


def _samples(side: Side, settings: dict[str, Any], **more: Any) -> Work:
    data = _data_set(side, settings, **more)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (what the peer draws from)
    return Work(lambda: [data[k] for k in range(SAMPLES)], SAMPLES, _label_facts(data))


def _data_set(side: Side, settings: dict[str, Any], **more: Any) -> Any:
    data_set = side.module("utils.dataloaders").LoadImagesAndLabels
    return data_set(settings["images"], settings["imgsz"], BATCH, augment=True, hyp=HYP, **more)


def _loader(side: Side, settings: dict[str, Any], **more: Any) -> Any:
    create = side.module("utils.dataloaders").create_dataloader
    return create(settings["images"], settings["imgsz"], BATCH, 32, workers=0, **more)


def _pass_over(loader: Any, data: Any) -> None:
    """Make each batch of an epoch once; old loaders never end by themselves."""
    for _ in zip(range(-(-len(data) // BATCH)), loader, strict=False):
        pass


def _label_facts(data: Any) -> dict[str, float]:
    rows = np.concatenate(data.labels)
    return {"images": len(data), "boxes": len(rows), "coordinates": float(rows[:, 1:].sum())}
