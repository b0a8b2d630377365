"""The whole of a chain: what error its stages may have passed on.

It starts from what the target recorded on the way up, its switches and the activation that it isolated, once those have
been found right, and follows the exact chain from there with a bound that every stage passes on and adds its own
roundings to.  Where nothing was recorded it starts from the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace

import numpy as np

from conformance.dtypes import round_once
from conformance.oracle.bounds import ARITHMETICS, COARSER_SUMS, Arithmetic
from conformance.oracle.gates import ratio, rms
from conformance.problem import ChainProblem
from conformance.spec import Deconvnet, Isolate, MaxPool, MaxUnpool, ResponseNorm, Stage, is_index
from conformance.verdict.base import Judgement, worst
from conformance.verdict.open_choices import Way, explain, ways
from conformance.verdict.steps import same
from conformance.verdict.walk import Walk

Values = Mapping[str, np.ndarray]


def judge_whole(problem: ChainProblem, returned: Values, trusted: Set[str], arithmetic: Arithmetic) -> Judgement:
    """The verdict on the result; ``trusted`` are the stages whose tensors may be followed."""
    got = returned["output"]
    if same(got, round_once(problem.exact, problem.format)).all():
        return Judgement("exact", "", 0.0, 0.0, 0.0)
    followed = trusted & _deciding(problem.case.stages)
    judgement = _judged(problem, returned, followed, arithmetic)
    for name in _weaker(problem, arithmetic) if judgement.failed else ():
        weaker = replace(ARITHMETICS[name], bias_apart=arithmetic.bias_apart)
        if _closely(_walk(problem, returned, followed, weaker), got).passed:
            return replace(judgement, verdict="reduced", arithmetic=weaker.name, diagnosis=weaker.meaning)
    return judgement


def _weaker(problem: ChainProblem, arithmetic: Arithmetic) -> tuple[str, ...]:
    """What a target may have done instead.  Where stages are told, the convolution that rounds its operands says so."""
    if problem.case.tells_stages or problem.data == "exact" or arithmetic.name != "float32":
        return (COARSER_SUMS[arithmetic.name],) if arithmetic.name in COARSER_SUMS else ()
    return ("tf32", "bfloat16-operands")


def _walk(problem: ChainProblem, returned: Values, followed: Set[str], arithmetic: Arithmetic) -> Walk:
    """The exact chain, following the target where it had a choice and took a right one; or the end of it.

    The end is kept where it is the same for other targets, or is that but for a factor.
    """
    factor = _only_scaled(problem, returned, followed)
    if followed and factor is None:
        return _walked(problem, returned, followed, arithmetic)
    key = ("end", arithmetic.name, arithmetic.bias_apart, bool(followed))
    if key not in problem.judged:
        problem.judged[key] = _walked(problem, problem.values, followed, arithmetic).scaled(np.ones(1))
    shared: Walk = problem.judged[key]
    return shared if factor is None else shared.scaled(factor)


def _ways(problem: ChainProblem, followed: Set[str], arithmetic: Arithmetic, walk: Walk) -> Iterable[Way]:
    """The ways that the open choices lead, for a target that is walked with so."""
    if walk.computed or followed:
        return ways(walk)
    key = ("ways", arithmetic.name, arithmetic.bias_apart)
    if key not in problem.judged:
        problem.judged[key] = tuple(ways(_walked(problem, problem.values, followed, arithmetic)))
    shared: tuple[Way, ...] = problem.judged[key]
    return shared


def _walked(problem: ChainProblem, decided: Values, followed: Set[str], arithmetic: Arithmetic) -> Walk:
    walk = Walk(problem, arithmetic)
    for stage in problem.case.merged:
        if stage.name in followed:
            walk.follow(stage, decided)
        else:
            walk.compute(stage)
    return walk


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


def _judged(problem: ChainProblem, returned: Values, followed: Set[str], arithmetic: Arithmetic) -> Judgement:
    """The result against the exact chain, and against all that the open choices may have made of it."""
    walk, got = _walk(problem, returned, followed, arithmetic), returned["output"]
    if not (judgement := _closely(walk, got)).failed:
        return judgement
    count, explained = explain(_ways(problem, followed, arithmetic, walk), got)
    if not count:
        return judgement
    told = f"{count} switches or places are open"
    if explained:
        said = f"{told}, and the target does not say which it took"
        return replace(judgement, verdict="ambiguous", diagnosis=said, message="")
    return replace(judgement, message=f"{judgement.message}; {told}, and none of them explains it")


def _closely(walk: Walk, got: np.ndarray) -> Judgement:
    """The result against the exact chain, as far as rounding alone may lead away from it."""
    exact = walk.values["output"]
    wrong = np.abs(got.astype(np.float64) - exact)
    wrong[np.isnan(wrong)] = math.inf
    if walk.strict:
        if same(got, round_once(exact, walk.problem.format)).all():
            return Judgement("exact", "", 0.0, 0.0, 0.0)
        message = worst(got, exact, int(wrong.argmax()))
        return Judgement("deviates", "", float(wrong.max()), math.inf, math.inf, message=message)
    zero = np.zeros(exact.shape)
    used = ratio(wrong, walk.errors.get("output", zero))
    typical = ratio(wrong, np.sqrt(walk.variances.get("output", zero)))
    bound, mean = float(used.max(initial=0.0)), rms(typical)
    largest = float(wrong.max(initial=0.0))
    if bound <= 1 and mean <= 1:
        return Judgement("within_bound", "", largest, bound, mean)
    message = worst(got, exact, int(used.argmax()))
    return Judgement("deviates", "", largest, bound, mean, message=message)
