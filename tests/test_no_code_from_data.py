"""The source itself: no call that turns data into code; one reader each for YAML, checkpoints and the network."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {"tests", "runs", ".git"}
FILES = sorted(path for path in ROOT.rglob("*.py") if not LEFT_OUT & set(path.relative_to(ROOT).parts))
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

NEVER_CALLED = {
    "eval", "exec", "compile", "__import__", "breakpoint", "execfile",
    "builtins.eval", "builtins.exec", "os.system", "os.popen", "os.startfile", "runpy.run_path", "runpy.run_module",
    "subprocess.getoutput", "subprocess.getstatusoutput", "torch.hub.load", "torch.hub.load_state_dict_from_url",
    "torch.utils.cpp_extension.load", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all",
    "torch.utils.model_zoo.load_url", "pd.read_pickle", "pandas.read_pickle", "shutil.unpack_archive",
}  # fmt: skip
NEVER_IMPORTED = {"marshal", "dill", "cloudpickle", "joblib", "shelve", "code", "codeop", "runpy", "pip", "ensurepip"}
# What only these files may do: (dotted names, files)
OWNERS = {
    ("torch.load", "torch.save", "torch.serialization"): {"utils/checkpoint.py"},
    ("yaml.SafeLoader", "yaml.safe_load", "yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader"): {
        "utils/yaml_files.py",
    },
    ("zipfile.ZipFile", "tarfile.open"): {
        "utils/data/archives.py", "utils/data/label_cache.py", "utils/checkpoints/scan.py",
        "utils/validation.py",  # writes one
        "models/backend_formats/tflite_file.py",  # facts after a network, one member of bounded size
    },
    ("urllib.request", "http.client", "requests"): {
        "utils/downloads.py", "utils/guarded_http.py",
        "utils/flask_rest_api/example_request.py",  # a client of the service that its user names
    },
    ("socket.socket",): {"utils/guarded_http.py", "utils/training/watch.py"},  # the latter between the ranks of a run
}  # fmt: skip


def dotted(node: ast.AST) -> str:
    """Return ``a.b.c`` of an expression of names, else ''."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return node.id if isinstance(node, ast.Name) else ""


def used_names(tree: ast.AST) -> Iterator[str]:
    """Yield every dotted name used and every module imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node):
            yield dotted(node)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", TREES)
def test_no_call_turns_data_into_code(name: str) -> None:
    for node in ast.walk(TREES[name]):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        assert called not in NEVER_CALLED, f"{name}, line {node.lineno}: {called}"
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert keywords.get("shell", "False") == "False", f"{name}, line {node.lineno}: shell"
        assert keywords.get("allow_pickle", "False") == "False", f"{name}, line {node.lineno}: allow_pickle"
        assert keywords.get("weights_only", "True") == "True", f"{name}, line {node.lineno}: weights_only"
        if called in {"torch.load"}:
            assert "weights_only" in keywords, f"{name}, line {node.lineno}: torch.load without weights_only"


@pytest.mark.parametrize("name", TREES)
def test_modules_that_load_code_are_not_used(name: str) -> None:
    used = set(used_names(TREES[name]))
    assert not {part.split(".")[0] for part in used} & NEVER_IMPORTED, name
    pickled = {part for part in used if part.startswith("pickle.") and part != "pickle.UnpicklingError"}
    assert not pickled, f"{name}: {pickled}"
    assert not {part for part in used if part.startswith("os.exec") or part.startswith("os.spawn")}, name


@pytest.mark.parametrize("names", OWNERS, ids=lambda names: names[0])
def test_one_owner_each(names: tuple[str, ...]) -> None:
    users = {
        file for file, tree in TREES.items()
        for used in used_names(tree) if any(used == name or used.startswith(f"{name}.") for name in names)
    }  # fmt: skip
    assert users <= OWNERS[names], users - OWNERS[names]


def test_no_command_of_an_installer_is_started() -> None:
    """Lists of words that are run name no installer; hints to users are text of one piece."""
    words = {"pip", "pip3", "conda", "uv", "apt", "apt-get"}
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.List, ast.Tuple)):
                found = {e.value for e in node.elts if isinstance(e, ast.Constant) and isinstance(e.value, str)} & words
                assert not found, f"{name}, line {node.lineno}: {found}"


def test_modules_are_imported_by_names_of_this_project() -> None:
    """``import_module`` gets literals or entries of tables that stand in the source, never a name out of a file."""
    allowed_tables = ("_OWNERS", "_ELSEWHERE", "_LIBRARIES", "_MOVED", "FORWARDED", "GENERATORS", "stock.module")
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and dotted(node.func).endswith("import_module"):
                argument = ast.unparse(node.args[0])
                literal = isinstance(node.args[0], ast.Constant)
                table = argument.split("[")[0].strip() in allowed_tables
                resolved = name == "utils/checkpoints/classes.py" and argument == "place"  # of MODULE_PATHS
                forwarded = name == "utils/forwarding.py"  # its callers are looked at below
                timed = name == "benchmarks/speed_parts/work.py"  # the package that its caller compares with
                assert literal or table or resolved or forwarded or timed, (
                    f"{name}, line {node.lineno}: import_module({argument})"
                )


def test_names_are_forwarded_to_modules_that_stand_in_the_source() -> None:
    shared = tables_of(TREES["utils/prediction.py"])
    for name, tree in TREES.items():
        tables = {**shared, **tables_of(tree)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or dotted(node.func) not in {"forwarding", "owner_function"}:
                continue
            if node.func.id == "owner_function":
                assert all(isinstance(argument, ast.Constant) for argument in node.args[:2]), f"{name}: {node.lineno}"
                continue
            table = node.args[1]
            while isinstance(table, ast.Name):
                table = tables[table.id]
            assert isinstance(table, ast.Dict) and table.values, f"{name}: {node.lineno}"
            for value in table.values:
                taken_over = isinstance(value, ast.Name) and isinstance(tables[value.id], ast.Dict)
                assert taken_over or isinstance(value, (ast.Constant, ast.Call, ast.Lambda)), ast.unparse(value)


def tables_of(tree: ast.Module) -> dict[str, ast.expr]:
    """Return what a module assigns to its names."""
    return {
        target.id: node.value
        for node in tree.body if isinstance(node, ast.Assign)
        for target in node.targets if isinstance(target, ast.Name)
    }  # fmt: skip
