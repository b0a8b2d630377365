"""A chain: every stage judged on what the target itself fed to it, and the whole.

A stage tells what error it *introduces*, so that one wrong stage does not condemn those after it (``stages``).  The
whole tells what error is *passed on* (``whole``); a target that returns nothing but the result is judged by it alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from conformance.dtypes import FORMATS
from conformance.oracle.bounds import Arithmetic, arithmetic_for
from conformance.outcome import Outcome
from conformance.problem import ChainProblem
from conformance.spec import MaxPool, is_index
from conformance.verdict.base import Judgement, worst
from conformance.verdict.pool_readings import judge_pool_readings
from conformance.verdict.stages import Stages
from conformance.verdict.steps import same, told


def judge_chain(problem: ChainProblem, outcome: Outcome, arithmetic: Arithmetic) -> Judgement:
    """The verdict on a chain; its diagnosis names the first stage that is wrong."""
    if isinstance(problem.case, MaxPool) and problem.case.readings:
        return judge_pool_readings(judge_chain, problem, outcome, arithmetic)
    returned = outcome.tensors
    for name in problem.case.result_shapes:
        if name not in returned:
            return Judgement("error", message=f"returned no array named {name}")
    stages, every = Stages(problem, returned, arithmetic), problem.case.stages
    for stage in every:
        judgement = stages.judge(stage)
        if judgement is not None and judgement.failed:
            return judgement if len(every) == 1 else told(judgement, stage.name)
    if len(every) == 1 and stages.judged:
        return stages.judged["output"]
    return stages.summary(stages.whole())


def judge_stages(problem: ChainProblem, outcome: Outcome, promised: str = "native") -> Iterator[tuple[str, Judgement]]:
    """The judgement of each stage that the target returned, by itself."""
    stages = Stages(problem, outcome.tensors, arithmetic_for(promised, problem.case.dtype))
    for stage in problem.case.stages:
        with np.errstate(all="ignore"):
            judgement = stages.judge(stage)
        if judgement is not None:
            yield stage.name, judgement


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
