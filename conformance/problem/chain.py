"""Chains: the tensors, and what every stage gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from conformance.dtypes import FORMATS
from conformance.oracle.chains import draw_chain, walk
from conformance.problem.base import Problem
from conformance.spec import PUBLISHED, Chain, MaxUnpool, ResponseNorm, is_index


@dataclass(frozen=True)
class ChainProblem(Problem):
    """A chain with numbers.  ``values`` is what every stage gives, by name: float64, indices int64."""

    case: Chain
    values: Mapping[str, np.ndarray] = field(repr=False)
    judged: dict[object, Any] = field(default_factory=dict, repr=False, compare=False)
    """What was judged before, by what it was: several targets often run the same kernels, and give the same bits."""

    @cached_property
    def exact(self) -> np.ndarray:
        """The result, in float64."""
        return self.values["output"]

    @cached_property
    def nothing_rounds(self) -> bool:
        """Whether an honest target gives every stage bit for bit."""
        if self.data not in ("exact", "edge-nan", "edge-inf"):
            return False
        return not any(
            isinstance(step, ResponseNorm) or (isinstance(step, MaxUnpool) and step.overlap == "mean")
            for step in self.case.steps
        )

    @property
    def nbytes(self) -> int:
        return super().nbytes + sum(value.nbytes for value in self.values.values())


def pose_chain(case: Chain, data: str, seed: int = 0) -> ChainProblem:
    """The problem of a chain.  Raises OracleRounded where it has no exact data."""
    if data != PUBLISHED:
        tensors, values = draw_chain(case, data, FORMATS[case.dtype], seed)
        return ChainProblem(case, data, tensors, values)
    if case.vectors is None:
        raise ValueError(f"{case.id} brings no numbers along")
    tensors = {n: t.astype(np.int64) if is_index(n) else t for n, t in case.vectors.tensors.items()}
    return ChainProblem(case, data, tensors, walk(case.stages, tensors))
