"""A chain walked exactly, with the errors that honest rounding may have come to.

Every stage passes the errors on, and adds its own roundings to them.  A stage that the target told, and that was found
right, is taken as the target has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from conformance.oracle.bounds import ARITHMETICS, COARSER_SUMS, Arithmetic, storing
from conformance.oracle.range_steps import ranges_of
from conformance.oracle.ranges import FAR, HUGE, Range, between
from conformance.oracle.steps import Roundings, oracle_of
from conformance.problem import ChainProblem
from conformance.spec import Convolution, ResponseNormGradient, Stage, Step

Values = Mapping[str, np.ndarray]


@dataclass
class Walk:
    """The exact chain, and of every tensor that may have errors the largest and their variance."""

    problem: ChainProblem
    arithmetic: Arithmetic
    values: dict[str, np.ndarray] = field(default_factory=dict)
    errors: dict[str, np.ndarray] = field(default_factory=dict)
    variances: dict[str, np.ndarray] = field(default_factory=dict)
    computed: list[Stage] = field(default_factory=list)
    """The stages that were not taken from the target."""

    def scaled(self, factor: np.ndarray) -> Walk:
        """The result alone, for seeds that are larger by a factor each."""
        view = Walk(self.problem, self.arithmetic)
        view.values["output"] = self.values["output"] * factor
        view.errors["output"] = self.errors.get("output", np.zeros(1)) * factor
        view.variances["output"] = self.variances.get("output", np.zeros(1)) * np.square(factor)
        return view

    @property
    def strict(self) -> bool:
        """Whether nothing may round: every sum is exact, for who does not round more than the dtype does."""
        dtype = self.problem.case.dtype
        return self.problem.nothing_rounds and self.arithmetic.name in (dtype, COARSER_SUMS.get(dtype))

    def fed(self, name: str) -> np.ndarray:
        """What a stage reads under that name."""
        return self.values[name] if name in self.values else self.problem.tensors[name]

    def range_of(self, name: str) -> Range:
        """All that rounding alone may make of a tensor."""
        value = self.fed(name).astype(np.float64)
        if name not in self.errors:
            return between(value, value)
        return Range(value, value, self.errors[name], self.variances[name])

    def follow(self, stage: Stage, returned: Values) -> None:
        """Go on with what the target has, as far as it is no mistake."""
        self.values |= {name: returned[name] for name in stage.gives}

    def compute(self, stage: Stage) -> None:
        """Go on with the exact step, and pass the errors on."""
        step, oracle = stage.step, oracle_of(stage.step)
        fed = [self.fed(name) for name in stage.reads]
        given = oracle.exact(step, *fed)
        self.values |= zip(stage.gives, given, strict=True)
        self.computed.append(stage)
        if self.strict:
            return
        source, name = stage.reads[0], stage.gives[0]
        error, variance = self.errors.get(source), self.variances.get(source)
        if error is not None and variance is not None:
            self.errors[name] = finite(oracle.passed_on(step, error, *fed))
            self.variances[name] = finite(oracle.passed_on(step, variance, *fed, squared=True))
        if isinstance(step, ResponseNormGradient) and stage.reads[1] in self.errors:
            self._pass_both_on(stage)
        if (roundings := oracle.roundings(step, *fed)) is not None:
            self._add_roundings(stage, given[0], roundings)

    def _pass_both_on(self, stage: Stage) -> None:
        """The errors of a gradient whose signal is off, and the activation that it is taken at too."""
        name, value = stage.gives[0], self.values[stage.gives[0]]
        fed = [self.range_of(read) for read in stage.reads]
        reach = []
        for errors in ([x.error for x in fed], [FAR * np.sqrt(x.variance) for x in fed]):
            off = [x.off_by(error) for x, error in zip(fed, errors, strict=True)]
            (found,) = ranges_of(stage.step).given(stage.step, *off).tensors
            assert isinstance(found, Range)
            reach.append(np.maximum(found.high - value, value - found.low))
        self.errors[name], self.variances[name] = finite(reach[0]), finite(np.square(reach[1] / FAR))

    def _add_roundings(self, stage: Stage, value: np.ndarray, roundings: Roundings) -> None:
        """Both errors grow by what rounds, and that by how far what is rounded may be off itself."""
        name = stage.gives[0]
        error, variance = (errors.get(name, np.zeros(value.shape)).copy() for errors in (self.errors, self.variances))
        held_to, far = self.held_to(roundings), np.minimum(error, FAR * np.sqrt(variance))
        rounds, bound, _ = rounding(stage.step, _off_by(roundings, error), np.abs(value) + error, held_to)
        likely, _, scale = rounding(stage.step, _off_by(roundings, far), np.abs(value) + far, held_to)
        error[rounds] += bound
        variance[likely] += np.square(scale)
        self.errors[name], self.variances[name] = finite(error), finite(variance)

    def held_to(self, roundings: Roundings) -> Arithmetic:
        """What the target is held to in a step with such roundings."""
        dtype = self.problem.case.dtype
        return ARITHMETICS[COARSER_SUMS.get(dtype, dtype)] if roundings.own_format else self.arithmetic


def rounding(
    step: Step, roundings: Roundings, size: np.ndarray, held_to: Arithmetic
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a step rounds, and the largest and the typical error that it makes in those elements.

    ``size`` is the absolute value of what is rounded at the end.
    """
    rounds = (roundings.products > 0) & (roundings.magnitude > 0)
    n, a = np.broadcast_to(roundings.products, size.shape)[rounds], roundings.magnitude[rounds]
    last = size[rounds]
    if isinstance(step, Convolution) and held_to.bias_apart and step.bias:
        last = 3 * (last + a)  # the sum without the bias is rounded too, and is no larger than all that is summed
    held_to = storing(held_to, roundings.stored)
    return rounds, held_to.bound(n, a, last), held_to.scale(n, a, last)


def _off_by(roundings: Roundings, error: np.ndarray) -> Roundings:
    return replace(roundings, magnitude=roundings.magnitude + error)


def finite(error: np.ndarray) -> np.ndarray:
    """Bounds that are infinite, because nothing can be promised, as numbers that can be computed with."""
    bounded: np.ndarray = np.minimum(np.nan_to_num(error, nan=HUGE, posinf=HUGE), HUGE)
    return bounded
