"""Hooks and what is attached to them."""

import threading

import pytest

from utils.callbacks import HOOKS, Callbacks


def test_actions_run_in_order_with_the_hooks_arguments():
    callbacks, seen = Callbacks(), []
    callbacks.register_action("on_train_end", name="first", callback=lambda *a, **k: seen.append((1, a, k)))
    callbacks.register_action("on_train_end", callback=lambda *a, **k: seen.append((2, a, k)))
    callbacks.run("on_train_end", "last", epoch=3)
    assert seen == [(1, ("last",), {"epoch": 3}), (2, ("last",), {"epoch": 3})]
    assert [a["name"] for a in callbacks.get_registered_actions("on_train_end")] == ["first", ""]
    assert set(callbacks.get_registered_actions()) == set(HOOKS)
    assert callbacks.stop_training is False


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_runs_without_actions(hook):
    Callbacks().run(hook, 1, 2, three=3)


def test_thread_option_runs_elsewhere():
    callbacks, seen, done = Callbacks(), [], threading.Event()

    def action(value):
        seen.append((value, threading.current_thread()))
        done.set()

    callbacks.register_action("on_model_save", callback=action)
    callbacks.run("on_model_save", 5, thread=True)
    assert done.wait(5)
    assert seen[0][0] == 5
    assert seen[0][1] is not threading.current_thread()


def test_an_error_in_a_callback_reaches_the_caller():
    callbacks = Callbacks()
    callbacks.register_action("on_val_end", callback=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        callbacks.run("on_val_end")


def test_unknown_hooks_and_what_is_not_callable_are_refused():
    callbacks = Callbacks()
    with pytest.raises(ValueError, match="did you mean on_train_end"):
        callbacks.register_action("on_train_ends", callback=print)
    with pytest.raises(ValueError, match="no hook 'x'"):
        callbacks.run("x")
    with pytest.raises(ValueError, match="no hook 'x'"):
        callbacks.get_registered_actions("x")
    with pytest.raises(TypeError, match="on_train_end"):
        callbacks.register_action("on_train_end")


def test_a_callback_may_register_another():
    callbacks, seen = Callbacks(), []
    late = lambda: seen.append("late")  # noqa: E731
    callbacks.register_action("on_val_start", callback=lambda: callbacks.register_action("on_val_start", callback=late))
    callbacks.run("on_val_start")
    assert seen == []
    callbacks.run("on_val_start")
    assert seen == ["late"]


def test_interface_matches_the_contract(contract):
    import inspect
    import json

    methods = json.loads((contract / "api.json").read_text())["utils.callbacks"]["classes"]["Callbacks"]["methods"]
    for name in methods:
        assert list(inspect.signature(getattr(Callbacks, name)).parameters)[1] == "hook"
