"""The comparison of two runs, as JSON has it."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from conformance.comparison.transitions import Transition

Number = float | Literal["inf", "-inf", "nan"] | None
"""None where nothing was measured; what JSON cannot say is text."""


def number(value: float | None) -> Number:
    if value is None or math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Side(_Model):
    """A run: the file, and what it was made with; empty where the file does not say."""

    file: str
    verdicts: int
    conformance: str = ""
    python: str = ""
    platform: str = ""
    cpu: str = ""
    versions: dict[str, str] = {}
    profile: str = ""
    suites: str = ""
    data: str = ""
    seed: str = ""
    threads: str = ""
    started: str = ""
    finished: bool | None = None


class Difference(_Model):
    """Something that the runs were made with and that differs: a package's version, a setting of a target."""

    what: str
    old: str
    new: str


class Note(_Model):
    """What cannot be compared, or only in part, and why; one sentence."""

    about: Literal["seed", "conformance", "case", "cases", "finished", "repeat", "time"]
    text: str


class Counts(_Model):
    """Cells by what happened to them.

    ``compared`` cells are in both runs with the same meaning; ``unchanged`` of them neither changed nor lost
    arithmetic.  ``silent`` are those among ``newly_failing`` that give wrong values.  ``came`` and ``gone`` are in one
    run only; ``incomparable`` have a case that says something else now.
    """

    compared: int = 0
    unchanged: int = 0
    newly_failing: int = 0
    silent: int = 0
    fails_worse: int = 0
    lost_arithmetic: int = 0
    newly_known: int = 0
    fails_differently: int = 0
    newly_unsupported: int = 0
    newly_open: int = 0
    fixed: int = 0
    newly_supported: int = 0
    gained_arithmetic: int = 0
    no_longer_open: int = 0
    came: int = 0
    gone: int = 0
    incomparable: int = 0


class Cell(_Model):
    """One case on one kind of data, on the target of the change that it belongs to."""

    case: str
    data: str


class Example(Cell):
    """One of the cells of a change, with what was said of it and the largest error, before and after."""

    old_message: str
    new_message: str
    old_error: Number
    new_error: Number


class Change(_Model):
    """Cells of a target that changed in the same way.

    ``old`` and ``new`` are verdicts; ``silent`` says that values became wrong.  ``deviation`` is the documented one
    that predicts the new verdict, or the old one.
    """

    transition: Transition
    regression: bool
    silent: bool
    target: str
    old: str
    new: str
    reason: str
    deviation: str
    count: int
    example: Example
    cells: tuple[Cell, ...]


class Moved(_Model):
    """Cells that are in one run only: of a suite, or of a whole target that the other run does not have.

    ``failing`` of them fail, documented failures not counted.
    """

    target: str
    suite: str
    whole_target: bool
    cells: int
    failing: int


class Shift(_Model):
    """Errors or times of a group of cells that grew or shrank, where that is both real and large.

    ``group`` is a suite, or a family of cases such as ``sweep/line``; all cells of the target, if empty.  ``old`` and
    ``new`` are typical values (of errors as a fraction of the statistical gate, of times in seconds), ``ratio`` is how
    many times as large they became, ``p`` the probability of such a shift by chance, corrected for all that was tested.
    ``worst`` is the family in the group whose ratio is the largest.
    """

    target: str
    arithmetic: str
    group: str
    cells: int
    old: float
    new: float
    ratio: float
    p: float
    worst: str
    regression: bool


class Comparison(_Model):
    """What changed from one run to another.  All texts are printable and on one line."""

    name: Literal["conformance-comparison"] = "conformance-comparison"
    schema_: Literal[1] = Field(default=1, alias="schema")
    regressions: int
    old: Side
    new: Side
    differences: tuple[Difference, ...]
    notes: tuple[Note, ...]
    counts: Counts
    targets: dict[str, Counts]
    came: tuple[Moved, ...]
    gone: tuple[Moved, ...]
    changes: tuple[Change, ...]
    errors: tuple[Shift, ...]
    times: tuple[Shift, ...]
    machine_time: float | None = Field(
        description="How many times as long all targets took in the new run; None where that cannot be told."
    )

    def as_json(self) -> str:
        return self.model_dump_json(by_alias=True, indent=1)


def schema() -> dict[str, Any]:
    """The JSON Schema of a comparison, by which other programs may check what they read."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "conformance-comparison-1"}
    return head | Comparison.model_json_schema(by_alias=True, mode="serialization")
