"""The training loss: box, objectness and class terms over YOLOv5's target assignment.

Glossary: bs batch size, nl output layers, na anchors per layer, nc classes, no = nc + 5, nt targets, n matches of a
layer; (b, a, gj, gi) image, anchor, grid row, grid column.

A step: match targets; per layer and head, the elements of the loss and the sums that modifiers need; one exchange of
these sums between processes; weights, means, gains. What is off is skipped and changes no bit.

There are two forms of it. One computes on the n matches alone, whose number the host has to know. The static form
computes on all 5·na·nt candidates with a mask: no shape depends on values, so on CUDA the host never waits, and
torch.compile takes it as one graph. It is used where it is supported and, unless asked for, on CUDA alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from utils.balance.class_weights import first_weighted_epoch
from utils.balance.exchange import Sums, as_saved
from utils.balance.head_loss import GivenLoss, HeadLoss, own_loss
from utils.balance.head_modifiers import HardObjects, HeadModifiers
from utils.balance.loss_layers import (
    Batch,
    HeadLayer,
    Layer,
    Scene,
    Terms,
    box_ciou,
    cell_view,
    class_view,
    flat_cells,
    has_spare,
    mean_over,
    only_valid,
    part_of,
    plain_loss,
    product,
    read_cells,
    taken,
    weighing,
    written_cells,
)
from utils.balance.loss_modules import BCEBlurWithLogitsLoss, FocalLoss, QFocalLoss  # noqa: F401  (upstream's place)
from utils.balance.loss_names import class_activation, expanded
from utils.balance.losses import BCELoss, HeadContext, build_head_loss
from utils.balance.row_weights import checked_mode, checked_weights, class_factor
from utils.boxes import bbox_iou  # noqa: F401  (upstream's place)
from utils.target_assignment import LayerMatches, match_layer, owners_of_cells, padded_targets
from utils.torch_utils import de_parallel

LAYER_BALANCE = {3: [4.0, 1.0, 0.4]}  # objectness weight per output layer, finest first
DEFAULT_LAYER_BALANCE = [4.0, 1.0, 0.25, 0.06, 0.02]
BALANCE_MOMENTUM = 0.9999
REFERENCE_STRIDE = 16  # the layer that keeps weight 1 under autobalance
LABEL_WEIGHT = 6  # column of the targets that may hold a weight per label


def smooth_bce(eps: float = 0.1) -> tuple[float, float]:
    """Return the targets of positives and negatives under label smoothing, ``(1 − eps/2, eps/2)``."""
    return 1.0 - 0.5 * eps, 0.5 * eps


smooth_BCE = smooth_bce  # noqa: N816  (the name up to v7.0)


class ComputeLoss:
    """Total loss of a batch, times the batch size.

    Args:
        model: a detection model, whose last layer gives ``na, nc, nl, anchors`` (nl, na, 2, grid units) and ``stride``.
        autobalance: adapt the layers' objectness weights to their losses.
        hyp: hyperparameters, scaled to the model; by default ``model.hyp``.
        class_weights: (nc,) weights of the classes in the class term, numbers or a ClassWeights; None leaves them out.
        class_weights_mode: "row", "pos" or "column", see ``class_factor``; by default ``cls_weights_mode`` of hyp.
        obj_class_weights: multiply the objectness of matched cells, too; by default ``cls_weights_obj`` of hyp.
        class_counts: (nc,) training instances, which some class losses need.
        world_sum: sums a small tensor over all processes. With it, box and class terms are divided by the matches of
            the whole batch, and losses, items and gradients added (not averaged) over the processes are those of one
            process with the whole batch. Every process calls the loss equally often; one whose share of a short batch
            is but a stand-in image sets ``is_filler`` and then adds 0 and counts no image.
        is_static: use the static form where ``supports_static``; by default on CUDA.
    """

    sort_obj_iou = False
    has_static_form = True

    def __init__(  # noqa: PLR0913  (inherited, and what class balance adds by name)
        self,
        model: nn.Module,
        autobalance: bool = False,
        *,
        hyp: Mapping[str, Any] | None = None,
        class_weights: Any = None,  # noqa: ANN401
        class_weights_mode: str | None = None,
        obj_class_weights: bool | None = None,
        class_counts: Tensor | Sequence[float] | None = None,
        world_sum: Callable[[Tensor], Tensor] | None = None,
        is_static: bool | None = None,
    ):
        head = de_parallel(model).model[-1]
        self.device = next(model.parameters()).device
        hyp = de_parallel(model).hyp if hyp is None else hyp
        changes = expanded(hyp)
        self.hyp = {**hyp, **changes} if changes else hyp
        self.na, self.nc, self.nl, self.anchors = head.na, head.nc, head.nl, head.anchors
        self.cp, self.cn = smooth_bce(self.hyp.get("label_smoothing", 0.0))
        self.gr, self.is_filler, self.adapts = 1.0, False, True
        self.autobalance = autobalance
        strides = [int(stride) for stride in head.stride]
        self.ssi = strides.index(REFERENCE_STRIDE) if autobalance and REFERENCE_STRIDE in strides else 0
        self.balance = LAYER_BALANCE.get(self.nl, DEFAULT_LAYER_BALANCE)
        self.world_sum = world_sum
        self._build_heads(class_counts)
        self.class_weights = checked_weights(class_weights, self.nc, self.device)
        self.is_softmax = class_activation(self.hyp) == "softmax"
        self.class_weights_mode = checked_mode(class_weights_mode or self.hyp.get("cls_weights_mode") or "row")
        self.obj_class_weights = bool(
            self.hyp.get("cls_weights_obj") if obj_class_weights is None else obj_class_weights
        )
        self._share: Tensor | None = None
        self.is_static = self.supports_static and (self.device.type == "cuda" if is_static is None else is_static)
        self._form_when_plain, self._compiled = self.is_static, None
        self.set_epoch(0, 1)

    def _build_heads(self, class_counts: Tensor | Sequence[float] | None) -> None:
        cls_hyp = self.hyp if self.nc > 1 else {}  # a single class has no class term
        if class_counts is not None:
            class_counts = torch.as_tensor(class_counts, dtype=torch.float32).clone()  # some losses count on from them
        self._cls_loss = build_head_loss(cls_hyp, "cls", class_counts, self.world_sum, nc=self.nc).to(self.device)
        self._obj_loss = build_head_loss(self.hyp, "obj", None, self.world_sum).to(self.device)
        self.hard = HardObjects.from_hyp(self.hyp)
        self.cls_modifiers, self.obj_modifiers = (
            HeadModifiers(hyp, name, self.nl, not isinstance(loss, BCELoss)).to(self.device)
            for hyp, name, loss in ((cls_hyp, "cls", self._cls_loss), (self.hyp, "obj", self._obj_loss))
        )

    @property
    def supports_static(self) -> bool:
        """Whether these settings have a static form: no modifiers, hard objects or losses with running state."""
        modifies = self.cls_modifiers.is_on or self.obj_modifiers.is_on or self.hard.is_on
        losses = self._cls_loss, self._obj_loss
        has_state = any(loss.state_dict() for loss in losses)
        is_given = any(isinstance(loss, GivenLoss) for loss in losses)
        return self.has_static_form and not (modifies or has_state or is_given)

    @property
    def BCEcls(self) -> Callable[..., Tensor]:  # noqa: N802  (inherited name)
        """The class loss; any (logits, targets) → loss may be put in its place."""
        return own_loss(self._cls_loss)

    @BCEcls.setter
    def BCEcls(self, loss: Callable[..., Tensor]) -> None:  # noqa: N802
        self._cls_loss = self._given(loss)

    @property
    def BCEobj(self) -> Callable[..., Tensor]:  # noqa: N802  (inherited name)
        """The objectness loss; any (logits, targets) → loss may be put in its place."""
        return own_loss(self._obj_loss)

    @BCEobj.setter
    def BCEobj(self, loss: Callable[..., Tensor]) -> None:  # noqa: N802
        self._obj_loss = self._given(loss)

    def _given(self, loss: Callable[..., Tensor]) -> HeadLoss:
        """Return a loss of the caller's as one of a head; with it nothing is padded or compiled."""
        if isinstance(loss, HeadLoss):
            return loss
        self.is_static, self._form_when_plain, self._compiled = False, False, None
        return GivenLoss(loss)

    def compile(self, backend: str = "inductor") -> bool:
        """Compute through torch.compile from now on, if there is a static form and no other process to hear from.

        Args:
            backend: of torch.compile.

        Returns:
            Whether it does. What is kept, saved and resumed is as without, and so is ``for_validation``.
        """
        if self.supports_static and self.world_sum is None:
            self.is_static, self._compiled = True, torch.compile(self._evaluate, backend=backend)
        return self._compiled is not None

    def stop_compiling(self) -> None:
        """Compute as before ``compile``."""
        self.is_static, self._compiled = self._form_when_plain, None

    @property
    def balance(self) -> list[float]:
        """Objectness weight of each layer (further entries are unused); reading waits for the device."""
        return self._balance.tolist()

    @balance.setter
    def balance(self, values: Sequence[float] | Tensor) -> None:
        precise = torch.float32 if self.device.type == "mps" else torch.float64  # which MPS lacks
        self._balance = torch.as_tensor(values, dtype=precise).to(self.device)

    def __call__(self, p: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch.

        Args:
            p: per layer (bs, na, gj, gi, no) raw outputs.
            targets: (nt, 6) image, class, cx, cy, w, h, box 0 to 1; a seventh column weights each label's class term.

        Returns:
            (1,) total times the batch size, and (3,) detached box, obj and cls terms for one image.
        """
        return (self._compiled or self._evaluate)(p, self._seen(targets))

    def _seen(self, targets: Tensor) -> Tensor:
        """Return the targets that the terms are computed from; in the static form few shapes of them occur."""
        targets = targets[:0] if self.is_filler else targets
        return padded_targets(targets) if self.is_static else targets

    def _evaluate(self, p: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a call does, from targets as seen."""
        terms = self._terms(p, targets)
        items = torch.cat((terms.box * self.hyp["box"], terms.obj * self.hyp["obj"], terms.cls * self.hyp["cls"]))
        return items.sum(0, keepdim=True) * terms.batch.images, items.detach()

    def _terms(self, p: Sequence[Tensor], targets: Tensor) -> Terms:
        """Return the terms of a batch without their gains; arguments as of a call, the targets as seen."""
        matches = self._matches(p, targets, self.is_static)
        layers = [self._layer(raw, match, targets) for raw, match in zip(p, matches, strict=True)]
        sums = self._counted(matches, p[0].shape[0])
        with weighing(p[0]):
            asks_edges = bool(self.cls_modifiers.boundary or self.obj_modifiers.boundary)
            scene = Scene.of(targets, p, asks_edges, self.hard)
        classes = [self._class_layer(i, layer, scene, sums) for i, layer in enumerate(layers)] if self.nc > 1 else []
        objects = [self._object_layer(i, layer, scene, sums) for i, layer in enumerate(layers)]
        sums.exchange()
        batch = self._batch(sums, p[0].shape[0])
        lbox = torch.zeros(1, device=p[0].device)
        for layer, rows in zip(layers, batch.rows, strict=True):
            if len(layer.cells):
                lbox = lbox + mean_over(layer.counted(1.0 - layer.iou), rows)
        lcls = self._class_loss(layers, classes, sums, batch)
        lobj = self._object_loss(layers, objects, sums, batch)
        self._learn(sums)
        return Terms(lbox, lobj, lcls, layers, batch)

    # ---- class term
    def _class_layer(self, i: int, layer: Layer, scene: Scene, sums: Sums) -> HeadLayer:
        """Return the class head on layer ``i``, with elements and sums where something modifies them."""
        logits, classes = layer.outputs[:, 5 : 5 + self.nc], layer.match.classes
        targets = torch.full_like(logits, self.cn).scatter_(1, classes[:, None], self.cp)
        head = HeadLayer(logits, targets, HeadContext(classes, layer.iou.detach().clamp(min=0)))
        modifiers, loss = self.cls_modifiers, self._cls_loss
        if not (modifiers.is_on or self.hard.is_on):
            return head
        true_class = torch.zeros_like(targets, dtype=torch.bool).scatter_(1, classes[:, None], True)
        elements = loss.elements(logits, targets, head.context)
        positive = torch.ones_like(elements, dtype=torch.bool) if self.is_softmax else true_class
        head = head._replace(elements=elements, positive=positive)
        with weighing(logits):
            hard = self.hard.of_matches(scene.hard, layer.match.target, head.context.iou)
            view = class_view(layer, head, loss, modifiers, scene.edges and scene.edges[i], hard)
            head = head._replace(weights=modifiers.weights(view))
            modifiers.observe(sums, i, view, head.weights)
            if modifiers.scale is not None:
                modifiers.observe_scale(sums, i, plain_loss(head, loss), elements)
        if modifiers.tversky:
            head = head._replace(overlap=modifiers.overlap(sums, "all", loss.probabilities(logits), true_class))
        return head

    def _class_loss(self, layers: list[Layer], heads: list[HeadLayer], sums: Sums, batch: Batch) -> Tensor:
        """Return the sum of the layers' mean class losses, (1,); 0 for a single class, which has no ``heads``."""
        total = torch.zeros(1, device=layers[0].raw.device)
        if not heads:
            return total
        modifiers = self.cls_modifiers
        scales = modifiers.scale_factors(sums)
        for i, (layer, head) in enumerate(zip(layers, heads, strict=True)):
            if len(layer.cells):
                scale = None if scales is None else scales[i]
                factor = product((self._class_factor(i, layer, head, sums), scale))
                total = total + self._class_mean(layer, head, factor, batch.rows[i])
        if not modifiers.tversky:
            return total
        term = part_of(modifiers.tversky_term("all", sum(head.overlap for head in heads), sums), batch.part)
        return (1.0 - modifiers.tversky) * total + modifiers.tversky * term

    def _class_mean(self, layer: Layer, head: HeadLayer, factor: Tensor | None, rows: Tensor | None) -> Tensor:
        """Return the mean class loss of one layer with n above 0, or this process's part of it.

        Args:
            layer, head: its parts.
            factor: what the elements are multiplied by, broadcast, None for nothing.
            rows: as for ``mean_over``.
        """
        if self._learns:
            weights = (1.0 if factor is None else factor.detach()) / (len(head.logits) if rows is None else rows)
            self._cls_loss.update(head.logits.detach(), head.targets, weights, head.context)
        is_noted = self._share is not None and self._learns and self._cls_loss.has_elements
        if head.elements is None and factor is None and rows is None and not is_noted:
            return self._cls_loss(head.logits, head.targets, head.context)
        elements = head.elements
        if elements is None:
            elements = self._cls_loss.elements(head.logits, head.targets, head.context)
        elements = layer.counted(elements if factor is None else elements * factor)
        if is_noted:
            of_rows = elements.detach().sum(1) / ((len(elements) if rows is None else rows) * elements.shape[1])
            self._share.index_add_(0, layer.match.classes, of_rows)
        return mean_over(elements, rows)

    def _class_factor(self, i: int, layer: Layer, head: HeadLayer, sums: Sums) -> Tensor | None:
        """Return what a layer's class elements are multiplied by, None for nothing."""
        of_classes = of_labels = None
        if self.class_weights is not None and self.weights_in_force:
            mode = "row" if self.is_softmax else self.class_weights_mode
            of_classes = class_factor(self.class_weights, mode, head.logits, head.targets, layer.match.classes)
        if layer.label_weights is not None:
            of_labels = layer.label_weights[:, None]
        return product((self.cls_modifiers.factor(i, head.positive, head.weights, sums), of_classes, of_labels))

    # ---- objectness term
    def _object_layer(self, i: int, layer: Layer, scene: Scene, sums: Sums) -> HeadLayer:
        """Return the objectness head on layer ``i``, with elements and sums where something modifies them."""
        head = HeadLayer(layer.objectness, layer.tobj)
        modifiers, loss = self.obj_modifiers, self._obj_loss
        if not (modifiers.is_on or self.hard.is_on):
            return head
        elements = loss.elements(head.logits, head.targets)
        head = head._replace(elements=elements, positive=layer.tobj > 0)
        with weighing(head.logits):
            hard = self.hard.of_matches(scene.hard, layer.match.target, layer.iou.detach().clamp(min=0))
            view = cell_view(layer, head, loss, modifiers, scene.edges and scene.edges[i], hard)
            head = head._replace(weights=modifiers.weights(view))
            modifiers.observe(sums, i, view, head.weights)
            if modifiers.scale is not None:
                modifiers.observe_scale(sums, i, plain_loss(head, loss), elements)
        if modifiers.tversky:
            probabilities, positive = loss.probabilities(head.logits).view(-1, 1), head.positive.view(-1, 1)
            head = head._replace(overlap=modifiers.overlap(sums, i, probabilities, positive))
        return head

    def _object_loss(self, layers: list[Layer], heads: list[HeadLayer], sums: Sums, batch: Batch) -> Tensor:
        """Return the weighted sum of the layers' objectness losses, (1,), and adapt the weights under autobalance."""
        modifiers = self.obj_modifiers
        scales = modifiers.scale_factors(sums)
        means = [self._object_mean(i, *parts, sums, batch) for i, parts in enumerate(zip(layers, heads, strict=True))]
        stacked = torch.stack(means if scales is None else [m * scales[i] for i, m in enumerate(means)])
        if modifiers.tversky:
            terms = [part_of(modifiers.tversky_term(i, h.overlap, sums), batch.part) for i, h in enumerate(heads)]
            stacked = (1.0 - modifiers.tversky) * stacked + modifiers.tversky * torch.stack(terms)
        return self.objectness_term(stacked, batch.part is not None)

    def _object_mean(self, i: int, layer: Layer, head: HeadLayer, sums: Sums, batch: Batch) -> Tensor:
        """Return the mean objectness loss of one layer, or this process's part of it, ()."""
        factor = self.obj_modifiers.factor(i, head.positive, head.weights, sums)
        if self.obj_class_weights and self.class_weights is not None and self.weights_in_force:
            factor = product((factor, layer.on_cells(self.class_weights[layer.match.classes])))
        elements = head.elements
        if factor is not None:
            elements = (self._obj_loss.elements(head.logits, head.targets) if elements is None else elements) * factor
        if self.obj_modifiers.norm == "pos":
            total = elements.sum() / self.obj_modifiers.positives(i, sums)
            return total if sums.counts else total * 0.0
        mean = self._obj_loss(head.logits, head.targets) if elements is None else elements.mean()
        return mean if batch.part is None else mean * batch.part

    def objectness_targets(self, tobj: Tensor, cells: Tensor, iou: Tensor, owners: Tensor | None = None) -> Tensor:
        """Return ``tobj`` with the IoU of every matched cell; the later of several matches in one cell counts.

        Args:
            tobj: (bs, na, ny, nx) zeros, or flat and with a cell more; filled in place.
            cells: (n,) int64 flat positions in ``tobj``.
            iou: (n,) of the predicted boxes, used detached and from 0.
            owners: (n,) int64 the match that counts in each match's cell; worked out by default.
        """
        iou = iou.detach().clamp(min=0).to(tobj.dtype)
        owners = self._owners(cells, iou, tobj.numel()) if owners is None else owners
        if self.gr < 1:
            iou = (1.0 - self.gr) + self.gr * iou
        tobj.view(-1)[cells] = iou[owners]
        return tobj

    def objectness_term(self, layers: Tensor, is_part: bool = False) -> Tensor:
        """Return the weighted sum of the layers' objectness losses, (1,), and adapt the weights under autobalance.

        Args:
            layers: (nl,) mean loss per layer.
            is_part: they are this process's parts of the means.
        """
        total = (layers * self._balance[: self.nl].to(layers.dtype)).sum(0, keepdim=True)
        if self.autobalance:
            current = self.world_sum(layers.detach().clone()) if is_part else layers.detach()
            balance = self._balance.clone()
            balance[: self.nl] = balance[: self.nl] * BALANCE_MOMENTUM + (1 - BALANCE_MOMENTUM) / current
            self._balance = balance / balance[self.ssi]
        return total

    # ---- targets
    def build_targets(
        self, p: Sequence[Tensor], targets: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor, Tensor, Tensor]], list[Tensor]]:
        """Match targets with anchors and cells.

        Args:
            p: per layer (bs, na, ny, nx, no); only the shapes are used.
            targets: (nt, 6) image, class, cx, cy, w, h, box 0 to 1.

        Returns:
            Per layer: classes (n,); boxes (n, 4) dx dy w h in grid units; (b, a, gj, gi), each (n,); anchors (n, 2).
        """
        matches = self._matches(p, targets)
        indices = [(m.image, m.anchor, m.row, m.column) for m in matches]
        return [m.classes for m in matches], [m.boxes for m in matches], indices, [m.anchors for m in matches]

    def _matches(self, p: Sequence[Tensor], targets: Tensor, is_static: bool = False) -> list[LayerMatches]:
        return [
            match_layer(targets, anchors, (raw.shape[2], raw.shape[3]), self.hyp["anchor_t"], is_static)
            for raw, anchors in zip(p, self.anchors, strict=True)
        ]

    def _layer(self, raw: Tensor, match: LayerMatches, targets: Tensor) -> Layer:
        """Return what the terms need of a layer: outputs and IoU of its matches, and the objectness targets."""
        cells = flat_cells((match.image, match.anchor, match.row, match.column), raw.shape)
        count = raw.numel() // raw.shape[-1]
        objectness, outputs = taken(raw, read_cells(cells, match.valid, count))
        outputs = only_valid(outputs, match.valid)
        iou = box_ciou(outputs[:, :4], match.anchors, match.boxes)
        cells = written_cells(cells, match.valid, count)
        tobj = torch.zeros(count + has_spare(match), device=raw.device)
        owners = self._owners(cells, iou.detach(), tobj.numel())
        if len(cells):
            tobj = self.objectness_targets(tobj, cells, iou, owners)
        tobj = tobj[:count].view(raw.shape[:4])
        has_weights = targets.shape[1] > LABEL_WEIGHT
        label_weights = targets[match.target, LABEL_WEIGHT].to(outputs.dtype) if has_weights else None
        return Layer(raw, objectness, match, cells, owners, outputs, iou, tobj, label_weights)

    def _owners(self, cells: Tensor, iou: Tensor, cell_count: int) -> Tensor:
        return owners_of_cells(cells, cell_count, iou.clamp(min=0) if self.sort_obj_iou else None)

    def _counted(self, matches: list[LayerMatches], images: int) -> Sums:
        """Return the sums of a step, begun with its matches per layer and its images where somebody asks for them."""
        sums = Sums(self.world_sum, not self.is_filler)
        if self.is_static:
            of_images = torch.full((), images, device=matches[0].valid.device)
            sums.add("counts", torch.stack([*(match.valid.sum() for match in matches), of_images]).float())
        elif self.world_sum is not None:
            counts = torch.tensor([*(len(match.target) for match in matches), images], dtype=torch.float32)
            sums.add("counts", counts.to(self.device, non_blocking=True))
        return sums

    def _batch(self, sums: Sums, images: int) -> Batch:
        images = images if sums.counts else 0
        if self.world_sum is None and not self.is_static:
            return Batch(images, None, [None] * self.nl)
        total = sums["counts"]
        rows = total[:-1].clamp(min=1)
        return Batch(images, None, rows) if self.world_sum is None else Batch(total[-1], images / total[-1], rows)

    # ---- state
    def set_epoch(self, epoch: int, epochs: int) -> None:
        """Say which epoch begins, for weights that start later or grow (``cls_weights_start``, ``dyn_epochs``).

        Args:
            epoch: its number, from 0.
            epochs: epochs of the run.
        """
        self.weights_in_force = epoch >= first_weighted_epoch(self.hyp.get("cls_weights_start") or 0, epochs)
        for modifiers in (self.cls_modifiers, self.obj_modifiers):
            modifiers.set_epoch(epoch, epochs)

    def for_validation(self) -> ComputeLoss:
        """Return this loss as one process alone measures it, which changes no state; it shares the state."""
        local = copy.copy(self)
        local.world_sum, local._share = None, None
        local.autobalance = local.adapts = local.is_filler = False
        local.stop_compiling()
        return local

    def track_loss_share(self) -> None:
        """Begin to add up, or begin anew, how much of the class loss each true class makes up."""
        self._share = torch.zeros(self.nc, device=self.device)

    def loss_share(self) -> Tensor | None:
        """Return each class's share of the class loss since ``track_loss_share``, (nc,) on the device; None without it.

        Every process has to call it. Before the first match all shares are 0.
        """
        if self._share is None:
            return None
        total = self._share.clone() if self.world_sum is None else self.world_sum(self._share.clone())
        return total / total.sum().clamp(min=1e-30)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes during training, for an exact resume: numbers, and float32 tensors on the CPU."""
        parts = {name: dict(part.state_dict()) for name, part in self._stateful().items()}
        state: dict[str, Any] = {name: as_saved(part) for name, part in parts.items() if part}
        if self._share is not None:
            state["loss_share"] = self._share.to("cpu", copy=True)
        return {"balance": self.balance, **state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another run's loss with the same settings."""
        self.balance = state["balance"]
        for name, part in self._stateful().items():
            if name in state:
                part.load_state_dict(state[name])
        if "loss_share" in state:
            self._share = state["loss_share"].to(self.device, copy=True)

    def running_tensors(self) -> list[Tensor]:
        """Return the floating-point tensors that training changes in place, so that a bad batch can be undone."""
        found = [t for part in self._stateful().values() for t in part.state_dict().values() if t.is_floating_point()]
        return found if self._share is None else [*found, self._share]

    def _stateful(self) -> dict[str, nn.Module]:
        return {
            "cls_loss": self._cls_loss,
            "obj_loss": self._obj_loss,
            "cls_modifiers": self.cls_modifiers,
            "obj_modifiers": self.obj_modifiers,
        }

    @property
    def _learns(self) -> bool:
        """Whether the running state follows this call: in training, not where gradients are off."""
        return self.adapts and torch.is_grad_enabled()

    def _learn(self, sums: Sums) -> None:
        """Take the step into the running state."""
        if self._learns:
            self.cls_modifiers.absorb(sums)
            self.obj_modifiers.absorb(sums)
            self._cls_loss.step()
