"""Which targets the options of a session mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from conformance.deviations import Register, load_deviations
from conformance.errors import BadInput
from conformance.execution import TargetSpec
from conformance.execution.names import find_targets, why_missing
from conformance.pytest_plugin.options import targets_of
from conformance.spec import Case


@dataclass(frozen=True)
class Plan:
    """``specs`` are the targets, ``said`` how each is named on the command line, ``missing`` why one cannot be had.

    ``seen`` are the cases that were collected, by id.
    """

    specs: list[TargetSpec]
    said: dict[str, str]
    missing: dict[str, str]
    register: Register
    seen: dict[str, Case] = field(default_factory=dict)

    def add(self, case: Case) -> None:
        """Note a case.  Raises BadInput if another one has its id."""
        other = self.seen.setdefault(case.id, case)
        if other is not case and other.location != case.location:
            raise BadInput(f"{case.location}: the case {case.id} is also in {other.location}")


PLAN: pytest.StashKey[Plan] = pytest.StashKey()


def plan_of(config: pytest.Config) -> Plan:
    """The plan of a session.  Raises pytest.UsageError where an option is wrong."""
    if PLAN not in config.stash:
        try:
            config.stash[PLAN] = _make(config)
        except BadInput as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[PLAN]


def _make(config: pytest.Config) -> Plan:
    names = targets_of(config)
    specs = find_targets(names, must_be_present=False)
    if not specs:
        raise BadInput("no framework is installed; `conformance targets` says how to install one")
    said = dict(zip((spec.name for spec in specs), names or [spec.name for spec in specs], strict=True))
    missing = {spec.name: why_missing(spec) for spec in specs if spec.missing}
    paths = [Path(path) for path in config.getoption("conformance_deviations")]
    return Plan(specs, said, missing, Register(load_deviations(paths)))
