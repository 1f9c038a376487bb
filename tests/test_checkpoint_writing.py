"""Writing checkpoints that other YOLOv5 clones load, whole or not at all."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_files import IMAGE, tiny_model
from torch import nn

import models.common
import models.yolo
from models.yolo import DetectionModel
from utils import checkpoint as ck
from utils.checkpoints.classes import STAND_INS
from utils.checkpoints.rng_state import capture_rng, restore_rng
from utils.errors import InputError, WorkError


def trained_checkpoint() -> tuple[nn.Module, nn.Module, dict]:
    """One real training step, then the content of a checkpoint."""
    from utils.torch_utils import ModelEMA, smart_optimizer

    model = DetectionModel("yolov5n.yaml", nc=2)
    model.hyp, model.names = {"box": 0.05, "obj": np.float64(1.0)}, {0: "bolt", 1: "nut"}
    model.class_weights = torch.ones(2)
    model.some_helper = object()  # something that a run hung on the model
    optimizer = smart_optimizer(model, "SGD", 0.01, 0.937, 5e-4)
    ema = ModelEMA(model)
    model.train()
    sum(level.square().mean() for level in model(torch.rand(2, 3, 64, 64))).backward()
    optimizer.step()
    ema.update(model)
    ema.ema.names, ema.ema.hyp, ema.ema.class_weights = model.names, model.hyp, model.class_weights
    resume = {
        "model": model.state_dict(),
        "rng": capture_rng(),
        "flags": {"done": torch.tensor([True]), "half": torch.ones(2, dtype=torch.bfloat16)},
        "fitness": np.float32(0.5),
        "path": Path("runs/exp"),
    }
    content = ck.build_checkpoint(
        model=model, ema=ema.ema, updates=1, optimizer_state=optimizer.state_dict(), epoch=1, best_fitness=0.25,
        opt={"save_dir": Path("runs/exp"), "hyp": {"lr0": 0.01}, "freeze": [0]}, resume=resume,
    )  # fmt: skip
    return model, ema.ema, content


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, nn.Module, dict]:
    return trained_checkpoint()


def public(module: nn.Module) -> set[str]:
    return {name for name in vars(module) if not name.startswith("_")}


def test_written_files_name_only_classes_of_the_contract(contract: Path, tmp_path: Path, trained) -> None:
    facts = json.loads((contract / "modules.json").read_text())
    allowed = {path for checkpoint in facts["checkpoints"].values() for path in checkpoint["globals"]}
    written = facts["checkpoints"]["written by HEAD after each epoch (last.pt, best.pt, epoch<N>.pt before stripping)"]
    path = tmp_path / "last.pt"
    ck.save_checkpoint(path, trained[2])
    assert ck.pickled_globals(path) <= allowed
    content = ck.load_checkpoint(path)
    assert set(content) == {*written["top_level"], "resume"}
    network = facts["classes"]["models.yolo.DetectionModel"]
    assert set(vars(content["model"])) - {"yaml_file"} == set(written["model_attributes"])
    assert public(content["model"]) <= set(network["attributes"])
    head = facts["classes"]["models.yolo.Detect"]["always_present"]
    assert public(content["model"].model[-1]) == set(head)
    ck.strip_optimizer(path)
    assert ck.pickled_globals(path) <= allowed


def test_written_attributes_are_plain(tmp_path: Path, trained) -> None:
    """What a loader without this project's classes sees."""
    path = tmp_path / "last.pt"
    ck.save_checkpoint(path, trained[2])
    content = torch.load(path, weights_only=False)
    assert type(content["opt"]["save_dir"]) is str
    assert content["best_fitness"].shape == (1,)
    assert type(content["model"].hyp) is dict and type(content["model"].hyp["obj"]) is float
    assert content["model"].names == {0: "bolt", 1: "nut"}
    assert content["git"] == {"remote": None, "branch": None, "commit": None}


def test_layout_of_a_training_checkpoint(trained) -> None:
    model, ema, content = trained
    stored, averaged = content["model"], content["ema"]
    assert stored.training and not averaged.training
    assert {t.dtype for t in stored.state_dict().values()} == {torch.float16, torch.int64}
    assert any(p.requires_grad for p in stored.parameters())
    assert not any(p.requires_grad for p in averaged.parameters())
    assert content["updates"] == 1 and content["epoch"] == 1
    optimizer = content["optimizer"]
    assert optimizer["state"][0]["momentum_buffer"].dtype == torch.float32
    assert [group["weight_decay"] for group in optimizer["param_groups"]] == [0, 5e-4, 0]
    assert content["resume"]["flags"]["done"].dtype == torch.int64
    assert next(model.parameters()).dtype == torch.float32 and hasattr(model, "some_helper")
    assert torch.equal(stored.model[0].conv.weight, model.model[0].conv.weight.half())
    assert stored.model[0].conv.weight.data_ptr() != model.model[0].conv.weight.data_ptr()
    assert next(ema.parameters()).dtype == torch.float32


def test_strip(tmp_path: Path, trained) -> None:
    ema = trained[1]
    path, target = tmp_path / "best.pt", tmp_path / "stripped.pt"
    ck.save_checkpoint(path, trained[2])
    before = path.read_bytes()
    ck.strip_optimizer(path, target)
    assert path.read_bytes() == before
    content = ck.load_checkpoint(target)
    assert content["epoch"] == -1
    assert [content[key] for key in ("ema", "optimizer", "best_fitness", "updates")] == [None] * 4
    assert "resume" not in content and content["opt"]["freeze"] == [0]
    assert torch.equal(content["model"].model[0].conv.weight, ema.model[0].conv.weight.half())
    assert target.stat().st_size < path.stat().st_size / 4
    with pytest.raises(InputError, match="finished"):
        ck.load_resume(target)
    ck.strip_optimizer(target)
    assert ck.load_checkpoint(target)["date"] == content["date"]


def test_resume_block_is_exact(tmp_path: Path, trained, caplog) -> None:
    model, _, content = trained
    path = tmp_path / "last.pt"
    ck.save_checkpoint(path, content)
    block = ck.load_resume(path)
    assert all(torch.equal(tensor, block["model"][key]) for key, tensor in model.state_dict().items())
    assert block["path"] == "runs/exp" and block["fitness"] == 0.5
    ck.save_checkpoint(path, {key: value for key, value in content.items() if key != "resume"})
    with caplog.at_level("WARNING", logger="yolov5"):
        assert ck.load_resume(path) is None
    with pytest.raises(InputError, match="no optimizer"):
        ck.load_resume(path, {"epoch": 3, "model": model})


def test_a_run_stopped_within_its_first_epoch_is_not_finished(trained) -> None:
    content = {**trained[2], "epoch": -1}  # no epoch has ended, as in a stripped file
    assert ck.load_resume("last.pt", content) is content["resume"]
    assert ck.is_finished({**content, "resume": None})


def test_segment_head_round_trip(tmp_path: Path) -> None:
    """Clones call the attribute ``detect`` of a Segment head, so files carry it."""
    model = models.yolo.SegmentationModel("yolov5n-seg.yaml", nc=2)
    content = ck.build_checkpoint(
        model=model, ema=model, updates=0, optimizer_state=None, epoch=0, best_fitness=None, opt={}
    )
    path = tmp_path / "seg.pt"
    ck.save_checkpoint(path, content)
    ck.strip_optimizer(path)
    loaded = ck.load_model(path)
    assert loaded.model[-1].detect is models.yolo.Detect.forward
    with torch.no_grad():
        assert loaded(IMAGE)[0].shape[-1] == 2 + 5 + 32


@pytest.mark.parametrize("where", ["model", "ema", "resume", "optimizer"])
def test_numbers_that_are_not_finite_are_not_written(tmp_path: Path, where: str) -> None:
    model, ema = tiny_model(), tiny_model()
    resume, optimizer = {"x": torch.ones(2)}, {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": []}
    target = {
        "model": model.model[0].conv.weight, "ema": ema.model[0].bn.running_var, "resume": resume["x"],
        "optimizer": optimizer["state"][0]["momentum_buffer"],
    }[where]  # fmt: skip
    with torch.no_grad():
        target.view(-1)[0] = float("nan")
    path = tmp_path / "last.pt"
    path.write_bytes(b"the good one")
    with pytest.raises(WorkError, match="not finite"):
        ck.save_checkpoint(
            path,
            ck.build_checkpoint(
                model=model,
                ema=ema,
                updates=0,
                optimizer_state=optimizer,
                epoch=0,
                best_fitness=None,
                opt={},
                resume=resume,
            ),  # fmt: skip
        )
    assert path.read_bytes() == b"the good one"
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_numbers_beyond_float16_become_its_largest() -> None:
    model = tiny_model()
    model.model[0].bn.running_var.fill_(1e6)
    content = ck.build_checkpoint(
        model=model, ema=None, updates=None, optimizer_state=None, epoch=0, best_fitness=None, opt={}
    )
    assert content["model"].model[0].bn.running_var[0].item() == 65504
    assert model.model[0].bn.running_var[0].item() == 1e6


def test_state_without_a_plain_form_is_an_error() -> None:
    with pytest.raises(TypeError, match="opt.x"):
        ck.build_checkpoint(
            model=tiny_model(), ema=None, updates=0, optimizer_state=None, epoch=0, best_fitness=0, opt={"x": object()}
        )


def test_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    """A file-size limit stands in for a full disk; a child process takes it so that this one stays free."""
    path = tmp_path / "last.pt"
    ck.save_checkpoint(path, {"epoch": 0, "x": torch.zeros(10)})
    before = path.read_bytes()
    code = (
        "import resource, signal, sys, torch; sys.path.insert(0, sys.argv[2])\n"
        "from utils.checkpoint import save_checkpoint\nfrom utils.errors import WorkError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))\n"
        "try:\n    save_checkpoint(sys.argv[1], {'epoch': 1, 'x': torch.zeros(1000000)})\n"
        "except WorkError as error:\n    print(error)\n"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code, path, root], capture_output=True, text=True, check=False)
    assert "cannot be written" in done.stdout and "unchanged" in done.stdout, done.stderr
    assert path.read_bytes() == before and ck.load_checkpoint(path)["epoch"] == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.pt", "last.pt.sha256"]


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="cannot be written"):
        ck.save_checkpoint(tmp_path / "none" / "last.pt", {"epoch": 0})


def test_views_are_stored_without_their_base(tmp_path: Path) -> None:
    base = torch.zeros(1_000_000)
    content = ck.build_checkpoint(
        model=nn.Conv2d(1, 1, 1), ema=None, updates=0, optimizer_state=None, epoch=0, best_fitness=0, opt={},
        resume={"x": base[:3]},
    )  # fmt: skip
    ck.save_checkpoint(tmp_path / "a.pt", content)
    assert (tmp_path / "a.pt").stat().st_size < 100_000


def test_rng_round_trip(tmp_path: Path) -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)  # noqa: NPY002
    random.gauss(0, 1), np.random.standard_normal()  # noqa: NPY002
    content = {"epoch": 0, "resume": capture_rng()}
    ck.save_checkpoint(tmp_path / "a.pt", content)
    first = random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.randn(3).tolist()  # noqa: NPY002
    restore_rng(ck.load_checkpoint(tmp_path / "a.pt")["resume"])
    assert (random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.randn(3).tolist()) == first  # noqa: NPY002
    with pytest.raises(InputError, match="damaged"):
        restore_rng({"python": {}})


def test_stand_ins_are_inert() -> None:
    """No allowed path resolves to a class of this project while a pickle is read."""
    modules = {getattr(value, "__module__", "") for value in STAND_INS.values()}
    assert modules == {"utils.checkpoints.classes"}
