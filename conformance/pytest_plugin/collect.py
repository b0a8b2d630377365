"""Suites as test files, verdicts as what pytest calls them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.engine import cells
from conformance.errors import BadInput
from conformance.pytest_plugin.ahead import Told, ahead_of
from conformance.pytest_plugin.plan import Plan, plan_of
from conformance.spec import Case, load_suite
from conformance.spec.suites import FULL


class VerdictFailed(Exception):
    """A verdict that counts as a failure; the text is the whole story."""


class SuiteFile(pytest.File):
    """A YAML suite."""

    def collect(self) -> Iterator[VerdictItem]:
        plan = plan_of(self.config)
        whole = self.config.getoption("conformance_profile") == FULL
        for case in load_suite(self.path, _shown(self.path, self.config)):
            plan.add(case)
            if whole or FULL not in case.tags:
                yield from self._items(case, plan)

    def _items(self, case: Case, plan: Plan) -> Iterator[VerdictItem]:
        marks = [_mark(self.config, tag) for tag in case.tags]
        name, here = case.id.partition("/")[2], self.nodeid
        line = int(case.location.rpartition(":")[2]) - 1
        words = (case.suite, case.op, case.dtype)
        for _, kind, target in cells([case], plan.specs):
            full = f"{name}[{target}-{kind}]"
            # pytest reads the brackets of the names that it remembers; so it has to read those of this one
            item: VerdictItem = VerdictItem.from_parent(self, name=full, nodeid=f"{here}::{full}")
            item.case, item.target, item.kind, item.line = case, target, kind, line
            item.own_markers.extend(mark.mark for mark in marks)
            item.keywords.update({mark.name: mark for mark in marks})
            item.extra_keyword_matches.update(words)
            yield item

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *_: object, **__: object) -> Any:
        if isinstance(excinfo.value, BadInput):
            return str(excinfo.value)
        return super().repr_failure(excinfo)


class VerdictItem(pytest.Item):
    """One case on one target with one kind of data."""

    case: Case
    target: str
    kind: str
    line: int
    told: Told | None = None
    failure = VerdictFailed

    @property
    def key(self) -> tuple[str, str, str]:
        """The key of its verdict in a run."""
        return self.case.id, self.target, self.kind

    def setup(self) -> None:
        if (reason := plan_of(self.config).missing.get(self.target)) is not None:
            pytest.skip(reason)

    def runtest(self) -> None:
        self.told = told = ahead_of(self).verdict(self)
        record = told.record
        self.user_properties.extend(told.properties)
        if told.text and not told.failed:
            self.add_report_section("call", "verdict", told.text)
        if record.verdict == "unsupported":
            named = record.message.startswith(self.target)
            pytest.skip(record.message if named else f"{self.target}: {record.message}")
        if record.known:
            pytest.xfail(f"{record.deviation}: {record.verdict}")
        if told.failed:
            raise VerdictFailed(told.text)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, VerdictFailed):
            return str(excinfo.value)
        if isinstance(excinfo.value, BadInput):
            return f"{self.case.id} on {self.target}: {excinfo.value}"
        return super().repr_failure(excinfo, style)

    def skipped(self, reason: str) -> tuple[str, int, str]:
        """What a report has of a skip: the suite and not the case, so that `-rs` tells each reason once."""
        return str(self.path), 1, reason

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.line, self.name


def _mark(config: pytest.Config, tag: str) -> pytest.MarkDecorator:
    """The mark of a tag; tags need not be registered by whoever writes a suite."""
    if tag not in (registered := config.stash.setdefault(_TAGS, set())):
        config.addinivalue_line("markers", f"{tag}: a tag of cases")
        registered.add(tag)
    mark: pytest.MarkDecorator = getattr(pytest.mark, tag)
    return mark


_TAGS: pytest.StashKey[set[str]] = pytest.StashKey()


def _shown(path: Path, config: pytest.Config) -> str:
    """The file as messages name it: from where pytest was called, if it is below."""
    here = config.invocation_params.dir
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
