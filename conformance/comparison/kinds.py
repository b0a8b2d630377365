"""Changed cells, similar ones together, the worst first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from conformance.comparison.model import Cell, Change, Example, number
from conformance.comparison.run import said
from conformance.comparison.strength import severity
from conformance.comparison.transitions import REGRESSIONS, TRANSITIONS, Transition, is_silent, reason
from conformance.runs import Record
from conformance.text import printable

Changed = tuple[Transition, Record, Record]
"""What happened, before and after."""
LONGEST_MESSAGE = 400
ARITHMETIC = ("lost_arithmetic", "gained_arithmetic")


def kinds(changed: Iterable[Changed]) -> tuple[Change, ...]:
    """Changes of the same target, verdicts and reason, as one; what became wrong without a word comes first."""
    groups: dict[tuple[str, ...], list[Changed]] = defaultdict(list)
    for name, old, new in changed:
        groups[name, new.target, old.verdict, new.verdict, _why(name, old, new), _deviation(old, new)].append(
            (name, old, new)
        )
    changes = (_change(key, group) for key, group in groups.items())
    return tuple(sorted(changes, key=_worst_first))


def _worst_first(change: Change) -> tuple[object, ...]:
    return (
        TRANSITIONS.index(change.transition),
        not change.silent,
        -max(severity(change.old), severity(change.new)),
        -change.count,
        change.target,
        change.example.case,
    )


def _change(key: tuple[str, ...], group: list[Changed]) -> Change:
    name, old, new = min(group, key=lambda one: (len(one[2].case), one[2].case, one[2].data))
    return Change(
        transition=name,
        regression=name in REGRESSIONS,
        silent=is_silent(old, new),
        target=said(new.target),
        old=old.verdict,
        new=new.verdict,
        reason=key[4],
        deviation=said(key[5]),
        count=len(group),
        example=_example(old, new),
        cells=tuple(Cell(case=printable(new.case), data=said(new.data)) for _, _, new in group),
    )


def _example(old: Record, new: Record) -> Example:
    return Example(
        case=printable(new.case),
        data=said(new.data),
        old_message=printable(old.message[:LONGEST_MESSAGE]),
        new_message=printable(new.message[:LONGEST_MESSAGE]),
        old_error=number(old.max_abs_error),
        new_error=number(new.max_abs_error),
    )


def _why(name: Transition, old: Record, new: Record) -> str:
    """What cells that changed alike share, in words."""
    if old.arithmetic != new.arithmetic and (
        name in ARITHMETIC or (old.verdict, new.verdict) == ("reduced", "reduced")
    ):
        return f"{said(old.arithmetic)} -> {said(new.arithmetic)}"
    if name in ARITHMETIC:
        return "no longer rounds" if new.verdict == "exact" else "rounds where nothing has to be rounded"
    if name in ("fails_differently", "newly_open") and old.verdict == new.verdict:
        return f"{reason(old)} -> {reason(new)}"
    told = old if name in ("fixed", "newly_supported", "no_longer_open") and new.verdict != "fixed" else new
    return reason(told)


def _deviation(old: Record, new: Record) -> str:
    return new.deviation or old.deviation
