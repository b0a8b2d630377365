"""``conformance across``."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from conformance.across import AUTO, ISOLATED, OVERLAY, Settings, Table, Version, make_table, parse_wanted, recipes
from conformance.across.environment import find_uv
from conformance.across.needs import needed_by, targets_for
from conformance.across.runner import digest_of, run_versions
from conformance.across.table import as_json
from conformance.errors import BadInput
from conformance.reports.across import show_across
from conformance.spec import load_cases
from conformance.text import printable


def across_command(
    requirements: Sequence[str],
    suites: Sequence[str],
    targets: Sequence[str],
    data: Sequence[str],
    profile: str,
    jobs: int,
    threads: int,
    timeout: float,
    out: Path | None,
    markdown: Path | None,
    json_path: Path | None,
    isolated: bool,
    overlay: bool,
    python: str | None,
    failures: int,
) -> int:
    """Run the suites in one environment per requirement, and show the table.

    The status is 1 if the last version that ran has failures that are not documented, or if a version is worse than the
    one before it; 2 if no version could be run.
    """
    if overlay and (isolated or python):
        raise BadInput(
            "expected --overlay, or --isolated with or without --python: an overlay lies on this environment"
        )
    wanted = parse_wanted(requirements)
    find_uv()
    names = targets_for(targets, wanted)
    packages = needed_by(names)
    cases = digest_of(load_cases(suites, profile))
    settings = Settings(names, tuple(suites), tuple(data), profile, jobs, threads, timeout, cases)
    mode = OVERLAY if overlay else ISOLATED if isolated else AUTO
    folder = out or Path(f"across-{'-'.join(sorted({str(one.requirements[0].name) for one in wanted}))}")
    plan = [(one, recipes(one, mode, packages, python)) for one in wanted]
    with _terminated_like_interrupted():
        progress = _Progress(len(plan))
        versions = list(progress.told(run_versions(plan, settings, folder, packages, progress.say)))
    table = make_table(versions, settings)
    _write(table, markdown, json_path)
    show_across(table, Console(highlight=False, markup=False), failures)
    click.echo(f"Run files: {folder}")
    return table.status


def _write(table: Table, markdown: Path | None, json_path: Path | None) -> None:
    """The table as files.  Raises BadInput."""
    try:
        if markdown is not None:
            from conformance.reports.across_markdown import across_page

            markdown.write_text(across_page(table), encoding="utf-8")
        if json_path is not None:
            json_path.write_text(json.dumps(as_json(table), indent=1), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{error.filename}: cannot be written: {error.strerror}") from None


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """A CI that cancels a job sends SIGTERM: the children end as with Ctrl-C, and it says how to go on."""

    def interrupt(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        click.echo("go on with the same command: what is done is kept", err=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


class _Progress:
    """Lines on the error stream: which version, what is done, and how long it took."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._began = total, 0, time.monotonic()

    def say(self, name: str, what: str) -> None:
        self._print(f"{printable(name)}: {what} ...")

    def told(self, versions: Iterator[Version]) -> Iterator[Version]:
        for version in versions:
            self._print(f"{printable(version.name)}: {'not run' if version.reason else 'done'}")
            self._done += 1
            yield version

    def _print(self, text: str) -> None:
        seconds = time.monotonic() - self._began
        place = f"[{min(self._done + 1, self._total)}/{self._total}]"
        print(f"{place} {seconds:5.0f} s  {text}", file=sys.stderr, flush=True)
