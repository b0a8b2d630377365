"""The table by version as a Markdown page, to be kept or shown by a CI."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from conformance.across import Table
from conformance.comparison import Comparison
from conformance.reports.across import NONE, NOT_RUN, cut, heading, headlines, how_made, not_run, summary, words_of
from conformance.reports.markdown import code
from conformance.text import printable

_MARKUP = re.compile(r"[\\`*_\[\]#!|<>~&$]|(?<![A-Za-z0-9])@|:(?=//)|(?<=www)\.", re.IGNORECASE)
MOST_FAILURES = 60
MOST_CHANGES = 25


def across_page(table: Table, command: Sequence[str] | None = None) -> str:
    """The page; ``command`` is what made it (this process, if None)."""
    names = [text(version.name) for version in table.versions]
    lines = [f"# {', '.join(text(target) for target in table.targets) or 'Nothing ran'} across versions", ""]
    lines += [f"{text(heading(table))}. Made by", "", f"    {printable(_command(command))}", ""]
    lines += [f"- **{text(line)}**" for line in headlines(table)]
    lines += [""] * bool(headlines(table))
    for target in table.targets:
        rows = [[text(kind), *map(_count, numbers)] for kind, numbers in table.rows(target)]
        lines += [*_table([text(target), *names], rows), ""]
    lines += [f"- {text(line)}" for line in how_made(table)]
    lines += [f"- **{text(not_run(version))}**" for version in table.versions if version.reason]
    lines += _failures(table, names)
    for old, new, comparison in table.changes:
        lines += _changes(names[old], names[new], comparison)
    return "\n".join(lines).rstrip() + "\n"


def text(said: str) -> str:
    """Text from strangers as text: no markup, no link, no name of somebody who would be notified."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};" if found[0] in "@:." else f"\\{found[0]}", printable(said))


def _command(command: Sequence[str] | None) -> str:
    words = [Path(sys.argv[0]).name, *sys.argv[1:]] if command is None else command
    return shlex.join(["conformance", *words[1:]])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The first column is text, the others are numbers."""
    marks = ["---", *["--:"] * (len(header) - 1)]
    return [f"| {' | '.join(row)} |" for row in (header, marks, *rows)]


def _cell(said: str) -> str:
    """Code in a table, where a bar would end the cell."""
    return code(said).replace("|", "\\|")


def _count(number: int | None) -> str:
    return NOT_RUN if number is None else f"{number:,}" if number else NONE


def _failures(table: Table, names: Sequence[str]) -> Iterator[str]:
    """Kinds of failure, the worst first, with their number in each version."""
    if not table.groups:
        return
    ran = set(table.ran)
    yield from ("", "## What fails, and in how many cells of each version", "")
    rows = []
    for group in table.groups[:MOST_FAILURES]:
        record = group.example
        said = f"**{text(record.verdict)}** {text(record.target)} {_cell(record.case)} ({text(record.data)}): "
        known = f"known: {text(record.deviation)}; " if record.known else ""
        counts = [_count(number if n in ran else None) for n, number in enumerate(group.counts)]
        rows.append([said + known + text(words_of(record)), *counts])
    yield from _table(["", *names], rows)
    if len(table.groups) > MOST_FAILURES:
        yield from ("", f"... and {len(table.groups) - MOST_FAILURES} kinds more")


def _changes(old: str, new: str, comparison: Comparison) -> Iterator[str]:
    yield from ("", f"## {old} → {new}", "", f"{summary(comparison)}.", "")
    for change in comparison.changes[:MOST_CHANGES]:
        what = f"{change.count:,} {change.transition.replace('_', ' ')}"
        case = f"{text(change.target)} {code(change.example.case)} ({text(change.example.data)})"
        why = f": {text(cut(change.reason))}" if change.reason else ""
        mark = "**regression**, " if change.regression else ""
        yield f"- {mark}{what}: {text(change.old)} → {text(change.new)}: {case}{why}"
    if len(comparison.changes) > MOST_CHANGES:
        yield f"- ... and {len(comparison.changes) - MOST_CHANGES} kinds more"
