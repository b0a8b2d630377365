"""A short way through pytest for items of suites.

An ordinary item costs pytest some twenty hook calls for fixtures, captured output, logging and warnings, more than most
verdicts cost.  Nothing of anybody's runs in this process for an item of a suite, so one that is followed by another one
of the same file is only reported; the last one of a file goes the ordinary way, and tears down what is above it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from conformance.pytest_plugin.collect import VerdictItem


def report_shortly(item: VerdictItem, nextitem: pytest.Item | None) -> bool:
    """Report an item.  False where it has to go the ordinary way, also where the engine itself fails."""
    option = item.config.option
    if nextitem is None or nextitem.parent is not item.parent or option.usepdb or option.setupshow or option.setuponly:
        return False
    began = time.time()
    try:
        report = _report(item)
    except Exception:
        return False
    report.start, report.stop, report.duration = began, time.time(), time.time() - began
    hook, location = item.ihook, item.location
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=location)
    hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logreport(report=_new(item, "teardown", "passed", None))
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=location)
    return True


def _report(item: VerdictItem) -> pytest.TestReport:
    try:
        item.setup()
        item.runtest()
    except pytest.xfail.Exception as known:
        report = _new(item, "call", "skipped", item.told.text if item.told else "")
        report.wasxfail = str(known.msg)
    except pytest.skip.Exception as skipped:
        report = _new(item, "call", "skipped", item.skipped(str(skipped.msg)))
    except item.failure as failed:
        report = _new(item, "call", "failed", str(failed))
    else:
        report = _new(item, "call", "passed", None)
    if item.told is not None:
        report.conformance = item.told.values  # type: ignore[attr-defined]
    return report


def _new(item: VerdictItem, when: Any, outcome: Any, longrepr: Any) -> pytest.TestReport:
    names = (item.name, *item.extra_keyword_matches, *(mark.name for mark in item.own_markers))
    words: dict[str, Literal[1]] = dict.fromkeys(names, 1)
    sections = item._report_sections if when == "call" else []
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=words,
        outcome=outcome,
        longrepr=longrepr,
        when=when,
        sections=[(f"Captured {key} {step}", text) for step, key, text in sections],
        user_properties=item.user_properties,
    )
