"""Draw docs/run.svg: what `conformance run` prints for a run file.  ``python docs/make_picture.py RUN.sqlite``."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from conformance.reports.terminal import Summary, show_failures, show_known, show_matrix
from conformance.runs import RunFile

WIDTH = 190
FAILURES = 12


def main() -> None:
    with RunFile.open(Path(sys.argv[1])) as run:
        summary, environment = Summary(run.records()), run.environment
    console = Console(width=WIDTH, record=True, file=io.StringIO(), highlight=False, markup=False)
    show_matrix(summary, environment, console)
    show_failures(summary, console, FAILURES)
    show_known(summary, console)
    svg = console.export_svg(title="conformance run", theme=MONOKAI)
    Path(__file__).with_name("run.svg").write_text(_without_web_fonts(svg), encoding="utf-8")


def _without_web_fonts(svg: str) -> str:
    """The picture must look right without fetching anything."""
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)


if __name__ == "__main__":
    main()
