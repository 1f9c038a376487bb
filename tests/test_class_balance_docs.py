"""docs/class-balance.md: its tables are the program's, it leaves nothing out, its pictures are there and small."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from utils.balance.loss_names import COMPOSITES, LOSS_PARAMETERS
from utils.hyperparameters import SAMPLERS, WEIGHT_SCHEMES

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "class-balance.md").read_text(encoding="utf-8")
PROSE = re.sub(r"<!-- (\w+): written.*?<!-- end of \1 -->", "", PAGE, flags=re.DOTALL)
DEFINED_HERE = ("biscale", "Dynamic", "Attention-guided", "Boundary-adaptive", "Hard objects")


def script(name: str) -> ModuleType:
    """Import a script of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_the_program() -> None:
    """When this fails: python docs/key_table.py."""
    assert script("key_table").updated(PAGE) == PAGE


def test_table_holds_every_key_once() -> None:
    module = script("key_table")
    for key, rule in module.balance_settings().items():
        rows = [line for line in module.key_table() if f"`{key}`" in line.split("|")[1]]
        assert len(rows) == 1
        assert f"| {module.shown(rule.default)} |" in rows[0]


@pytest.mark.parametrize(
    "name", [*LOSS_PARAMETERS, *COMPOSITES, *(s for s in SAMPLERS if s != "none"), *WEIGHT_SCHEMES]
)
def test_everything_is_explained(name: str) -> None:
    assert f"`{name}`" in PROSE


def test_every_key_is_in_the_text() -> None:
    """Keys of the objectness head may be left to those of the class head."""
    heads = {
        key: (key, f"cls_{key[4:]}" if key.startswith("obj_") else key)
        for key in script("key_table").balance_settings()
    }
    named_by_symbol = {"spos", "sneg", "gpos", "gneg", "clip", "alpha", "gamma", "vfl_weighted", "asl_detach"}
    missing = [key for key, either in heads.items()
               if not any(one in PROSE for one in either) and key[4:] not in named_by_symbol]  # fmt: skip
    assert not missing


@pytest.mark.parametrize("name", DEFINED_HERE)
def test_what_is_ours_says_so(name: str) -> None:
    (paragraph,) = re.findall(rf"^\*\*`?{name}`?\*\*.*?(?=\n\n)", PROSE, flags=re.DOTALL | re.MULTILINE)
    assert "Defined here; no published definition" in " ".join(paragraph.split())


@pytest.mark.parametrize("name", [name for name in LOSS_PARAMETERS if name not in {"bce", "biscale", "bceblur"}])
def test_the_others_name_their_paper(name: str) -> None:
    (paragraph,) = re.findall(rf"^\*\*`{name}`\*\*.*?(?=\n\n)", PROSE, flags=re.DOTALL | re.MULTILINE)
    assert "arxiv.org" in paragraph or "as above" in paragraph
    assert "Cost:" in paragraph


def test_pictures_are_there_and_small() -> None:
    shown = set(re.findall(r"\]\(pictures/(\w+)\.png\)", PAGE))
    assert shown == {path.stem for path in (DOCS / "pictures").iterdir()} == set(script("draw_curves").PICTURES)
    assert all(path.stat().st_size <= 60 * 1024 for path in (DOCS / "pictures").iterdir())


def test_pictures_can_be_drawn(tmp_path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    module = script("draw_curves")
    for draw in module.PICTURES.values():
        figure = draw()
        assert all(axes.lines or axes.patches for axes in figure.axes)
    module.save_small(figure, tmp_path / "last.png")
    plt.close("all")
    assert (tmp_path / "last.png").stat().st_size < 60 * 1024


def test_files_that_the_page_names_exist() -> None:
    for name in re.findall(r"`((?:data|docs|models)/[\w./-]+)`", PROSE):
        assert (DOCS.parent / name).exists(), name
    anchors = {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
               for line in PAGE.splitlines() if line.startswith("#")}  # fmt: skip
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= anchors
