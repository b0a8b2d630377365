"""The terminal: a matrix of suites by targets, then the failures, one line each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conformance.runs import Record
from conformance.verdict import FAILED

MARKS = {"exact": "=", "within_bound": "≈", "failed": "✗", "neutral": "·"}
STYLES = {"exact": "green", "within_bound": "cyan", "failed": "bold red", "neutral": "dim"}
LEGEND = (
    ("exact", "bit for bit"),
    ("within_bound", "rounds within the proven bound"),
    ("failed", "wrong, weaker arithmetic, error, crash or timeout"),
    ("neutral", "not supported"),
)


class Summary:
    """Counts of verdicts by suite and target, and the failures themselves."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.cells: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self.verdicts: Counter[str] = Counter()
        self.failures: list[Record] = []
        self.problems: set[tuple[str, str]] = set()
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        self.verdicts[record.verdict] += 1
        self.problems.add((record.case, record.data))
        self.cells[record.case.partition("/")[0], record.target][kind_of(record)] += 1
        if kind_of(record) == "failed":
            self.failures.append(record)

    @property
    def suites(self) -> list[str]:
        return list(dict.fromkeys(suite for suite, _ in self.cells))

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(target for _, target in self.cells))

    @property
    def total(self) -> int:
        return self.verdicts.total()


def kind_of(record: Record) -> str:
    """The four kinds that people care about: exact, within_bound, failed, neutral."""
    if record.verdict in ("exact", "within_bound"):
        return record.verdict
    return "failed" if record.verdict in FAILED and not record.known else "neutral"


def show_matrix(summary: Summary, environment: Mapping[str, object], console: Console) -> None:
    """Suites down, targets across; in each cell the counts that are not 0."""
    console.print(_versions(environment), style="dim")
    targets = summary.targets
    for start in range(0, len(targets), per := _columns(console.width)):
        shown = targets[start : start + per]
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        table.add_column("suite")
        for target in shown:
            table.add_column(_two_lines(target), justify="left", no_wrap=True)
        for suite in summary.suites:
            table.add_row(suite, *(_cell(summary.cells.get((suite, target), Counter())) for target in shown))
        table.add_section()
        table.add_row("all", *(_cell(_column(summary, target)) for target in shown), style="bold")
        console.print(table)
        console.print()
    console.print(_legend())


def show_failures(summary: Summary, console: Console, limit: int) -> None:
    """One line for each failure with its numbers, similar ones together; ``limit`` lines at most."""
    if not summary.failures:
        return
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in summary.failures:
        groups[record.target, record.verdict, record.diagnosis or _reason(record.message)].append(record)
    console.print()
    console.print(f"{len(summary.failures)} failures of {len(groups)} kinds", style="bold")
    ordered = sorted(groups.values(), key=lambda g: (g[0].target, -len(g)))
    for group in ordered[:limit]:
        console.print(_failure(group), soft_wrap=True)
    if len(ordered) > limit:
        console.print(f"... and {len(ordered) - limit} kinds more (--failures {len(ordered)})")
    example = ordered[0][0]
    console.print(
        f"\nSee one: conformance show '{example.case}' --target {example.target}", style="dim", soft_wrap=True
    )


def _failure(group: list[Record]) -> Text:
    first = min(group, key=lambda record: (len(record.case), record.case))
    line = Text.assemble(
        (f"{MARKS['failed']} {first.verdict}", STYLES["failed"]),
        f" {first.target} ",
        (first.case, "bold"),
        f" ({first.data})",
    )
    if len(group) > 1:
        line.append(f" and {len(group) - 1} more", "dim")
    if first.verdict == "reduced":
        line.append(f" to {first.arithmetic}")
    for text in filter(None, (first.diagnosis, first.message, _numbers(first))):
        line.append(f": {text}" if text is first.diagnosis else f"; {text}")
    return line


def _numbers(record: Record) -> str:
    if record.max_abs_error is None or record.bound_usage is None:
        return ""
    return f"max error {record.max_abs_error:.3g}, {record.bound_usage:.3g} of the bound"


def _reason(message: str) -> str:
    """The part of a message that similar failures share: its words without its numbers."""
    return " ".join("".join(" " if c in "0123456789.,-[]x" else c for c in message).split())[:120]


def _cell(counts: Counter[str]) -> Text:
    parts = [Text(f"{counts[kind]}{mark}", STYLES[kind]) for kind, mark in MARKS.items() if counts[kind]]
    return Text(" ").join(parts)


def _column(summary: Summary, target: str) -> Counter[str]:
    return sum((cell for (_, name), cell in summary.cells.items() if name == target), Counter())


def _legend() -> Text:
    return Text("   ").join(Text(f"{MARKS[kind]} {meaning}", STYLES[kind]) for kind, meaning in LEGEND)


def _two_lines(target: str) -> str:
    """``keras-ops-tensorflow@cpu`` broken after a dash near its middle, so that columns stay narrow."""
    if len(target) <= 15:
        return target
    dashes = [i for i, c in enumerate(target) if c in "-:"]
    if not dashes:
        return target
    middle = min(dashes, key=lambda i: abs(i - len(target) // 2))
    return target[: middle + 1] + "\n" + target[middle + 1 :]


def _columns(width: int) -> int:
    return max((width - 18) // 22, 1)


def _versions(environment: Mapping[str, object]) -> str:
    versions = environment.get("versions")
    named = [f"{name} {version}" for name, version in versions.items()] if isinstance(versions, Mapping) else []
    return ", ".join([f"conformance {environment.get('conformance')}", *named, f"Python {environment.get('python')}"])
