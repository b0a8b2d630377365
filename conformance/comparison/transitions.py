"""What happened to one cell between two runs."""

from __future__ import annotations

import re
from typing import Literal, get_args

from conformance.comparison.strength import severity, weaker
from conformance.runs import Record
from conformance.text import printable
from conformance.verdict import PASSED

Transition = Literal[
    "newly_failing",
    "fails_worse",
    "lost_arithmetic",
    "newly_known",
    "fails_differently",
    "newly_unsupported",
    "newly_open",
    "fixed",
    "newly_supported",
    "gained_arithmetic",
    "no_longer_open",
]
TRANSITIONS: tuple[Transition, ...] = get_args(Transition)
"""In the order in which they matter."""
REGRESSIONS = ("newly_failing", "fails_worse", "lost_arithmetic")
OPEN = ("ambiguous", "nondeterministic")
FIXED = "fixed"
"""The verdict where a deviation that is documented does not come: the target conforms."""
SILENT = "deviates"
"""Wrong values of the right shape and type: nobody is told."""
_NUMBERS = re.compile(r"0x[0-9a-f]+|[-+]?\d[\d.,x]*(e[-+]?\d+)?|[-+]?\b(inf|nan)\b|[][,]", re.IGNORECASE)


def transition(old: Record, new: Record) -> Transition | None:
    """What changed for a cell, or None where nothing did that matters; both records are of the same case."""
    if severity(new.verdict):
        return _failing(old, new)
    if new.verdict == FIXED:
        return None if old.verdict == FIXED else "fixed"
    if new.verdict == "unsupported":
        return None if old.verdict == "unsupported" else "newly_unsupported"
    if new.verdict in OPEN:
        return None if (old.verdict, old.diagnosis) == (new.verdict, new.diagnosis) else "newly_open"
    return _passing(old, new)


def _failing(old: Record, new: Record) -> Transition | None:
    """The new verdict is a failure, ``known`` or not.  Known failures count as none, in either run."""
    if not severity(old.verdict):
        return "newly_known" if new.known else "newly_failing"
    if new.known:
        return None if old.known and old.deviation == new.deviation else "newly_known"
    if old.known:
        return "newly_failing"
    if severity(new.verdict) > severity(old.verdict) or _both_reduced_and_weaker(old, new):
        return "fails_worse"
    return None if (old.verdict, reason(old)) == (new.verdict, reason(new)) else "fails_differently"


def _passing(old: Record, new: Record) -> Transition | None:
    if severity(old.verdict):
        return "fixed"
    if old.verdict == "unsupported":
        return "newly_supported"
    if old.verdict in OPEN:
        return "no_longer_open"
    if weaker(new.arithmetic, old.arithmetic) or _rounds_what_was_exact(old, new):
        return "lost_arithmetic"
    if weaker(old.arithmetic, new.arithmetic) or _rounds_what_was_exact(new, old):
        return "gained_arithmetic"
    return None


def _both_reduced_and_weaker(old: Record, new: Record) -> bool:
    return new.verdict == old.verdict == "reduced" and weaker(new.arithmetic, old.arithmetic)


def _rounds_what_was_exact(old: Record, new: Record) -> bool:
    """On data that is drawn so that nothing has to be rounded."""
    return new.data == "exact" and (old.verdict, new.verdict) == ("exact", "within_bound")


def is_silent(old: Record, new: Record) -> bool:
    """Values became wrong, and nothing says so."""
    return new.verdict == SILENT and old.verdict != SILENT


def reason(record: Record) -> str:
    """What similar verdicts share: the diagnosis, or a message's words without its numbers."""
    if record.diagnosis:
        return printable(record.diagnosis[:200])
    return " ".join(_NUMBERS.sub(" ", printable(record.message[:400])).split())[:120]


def conforms(record: Record) -> bool:
    return record.verdict in PASSED or record.verdict == FIXED
