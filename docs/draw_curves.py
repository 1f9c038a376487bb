"""Draw the pictures of docs/class-balance.md from the project's own functions.

python docs/draw_curves.py                # all of them, into docs/pictures
python docs/draw_curves.py focal tversky  # some
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = Path(__file__).resolve().parent / "pictures"
sys.path.insert(0, str(FOLDER.parents[1]))

from utils.balance import attention, base_losses, class_weights, modifiers  # noqa: E402
from utils.balance.image_weights import image_repeat_factors  # noqa: E402

LOGITS = torch.linspace(-6.0, 6.0, 481, dtype=torch.float64)
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")
PLAIN = {"color": "0.55", "linewidth": 2.5, "alpha": 0.7}
SIZE, DPI = (9.0, 3.1), 88  # inches, dots per inch: about 800 pixels wide

Loss = Callable[[Tensor, Tensor], Tensor]  # (logits, targets) -> elementwise


class Curve(NamedTuple):
    """A loss with the targets at which it is drawn."""

    label: str
    loss: Loss
    targets: Sequence[float] = (1.0, 0.0)


def loss_and_slope(loss: Loss, target: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a loss and its derivative by the logit, two (481,) arrays over LOGITS."""
    logits = LOGITS.clone().requires_grad_()
    values = loss(logits, torch.full_like(logits, target))
    (slope,) = torch.autograd.grad(values.sum(), logits)
    return values.detach().numpy(), slope.numpy()


def new_figure(columns: int = 2) -> tuple[Figure, Any]:
    """Return an empty figure and its axes."""
    import matplotlib.pyplot as plt

    return plt.subplots(1, columns, figsize=SIZE, dpi=DPI, layout="constrained")


def loss_figure(curves: Sequence[Curve], highest: float = 3.0) -> Figure:
    """Draw losses and their gradients over p, solid for t = 1, dashed for t = 0, dotted between; BCE in grey."""
    figure, (left, right) = new_figure()
    score = torch.sigmoid(LOGITS).numpy()
    for curve, style in [(Curve("bce", base_losses.bce), PLAIN), *zip(curves, _styles(), strict=False)]:
        for number, target in enumerate(curve.targets):
            values, slope = loss_and_slope(curve.loss, target)
            dashes = "-" if target == 1 else "--" if target == 0 else ":"
            label = curve.label if number == 0 else None
            left.plot(score, values, dashes, label=label, **style)
            right.plot(score, slope, dashes, **style)
    _name(left, "p = σ(z)", "loss", (0, highest))
    _name(right, "p = σ(z)", "gradient dloss/dz")
    left.legend(fontsize=8)
    return figure


def _styles() -> list[dict[str, Any]]:
    return [{"color": colour, "linewidth": 1.5} for colour in COLOURS]


def _name(axes: Axes, x: str, y: str, limits: tuple[float, float] | None = None) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if limits:
        axes.set_ylim(*limits)
    axes.grid(alpha=0.3)


# Base losses ---------------------------------------------------------------------------------------------------------


def draw_focal() -> Figure:
    """Focusing strengths, and alpha."""
    focal = base_losses.sigmoid_focal_loss
    curves = [Curve(f"gamma {g:g}", partial(focal, gamma=g)) for g in (0.5, 1.5, 3.0)]
    return loss_figure([*curves, Curve("gamma 1.5, alpha 0.25", partial(focal, gamma=1.5, alpha=0.25))])


def draw_qfocal() -> Figure:
    """Soft targets."""
    loss = partial(base_losses.quality_focal_loss, gamma=2.0)
    return loss_figure([Curve(f"gamma 2, target {t:g}", loss, (t,)) for t in (1.0, 0.6, 0.3, 0.0)], 2.0)


def draw_varifocal() -> Figure:
    """Positives by their IoU, negatives focused."""
    loss = base_losses.varifocal_loss
    return loss_figure([Curve(f"target {t:g}", loss, (t,)) for t in (1.0, 0.6, 0.3, 0.0)])


def draw_asl() -> Figure:
    """Strengths of the negatives, with and without clip."""
    loss = base_losses.asymmetric_loss
    return loss_figure(
        [
            Curve("gpos 1, gneg 4, clip 0.05", loss),
            Curve("gpos 0, gneg 2, clip 0.05", partial(loss, gamma_pos=0, gamma_neg=2)),
            Curve("gpos 0, gneg 2, clip 0.2", partial(loss, gamma_pos=0, gamma_neg=2, clip=0.2)),
        ]
    )


def draw_biscale() -> Figure:
    """Separate scales."""
    loss = base_losses.biscale_focal_loss
    return loss_figure(
        [
            Curve("spos 1, sneg 1, gpos 1, gneg 2", loss),
            Curve("sneg 0.5, gpos 0", partial(loss, scale_neg=0.5, gamma_pos=0.0)),
            Curve("spos 2, gneg 4", partial(loss, scale_pos=2.0, gamma_neg=4.0)),
        ]
    )


def draw_efl() -> Figure:
    """A class by the ratio g of its gradients."""

    def loss(logits: Tensor, targets: Tensor, ratio: float) -> Tensor:
        gradients = torch.tensor([ratio], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        focus = base_losses.equalized_focus(*gradients, gamma=2.0, scale=4.0)
        return base_losses.equalized_focal_loss(logits[:, None], targets[:, None], focus)[:, 0]

    return loss_figure([Curve(f"gamma 2, scale 4, g {g:g}", partial(loss, ratio=g)) for g in (1.0, 0.5, 0.1)], 4.0)


def draw_seesaw() -> Figure:
    """A negative by how rare its class is, and by the true class's score."""
    figure, (left, right) = new_figure()
    score = torch.sigmoid(LOGITS).numpy()
    for style, (rare, other) in zip(_styles(), ((1.0, 0.0), (0.1, 0.0), (0.01, 0.0), (0.01, -3.0)), strict=False):
        pair = torch.stack((torch.full_like(LOGITS, other), LOGITS), 1).requires_grad_()
        classes, counts = torch.zeros(len(LOGITS), dtype=torch.long), torch.tensor([100.0, 100.0 * rare])
        losses = base_losses.seesaw_loss(pair, torch.zeros_like(pair), classes, counts.double())[:, 1]
        (slope,) = torch.autograd.grad(losses.sum(), pair)
        true = torch.sigmoid(torch.tensor(other)).item()
        label = f"{rare:g} × the true class's boxes, its score {true:.2f}"
        left.plot(score, losses.detach().numpy(), "--", label=label, **style)
        right.plot(score, slope[:, 1].numpy(), "--", **style)
    _name(left, "score of a wrong class", "its loss")
    _name(right, "score of a wrong class", "gradient dloss/dz")
    left.legend(fontsize=8)
    return figure


def draw_logit_adjust() -> Figure:
    """A class by its share of the boxes of the most frequent one."""

    def loss(logits: Tensor, targets: Tensor, share: float) -> Tensor:
        prior = base_losses.log_prior(torch.tensor([1000.0, 1000.0 * share]))[1]
        return base_losses.logit_adjusted_loss(logits, targets, prior)

    return loss_figure([Curve(f"{s:g} × the top class's boxes", partial(loss, share=s)) for s in (0.3, 0.1, 0.01)], 5.0)


def draw_softmax_focal() -> Figure:
    """Over the softmax score of the true class."""
    figure, (left, right) = new_figure()
    pair = torch.stack((LOGITS, torch.zeros_like(LOGITS)), 1)
    targets = torch.tensor([1.0, 0.0], dtype=torch.float64).expand_as(pair)
    score = pair.softmax(1)[:, 0].numpy()
    for gamma, style in zip((0.0, 1.0, 2.0, 5.0), [PLAIN, *_styles()], strict=False):
        logits = pair.clone().requires_grad_()
        values = base_losses.softmax_focal_loss(logits, targets, gamma)[:, 0]
        (slope,) = torch.autograd.grad(values.sum(), logits)
        left.plot(score, values.detach().numpy(), label=f"gamma {gamma:g}", **style)
        right.plot(score, slope[:, 0].numpy(), **style)
    _name(left, "softmax score of the true class", "loss", (0, 4))
    _name(right, "softmax score of the true class", "gradient dloss/dz of that class")
    left.legend(fontsize=8)
    return figure


def draw_bceblur() -> Figure:
    """Widths."""
    loss = base_losses.bce_blur_loss
    return loss_figure([Curve(f"alpha {a:g}", partial(loss, alpha=a)) for a in (0.05, 0.2)])


# Modifiers -----------------------------------------------------------------------------------------------------------


def draw_dynamic() -> Figure:
    """Weight by hardness, and how its strength grows."""
    figure, (left, right) = new_figure()
    hardness = torch.linspace(0, 1, 101)
    for beta, style in zip((0.25, 0.5, 1.0), _styles(), strict=False):
        left.plot(hardness, modifiers.dynamic_weights(hardness, 0.3, beta), label=f"strength {beta:g}", **style)
    left.axhline(1, **PLAIN)
    _name(left, "hardness |t − p|, its mean being 0.3", "weight")
    left.legend(fontsize=8)
    share = np.linspace(0, 1, 101)
    right.plot(share, [modifiers.linear_strength(1.0, s, (0.1, 0.7)) for s in share], color=COLOURS[0])
    _name(right, "share of the run, dyn_epochs [0.1, 0.7]", "strength, in units of cls_dyn")
    return figure


def draw_attention() -> Figure:
    """Weights of six anchors, three of which look alike, at several temperatures."""
    figure, (left, right) = new_figure()
    tokens = torch.tensor([[1.0, 0.0], [0.98, 0.2], [0.95, 0.3], [0.0, 1.0], [-0.3, 0.95], [-1.0, -0.1]])
    hardness = torch.tensor([0.8, 0.7, 0.1, 0.2, 0.1, 0.5])
    place = np.arange(6)
    left.bar(place, hardness.numpy(), color="0.6")
    _name(left, "anchor; 0 to 2 look alike, 3 and 4 as well", "hardness |t − p|", (0, 1))
    for number, temperature in enumerate((0.01, 0.1, 10.0)):
        weights = attention.attention_weights(
            tokens[None], hardness[None], torch.ones(1, 6, dtype=torch.bool), 1.0, temperature
        )[0]
        right.bar(
            place + 0.25 * (number - 1),
            weights.numpy(),
            0.25,
            color=COLOURS[number],
            label=f"temperature {temperature:g}",
        )
    right.axhline(1, **PLAIN)
    _name(right, "anchor", "weight at strength 1")
    right.legend(fontsize=8)
    return figure


def draw_boundary() -> Figure:
    """Weight by the distance to the nearest edge of a box."""
    figure, axes = new_figure(1)
    distance = torch.linspace(0, 6, 121)
    for sigma, style in zip((0.5, 1.0, 2.0), _styles(), strict=False):
        axes.plot(distance, modifiers.boundary_weights(distance**2, 1.0, sigma), label=f"bnd_sigma {sigma:g}", **style)
    _name(axes, "distance of the cell's centre to the nearest box edge, cells", "weight at strength 1", (0.9, 2.1))
    axes.legend(fontsize=8)
    return figure


def draw_hard() -> Figure:
    """The three factors of hard matches."""
    figure, (first, second, third) = new_figure(3)
    iou = torch.linspace(0, 1, 101)
    for power, style in zip((1.0, 2.0), _styles(), strict=False):
        first.plot(iou, modifiers.iou_weights(iou, 1.0, power), label=f"hard_iou_pow {power:g}", **style)
    distance = torch.linspace(0, 5, 101)
    for tau, style in zip((0.5, 1.0, 2.0), _styles(), strict=False):
        weights = modifiers.distance_weights(distance, torch.ones(101), 1.0, tau)
        second.plot(distance, weights, label=f"hard_dist_tau {tau:g}", **style)
    near = torch.arange(0.0, 16.0)
    for most, style in zip((5.0, 10.0), _styles(), strict=False):
        third.plot(near, modifiers.density_weights(near, 1.0, most), label=f"hard_dens_max {most:g}", **style)
    for axes, x in ((first, "IoU of the predicted box"), (second, "distance / √(w·h)"), (third, "objects nearby")):
        _name(axes, x, "weight at strength 1", (0.9, 2.1))
        axes.legend(fontsize=8)
    return figure


def draw_tversky() -> Figure:
    """The term over the Tversky index, and over the score of one positive among three negatives."""
    figure, (left, right) = new_figure()
    index = torch.linspace(0.001, 1, 200)
    sums = torch.stack((index, torch.zeros(200), (1 - index) / 0.3))
    for gamma, style in zip((1.0, 4 / 3, 3.0), _styles(), strict=False):
        left.plot(index, modifiers.focal_tversky(sums, gamma=gamma), label=f"tversky_gamma {gamma:.3g}", **style)
    _name(left, "Tversky index", "(1 − index)^(1/gamma)")
    left.legend(fontsize=8)
    score = torch.linspace(0, 1, 101)
    for a, style in zip((0.3, 0.5, 0.7), _styles(), strict=False):
        sums = torch.stack((score, 1 - score, torch.full_like(score, 3 * 0.2)))
        right.plot(score, modifiers.focal_tversky(sums, a), label=f"tversky_a {a:g}", **style)
    _name(right, "score of one positive beside 3 negatives of 0.2", "Tversky term")
    right.legend(fontsize=8)
    return figure


# Weights and samplers ------------------------------------------------------------------------------------------------


def draw_weights() -> Figure:
    """Weight schemes for a class among others of 1000 boxes, and normalised for three classes."""
    figure, (left, right) = new_figure()
    boxes = np.geomspace(1, 1000, 100)
    schemes = {
        "inverse": class_weights.inverse,
        "sqrt_inverse": class_weights.sqrt_inverse,
        "effective_number, beta 0.99": partial(class_weights.effective_number, beta=0.99),
        "effective_number, beta 0.999": class_weights.effective_number,
    }
    counts = np.array([459, 80, 14])
    for number, (name, scheme) in enumerate(schemes.items()):
        left.loglog(boxes, scheme(boxes) / scheme(np.array([1000.0])), color=COLOURS[number], label=name)
        weights = class_weights.normalise_weights(scheme(counts.astype(float)), counts, "instance")
        right.bar(np.arange(3) + 0.2 * (number - 1.5), weights, 0.2, color=COLOURS[number])
    left.axhline(10, **PLAIN)
    left.text(140, 11.5, "cls_weights_max 10", fontsize=8, color="0.4")
    _name(left, "training boxes of the class", "weight, a class of 1000 boxes being 1")
    right.set_xticks(range(3), [f"{n} boxes" for n in counts])
    right.set_yscale("log")
    right.axhline(1, **PLAIN)
    _name(right, "three classes, norm instance, no maximum", "weight")
    left.legend(fontsize=8)
    return figure


def draw_samplers() -> Figure:
    """Repeat factor of a class by the share of images that hold it."""
    figure, axes = new_figure(1)
    held = np.unique(np.geomspace(1, 1000, 60).astype(int))
    box = np.array([[1, 0.5, 0.5, 0.1, 0.1]])
    other = np.array([[0, 0.5, 0.5, 0.1, 0.1]])
    for t, style in zip((0.001, 0.01, 0.1, 0.5), _styles(), strict=False):
        factors = [
            image_repeat_factors([np.concatenate((other, box))] * n + [other] * (1000 - n), 2, t).classes[1]
            for n in held.tolist()
        ]
        axes.loglog(held / 1000, factors, label=f"sampler_t {t:g}", **style)
    _name(axes, "share of the images that hold the class", "repeat factor")
    axes.legend(fontsize=8)
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "focal": draw_focal,
    "qfocal": draw_qfocal,
    "varifocal": draw_varifocal,
    "asl": draw_asl,
    "biscale": draw_biscale,
    "efl": draw_efl,
    "seesaw": draw_seesaw,
    "logit_adjust": draw_logit_adjust,
    "softmax_focal": draw_softmax_focal,
    "bceblur": draw_bceblur,
    "dynamic": draw_dynamic,
    "attention": draw_attention,
    "boundary": draw_boundary,
    "hard": draw_hard,
    "tversky": draw_tversky,
    "weights": draw_weights,
    "samplers": draw_samplers,
}


def save_small(figure: Figure, path: Path) -> None:
    """Write a PNG of 128 colours, which is a third of the size of one with all."""
    from PIL import Image

    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Write the pictures that the command line names, all of them by default."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *PICTURES], help="pictures to draw")
    parser.add_argument("--out", type=Path, default=FOLDER)
    opt = parser.parse_args()
    opt.out.mkdir(parents=True, exist_ok=True)
    for name in opt.names or PICTURES:
        figure = PICTURES[name]()
        save_small(figure, opt.out / f"{name}.png")
        plt.close(figure)


if __name__ == "__main__":
    main()
