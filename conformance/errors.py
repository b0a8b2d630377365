"""Everything this package raises about its own input.

ConformanceError
├── BadInput              the user's input is wrong; the command ends with status 2
│   ├── SpecError         a suite of cases: every problem of the file, each with file, line and key
│   ├── BadRunFile        a run file that is truncated, foreign or newer than this program
│   └── UnknownTarget     a name that the registry does not have
└── OracleRounded         the oracle met numbers that float64 cannot sum exactly; our own fault
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from conformance.text import printable


class ConformanceError(Exception):
    """Base of all errors raised by this package."""


class BadInput(ConformanceError):
    """What the user gave cannot be used; the text says what was expected."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong in a file: ``cases/x.yaml:14: cases.sweep.stride: expected ...``."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        return printable(f"{self.file}:{self.line}: {self.key + ': ' if self.key else ''}{self.message}")


MOST_TOLD = 200


class SpecError(BadInput):
    """A suite file that cannot be used; ``problems`` holds all that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        told = [str(problem) for problem in self.problems[:MOST_TOLD]]
        if len(self.problems) > MOST_TOLD:
            told.append(f"... and {len(self.problems) - MOST_TOLD} more")
        super().__init__("\n".join(told))


class BadRunFile(BadInput):
    """A run file that cannot be read or resumed."""


class UnknownTarget(BadInput):
    """A target that does not exist."""


class OracleRounded(ConformanceError):
    """The oracle would have rounded: its answer cannot judge anyone."""
