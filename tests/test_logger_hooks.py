"""Every hook of a training run fires with YOLOv5's arguments, so that loggers written for it work when attached."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import yaml

import train
from utils.callbacks import HOOKS, Callbacks
from utils.loggers import Loggers

ROOT = Path(__file__).resolve().parents[1]
SILENT = {
    "optimizer_step",
    "on_before_zero_grad",
    "on_params_update",
    "teardown",
}  # YOLOv5's training runs none of them


@pytest.fixture
def options(tiny_data, tmp_path):
    facts = yaml.safe_load((ROOT / "models" / "yolov5n.yaml").read_text())
    model = tmp_path / "narrow.yaml"
    model.write_text(yaml.safe_dump({**facts, "width_multiple": 0.0625}))
    small = {
        "weights": "", "cfg": str(model), "imgsz": 64, "batch_size": 4, "device": "cpu", "workers": 0, "noplots": True,
        "epochs": 2, "data": str(tiny_data), "project": str(tmp_path / "runs"),
    }  # fmt: skip
    opt = train.build_parser().parse_args([])
    vars(opt).update(small)
    return opt


def test_every_hook_fires_with_the_arguments_of_the_loggers(options):
    callbacks, calls = Callbacks(), []
    for hook in HOOKS:
        callbacks.register_action(hook, "record", lambda *a, hook=hook, **k: calls.append((hook, a, k)))
    train.main(options, callbacks)
    fired = [hook for hook, _, _ in calls]
    # An untrained model may find nothing above the least confidence, then no image has a hook.
    assert set(HOOKS) - set(fired) <= SILENT | {"on_val_image_end"}
    assert fired.count("on_train_epoch_end") == fired.count("on_fit_epoch_end") == fired.count("on_model_save") == 2
    assert fired.count("on_train_batch_end") == 4 and fired.count("on_val_end") == 3  # the last one is of best.pt
    assert fired[0] == "on_pretrain_routine_start" and fired[-1] == "on_train_end"
    for hook, arguments, keywords in calls:
        method = getattr(Loggers, hook, None)
        if method is not None:
            inspect.signature(method).bind(None, *arguments, **keywords)
    by_hook = {hook: arguments for hook, arguments, _ in calls}
    assert len(by_hook["on_fit_epoch_end"][0]) == 13 and len(by_hook["on_train_end"][3]) == 7
    assert by_hook["on_train_end"][0].name == "last.pt" and by_hook["on_train_end"][1].name == "best.pt"


def test_a_callback_can_end_training_after_the_epoch(options):
    callbacks = Callbacks()
    callbacks.register_action("on_train_batch_end", "stop", lambda *_: setattr(callbacks, "stop_training", True))
    options.epochs, options.noval = 5, True
    train.main(options, callbacks)
    folder = Path(options.save_dir)
    assert len((folder / "results.csv").read_text().splitlines()) == 2
    assert {path.name for path in (folder / "weights").iterdir()} == {"last.pt", "best.pt"}
