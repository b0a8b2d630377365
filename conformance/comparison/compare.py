"""Two runs, cell by cell."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from conformance.comparison.kinds import Changed, kinds
from conformance.comparison.model import Comparison, Counts, Moved
from conformance.comparison.run import Key, Run, said
from conformance.comparison.shifts import Pair, error_shifts, time_shifts
from conformance.comparison.strength import severity
from conformance.comparison.surroundings import differences, errors_comparable, notes, side, times_apart
from conformance.comparison.transitions import is_silent, transition
from conformance.runs import Record


@dataclass
class _Cells:
    """All cells of both runs, sorted by what can be said of them."""

    pairs: list[Pair] = field(default_factory=list)
    changed: list[Changed] = field(default_factory=list)
    came: list[Record] = field(default_factory=list)
    gone: list[Record] = field(default_factory=list)
    cases: dict[str, None] = field(default_factory=dict)
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


def compare(old: Run, new: Run) -> Comparison:
    """What changed from one run to the other, on the cells that both have with the same meaning."""
    cells = _sort(old, new)
    errors = error_shifts(cells.pairs) if errors_comparable(old, new) else ()
    times, machine = ((), None) if times_apart(old, new) else time_shifts(cells.pairs)
    changes = kinds(cells.changed)
    return Comparison(
        regressions=sum(c.count for c in changes if c.regression) + sum(shift.regression for shift in errors),
        old=side(old),
        new=side(new),
        differences=differences(old, new),
        notes=tuple(notes(old, new, [said(case) for case in cells.cases])),
        counts=Counts(**sum(cells.counts.values(), Counter())),
        targets={said(target): Counts(**counts) for target, counts in cells.counts.items()},
        came=_moved(cells.came, old),
        gone=_moved(cells.gone, new),
        changes=changes,
        errors=errors,
        times=times,
        machine_time=machine,
    )


def _sort(old: Run, new: Run) -> _Cells:
    cells = _Cells()
    for key, after in new.cells.items():
        before = old.cells.get(key)
        if before is None:
            cells.came.append(after)
            cells.counts[after.target]["came"] += 1
        elif before.digest != after.digest:
            cells.cases[after.case] = None
            cells.counts[after.target]["incomparable"] += 1
        else:
            _pair(cells, before, after)
    for key in _only(old, new):
        cells.gone.append(old.cells[key])
        cells.counts[key[1]]["gone"] += 1
    return cells


def _only(run: Run, other: Run) -> Iterable[Key]:
    return (key for key in run.cells if key not in other.cells)


def _pair(cells: _Cells, old: Record, new: Record) -> None:
    cells.pairs.append((old, new))
    counts, name = cells.counts[new.target], transition(old, new)
    counts["compared"] += 1
    counts[name or "unchanged"] += 1
    if name is not None:
        cells.changed.append((name, old, new))
        counts["silent"] += name == "newly_failing" and is_silent(old, new)


def _moved(records: Iterable[Record], other: Run) -> tuple[Moved, ...]:
    """Cells that the other run does not have: of a whole target where it has nothing of it, else by suite."""
    there = set(other.targets)
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.target, record.case.partition("/")[0] if record.target in there else ""].append(record)
    moved = [
        Moved(
            target=said(target),
            suite=said(suite),
            whole_target=target not in there,
            cells=len(group),
            failing=sum(severity(record.verdict) > 0 and not record.known for record in group),
        )
        for (target, suite), group in groups.items()
    ]
    return tuple(sorted(moved, key=lambda m: (not m.whole_target, -m.failing, -m.cells, m.target, m.suite)))
