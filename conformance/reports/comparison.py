"""What changed between two runs, on the terminal: what is compared, the answer in one line, then the kinds."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import groupby

from rich.console import Console
from rich.text import Text

from conformance.comparison import Change, Comparison, Shift
from conformance.comparison import words as say

LONGEST = 150
LONGEST_COMMAND = 1000
MOST_DIFFERENCES = 12
BAD, GOOD, NEUTRAL = "bold red", "green", "yellow"
STYLES = {
    **dict.fromkeys(("newly_failing", "fails_worse", "lost_arithmetic"), BAD),
    **dict.fromkeys(("fixed", "newly_supported", "gained_arithmetic", "no_longer_open"), GOOD),
    "newly_known": "medium_purple2",
}
MARKS = {BAD: "✗", GOOD: "✓", NEUTRAL: "·", "medium_purple2": "~"}


def show_comparison(comparison: Comparison, console: Console, limit: int) -> None:
    """The whole comparison; ``limit`` kinds of change at most, the worst first."""
    for line in _head(comparison):
        console.print(line, style="dim", soft_wrap=True)
    style = BAD if comparison.regressions else "bold"
    console.print(Text(say.headline(comparison), style), soft_wrap=True)
    for note in comparison.notes:
        console.print(f"! {note.text}", style=NEUTRAL, soft_wrap=True)
    _show_changes(comparison, console, limit)
    _show_shifts(comparison, console)
    _show_moved(comparison, console)
    worst = next((change for change in comparison.changes if change.regression), None)
    if worst is not None and len(worst.example.case) < LONGEST_COMMAND:
        case, target = shlex.quote(worst.example.case), shlex.quote(worst.target)
        console.print(f"\nSee one: conformance show {case} --target {target}", style="dim", soft_wrap=True)


def _head(comparison: Comparison) -> Iterator[str]:
    old, new = comparison.old, comparison.new
    yield f"{old.file} ({old.verdicts:,} verdicts) -> {new.file} ({new.verdicts:,} verdicts)"
    if both := say.made_with(comparison):
        yield both
    found = comparison.differences
    if found:
        rest = [f"and {len(found) - MOST_DIFFERENCES} more"] if len(found) > MOST_DIFFERENCES else []
        yield ", ".join([*map(say.difference, found[:MOST_DIFFERENCES]), *rest])


def _show_changes(comparison: Comparison, console: Console, limit: int) -> None:
    shown = comparison.changes[:limit]
    for transition, group in groupby(shown, key=lambda change: change.transition):
        changes = list(group)
        all_of_it = [change for change in comparison.changes if change.transition == transition]
        count = sum(change.count for change in all_of_it)
        console.print()
        console.print(f"{count:,} {say.TITLES[transition]}, {say.plural(len(all_of_it), 'kind')}", style="bold")
        for change in changes:
            console.print(_line(change), soft_wrap=True)
    if left := len(comparison.changes) - len(shown):
        console.print(f"... and {say.plural(left, 'kind')} more (--limit {len(comparison.changes)})")


def _line(change: Change) -> Text:
    style = STYLES.get(change.transition, NEUTRAL)
    line = Text.assemble(
        (f"{MARKS[style]} {say.verdicts(change)}", style),
        f" {change.target} ",
        (_cut(change.example.case), "bold"),
        f" ({change.example.data})",
    )
    if change.count > 1:
        line.append(f" and {change.count - 1:,} more", "dim")
    told = [_cut(text) for text in say.why(change)]
    return line.append(": " + "; ".join(told) if told else "")


def _show_shifts(comparison: Comparison, console: Console) -> None:
    if comparison.errors or comparison.times or say.machine(comparison.machine_time):
        console.print()
    for shift in comparison.errors:
        style = BAD if shift.regression else GOOD
        text = f"{_name(shift)}: {say.shift_of_errors(shift)}"
        console.print(Text.assemble((f"{MARKS[style]} ", style), text), soft_wrap=True)
    if slower := say.machine(comparison.machine_time):
        console.print(slower, style="dim", soft_wrap=True)
    for shift in comparison.times:
        console.print(f"· {shift.target}: {say.shift_of_times(shift, comparison.machine_time)}", soft_wrap=True)


def _show_moved(comparison: Comparison, console: Console) -> None:
    if comparison.came or comparison.gone:
        console.print()
    for line in (*say.moved(comparison.came, "came", "new"), *say.moved(comparison.gone, "gone", "old")):
        console.print(line, style="dim", soft_wrap=True)


def _name(shift: Shift) -> str:
    return " ".join(filter(None, (shift.target, shift.arithmetic, shift.group)))


def _cut(text: str) -> str:
    """The beginning and the end of a long text."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half].rstrip()} ... {text[-half:].lstrip()}"
