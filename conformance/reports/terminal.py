"""The terminal: a matrix of suites by targets, then the failures, one line each."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.comparison import strength
from conformance.comparison.transitions import reason
from conformance.deviations import Stale
from conformance.runs import Record
from conformance.text import printable
from conformance.verdict import FAILED

STYLES = {
    "exact": "green",
    "within_bound": "cyan",
    "failed": "bold red",
    "known": "medium_purple2",
    "ambiguous": "yellow",
    "nondeterministic": "yellow",
    "unsupported": "dim",
}
ROWS = (
    ("exact", "bit for bit"),
    ("within_bound", "within the bound"),
    ("failed", "failed"),
    ("known", "known deviation ~"),
    ("ambiguous", "open in the spec"),
    ("nondeterministic", "differs by run"),
    ("unsupported", "not supported"),
)
WORST_FIRST = (*strength.WORST_FIRST, "fixed")
LONGEST = 150
MATRIX_COLUMN = 13


class Summary:
    """Counts of verdicts by suite and target, and the failures themselves."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.cells: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.failures: list[Record] = []
        self.known: Counter[str] = Counter()
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        record = _safe(record)
        self.cells[record.case.partition("/")[0], record.target][kind_of(record)] += 1
        if kind_of(record) == "failed":
            self.failures.append(record)
        self.known[record.deviation] += record.known

    @property
    def suites(self) -> list[str]:
        return list(dict.fromkeys(suite for suite, _ in self.cells))

    def targets(self, order: object) -> list[str]:
        """The targets, as the run named them."""
        names = dict.fromkeys(target for _, target in self.cells)
        known = [name for name in order if name in names] if isinstance(order, list) else []
        return list(dict.fromkeys([*known, *names]))


def _safe(record: Record) -> Record:
    """A run file may come from anybody; what it says must not steer the terminal."""
    said = {
        key: printable(getattr(record, key)) for key in ("case", "target", "data", "diagnosis", "message", "deviation")
    }
    return replace(record, **said)  # type: ignore[arg-type]


def kind_of(record: Record) -> str:
    """The verdict, or for all that count as failures ``failed``, or ``known`` where a deviation predicts it."""
    if record.verdict not in FAILED:
        return record.verdict
    return "known" if record.known else "failed"


def show_matrix(summary: Summary, environment: Mapping[str, object], console: Console) -> None:
    """Suites down, targets across: how many verdicts pass and, in red, how many fail; then the totals by kind."""
    console.print(_versions(environment), style="dim")
    named = summary.targets(environment.get("targets"))
    for start in range(0, len(named), per := max((console.width - 18) // MATRIX_COLUMN, 1)):
        targets = named[start : start + per]
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
        table.add_column("suite", no_wrap=True)
        for target in targets:
            table.add_column(_heading(target), justify="right", no_wrap=True, min_width=MATRIX_COLUMN - 1)
        for suite in summary.suites:
            table.add_row(suite, *(_cell(summary.cells.get((suite, target), Counter())) for target in targets))
        table.add_row()
        totals = [_column(summary, target) for target in targets]
        for kind, meaning in ROWS:
            if not any(total[kind] for total in totals):
                continue
            table.add_row(Text(meaning, STYLES[kind]), *(_count(total[kind], kind) for total in totals))
        console.print(table)
        console.print()


def show_failures(summary: Summary, console: Console, limit: int) -> None:
    """One line for each failure with its numbers, similar ones together; ``limit`` lines at most."""
    if not summary.failures:
        return
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in summary.failures:
        groups[record.target, record.verdict, reason(record)].append(record)
    console.print()
    console.print(f"{_plural(len(summary.failures), 'failure')} of {_plural(len(groups), 'kind')}", style="bold")
    ordered = sorted(groups.values(), key=lambda g: (WORST_FIRST.index(g[0].verdict), -len(g)))
    for group in ordered[:limit]:
        console.print(_failure(group), soft_wrap=True)
    if len(ordered) > limit:
        console.print(f"... and {len(ordered) - limit} kinds more (--failures {len(ordered)})")
    example = ordered[0][0]
    console.print(
        f"\nSee one: conformance show '{example.case}' --target {example.target}", style="dim", soft_wrap=True
    )


def show_known(summary: Summary, console: Console) -> None:
    """How much of what fails is documented."""
    if count := summary.known.total():
        kinds = _plural(sum(map(bool, summary.known.values())), "documented deviation")
        console.print(f"\n{_plural(count, 'known failure')} of {kinds} (conformance deviations)", style=STYLES["known"])


def show_stale(stale: Sequence[Stale], console: Console) -> None:
    """Deviations that a run of everything had no use for."""
    for found in stale:
        said = f"none of {_plural(found.cells, 'cell')} deviates" if found.cells else "names no case"
        console.print(f"{found.deviation.location}: {found.deviation.id}: {said}", style="yellow", soft_wrap=True)


def _plural(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _failure(group: list[Record]) -> Text:
    first = min(group, key=lambda record: (len(record.case), record.case))
    line = Text.assemble(
        (f"✗ {first.verdict}", STYLES["failed"]),
        f" {first.target} ",
        (first.case, "bold"),
        f" ({first.data})",
    )
    if len(group) > 1:
        line.append(f" and {len(group) - 1} more", "dim")
    if first.verdict == "reduced":
        line.append(f" to {first.arithmetic}")
    told = [_cut(text) for text in (first.diagnosis, first.message, _numbers(first)) if text]
    return line.append(": " + "; ".join(told) if told else "")


def _numbers(record: Record) -> str:
    if record.max_abs_error is None or record.bound_usage is None or math.isinf(record.max_abs_error):
        return ""
    used = "" if math.isinf(record.bound_usage) else f", {record.bound_usage:.3g} of the bound"
    return f"max error {record.max_abs_error:.3g}{used}"


def _cell(counts: Counter[str]) -> Text:
    """Passed, then failed; a dot where nothing is supported, nothing where nothing was run."""
    passed = counts["exact"] + counts["within_bound"]
    parts = [Text(f"{counts['failed']} ✗", STYLES["failed"])] if counts["failed"] else []
    if counts["known"]:
        parts.append(Text(f"{counts['known']}~", STYLES["known"]))
    if passed:
        parts.append(_count(passed, "exact"))
    if not parts and counts:
        parts.append(Text("·", STYLES["unsupported"]))
    return Text(" ").join(parts)


def _count(number: int, kind: str) -> Text:
    return Text(f"{number:,}" if number else "", STYLES[kind])


def _column(summary: Summary, target: str) -> Counter[str]:
    return sum((cell for (_, name), cell in summary.cells.items() if name == target), Counter())


def _heading(target: str) -> str:
    """``keras-ops-tensorflow@cpu`` on several lines, so that columns stay narrow."""
    lines = [""]
    for part in re.findall(r"[^-:@]*[-:]?|@.*", target):
        if lines[-1] and len(lines[-1]) + len(part) >= MATRIX_COLUMN:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _cut(text: str) -> str:
    """The beginning and the end of a long text: what it is, and why."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half].rstrip()} ... {text[-half:].lstrip()}"


def _versions(environment: Mapping[str, object]) -> str:
    versions = environment.get("versions")
    named = [f"{name} {version}" for name, version in versions.items()] if isinstance(versions, Mapping) else []
    return ", ".join([f"conformance {environment.get('conformance')}", *named, f"Python {environment.get('python')}"])
