"""pytest-xdist: all items of a framework go to the same worker, so that each framework is imported once."""

from __future__ import annotations

import re
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from conformance.pytest_plugin.plan import plan_of
from conformance.spec import DATA_KINDS

_ITEM = re.compile(rf"::.*\[([^\[\]]+)-(?:{'|'.join(map(re.escape, DATA_KINDS))})\]$", re.DOTALL)


class FrameworkScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Items of suites by framework; every other test by itself, as with ``--dist load``."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        self._frameworks = {spec.name: spec.framework for spec in plan_of(config).specs}

    def _split_scope(self, nodeid: str) -> str:
        return self._frameworks.get(target_of(nodeid), nodeid)


def target_of(nodeid: str) -> str:
    """The target of ``cases/x.yaml::name[target-data]``; nothing where that is no item of a suite."""
    found = _ITEM.search(nodeid)
    return "" if found is None else found[1]
