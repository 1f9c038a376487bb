"""Write the tables of keys in docs/class-balance.md from the settings that the program checks.

python docs/key_table.py          # rewrite what lies between the markers
python docs/key_table.py --check  # status 1 when they are out of date
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent / "class-balance.md"
sys.path.insert(0, str(PAGE.parents[1]))

from utils.balance.loss_names import CLASS_ONLY, COMPOSITES, LOSS_PARAMETERS  # noqa: E402
from utils.hyperparameter_table import Setting, settings_of  # noqa: E402
from utils.hyperparameters import Hyperparameters  # noqa: E402

BEGIN, END = "<!-- {}: written by docs/key_table.py -->", "<!-- end of {} -->"
UPSTREAM = ("fl_gamma", "cls_pw", "obj_pw")  # keys of every hyp file that belong here as well
NOT_BALANCE = ("anchors", "label_smoothing", "mosaic_pool")  # optional keys of other subjects
HEADS = {"cls_": ", class head", "obj_": ", objectness"}


def shown(value: object) -> str:
    """Return a value as YAML would hold it, numbers short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(shown, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def balance_settings() -> dict[str, Setting]:
    """Return the settings that class balance reads."""
    return {
        key: rule
        for key, rule in settings_of(Hyperparameters).items()
        if key in UPSTREAM or (not rule.required and key not in NOT_BALANCE)
    }


def key_table() -> list[str]:
    """Return the lines of the table of keys; a key of each head shares a row where all else is equal."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for key, rule in balance_settings().items():
        meaning = rule.meaning
        for prefix, ending in HEADS.items():
            meaning = meaning.replace(ending, "") if key.startswith(prefix) else meaning
        allowed = rule.allowed.replace(" | ", ", ")
        rows.setdefault((meaning, allowed, shown(rule.default)), []).append(f"`{key}`")
    lines = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    return lines + [
        f"| {', '.join(keys)} | {default} | {allowed} | {meaning} |"
        for (meaning, allowed, default), keys in rows.items()
    ]


def loss_table() -> list[str]:
    """Return the lines of the table of losses with what each reads and its own values."""
    lines = ["| name | heads | reads, with its own value where the key is null |", "|---|---|---|"]
    for name, parameters in LOSS_PARAMETERS.items():
        heads = "class" if name in CLASS_ONLY else "class, objectness"
        prefixes = {key: "cls" if name in CLASS_ONLY or key == "qtarget" else "*" for key in parameters}
        reads = ", ".join(f"`{prefixes[key]}_{key}` {shown(value)}" for key, value in parameters.items()) or "nothing"
        lines.append(f"| `{name}` | {heads} | {reads} |")
    for name, settings in COMPOSITES.items():
        reads = ", ".join(f"`{key.format(head='*')}` {shown(value)}" for key, value in settings.items())
        lines.append(f"| `{name}` | class, objectness | `focal` with {reads} |")
    return lines


TABLES = {"keys": key_table, "losses": loss_table}


def updated(page: str) -> str:
    """Return the page with every table as the program has it now."""
    for name, table in TABLES.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, rest = page.split(begin)
        _, after = rest.split(end)
        page = f"{before}{begin}\n{chr(10).join(table())}\n{end}{after}"
    return page


def main() -> int:
    """Rewrite or check the page; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    opt = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    new = updated(page)
    if not opt.check:
        PAGE.write_text(new, encoding="utf-8")
    return int(opt.check and new != page)


if __name__ == "__main__":
    sys.exit(main())
