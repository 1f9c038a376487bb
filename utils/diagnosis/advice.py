"""Advice: the rules that hold for what was measured, and a hyp file with the settings that they change."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from utils.balance.loss_names import COUNT_BASED, base_loss
from utils.diagnosis.fact_table import UNKNOWN_TEXT, fill
from utils.diagnosis.rules import Rule
from utils.errors import InputErrors, WorkError
from utils.hyperparameter_rules import DRAWING, is_on
from utils.hyperparameter_table import settings_of
from utils.hyperparameters import Hyperparameters

LONGEST_COMMENT = 116
OPTIONS_PLACE = " {train_options}"
RAISED = ("cls", "obj_pw", "mixup", "rare_paste", "label_smoothing")  # which rules raise and never lower
# What corrects the balance of the classes, by the keys that do it. Two of these at once multiply.
CORRECTIONS: dict[str, tuple[str, ...]] = {
    "class weights": ("cls_weights", "cls_pw"),
    "drawing rare classes more often": DRAWING,
    "a loss that counts classes": ("cls_loss",),
}


@dataclass(frozen=True)
class Facts:
    """What was measured: values of the run, and rows of values for classes, pairs and comparisons; None is unknown."""

    run: dict[str, Any] = field(default_factory=dict)
    classes: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)

    def rows(self, scope: str) -> list[dict[str, Any]]:
        """Return the values that a rule of this scope sees, a mapping per line that it may give."""
        own = {"run": [{}], "class": self.classes, "pair": self.pairs, "comparison": self.comparisons}[scope]
        return [{**self.run, **row} for row in own]


@dataclass(frozen=True)
class Line:
    """One piece of advice: the rule, what it is about ('' for the run), and its texts.

    ``changes`` are the hyp keys of the rule; ``held_back_by`` names the rule further up that must be dealt with first.
    """

    rule: str
    title: str
    kind: str
    about: str
    evidence: str
    suggestion: str
    command: str
    changes: dict[str, Any]
    held_back_by: str = ""


@dataclass(frozen=True)
class Change:
    """One key of the hyp file: its value before and after, the rule, and the rule's evidence."""

    key: str
    before: Any
    after: Any
    rule: str
    why: str


@dataclass(frozen=True)
class Advice:
    """Lines in order of importance, those held back, and the hyp file that follows from the former.

    Attributes:
        lines: what to do.
        held_back: what would be advised if a rule further up did not come first.
        hyp: every key of the suggested hyp file.
        changes: the keys that differ from the base.
        notes: suggested settings that were left out or are in use already, in words.
    """

    lines: tuple[Line, ...]
    held_back: tuple[Line, ...]
    hyp: dict[str, Any]
    changes: tuple[Change, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and mappings for summary.json."""
        return {
            "lines": [asdict(line) for line in self.lines],
            "held_back": [asdict(line) for line in self.held_back],
            "changes": [asdict(change) for change in self.changes],
            "notes": list(self.notes),
        }


def advise(rules: Iterable[Rule], facts: Facts, base: Mapping[str, Any]) -> Advice:
    """Return the advice that follows from the facts.

    Args:
        rules: in order of importance.
        facts: what was measured.
        base: hyperparameters of the run, any part of the keys; required ones that it lacks take their defaults.

    Raises:
        InputErrors: the base itself is no valid set of hyperparameters.
    """
    lines: list[Line] = []
    held: list[Line] = []
    blocked: dict[str, str] = {}
    for rule in rules:
        found = [row for row in facts.rows(rule.scope) if rule.holds(row)][: rule.at_most]
        by = blocked.get(rule.kind, "")
        (held if by else lines).extend(replace(_line(rule, row), held_back_by=by) for row in found)
        if found and not by:
            for kind in rule.blocks:
                blocked.setdefault(kind, rule.id)
    hyp, changes, notes = changed_hyp(lines, base)
    return Advice(tuple(lines), tuple(held), hyp, tuple(changes), tuple(notes))


def _line(rule: Rule, row: Mapping[str, Any]) -> Line:
    about = {
        "run": "",
        "class": row.get("name"),
        "pair": f"{row.get('true')} taken for {row.get('predicted')}",
        "comparison": row.get("compare_name"),
    }[rule.scope]
    return Line(
        rule.id, fill(rule.title, row), rule.kind, about or "", fill(rule.evidence, row), fill(rule.suggestion, row),
        _command(rule.command, row), dict(rule.changes),
    )  # fmt: skip


def _command(template: str, row: Mapping[str, Any]) -> str:
    """Return a command with its values quoted for a shell, '' when one of them is unknown.

    Options of the run that are not known are left to the reader, as a comment of the shell.
    """
    options = row.get("train_options")
    known = "# and the other options of your run" if options is None else options
    text = fill(template.replace(OPTIONS_PLACE, ""), row, quote=shlex.quote)
    return "" if UNKNOWN_TEXT in text else f"{text} {known}".strip() if OPTIONS_PLACE in template else text


# The hyp file ---------------------------------------------------------------------------------------------------------


def changed_hyp(lines: Sequence[Line], base: Mapping[str, Any]) -> tuple[dict[str, Any], list[Change], list[str]]:
    """Return the hyperparameters with the lines' changes, the changes, and notes on what was left out.

    The first line that changes a key wins. A line whose changes contradict the others is left out as a whole. Where
    the classes' balance is corrected already, by the run or by a line further up, no second correction is added.
    """
    settings = settings_of(Hyperparameters)
    hyp = {key: rule.default for key, rule in settings.items() if rule.required} | dict(base)
    Hyperparameters.from_dict(hyp, source="hyperparameters of the run", strict=False)
    hyp = {key: value for key, value in hyp.items() if key in settings}
    changes: dict[str, Change] = {}
    notes: list[str] = []
    for line in lines:
        wanted, found_notes = _wanted(line, hyp, changes)
        wanted, doubled = _without_second_correction(line, wanted, hyp)
        notes += [note for note in [*found_notes, *doubled] if note not in notes]
        trial = hyp | wanted
        try:
            Hyperparameters.from_dict(trial, source="advice")
        except InputErrors as error:
            notes.append(f"{line.rule}: {', '.join(wanted)} left out: {str(error.problems[0])}")
            continue
        for key, value in wanted.items():
            before = hyp.get(key, settings[key].default)
            changes[key] = Change(key, before, value, line.rule, f"{_titled(line)}. {line.evidence}")
        hyp = trial
    return hyp, list(changes.values()), notes


def _wanted(line: Line, hyp: Mapping[str, Any], changes: Mapping[str, Change]) -> tuple[dict[str, Any], list[str]]:
    """Return the line's changes that are still to be made, and notes on the others."""
    settings = settings_of(Hyperparameters)
    wanted, notes = {}, []
    for key, value in line.changes.items():
        if key in changes:
            if changes[key].after != value:
                notes.append(
                    f"{line.rule}: {key} {value} left out, {changes[key].rule} sets it to {changes[key].after}"
                )
        elif (before := hyp.get(key, settings[key].default)) == value:
            if is_on(value):  # what is off and is to be off is no news
                notes.append(f"{line.rule}: {key} {value} is in use already")
        elif _is_stronger(key, before, value):
            notes.append(f"{line.rule}: {key} {value} left out, {before} is in use already")
        else:
            wanted[key] = value
    return wanted, notes


def _is_stronger(key: str, before: Any, value: Any) -> bool:
    """Return whether a setting does already what a line wants of it, or more."""
    if key in RAISED:
        return isinstance(before, (int, float)) and isinstance(value, (int, float)) and before > value
    return key == "sampler" and is_on(before)


def _without_second_correction(
    line: Line, wanted: Mapping[str, Any], hyp: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the wanted changes without those that correct the balance in another way than the settings do already."""
    in_force = _corrections(hyp)
    second = [way for way in _corrections(wanted) if in_force and way not in in_force]
    if not second:
        return dict(wanted), []
    out = [key for key in wanted if any(key.startswith(start) for way in second for start in CORRECTIONS[way])]
    already = " and ".join(f"{key} {hyp[key]}" for keys in in_force.values() for key in keys)
    note = (
        f"{line.rule}: {', '.join(out)} left out, {already} corrects the balance already, and two corrections multiply"
    )
    return {key: value for key, value in wanted.items() if key not in out}, [note]


def _corrections(hyp: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return which ways of CORRECTIONS the settings use, with the keys that do it."""
    at_work = {
        "cls_weights": hyp.get("cls_weights") is not None,
        "cls_pw": isinstance(hyp.get("cls_pw"), Sequence),
        "sampler": is_on(hyp.get("sampler")),
        "rare_paste": is_on(hyp.get("rare_paste")),
        "cls_loss": base_loss(hyp.get("cls_loss")) in COUNT_BASED,
    }
    ways = {way: [key for key in keys if at_work[key]] for way, keys in CORRECTIONS.items()}
    return {way: keys for way, keys in ways.items() if keys}


def _titled(line: Line) -> str:
    return f"{line.title} ({line.about})" if line.about else line.title


def write_advice(path: str | Path, advice: Advice, *, base: str, run: str) -> None:
    """Write a whole hyp file that train.py --hyp takes; each changed key stands below the reason for it.

    Args:
        path: the file.
        advice: from ``advise``.
        base: where the unchanged values come from, for the comment.
        run: the diagnosis, for the comment.

    Raises:
        WorkError: it cannot be written.
    """
    settings = settings_of(Hyperparameters)
    changed = {change.key: change for change in advice.changes}
    rows = [
        *_comment(f"Hyperparameters suggested by the diagnosis {run}, for train.py --hyp."),
        *_comment(f"Unchanged values are those of {base}. Changed: {', '.join(changed) or 'nothing'}."),
        *_comment("Train base and advice with three seeds each; believe a difference that is larger than the seeds'."),
        "",
        *(_entry(key, value, settings[key].meaning) for key, value in advice.hyp.items() if key not in changed),
    ]
    why = ""
    for change in advice.changes:
        if change.why != why:
            rows += ["", *_comment(f"{change.rule}: {change.why}")]
            why = change.why
        rows.append(_entry(change.key, change.after, f"was {_inline(change.before)}: {settings[change.key].meaning}"))
    if advice.notes:
        rows += ["", *(line for note in advice.notes for line in _comment(note))]
    try:
        Path(path).write_text("\n".join(rows) + "\n", encoding="utf-8")
    except OSError as error:
        raise WorkError(f"{path}: cannot be written ({error.strerror})") from error
    Hyperparameters.from_dict(_read_back(path), source=str(path))


def _read_back(path: str | Path) -> dict[str, Any]:
    from utils.yaml_files import read_yaml

    return read_yaml(path)


def _entry(key: str, value: Any, remark: str) -> str:
    text = f"{key}: {_inline(value)}"
    return f"{text:<30} # {_clean(remark)}" if len(text) < LONGEST_COMMENT else text


def _inline(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=False)
    return text.removesuffix("...\n").strip()


def _comment(text: str) -> list[str]:
    """Return a text as comment lines."""
    import textwrap

    return [f"# {line}" for line in textwrap.wrap(_clean(text), LONGEST_COMMENT, break_long_words=False)]


def _clean(text: str) -> str:
    """Return a text on one line without characters that YAML refuses or that end a line."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
