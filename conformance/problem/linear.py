"""Convolutions: the tensors, the exact result, and per element what bounds an honest error."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from conformance.arithmetic import Axis
from conformance.dtypes import FORMATS, round_once
from conformance.errors import OracleRounded
from conformance.oracle.draws import ORACLE_PRECISION, Drawn, draw_exact, draw_rounding, generator
from conformance.oracle.edges import Allowed, draw_edge, expect_edge
from conformance.oracle.operators import OPERATORS, Linear, bias_of, precision_needed
from conformance.problem.base import Problem, Tensors
from conformance.spec import EDGE_KINDS, PUBLISHED, Convolution

MAX_ATTEMPTS = 16


@dataclass(frozen=True)
class LinearProblem(Problem):
    """A convolution with numbers.

    ``exact`` is the result in float64 (infinite or NaN where edge data demands
    it), ``oracle_error`` how far it may be from the truth: 0 for everything that is drawn.  ``allowed`` is set for
    edge data only.
    """

    case: Convolution
    exact: np.ndarray = field(repr=False)
    allowed: Allowed | None = field(default=None, repr=False)
    known_magnitude: np.ndarray | None = field(default=None, repr=False)
    rounded_by_oracle: bool = False

    @cached_property
    def rounded(self) -> np.ndarray:
        """The exact result rounded once to the case's dtype: what nobody can do better than."""
        return round_once(self.exact, self.format)

    @cached_property
    def magnitude(self) -> np.ndarray:
        """``A`` per element: the sum of the absolute values of what is summed."""
        if self.known_magnitude is not None:
            return self.known_magnitude
        tensors = self.tensors if self.allowed is None else {n: _finite(t) for n, t in self.tensors.items()}
        return OPERATORS[self.case.op].magnitude(self.case, tensors)

    @cached_property
    def products(self) -> np.ndarray:
        """``n`` per element, bias included; broadcasts against the result."""
        return OPERATORS[self.case.op].products(self.case)

    @cached_property
    def bias(self) -> np.ndarray:
        """The bias so that it broadcasts against the result; -0 where there is none."""
        return bias_of(self.case, self.tensors)

    def read_as(self, axes: tuple[Axis, ...]) -> LinearProblem:
        """The same numbers where the case means other axes."""
        case = replace(self.case, axes=axes, readings=())
        if self.allowed is not None:
            return _edge_problem(case, self.data, self.tensors)
        exact = OPERATORS[case.op].output(case, self.tensors)
        return LinearProblem(case, self.data, self.tensors, exact, rounded_by_oracle=self.rounded_by_oracle)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds on to, bounded from above."""
        return super().nbytes + self.exact.size * (16 + self.format.dtype.itemsize)


def pose_linear(case: Convolution, data: str, seed: int = 0) -> LinearProblem:
    """The problem of a convolution.

    Raises OracleRounded where float64 cannot hold the sums, which never happens on data that is drawn.
    """
    operator = OPERATORS[case.op]
    if data == PUBLISHED:
        return _pose_published(case, operator)
    rng = generator(case.id, data, seed)
    layout = operator.layout(case, phase=int(rng.integers(2)))
    if data in EDGE_KINDS:
        drawn = draw_edge(data, layout, FORMATS[case.dtype], rng)
        return _edge_problem(
            case, data, {name: tensor.astype(FORMATS[case.dtype].dtype) for name, tensor in drawn.items()}
        )
    if data == "rounding":
        return _checked(case, data, operator, draw_rounding(layout, FORMATS[case.dtype], rng), ORACLE_PRECISION)
    precision = FORMATS[case.dtype].precision
    for attempt in range(MAX_ATTEMPTS):
        try:
            return _checked(case, data, operator, draw_exact(layout, FORMATS[case.dtype], rng, attempt), precision)
        except OracleRounded:
            if attempt == MAX_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _edge_problem(case: Convolution, data: str, tensors: Tensors) -> LinearProblem:
    wide = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    bias = bias_of(case, wide)
    apply = OPERATORS[case.op].apply
    exact, allowed = expect_edge(data, wide, lambda x, w: apply(case, x, w), bias, FORMATS[case.dtype])
    return LinearProblem(case, data, tensors, exact, allowed)


def _checked(case: Convolution, data: str, operator: Linear, drawn: Drawn, precision: int) -> LinearProblem:
    """The problem, after making sure that no sum needs more than ``precision`` bits."""
    magnitude = None
    if drawn.bound is None:
        magnitude = operator.magnitude(case, drawn.tensors)
        if (needed := precision_needed(magnitude, drawn.unit)) > precision:
            raise OracleRounded(f"{case.id} ({data}): sums need {needed} bits, there are {precision}")
    exact = operator.output(case, drawn.tensors)
    return LinearProblem(case, data, drawn.tensors, exact, known_magnitude=magnitude)


def _pose_published(case: Convolution, operator: Linear) -> LinearProblem:
    if case.vectors is None:
        raise ValueError(f"{case.id} brings no numbers along")
    tensors = case.vectors.tensors
    exact = operator.output(case, tensors)
    return LinearProblem(case, PUBLISHED, tensors, exact, rounded_by_oracle=True)


def _finite(tensor: np.ndarray) -> np.ndarray:
    wide = tensor.astype(np.float64)
    return np.where(np.isfinite(wide), wide, 0.0)
