"""What the smaller commands do; ``cli`` reads their arguments."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from conformance.deviations import Register, load_deviations
from conformance.engine import run_problem
from conformance.errors import BadInput
from conformance.execution import LocalExecutor, TargetSpec, all_targets, find_targets
from conformance.execution.registry import EXPORTERS
from conformance.problem import pose
from conformance.reports.details import show_case, show_outcome, show_records
from conformance.reports.targets import show_targets
from conformance.runs import RunFile, last_run
from conformance.spec import case_digest, load_cases, shipped_suites, suite_schema
from conformance.spec.suites import FULL, shipped_folder
from exporters.cache import Cache, limit_of_cache


def targets_command(as_json: bool, settings: bool) -> int:
    """``conformance targets``."""
    known = all_targets()
    present = [spec for spec in known.values() if not spec.missing]
    said = _describe(present)
    if as_json:
        rows = {
            name: {"versions": spec.versions, "missing": list(spec.missing), "says": said.get(name, {})}
            for name, spec in known.items()
        }
        click.echo(json.dumps(rows, indent=1))
        return 0
    show_targets(list(known.values()), EXPORTERS, said, settings, Console(highlight=False, markup=False))
    return 0


def _describe(specs: Sequence[TargetSpec]) -> dict[str, dict[str, str]]:
    """Start every framework and ask its targets what they are."""
    with LocalExecutor(specs) as executor:
        while executor.starting:
            executor.poll(1.0)
        return executor.descriptions


def cache_command(clear: bool) -> int:
    """``conformance cache``."""
    cache = Cache()
    if clear:
        cache.clear()
    entries, size = cache.usage()
    limit = f"at most {limit_of_cache() / 2**20:,.0f} MiB, by CONFORMANCE_CACHE_BYTES"
    click.echo(f"{cache.folder}: {entries:,} exports, {size / 2**20:,.1f} MiB ({limit})")
    return 0


def cases_command(suites: Sequence[str], schema: bool, where: bool, profile: str) -> int:
    """``conformance cases``."""
    if where:
        click.echo(shipped_folder())
        return 0
    if schema:
        click.echo(json.dumps(suite_schema(), indent=1))
        return 0
    cases = load_cases(suites, profile)
    for case in cases:
        click.echo(f"{case.id}\t{case.op}\t{case.dtype}\t{case.location}")
    click.echo(f"{len(cases)} cases in {len({case.suite for case in cases})} suites", err=True)
    return 0


def show_command(
    case: str,
    suites: Sequence[str],
    targets: Sequence[str],
    run_path: Path | None,
    threads: int,
    timeout: float,
) -> int:
    """``conformance show``."""
    found = _find_case(case, suites)
    console = Console(highlight=False, markup=False)
    show_case(found, console)
    if targets:
        return _show_now(found, find_targets(targets), threads, timeout, console)
    path = run_path or last_run()
    if path is not None:
        with RunFile.open(path) as store:
            records = [record for record in store.records() if record.case == case]
        console.print(f"\nIn {path}:", style="dim", soft_wrap=True)
        show_records(records, console)
    return 0


def _find_case(name: str, suites: Iterable[str]) -> Any:
    files = tuple(suites) or ((name.partition("/")[0],) if name.partition("/")[0] in shipped_suites() else ())
    cases = {case.id: case for case in load_cases(files, FULL)}
    if name not in cases:
        import difflib

        close = difflib.get_close_matches(name, cases, n=3, cutoff=0.3)
        raise BadInput(f"{name}: no such case{'; did you mean ' + ' or '.join(close) + '?' if close else ''}")
    return cases[name]


def _show_now(case: Any, specs: Sequence[TargetSpec], threads: int, timeout: float, console: Console) -> int:
    failed = False
    register = Register(load_deviations())
    versions = {spec.name: spec.versions for spec in specs}
    with LocalExecutor(specs, threads=threads, timeout=timeout) as executor:
        for kind in case.data:
            problem = pose(case, kind)
            for name, outcomes in run_problem(problem, [spec.name for spec in specs], executor):
                promised = executor.descriptions.get(name, {}).get("arithmetic", "native")
                said = executor.descriptions.get(name, {}) | versions[name]
                predicted = register.predicted(case, case_digest(case), kind, name, said)
                failed |= show_outcome(problem, name, outcomes, promised, predicted, console)
    return int(failed)


def explain_command(case: str, suites: Sequence[str], targets: Sequence[str], **options: Any) -> int:
    """``conformance explain``."""
    from conformance.explain.command import explain_case
    from conformance.explain.projections import of_every_library

    specs = find_targets(targets)
    return explain_case(_find_case(case, suites), specs if targets else of_every_library(specs), **options)
