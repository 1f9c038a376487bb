"""Every public name of YOLOv5: importable where its users import it, with the parameters and defaults they rely on."""

from __future__ import annotations

import importlib
import inspect
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
CONTRACT = ROOT.parent / "shared" / "contract"
DESCRIBED = ("(a file of", "<esc>", "ndarray of")  # defaults that the description tells in words
DECIDED_OTHERWISE = {
    "utils.general.AUTOINSTALL": "nothing is ever installed",
}


def _read(name: str) -> dict[str, Any]:
    path = CONTRACT / name
    return json.loads(path.read_text()) if path.exists() else {}


API = {module: facts for module, facts in _read("api.json").items() if module not in {"_notes", "absent_modules"}}
OLD = _read("api_v7.json").get("modules", {})
ABSENT_MODULES = _read("api.json").get("absent_modules", {})


def _entries() -> Iterator[tuple[str, str, str, Any]]:
    """Yield (module, name, kind, facts) of everything described."""
    for module, facts in API.items():
        for kind in ("functions", "classes", "constants", "reexported"):
            for name, what in facts.get(kind, {}).items():
                yield module, name, kind, what
        for kind in ("also_importable_from_here", "absent_at_head"):
            for name in facts.get(kind, ()):
                yield module, name, kind, None
    for module, names in OLD.items():
        for name, what in names.items():
            yield module, name, "v7", what


ENTRIES = list(_entries())


def _plain(value: Any) -> Any:
    """Return a default as the description writes it: paths relative to the project, lists for tuples."""
    if isinstance(value, Path):
        return value.relative_to(ROOT).as_posix() if value.is_relative_to(ROOT) else value.as_posix()
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return f"device({value})" if isinstance(value, torch.device) else value


def _same(found: Any, wanted: Any) -> bool:
    found = _plain(found)
    if isinstance(wanted, list) and isinstance(found, list):
        return len(found) == len(wanted) and all(map(_same, found, wanted))
    if isinstance(wanted, float) or isinstance(found, float):
        return isinstance(found, (int, float)) and math.isclose(found, wanted, rel_tol=1e-9)
    return found == wanted


def _default_agrees(parameter: inspect.Parameter, wanted: Any) -> bool:
    if isinstance(wanted, str) and any(mark in wanted for mark in DESCRIBED):
        return parameter.default is not parameter.empty
    return _same(parameter.default, wanted)


def _check_parameters(call: Any, wanted: list[Any], what: str, old: Sequence[str] = ()) -> None:
    """Compare names in order and defaults; further parameters of ours come after them and have defaults.

    Where v7.0 (``old``) had another name at a place, either will do.
    """
    found = [p for p in inspect.signature(call).parameters.values() if p.name != "self"]
    takes = {p.kind for p in found}
    named = [p for p in found if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
    asked = [(p, None, False) if isinstance(p, str) else (p[0], p[1], True) for p in wanted]
    if "**kwargs" in wanted:
        assert named or inspect.Parameter.VAR_KEYWORD in takes, f"{what} takes no keywords"
    position = 0
    for name, default, has_default in asked:
        if name.startswith("*"):
            continue
        assert position < len(named), f"{what}: no parameter {name}; it has {[p.name for p in named]}"
        parameter = named[position]
        position += 1
        assert parameter.name in {name, *old[position - 1 : position]}, (
            f"{what}: parameter {parameter.name} where {name} is expected"
        )
        if has_default:
            assert _default_agrees(parameter, default), f"{what}: {name}={parameter.default!r}, expected {default!r}"
    for parameter in named[position:] if "*args" not in wanted else []:
        assert parameter.default is not parameter.empty, f"{what}: {parameter.name} is required and is not YOLOv5's"


def _check_class(cls: Any, facts: dict[str, Any], what: str) -> None:
    if "alias_of" in facts:
        module, _, name = facts["alias_of"].rpartition(".")
        assert cls is getattr(importlib.import_module(module), name)
        return
    assert inspect.isclass(cls), f"{what} is no class"
    for base in facts.get("bases", ()):
        module, _, name = base.rpartition(".")
        assert issubclass(cls, getattr(importlib.import_module(module or "builtins"), name)), f"{what}: no {base}"
    if isinstance(facts.get("init"), list):
        _check_parameters(cls.__init__, facts["init"], f"{what}()")
    for name, wanted in facts.get("methods", {}).items():
        method = inspect.getattr_static(cls, name, None) or getattr(cls, name, None)
        assert method is not None, f"{what}.{name} is missing"
        if wanted == "property":
            assert isinstance(method, property), f"{what}.{name} is no property"
        else:
            _check_parameters(getattr(cls, name), wanted, f"{what}.{name}()")
    for name, wanted in facts.get("class_attributes", {}).items():
        found = getattr(cls, name)
        assert isinstance(wanted, str) or _same(found, wanted), f"{what}.{name} = {found!r}, expected {wanted!r}"


def _check_constant(value: Any, wanted: Any, what: str) -> None:
    if what in DECIDED_OTHERWISE:
        return
    if wanted == "PosixPath":
        assert isinstance(value, Path), what
    elif isinstance(wanted, str) and type(value).__name__ != "str":
        assert wanted == type(value).__name__ or " " in wanted, f"{what} is {value!r}, expected {wanted}"
    elif isinstance(wanted, str) and (" " in wanted or "<esc>" in wanted):
        assert isinstance(value, str) and value, what
    elif what.rpartition(".")[2] not in {"RANK", "LOCAL_RANK", "WORLD_SIZE", "PIN_MEMORY"}:
        assert _same(value, wanted), f"{what} is {value!r}, expected {wanted!r}"


def _ids(entries: list[tuple[str, str, str, Any]]) -> list[str]:
    return [f"{module}.{name}-{kind}" for module, name, kind, _ in entries]


@pytest.mark.parametrize(("module", "name", "kind", "facts"), ENTRIES, ids=_ids(ENTRIES))
def test_name(module, name, kind, facts):
    what = f"{module}.{name}"
    owner = importlib.import_module(module)
    assert hasattr(owner, name), f"{what} is missing"
    value = getattr(owner, name)
    if kind in {"functions", "reexported"}:
        assert callable(value), what
        old = OLD.get(module, {}).get(name, ())
        _check_parameters(value.__init__ if inspect.isclass(value) else value, facts["params"], what, old)
    elif kind == "classes":
        _check_class(value, facts, what)
    elif kind == "constants":
        _check_constant(value, facts, what)
    elif kind == "v7" and isinstance(facts, list):
        assert callable(value), what
        found = inspect.signature(value.__init__ if inspect.isclass(value) else value).parameters
        open_ended = any(p.kind is p.VAR_POSITIONAL for p in found.values())
        now = _present_names(module, name)
        missing = [p for i, p in enumerate(facts) if p not in found and not set(now[i : i + 1]) & set(found)]
        assert open_ended or not missing, f"{what}: {sorted(found)}, v7.0 had {facts}"


def _present_names(module: str, name: str) -> list[str]:
    """Return the parameters that a function of v7.0 has in newer clones, in order."""
    facts = API.get(module, {})
    entry = facts.get("functions", {}).get(name) or facts.get("reexported", {}).get(name) or {}
    return [p if isinstance(p, str) else p[0] for p in entry.get("params", ())]


@pytest.mark.parametrize("module", ABSENT_MODULES)
def test_old_module_names_forward(module):
    """utils.datasets and utils.google_utils, as releases before 6.2 and 5.0 called them."""
    now = importlib.import_module(ABSENT_MODULES[module].split("renamed to ")[1].split()[0])
    old = importlib.import_module(module)
    for name in API[now.__name__]["functions"]:
        assert getattr(old, name) is getattr(now, name)
    with pytest.raises(AttributeError):
        _ = old.no_such_name


def test_every_module_has_one_owner_per_name():
    """A name that several modules offer is one object: forwarding, never a second copy."""
    places: dict[str, list[Any]] = {}
    for module, name, kind, _ in ENTRIES:
        if kind in {"reexported", "also_importable_from_here"} and name not in {"fitness", "mixup"}:
            try:
                places.setdefault(name, []).append(getattr(importlib.import_module(module), name))
            except (ImportError, AttributeError):
                continue  # test_name reports it
    copies = {name for name, found in places.items() if any(x is not found[0] for x in found)}
    assert not copies
