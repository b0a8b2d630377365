"""The run file and the summary, in the main process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conformance.pytest_plugin.options import AHEAD

if TYPE_CHECKING:
    from conformance.runs import RunFile


class Keeper:
    """Keeps every verdict that is reported, whichever process it was reached in."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.counts: Counter[str] = Counter()
        self.settings: dict[str, Any] = {}
        self.store: RunFile | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        path = self.config.getoption("conformance_out")
        if path is None:
            return
        from conformance.errors import BadRunFile
        from conformance.runs import RunFile

        try:
            self.store = RunFile.create(Path(self.config.invocation_params.dir, path))
        except BadRunFile as error:
            message = str(error).partition(";")[0]
            raise pytest.UsageError(f"--conformance-out: {message}") from None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        values = getattr(report, "conformance", None)
        if values is None:
            return
        from conformance.reports.terminal import kind_of
        from conformance.runs import Record

        record = Record(*values)
        self.counts[kind_of(record)] += 1
        if self.store is not None:
            self.store.append(record)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.settings |= getattr(node, "workeroutput", {}).get("conformance", {})

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        yield
        if self.store is None:
            return
        if self.counts:
            self._note(self.store, session)
        self.store.close()
        if not self.counts:  # nothing was run: the next session may have the name
            self.store.path.unlink()

    def _note(self, store: RunFile, session: pytest.Session) -> None:
        from conformance import engine
        from conformance.pytest_plugin.plan import plan_of

        ahead = self.config.stash.get(AHEAD, None)
        settings = self.settings | (ahead.descriptions if ahead is not None else {})
        options = {"profile": self.config.getoption("conformance_profile"), "suites": list(self.config.args)}
        options |= {"threads": self.config.getoption("conformance_threads"), "data": [], "seed": engine.SEED}
        options |= {"timeout": self.config.getoption("conformance_timeout"), "settings": settings}
        cut_short = session.shouldstop or session.shouldfail
        options["finished"] = session.exitstatus in (0, 1) and not cut_short
        present = [spec for spec in plan_of(self.config).specs if not spec.missing]
        store.note(engine.environment(present, **options))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.counts or terminalreporter.verbosity < 0:
            return
        from conformance.reports.terminal import ROWS

        told = [f"{self.counts[kind]:,} {meaning.rstrip(' ~')}" for kind, meaning in ROWS if self.counts[kind]]
        terminalreporter.section("conformance")
        terminalreporter.line(f"{sum(self.counts.values()):,} verdicts: {', '.join(told)}")
        if self.store is not None and self.counts:
            terminalreporter.line(f"run file: {self.store.path}")
