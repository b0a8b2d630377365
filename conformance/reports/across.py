"""The table by version, for the terminal: kinds of verdict by version, then what fails where, then what changed."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table as Columns
from rich.text import Text

from conformance.across import OVERLAY, Table, Version
from conformance.across.table import News
from conformance.comparison import Change, Comparison
from conformance.runs import Record
from conformance.text import printable

LONGEST = 150
MOST_HEADLINES = 4
_PACKAGE = re.compile(r"[A-Za-z0-9._-]*")
STYLES = {
    "bit for bit": "green",
    "within the bound": "cyan",
    "differs by run": "yellow",
    "open in the spec": "yellow",
    "not supported": "dim",
    "of the failures, documented": "medium_purple2",
}
FAILED = "bold red"
NONE, NOT_RUN = "·", "-"


def show_across(table: Table, console: Console, limit: int) -> None:
    """All of it; ``limit`` kinds of failure, and as many changes of each version."""
    console.print(heading(table), style="dim", soft_wrap=True)
    for line in how_made(table):
        console.print(printable(line), style="dim", soft_wrap=True)
    for version in table.versions:
        if version.reason:
            console.print(Text(printable(f"✗ {not_run(version)}"), FAILED), soft_wrap=True)
    for line in headlines(table):
        console.print(Text(f"✗ {line}", FAILED))
    _show_counts(table, console)
    _show_failures(table, console, limit)
    for old, new, comparison in table.changes:
        _show_changes(table.versions[old].name, table.versions[new].name, comparison, console, limit)


def heading(table: Table) -> str:
    """What made the table, in a line."""
    settings = table.settings
    said = [f"conformance {table.conformance}", f"Python {table.python}"] if table.ran else []
    said += [f"profile {settings.profile}", f"suites: {', '.join(settings.suites) or 'all that are shipped'}"]
    return printable(", ".join(said + ([f"data: {', '.join(settings.data)}"] if settings.data else [])))


def headlines(table: Table) -> list[str]:
    """Values that are wrong in some versions, and nothing says so: for these the table is made."""
    left = len(table.news) - MOST_HEADLINES
    return [_headline(table, one) for one in table.news[:MOST_HEADLINES]] + [f"... and {left} kinds more"] * (left > 0)


def _headline(table: Table, news: News) -> str:
    corner, names = short_names([table.versions[n] for n in table.ran])
    is_wrong = [n in news.versions for n in table.ran]
    wrong, right = (_spans(names, [wrong is some for wrong in is_wrong]) for some in (True, False))
    cells = f"{news.cells:,} cell{'' if news.cells == 1 else 's'} of {', '.join(news.targets)}"
    where = f"{corner} {wrong}, not in {right}".strip()
    case = f"{news.example.case} ({news.example.data})"
    return printable(f"Silently wrong values in {where}: {cells}, as {case}: {words_of(news.example)}")


def _spans(names: Sequence[str], chosen: Sequence[bool]) -> str:
    """The names that are chosen; of more than two in a row the first and the last."""
    spans = []
    for some, group in itertools.groupby(zip(names, chosen, strict=True), key=lambda pair: pair[1]):
        row = [name for name, _ in group]
        if some:
            spans.append(f"{row[0]} to {row[-1]}" if len(row) > 2 else ", ".join(row))
    return ", ".join(spans)


def how_made(table: Table) -> list[str]:
    """How the environments of the versions that ran were made; those made alike in one line."""
    corner, names = short_names(table.versions)
    alike: dict[str, list[str]] = {}
    for n in table.ran:
        version = table.versions[n]
        made = "laid over this environment" if version.mode == OVERLAY else "in an environment of its own"
        told = f"{made}, with {version.beside or 'nothing else that matters'}"
        alike.setdefault(told + (f" ({version.remark})" if version.remark else ""), []).append(names[n])
    return [f"{corner} {', '.join(some)}: {told}".strip() for told, some in alike.items()]


def not_run(version: Version) -> str:
    return f"{version.wanted.text}: not run: {version.reason}"


def _show_counts(table: Table, console: Console) -> None:
    corner, names = short_names(table.versions)
    for target in table.targets:
        columns = Columns(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        columns.add_column(printable(f"{target}  {corner}"), no_wrap=True)
        for name in names:
            columns.add_column(Text("\n".join(name.split()), justify="right"), justify="right", no_wrap=True)
        for kind, numbers in table.rows(target):
            style = STYLES.get(kind, FAILED)
            columns.add_row(Text(kind, style), *(Text(_count(number), style) for number in numbers))
        console.print()
        console.print(columns)


def short_names(versions: Sequence[Version]) -> tuple[str, list[str]]:
    """The package that all versions are of, if it is one, and how they are called beside it."""
    names = [printable(version.name) for version in versions]
    packages = {_PACKAGE.match(name)[0] for name in names}  # type: ignore[index]
    if len(packages) > 1:
        return "", names
    return packages.pop(), [_PACKAGE.sub("", name, count=1).strip() for name in names]


def _count(number: int | None) -> str:
    return NOT_RUN if number is None else f"{number:,}" if number else NONE


def _show_failures(table: Table, console: Console, limit: int) -> None:
    """Kinds of failure with their number in each version."""
    if not table.groups:
        return
    console.print("\nWhat fails, and in how many cells of each version", style="bold")
    columns = Columns(box=None, pad_edge=False, show_header=False, padding=(0, 1, 0, 0))
    ran = set(table.ran)
    for _ in table.versions:
        columns.add_column(justify="right", no_wrap=True)
    columns.add_column(overflow="fold")
    for group in table.groups[:limit]:
        counts = [_count(number if n in ran else None) for n, number in enumerate(group.counts)]
        columns.add_row(*(Text(count, "bold" if count != NONE else "dim") for count in counts), _failure(group.example))
    console.print(columns)
    if len(table.groups) > limit:
        console.print(f"... and {len(table.groups) - limit} kinds more (--failures {len(table.groups)})")


def _failure(record: Record) -> Text:
    line = Text.assemble((record.verdict, FAILED), f" {printable(record.target)} ", (printable(record.case), "bold"))
    line.append(f" ({printable(record.data)})")
    if record.known:
        line.append(f" known: {printable(record.deviation)}", "medium_purple2")
    return line.append(f": {words_of(record)}")


def words_of(record: Record) -> str:
    """What a record says of a failure, and by how much it is wrong."""
    told = [cut(printable(text)) for text in (record.diagnosis, record.message) if text]
    if record.verdict == "reduced":
        told.insert(0, f"to {printable(record.arithmetic)}")
    if record.max_abs_error is not None and math.isfinite(record.max_abs_error):
        told.append(f"max error {record.max_abs_error:.3g}")
    return "; ".join(told)


def cut(text: str) -> str:
    """The beginning and the end of a long text: what it is, and why."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half].rstrip()} ... {text[-half:].lstrip()}"


def _show_changes(old: str, new: str, comparison: Comparison, console: Console, limit: int) -> None:
    console.print(f"\n{printable(old)} → {printable(new)}: {summary(comparison)}", style="bold", soft_wrap=True)
    for change in comparison.changes[:limit]:
        console.print(Text(f"  {words_of_change(change)}", style_of(change)), soft_wrap=True)
    if len(comparison.changes) > limit:
        console.print(f"  ... and {len(comparison.changes) - limit} kinds more")


def style_of(change: Change) -> str:
    return FAILED if change.regression else "green" if change.transition == "fixed" else ""


def words_of_change(change: Change) -> str:
    """A kind of change in a line: how many cells, what became of them, one of them, and why."""
    cells = f"{change.count:,} {change.transition.replace('_', ' ')}"
    case = f"{change.target} {change.example.case} ({change.example.data})"
    return f"{cells}: {change.old} → {change.new}: {case}" + (f": {cut(change.reason)}" if change.reason else "")


def summary(comparison: Comparison) -> str:
    """The numbers of a comparison in a line, the worst first."""
    counts = comparison.counts.model_dump()
    shown = [f"{counts[name]:,} {name.replace('_', ' ')}" for name in _counted(comparison) if counts[name]]
    return ", ".join(shown) or "nothing changed"


def _counted(comparison: Comparison) -> Sequence[str]:
    leave = ("compared", "unchanged", "silent")
    return [name for name in type(comparison.counts).model_fields if name not in leave]
