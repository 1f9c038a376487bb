"""Named hooks that a user's functions can be attached to."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable
from typing import Any, TypedDict

HOOKS = (
    "on_pretrain_routine_start",
    "on_pretrain_routine_end",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "optimizer_step",
    "on_before_zero_grad",
    "on_train_batch_end",
    "on_train_epoch_end",
    "on_val_start",
    "on_val_batch_start",
    "on_val_image_end",
    "on_val_batch_end",
    "on_val_end",
    "on_fit_epoch_end",
    "on_model_save",
    "on_train_end",
    "on_params_update",
    "teardown",
)


class Action(TypedDict):
    """One function attached to a hook."""

    name: str
    callback: Callable[..., Any]


class Callbacks:
    """The hooks of a run and what is attached to them; setting ``stop_training`` ends training after the epoch."""

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Action]] = {hook: [] for hook in HOOKS}
        self.stop_training = False

    def register_action(self, hook: str, name: str = "", callback: Callable[..., Any] | None = None) -> None:
        """Attach a function to a hook, after those already there.

        Args:
            hook: one of the hooks' names.
            name: what the action is called in ``get_registered_actions``.
            callback: called with the hook's arguments.

        Raises:
            ValueError: no such hook.
            TypeError: the callback cannot be called.
        """
        if not callable(callback):
            raise TypeError(f"callback for {hook} is {callback!r}, expected something callable")
        self._actions(hook).append({"name": name, "callback": callback})

    def get_registered_actions(self, hook: str | None = None) -> Any:
        """Return the actions of one hook (a list), or of all hooks (a dict of lists).

        Raises:
            ValueError: no such hook.
        """
        return self._actions(hook) if hook else self._callbacks

    def run(self, hook: str, *args: Any, thread: bool = False, **kwargs: Any) -> None:
        """Call everything attached to a hook, in the order of registration.

        Args:
            hook: one of the hooks' names.
            args: passed on.
            thread: call each in a thread of its own; the process waits for it at its end.
            kwargs: passed on.

        Raises:
            ValueError: no such hook.
        """
        for action in list(self._actions(hook)):
            if thread:
                threading.Thread(target=action["callback"], args=args, kwargs=kwargs).start()
            else:
                action["callback"](*args, **kwargs)

    def _actions(self, hook: str) -> list[Action]:
        if hook not in self._callbacks:
            near = difflib.get_close_matches(hook, self._callbacks, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ValueError(f"no hook {hook!r}{hint}; hooks are {', '.join(self._callbacks)}")
        return self._callbacks[hook]
