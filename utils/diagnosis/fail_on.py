"""--fail-on: tests of a diagnosis that end the command with status 1, for continuous integration."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from utils.diagnosis.audit_findings import CODES
from utils.diagnosis.fact_table import RUN_FACTS
from utils.errors import InputErrors, WorkErrors
from utils.hyperparameter_table import nearest_name

TEST = re.compile(r"\s*([A-Za-z]\w*)\s*(?:(<=|>=|<|>)\s*([+-]?\d+\.?\d*(?:[eE][+-]?\d+)?)\s*)?")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge,
}  # fmt: skip
FORMS = "a number of the diagnosis with < <= > >= and a limit, such as map50<60 or L12>0"


@dataclass(frozen=True)
class Test:
    """One test: the text as given, the number that it looks at, the comparison and the limit."""

    text: str
    name: str
    comparison: str
    limit: float

    def fails(self, value: float) -> bool:
        """Return whether the value makes the command fail."""
        return COMPARE[self.comparison](value, self.limit)


def read_tests(texts: Sequence[str]) -> list[Test]:
    """Return the tests of --fail-on; a name alone means more than 0.

    Raises:
        InputErrors: a test that cannot be read, or a number that no diagnosis has.
    """
    known = [name for name, fact in RUN_FACTS.items() if fact.kind == "number"]
    problems, tests = [], []
    for text in texts:
        found = TEST.fullmatch(text)
        if not found:
            problems.append(f"--fail-on {text}: allowed is {FORMS}")
            continue
        name, comparison, limit = found.groups()
        if name not in CODES and name not in known:
            near = nearest_name(name, known)
            hint = f"did you mean '{near}'?" if near else f"known are L01 to L22 and {', '.join(known)}"
            problems.append(f"--fail-on {text}: unknown number '{name}', {hint}")
        tests.append(Test(text, name, comparison or ">", float(limit or 0)))
    if problems:
        raise InputErrors(problems)
    return tests


def check_tests(tests: Sequence[Test], run: Mapping[str, Any], codes: Mapping[str, int] | None) -> None:
    """Raise WorkErrors with a line for each test that holds, or whose number was not measured.

    Args:
        tests: of ``read_tests``.
        run: facts of the run.
        codes: audit code -> findings, of those that were looked for; None when no audit was made.
    """
    lines = []
    for test in tests:
        value = (codes or {}).get(test.name) if test.name in CODES else run.get(test.name)
        if value is None:
            lines.append(f"--fail-on {test.text}: {test.name} was not measured by these tasks")
        elif test.fails(value):
            lines.append(f"--fail-on {test.text}: {test.name} is {value:.6g}")
    if lines:
        raise WorkErrors(lines)
