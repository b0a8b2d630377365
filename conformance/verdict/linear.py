"""Convolutions: legal rounding, a weaker arithmetic than promised, or wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from conformance.dtypes import FORMATS
from conformance.oracle.bounds import ARITHMETICS, COARSER_SUMS, Arithmetic, gamma, rounded_operands
from conformance.oracle.edges import FINITE, NAN, NEGATIVE_INFINITE, POSITIVE_INFINITE
from conformance.oracle.gates import Usage, usage
from conformance.oracle.operators import OPERATORS
from conformance.oracle.reductions import reductions
from conformance.outcome import Outcome
from conformance.problem import LinearProblem
from conformance.verdict.base import Judgement, read_as, sizes, worst
from conformance.verdict.shifted import shifted

COARSEST = rounded_operands("coarsest", 7, "operands truncated to 8 bits")
"""Beyond its bound it is not worth looking for a weaker arithmetic that explains a result."""

NORMWISE = 64.0
"""How many times the componentwise bound of the largest element a Winograd or FFT result may be off anywhere."""


def judge_linear(problem: LinearProblem, outcome: Outcome, arithmetic: Arithmetic) -> Judgement:
    """The verdict, or ``ambiguous`` where the specification has several readings and this is one of them."""
    judgement = _judge_returned(problem, outcome, arithmetic)
    for name, axes in problem.case.readings:
        variant = judgement
        if axes != problem.case.axes:
            variant = _judge_returned(problem.read_as(axes), outcome, arithmetic)
        if variant.passed:
            return read_as(variant, name)
    return judgement


def _judge_returned(problem: LinearProblem, outcome: Outcome, arithmetic: Arithmetic) -> Judgement:
    actual = outcome.tensors.get("output")
    if not isinstance(actual, np.ndarray):
        return Judgement("error", arithmetic.name, message="returned no array named output")
    if actual.shape != problem.exact.shape:
        message = f"expected {sizes(problem.exact.shape)}, got {sizes(actual.shape)}"
        return Judgement("wrong_shape", arithmetic.name, message=message)
    if actual.dtype != problem.format.dtype:
        return Judgement("wrong_dtype", arithmetic.name, message=f"expected {problem.format.name}, got {actual.dtype}")
    if problem.allowed is not None:
        return _judge_edge(problem, actual, arithmetic)
    if np.array_equal(actual, problem.rounded):
        return Judgement("exact", arithmetic.name, 0.0, 0.0, 0.0)
    return _judge_rounded(problem, actual, arithmetic)


def judge_published_linear(problem: LinearProblem) -> Judgement:
    """The verdict on the oracle itself, where a case publishes what must come out."""
    vectors = problem.case.vectors
    if vectors is None or "output" not in vectors.expected:
        raise ValueError(f"{problem.case.id} publishes no output")
    expected = vectors.expected["output"]
    same = (problem.exact == expected) | (np.isnan(problem.exact) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        errors = np.where(same, 0.0, np.abs(problem.exact - expected))
    error = float(errors.max(initial=0.0))
    if same.all():
        return Judgement("exact", "float64", 0.0, 0.0, 0.0)
    if vectors.decimals is not None:
        bound = np.full(expected.shape, 0.5 * 10.0**-vectors.decimals * (1 + 2.0**-40))
    else:
        bound = gamma(problem.products + 1, problem.format.unit_roundoff) * problem.magnitude
    used = float(np.max(errors / np.maximum(bound, np.finfo(float).tiny)))
    return Judgement("within_bound" if used <= 1 else "deviates", "float64", error, used, used)


def _judge_rounded(problem: LinearProblem, actual: np.ndarray, arithmetic: Arithmetic) -> Judgement:
    """A result that differs from the exact one: legal rounding, a weaker arithmetic, or wrong."""
    used = _usage(problem, actual, arithmetic)
    if used.legal and (problem.data != "exact" or arithmetic.name != problem.case.dtype):
        return _judgement("within_bound", arithmetic.name, used)
    message = worst(actual, problem.exact, used.worst)
    if (weaker := _weaker(problem, actual, arithmetic)) is not None:
        name, diagnosis = weaker
        return _judgement("reduced", name, used, diagnosis, message)
    return _judgement("deviates", arithmetic.name, used, _shifted(problem, actual, arithmetic), message)


def _shifted(problem: LinearProblem, actual: np.ndarray, arithmetic: Arithmetic) -> str:
    n = np.broadcast_to(problem.products, problem.exact.shape)
    size = np.abs(problem.exact) + (problem.magnitude if arithmetic.bias_apart else 0.0)
    bound = arithmetic.bound(n, problem.magnitude, 3 * size if arithmetic.bias_apart else size)
    return shifted(actual.astype(np.float64), problem.exact, bound)


def _judgement(verdict: str, arithmetic: str, used: Usage, diagnosis: str = "", message: str = "") -> Judgement:
    return Judgement(verdict, arithmetic, used.max_abs_error, used.bound, used.rms, diagnosis, message)


def _usage(
    problem: LinearProblem, actual: np.ndarray, arithmetic: Arithmetic, exact: np.ndarray | None = None
) -> Usage:
    oracle_unit = FORMATS["float64"].unit_roundoff if problem.rounded_by_oracle else 0.0
    reference = problem.exact if exact is None else exact
    return usage(
        arithmetic, actual, reference, problem.products, problem.magnitude, problem.bias, oracle_unit=oracle_unit
    )


def _weaker(problem: LinearProblem, actual: np.ndarray, arithmetic: Arithmetic) -> tuple[str, str] | None:
    """The arithmetic that explains the result after all, and how to say it; None if there is none."""
    if not np.isfinite(actual).all():
        return None
    if arithmetic.name in COARSER_SUMS and problem.data != "exact":
        coarser = replace(ARITHMETICS[COARSER_SUMS[arithmetic.name]], bias_apart=arithmetic.bias_apart)
        if _usage(problem, actual, coarser).legal:
            return coarser.name, coarser.meaning
    operator, tensors = OPERATORS[problem.case.op], problem.tensors
    inner = ARITHMETICS["float32"] if arithmetic.name == "float64" else arithmetic
    if _usage(problem, actual, COARSEST).bound <= 1:
        for reduction in reductions(problem.case.dtype):
            exact = operator.output(problem.case, reduction.apply(tensors))
            if _usage(problem, actual, inner, exact).legal:
                return reduction.arithmetic, f"computed as with {reduction}"
    if _is_winograd_like(problem, actual, arithmetic):
        return "winograd-like", "rounds where sums of products would not, by no more than a Winograd or FFT algorithm"
    return None


def _is_winograd_like(problem: LinearProblem, actual: np.ndarray, arithmetic: Arithmetic) -> bool:
    """Within the bound of the *largest* element everywhere: all that can be said of transformed convolutions."""
    n = np.full(problem.products.shape, problem.products.max(initial=1.0))
    largest = np.broadcast_to(problem.magnitude.max(initial=0.0), problem.exact.shape)
    used = usage(arithmetic, actual, problem.exact, n, largest)
    return used.bound <= NORMWISE and used.max_abs_error < _smallest_product(problem)


def _smallest_product(problem: LinearProblem) -> float:
    """What the loss of one typical product would change; an error of that size may be a missing tap."""
    count = float(problem.products.max(initial=1.0))
    return float(problem.magnitude.max(initial=0.0)) / count / 4


def _judge_edge(problem: LinearProblem, actual: np.ndarray, arithmetic: Arithmetic) -> Judgement:
    assert problem.allowed is not None
    wrong = _edge_violations(problem, actual)
    error = np.abs(actual.astype(np.float64) - problem.exact)
    largest = float(error.max(initial=0.0, where=np.isfinite(error)))
    if not wrong.any():
        return Judgement("exact", arithmetic.name, largest, 0.0, 0.0)
    message = worst(actual, problem.exact, int(wrong.argmax())) + f"; {int(wrong.sum())} of {wrong.size} elements"
    nothing_summed = (actual == 0) | (actual == problem.bias)
    if problem.data == "edge-subnormal" and nothing_summed[wrong].all():
        return Judgement(
            "reduced", "flush-to-zero", largest, diagnosis="subnormal numbers are taken for zero", message=message
        )
    return Judgement("deviates", arithmetic.name, largest, message=message)


def _edge_violations(problem: LinearProblem, actual: np.ndarray) -> np.ndarray:
    """Elements that are none of what they may be."""
    assert problem.allowed is not None
    outcomes, rounded = problem.allowed.outcomes, problem.rounded
    sign_matters = (actual == 0) & ~problem.allowed.negative_zero
    right = (actual == rounded) & ~(sign_matters & (np.signbit(actual) != np.signbit(rounded)))
    right = np.where(outcomes & FINITE != 0, right, False)
    right |= (outcomes & POSITIVE_INFINITE != 0) & (actual == np.inf)
    right |= (outcomes & NEGATIVE_INFINITE != 0) & (actual == -np.inf)
    right |= (outcomes & NAN != 0) & np.isnan(actual)
    return ~right
