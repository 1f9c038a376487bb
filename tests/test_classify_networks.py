"""Classification networks, their loss and what they are measured by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.common import Classify
from models.experimental import attempt_load
from models.yolo import ClassificationModel, DetectionModel, SegmentationModel
from utils.checkpoint import load_checkpoint, pickled_globals, save_checkpoint, strip_optimizer
from utils.classification.balance import balance_settings, is_balanced
from utils.classification.criterion import ClassificationLoss
from utils.classification.evaluation import ClassifyResult
from utils.classification.networks import initial_network, require_classifier
from utils.errors import InputError, InputErrors
from utils.torch_utils import smartCrossEntropyLoss

NAMES = {0: "cat", 1: "dog", 2: "owl"}


# Networks -------------------------------------------------------------------------------------------------------------


def test_a_detection_model_gives_its_backbone() -> None:
    """Ten layers, the last one Classify; by hand 256 x 1280 + 2 x 1280 + 1280 x 3 + 3 parameters in the head."""
    network = ClassificationModel(model=DetectionModel("yolov5n.yaml"), nc=3)
    assert len(network.model) == 10 and isinstance(network.model[-1], Classify) and network.save == []
    assert sum(p.numel() for p in network.model[-1].parameters()) == 256 * 1280 + 2 * 1280 + 1280 * 3 + 3
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 3) and network.names == {0: "0", 1: "1", 2: "2"}


def test_a_yaml_gives_the_same_network() -> None:
    network = ClassificationModel("yolov5n.yaml", nc=5, cutoff=8)
    assert len(network.model) == 8 and network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    with pytest.raises(InputError, match="cfg: None found"):
        ClassificationModel()


@pytest.mark.parametrize("cutoff", [11, 14, 18])
def test_a_cutoff_within_the_neck_keeps_what_its_layers_read(cutoff: int) -> None:
    network = initial_network("yolov5n.yaml", 3, cutoff=cutoff)
    assert len(network.model) == cutoff and network(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize(("cutoff", "said"), [(1, "2 to 25"), (26, "2 to 25"), (12, "ends at a Upsample")])
def test_cutoffs_that_leave_no_network_are_refused(cutoff: int, said: str) -> None:
    with pytest.raises(InputError, match=rf"yolov5n.yaml: cutoff {cutoff}: .*{said}"):
        initial_network("yolov5n.yaml", 3, cutoff=cutoff)


def test_starting_points(tmp_path: Path) -> None:
    """Checkpoints of both kinds; one for the same number of classes keeps its head, --pretrained False no weight."""
    detector, classifier = tmp_path / "d.pt", tmp_path / "c.pt"
    save_checkpoint(detector, {"epoch": -1, "model": DetectionModel("yolov5n.yaml").half(), "ema": None})
    network = ClassificationModel("yolov5n.yaml", nc=3)
    network.names = NAMES
    save_checkpoint(classifier, {"epoch": -1, "model": network.half(), "ema": None})
    first = load_checkpoint(detector)["model"].model[0].conv.weight.float()
    assert torch.equal(initial_network(str(detector), 4).model[0].conv.weight, first)
    same, other = initial_network(str(classifier), 3, dropout=0.25), initial_network(str(classifier), 4)
    assert torch.equal(same.model[-1].linear.weight, network.float().model[-1].linear.weight)
    assert same.model[-1].drop.p == 0.25 and other.model[-1].linear.out_features == 4 and other.nc == 4
    fresh = initial_network(str(classifier), 3, pretrained=False)
    assert not torch.equal(fresh.model[0].conv.weight, network.model[0].conv.weight)
    assert all(p.requires_grad for p in same.parameters())
    with pytest.raises(InputError, match="--cutoff 5: allowed with detection models"):
        initial_network(str(classifier), 3, cutoff=5)
    assert attempt_load(classifier).names == NAMES


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_torchvision_networks_travel_in_checkpoints(name: str, tmp_path: Path) -> None:
    from utils.checkpoints.model_copy import half_copy

    network = initial_network(name, 3, pretrained=False)
    network.names = NAMES
    save_checkpoint(tmp_path / "a.pt", {"epoch": 0, "model": half_copy(network), "ema": None, "opt": {}})
    strip_optimizer(tmp_path / "a.pt")
    loaded = attempt_load(tmp_path / "a.pt")
    assert type(loaded) is type(network) and loaded.names == NAMES
    image = torch.rand(1, 3, 64, 64)
    assert torch.allclose(loaded(image), network.half().float().eval()(image), atol=1e-5)


def test_unknown_models_and_missing_weights_are_said_in_one_line(tmp_path: Path, monkeypatch: object) -> None:
    with pytest.raises(InputError, match="--model resnet5: no such model; allowed are .* resnet50"):
        initial_network("resnet5", 3)

    def offline(*_: object, **__: object) -> None:
        raise InputError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("utils.downloads.fetch", offline)
    with pytest.raises(InputError, match="resnet18: its ImageNet weights are not in .* allowed without them is --pre"):
        initial_network("resnet18", 3)


@pytest.mark.parametrize("by_name", [False, True], ids=["choice by value", "choice by name"])
def test_transforms_in_a_clone_s_checkpoint_are_left_out(
    by_name: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clones pickle their transforms with the network; such a file loads, and nothing of them is made.

    Python 3.11.0 to 3.11.3 pickles a choice by its name, all others by its value.
    """
    transforms = pytest.importorskip("torchvision.transforms")
    kind = transforms.InterpolationMode
    ways = {False: lambda choice: (kind, (choice.value,)), True: lambda choice: (getattr, (kind, choice.name))}
    monkeypatch.setattr(kind, "__reduce_ex__", lambda choice, _: ways[by_name](choice))
    network = ClassificationModel("yolov5n.yaml", nc=3)
    network.names = NAMES
    network.transforms = transforms.Compose(
        [transforms.ToTensor(), transforms.Resize(64), transforms.CenterCrop(64), transforms.Normalize([0.5], [0.2])]
    )
    torch.save({"epoch": -1, "model": network.half(), "ema": None}, tmp_path / "clone.pt")
    assert "torchvision.transforms.transforms.Compose" in pickled_globals(tmp_path / "clone.pt")
    assert any(name.endswith("builtin__.getattr") for name in pickled_globals(tmp_path / "clone.pt")) is by_name
    loaded = attempt_load(tmp_path / "clone.pt")
    assert loaded.names == NAMES and not hasattr(loaded, "transforms")
    torch.save(transforms.Compose([]), tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt"):
        load_checkpoint(tmp_path / "other.pt")


def test_networks_of_boxes_and_masks_are_refused() -> None:
    require_classifier(ClassificationModel("yolov5n.yaml", nc=3), "w.pt")
    others = (DetectionModel("yolov5n.yaml"), "Detect"), (SegmentationModel("yolov5n-seg.yaml"), "Segment")
    for network, head in others:
        with pytest.raises(InputError, match=f"w.pt: its network ends in {head}"):
            require_classifier(network, "w.pt")


# Loss -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 0, 0, 1, 1, 2, 0])


def test_without_balance_the_loss_is_torch_s_bit_for_bit(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    for smoothing in (0.0, 0.1):
        loss, items = ClassificationLoss(smoothing)(*batch)
        assert loss.shape == items.shape == (1,)
        assert loss.item() == smartCrossEntropyLoss(smoothing)(*batch).item() == items.item()


def test_weights_focus_and_prior_by_hand() -> None:
    """Logits 0, ln 3: scores 1/4, 3/4. Class 0 weighs 2. π = 3/4, 1/4."""
    logits, targets = torch.tensor([[0.0, np.log(3.0)]]).float(), torch.tensor([0])
    weighted = ClassificationLoss(hyp={"cls_weights": [2, 1]}, weights=[2, 1])(logits, targets)[0]
    assert weighted.item() == pytest.approx(2 * np.log(4), rel=1e-6)
    focal = ClassificationLoss(hyp={"cls_loss": "focal", "cls_gamma": 2.0})(logits, targets)[0]
    assert focal.item() == pytest.approx(np.log(4) * 0.75**2, rel=1e-6)
    adjusted = ClassificationLoss(hyp={"cls_loss": "logit_adjust", "cls_tau": 1.0}, counts=[3, 1])(logits, targets)[0]
    assert adjusted.item() == pytest.approx(np.log(2), rel=1e-6)  # z + ln π - max = 0, ln 3 - ln 3


def test_the_parts_of_several_processes_add_up_to_one(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Rank 1 has fewer images; a filler counts nothing and keeps its graph."""
    logits, targets = batch
    hyp = {"cls_loss": "focal", "cls_gamma": 1.5}
    whole = ClassificationLoss(0.1, hyp=hyp, weights=[1, 2, 3])(logits, targets)[0]

    def part(rows: slice, filler: bool = False) -> torch.Tensor:
        criterion = ClassificationLoss(0.1, hyp=hyp, weights=[1, 2, 3], world_sum=lambda _: torch.tensor([8.0]))
        criterion.is_filler = filler
        return criterion(logits[rows].requires_grad_(), targets[rows])[0]

    assert (part(slice(0, 5)) + part(slice(5, 8))).item() == pytest.approx(whole.item(), rel=1e-6)
    filler = part(slice(0, 1), filler=True)
    assert filler.item() == 0.0 and filler.requires_grad


def test_state_of_the_loss(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    criterion = ClassificationLoss(nc=3, hyp={"cls_weights_start": 2}, weights=[1, 1, 5])
    criterion.set_epoch(1, 10)
    assert criterion(*batch)[0].item() == pytest.approx(F.cross_entropy(*batch).item(), rel=1e-6)
    criterion.set_epoch(2, 10)
    assert criterion(*batch)[0].item() > F.cross_entropy(*batch).item() * 1.1
    assert criterion.for_validation()(*batch)[0].item() == F.cross_entropy(*batch).item()
    criterion.track_loss_share()
    criterion(*batch)
    other = ClassificationLoss(nc=3)
    other.load_state_dict(criterion.state_dict())
    assert torch.equal(other.loss_share(), criterion.loss_share()) and criterion.loss_share().sum() == 1


def test_settings_of_a_hyp_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = Path(__file__).resolve().parents[1]
    assert not is_balanced(balance_settings(None)) and balance_settings({}).to_dict() == {}
    with caplog.at_level("INFO", logger="yolov5"):
        settings = balance_settings(root / "data/hyps/hyp.focal.yaml")
    assert settings["cls_loss"] == "focal" and settings["sampler"] == "repeat_factor" and is_balanced(settings)
    assert "without effect on classification" in caplog.text and "balance keys alone are used" in caplog.text
    assert set(settings.to_dict()) <= {"cls_loss", "cls_gamma", "cls_weights", "sampler", "sampler_t"}
    for wrong, said in (
        ({"cls_los": "focal"}, "cls_los"), ({"cls_loss": "varifocal"}, "allowed with classification are bce, focal"),
        ({"cls_gamma": 9}, "cls_gamma"), ({"cls_weights_mode": "pos"}, "cls_weights_mode pos"),
    ):  # fmt: skip
        with pytest.raises(InputErrors, match=said):
            balance_settings(wrong)


# Measures -------------------------------------------------------------------------------------------------------------


def test_measures_by_hand(tmp_path: Path) -> None:
    """Six cats, four found; two dogs, one found, one taken for a cat; no owl."""
    ranked = np.array([[0, 1], [0, 1], [0, 2], [0, 1], [1, 0], [2, 1], [1, 0], [0, 1]])
    result = ClassifyResult(NAMES, np.array([0, 0, 0, 0, 0, 0, 1, 1]), ranked, 0.5, (0.0, 0.0, 0.0))
    assert result.top1 == 5 / 8 and result.top5 == 7 / 8
    assert result.balanced == pytest.approx((4 / 6 + 1 / 2) / 2)
    columns = result.of_classes()
    assert columns["images"].tolist() == [6, 2, 0] and np.isnan(columns["top1"][2])
    assert columns["precision"].tolist() == [4 / 5, 1 / 2, 0.0] and columns["top5"][:2].tolist() == [5 / 6, 1.0]
    assert result.confusion().tolist() == [[4, 1, 0], [1, 1, 0], [1, 0, 0]]
    result.save(tmp_path, pictures=False)
    assert (tmp_path / "per_class.csv").read_text().splitlines() == [
        "class,images,top1,top5,precision,most_taken_for,times", "cat,6,0.66667,0.83333,0.8,dog,1",
        "dog,2,0.5,1,0.5,cat,1", "owl,0,,,0,,0",
    ]  # fmt: skip
