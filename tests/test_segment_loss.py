"""The mask term of the loss: against a plain loop over images, its identities, and detection's terms beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from models.yolo import SegmentationModel
from utils.boxes import xywh2xyxy
from utils.hyperparameters import Hyperparameters
from utils.loss import ComputeLoss as DetectionLoss
from utils.nested import arranged_like, flat_tensors
from utils.segment.general import crop_mask
from utils.segment.loss import ComputeLoss
from utils.training.engine import Engine
from utils.training.schedule import Schedule, linear_lr

LOW = Path(__file__).resolve().parents[1] / "data/hyps/hyp.scratch-low.yaml"
SIZE, NC, NM = 64, 3, 32


@pytest.fixture(scope="module")
def model():
    """Return a small segmentation model with settings."""
    torch.manual_seed(0)
    network = SegmentationModel("yolov5n-seg.yaml", nc=NC)
    network.hyp = {**Hyperparameters.load(LOW).to_dict(), "label_smoothing": 0.0}
    return network


def _batch(seed=0, counts=(2, 0, 3)):
    """Return outputs, targets and masks, one by one and in one map; objects are rectangles that do not overlap."""
    g = torch.Generator().manual_seed(seed)
    raw = [torch.randn(len(counts), 3, s, s, 5 + NC + NM, generator=g) * 0.3 for s in (8, 4, 2)]
    proto = torch.randn(len(counts), NM, SIZE // 4, SIZE // 4, generator=g)
    rows, separate = [], []
    numbers = torch.zeros(len(counts), SIZE // 4, SIZE // 4)
    for image, count in enumerate(counts):
        for k in range(count):
            x, w, h = 0.3 * k + 0.02, 0.25, 0.3 + 0.1 * k
            rows.append([image, k % NC, x + w / 2, 0.1 + h / 2, w, h])
            mask = torch.zeros(SIZE // 4, SIZE // 4)
            mask[2 : 2 + int(h * 16) - k, int(x * 16) + 1 : int((x + w) * 16)] = 1
            separate.append(mask)
            numbers[image] += mask * (k + 1)
    outputs = [level.requires_grad_() for level in raw], proto.requires_grad_()
    return outputs, torch.tensor(rows), torch.stack(separate), numbers


def _by_a_loop(criterion, outputs, targets, masks):
    """Return the mask term by YOLOv5's rule: layer by layer, image by image."""
    p, proto = outputs
    _, _, indices, _, numbers, boxes = criterion.build_targets(p, targets)
    total = torch.zeros(1)
    height, width = proto.shape[2:]
    for level, (b, a, gj, gi), found, xywh in zip(p, indices, numbers, boxes, strict=True):
        coefficients = level[b, a, gj, gi][:, -NM:]
        for image in b.unique().tolist():
            mine = b == image
            numbers_of_masks = found[mine]
            truth = masks[image] == numbers_of_masks[:, None, None] if criterion.overlap else masks[numbers_of_masks]
            logits = (coefficients[mine] @ proto[image].view(NM, -1)).view(-1, height, width)
            losses = F.binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
            corners = xywh2xyxy(xywh[mine]) * torch.tensor([width, height, width, height])
            areas = xywh[mine][:, 2:].prod(1)
            total = total + (crop_mask(losses, corners).mean((1, 2)) / areas).mean()
    return total * criterion.hyp["box"] / len(proto)


@pytest.mark.parametrize("overlap", [False, True])
def test_the_mask_term_is_that_of_a_loop_over_layers_and_images(overlap, model):
    outputs, targets, separate, numbers = _batch()
    criterion = ComputeLoss(model, overlap=overlap)
    masks = numbers if overlap else separate
    total, items = criterion(outputs, targets, masks)
    expected = _by_a_loop(criterion, outputs, targets, masks)
    assert items.shape == (4,) and items[1].item() == pytest.approx(expected.item(), rel=1e-5)
    assert total.item() == pytest.approx(items.sum().item() * 3, rel=1e-6)
    gradients = torch.autograd.grad(total, flat_tensors(outputs), retain_graph=True)
    wanted = torch.autograd.grad(expected * 3, [outputs[1]])[0]
    assert torch.allclose(gradients[-1], wanted, rtol=1e-4, atol=1e-7)


def test_one_map_of_numbers_and_one_mask_each_are_the_same_where_nothing_overlaps(model):
    outputs, targets, separate, numbers = _batch(1)
    one = ComputeLoss(model, overlap=False)(outputs, targets, separate)[0]
    other = ComputeLoss(model, overlap=True)(outputs, targets, numbers)[0]
    assert one.item() == pytest.approx(other.item(), rel=1e-6)


def test_the_other_terms_are_those_of_detection(model):
    outputs, targets, separate, _ = _batch(2)
    box, _, obj, cls = ComputeLoss(model)(outputs, targets, separate)[1].tolist()
    assert [box, obj, cls] == DetectionLoss(model)([*outputs[0]], targets)[1].tolist()


@pytest.mark.parametrize("settings", [{"cls_loss": "focal"}, {"fl_gamma": 1.5}, {"class_weights": [3.0, 1.0, 1.0]}])
def test_balance_changes_the_class_term_as_in_detection_and_not_the_masks(settings, model):
    outputs, targets, separate, _ = _batch(3)
    weights = settings.get("class_weights")
    hyp = {**model.hyp, **({} if weights else settings)}
    plain = ComputeLoss(model)(outputs, targets, separate)[1]
    found = ComputeLoss(model, hyp=hyp, class_weights=weights)(outputs, targets, separate)[1]
    expected = DetectionLoss(model, hyp=hyp, class_weights=weights)([*outputs[0]], targets)[1]
    assert found[[0, 2, 3]].tolist() == expected.tolist()
    assert found[1] == plain[1] and found[3] != plain[3]


def test_masks_of_another_size_are_taken_at_that_of_the_prototypes(model):
    outputs, targets, separate, numbers = _batch(4)
    for overlap, masks in ((False, separate), (True, numbers)):
        criterion = ComputeLoss(model, overlap=overlap)
        twice = F.interpolate(masks[None], scale_factor=2, mode="nearest")[0].to(torch.uint8)
        assert criterion(outputs, targets, twice)[0].item() == pytest.approx(
            criterion(outputs, targets, masks)[0].item(), rel=1e-6
        )


def test_perfect_masks_cost_nothing_and_inverted_ones_much(model):
    """Prototype 0 is the object's mask, +-20 in logits, and every coefficient picks it alone."""
    outputs, targets, separate, _ = _batch(5, (1,))
    raw = [level.detach().clone() for level in outputs[0]]
    for level in raw:
        level[..., -NM:] = 0
        level[..., -NM] = 1
    proto = torch.zeros_like(outputs[1])
    proto[0, 0] = separate[0] * 40 - 20
    criterion = ComputeLoss(model)
    right = criterion((raw, proto), targets, separate)[1][1]
    wrong = criterion((raw, -proto), targets, separate)[1][1]
    assert right.item() < 1e-6 and wrong.item() > 0.5


@pytest.mark.parametrize("is_filler", [False, True])
def test_without_labels_every_output_still_has_a_gradient(is_filler, model):
    outputs, targets, separate, _ = _batch(6)
    criterion = ComputeLoss(model)
    criterion.is_filler = is_filler
    rows = targets if is_filler else targets[:0]
    total, items = criterion(outputs, rows, separate if is_filler else separate[:0])
    assert items[1] == 0 and torch.isfinite(items).all()
    gradients = torch.autograd.grad(total, flat_tensors(outputs))
    assert all(torch.isfinite(g).all() for g in gradients) and not gradients[-1].any()


def test_two_processes_add_up_to_one(model):
    """Images 0 and 1 in one process, 2 in the other: losses, items and gradients are those of the whole batch."""
    outputs, targets, _, numbers = _batch(7)
    whole, items = ComputeLoss(model, overlap=True)(outputs, targets, numbers)
    wanted = torch.autograd.grad(whole, flat_tensors(outputs))
    parts = [slice(0, 2), slice(2, 3)]
    halves = [([level[part] for level in outputs[0]], outputs[1][part]) for part in parts]
    rows = [targets[targets[:, 0] < 2], targets[targets[:, 0] == 2] - torch.tensor([2.0, 0, 0, 0, 0, 0])]
    counted: list[torch.Tensor] = []
    for half, own, part in zip(halves, rows, parts, strict=True):  # what each would tell the other
        ComputeLoss(model, overlap=True, world_sum=lambda x: counted.append(x.clone()) or x)(half, own, numbers[part])
    total = counted[0] + counted[1]
    found = [
        ComputeLoss(model, overlap=True, world_sum=lambda _: total)(half, own, numbers[part])
        for half, own, part in zip(halves, rows, parts, strict=True)
    ]
    assert sum(loss.item() for loss, _ in found) == pytest.approx(whole.item(), rel=1e-5)
    assert sum(part for _, part in found).tolist() == pytest.approx(items.tolist(), rel=1e-5)
    gradients = torch.autograd.grad(sum(loss for loss, _ in found), flat_tensors(outputs))
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_single_mask_loss_is_the_mean_over_objects(model):
    criterion = ComputeLoss(model)
    proto, pred = torch.zeros(NM, 8, 8), torch.ones(2, NM)
    boxes, area = torch.tensor([[0.0, 0, 4, 8], [0, 0, 8, 8]]), torch.tensor([0.5, 1.0])
    loss = criterion.single_mask_loss(torch.zeros(2, 8, 8), pred, proto, boxes, area)
    assert loss.item() == pytest.approx(torch.log(torch.tensor(2.0)).item(), rel=1e-6)  # p = 0.5 everywhere


def test_build_targets_tells_which_label_each_match_is(model):
    outputs, targets, _, _ = _batch(8)
    for overlap in (False, True):
        *_, numbers, boxes = ComputeLoss(model, overlap=overlap).build_targets(outputs[0], targets)
        for found, xywh in zip(numbers, boxes, strict=True):
            assert len(found) == len(xywh)
        assert set(torch.cat(numbers).tolist()) <= ({1, 2, 3} if overlap else set(range(5)))


def test_outputs_are_flattened_and_arranged_again():
    outputs = [torch.zeros(1), torch.ones(2)], torch.full((3,), 2.0)
    flat = flat_tensors(outputs)
    assert [len(t) for t in flat] == [1, 2, 3]
    again = arranged_like(outputs, iter([t + 1 for t in flat]))
    assert isinstance(again, tuple) and isinstance(again[0], list) and again[1].tolist() == [3.0] * 3


def test_a_batch_in_pieces_has_the_gradients_of_the_whole(model):
    """Batch norm, which sees the pieces, is in evaluation mode."""
    outputs, targets, separate, _ = _batch(9, (1, 2, 1, 1))
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(4, 3, SIZE, SIZE, generator=generator)
    criterion = ComputeLoss(model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    schedule = Schedule(linear_lr(10, 1.0), -1, 0.0, 0.0, 0.0, 4)
    optimizer = torch.optim.SGD([{"params": model.parameters(), "initial_lr": 0.0}], lr=0.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    engine = Engine(model, criterion, optimizer, schedule, scaler, None, torch.device("cpu"))
    found = []
    for pieces in (1, 2):
        optimizer.zero_grad()
        engine._keep()
        items, bad = engine._forward_backward(images, (targets, separate), True, pieces)
        assert not bad
        found.append((items, {name: p.grad.clone() for name, p in model.named_parameters()}))
    (whole, expected), (pieces, gradients) = found
    assert pieces.tolist() == pytest.approx(whole.tolist(), rel=1e-5)
    for name, gradient in expected.items():
        assert (gradient - gradients[name]).abs().max() <= 1e-4 * max(gradient.abs().max(), 1e-3), name
