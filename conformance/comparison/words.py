"""How reports say what changed."""

from __future__ import annotations

from collections.abc import Iterator

from conformance.comparison.model import Change, Comparison, Difference, Moved, Number, Shift
from conformance.comparison.transitions import TRANSITIONS, Transition

TITLES: dict[Transition, str] = {
    "newly_failing": "newly failing",
    "fails_worse": "failing worse",
    "lost_arithmetic": "less exact",
    "newly_known": "failing as documented",
    "fails_differently": "failing differently",
    "newly_unsupported": "newly unsupported",
    "newly_open": "newly open or differing by run",
    "fixed": "fixed",
    "newly_supported": "newly supported",
    "gained_arithmetic": "more exact",
    "no_longer_open": "no longer open or differing by run",
}


def plural(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def headline(comparison: Comparison) -> str:
    """``12 newly failing (3 silent), 4 fixed, 2 newly unsupported; 50,000 cells the same``."""
    counts = comparison.counts
    moved = [f"{n:,} {word}" for word, n in (("came", counts.came), ("gone", counts.gone)) if n]
    moved += [f"{counts.incomparable:,} not comparable"] if counts.incomparable else []
    said = list(_said(comparison))
    changed = ", ".join(said) if said else "nothing changed"
    return f"{changed}; {', '.join([plural(counts.unchanged, 'cell') + ' the same', *moved])}"


def _said(comparison: Comparison) -> Iterator[str]:
    counts = comparison.counts
    grown = sum(shift.regression for shift in comparison.errors)
    for name in TRANSITIONS:
        if name == "newly_known" and grown:
            yield f"errors grew in {plural(grown, 'group')}"
        if number := getattr(counts, name):
            silent = f" ({counts.silent:,} silent)" if name == "newly_failing" and counts.silent else ""
            yield f"{number:,} {TITLES[name]}{silent}"
    if shrunk := len(comparison.errors) - grown:
        yield f"errors shrank in {plural(shrunk, 'group')}"


def made_with(comparison: Comparison) -> str:
    """What both runs have in common, in one line."""
    both = [
        f"{word}{before}"
        for word, before, after in (
            ("conformance ", comparison.old.conformance, comparison.new.conformance),
            ("Python ", comparison.old.python, comparison.new.python),
            ("", comparison.old.platform, comparison.new.platform),
            ("", comparison.old.cpu, comparison.new.cpu),
        )
        if before and before == after
    ]
    return ", ".join(both)


def difference(found: Difference) -> str:
    return f"{found.what} {found.old} -> {found.new}"


def verdicts(change: Change) -> str:
    return change.new if change.old == change.new else f"{change.old} -> {change.new}"


def why(change: Change) -> list[str]:
    """What is known of a change: the reason, the example's own message, its numbers, the documented deviation."""
    example = change.example
    message = example.old_message if change.transition in ("fixed", "newly_supported") else example.new_message
    message = message or (example.old_message if change.new != "exact" else "")
    told = [change.reason] if change.reason and not _repeats(change.reason, message) else []
    told += [message] if message else []
    documented = "documented" if change.transition == "newly_known" or change.new == "fixed" else "was documented"
    told += [f"{documented}: {change.deviation}"] if change.deviation else []
    return [*told, *_error(example.old_error, example.new_error)]


def _repeats(reason: str, message: str) -> bool:
    """Whether the reason is but the message without its numbers."""
    return all(word in message for word in reason.split())


def _error(old: Number, new: Number) -> list[str]:
    if new is None or old == new or (old is None and not new):
        return []
    return [f"max error {_of(new)}" if old is None else f"max error {_of(old)} -> {_of(new)}"]


def _of(value: Number) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def shift_of_errors(shift: Shift) -> str:
    """How errors of a group of cells moved."""
    worst = f", most in {shift.worst}" if shift.worst not in ("", shift.group) else ""
    moved = f"{shift.old:.3g} -> {shift.new:.3g} of the gate"
    return f"errors {factor(shift.ratio)} as large on {plural(shift.cells, 'cell')}, {moved}{worst}; p {shift.p:.1g}"


def shift_of_times(shift: Shift, beside: float | None) -> str:
    """How the time of a target moved, and beside what."""
    common = "" if beside is None else " beside the other targets"
    return f"{factor(shift.ratio)} as long{common}: {shift.old:.3g} s -> {shift.new:.3g} s a cell in the median"


def machine(ratio: float | None) -> str:
    """Told where all targets took clearly more or less time than before."""
    if ratio is None or 2 / 3 < ratio < 1.5:
        return ""
    return f"all targets took {factor(ratio)} as long: the machine, its load, or what they share"


def factor(ratio: float) -> str:
    return f"{ratio:.3g} times"


def moved(groups: tuple[Moved, ...], verb: str, where: str) -> Iterator[str]:
    """One line for each target that only one run has, and one for all other cells that it alone has."""
    for group in groups:
        if group.whole_target:
            cells = f"{plural(group.cells, 'cell')}{_failing(group.failing)}"
            yield f"{group.target} {verb}: {cells} in the {where} run only"
    rest = [group for group in groups if not group.whole_target]
    if not rest:
        return
    suites: dict[str, int] = {}
    for group in rest:
        suites[group.suite] = suites.get(group.suite, 0) + group.cells
    largest = sorted(suites, key=lambda suite: -suites[suite])
    named = ", ".join(f"{suite} {suites[suite]:,}" for suite in largest[:5]) + (", ..." if len(largest) > 5 else "")
    count, failing = sum(group.cells for group in rest), sum(group.failing for group in rest)
    yield f"{plural(count, 'cell')} {verb}{_failing(failing)}: {named}"


def _failing(number: int) -> str:
    return f" ({number:,} of them failing)" if number else ""
