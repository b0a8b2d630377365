"""The targets there are: those that run by themselves, those that run when named, exporters, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table

from conformance.execution import TargetSpec

Said = Mapping[str, Mapping[str, str]]
_EXAMPLE = "torch-dynamo:onnxruntime@cpu"


def show_targets(
    targets: Iterable[TargetSpec], exporters: Iterable[TargetSpec], said: Said, settings: bool, console: Console
) -> None:
    """One table for each kind; ``said`` is what targets say of themselves, shown in full with ``settings``."""
    here = [spec for spec in targets if not spec.missing]
    missing = [spec for spec in (*targets, *exporters) if spec.missing]
    headings = ("versions", "promises", *(["settings"] if settings else []))
    named = [spec for spec in here if spec.on_request]
    _show("target", headings, [_row(spec, said, settings) for spec in here if not spec.on_request], console)
    if named:
        _show("when named", headings, [_row(spec, said, settings) for spec in named], console)
    if there := [spec for spec in exporters if not spec.missing]:
        _show("exporter", ("versions",), [(spec.name, _versions(spec)) for spec in there], console)
        console.print(f"An exporter stands before a runtime of ONNX files, as in {_EXAMPLE}.", style="dim")
        console.print()
    if missing:
        rows = [(spec.name, ", ".join(spec.missing), spec.install) for spec in missing]
        _show("missing", ("what it needs", "installed by"), rows, console)


def _show(first: str, headings: Iterable[str], rows: Iterable[tuple[str, ...]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()


def _row(spec: TargetSpec, said: Said, settings: bool) -> tuple[str, ...]:
    says = said.get(spec.name, {})
    if "error" in says:
        return (spec.name, _versions(spec), says["error"])
    row = (spec.name, _versions(spec), says.get("arithmetic", "native"))
    shown = {"arithmetic", *spec.versions}
    return (*row, ", ".join(f"{key}={value}" for key, value in says.items() if key not in shown)) if settings else row


def _versions(spec: TargetSpec) -> str:
    return ", ".join(f"{name} {version}" for name, version in spec.versions.items())
