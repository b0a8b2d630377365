"""The engine, some cells ahead of pytest.

pytest asks for one verdict after the other; the engine poses, runs and judges a stream of cases on all targets.  So at
the first item the stream of all selected items is begun, and every verdict that comes before it is asked for is kept.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from threadpoolctl import threadpool_limits

from conformance.engine import Judged, judged_run
from conformance.execution import LocalExecutor, TargetSpec
from conformance.pytest_plugin.options import AHEAD, is_grouped, is_worker, jobs_of
from conformance.pytest_plugin.plan import Plan, plan_of
from conformance.reports.failure import failure_text
from conformance.runs import Record
from conformance.text import printable
from conformance.verdict import FAILED

if TYPE_CHECKING:
    from conformance.pytest_plugin.collect import VerdictItem

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Told:
    """A verdict without its tensors: the record, and what there is to say of it."""

    record: Record
    text: str

    @property
    def failed(self) -> bool:
        return self.record.verdict in FAILED

    @property
    def values(self) -> list[Any]:
        """The record in plain values, which cross to another process."""
        return list(self.record.values)

    @property
    def properties(self) -> list[tuple[str, object]]:
        """What JUnit XML has of it."""
        record = self.record
        numbers = {name: getattr(record, name) for name in ("max_abs_error", "bound_usage", "rms_usage")}
        said = {"verdict": record.verdict, "arithmetic": record.arithmetic, "deviation": record.deviation}
        return [(key, printable(str(value))) for key, value in (said | numbers).items() if value not in (None, "")]


class Ahead:
    """The verdicts of a session."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._plan: Plan = plan_of(session.config)
        self._told: dict[_Key, Told] = {}
        self._stream: Iterator[Judged] = iter(())
        self._begun: set[_Key] = set()
        self._open = contextlib.ExitStack()
        self._executors: dict[tuple[str, ...], LocalExecutor] = {}
        self.descriptions: dict[str, dict[str, str]] = {}
        gc.freeze()  # tens of thousands of items stay until the end, and need not be looked through again and again

    def verdict(self, item: VerdictItem) -> Told:
        """The verdict of an item, which is run with those that are likely to be asked for next."""
        if item.key not in self._told:
            if item.key not in self._begun:
                self._begin(self._together_with(item))
            self._until(item.key)
        if item.key not in self._told:  # asked for again, or the stream broke off
            self._begin([item])
            self._until(item.key)
        return self._told.pop(item.key)

    def close(self) -> None:
        """End the frameworks."""
        if isinstance(self._stream, Generator):
            self._stream.close()
        self._executors.clear()
        self._open.close()

    def _together_with(self, item: VerdictItem) -> Sequence[VerdictItem]:
        if not self._grouped:
            return [item]
        items = [other for other in self._session.items if isinstance(other, type(item))]
        if is_worker(self._session.config):
            framework = self._framework(item.target)
            items = [other for other in items if self._framework(other.target) == framework]
        return [other for other in items if other.target not in self._plan.missing]

    @property
    def _grouped(self) -> bool:
        return is_grouped(self._session.config)

    def _framework(self, target: str) -> str:
        return next((spec.framework for spec in self._plan.specs if spec.name == target), target)

    def _begin(self, items: Sequence[VerdictItem]) -> None:
        keys = {item.key for item in items}
        self._begun |= keys
        frameworks = {self._framework(item.target) for item in items}
        specs = [spec for spec in self._plan.specs if spec.framework in frameworks and not spec.missing]
        cases = {item.case.id: item.case for item in items}
        executor = self._executor(specs)
        self._stream = judged_run(cases.values(), specs, executor, only=keys, register=self._plan.register)

    def _executor(self, specs: Sequence[TargetSpec]) -> LocalExecutor:
        """Workers of these targets: where a framework comes but once, those before have ended."""
        key = tuple(spec.name for spec in specs)
        if key in self._executors:
            return self._executors[key]
        if self._grouped:
            self.close()
        config = self._session.config
        executor = LocalExecutor(
            specs,
            jobs=jobs_of(config),
            threads=config.getoption("conformance_threads"),
            timeout=config.getoption("conformance_timeout"),
        )
        self._open.enter_context(threadpool_limits(limits=1, user_api="blas"))  # its threads take cores from targets
        self._executors[key] = self._open.enter_context(executor)
        self._open.callback(lambda: self.descriptions.update(executor.descriptions))
        return executor

    def _until(self, key: _Key) -> None:
        try:
            for judged in self._stream:
                record = judged.record
                self._told[record.key] = Told(record, self._text(judged))
                if record.key == key:
                    return
        except BaseException:
            self.close()  # workers may still be at what nobody waits for
            raise

    def _text(self, judged: Judged) -> str:
        record = judged.record
        if record.verdict in FAILED:
            return failure_text(judged, self._plan.said.get(record.target, record.target))
        return printable("; ".join(filter(None, (record.diagnosis, record.message))))


def ahead_of(item: VerdictItem) -> Ahead:
    """The verdicts of the item's session."""
    stash = item.config.stash
    if AHEAD not in stash:
        stash[AHEAD] = Ahead(item.session)
    ahead: Ahead = stash[AHEAD]
    return ahead
