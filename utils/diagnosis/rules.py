"""The table of advice rules: read from YAML, checked as a whole, every problem in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.diagnosis.fact_table import FACTS, FORMAT, SCOPES, Fact, places_of
from utils.errors import InputErrors
from utils.hyperparameter_table import Setting, nearest_name, plain_number, settings_of
from utils.paths import ROOT
from utils.yaml_files import read_yaml

DEFAULT_RULES = ROOT / "data/diagnosis_rules.yaml"
VERSION = 1
KINDS = ("labels", "data", "sampling", "loss", "model", "inference", "note")
COMPARISONS = ("above", "below", "at_least", "at_most", "is", "known")
TEXTS = ("title", "evidence", "suggestion")
KEYS = ("id", "scope", "kind", "when", *TEXTS, "command", "changes", "blocks", "at_most")
DEFAULT_MOST = 3


@dataclass(frozen=True)
class Condition:
    """One test of a fact; an unknown fact fails every test but ``known: false``."""

    fact: str
    comparison: str
    value: Any

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Return whether the fact's value passes."""
        value = values.get(self.fact)
        if self.comparison == "known":
            return (value is not None) == self.value
        if value is None:
            return False
        if self.comparison == "is":
            return value in self.value
        return {
            "above": value > self.value,
            "below": value < self.value,
            "at_least": value >= self.value,
            "at_most": value <= self.value,
        }[self.comparison]


@dataclass(frozen=True)
class Rule:
    """One rule: what must be measured, the evidence in words, what to change.

    ``when`` holds alternatives, each a tuple of conditions that must hold together. ``changes`` are keys of a hyp file.
    ``blocks`` names kinds of rules further down that are held back while this one holds. ``at_most`` limits the lines
    of a rule about classes or pairs.
    """

    id: str
    scope: str
    kind: str
    when: tuple[tuple[Condition, ...], ...]
    title: str
    evidence: str
    suggestion: str
    command: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()
    at_most: int = DEFAULT_MOST

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Return whether one of the alternatives holds."""
        return any(all(condition.holds(values) for condition in alternative) for alternative in self.when)


def read_rules(path: str | Path = DEFAULT_RULES) -> list[Rule]:
    """Return the rules of a YAML file, in its order, which is that of importance.

    Raises:
        InputError: the file is missing or not plain YAML.
        InputErrors: every problem: unknown keys, facts, settings, kinds, comparisons, wrong types or values.
    """
    table = read_yaml(path)
    problems: list[str] = []
    if table.get("version") != VERSION:
        problems.append(f"version is {table.get('version')!r}, allowed is {VERSION}")
    problems += [f"unknown key '{key}', allowed are version and rules" for key in table if key not in _TOP]
    entries = table.get("rules")
    if not isinstance(entries, list) or not entries:
        problems.append("'rules' is missing or empty, expected a list of rules")
        entries = []
    rules, seen = [], set()
    for number, entry in enumerate(entries, 1):
        rule, found = _read_rule(entry, number)
        if rule and rule.id in seen:
            found.append(f"rule {rule.id}: this id is given twice")
        seen.add(rule.id if rule else None)
        problems += found
        rules += [rule] if rule else []
    if problems:
        raise InputErrors(f"{path}: {problem}" for problem in problems)
    return rules


_TOP = ("version", "rules")


def _read_rule(entry: Any, number: int) -> tuple[Rule | None, list[str]]:
    """Return a rule (None when it cannot be built) and what is wrong with it."""
    if not isinstance(entry, Mapping):
        return None, [f"rule {number} is {entry!r}, expected 'key: value' lines"]
    where = f"rule {entry.get('id', number)}"
    problems = [_unknown("key", key, KEYS) for key in entry if key not in KEYS]
    problems += [f"'{key}' is missing" for key in ("id", "scope", "kind", "when", *TEXTS) if entry.get(key) is None]
    scope = entry.get("scope")
    for key, allowed in (("scope", SCOPES), ("kind", KINDS)):
        if entry.get(key) is not None and entry[key] not in allowed:
            problems.append(f"{key} is {entry[key]!r}, allowed are {', '.join(allowed)}")
    problems += _list_problems(entry)
    facts = FACTS.get(scope) if isinstance(scope, str) else None
    if facts:
        for key in (*TEXTS, "command"):
            problems += _text_problems(key, entry.get(key), facts)
    when, found = _read_when(entry.get("when"), facts or FACTS["pair"] | FACTS["class"])
    changes, found_changes = _read_changes(entry.get("changes"))
    problems += found + found_changes
    if problems:
        return None, [f"{where}: {problem}" for problem in problems]
    texts = {key: " ".join(str(entry[key]).split()) for key in TEXTS}
    return Rule(
        id=str(entry["id"]), scope=scope, kind=entry["kind"], when=when, **texts,
        command=" ".join(str(entry.get("command") or "").split()), changes=changes,
        blocks=tuple(entry.get("blocks") or ()), at_most=entry.get("at_most", DEFAULT_MOST),
    ), []  # fmt: skip


def _list_problems(entry: Mapping[str, Any]) -> list[str]:
    blocks, most = entry.get("blocks"), entry.get("at_most", DEFAULT_MOST)
    problems = []
    if blocks is not None and (not isinstance(blocks, list) or any(kind not in KINDS for kind in blocks)):
        problems.append(f"blocks is {blocks!r}, expected a list of {', '.join(KINDS)}")
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        problems.append(f"at_most is {most!r}, allowed are whole numbers from 1")
    return problems


def _text_problems(key: str, text: Any, facts: Mapping[str, Fact]) -> list[str]:
    if text is None:
        return []
    if not isinstance(text, str) or not text.strip():
        return [f"{key} is {text!r}, expected text"]
    problems = [f"{key}: {_unknown('fact', name, facts)}" for name, _ in places_of(text) if name not in facts]
    for name, spec in places_of(text):
        if name in facts and spec and (facts[name].kind != "number" or not FORMAT.fullmatch(spec)):
            problems.append(f"{key}: '{{{name}:{spec}}}' has the format '{spec}', allowed for numbers are , .2f .1% d")
    return problems


def _read_when(when: Any, facts: Mapping[str, Fact]) -> tuple[tuple[tuple[Condition, ...], ...], list[str]]:
    """Return the alternatives of 'when' (one mapping, or a list of them) and their problems."""
    if when is None:
        return (), []
    alternatives = when if isinstance(when, list) else [when]
    if not alternatives or not all(isinstance(item, Mapping) and item for item in alternatives):
        return (), [f"when is {when!r}, expected 'fact: {{above: number}}' lines, or a list of such blocks"]
    problems: list[str] = []
    read = []
    for item in alternatives:
        conditions = []
        for fact, tests in item.items():
            if fact not in facts:
                problems.append(f"when: {_unknown('fact', fact, facts)}")
            elif not isinstance(tests, Mapping) or not tests:
                problems.append(f"when {fact}: {tests!r}, expected for example {{above: 0.5}}")
            else:
                found, wrong = _read_tests(str(fact), plain_number(tests), facts[fact])
                conditions += found
                problems += wrong
        read.append(tuple(conditions))
    return tuple(read), problems


def _read_tests(fact: str, tests: Mapping[str, Any], rule: Fact) -> tuple[list[Condition], list[str]]:
    conditions, problems = [], []
    for comparison, value in tests.items():
        if comparison not in COMPARISONS:
            problems.append(f"when {fact}: {_unknown('comparison', comparison, COMPARISONS)}")
            continue
        value = tuple(value if isinstance(value, list) else [value]) if comparison == "is" else value
        problem = _value_problem(comparison, value, rule)
        if problem:
            problems.append(f"when {fact}: {problem}")
        conditions.append(Condition(fact, str(comparison), value))
    return conditions, problems


def _value_problem(comparison: str, value: Any, rule: Fact) -> str:
    """Return what is wrong with the value that a fact is compared with, '' when nothing is."""
    if comparison == "known":
        return "" if isinstance(value, bool) else f"known is {value!r}, allowed are true and false"
    if comparison == "is":
        wrong = [item for item in value if not isinstance(item, str) or (rule.words and item not in rule.words)]
        if rule.kind == "number":
            return "is compares words, this fact is a number; allowed are above, below, at_least, at_most"
        allowed = ", ".join(rule.words) or "text"
        return f"is {wrong[0]!r}, allowed are {allowed}" if wrong else ""
    if rule.kind != "number":
        return f"{comparison} compares numbers, this fact is text; allowed are is, known"
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return "" if number else f"{comparison} is {value!r}, expected a number"


def _read_changes(changes: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the hyp keys that a rule changes and their problems."""
    if changes is None:
        return {}, []
    if not isinstance(changes, Mapping) or not changes:
        return {}, [f"changes is {changes!r}, expected 'hyp key: value' lines"]
    known = _settings()
    problems = []
    values = {str(key): plain_number(value) for key, value in changes.items()}
    for key, value in values.items():
        if key not in known:
            problems.append(f"changes: {_unknown('hyp key', key, known)}")
        elif not known[key].accepts(value):
            problems.append(f"changes: {key} is {value!r}, expected {known[key].allowed}")
    return values, problems


def _settings() -> dict[str, Setting]:
    from utils.hyperparameters import Hyperparameters

    return settings_of(Hyperparameters)


def _unknown(what: str, name: Any, known: Any) -> str:
    near = nearest_name(name, known)
    return f"unknown {what} '{name}', " + (f"did you mean '{near}'?" if near else f"allowed are {', '.join(known)}")
