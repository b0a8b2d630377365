"""``conformance explain``, from what was asked for to the file."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from conformance.errors import BadInput
from conformance.execution import LocalExecutor, TargetSpec
from conformance.explain.bank import DRAWN, drawn_weights
from conformance.explain.explanation import Explanation, explain
from conformance.explain.network import explainable
from conformance.explain.scene import drawn_scene, read_scene
from conformance.explain.weights import read_weights
from conformance.explain.words import number
from conformance.spec import Case
from conformance.text import printable

PAGES, FIGURES = (".html", ".htm"), (".png", ".svg", ".pdf")


def explain_case(
    case: Case,
    specs: Sequence[TargetSpec],
    *,
    image: Path | None,
    weights: Path | None,
    layer: str | None,
    channels: Sequence[int],
    top: int | None,
    out: Path | None,
    threads: int,
    timeout: float,
) -> int:
    """Write the page or the figure and say where it is.  Returns 1 where a target fails.  Raises BadInput."""
    network = explainable(case, layer)
    if channels and top is not None:
        raise BadInput("expected --channels or --top, not both")
    path = _writable(out or Path(f"explain-{re.sub(r'[^A-Za-z0-9.]+', '-', network.id).strip('-')}.html"))
    shape = network.layers[0].input
    scene = read_scene(image, shape) if image else drawn_scene(shape)
    filters, said = (read_weights(weights, network), weights.name) if weights else (drawn_weights(network), DRAWN)
    console = Console(highlight=False, markup=False)
    with (
        LocalExecutor(specs, threads=threads, timeout=timeout) as executor,
        Console(stderr=True).status("starting") as status,
    ):
        explanation = explain(
            network, scene, filters, said, specs, executor, channels=channels, count=top, progress=status.update
        )
        status.update("drawing")
        _write(path, explanation)
    _show(explanation, console)
    console.print(f"{'Figure' if path.suffix.lower() in FIGURES else 'Page'}: {path}", style="dim", soft_wrap=True)
    return int(explanation.failed)


def _writable(path: Path) -> Path:
    """The path, if a file can be written there.  Raises BadInput, before anything is run."""
    suffix = path.suffix.lower()
    if suffix not in (*PAGES, *FIGURES):
        raise BadInput(f"{path}: expected {', '.join((PAGES[0], *FIGURES))}")
    if suffix in FIGURES and importlib.util.find_spec("matplotlib") is None:
        raise BadInput(f"{path}: a figure needs matplotlib; pip install 'deconv-conformance[figure]'")
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BadInput(f"{path}: cannot be written")
    return path


def _write(path: Path, explanation: Explanation) -> None:
    if path.suffix.lower() in FIGURES:
        from conformance.explain.figure import write_figure

        write_figure(explanation, path)
        return
    from conformance.explain.page import write_page

    command = shlex.join(["conformance", *sys.argv[1:]])
    path.write_text(write_page(explanation, command), encoding="utf-8")


def _show(explanation: Explanation, console: Console) -> None:
    """One line per target: its verdicts, and how far it is from the oracle at most."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("target", "verdicts", "largest difference", "message"):
        table.add_column(heading, overflow="fold")
    for name in explanation.rows[0].projections:
        projections = [row.projections[name] for row in explanation.rows]
        verdicts = [projection.judgement.verdict for projection in projections]
        counted = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
        largest = max(projection.largest for projection in projections)
        told = next((p.judgement.diagnosis or p.judgement.message for p in projections if not p.judgement.passed), "")
        shown = number(largest) if any(projection.signal is not None for projection in projections) else ""
        table.add_row(name, counted, shown, printable(told))
    console.print(table)
