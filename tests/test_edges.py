"""NaN, infinity, signed zeros, subnormal and huge numbers: what may come out, found by summing in every order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from definition import make, products_reaching

from conformance.dtypes import FORMATS
from conformance.outcome import Outcome
from conformance.problem import Problem, Tensors, pose
from conformance.spec import EDGE_KINDS, Convolution, load_suite, shipped_suites
from conformance.verdict import Judgement, judge

Index = tuple[int, ...]
DTYPES = tuple(FORMATS)


SMALL: dict[str, dict[str, Any]] = {
    "overlap": {"in_channels": 2, "out_channels": 2, "bias": True, "input": [4], "kernel": 2},
    "overlap-no-bias": {"in_channels": 3, "input": [3], "kernel": 2},
    "gaps": {"out_channels": 2, "bias": True, "input": [4], "kernel": 2, "stride": 3, "output_padding": 2},
    "gaps-no-bias": {"in_channels": 2, "input": [3], "kernel": 1, "stride": 2},
    "crop": {"in_channels": 2, "bias": True, "input": [4], "kernel": 3, "stride": 2, "padding": 1},
    "dilated": {"bias": True, "input": [3], "kernel": 3, "dilation": 2},
    "plane": {"bias": True, "input": [2, 3], "kernel": [2, 2], "stride": [1, 2]},
    "groups": {"in_channels": 4, "out_channels": 4, "groups": 2, "bias": True, "input": [3], "kernel": 2},
    "conv": {"op": "conv", "in_channels": 2, "out_channels": 2, "bias": True, "input": [5], "kernel": 2, "padding": 1},
    "conv-padded": {"op": "conv", "out_channels": 2, "input": [3], "kernel": 2, "padding": 3},
    "gradient": {
        "op": "conv_input_gradient",
        "in_channels": 2,
        "out_channels": 2,
        "input": [7],
        "kernel": 2,
        "stride": 3,
    },
}
"""At most seven addends meet, so that all ways of adding them can be tried."""


def small_problems(kind: str, dtype: str) -> Iterator[Problem]:
    for name, keys in SMALL.items():
        for seed in range(3):
            yield pose(make(f"t/{name}", dtype=dtype, **keys), kind, seed)


def addends(problem: Problem, element: Index) -> list[np.generic]:
    """What is added up for an element, each product rounded to the format as a target would."""
    x, w = problem.tensors["input"], problem.tensors["weight"]
    with np.errstate(all="ignore"):
        found = [x[i] * w[j] for i, j in products_reaching(problem.case, element)]
    if "bias" in problem.tensors:
        found.append(problem.tensors["bias"][element[1]])
    return found


@dataclass(frozen=True)
class Bits:
    """A number told apart from all others: NaN is itself, and the zeros are two."""

    text: str

    @classmethod
    def of(cls, number: Any) -> Bits:
        return cls("nan" if math.isnan(float(number)) else float(number).hex())


def achievable(terms: list[np.generic], dtype: np.dtype[Any]) -> set[Bits]:
    """All that adding these numbers can give, in any order and with any bracketing, from nothing or from +0."""
    sums: dict[int, dict[Bits, np.generic]] = {1 << n: {Bits.of(t): dtype.type(t)} for n, t in enumerate(terms)}
    with np.errstate(all="ignore"):
        for members in range(1, 1 << len(terms)):
            part = (members - 1) & members
            while part:
                for a, b in itertools.product(sums[part].values(), sums[members ^ part].values()):
                    sums.setdefault(members, {})[Bits.of(a + b)] = a + b
                part = (part - 1) & members
        totals = sums[(1 << len(terms)) - 1].values()
        return {Bits.of(t) for t in totals} | {Bits.of(t + dtype.type(0)) for t in totals}


def legal(problem: Problem, element: Index) -> set[Bits]:
    """What an honest target may return: sums in the format, or for 16 bits in float32 and rounded at the end."""
    terms = addends(problem, element)
    found = achievable(terms, problem.format.dtype)
    if problem.format.name in ("float16", "bfloat16"):
        with np.errstate(over="ignore"):
            wide = achievable(terms, np.dtype(np.float32))
            found |= {Bits.of(np.float32(_number(w)).astype(problem.format.dtype)) for w in wide}
    return found


def _number(bits: Bits) -> float:
    return math.nan if bits.text == "nan" else float.fromhex(bits.text)


def candidates(problem: Problem, element: Index) -> list[float]:
    """Values that a target might return for an element, right and wrong."""
    right = float(problem.rounded[element])
    largest, smallest = problem.format.largest, problem.format.subnormal
    values = [right, -right, math.nan, math.inf, -math.inf, 0.0, -0.0, largest, -largest, smallest, 1.0]
    if math.isfinite(right):
        ulp = problem.format.dtype.type(right)
        values += [float(np.nextafter(ulp, ulp.dtype.type(side))) for side in (math.inf, -math.inf)]
    return values


def judged(problem: Problem, actual: np.ndarray) -> Judgement:
    return judge(problem, Outcome("returned", {"output": actual.astype(problem.format.dtype, copy=False)}))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", EDGE_KINDS)
def test_an_element_may_be_exactly_what_some_order_of_summation_gives(kind: str, dtype: str) -> None:
    for problem in small_problems(kind, dtype):
        for element in np.ndindex(problem.exact.shape):
            if not addends(problem, element):
                continue
            right = legal(problem, element)
            for value in candidates(problem, element):
                actual = problem.rounded.copy()
                actual[element] = value
                with np.errstate(over="ignore"):
                    verdict = judged(problem, actual).verdict
                expected = "exact" if Bits.of(actual[element]) in right else ("deviates", "reduced")
                assert verdict in expected, (problem.case.id, element, value, right)


@pytest.mark.parametrize("kind", EDGE_KINDS)
def test_every_permutation_of_float32_sums_passes(kind: str) -> None:
    """The plain loop that a person would write: start with the first addend, add the others one by one."""
    for problem in itertools.islice(small_problems(kind, "float32"), 12):
        for element in np.ndindex(problem.exact.shape):
            if not (terms := addends(problem, element)):
                continue
            results = {}
            with np.errstate(all="ignore"):
                for order in itertools.permutations(terms):
                    total = order[0]
                    for term in order[1:]:
                        total = total + term
                    results[Bits.of(total)] = total
            for total in results.values():
                actual = problem.rounded.copy()
                actual[element] = total
                assert judged(problem, actual).verdict == "exact"


def test_the_small_cases_hold_every_kind_of_outcome() -> None:
    """Else the tests above would show less than they say."""
    found = {
        (kind, bits.text if bits.text in ("nan", "inf", "-inf", "0x0.0p+0", "-0x0.0p+0") else "number", len(right) > 1)
        for kind in EDGE_KINDS
        for problem in small_problems(kind, "float32")
        for element in np.ndindex(problem.exact.shape)
        if addends(problem, element)
        for right in [legal(problem, element)]
        for bits in right
    }
    for wanted in (
        ("edge-nan", "nan", False),
        ("edge-nan", "number", False),
        ("edge-inf", "nan", False),
        ("edge-inf", "inf", False),
        ("edge-inf", "-inf", False),
        ("edge-inf", "number", False),
        ("edge-zero", "0x0.0p+0", False),
        ("edge-zero", "-0x0.0p+0", True),
        ("edge-subnormal", "number", False),
        ("edge-huge", "number", False),
        ("edge-huge", "number", True),
        ("edge-huge", "inf", False),
        ("edge-huge", "inf", True),
        ("edge-huge", "-inf", True),
        ("edge-huge", "nan", True),
    ):
        assert wanted in found


# ---- Honest implementations pass ----


def places(case: Convolution, axis_number: int, t: int) -> tuple[list[int], list[int]]:
    """Positions of the small and of the large side that tap ``t`` joins on one axis."""
    axis = case.axes[axis_number]
    pairs = [(m, m * axis.stride - axis.begin + t * axis.dilation) for m in range(axis.small)]
    inside = [(m, j) for m, j in pairs if 0 <= j < axis.large]
    return [m for m, _ in inside], [j for _, j in inside]


def loop(
    case: Convolution, tensors: Tensors, sums: np.dtype[Any], seed: int = 0, bias_first: bool = False
) -> np.ndarray:
    """A naive implementation: one tap and one pair of channels after the other, in any order."""
    x, w = tensors["input"].astype(sums), tensors["weight"].astype(sums)
    result = np.zeros(case.result_shapes["output"], sums)
    bias = tensors["bias"].astype(sums).reshape(-1, *[1] * case.rank) if "bias" in tensors else None
    if bias is not None and bias_first:
        result += bias
    in_group, per_group = case.large_channels // case.groups, case.small_channels // case.groups
    work = list(itertools.product(range(case.small_channels), range(in_group), *map(range, case.kernel)))
    np.random.default_rng(seed).shuffle(work)
    with np.errstate(all="ignore"):
        for small, k, *tap in work:
            large = small // per_group * in_group + k
            sides = [places(case, n, t) for n, t in enumerate(tap)]
            m, j = (np.ix_(range(case.batch), *(side[n] for side in sides)) for n in (0, 1))
            if case.transposed:
                result[:, large][j] += x[:, small][m] * w[(small, k, *tap)]
            else:
                result[:, small][m] += x[:, large][j] * w[(small, k, *tap)]
        if bias is not None and not bias_first:
            result += bias
    return result


def honest(problem: Problem, seed: int = 0, bias_first: bool = False) -> np.ndarray:
    sums = np.dtype(np.float32) if problem.format.precision < 24 else problem.format.dtype
    with np.errstate(over="ignore"):
        return loop(problem.case, problem.tensors, sums, seed, bias_first).astype(problem.format.dtype)


@cache
def shipped() -> tuple[Convolution, ...]:
    return tuple(case for case in load_suite(shipped_suites()["edge"]) if isinstance(case, Convolution))


@pytest.mark.parametrize("kind", EDGE_KINDS)
def test_an_honest_loop_is_exact_on_every_shipped_case(kind: str) -> None:
    for n, case in enumerate(shipped()):
        problem = pose(case, kind)
        judgement = judged(problem, honest(problem, seed=n, bias_first=n % 2 == 0))
        assert judgement.verdict == "exact", (case.id, judgement.message)


# ---- Dishonest ones do not ----

Implementation = Callable[[Problem], np.ndarray]


def with_input(problem: Problem, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    case, tensors = problem.case, {**problem.tensors, "input": change(problem.tensors["input"])}
    return loop(case, tensors, problem.format.dtype)


def ignores_nan(problem: Problem) -> np.ndarray:
    return with_input(problem, lambda x: np.where(np.isnan(x), x.dtype.type(0), x))


def takes_infinity_for_the_largest_number(problem: Problem) -> np.ndarray:
    largest = problem.format.dtype.type(problem.format.largest)
    return with_input(problem, lambda x: np.clip(x, -largest, largest))


def saturates(problem: Problem) -> np.ndarray:
    largest = problem.format.dtype.type(problem.format.largest)
    return np.clip(honest(problem), -largest, largest)


def negates_twice(problem: Problem) -> np.ndarray:
    """-(C.T (-y)): right but for the sign of its zeros."""
    negated = {name: -t if name != "weight" else t for name, t in problem.tensors.items()}
    return -loop(problem.case, negated, problem.format.dtype)


def takes_nan_for_infinity(problem: Problem) -> np.ndarray:
    return np.where(np.isnan(actual := honest(problem)), problem.format.dtype.type(math.inf), actual)


def dilates_by_inserting_zeros(problem: Problem) -> np.ndarray:
    """0 * inf and 0 * nan are nan, wherever the zeros of the stretched kernel go."""
    case, w = problem.case, problem.tensors["weight"]
    extents = [axis.extent for axis in case.axes]
    stretched = np.zeros((*w.shape[:2], *extents), w.dtype)
    stretched[(..., *(slice(None, None, d) for d in case.dilation))] = w
    axes = [
        {"large": a.large, "small": a.small, "kernel": a.extent, "stride": a.stride, "begin": a.begin}
        for a in case.axes
    ]
    undilated = {name: getattr(case, name) for name in case.__dataclass_fields__}
    undilated["axes"] = tuple(type(case.axes[0])(**axis) for axis in axes)
    return loop(Convolution(**undilated), {**problem.tensors, "weight": stretched}, problem.format.dtype)


DILATED = {"bias": True, "input": [4], "kernel": 3, "dilation": 2}
OVERLAP = {"in_channels": 2, "out_channels": 3, "bias": True, "input": [4, 4], "kernel": 3}


@pytest.mark.parametrize(
    ("kind", "implementation", "keys"),
    [
        ("edge-nan", ignores_nan, OVERLAP),
        ("edge-nan", takes_nan_for_infinity, OVERLAP),
        ("edge-nan", dilates_by_inserting_zeros, DILATED),
        ("edge-inf", takes_infinity_for_the_largest_number, OVERLAP),
        ("edge-inf", saturates, OVERLAP),
        ("edge-inf", dilates_by_inserting_zeros, DILATED),
        ("edge-zero", negates_twice, OVERLAP),
        ("edge-huge", saturates, OVERLAP),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_mistake_at_the_edges_deviates(
    kind: str, implementation: Implementation, keys: dict[str, Any], dtype: str
) -> None:
    problem = pose(make("t/mistake", dtype=dtype, **keys), kind)
    assert judged(problem, honest(problem)).verdict == "exact"
    assert judged(problem, implementation(problem)).verdict == "deviates"


def test_where_an_outcome_is_forced_nothing_else_is_allowed() -> None:
    problem = pose(make("t/forced", **OVERLAP), "edge-nan")
    for element in np.argwhere(np.isnan(problem.exact)):
        for value in (0.0, 1.0, math.inf, -math.inf):
            actual = problem.rounded.copy()
            actual[tuple(element)] = value
            assert judged(problem, actual).verdict == "deviates"


def test_the_worst_element_and_their_number_are_told() -> None:
    problem = pose(make("t/told", input=[2], kernel=1), "edge-nan")
    assert judged(problem, np.full((1, 1, 2), 5.0)).message == "at [0,0,0] got 5, expected nan; 2 of 2 elements"


# ---- Zeros ----


def test_the_sign_of_a_zero_is_free_only_where_all_addends_are_negative_zeros() -> None:
    free = forced = 0
    for problem in small_problems("edge-zero", "float32"):
        for element in np.ndindex(problem.exact.shape):
            if problem.exact[element] != 0:
                continue
            terms = [float(term) for term in addends(problem, element)]
            all_negative = all(term == 0 and math.copysign(1, term) < 0 for term in terms)
            for zero in (0.0, -0.0):
                actual = problem.rounded.copy()
                actual[element] = zero
                right = all_negative or math.copysign(1, zero) > 0
                assert judged(problem, actual).verdict == ("exact" if right else "deviates")
            free, forced = free + all_negative, forced + (not all_negative)
    assert free > 5
    assert forced > 5


@pytest.mark.parametrize("kind", EDGE_KINDS)
@pytest.mark.parametrize("name", ["gaps-no-bias", "conv-padded", "gradient"])
def test_an_element_that_nothing_reaches_is_zero_whatever_stands_in_the_input(kind: str, name: str) -> None:
    problem = pose(make(f"t/{name}", **SMALL[name]), kind)
    untouched = [element for element in np.ndindex(problem.exact.shape) if not addends(problem, element)]
    assert untouched
    for element in untouched:
        for value in (0.0, math.nan, math.inf, 1.0, problem.format.subnormal):
            actual = problem.rounded.copy()
            actual[element] = value
            assert judged(problem, actual).passed == (value == 0)


def test_a_negative_zero_where_nothing_is_added_is_judged_alike_in_all_kinds() -> None:
    verdicts = set()
    for kind in EDGE_KINDS:
        problem = pose(make("t/gaps-no-bias", **SMALL["gaps-no-bias"]), kind)
        actual = problem.rounded.copy()
        actual[0, 0, 1] = -0.0
        verdicts.add(judged(problem, actual).verdict)
    assert len(verdicts) == 1


def test_zeros_of_either_sign_are_equal_in_data_that_is_not_about_them() -> None:
    problem = pose(make("t/zeros", input=[3], kernel=1, stride=2), "exact")
    assert (problem.exact == 0).any()
    assert judged(problem, np.where(problem.rounded == 0, -0.0, problem.rounded)).verdict == "exact"


# ---- Subnormal numbers ----


def flush(tensor: np.ndarray, tiny: float) -> np.ndarray:
    """Flush to zero, keeping the sign, as hardware does."""
    return np.where(np.abs(tensor.astype(np.float64)) < tiny, np.copysign(0, tensor), tensor).astype(tensor.dtype)


def flushes_inputs(problem: Problem) -> np.ndarray:
    flushed = {name: flush(t, problem.format.tiny) for name, t in problem.tensors.items()}
    return loop(problem.case, flushed, problem.format.dtype)


def flushes_results(problem: Problem) -> np.ndarray:
    return flush(honest(problem), problem.format.tiny)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("implementation", [flushes_inputs, flushes_results])
def test_flushing_to_zero_is_named(dtype: str, implementation: Implementation) -> None:
    problem = pose(make("t/flush", dtype=dtype, **OVERLAP), "edge-subnormal")
    judgement = judged(problem, implementation(problem))
    assert (judgement.verdict, judgement.arithmetic) == ("reduced", "flush-to-zero")
    assert judgement.diagnosis == "subnormal numbers are taken for zero"


@pytest.mark.parametrize("keeps_bias", [True, False])
def test_flushing_the_products_leaves_the_bias_or_nothing(keeps_bias: bool) -> None:
    problem = pose(make("t/flush", **OVERLAP | {"bias": True}), "edge-subnormal")
    bias = problem.tensors["bias"].reshape(-1, 1, 1)
    actual = np.broadcast_to(bias, problem.exact.shape) * np.float32(keeps_bias)
    judgement = judged(problem, actual.astype(np.float32))
    assert (judgement.verdict, judgement.arithmetic) == ("reduced", "flush-to-zero")


def test_a_wrong_subnormal_number_is_not_flushing() -> None:
    problem = pose(make("t/flush", **OVERLAP), "edge-subnormal")
    actual = flushes_inputs(problem)
    actual[0, 0, 2, 2] = (
        problem.format.subnormal / 2 if problem.exact[0, 0, 2, 2] == 0 else -problem.rounded[0, 0, 2, 2]
    )
    assert judged(problem, actual).verdict == "deviates"


def test_subnormal_data_is_subnormal() -> None:
    for dtype in DTYPES:
        problem = pose(make("t/subnormal", dtype=dtype, **OVERLAP), "edge-subnormal")
        x = np.abs(problem.tensors["input"].astype(np.float64))
        assert 0 < x.min() <= x.max() < problem.format.tiny


# ---- Huge numbers ----


@pytest.mark.parametrize("dtype", DTYPES)
def test_seven_huge_units_are_finite_and_eight_overflow(dtype: str) -> None:
    format = FORMATS[dtype]
    with np.errstate(over="ignore"):
        problem = pose(make("t/huge", dtype=dtype, **OVERLAP), "edge-huge")
        unit = np.abs(problem.tensors["input"]).min()
        sums = list(itertools.accumulate([unit] * 8))
    assert np.isfinite(sums[6])
    assert np.isinf(sums[7])
    assert float(unit) * 4 <= format.largest


def test_judging_a_wrong_huge_number_does_not_overflow() -> None:
    problem = pose(make("t/huge", dtype="float64", input=[4], kernel=1), "edge-huge")
    assert judged(problem, np.copysign(problem.format.largest, -problem.exact)).verdict == "deviates"
