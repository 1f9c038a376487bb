"""Networks of a softmax loss score classes by softmax wherever this project loads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoint_files import IMAGE, TINY_YAML, decoded, save, tiny_model
from torch import nn

from models.experimental import attempt_load
from models.yolo import Detect, Segment
from utils import checkpoint as ck
from utils.errors import InputError


def softmax_model() -> nn.Module:
    model = tiny_model()
    model.hyp = {"cls_loss": "softmax_focal"}
    ck.set_class_activation(model.model[-1], model.hyp)
    return model.eval()


def class_sums(model: nn.Module) -> torch.Tensor:
    return decoded(model)[..., 5:].sum(-1)


def test_scores_by_hand() -> None:
    """Logits ln 3 and 0: softmax .75 and .25, sigmoid .75 and .5; objectness and boxes stay as they were."""
    head = Detect(2, [[10, 10]], [4])
    head.stride = torch.tensor([8.0])
    head._prepare_grid(0, 1, 1, torch.zeros(1, 1, 1, 1, 7))
    logits = torch.tensor([0.0, 0, 0, 0, 1.0986123, 1.0986123, 0.0]).view(1, 1, 1, 1, 7)
    by_sigmoid = head._decode(logits, 0).flatten()
    assert by_sigmoid[4:].tolist() == pytest.approx([0.75, 0.75, 0.5])
    ck.set_class_activation(head, {"cls_loss": "softmax_focal"})
    by_softmax = head._decode(logits, 0).flatten()
    assert by_softmax[4:].tolist() == pytest.approx([0.75, 0.75, 0.25])
    assert torch.equal(by_softmax[:5], by_sigmoid[:5])


def test_masks_stay_as_they_are() -> None:
    head = Segment(2, [[10, 10]], 3, 4, [4])
    head.stride = torch.tensor([8.0])
    ck.set_class_activation(head, {"cls_loss": "softmax_focal"})
    head._prepare_grid(0, 1, 1, torch.zeros(1, 1, 1, 1, 10))
    row = head._decode(torch.arange(10.0).view(1, 1, 1, 1, 10), 0).flatten()
    assert row[5:7].sum().item() == pytest.approx(1.0) and row[7:].tolist() == [7.0, 8.0, 9.0]


def test_only_softmax_networks_carry_the_attribute() -> None:
    """Default checkpoints keep exactly the attributes that other clones write."""
    plain = tiny_model()
    ck.set_class_activation(plain.model[-1], {"cls_loss": "focal"})
    assert "cls_act" not in vars(plain.model[-1]) and plain.model[-1].cls_act == "sigmoid"
    assert vars(softmax_model().model[-1])["cls_act"] == "softmax"


@pytest.mark.parametrize("kept", ["attribute and settings", "attribute", "settings"])
def test_checkpoints_bring_it_back(tmp_path: Path, kept: str) -> None:
    model = softmax_model()
    wanted = decoded(model)
    if kept == "attribute":
        del model.hyp
    elif kept == "settings":
        del model.model[-1].cls_act
    contents = ck.build_checkpoint(
        model=model, ema=model, updates=1, optimizer_state=None, epoch=0, best_fitness=0.1, opt={}
    )
    path = tmp_path / "last.pt"
    ck.save_checkpoint(path, contents)
    for loaded in (ck.load_model(path), ck.load_model(path, fuse=False), attempt_load(path)):
        assert loaded.model[-1].cls_act == "softmax"
        torch.testing.assert_close(decoded(loaded), wanted, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(class_sums(loaded), torch.ones_like(class_sums(loaded)))
    ck.strip_optimizer(path)
    torch.testing.assert_close(class_sums(ck.load_model(path)), torch.ones_like(class_sums(model)))


def test_weights_without_their_network_bring_it_back(tmp_path: Path) -> None:
    model = softmax_model()
    contents = {"model": model.state_dict(), "yaml": TINY_YAML, "opt": {"hyp": {"cls_loss": "softmax_focal"}}}
    loaded = ck.load_model(save(tmp_path / "state.pt", contents))
    torch.testing.assert_close(class_sums(loaded), torch.ones_like(class_sums(loaded)))


def test_an_unknown_activation_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    model.model[-1].cls_act = "sparsemax"
    with pytest.raises(InputError, match="sparsemax"):
        ck.load_checkpoint(save(tmp_path / "odd.pt", {"model": model}))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_traced_and_augmented_inference_use_it() -> None:
    model = softmax_model()
    with torch.no_grad():
        traced = torch.jit.trace(model, IMAGE, strict=False, check_trace=False)
        for found in (traced(IMAGE)[0], model(IMAGE, augment=True)[0]):
            torch.testing.assert_close(found[..., 5:].sum(-1), torch.ones(found.shape[:2]))


@pytest.mark.parametrize("name", ["softmax_focal", "focal", None])
def test_training_builds_the_head_that_its_loss_needs(name: str | None) -> None:
    from models.yolo import Detect, DetectionModel
    from utils.hyperparameters import Hyperparameters
    from utils.training.build import Data, build_model

    data = Data({}, {0: "bolt", 1: "nut"}, "", "", False)
    hyp = Hyperparameters(cls_loss=name)
    wanted = "softmax" if name == "softmax_focal" else "sigmoid"
    for checkpoint in (None, {"model": softmax_model()}, {"model": tiny_model()}):
        model = build_model(
            TINY_YAML, checkpoint, data, hyp, False, torch.device("cpu"), DetectionModel, Detect
        )  # fmt: skip
        assert model.model[-1].cls_act == wanted
        assert ("cls_act" in vars(model.model[-1])) == (wanted == "softmax")


def test_a_softmax_run_stores_how_it_scores(tiny_data: Path, tmp_path: Path) -> None:
    import train

    recipe = (Path(train.__file__).parent / "data" / "hyps" / "hyp.scratch-low.yaml").read_text()
    hyp = tmp_path / "hyp.yaml"
    hyp.write_text(recipe + "\ncls_loss: softmax_focal\n")
    opt = train.run(
        data=str(tiny_data), hyp=str(hyp), project=str(tmp_path / "runs"), weights="", cfg="yolov5n.yaml", imgsz=64,
        batch_size=4, device="cpu", workers=0, epochs=1, noplots=True,
    )  # fmt: skip
    for name in ("last.pt", "best.pt"):
        model = ck.load_checkpoint(Path(opt.save_dir) / "weights" / name)["model"]
        assert vars(model.model[-1])["cls_act"] == "softmax"
        assert model.hyp["cls_loss"] == "softmax_focal"
