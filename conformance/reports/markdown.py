"""What changed between two runs, as Markdown for the summary of a CI job or a comment on a pull request.

Short, the worst first, long lists folded.  A run file may come from anybody: everything that it says stands in code,
where nothing is markup, a link, or the name of somebody who would be notified.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from conformance.comparison import Change, Comparison, Shift
from conformance.comparison import words as say
from conformance.text import printable

LIMIT = 30_000
"""Characters; a comment on GitHub has 65,536."""
TITLES = 2_000
"""Of them kept for the titles of all lists."""
OPEN_LINES = 10
"""Of a list that is not folded."""
MOST_LINES = 50
MOST_DIFFERENCES = 12
LONGEST = 160
_MARKUP = re.compile(r"[\\!#$&()*+\[\]_{|}<>~-]")
_LIVELY = re.compile(r"(?<!\w)@|@(?=[\w-]+\.)|#(?=\d)|:(?=//)|www(?=\.)", re.IGNORECASE)
"""What makes a mention, a reference or a link of a word on GitHub, unless a word joiner follows."""
ALWAYS_OPEN = ("newly_failing", "fails_worse", "lost_arithmetic")


def code(text: str) -> str:
    """Text from strangers as code, on one line; what would end the code is replaced."""
    return f"`{plain(text) or ' '}`"


def plain(text: str) -> str:
    """Text from strangers for a line of code: printable, without backticks, not too long."""
    half = LONGEST // 2
    cut = text if len(text) <= LONGEST else f"{text[:half].rstrip()} ... {text[-half:].lstrip()}"
    return printable(cut).replace("`", "'").strip()


def text(said: str) -> str:
    """Text from strangers within a sentence: no markup, no HTML, no link, nobody's name."""
    return _MARKUP.sub(r"\\\g<0>", _LIVELY.sub("\\g<0>\u2060", plain(said)))


def comparison_page(comparison: Comparison) -> str:
    """The whole page, of at most `LIMIT` characters."""
    page = _Page()
    page.add([f"### {'❌' if comparison.regressions else '✅'} {say.headline(comparison)}", ""])
    page.add(["```text", *map(plain, _head(comparison)), "```"])
    grown = [shift for shift in comparison.errors if shift.regression]
    by_transition = [(name, list(group)) for name, group in groupby(comparison.changes, key=lambda c: c.transition)]
    for name, changes in by_transition:
        if name in ALWAYS_OPEN:
            page.show(_title(changes), map(_change, changes), folded=False)
    page.show(f"Errors grew in {say.plural(len(grown), 'group')}", map(_shift, grown), folded=False)
    for name, changes in by_transition:
        if name not in ALWAYS_OPEN:
            page.show(_title(changes), map(_change, changes), folded=True)
    shrunk = [shift for shift in comparison.errors if not shift.regression]
    page.show(f"Errors shrank in {say.plural(len(shrunk), 'group')}", map(_shift, shrunk), folded=True)
    page.show("Times", _times(comparison), folded=True)
    page.show("In one run only", map(code, _moved(comparison)), folded=True)
    return page.text


class _Page:
    """Lines, as long as there is room for them."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, lines: Iterable[str]) -> None:
        self.text += "".join(f"{line}\n" for line in lines)

    def show(self, title: str, items: Iterable[str], *, folded: bool) -> None:
        """A list under a title that is ours; folded, or as far as it is long."""
        lines = [f"- {item}" for item in items]
        if not lines:
            return
        fits = self._fitting(lines)
        told, left = lines[:fits], len(lines) - fits
        more = [f"- ... and {left:,} more"] if left else []
        first = 0 if folded else OPEN_LINES
        if told[:first]:
            self.add(["", f"**{title}**", "", *told[:first]])
            title = f"{say.plural(len(lines) - first, 'line')} more"
        if told[first:] or more:
            self.add(["", f"<details><summary>{title}</summary>", "", *told[first:], *more, "", "</details>"])

    def _fitting(self, lines: list[str]) -> int:
        """How many of the lines there is room for."""
        room = LIMIT - len(self.text) - TITLES
        for number, line in enumerate(lines[:MOST_LINES]):
            room -= len(line) + 1
            if room < 0:
                return number
        return min(len(lines), MOST_LINES)


def _head(comparison: Comparison) -> Iterator[str]:
    old, new = comparison.old, comparison.new
    yield f"old: {old.file} ({old.verdicts:,} verdicts)"
    yield f"new: {new.file} ({new.verdicts:,} verdicts)"
    found = comparison.differences
    yield from map(say.difference, found[:MOST_DIFFERENCES])
    if len(found) > MOST_DIFFERENCES:
        yield f"and {len(found) - MOST_DIFFERENCES} more differences"
    if both := say.made_with(comparison):
        yield both
    yield from (f"! {note.text}" for note in comparison.notes)


def _title(changes: list[Change]) -> str:
    count, silent = (sum(c.count for c in some) for some in (changes, [c for c in changes if c.silent]))
    name = changes[0].transition
    said = f" ({silent:,} silent)" if silent and name == "newly_failing" else ""
    return f"{count:,} {say.TITLES[name]}{said}, {say.plural(len(changes), 'kind')}"


def _change(change: Change) -> str:
    verdict = say.verdicts(change).replace("->", "→")
    count = f" and {change.count - 1:,} more" if change.count > 1 else ""
    told = "; ".join(code(text) for text in say.why(change))
    cell = f"{code(change.example.case)} ({code(change.example.data)}){count}"
    return f"**{verdict}** {code(change.target)}: {cell}" + (f": {told}" if told else "")


def _shift(shift: Shift) -> str:
    named = " ".join(code(part) for part in (shift.target, shift.arithmetic, shift.group) if part)
    return f"{named}: {code(say.shift_of_errors(shift))}"


def _times(comparison: Comparison) -> Iterator[str]:
    if machine := say.machine(comparison.machine_time):
        yield machine
    for shift in comparison.times:
        yield f"{code(shift.target)}: {say.shift_of_times(shift, comparison.machine_time)}"


def _moved(comparison: Comparison) -> Iterator[str]:
    yield from say.moved(comparison.came, "came", "new")
    yield from say.moved(comparison.gone, "gone", "old")
