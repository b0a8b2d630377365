"""What the commands do; ``cli`` reads their arguments."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from conformance import engine
from conformance.deviations import Register, load_deviations
from conformance.engine import run_problem
from conformance.errors import BadInput, BadRunFile
from conformance.execution import LocalExecutor, TargetSpec, all_targets, find_targets, known_targets
from conformance.execution.registry import EXPORTERS
from conformance.problem import pose
from conformance.reports.details import show_case, show_outcome, show_records
from conformance.reports.targets import show_targets
from conformance.reports.terminal import Summary, kind_of, show_failures, show_known, show_matrix, show_stale
from conformance.runs import RunFile, last_run, new_run_path
from conformance.spec import load_cases, shipped_suites, suite_schema
from conformance.spec.suites import FULL, shipped_folder
from exporters.cache import Cache, limit_of_cache

REFRESH_SECONDS = 0.1


def run_command(
    suites: Sequence[str],
    targets: Sequence[str],
    data: Sequence[str],
    profile: str,
    jobs: int,
    threads: int,
    timeout: float,
    out: Path | None,
    resume: Path | None,
    json_path: Path | None,
    failures: int,
    repeat: int,
    deviations: Sequence[Path],
) -> int:
    """``conformance run``."""
    register = Register(load_deviations(deviations))
    specs = find_targets(targets)
    if not specs:
        missing = "\n".join(f"  {spec.name}: {spec.install}" for spec in known_targets().values())
        raise BadInput(f"no framework is installed; install at least one:\n{missing}")
    cases: list[Any] = load_cases(suites, profile)
    gc.freeze()  # they stay until the end, and need not be looked through again and again
    if json_path is not None:
        _check_writable(json_path)
    options = {"profile": profile, "suites": list(suites), "threads": threads, "timeout": timeout, "jobs": jobs}
    options |= {"data": list(data), "seed": engine.SEED, "finished": False}
    options |= {"repeat": repeat} if repeat > 1 else {}
    with _open_run(out, resume) as store:
        _note_environment(store, engine.environment(specs, **options))
        try:
            with LocalExecutor(specs, jobs=jobs, threads=threads, timeout=timeout) as executor:
                _run_all(cases, specs, executor, data, store, repeat, register)
            store.note({"finished": True})
        except KeyboardInterrupt:
            click.echo(f"go on with: conformance run --resume {store.path}", err=True)
            raise
        summary = Summary(store.records())
        console = Console(highlight=False, markup=False)
        show_matrix(summary, store.environment, console)
        show_failures(summary, console, failures)
        show_known(summary, console)
        if not suites and not data:
            show_stale(engine.stale(register, cases, specs, {r.deviation for r in store.records()}), console)
        if json_path is not None:
            store.write_json(json_path)
        console.print(f"Run file: {store.path}", style="dim", soft_wrap=True)
    return 1 if summary.failures else 0


def _run_all(
    cases: Sequence[Any],
    specs: Sequence[TargetSpec],
    executor: LocalExecutor,
    data: Sequence[str],
    store: RunFile,
    repeat: int,
    register: Register,
) -> None:
    done = {(record.digest, record.target, record.data) for record in store.records()}
    total = sum(1 for _ in engine.cells(cases, specs, data))
    began = time.monotonic()
    try:
        with _Bar(total, len(done), executor) as bar:
            options = {"data": data, "repeat": repeat, "done": done, "register": register}
            stream = engine.run(cases, specs, executor, **options, waiting=bar.refresh)
            for record in stream:
                store.append(record)
                bar.add(kind_of(record))
    finally:
        store.note({"settings": executor.descriptions, "seconds": round(time.monotonic() - began, 3)})


def _check_writable(path: Path) -> None:
    """Raise BadInput now rather than after the run."""
    try:
        with path.open("a"):
            pass
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror}") from None


def _open_run(out: Path | None, resume: Path | None) -> RunFile:
    if resume is not None:
        if out is not None and out != resume:
            raise BadInput("expected --out or --resume, not both")
        return RunFile.resume(resume)
    return RunFile.create(out or new_run_path())


def _note_environment(store: RunFile, environment: dict[str, Any]) -> None:
    """Keep what the run is made with.  Raises BadRunFile if it goes on with a run that was made with something else."""
    before = store.environment
    versions: dict[str, str] = environment["versions"]
    pairs = [("--threads", before.get("threads"), environment["threads"])]
    pairs += [(name, before.get("versions", {}).get(name), version) for name, version in versions.items()]
    for name, then, now in pairs:
        if then is not None and then != now:
            raise BadRunFile(f"{store.path}: made with {name} {then}, cannot go on with {name} {now}")
    environment["versions"] = before.get("versions", {}) | versions
    environment["targets"] = list(dict.fromkeys([*before.get("targets", []), *environment["targets"]]))
    store.note(environment)


class _Bar:
    """A progress bar with counts and the time left; silent where the error stream is not a terminal."""

    def __init__(self, total: int, done: int, executor: LocalExecutor) -> None:
        self._executor = executor
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("[bold red]{task.fields[failed]} failed"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task("starting", total=total, completed=done, failed=0)
        self._count, self._failed, self._shown = done, 0, 0.0

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add(self, kind: str) -> None:
        self._count += 1
        self._failed += kind == "failed"
        if time.monotonic() - self._shown > REFRESH_SECONDS:
            self.refresh()

    def refresh(self) -> None:
        starting = self._executor.starting
        text = f"starting {', '.join(starting)}" if starting else "judging"
        self._progress.update(self._task, completed=self._count, failed=self._failed, description=text)
        self._progress.refresh()
        self._shown = time.monotonic()


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
    with LocalExecutor(specs, threads=threads, timeout=timeout) as executor:
        for kind in case.data:
            problem = pose(case, kind)
            for name, outcomes in run_problem(problem, [spec.name for spec in specs], executor):
                promised = executor.descriptions.get(name, {}).get("arithmetic", "native")
                failed |= show_outcome(problem, name, outcomes, promised, console)
    return int(failed)


def explain_command(case: str, suites: Sequence[str], targets: Sequence[str], **options: Any) -> int:
    """``conformance explain``."""
    from conformance.explain.command import explain_case
    from conformance.explain.projections import of_every_library

    specs = find_targets(targets)
    return explain_case(_find_case(case, suites), specs if targets else of_every_library(specs), **options)
