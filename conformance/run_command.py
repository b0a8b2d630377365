"""``conformance run``."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from conformance import engine
from conformance.deviations import Register, load_deviations
from conformance.errors import BadInput, BadRunFile
from conformance.execution import LocalExecutor, TargetSpec, find_targets, known_targets
from conformance.reports.terminal import Summary, kind_of, show_failures, show_known, show_matrix, show_stale
from conformance.runs import RunFile, new_run_path
from conformance.spec import Case, load_cases
from conformance.spec.suites import QUICK

REFRESH_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The arguments of ``conformance run``, by their names."""

    suites: Sequence[str] = ()
    targets: Sequence[str] = ()
    data: Sequence[str] = ()
    profile: str = QUICK
    jobs: int = 1
    threads: int = 1
    timeout: float = 60.0
    out: Path | None = None
    resume: Path | None = None
    json_path: Path | None = None
    failures: int = 40
    repeat: int = 1
    deviations: Sequence[Path] = ()

    @property
    def whole(self) -> bool:
        """Whether it is a run of all shipped suites with all their data."""
        return not self.suites and not self.data

    @property
    def noted(self) -> dict[str, Any]:
        """What the run file says of it."""
        noted = {"profile": self.profile, "suites": list(self.suites), "data": list(self.data), "seed": engine.SEED}
        noted |= {"threads": self.threads, "timeout": self.timeout, "jobs": self.jobs, "finished": False}
        return noted | ({"repeat": self.repeat} if self.repeat > 1 else {})


def run_command(asked: Asked) -> int:
    """``conformance run``."""
    register = Register(load_deviations(asked.deviations))
    specs = find_targets(asked.targets)
    if not specs:
        missing = "\n".join(f"  {spec.name}: {spec.install}" for spec in known_targets().values())
        raise BadInput(f"no framework is installed; install at least one:\n{missing}")
    cases = load_cases(asked.suites, asked.profile)
    gc.freeze()  # they stay until the end, and need not be looked through again and again
    if asked.json_path is not None:
        _check_writable(asked.json_path)
    with _open_run(asked.out, asked.resume) as store:
        _note_environment(store, engine.environment(specs, **asked.noted))
        try:
            with LocalExecutor(specs, jobs=asked.jobs, threads=asked.threads, timeout=asked.timeout) as executor:
                _run_all(cases, specs, executor, store, register, asked)
            store.note({"finished": True})
        except KeyboardInterrupt:
            click.echo(f"go on with: conformance run --resume {store.path}", err=True)
            raise
        summary = Summary(store.records())
        _tell(summary, store, asked)
        if asked.whole:
            shown = {record.deviation for record in store.records()}
            show_stale(engine.stale(register, cases, specs, shown), _console())
    return 1 if summary.failures else 0


def _tell(summary: Summary, store: RunFile, asked: Asked) -> None:
    console = _console()
    show_matrix(summary, store.environment, console)
    show_failures(summary, console, asked.failures)
    show_known(summary, console)
    if asked.json_path is not None:
        store.write_json(asked.json_path)
    console.print(f"Run file: {store.path}", style="dim", soft_wrap=True)


def _console() -> Console:
    return Console(highlight=False, markup=False)


def _run_all(
    cases: Sequence[Case],
    specs: Sequence[TargetSpec],
    executor: LocalExecutor,
    store: RunFile,
    register: Register,
    asked: Asked,
) -> None:
    done = {(record.digest, record.target, record.data) for record in store.records()}
    total = sum(1 for _ in engine.cells(cases, specs, asked.data))
    options = {"data": asked.data, "repeat": asked.repeat, "done": done, "register": register}
    began = time.monotonic()
    try:
        with _Bar(total, len(done), executor) as bar:
            for record in engine.run(cases, specs, executor, **options, waiting=bar.refresh):
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
