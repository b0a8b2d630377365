"""Documented deviations, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from conformance.deviations import Deviation
from conformance.text import printable


def show_deviations(
    deviations: Sequence[Deviation], shown: Mapping[str, int], run: Path | None, console: Console
) -> None:
    """Each in two lines; ``shown`` counts the verdicts of a run that each explains."""
    for one in deviations:
        count = shown.get(one.id, 0)
        line = Text.assemble(
            (one.id, "bold"), f"  {one.verdict}", (f"  {count:,} verdicts" if count else "", "medium_purple2")
        )
        console.print(line, soft_wrap=True)
        console.print(f"    {', '.join(one.targets)}; {_versions(one)}", style="dim", soft_wrap=True)
    if run is not None:
        console.print(f"verdicts: in {run}", style="dim", soft_wrap=True)
    console.print("More: conformance deviations DEVIATION", style="dim")


def show_deviation(one: Deviation, count: int, console: Console) -> None:
    """All that a deviation says."""
    console.print(one.id, style="bold")
    console.print(f"{one.location}  {printable(one.reference)}", style="dim", soft_wrap=True)
    console.print(printable(one.why), width=min(console.width, 100))
    said = {
        "targets": ", ".join(one.targets),
        "versions": _versions(one),
        "processor": ", ".join(one.cpu),
        "op": ", ".join(one.ops),
        "dtype": ", ".join(one.dtypes),
        "data": ", ".join(one.data),
        "where": one.where.text if one.where is not None else "",
        "verdict": one.verdict,
        "reading": one.reading,
        "shows": one.shows,
        "last run": f"{count:,} verdicts" if count else "none",
    }
    for key, value in said.items():
        if value:
            console.print(f"  {key:10s} {printable(value)}", soft_wrap=True)
    console.print()


def _versions(one: Deviation) -> str:
    return ", ".join(f"{package} {allowed}" for package, allowed in one.versions)
