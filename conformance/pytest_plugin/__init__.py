"""The pytest plugin: suites as test files, one item for each case, target and kind of data.

``options``   what pytest is asked for        ``plan``      the targets that this means
``sniff``     whether a YAML file is a suite  ``collect``   suites to items, and a verdict to what pytest calls it
``ahead``     the engine, some cells ahead    ``protocol``  how little of pytest an item needs
``keeping``   run file and summary            ``grouping``  one framework on one worker of pytest-xdist
``fixtures``  for tests of one's own

pytest loads this module wherever the package is installed, so it imports next to nothing: what does the work is
imported when there is a suite.  Its wrappers are of the kind that older releases of pytest know too.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conformance.pytest_plugin.fixtures import conformance_problem, pytest_generate_tests
from conformance.pytest_plugin.keeping import Keeper
from conformance.pytest_plugin.options import add_options, is_worker, spell_out

if TYPE_CHECKING:
    from conformance.pytest_plugin.collect import SuiteFile

__all__ = ["conformance_problem", "pytest_generate_tests"]

MARK = (
    "conformance(*suites, op=..., data=...): which problems the fixture conformance_problem takes, one after the other"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(hookwrapper=True)
def pytest_load_initial_conftests(parser: pytest.Parser, args: list[str]) -> Iterator[None]:
    yield
    spell_out(parser, args)  # now all options are there


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARK)
    if not is_worker(config):
        config.pluginmanager.register(Keeper(config))
    if config.getoption("conformance_targets"):
        from conformance.pytest_plugin.plan import plan_of

        plan_of(config)  # a name that is wrong is told before anything is collected


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> SuiteFile | None:
    if file_path.suffix not in (".yaml", ".yml"):
        return None
    from conformance.pytest_plugin.sniff import is_suite

    if not is_suite(file_path, asked_for=parent.session.isinitpath(file_path)):
        return None
    from conformance.pytest_plugin.collect import SuiteFile

    return SuiteFile.from_parent(parent, path=file_path)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """The verdict travels with the report, from a worker of pytest-xdist to the main process."""
    made = yield
    if not hasattr(item, "told"):
        return
    report = made.get_result()
    if item.told is not None and call.when == "call":
        report.conformance = item.told.values
    if report.skipped and isinstance(report.longrepr, tuple):
        report.longrepr = item.skipped(report.longrepr[2].removeprefix("Skipped: "))  # type: ignore[attr-defined]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if not hasattr(item, "told"):
        return None
    from conformance.pytest_plugin.protocol import report_shortly

    return report_shortly(item, nextitem) or None  # type: ignore[arg-type]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from conformance.pytest_plugin.sniff import has_suites

    if config.getoption("dist") != "load" or not has_suites(config):
        return None
    from conformance.pytest_plugin.grouping import FrameworkScheduling

    return FrameworkScheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    from conformance.pytest_plugin.sniff import has_suites

    node.workerinput["conformance_grouped"] = node.config.getoption("dist") == "load" and has_suites(node.config)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the frameworks, and tell the main process what they said of themselves."""
    from conformance.pytest_plugin.options import AHEAD

    ahead = session.config.stash.get(AHEAD, None)
    if ahead is None:
        return
    ahead.close()
    if is_worker(session.config):
        session.config.workeroutput["conformance"] = ahead.descriptions  # type: ignore[attr-defined]
