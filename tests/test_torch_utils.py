"""Devices, seeds, optimizers, the weight average, early stopping and measuring layers."""

from __future__ import annotations

import copy
import inspect
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.yolo import DetectionModel
from utils import torch_utils as tu
from utils.errors import InputError, WorkError


@pytest.fixture
def keep_torch_settings(monkeypatch: pytest.MonkeyPatch):
    """Undo what init_seeds switches on."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""))
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    cudnn.benchmark, cudnn.deterministic, torch.utils.deterministic.fill_uninitialized_memory = before


def test_names_and_signatures_of_the_contract(contract: Path) -> None:
    """Parameters in order with their defaults; ours may have more behind them."""
    facts = json.loads((contract / "api.json").read_text())["utils.torch_utils"]
    problems = []
    for name, entry in {**facts["functions"], **facts["reexported"]}.items():
        if entry.get("kind") == "function" and name in {"colorstr", "file_date"}:
            continue
        parameters = list(inspect.signature(getattr(tu, name)).parameters.values())
        for expected, found in zip(entry["params"], parameters, strict=False):
            expected_name, *default = expected if isinstance(expected, list) else [expected]
            same_default = not default or default[0] in (
                found.default,
                list(found.default) if found.default == () else 0,
            )
            if found.name != expected_name or not same_default:
                problems.append(f"{name}({expected}) is {found}")
    for name, entry in facts["classes"].items():
        instance_of = getattr(tu, name)
        parameters = list(inspect.signature(instance_of).parameters)
        wanted = [item[0] if isinstance(item, list) else item for item in entry["init"]]
        problems += [] if parameters[: len(wanted)] == wanted else [f"{name}{parameters}"]
        problems += [f"{name}.{method}" for method in entry["methods"] if not hasattr(instance_of, method)]
    assert problems == []
    for name in [*facts["constants"], "find_modules", "device_count", "is_parallel"]:
        assert hasattr(tu, name)


@pytest.mark.parametrize("device", ["cpu", "CPU", torch.device("cpu")])
def test_select_cpu(device: object, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="yolov5"):
        assert tu.select_device(device) == torch.device("cpu")
    assert len(caplog.records) == 1 and "CPU" in caplog.text


@pytest.mark.parametrize("device", ["7777", "0,7777", "gpu", "-1", "0,,1", "½", "0,0"])
def test_devices_that_are_not_there(device: str) -> None:
    with pytest.raises(InputError, match=r"--device .*allowed are cpu") as error:
        tu.select_device(device)
    assert "\n" not in str(error.value)


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Four CUDA devices that are not there; the list takes those made current."""

    class Facts:
        name, total_memory = "Test", 2**30

    made_current: list[int] = []
    monkeypatch.setattr(tu, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Facts)
    monkeypatch.setattr(torch.cuda, "set_device", made_current.append)
    return made_current


def test_several_devices(four_gpus: list[int]) -> None:
    environment = dict(os.environ)
    assert tu.select_device("2,3", batch_size=4) == torch.device("cuda:2")
    assert tu.select_device("cuda:1") == torch.device("cuda:1")
    assert tu.select_device("") == tu.select_device("cuda") == torch.device("cuda:0")
    assert four_gpus == [2, 1, 0, 0]  # figures of "the current device" are those of the chosen one
    with pytest.raises(InputError, match="multiple of the 2 devices"):
        tu.select_device("2,3", batch_size=5)
    with pytest.raises(InputError, match="0 to 3"):
        tu.select_device("4")
    assert dict(os.environ) == environment


@pytest.mark.parametrize(
    ("asked", "local_rank", "expected"),
    [("2,3", 0, 2), ("2,3", 1, 3), ("3,1", 0, 3), ("", 0, 0), ("", 3, 3), ("0", 0, 0)],
)
def test_torchrun_gives_each_process_its_own_of_the_listed_devices(
    monkeypatch: pytest.MonkeyPatch, four_gpus: list[int], asked: str, local_rank: int, expected: int
) -> None:
    monkeypatch.setattr(tu, "LOCAL_RANK", local_rank)
    assert tu.select_device(asked, batch_size=6) == torch.device("cuda", expected)
    assert four_gpus == [expected]


@pytest.mark.parametrize(
    ("asked", "local_rank", "said"), [("2,3", 2, "names 2"), ("0", 1, "names 1"), ("", 4, "4 are")]
)
def test_torchrun_with_more_processes_than_devices(
    monkeypatch: pytest.MonkeyPatch, four_gpus: list[int], asked: str, local_rank: int, said: str
) -> None:
    monkeypatch.setattr(tu, "LOCAL_RANK", local_rank)
    with pytest.raises(InputError, match=f"local rank {local_rank}, but of CUDA devices .*{said}"):
        tu.select_device(asked)
    assert not four_gpus


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_loaded_optimizer_state_has_its_parameters_memory_layout(name: str) -> None:
    """Checkpoints hold plain tensors; CUDA's fused kernels refuse a state whose strides are not the weight's."""
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = tu.smart_optimizer(model, name, lr=0.01)
    model(torch.ones(1, 3, 5, 5).contiguous(memory_format=torch.channels_last)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    plain = {
        key: {k: v.contiguous() if isinstance(v, torch.Tensor) else v for k, v in entry.items()}
        for key, entry in state["state"].items()
    }
    tu.load_optimizer_state(optimizer, {**state, "state": plain})
    for parameter in model.parameters():
        for key, value in optimizer.state[parameter].items():
            if value.dim():
                assert value.stride() == parameter.stride(), key
                assert not value.requires_grad
    weight = next(iter(plain.values()))
    assert any(torch.equal(value, v) for value in optimizer.state[model.bias].values() for v in weight.values())


@pytest.mark.parametrize("model_name", ["yolov5n", "yolov5s", "yolov5s-transformer", "yolov5n-seg"])
def test_optimizer_groups(golden, model_name: str) -> None:
    from models.yolo import SegmentationModel

    facts = golden("schedule_and_data")[0]["optimizer_groups"]["models"][model_name]
    kind = SegmentationModel if model_name.endswith("-seg") else DetectionModel
    model = kind(f"{model_name}.yaml")
    for name, groups in facts.items():
        optimizer = tu.smart_optimizer(model, name, lr=0.01, momentum=0.937, decay=5e-4)
        assert type(optimizer).__name__.lower() == name.lower()
        for group, expected in zip(optimizer.param_groups, groups, strict=True):
            tensors, elements = expected.pop("tensors"), expected.pop("elements")
            assert (len(group["params"]), sum(p.numel() for p in group["params"])) == (tensors, elements)
            found = {key: list(group[key]) if key == "betas" else group[key] for key in expected}
            assert found == expected


def test_unknown_optimizer() -> None:
    with pytest.raises(InputError, match="SGD, Adam, AdamW and RMSProp"):
        tu.smart_optimizer(nn.Linear(1, 1), "Lion")


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.b = nn.Parameter(torch.tensor([1.0]))
        self.register_buffer("n", torch.tensor(5))


def test_average_on_the_toy_model(golden) -> None:
    facts = golden("schedule_and_data")[0]["ema"]
    model = Toy()
    ema = tu.ModelEMA(model, decay=facts["decay"], tau=facts["tau"])
    for updates, decay in facts["decay_at_update"].items():
        assert ema.decay(int(updates)) == pytest.approx(decay, rel=1e-6)
    for expected in facts["toy"]["after"]:
        with torch.no_grad():
            model.w += 1
            model.b *= 2
            model.n += 1
        ema.update(model)
        assert ema.updates == expected["updates"]
        np.testing.assert_allclose(ema.ema.w.numpy(), expected["w"], rtol=1e-6)
        np.testing.assert_allclose(ema.ema.b.numpy(), expected["b"], rtol=1e-6)
        assert ema.ema.n.item() == expected["n_integer_buffer"]


def test_average_is_a_separate_model_without_gradients() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).train()
    ema = tu.ModelEMA(nn.DataParallel(model))
    assert not ema.ema.training and not any(p.requires_grad for p in ema.ema.parameters())
    before = copy.deepcopy(model.state_dict())
    ema.update(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    model.names = {0: "a"}
    ema.update_attr(model, include=["names"])
    assert ema.ema.names == {0: "a"}


def test_average_of_constant_weights_is_constant() -> None:
    """x + w (x - x) = x for every decay."""
    model = nn.Conv2d(2, 3, 1)
    ema = tu.ModelEMA(model)
    for _ in range(20):
        ema.update(model)
    assert torch.equal(ema.ema.weight, model.weight)


def test_early_stopping(golden) -> None:
    facts = golden("schedule_and_data")[0]["early_stopping"]
    stopper = tu.EarlyStopping(patience=facts["patience"])
    for row in facts["rows"]:
        fitness = np.array([row["fitness"]])
        assert stopper(row["epoch"], fitness) is row["stop"] is stopper.stop
        assert (stopper.possible_stop, stopper.best_epoch) == (row["possible_stop"], row["best_epoch"])


def test_early_stopping_edges() -> None:
    never = tu.EarlyStopping(patience=0)
    assert not any(never(epoch, 0.5 / (epoch + 1)) for epoch in range(1000))
    waiting = tu.EarlyStopping(patience=2)
    assert not any(waiting(epoch, 0.0) for epoch in range(10))  # nothing found yet
    assert not waiting(10, math.nan)
    assert waiting.best_epoch == 9
    other = tu.EarlyStopping(patience=2)
    other.load_state_dict(waiting.state_dict())
    assert other.state_dict() == waiting.state_dict()


@pytest.mark.usefixtures("keep_torch_settings")
def test_seeds() -> None:
    def draw() -> tuple:
        return random.random(), np.random.rand(), torch.rand(2).tolist()  # noqa: NPY002

    tu.init_seeds(7, deterministic=True)
    first = draw()
    assert torch.are_deterministic_algorithms_enabled()
    tu.init_seeds(7)
    assert draw() == first
    tu.init_seeds(8)
    assert draw() != first


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSProp"])
def test_resume_goes_on_where_it_stopped(name: str, tmp_path: Path) -> None:
    """Two steps, a checkpoint through a file, two more: the same as four in a row."""
    from utils import checkpoint as ck

    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    optimizer = tu.smart_optimizer(model, name, 0.1, 0.9, 0.01)
    ema = tu.ModelEMA(model)
    for _ in range(2):
        one_step(model, optimizer)
        ema.update(model)
    content = ck.build_checkpoint(
        model=model, ema=ema.ema, updates=2, optimizer_state=optimizer.state_dict(), epoch=4, best_fitness=0.5,
        opt={}, resume={"model": model.state_dict(), "ema": ema.ema.state_dict()},
    )  # fmt: skip
    ck.save_checkpoint(tmp_path / "last.pt", content)
    content = ck.load_checkpoint(tmp_path / "last.pt")
    other = nn.Linear(2, 2)
    other_optimizer = tu.smart_optimizer(other, name, 0.1, 0.9, 0.01)
    other_ema = tu.ModelEMA(other)
    best, start, epochs = tu.smart_resume(content, other_optimizer, other_ema, "last.pt", epochs=10)
    other.load_state_dict(content["resume"]["model"])
    assert (best, start, epochs, other_ema.updates) == (0.5, 5, 10, 2)
    for _ in range(2):
        one_step(model, optimizer)
        one_step(other, other_optimizer)
    assert torch.equal(model.weight, other.weight) and torch.equal(model.bias, other.bias)
    kernels = [(group.get("fused"), group.get("foreach")) for group in other_optimizer.param_groups]
    assert kernels == [(group.get("fused"), group.get("foreach")) for group in optimizer.param_groups]


def test_resume_of_finished_and_other_runs() -> None:
    finished = {"epoch": -1, "optimizer": None, "ema": None, "best_fitness": None}
    with pytest.raises(InputError, match="finished"):
        tu.smart_resume(finished, None)
    assert tu.smart_resume(finished, None, epochs=5, resume=False) == (0.0, 0, 5)
    trained = {"epoch": 9, "optimizer": None, "ema": None, "best_fitness": None}
    assert tu.smart_resume(trained, None, epochs=5, resume=False) == (0.0, 10, 14)
    model = nn.Linear(2, 2)
    state = tu.smart_optimizer(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "SGD").state_dict()
    with pytest.raises(InputError, match="does not fit"):
        tu.smart_resume({**trained, "optimizer": state}, tu.smart_optimizer(model, "SGD"))


def test_prune_and_sparsity() -> None:
    model = nn.Sequential(nn.Conv2d(1, 10, 1, bias=False), nn.Linear(2, 5, bias=False))
    tu.prune(model, 0.3)
    assert int((model[0].weight == 0).sum()) == 3
    assert tu.sparsity(model) == pytest.approx(3 / 20)
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "1.weight"]


@pytest.mark.parametrize(
    ("model", "input_shape"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 7)), (2, 12)),
        (nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Identity())), (2, 12)),
        (nn.Sequential(nn.Sequential(nn.Conv2d(3, 7, 1), nn.Flatten())), (2, 3, 1, 1)),
    ],
    ids=["linear", "sequential", "convolution"],
)
def test_reshape_classifier(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    tu.reshape_classifier_output(model, 4)
    assert model(torch.zeros(input_shape)).shape == (2, 4)


def test_reshape_needs_an_output_layer() -> None:
    with pytest.raises(WorkError, match="classes"):
        tu.reshape_classifier_output(nn.Sequential(nn.ReLU()), 4)


def test_profile_counts() -> None:
    """A 3x3 convolution of 3 to 8 channels without bias: 216 weights, on 32x32 2 * 216 * 1024 operations."""
    conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    (row, failed) = tu.profile(torch.zeros(1, 3, 32, 32), [conv, nn.Linear(5, 5)], n=1)
    assert row[0] == 216 and row[1] == pytest.approx(2 * 216 * 1024 / 1e9)
    assert row[5:] == [(1, 3, 32, 32), (1, 8, 32, 32)]
    assert row[3] > 0 and row[4] > 0 and failed is None


def test_intersect_dicts() -> None:
    a = {"x": torch.zeros(2), "y": torch.zeros(3), "anchor.z": torch.zeros(1)}
    b = {"x": torch.zeros(2), "y": torch.zeros(4), "anchor.z": torch.zeros(1)}
    assert set(tu.intersect_dicts(a, b)) == {"x", "anchor.z"}
    assert set(tu.intersect_dicts(a, b, exclude=["anchor"])) == {"x"}


def test_inference_mode_and_wrappers() -> None:
    layer = nn.Linear(1, 1)

    @tu.smart_inference_mode()
    def run() -> torch.Tensor:
        return layer(torch.ones(1, 1))

    assert run().is_inference()
    assert not tu.smart_inference_mode(torch_1_9=False)(lambda: layer(torch.ones(1, 1)))().requires_grad
    wrapped = nn.DataParallel(layer)
    assert tu.is_parallel(wrapped) and not tu.is_parallel(layer)
    assert tu.de_parallel(wrapped) is layer is tu.de_parallel(layer)
    with tu.torch_distributed_zero_first(-1):
        assert tu.time_sync() > 0
    with tu.smart_amp_autocast(True, "cpu"):
        assert layer(torch.ones(1, 1)).dtype == torch.bfloat16


def test_smoothed_cross_entropy() -> None:
    """Label smoothing e: (1 - e) of the target plus e / n of each class; equal logits give log n."""
    loss = tu.smartCrossEntropyLoss(0.1)
    assert loss(torch.zeros(1, 4), torch.tensor([2])).item() == pytest.approx(math.log(4))


def test_activations_equal_torch_and_each_other() -> None:
    """Ours and torch's of one formula agree; the memory-saving Mish has the right derivative."""
    from utils import activations as own

    x = torch.linspace(-5, 5, 21)
    for ours, theirs in ((own.SiLU(), nn.SiLU()), (own.Hardswish(), nn.Hardswish()), (own.Mish(), nn.Mish())):
        assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    double = x.double().requires_grad_()
    assert torch.autograd.gradcheck(own.MemoryEfficientMish(), double)
    maps = torch.randn(2, 4, 5, 5)
    assert torch.equal(own.FReLU(4).eval()(maps) >= maps, torch.ones_like(maps, dtype=torch.bool))
    acon = own.AconC(4)
    with torch.no_grad():
        acon.p1.fill_(1), acon.p2.fill_(0)
    assert torch.allclose(acon(maps), nn.functional.silu(maps), atol=1e-6)  # p1 = 1, p2 = 0, beta = 1 is SiLU
    assert own.MetaAconC(4)(maps).shape == maps.shape
