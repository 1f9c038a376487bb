"""Who may import whom, read from the source: arrows point down, importing is cheap, nothing runs code from data."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [
    path
    for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("models/**/*.py"), *ROOT.glob("utils/**/*.py")])
    if "runs" not in path.parts
]
HEAVY = {"matplotlib", "torchvision", "pandas", "scipy", "tensorboard", "albumentations", "PIL", "faster_coco_eval"}
SCRIPTS = {"train", "val", "detect", "diagnose", "preview", "export", "benchmarks", "hubconf"}
CHECKPOINT_OWNERS = ("checkpoint",)
ON_DEMAND = {"utils.classification.dataset": "torchvision"}  # its base class; imported within functions alone


def _name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _top_level(tree):
    """Yield the import statements that run when the module is imported."""
    stack = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            stack += [*node.body, *getattr(node, "orelse", [])]


def _modules(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]


TREES = {_name(path): ast.parse(path.read_text()) for path in FILES}
ARROWS = {
    name: {m for node in _top_level(tree) for m in _modules(node) if m in TREES and m != name}
    for name, tree in TREES.items()
}


@pytest.mark.parametrize("name", TREES)
def test_heavy_packages_are_imported_where_they_are_used(name):
    heavy = {m.split(".")[0] for node in _top_level(TREES[name]) for m in _modules(node)} & HEAVY
    assert not heavy - {ON_DEMAND.get(name)}, f"{name} imports {heavy} at its top"
    assert not ARROWS[name] & set(ON_DEMAND), f"{name} imports {ARROWS[name] & set(ON_DEMAND)} at its top"


def test_there_is_no_cycle_of_imports():
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(ARROWS[name]):
            visit(other)
        path.pop()
        done.add(name)

    for name in ARROWS:
        visit(name)


def test_no_module_imports_a_script():
    for name, targets in ARROWS.items():
        assert not targets & SCRIPTS, f"{name} imports {targets & SCRIPTS}"


def test_models_and_losses_know_no_data_and_no_plots():
    for name in ("models.common", "models.yolo", "utils.loss", "utils.boxes", "utils.metrics"):
        wrong = {
            t for t in ARROWS[name] if t.startswith(("utils.data", "utils.plot", "utils.loggers", "utils.training"))
        }
        assert not wrong, f"{name} imports {wrong}"


@pytest.mark.parametrize("name", TREES)
def test_no_code_runs_from_text(name):
    """No eval, exec, shell or pickle, and torch.load only where checkpoints are read."""
    for node in ast.walk(TREES[name]):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in {"eval", "exec", "os.system", "pickle.load", "pickle.loads"}, f"{name}: {called}"
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert keywords.get("shell") != "True" and keywords.get("allow_pickle") != "True", name
        assert keywords.get("weights_only") != "False", name
        if called in {"torch.load", "torch.save"}:
            assert any(owner in name for owner in CHECKPOINT_OWNERS), f"{name} calls {called}"
