"""Equations between several runs of one target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from conformance.outcome import Outcome
from conformance.problem import PropertyProblem
from conformance.verdict.base import Judgement, check_array, number, worst


def judge_property(problem: PropertyProblem, outcomes: Sequence[Outcome]) -> Judgement:
    """``exact`` where both sides are equal."""
    for (case, _), outcome in zip(problem.parts, outcomes, strict=True):
        wrong = check_array(outcome.tensors.get("output"), "output", case.result_shapes["output"], problem.format.dtype)
        if wrong is not None:
            return wrong
    left, right = problem.sides([outcome.tensors for outcome in outcomes])
    if not any(outcome.tensors["output"].astype(np.float64).any() for outcome in outcomes) and not problem.vanishes:
        return Judgement("deviates", diagnosis="nothing but zeros came back, of which every such equation holds")
    finite = all(bool(np.isfinite(side.astype(np.float64)).all()) for side in (left, right))
    if finite and np.array_equal(left, right):
        return Judgement("exact", max_abs_error=0.0)
    said = f"{problem.equation} does not hold"
    if problem.data == "adjoint":
        return Judgement("deviates", diagnosis=said, message=f"left {number(left[0])}, right {number(right[0])}")
    difference = np.abs(left.astype(np.float64) - right.astype(np.float64))
    difference[np.isnan(difference)] = np.inf
    message = worst(left, right, int(difference.argmax()))
    return Judgement("deviates", max_abs_error=float(difference.max()), diagnosis=said, message=message)
