"""Several processes on the CPU (gloo) against one."""

import csv
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from utils.yaml_files import read_yaml, write_yaml

ROOT = Path(__file__).resolve().parents[1]
WORKER = ROOT / "tests" / "distributed_worker.py"
SMALL = ["--weights", "", "--cfg", "yolov5n.yaml", "--imgsz", "64", "--batch-size", "4", "--device", "cpu"]
LARGEST_GRADIENT_SHARE = 1e-5  # float32 sums in another order


def _run(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done


def _torchrun(*command, processes=2):
    return _run("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes, *command)


def _add_ninth_image(data):
    train = data.parent / "tiny"
    for folder, suffix in (("images", "png"), ("labels", "txt")):
        shutil.copy(train / folder / "train" / f"1.{suffix}", train / folder / "train" / f"8.{suffix}")


@pytest.mark.parametrize("number", [0, 2], ids=["full batch", "last batch, one image for two processes"])
def test_gradients_of_two_processes_equal_those_of_one(number, tiny_data, tmp_path):
    """9 images in batches of 4: the third batch holds one image, so the second process gets a filler."""
    _add_ninth_image(tiny_data)
    alone, together = tmp_path / "alone.pt", tmp_path / "together.pt"
    _run(WORKER, tiny_data, number, alone)
    _torchrun(WORKER, tiny_data, number, together)
    _same_gradients(*(torch.load(path, weights_only=True)["gradients"] for path in (alone, together)))


def _same_gradients(one, two, share=LARGEST_GRADIENT_SHARE):
    assert one.keys() == two.keys() and len(one) > 100
    for name, gradient in one.items():
        scale = gradient.abs().max().clamp(min=1e-3)
        assert (gradient - two[name]).abs().max() <= share * scale, name


@pytest.mark.parametrize(
    "settings",
    [
        {"cls_loss": "efl", "obj_loss": "bce"},
        {"cls_loss": "seesaw", "obj_loss": "bce"},
        {"cls_dyn": 1.0, "obj_dyn": 1.0, "dyn_mode": "adaptive"},
        {"cls_loss": "focal", "obj_loss": "focal", "cls_fl_norm": "ema", "obj_fl_norm": "ema"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_running_losses_of_two_processes_equal_those_of_one(settings, tiny_data, tmp_path):
    """All three batches of an epoch: the running sums and the last gradients are those of the whole batches."""
    _add_ninth_image(tiny_data)
    hyp = tmp_path / "hyp.yaml"
    write_yaml(hyp, {**read_yaml(ROOT / "data/hyps/hyp.scratch-low.yaml"), **settings})
    alone, together = tmp_path / "alone.pt", tmp_path / "together.pt"
    _run(WORKER, tiny_data, 2, alone, hyp, 0)
    _torchrun(WORKER, tiny_data, 2, together, hyp, 0)
    one, two = torch.load(alone, weights_only=True), torch.load(together, weights_only=True)
    _same_gradients(one["gradients"], two["gradients"])
    ours, theirs = dict(_numbers(one["loss"])), dict(_numbers(two["loss"]))
    assert ours.keys() == theirs.keys() and any(value.abs().max() > 0 for value in ours.values())
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], rtol=1e-5, atol=1e-7), name


def _numbers(state, name=""):
    """Yield every tensor and number of a nested state."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield from _numbers(value, f"{name}.{key}")
    elif isinstance(state, (list, tuple)):
        for key, value in enumerate(state):
            yield from _numbers(value, f"{name}.{key}")
    elif isinstance(state, (torch.Tensor, int, float)):
        yield name, torch.as_tensor(state, dtype=torch.float64)


def test_a_whole_run_of_two_processes_writes_one_set_of_outputs(tiny_data, tmp_path):
    arguments = ["--data", tiny_data, *SMALL, "--epochs", "2", "--noplots", "--workers", "0"]
    _torchrun(ROOT / "train.py", *arguments, "--project", tmp_path / "runs")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["exp"]
    with (tmp_path / "runs/exp/results.csv").open() as file:
        assert [row[0].strip() for row in csv.reader(file)] == ["epoch", "0", "1"]
    assert {path.name for path in (tmp_path / "runs/exp/weights").iterdir()} == {"last.pt", "best.pt"}


def test_a_batch_size_that_does_not_divide_is_refused(tiny_data, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "3"}
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "--data",
        str(tiny_data),
        *SMALL,
        "--project",
        str(tmp_path / "r"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2 and "--batch-size 4" in done.stderr and "3 processes" in done.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_two_launchers_with_different_addresses_join_one_run(tiny_data, tmp_path):
    """Each launcher stands for a machine: 127.0.0.1 and 127.0.0.2."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launchers = []
    for node, address in enumerate(("127.0.0.1", "127.0.0.2")):
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", str(node),
            "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", str(port), "--local_addr", address,
            str(ROOT / "train.py"), "--data", str(tiny_data), *SMALL, "--epochs", "1", "--noplots", "--workers", "0",
            "--project", str(tmp_path / "runs"),
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        launchers.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        )
    outputs = [launcher.communicate(timeout=300)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], outputs
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["exp"]
