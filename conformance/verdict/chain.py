"""Every stage of a chain, judged on what the target itself fed to it, and the whole.

A stage tells what error it *introduces*: it is judged on the target's own input, so one wrong stage does not condemn
those after it.  The whole tells what error is *passed on*: it starts from what the target recorded on the way up, its
switches and the activation that it isolated, once those have been found right, and follows the exact chain from there
with a bound that every stage passes on and adds its own roundings to.  A target that returns nothing but the result is
judged by the whole alone, from the image on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from conformance.dtypes import FORMATS, round_once
from conformance.oracle import pooling
from conformance.oracle.bounds import ARITHMETICS, COARSER_SUMS, Arithmetic, arithmetic_for
from conformance.oracle.gates import SMALL_SAMPLE
from conformance.oracle.steps import Roundings, isolated, oracle_of
from conformance.outcome import Outcome
from conformance.problem import ChainProblem
from conformance.spec import Convolution, Deconvnet, Isolate, MaxPool, MaxUnpool, Rectify, ResponseNorm, Stage, is_index
from conformance.verdict.base import Judgement, check_array, worst
from conformance.verdict.steps import Expected, judge_step, near_known, same, told

Values = Mapping[str, np.ndarray]
HUGE = 1e150
"""A bound that says nothing."""


def judge_chain(problem: ChainProblem, outcome: Outcome, arithmetic: Arithmetic) -> Judgement:
    """The verdict on a chain; its diagnosis names the first stage that is wrong."""
    returned = outcome.tensors
    for name in problem.case.result_shapes:
        if name not in returned:
            return Judgement("error", message=f"returned no array named {name}")
    stages, every = _Stages(problem, returned, arithmetic), problem.case.stages
    for stage in every:
        judgement = stages.judge(stage)
        if judgement is not None and judgement.failed:
            return judgement if len(every) == 1 else told(judgement, stage.name)
    if len(every) == 1 and stages.judged:
        return stages.judged["output"]
    return stages.summary(stages.whole())


def judge_stages(problem: ChainProblem, outcome: Outcome, promised: str = "native") -> Iterator[tuple[str, Judgement]]:
    """The judgement of each stage that the target returned, by itself."""
    stages = _Stages(problem, outcome.tensors, arithmetic_for(promised, problem.case.dtype))
    for stage in problem.case.stages:
        with np.errstate(all="ignore"):
            judgement = stages.judge(stage)
        if judgement is not None:
            yield stage.name, judgement


@dataclass
class _Stages:
    """The judgements so far, by the name of the stage's first tensor."""

    problem: ChainProblem
    returned: Values
    arithmetic: Arithmetic
    judged: dict[str, Judgement] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)
    """Tensors that no stage can be judged on: of another shape, or switches that may point anywhere."""
    followable: set[str] = field(default_factory=set)
    """Tensors found right, and so is all that they were made of, back to the image."""

    def judge(self, stage: Stage) -> Judgement | None:
        """The judgement of a stage; None where the target did not return what it takes."""
        given = [name for name in stage.gives if name in self.returned]
        for name in given:
            dtype = np.dtype(np.int64) if is_index(name) else self.problem.format.dtype
            if (wrong := check_array(self.returned[name], name, self.problem.values[name].shape, dtype)) is not None:
                self.unusable.update(stage.gives)
                return wrong
        if isinstance(stage.step, MaxPool) and (wrong := self._outside_windows(stage, stage.step)) is not None:
            return wrong
        sources = [self._source(name) for name in stage.reads]
        fed = [source for source in sources if source is not None]
        if stage.gives[0] not in given or len(fed) < len(sources):
            self.unusable.update(filter(is_index, stage.gives))  # switches that nobody has looked at
            return None
        key = (stage.name, self.arithmetic.name, self.arithmetic.bias_apart, *map(self._bits, (*stage.reads, *given)))
        if key not in self.problem.judged:
            self.problem.judged[key] = self._judge(stage, fed, [self.returned[name] for name in given])
        judgement: Judgement = self.problem.judged[key]
        self.judged[stage.gives[0]] = judgement
        if judgement.failed:
            self.unusable.update(filter(is_index, stage.gives))
        elif all(name in self.problem.tensors or name in self.followable for name in stage.reads):
            self.followable.update(given)
        return judgement

    def _outside_windows(self, stage: Stage, step: MaxPool) -> Judgement | None:
        """What is wrong with switches whatever was pooled: one that names no element of its window."""
        switches = self.returned.get(stage.gives[1])
        if switches is None or (inside := pooling.inside_window(step.axes, switches)).all():
            return None
        self.unusable.update(stage.gives)
        n = int(inside.argmin())
        expected = int(self.problem.values[stage.gives[1]].flat[n])
        place = ",".join(str(int(i)) for i in np.unravel_index(n, switches.shape))
        said = f"at [{place}] the switch {int(switches.flat[n])} is no element of its window; expected {expected}"
        return Judgement("deviates", "", math.inf, math.inf, math.inf, message=said)

    def _source(self, name: str) -> np.ndarray | None:
        """What a stage was fed under a name: a tensor of the case, or what the target returned."""
        if name in self.problem.tensors:
            return self.problem.tensors[name]
        source = None if name in self.unusable else self.returned.get(name)
        return source if source is None or np.isfinite(source.astype(np.float64)).all() else None

    def _judge(self, stage: Stage, fed: list[np.ndarray], got: list[np.ndarray]) -> Judgement:
        strict, dtype = self.problem.nothing_rounds, self.problem.case.dtype
        return judge_step(stage.step, fed, got, self._expected(stage, fed), dtype, self.arithmetic, strict)

    def _bits(self, name: str) -> bytes:
        """What identifies a tensor; those of the case are the same for all targets."""
        if name in self.problem.tensors:
            return name.encode()
        if name not in self.digests:
            array = np.ascontiguousarray(self.returned[name])
            self.digests[name] = hashlib.blake2b(
                array.view(np.uint8).data if array.size else b"", digest_size=16
            ).digest()
        return self.digests[name]

    def whole(self) -> Judgement:
        """The judgement of the whole, for what the target returned."""
        key: tuple[object, ...] = ("whole", self.arithmetic.name, self.arithmetic.bias_apart, *self.judged)
        key += tuple((name, self._bits(name)) for name in self.known)
        if key not in self.problem.judged:
            self.problem.judged[key] = _judge_whole(self.problem, self.returned, self, self.arithmetic)
        judgement: Judgement = self.problem.judged[key]
        return judgement

    def _expected(self, stage: Stage, fed: list[np.ndarray]) -> Expected:
        """What the stage gives for what it was fed: known already where that is what the problem has."""
        problem = self.problem
        own = [problem.tensors[name] if name in problem.tensors else problem.values[name] for name in stage.reads]
        known = tuple(problem.values[name] for name in stage.gives)
        if all(a is b or np.array_equal(a, b) for a, b in zip(fed, own, strict=True)):
            return Expected(known)
        if isinstance(stage.step, Convolution) and problem.case.dtype != "float64":
            near = near_known(stage.step, fed, own, known[0], lambda: self._magnitude(stage, own))
            if near is not None:
                return Expected((near[0],), near[1])
        return Expected(oracle_of(stage.step).exact(stage.step, *fed))

    def _magnitude(self, stage: Stage, own: list[np.ndarray]) -> np.ndarray:
        """A of a convolution on what the problem has, computed once for all targets."""
        key = ("magnitude", stage.name)
        if key not in self.problem.judged:
            self.problem.judged[key] = oracle_of(stage.step).roundings(stage.step, *own).magnitude  # type: ignore[union-attr]
        magnitude: np.ndarray = self.problem.judged[key]
        return magnitude

    def trusted(self, stage: Stage) -> bool:
        """Whether all that a stage gives was returned and found right, and all that led to it."""
        return self.followable.issuperset(stage.gives)

    @property
    def known(self) -> list[str]:
        """Those of the returned tensors that the chain has a name for."""
        return [name for name in self.returned if name in self.problem.values]

    @property
    def complete(self) -> bool:
        return all(stage.gives[0] in self.judged for stage in self.problem.case.stages)

    def summary(self, whole: Judgement) -> Judgement:
        """The verdict on a chain whose stages are all right."""
        if whole.failed:
            alone = "every stage is right on what it was said to be fed, but the result is not theirs"
            return replace(whole, diagnosis=alone) if self.complete else whole
        unclear = [j for j in (*self.judged.values(), whole) if j.verdict == "ambiguous"]
        usages = [j.bound_usage for j in (*self.judged.values(), whole) if j.bound_usage is not None]
        spreads = [j.rms_usage for j in (*self.judged.values(), whole) if j.rms_usage is not None]
        exact = all(j.verdict == "exact" for j in (*self.judged.values(), whole))
        return Judgement(
            "ambiguous" if unclear else "exact" if exact else "within_bound",
            "",
            whole.max_abs_error,
            max(usages, default=None),
            max(spreads, default=None),
            diagnosis=unclear[0].diagnosis if unclear else "",
        )


def _judge_whole(problem: ChainProblem, returned: Values, stages: _Stages, arithmetic: Arithmetic) -> Judgement:
    got = returned["output"]
    if same(got, round_once(problem.exact, problem.format)).all():
        return Judgement("exact", "", 0.0, 0.0, 0.0)
    judgement = _followed(problem, returned, stages, arithmetic).judge(got)
    if judgement.failed and arithmetic.name in COARSER_SUMS:
        coarser = replace(ARITHMETICS[COARSER_SUMS[arithmetic.name]], bias_apart=arithmetic.bias_apart)
        if _followed(problem, returned, stages, coarser).judge(got).passed:
            return replace(judgement, verdict="reduced", arithmetic=coarser.name, diagnosis=coarser.meaning)
    return judgement


def _followed(problem: ChainProblem, returned: Values, stages: _Stages, arithmetic: Arithmetic) -> _Whole:
    """The exact chain, following the target where it had a choice and took a right one."""
    every = problem.case.stages
    followed = {stage.name for stage in every if stages.trusted(stage)} & _deciding(every)
    if (factor := _only_scaled(problem, returned, followed)) is None:
        return _walked(problem, returned, followed, arithmetic)
    key = ("way down", arithmetic.name, arithmetic.bias_apart)
    if key not in problem.judged:
        problem.judged[key] = _walked(problem, problem.values, followed, arithmetic)
    shared: _Whole = problem.judged[key]
    return shared.scaled(factor)


def _walked(problem: ChainProblem, decided: Values, followed: set[str], arithmetic: Arithmetic) -> _Whole:
    whole = _Whole(problem, arithmetic)
    for stage in problem.case.stages:
        if stage.name in followed:
            whole.follow(stage, decided)
        else:
            whole.compute(stage)
    return whole


def _only_scaled(problem: ChainProblem, returned: Values, followed: set[str]) -> np.ndarray | None:
    """By what factor the exact way down has to be scaled, per image, to be that of the target; None if it is another.

    From a single unit, through the same switches, everything on the way down is positively homogeneous.
    """
    case = problem.case
    if not isinstance(case, Deconvnet) or case.isolate.keep != "unit" or case.bias_down != "none":
        return None
    names = [stage.name for stage in (*case.way_up, case.stages[len(case.layers)])]
    norm = case.lrn_down != "identity" and any(isinstance(layer.step, ResponseNorm) for layer in case.layers)
    if norm or case.overlap == "assign" or case.rectify in ("mask", "both") or not followed.issuperset(names):
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
        """The same for seeds that are larger by a factor each."""
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
        n, a = roundings.products, roundings.magnitude + before
        size = np.abs(value) + before
        if isinstance(step, Convolution) and held_to.bias_apart and step.bias:
            size = 3 * (size + a)  # the sum without the bias is rounded too, and is no larger than all that is summed
        self.errors[name] = _finite(before + np.where(n > 0, held_to.bound(n, a, size), 0.0))
        typical = np.where(n > 0, held_to.scale(n, a, size), 0.0)
        self.variances[name] = _finite(self.variances.get(name, np.zeros(value.shape)) + np.square(typical))

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
        used = _ratio(wrong, self.errors.get("output", zero))
        typical = _ratio(wrong, np.sqrt(self.variances.get("output", zero)))
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


def _ratio(error: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """``error / limit``, where 0 / 0 is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(error == 0, 0.0, np.where(limit > 0, error / limit, math.inf))


def judge_published_chain(problem: ChainProblem) -> Judgement:
    """The verdict on the oracle itself, where a case publishes what must come out."""
    vectors = problem.case.vectors
    assert vectors is not None
    step = FORMATS[problem.case.dtype].unit_roundoff if vectors.decimals is None else 0.0
    largest = 0.0
    for name, expected in vectors.expected.items():
        value = problem.values[name].astype(np.float64)
        bound = 4 * step * np.abs(value) if vectors.decimals is None else 0.5 * 10.0**-vectors.decimals * (1 + 2.0**-40)
        error = np.where(same(value, expected), 0.0, np.abs(value - expected))
        if is_index(name) or problem.nothing_rounds:
            bound = 0.0
        largest = max(largest, float(error.max(initial=0.0)))
        if (error > bound).any() or np.isnan(error).any():
            message = f"{name} {worst(value, expected, int(error.argmax()))}"
            return Judgement("deviates", "float64", largest, math.inf, math.inf, message=message)
    return Judgement("exact" if largest == 0 else "within_bound", "float64", largest, 0.0, 0.0)
