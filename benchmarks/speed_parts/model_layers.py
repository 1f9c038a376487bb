"""Timed layers of the network: forward, loss, backward, optimizer, whole steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speed_parts.work import Side, Work

STEP_BATCH, STEP_SIZE = 8, 320
GAINS = {
    "box": 0.05, "cls": 0.5, "cls_pw": 1.0, "obj": 1.0, "obj_pw": 1.0, "anchor_t": 4.0, "fl_gamma": 0.0,
    "label_smoothing": 0.0,
}  # fmt: skip


def forward(side: Side, settings: dict[str, Any]) -> Work:
    """Run the fused network on one image."""
    return _inference(side, settings, 1, 640)


def forward_batch(side: Side, settings: dict[str, Any]) -> Work:
    """Run the fused network on a batch."""
    return _inference(side, settings, 16, 320)


def train_forward(side: Side, settings: dict[str, Any]) -> Work:
    """Run the network in training mode."""
    parts = _Training(side, settings)
    out = parts.forward()
    return Work(parts.forward, STEP_BATCH, {"mean": float(out[0].detach().mean())}, {"flops": parts.flops})


def loss(side: Side, settings: dict[str, Any]) -> Work:
    """Compute the loss of given outputs and its gradient."""
    return _loss(_Training(side, settings))


def loss_static(side: Side, settings: dict[str, Any]) -> Work:
    """Compute the same in the form whose shapes depend on shapes alone, which YOLOv5 lacks."""
    return _loss(_Training(side, settings, **({"is_static": True} if side.is_ours else {})))


def _loss(parts: _Training) -> Work:
    """Return the work of a loss and its gradient."""
    import torch

    generator = torch.Generator().manual_seed(1)
    shapes = [(16, 3, 640 // s, 640 // s, 85) for s in (8, 16, 32)]
    outputs = [torch.randn(shape, generator=generator).to(parts.device).requires_grad_() for shape in shapes]
    targets = made_targets(16, 12, 80, generator).to(parts.device)

    def run() -> Any:
        total, items = parts.criterion(outputs, targets)
        return total, items, torch.autograd.grad(total, outputs)

    total, items, gradients = run()
    norm = float(sum(g.double().square().sum() for g in gradients).sqrt())
    check = {"loss": float(total), "box": float(items[0]), "cls": float(items[2]), "gradient": norm}
    values = sum(t.numel() for t in outputs)
    return Work(run, 1, check, {"bytes": values // 85 * 4 * 4 + values * 4})


def backward(side: Side, settings: dict[str, Any]) -> Work:
    """Run the network's backward pass; its forward pass is outside the clock."""
    import torch

    parts = _Training(side, settings)
    state: dict[str, Any] = {}

    def before() -> None:
        parts.optimizer.zero_grad()
        state["out"] = parts.forward()
        state["up"] = [torch.ones_like(out) * 1e-3 for out in state["out"]]

    return Work(
        lambda: torch.autograd.backward(state["out"], state["up"]), STEP_BATCH, {}, {"flops": 2 * parts.flops},
        before=before,
    )  # fmt: skip


def optimizer(side: Side, settings: dict[str, Any]) -> Work:
    """Move the weights and their average once."""
    parts = _Training(side, settings)
    parts.forward_backward()
    gradients = [None if p.grad is None else p.grad.clone() for p in parts.model.parameters()]

    def before() -> None:
        for parameter, gradient in zip(parts.model.parameters(), gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()

    weights = sum(p.numel() for p in parts.model.parameters())
    return Work(parts.move, 1, {}, {"bytes": weights * 4 * 9}, before=before)


def step(side: Side, settings: dict[str, Any]) -> Work:
    """Run whole training steps."""
    parts = _Training(side, settings)

    def run() -> None:
        parts.forward_backward()
        parts.move()

    run()
    return Work(run, STEP_BATCH, {}, {"flops": 3 * parts.flops})


def made_targets(images: int, per_image: int, nc: int, generator: Any) -> Any:
    """Return labels (n, 6) image, class, cx, cy, w, h of boxes from 2 % to 60 % of a side."""
    import torch

    n = images * per_image
    rows = torch.rand((n, 6), generator=generator)
    rows[:, 0] = torch.arange(n) // per_image
    rows[:, 1] = (rows[:, 1] * nc).floor()
    rows[:, 4:] = 0.02 + 0.58 * rows[:, 4:] ** 2
    rows[:, 2:4] = rows[:, 4:] / 2 + rows[:, 2:4] * (1 - rows[:, 4:])
    return rows


class _Training:
    """Network, loss, optimizer and average as the side's own training builds them, in float32."""

    def __init__(self, side: Side, settings: dict[str, Any], **of_loss: Any):
        import torch

        self.device = torch.device(settings["device"])
        self.ours = side.is_ours
        self.model = load(side, settings, fuse=False).train()
        for parameter in self.model.parameters():
            parameter.requires_grad_()
        if self.ours:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.model.hyp, self.model.nc = dict(GAINS), 80
        torch_utils = side.module("utils.torch_utils")
        self.optimizer = torch_utils.smart_optimizer(self.model, "SGD", 1e-5, 0.937, 5e-4)
        self.ema = torch_utils.ModelEMA(self.model)
        self.criterion = side.module("utils.loss").ComputeLoss(self.model, **of_loss)
        generator = torch.Generator().manual_seed(2)
        self.images = torch.rand((STEP_BATCH, 3, STEP_SIZE, STEP_SIZE), generator=generator).to(self.device)
        if self.ours:
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.targets = made_targets(STEP_BATCH, 7, 80, generator).to(self.device)
        self.flops = forward_flops(self.model, self.images)

    def forward(self) -> Any:
        """Return the outputs of the batch, with their graph."""
        return self.model(self.images)

    def forward_backward(self) -> None:
        """Add up the gradients of the batch."""
        total, _ = self.criterion(self.forward(), self.targets)
        total.backward()

    def move(self) -> None:
        """Clip, step, zero, average."""
        from torch import nn

        nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=10.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.model)


def load(side: Side, settings: dict[str, Any], fuse: bool) -> Any:
    """Return the weights' network in float32 on the device."""
    import torch

    attempt = side.module("models.experimental").attempt_load
    return attempt(str(Path(settings["weights"])), device=torch.device(settings["device"]), inplace=True, fuse=fuse)


def forward_flops(model: Any, images: Any) -> float:
    """Return the floating-point operations (two a multiply-add) of the convolutions of one forward pass."""
    import torch
    from torch import nn

    total, hooks = [0.0], []

    def count(layer: nn.Conv2d, _: Any, out: Any) -> None:
        total[0] += 2.0 * out.numel() * layer.weight[0].numel()

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            hooks.append(layer.register_forward_hook(count))
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return total[0]


def _inference(side: Side, settings: dict[str, Any], batch: int, size: int) -> Work:
    """Run the network as the side's backend would: loaded, fused, prepared and called by it."""
    import torch

    device = torch.device(settings["device"])
    backend = side.module("models.backends" if side.is_ours else "models.common").DetectMultiBackend(
        settings["weights"], device=device
    )
    backend.warmup(imgsz=(batch, 3, size, size))
    backend.eval()
    images = torch.rand((batch, 3, size, size), generator=torch.Generator().manual_seed(3)).to(device)

    def run() -> Any:
        with torch.inference_mode():
            return backend(images)

    out = run()
    decoded = out[0] if isinstance(out, (list, tuple)) else out
    flops = forward_flops(backend.model, images)
    return Work(run, batch, {"boxes": float(decoded[..., :4].mean()), "scores": float(decoded[..., 4].sum())},
                {"flops": flops})  # fmt: skip
