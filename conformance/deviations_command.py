"""``conformance deviations``: what is documented, and what the last run showed of it."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from conformance.deviations import Deviation, load_deviations
from conformance.errors import BadInput
from conformance.reports.deviations import show_deviation, show_deviations
from conformance.runs import RunFile, last_run


def deviations_command(ids: Sequence[str], files: Sequence[Path], run_path: Path | None) -> int:
    """List all deviations, or say everything of those that are named (an id, or the part before its slash)."""
    known = {deviation.id: deviation for deviation in load_deviations(files)}
    console = Console(highlight=False, markup=False)
    path = run_path or last_run()
    shown = _shown(path) if path is not None else Counter()
    if not ids:
        show_deviations(list(known.values()), shown, path, console)
    for deviation in (found for id in ids for found in _find(id, known)):
        show_deviation(deviation, shown[deviation.id], console)
    return 0


def _find(id: str, known: dict[str, Deviation]) -> list[Deviation]:
    found = [deviation for name, deviation in known.items() if id in (name, name.partition("/")[0])]
    if not found:
        close = difflib.get_close_matches(id, known, n=3, cutoff=0.4)
        raise BadInput(f"{id}: no such deviation{'; did you mean ' + ' or '.join(close) + '?' if close else ''}")
    return found


def _shown(path: Path) -> Counter[str]:
    with RunFile.open(path) as store:
        return Counter(record.deviation for record in store.records() if record.known)
