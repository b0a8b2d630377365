"""``conformance compare``."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from conformance.comparison import Run, compare, schema
from conformance.errors import BadInput
from conformance.reports.comparison import show_comparison
from conformance.reports.markdown import comparison_page


def compare_command(
    old: Path | None, new: Path | None, json_path: Path | None, markdown: Path | None, as_schema: bool, limit: int
) -> int:
    """1 if something is worse in the new run, else 0.  Raises BadInput where the runs have nothing in common."""
    if as_schema:
        click.echo(json.dumps(schema(), indent=1))
        return 0
    if old is None or new is None:
        raise BadInput("expected two run files: conformance compare OLD NEW")
    before = Run.read(old)
    found = compare(before, before if new == old else Run.read(new))
    show_comparison(found, Console(highlight=False, markup=False), limit)
    if json_path is not None:
        _write(json_path, found.as_json() + "\n")
    if markdown is not None:
        _write(markdown, comparison_page(found))
    if not found.counts.compared:
        raise BadInput(f"{old} and {new}: no verdict in common: nothing to compare")
    return 1 if found.regressions else 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from None
