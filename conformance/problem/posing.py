"""Which kind of problem a case makes."""

from __future__ import annotations

from conformance.problem.base import Problem
from conformance.problem.chain import pose_chain
from conformance.problem.linear import pose_linear
from conformance.problem.properties import pose_property
from conformance.spec import PROPERTIES, Case, Chain, Convolution


def pose(case: Case, data: str = "exact", seed: int = 0) -> Problem:
    """Draw the numbers of a case, or take those that it brings along, and compute what they must give.

    The same case, data kind and seed give the same problem on every machine.  Raises OracleRounded where no exact
    numbers are found, which never happens in the cases that `conformance.spec` lets pass.
    """
    if data in PROPERTIES:
        return pose_property(case, data, seed)
    if isinstance(case, Chain):
        return pose_chain(case, data, seed)
    assert isinstance(case, Convolution)
    return pose_linear(case, data, seed)
