"""The whole of a chain: what error its stages may have passed on.

It starts from what the target recorded on the way up, its switches and the activation that it isolated, once those have
been found right, and follows the exact chain from there with a bound that every stage passes on and adds its own
roundings to.  Where nothing was recorded it starts from the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np

from conformance.dtypes import round_once
from conformance.oracle import pooling
from conformance.oracle.bounds import ARITHMETICS, COARSER_SUMS, Arithmetic
from conformance.oracle.gates import SMALL_SAMPLE, ratio
from conformance.oracle.steps import Roundings, isolated, oracle_of
from conformance.problem import ChainProblem
from conformance.spec import Convolution, Deconvnet, Isolate, MaxPool, MaxUnpool, Rectify, ResponseNorm, Stage, is_index
from conformance.verdict.base import Judgement, worst
from conformance.verdict.steps import same

Values = Mapping[str, np.ndarray]
HUGE = 1e150
"""A bound that says nothing."""


def judge_whole(problem: ChainProblem, returned: Values, trusted: Set[str], arithmetic: Arithmetic) -> Judgement:
    """The verdict on the result; ``trusted`` are the stages whose tensors may be followed."""
    got = returned["output"]
    if same(got, round_once(problem.exact, problem.format)).all():
        return Judgement("exact", "", 0.0, 0.0, 0.0)
    judgement = _followed(problem, returned, trusted, arithmetic).judge(got)
    if judgement.failed and arithmetic.name in COARSER_SUMS:
        coarser = replace(ARITHMETICS[COARSER_SUMS[arithmetic.name]], bias_apart=arithmetic.bias_apart)
        if _followed(problem, returned, trusted, coarser).judge(got).passed:
            return replace(judgement, verdict="reduced", arithmetic=coarser.name, diagnosis=coarser.meaning)
    return judgement


def _followed(problem: ChainProblem, returned: Values, trusted: Set[str], arithmetic: Arithmetic) -> _Whole:
    """The exact chain, following the target where it had a choice and took a right one."""
    followed = trusted & _deciding(problem.case.stages)
    if (factor := _only_scaled(problem, returned, followed)) is None:
        return _walked(problem, returned, followed, arithmetic)
    key = ("way down", arithmetic.name, arithmetic.bias_apart)
    if key not in problem.judged:
        problem.judged[key] = _walked(problem, problem.values, followed, arithmetic).scaled(np.ones(1))
    shared: _Whole = problem.judged[key]
    return shared.scaled(factor)


def _walked(problem: ChainProblem, decided: Values, followed: Set[str], arithmetic: Arithmetic) -> _Whole:
    whole = _Whole(problem, arithmetic)
    for stage in problem.case.stages:
        if stage.name in followed:
            whole.follow(stage, decided)
        else:
            whole.compute(stage)
    return whole


def _only_scaled(problem: ChainProblem, returned: Values, followed: Set[str]) -> np.ndarray | None:
    """By what factor the exact way down has to be scaled, per image, to be that of the target; None if it is another.

    From a single unit, through the same switches, everything on the way down is positively homogeneous.
    """
    case = problem.case
    if not isinstance(case, Deconvnet) or case.isolate.keep != "unit" or case.bias_down != "none":
        return None
    names = [stage.name for stage in (*case.way_up, case.stages[len(case.layers)])]
    norm = case.lrn_down != "identity" and any(isinstance(layer.step, ResponseNorm) for layer in case.layers)
    if norm or case.overlap == "assign" or case.rectify in ("mask", "both") or not set(names) <= followed:
        return None
    switches = [name for stage in case.way_up for name in stage.gives if is_index(name)]
    if not all(np.array_equal(returned[name], problem.values[name]) for name in switches):
        return None
    theirs, ours = returned["seed"].astype(np.float64), problem.values["seed"]
    if not np.array_equal(theirs != 0, ours != 0):
        return None
    sums = [seed.reshape(case.batch, -1).sum(axis=1) for seed in (theirs, ours)]
    factor: np.ndarray = np.where(sums[1] != 0, sums[0] / np.where(sums[1] != 0, sums[1], 1.0), 1.0)
    near = bool(((factor > 0.5) & (factor < 2)).all())
    return factor.reshape(-1, *[1] * (problem.exact.ndim - 1)) if near else None


def _deciding(stages: Sequence[Stage]) -> set[str]:
    """The stages that make a choice, or belong to the way up that choices were made on."""
    choices = {stage.name for stage in stages if isinstance(stage.step, MaxPool) or _assigns(stage)}
    seed = max((n for n, stage in enumerate(stages) if isinstance(stage.step, Isolate)), default=-1)
    return choices | {stage.name for stage in stages[: seed + 1]}


def _assigns(stage: Stage) -> bool:
    return isinstance(stage.step, MaxUnpool) and stage.step.overlap == "assign"


@dataclass
class _Whole:
    """The exact chain, with the largest and the typical error that honest rounding may have come to."""

    problem: ChainProblem
    arithmetic: Arithmetic
    values: dict[str, np.ndarray] = field(default_factory=dict)
    errors: dict[str, np.ndarray] = field(default_factory=dict)
    variances: dict[str, np.ndarray] = field(default_factory=dict)
    undetermined: dict[str, np.ndarray] = field(default_factory=dict)
    contested: int = 0

    def scaled(self, factor: np.ndarray) -> _Whole:
        """The result alone, for seeds that are larger by a factor each."""
        view = _Whole(self.problem, self.arithmetic)
        view.values["output"] = self.values["output"] * factor
        view.errors["output"] = self.errors.get("output", np.zeros(1)) * factor
        view.variances["output"] = self.variances.get("output", np.zeros(1)) * np.square(factor)
        return view

    def follow(self, stage: Stage, returned: Values) -> None:
        """Go on with what the target has, as far as it is no mistake."""
        self.values |= {name: returned[name] for name in stage.gives}

    def compute(self, stage: Stage) -> None:
        """Go on with the exact step, and pass the errors on."""
        step, oracle = stage.step, oracle_of(stage.step)
        fed = [self.values.get(name, self.problem.tensors.get(name)) for name in stage.reads]
        given = oracle.exact(step, *fed)  # type: ignore[arg-type]
        self.values |= zip(stage.gives, given, strict=True)
        self._note_contested(stage, fed)  # type: ignore[arg-type]
        if self.problem.nothing_rounds:
            return
        source, name = stage.reads[0], stage.gives[0]
        error, variance = self.errors.get(source), self.variances.get(source)
        if error is not None and variance is not None:
            self._note_undetermined(stage, error)
            self.errors[name] = _finite(oracle.passed_on(step, error, *fed))  # type: ignore[arg-type]
            self.variances[name] = _finite(oracle.passed_on(step, variance, *fed, squared=True))  # type: ignore[arg-type]
        self._note_open_mask(stage)
        if (roundings := oracle.roundings(step, *fed)) is not None:  # type: ignore[arg-type]
            self._add_roundings(stage, given[0], roundings)

    def _add_roundings(self, stage: Stage, value: np.ndarray, roundings: Roundings) -> None:
        name, step = stage.gives[0], stage.step
        before = self.errors.get(name, np.zeros(value.shape))
        own = roundings.own_format
        dtype = self.problem.case.dtype
        held_to = ARITHMETICS[COARSER_SUMS.get(dtype, dtype)] if own else self.arithmetic
        magnitude = roundings.magnitude + before
        rounds = (roundings.products > 0) & (magnitude > 0)
        n, a = np.broadcast_to(roundings.products, value.shape)[rounds], magnitude[rounds]
        size = np.abs(value[rounds]) + before[rounds]
        if isinstance(step, Convolution) and held_to.bias_apart and step.bias:
            size = 3 * (size + a)  # the sum without the bias is rounded too, and is no larger than all that is summed
        largest, variance = before.copy(), self.variances.get(name, np.zeros(value.shape)).copy()
        largest[rounds] += held_to.bound(n, a, size)
        variance[rounds] += np.square(held_to.scale(n, a, size))
        self.errors[name], self.variances[name] = _finite(largest), _finite(variance)

    def _note_undetermined(self, stage: Stage, error: np.ndarray) -> None:
        """Choices that rounding may have moved: another element comes as close as the errors reach."""
        if isinstance(stage.step, Isolate):
            self.contested += _rivals(stage.step, self.values[stage.reads[0]], error)
        if not isinstance(stage.step, MaxPool):
            return
        x, switches = self.values[stage.reads[0]], self.values[stage.gives[1]]
        keys = np.abs(x) if stage.step.magnitude else x
        axes = stage.step.axes
        lowest = pooling.take(keys - error, switches)
        rivals = pooling.runners_up(axes, keys + error, switches)
        self.undetermined[stage.gives[1]] = (rivals > lowest) & (pooling.take(error, switches) > 0)

    def _note_open_mask(self, stage: Stage) -> None:
        """Activations so near to 0 that rounding may have opened or closed the mask that they are."""
        if not isinstance(stage.step, Rectify) or stage.step.by == "signal":
            return
        signal, activation = (self.values.get(name, self.problem.tensors.get(name)) for name in stage.reads)
        if (error := self.errors.get(stage.reads[1])) is not None:
            reaching = np.abs(signal) + self.errors.get(stage.reads[0], np.zeros(1)) > 0  # type: ignore[arg-type]
            self.contested += int(((np.abs(activation) <= error) & (error > 0) & reaching).sum())  # type: ignore[arg-type]

    def _note_contested(self, stage: Stage, fed: list[np.ndarray]) -> None:
        """Places to which different values are assigned: any one of them may stay."""
        if _assigns(stage):
            self.contested += int(pooling.contested(fed[0], fed[1], stage.step.large).sum())  # type: ignore[union-attr]

    def judge(self, got: np.ndarray) -> Judgement:
        """The result against the exact chain."""
        judgement = self._judge(got)
        if judgement.failed and (unclear := self._unclear() + self.contested):
            said = f"{unclear} switches or places are open, and the target does not say which it took"
            return replace(judgement, verdict="ambiguous", diagnosis=said, message="")
        return judgement

    def _judge(self, got: np.ndarray) -> Judgement:
        exact = self.values["output"]
        wrong = np.abs(got.astype(np.float64) - exact)
        wrong[np.isnan(wrong)] = math.inf
        if self.problem.nothing_rounds:
            if same(got, round_once(exact, self.problem.format)).all():
                return Judgement("exact", "", 0.0, 0.0, 0.0)
            message = worst(got, exact, int(wrong.argmax()))
            return Judgement("deviates", "", float(wrong.max()), math.inf, math.inf, message=message)
        zero = np.zeros(exact.shape)
        used = ratio(wrong, self.errors.get("output", zero))
        typical = ratio(wrong, np.sqrt(self.variances.get("output", zero)))
        bound = float(used.max(initial=0.0))
        rms = math.sqrt(float(np.mean(np.square(typical))) / (1 + SMALL_SAMPLE / typical.size)) if typical.size else 0.0
        largest = float(wrong.max(initial=0.0))
        if bound <= 1 and rms <= 1:
            return Judgement("within_bound", "", largest, bound, rms)
        message = worst(got, exact, int(used.argmax()))
        return Judgement("deviates", "", largest, bound, rms, message=message)

    def _unclear(self) -> int:
        """How many undetermined switches the signal passes through on its way down."""
        count = 0
        for stage in self.problem.case.stages:
            if len(stage.reads) < 2 or (open_here := self.undetermined.get(stage.reads[1])) is None:
                continue
            signal = self.values[stage.reads[0]]
            count += int((open_here & (np.abs(signal) > 0)).sum())
        return count


def _rivals(step: Isolate, x: np.ndarray, error: np.ndarray) -> int:
    """How many other activations may be the strongest, as far as errors of that size can tell."""
    between_channels = step.keep == "channel" or step.unit is not None
    if step.keep == "none" or (between_channels and step.channel is not None):
        return 0  # nothing is looked for
    low, high, kept = (a.reshape(*x.shape[:2], -1) for a in (x - error, x + error, isolated(step, x)))
    if between_channels:
        low, high, kept = (a.max(axis=2, keepdims=True) for a in (low, high, kept))
    elif step.channel is not None:
        low, high, kept = (a[:, step.channel : step.channel + 1] for a in (low, high, kept))
    lowest = np.where(kept, low, -np.inf).max(axis=(1, 2), keepdims=True)
    return int((~kept & (high > lowest) & (high > low)).sum())


def _finite(error: np.ndarray) -> np.ndarray:
    """Bounds that are infinite, because nothing can be promised, as numbers that can be computed with."""
    bounded: np.ndarray = np.minimum(np.nan_to_num(error, nan=HUGE, posinf=HUGE), HUGE)
    return bounded
