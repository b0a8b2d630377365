"""Equations between several runs: walkers of the definition fulfil them, and mistakes do not."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from definition import make, products_reaching
from hypothesis import given, settings
from hypothesis import strategies as st
from walkers import NETS, Mistake, convolution, make_case, max_pool, net, returned, walked

from conformance.dtypes import FORMATS
from conformance.oracle import pooling
from conformance.oracle.operators import OPERATORS
from conformance.oracle.steps import oracle_of
from conformance.outcome import Outcome
from conformance.problem import PropertyProblem, pose
from conformance.problem.base import Part
from conformance.problem.properties import _inner
from conformance.spec import Case, Chain, Convolution, Deconvnet, MaxPool, MaxUnpool, Rectify
from conformance.spec.fields import KeyedError
from conformance.verdict import Judgement, judge_parts

Tensors = Mapping[str, np.ndarray]
Run = Callable[[Case, Tensors], np.ndarray]


def posed(case: Case, data: str, seed: int = 0) -> PropertyProblem:
    problem = pose(case, data, seed)
    assert isinstance(problem, PropertyProblem)
    return problem


def judged(problem: PropertyProblem, run: Run) -> Judgement:
    dtype = problem.format.dtype
    return judge_parts(problem, [returned({"output": run(case, t).astype(dtype)}) for case, t in problem.parts])


# ---- A walker of the definition ----


def honest(case: Case, tensors: Tensors, seed: int = 0) -> np.ndarray:
    """In float32, in an order that the seed gives; for 16 bits rounded at the end."""
    if isinstance(case, Convolution):
        sums = np.float64 if case.dtype == "float64" else np.float32
        fed = [tensors[name].astype(sums) for name in ("input", "weight", "bias") if name in tensors]
        assert ("bias" in tensors) == case.bias
        return convolution(case, np.random.default_rng(seed), *fed)
    assert isinstance(case, Chain)
    if case.op == "deconvnet_gradient":
        assert isinstance(case, Deconvnet)
        return gradient(case, tensors)
    return walked(case, tensors, seed)["output"]


def in_order(seed: int) -> Run:
    return lambda case, tensors: honest(case, tensors, seed)


# ---- Convolutions ----


def random_convolution(rng: np.random.Generator, number: int) -> Convolution:
    """All ops and ranks, with groups, dilation, crops of either sign at either end, rows beyond the kernel."""
    op, rank = str(rng.choice(list(OPERATORS))), int(rng.integers(1, 4))
    groups = int(rng.choice([1, 1, 2, 3]))

    def each(low: int, high: int) -> list[int]:
        return [int(v) for v in rng.integers(low, high, rank)]

    while True:
        keys: dict[str, Any] = {
            "input": each(1, (9, 6, 4)[rank - 1]),
            "kernel": each(1, (5, 4, 3)[rank - 1]),
            "stride": each(1, 4),
            "dilation": each(1, 3),
            "padding": [list(pair) for pair in zip(each(-1, 3), each(-2, 3), strict=True)],
        }
        if op == "conv_transpose":
            keys["output_padding"] = [
                int(rng.integers(max(s, d))) for s, d in zip(keys["stride"], keys["dilation"], strict=True)
            ]
        channels = {k: groups * int(rng.integers(1, 4)) for k in ("in_channels", "out_channels")}
        bias = op != "conv_input_gradient" and bool(rng.integers(2))
        dtype = str(rng.choice(["float32", "float32", "float64", "float16", "bfloat16"]))
        batch = int(rng.integers(1, 3))
        try:
            return make(f"t/{number}", op, groups=groups, bias=bias, dtype=dtype, batch=batch, **channels, **keys)
        except KeyedError:
            continue


@pytest.mark.parametrize("data", ["adjoint", "linearity"])
def test_an_honest_loop_fulfils_the_equations_of_every_convolution(data: str) -> None:
    rng = np.random.default_rng(len(data))
    seen: Counter[tuple[str, int]] = Counter()
    for number in range(250):
        case = random_convolution(rng, number)
        problem = posed(case, data, number)
        told = judged(problem, in_order(number))
        assert (told.verdict, told.max_abs_error) == ("exact", 0), (case, told)
        seen[case.op, case.rank] += 1
    assert len(seen) == 9


def test_the_two_runs_of_the_adjoint_are_the_case_and_its_transpose() -> None:
    """One of them is the case itself, spelled as it is, without its bias; the other joins the same places."""
    rng = np.random.default_rng(7)
    for number in range(200):
        case = random_convolution(rng, number)
        problem = posed(case, "adjoint", number)
        (forward, first), (backward, second) = problem.parts
        assert isinstance(forward, Convolution)
        assert isinstance(backward, Convolution)
        assert forward.op == "conv"
        assert backward.op == ("conv_transpose" if case.op == "conv" else case.op)
        own = forward if case.op == "conv" else backward
        assert own == replace(case, bias=False)
        assert forward.axes == backward.axes == case.axes
        assert np.array_equal(first["weight"], second["weight"])
        for part, tensors in problem.parts:
            assert {name: t.shape for name, t in tensors.items()} == part.tensor_shapes
            assert all((t != 0).all() and t.dtype == problem.format.dtype for t in tensors.values())
        assert forward.result_shapes["output"] == second["input"].shape
        assert backward.result_shapes["output"] == first["input"].shape


@pytest.mark.parametrize("spelled", [{"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"padding": "same"}])
def test_the_transpose_of_a_convolution_with_generated_pads_says_them(spelled: dict[str, str]) -> None:
    case = make("t/same", op="conv", input=[5, 1], kernel=[2, 1], stride=[2, 3], data="adjoint", **spelled)
    backward = posed(case, "adjoint").parts[1][0]
    assert isinstance(backward, Convolution)
    assert backward.auto_pad is None
    assert backward.readings == ()
    assert isinstance(backward.padding, tuple)
    ends = zip(backward.padding, backward.output_padding or (), backward.axes, strict=True)
    assert all((pair[0], pair[1] - added) == (axis.begin, axis.end) for pair, added, axis in ends)


def test_no_sum_of_an_equation_is_too_large_for_the_format() -> None:
    """A, the sum of absolute values, fits: partial sums are exact in any order."""
    rng = np.random.default_rng(3)
    for number in range(200):
        case = random_convolution(rng, number)
        for data in ("adjoint", "linearity"):
            problem = posed(case, data, number)
            for part, tensors in problem.parts:
                assert isinstance(part, Convolution)
                largest = OPERATORS[part.op].magnitude(part, tensors).max(initial=0)
                assert largest <= 2**problem.format.precision, (case, data)


def test_an_equation_uses_the_room_there_is() -> None:
    for dtype, at_least in (("float32", 500), ("float16", 50), ("bfloat16", 4)):
        problem = posed(make(in_channels=2, input=[4], kernel=3, dtype=dtype), "adjoint")
        assert np.abs(problem.tensors["input"].astype(float)).max() >= at_least


# ---- Mistakes in a convolution ----

CONVOLUTIONS: dict[str, Convolution] = {
    name: make(f"t/{name}", batch=2, **keys)
    for name, keys in {
        "plane": {
            "in_channels": 2,
            "out_channels": 3,
            "bias": True,
            "input": [3, 4],
            "kernel": [3, 4],
            "stride": [2, 3],
        },
        "cropped": {"in_channels": 2, "out_channels": 3, "input": [4, 5], "kernel": 3, "padding": [[1, 0], [0, 2]]},
        "extended": {
            "in_channels": 2,
            "out_channels": 2,
            "input": [4],
            "kernel": 3,
            "stride": 2,
            "padding": [[-1, -2]],
        },
        "added": {"in_channels": 2, "out_channels": 2, "input": [4], "kernel": 4, "stride": 3, "output_padding": 2},
        "groups": {"in_channels": 4, "out_channels": 6, "groups": 2, "input": [4, 3], "kernel": 2, "dilation": [1, 2]},
        "volume": {"in_channels": 2, "out_channels": 2, "input": [2, 3, 2], "kernel": [2, 3, 2], "stride": [2, 1, 1]},
        "conv": {"op": "conv", "in_channels": 2, "out_channels": 3, "bias": True, "input": [6, 7], "kernel": [3, 2]},
        "gradient": {
            "op": "conv_input_gradient",
            "in_channels": 3,
            "out_channels": 2,
            "input": [7, 8],
            "kernel": 3,
            "stride": 2,
            "padding": 1,
        },
    }.items()
}


def shifted(case: Convolution) -> Convolution:
    return replace(case, axes=tuple(replace(axis, begin=axis.begin + 1) for axis in case.axes))


def changed(tensors: Tensors, **others: np.ndarray) -> dict[str, np.ndarray]:
    return {**tensors, **others}


ONE_WAY: dict[str, Run] = {
    "the kernel is flipped": lambda case, t: honest(
        case, changed(t, weight=np.flip(t["weight"], tuple(range(2, t["weight"].ndim))))
    ),
    "the crop is off by one": lambda case, t: honest(shifted(case), t),  # type: ignore[arg-type]
    "a tap is missing": lambda case, t: honest(case, changed(t, weight=without_a_tap(t["weight"]))),
    "the result is shifted": lambda case, t: np.roll(honest(case, t), 1, axis=-1),
    "one element is off": lambda case, t: off_by_one(honest(case, t)),
    "the images are exchanged": lambda case, t: honest(case, t)[::-1],
    "the sign is lost": lambda case, t: np.abs(honest(case, t)),
    "the weights are rounded": lambda case, t: honest(case, changed(t, weight=t["weight"] + np.float32(2.0**-12))),
}


def without_a_tap(weight: np.ndarray) -> np.ndarray:
    spoilt = weight.copy()
    spoilt[(0, 0, *[0] * (weight.ndim - 2))] = 0
    return spoilt


def off_by_one(result: np.ndarray) -> np.ndarray:
    spoilt = result.copy()
    spoilt.flat[result.size // 2] += 1
    return spoilt


@pytest.mark.parametrize("mistake", ONE_WAY)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_mistake_in_one_direction_is_no_adjoint(mistake: str, name: str) -> None:
    problem = posed(CONVOLUTIONS[name], "adjoint")
    for wrong in problem.parts:
        told = judged(problem, lambda case, t, wrong=wrong: (ONE_WAY[mistake] if case is wrong[0] else honest)(case, t))
        assert (told.verdict, told.diagnosis) == ("deviates", "<C x, y> = <x, C.T y> does not hold")
        left, right = (side[0] for side in problem.sides([{"output": o} for o in outputs(problem, wrong, mistake)]))
        assert told.message == f"left {float(left):.9g}, right {float(right):.9g}"


def outputs(problem: PropertyProblem, wrong: Part, mistake: str) -> list[np.ndarray]:
    runs = [(ONE_WAY[mistake] if part is wrong else honest)(*part) for part in problem.parts]
    return [run.astype(problem.format.dtype) for run in runs]


def with_bias(case: Case, tensors: Tensors) -> np.ndarray:
    return honest(case, tensors) + np.float32(3)


NOT_LINEAR: dict[str, Run] = {
    "a bias is left in": with_bias,
    "what is negative is lost": lambda case, t: np.maximum(honest(case, t), 0),
    "the result is rounded to tens": lambda case, t: np.rint(honest(case, t) / 10) * 10,
    "the input is rounded to few bits": lambda case, t: honest(case, changed(t, input=np.rint(t["input"] / 8) * 8)),
    "it is normalised": lambda case, t: honest(case, t) / np.abs(honest(case, t)).max(),
    "something is left of the last run": lambda case, t: honest(case, t) + np.float32(t["input"].flat[0] > 100),
}


@pytest.mark.parametrize("mistake", NOT_LINEAR)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_what_is_not_linear_is_found(mistake: str, name: str) -> None:
    problem = posed(CONVOLUTIONS[name], "linearity")
    assert judged(problem, honest).verdict == "exact"
    told = judged(problem, NOT_LINEAR[mistake])
    if mistake == "something is left of the last run":
        left = [float(t["input"].flat[0] > 100) for _, t in problem.parts]
        assert (told.verdict == "deviates") == (left[0] != left[1] + left[2])
        return
    assert (told.verdict, told.diagnosis) == ("deviates", "f(x1 + x2) = f(x1) + f(x2) does not hold")
    assert told.message.startswith("at [")
    assert (told.max_abs_error or 0) > 0


def test_a_mistake_in_both_directions_fulfils_the_equation() -> None:
    """It takes the oracle to see it: a flipped kernel has an adjoint too."""
    problem = posed(CONVOLUTIONS["plane"], "adjoint")
    assert judged(problem, ONE_WAY["the kernel is flipped"]).verdict == "exact"


def test_the_addends_are_whole_and_not_trivial() -> None:
    for seed in range(10):
        problem = posed(CONVOLUTIONS["plane"], "linearity", seed)
        total, one, other = (tensors["input"] for _, tensors in problem.parts)
        assert np.array_equal(one + other, total)
        assert np.array_equal(one, np.rint(one))
        assert one.any()
        assert other.any()
        assert not np.array_equal(one, total)
        assert len({id(case) for case, _ in problem.parts}) == 1


@pytest.mark.parametrize("data", ["adjoint", "linearity"])
def test_the_numbers_follow_from_case_and_seed(data: str) -> None:
    def numbers(id: str, seed: int) -> list[np.ndarray]:
        problem = posed(make(id, in_channels=2, input=[5], kernel=3), data, seed)
        return [tensor for _, tensors in problem.parts for tensor in tensors.values()]

    first = numbers("t/one", 1)
    assert all(map(np.array_equal, first, numbers("t/one", 1)))
    assert not all(map(np.array_equal, first, numbers("t/one", 2)))
    assert not all(map(np.array_equal, first, numbers("t/other", 1)))


@pytest.mark.parametrize("data", ["adjoint", "linearity"])
def test_a_spelling_that_can_be_read_in_several_ways_has_no_equations(data: str) -> None:
    keys = {"in_channels": 1, "input": [3], "kernel": 2, "stride": 2, "output_shape": 7}
    assert len(make("t/open", **keys).readings) == 2
    with pytest.raises(KeyedError, match="this spelling can be read in several ways"):
        make("t/open", data=[data], **keys)


# ---- Inner products are exact ----

wholes = st.lists(st.tuples(st.integers(-(2**39), 2**39), st.integers(-(2**39), 2**39)), max_size=20)


@given(wholes)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_inner_products_are_exact_far_beyond_what_float64_adds(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array([pair[n] for pair in pairs], np.float64) for n in (0, 1))
    assert _inner(a, b).tolist() == [sum(p * q for p, q in pairs)]


def test_sums_that_differ_by_one_beyond_2_to_the_53_are_told_apart() -> None:
    a = np.array([2.0**30, 1, -(2.0**30)])
    assert _inner(a, np.array([2.0**30, 1, 0])).tolist() == [2**60 + 1]
    assert _inner(a, np.array([2.0**30, 0, 0])).tolist() == [2**60]
    assert float(2**60 + 1) == float(2**60)


def test_what_is_not_whole_is_multiplied_in_float64() -> None:
    assert _inner(np.array([0.5, 2]), np.array([3.0, 0.25])).tolist() == [2.0]
    assert math.isnan(_inner(np.array([math.nan, 2]), np.array([3.0, 1])).tolist()[0])


def test_nothing_has_an_inner_product_of_zero() -> None:
    assert _inner(np.zeros((0, 2)), np.zeros((0, 2))).tolist() == [0]


# ---- Pooling and unpooling ----

POOLINGS: dict[str, dict[str, Any]] = {
    "line": {"input": [7], "kernel": 3, "stride": 2},
    "plane": {"input": [6, 7], "kernel": [3, 2], "stride": [2, 1], "padding": [[1, 0], [0, 1]]},
    "dilated": {"input": [9, 8], "kernel": 3, "stride": 2, "dilation": [2, 3]},
    "ceil": {"input": [8, 7], "kernel": 3, "stride": 2, "ceil_mode": True},
    "volume": {"input": [3, 4, 4], "kernel": 2, "stride": [1, 2, 1]},
    "magnitude": {"input": [5, 6], "kernel": 3, "stride": 1, "magnitude": True},
    "dense": {"input": [6, 6], "kernel": 5, "stride": 1},
}
UNPOOLINGS: dict[str, dict[str, Any]] = {
    "line": {"input": [4], "kernel": 3, "stride": 2},
    "plane": {"input": [3, 4], "kernel": [3, 2], "stride": [2, 1], "padding": 1},
    "smaller": {"input": [3, 4], "kernel": 3, "stride": 2, "output_size": [6, 8]},
    "larger": {"input": [3, 4], "kernel": 2, "output_size": [7, 9]},
    "volume": {"input": [2, 3, 2], "kernel": 2, "stride": 1},
}


def poolings() -> list[MaxPool | MaxUnpool]:
    many = {"batch": 2, "channels": 3}
    pools = [make_case("max_pool", f"t/{n}", **many, **keys) for n, keys in POOLINGS.items()]
    return pools + [make_case("max_unpool", f"t/{n}", **many, **keys) for n, keys in UNPOOLINGS.items()]


@pytest.mark.parametrize("case", poolings(), ids=lambda case: f"{case.op}-{case.id}")
@pytest.mark.parametrize("dtype", FORMATS)
def test_pooling_and_unpooling_through_the_same_switches_are_adjoint(case: MaxPool | MaxUnpool, dtype: str) -> None:
    for seed in range(5):
        problem = posed(replace(case, dtype=dtype), "adjoint", seed)
        (pool, first), (undo, second) = problem.parts
        assert isinstance(pool, MaxPool)
        assert isinstance(undo, MaxUnpool)
        assert undo.overlap == "sum"
        assert pool.axes == undo.axes == case.axes
        assert undo.result_shapes["output"] == first["input"].shape
        assert np.array_equal(
            max_pool(pool, np.random.default_rng(), first["input"].astype(float))[1], second["indices"]
        )
        assert judged(problem, in_order(seed)).verdict == "exact"
        assert problem.equation == "<P x, y> = <x, U y>"


UNPOOLING_MISTAKES: dict[str, Mistake] = {
    "values are assigned": lambda step, fed, given: (pooling.unpool_assign(*fed, step.large).astype(fed[0].dtype),),
    "values are averaged": lambda step, fed, given: (
        oracle_of(step).exact(replace(step, overlap="mean"), *fed)[0].astype(fed[0].dtype),
    ),
    "places are one off": lambda step, fed, given: (np.roll(given[0], 1, axis=-1),),
    "planes are exchanged": lambda step, fed, given: (given[0][:, ::-1],),
    "the last value is lost": lambda step, fed, given: (
        pooling.unpool(
            np.where(np.arange(fed[0].size).reshape(fed[0].shape) < fed[0].size - 1, fed[0], 0), fed[1], step.large
        ),
    ),
}


@pytest.mark.parametrize(
    "mistake", ["values are assigned", "places are one off", "planes are exchanged", "the last value is lost"]
)
@pytest.mark.parametrize("case", poolings(), ids=lambda case: f"{case.op}-{case.id}")
def test_a_wrong_unpooling_is_not_the_adjoint(mistake: str, case: MaxPool | MaxUnpool) -> None:
    problem = posed(case, "adjoint")

    def run(part: Case, tensors: Tensors) -> np.ndarray:
        assert isinstance(part, Chain)
        wrong = {"output": UNPOOLING_MISTAKES[mistake]} if isinstance(part, MaxUnpool) else {}
        return walked(part, tensors, wrong=wrong)["output"]

    meet = pooling.writers(problem.parts[1][1]["indices"], case.large).max() > 1
    told = judged(problem, run)
    assert told.verdict == ("deviates" if meet or "assigned" not in mistake else "exact")


@pytest.mark.parametrize("name", UNPOOLINGS)
def test_unpooling_is_linear_and_with_an_offset_it_is_not(name: str) -> None:
    case = make_case("max_unpool", f"t/{name}", batch=2, channels=2, **UNPOOLINGS[name])
    problem = posed(case, "linearity")
    assert judged(problem, honest).verdict == "exact"
    indices = [tensors["indices"] for _, tensors in problem.parts]
    assert all(np.array_equal(indices[0], other) for other in indices)
    assert judged(problem, lambda part, t: np.maximum(honest(part, t), 1)).verdict == "deviates"


@pytest.mark.parametrize("name", ["line", "smaller", "larger"])
def test_what_is_rectified_after_unpooling_is_not_linear(name: str) -> None:
    case = make_case("max_unpool", f"t/{name}", batch=2, channels=2, **UNPOOLINGS[name])
    for rectified in (lambda part, t: np.maximum(honest(part, t), 0), lambda part, t: np.abs(honest(part, t))):
        for seed in range(3):
            assert judged(posed(case, "linearity", seed), rectified).verdict == "deviates"


def test_no_sum_of_an_unpooling_is_too_large_for_the_format() -> None:
    """Windows of 15x15 that all see one large element."""
    for dtype in ("float16", "bfloat16"):
        case = make_case("max_unpool", "t/dense", input=[20, 20], kernel=15, stride=1, dtype=dtype)
        for seed in range(5):
            problem = posed(case, "adjoint", seed)
            _, tensors = problem.parts[1]
            sums = pooling.unpool(np.abs(tensors["input"].astype(float)), tensors["indices"], case.large)
            assert sums.max() <= 2**problem.format.precision


# ---- Adaptive networks ----

ADAPTIVE: dict[str, dict[str, Any]] = {
    "one": {"input": [8, 9], "in_channels": 2, "layers": [{"maps": 4, "kernel": 3, "padding": 2}]},
    "two": {"input": [12, 14], "layers": [{"maps": 4, "kernel": 3, "pool": [2, 2, 2]}, {"maps": 3, "kernel": 3}]},
    "overlapping": {
        "input": [11, 13],
        "in_channels": 3,
        "layers": [{"maps": 5, "kernel": 3, "pool": [2, 3, 3], "pool_stride": [1, 2, 2]}, {"maps": 3, "kernel": 2}],
    },
    "line": {"input": [20], "layers": [{"maps": 4, "kernel": 5, "pool": [2, 2]}, {"maps": 3, "kernel": 3}]},
}
WAYS = list(itertools.product(ADAPTIVE, ("reconstruct", "project"), ("given", "pooled")))


def adaptive(name: str, direction: str, switches: str, **more: Any) -> Any:
    keys = {**ADAPTIVE[name], "direction": direction, "switches": switches, "batch": 2, **more}
    return make_case("adaptive_deconv", f"t/{name}", data=["adjoint", "linearity"], **keys)


@pytest.mark.parametrize(("name", "direction", "switches"), WAYS)
@pytest.mark.parametrize("data", ["adjoint", "linearity"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adaptive_networks_fulfil_their_equations(
    name: str, direction: str, switches: str, data: str, dtype: str
) -> None:
    case = adaptive(name, direction, switches, dtype=dtype)
    for seed in range(3):
        problem = posed(case, data, seed)
        assert judged(problem, in_order(seed)).verdict == "exact"
        if data == "adjoint":
            assert [part.direction for part, _ in problem.parts] == ["reconstruct", "project"]  # type: ignore[attr-defined]
            assert problem.equation == "<R z, x> = <z, R.T x>"
        for part, tensors in problem.parts:
            assert fits(part, tensors)  # type: ignore[arg-type]


def fits(case: Chain, tensors: Tensors) -> bool:
    """Whether all partial sums of all stages are exact."""
    values: dict[str, np.ndarray] = dict(tensors)
    for stage in case.stages:
        fed = [values[name] for name in stage.reads]
        values |= zip(stage.gives, oracle_of(stage.step).exact(stage.step, *fed), strict=True)
        roundings = oracle_of(stage.step).roundings(stage.step, *fed)
        if roundings is not None and roundings.magnitude.max(initial=0) > 2 ** FORMATS[case.dtype].precision:
            return False
    return True


@pytest.mark.parametrize(("name", "direction", "switches"), WAYS)
def test_a_filter_that_is_another_in_one_direction_is_found(name: str, direction: str, switches: str) -> None:
    problem = posed(adaptive(name, direction, switches), "adjoint")
    for wrong in ("reconstruct", "project"):

        def run(case: Case, tensors: Tensors, wrong: str = wrong) -> np.ndarray:
            if case.direction == wrong:  # type: ignore[attr-defined]
                flipped = tensors["layer1.weight"][..., ::-1]
                return honest(case, changed(tensors, **{"layer1.weight": flipped}))
            return honest(case, tensors)

        assert judged(problem, run).diagnosis == "<R z, x> = <z, R.T x> does not hold"


@pytest.mark.parametrize("data", ["adjoint", "linearity"])
def test_another_seed_is_another_network(data: str) -> None:
    one, other = (posed(adaptive("two", "reconstruct", "given"), data, seed).tensors for seed in (1, 2))
    assert not np.array_equal(one["layer1.weight"], other["layer1.weight"])


# ---- A deconvnet is a gradient ----


def jacobian(function: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The matrix of a linear function of one image, column by column."""
    columns = []
    for n in range(math.prod(shape)):
        one = np.zeros((1, *shape))
        one.flat[n] = 1
        columns.append(function(one).ravel())
    return np.array(columns).T


def gradient(case: Deconvnet, tensors: Tensors) -> np.ndarray:
    """Backwards through the network by the transposed matrices of its layers, as the chain rule has it.

    A ReLU passes back what the case's rectifier lets through.
    """
    up = walked(case, tensors, sums=np.float64)
    signal = up["seed"].astype(np.float64)
    names = ["input", *(layer.name for layer in case.layers)]
    values: dict[str, np.ndarray] = {**tensors, **up}
    for layer, fed in reversed(list(zip(case.layers, names, strict=False))):
        step = layer.step
        if isinstance(step, Rectify):
            open_here = values[layer.name] > 0 if case.rectify in ("mask", "both") else np.ones(signal.shape, bool)
            positive = signal > 0 if case.rectify in ("signal", "both") else np.ones(signal.shape, bool)
            signal = signal * open_here * positive
            continue
        if isinstance(step, Convolution):
            weight = tensors[f"{layer.name}.weight"].astype(np.float64)
            bare = replace(step, bias=False, batch=1)
            C = jacobian(lambda x, s=bare, w=weight: convolution(s, np.random.default_rng(0), x, w), layer.input[1:])
            matrices = [C] * len(signal)
        else:
            picked = values[f"{layer.name}.indices"]
            matrices = [selection(layer.input[1:], switches) for switches in picked]
        back = [M.T @ s.ravel() for M, s in zip(matrices, signal, strict=True)]
        signal = np.array(back).reshape(values[fed].shape)
    return signal


def selection(shape: tuple[int, ...], switches: np.ndarray) -> np.ndarray:
    """The matrix that picks from each channel what its switches name."""
    plane = math.prod(shape[1:])
    rows = [channel * plane + int(place) for channel, places in enumerate(switches) for place in places.ravel()]
    P = np.zeros((len(rows), math.prod(shape)))
    P[np.arange(len(rows)), rows] = 1
    return P


RECTIFICATIONS = ("signal", "mask", "both", "none")
SMALL_NETS: dict[str, dict[str, Any]] = {
    **{name: NETS[name] for name in "ABD"},
    "C": {**NETS["C"], "input": [11, 9]},
    "F": {**NETS["F"], "input": [9, 8]},
}


@pytest.mark.parametrize("rectify", RECTIFICATIONS)
@pytest.mark.parametrize("name", SMALL_NETS)
def test_a_deconvnet_is_the_gradient_with_its_rectifier(name: str, rectify: str) -> None:
    """By the transposed Jacobian of every layer, bit for bit."""
    for seed, isolate in enumerate(("unit", "channel", "none")):
        words = {"seed": "one" if seed == 1 else "activation", "rectify": rectify, "isolate": isolate}
        case = net(name, f"t/{name}", data=["gradient"], **words, **SMALL_NETS[name])
        problem = posed(case, "gradient", seed)
        assert [part.op for part, _ in problem.parts] == ["deconvnet", "deconvnet_gradient"]
        told = judged(problem, in_order(seed))
        assert told.verdict == "exact"
        assert gradient(case, problem.tensors).any()


OTHERS = {"signal": "mask", "mask": "both", "both": "none", "none": "signal"}


@pytest.mark.parametrize("rectify", RECTIFICATIONS)
def test_a_deconvnet_with_another_rectifier_is_not_that_gradient(rectify: str) -> None:
    case = net("A", "t/A", data=["gradient"], rectify=rectify, isolate="none")
    problem = posed(case, "gradient")

    def run(part: Case, tensors: Tensors) -> np.ndarray:
        other = replace(part, rectify=OTHERS[rectify]) if part.op == "deconvnet_gradient" else part  # type: ignore[call-arg]
        return honest(other, tensors)

    told = judged(problem, run)
    assert (told.verdict, told.diagnosis) == (
        "deviates",
        "deconvnet = gradient with the rectified signal does not hold",
    )
    assert told.message.startswith("at [")


@pytest.mark.parametrize("mistake", ["values are assigned", "values are averaged", "places are one off"])
def test_a_deconvnet_that_unpools_otherwise_is_not_the_gradient(mistake: str) -> None:
    case = net("C", "t/C", data=["gradient"], isolate="none", rectify="none", input=[11, 9])
    problem = posed(case, "gradient")

    def run(part: Case, tensors: Tensors) -> np.ndarray:
        if part.op == "deconvnet_gradient":
            return honest(part, tensors)
        assert isinstance(part, Chain)
        mistakes: Mapping[str, Mistake] = {"down.pool1": UNPOOLING_MISTAKES[mistake]}
        return walked(part, tensors, wrong=mistakes)["output"]

    assert judged(problem, run).verdict == "deviates"


# ---- What the verdict says ----


def with_outputs(problem: PropertyProblem, *results: Any) -> Judgement:
    return judge_parts(problem, [returned({"output": result}) for result in results])


def right_outputs(problem: PropertyProblem) -> list[np.ndarray]:
    return [honest(case, tensors).astype(problem.format.dtype) for case, tensors in problem.parts]


def test_what_is_not_there_or_not_of_the_right_kind_is_told() -> None:
    problem = posed(CONVOLUTIONS["plane"], "linearity")
    right = right_outputs(problem)
    n, c, h, w = right[0].shape
    for part in range(3):
        for wrong, verdict, message in (
            (right[0][..., 1:], "wrong_shape", f"expected {n}x{c}x{h}x{w}, got {n}x{c}x{h}x{w - 1}"),
            (right[0].astype(np.float64), "wrong_dtype", "expected float32, got float64"),
            ("nothing", "error", "returned no array named output"),
        ):
            results: list[Any] = list(right)
            results[part] = wrong
            told = with_outputs(problem, *results)
            assert (told.verdict, told.message) == (verdict, message)
    assert judge_parts(problem, [returned({"result": right[0]})] * 3).verdict == "error"


def test_the_first_run_that_failed_is_what_is_told() -> None:
    problem = posed(CONVOLUTIONS["plane"], "adjoint")
    right = returned({"output": right_outputs(problem)[0]})
    for kind in ("unsupported", "error", "crash", "timeout"):
        told = judge_parts(problem, [right, Outcome(kind, message="its words")])  # type: ignore[arg-type]
        assert (told.verdict, told.message) == (kind, "its words")


@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("data", ["adjoint", "linearity"])
def test_one_number_that_is_none_breaks_the_equation(data: str, special: float) -> None:
    problem = posed(CONVOLUTIONS["plane"], data)
    for part in range(len(problem.parts)):
        results = right_outputs(problem)
        results[part][0, 0, 1, 1] = special
        told = with_outputs(problem, *results)
        assert told.verdict == "deviates"
        if data == "linearity":
            assert told.max_abs_error == math.inf
            assert told.message.startswith("at [0,0,1,1] got ")


def test_nothing_but_nan_fulfils_no_equation() -> None:
    for name, data in itertools.product(("plane", "gradient"), ("adjoint", "linearity")):
        problem = posed(CONVOLUTIONS[name], data)
        assert judged(problem, lambda case, t: honest(case, t) * np.nan).verdict == "deviates"


def test_nothing_but_infinity_fulfils_no_equation() -> None:
    problem = posed(CONVOLUTIONS["plane"], "linearity")
    assert judged(problem, lambda case, t: np.full_like(honest(case, t), np.inf)).verdict == "deviates"


def test_a_result_of_one_element_may_be_wrong_too() -> None:
    problem = posed(make("t/one", in_channels=1, out_channels=1, input=[1], kernel=1), "linearity")
    told = judged(problem, with_bias)
    assert (told.verdict, told.diagnosis) == ("deviates", "f(x1 + x2) = f(x1) + f(x2) does not hold")


@pytest.mark.parametrize("data", ["adjoint", "linearity"])
def test_an_empty_batch_fulfils_the_equations(data: str) -> None:
    for case in (
        make("t/empty", batch=0, in_channels=2, input=[4], kernel=3),
        make_case("max_unpool", "t/empty", batch=0, input=[4], kernel=3, stride=2),
        adaptive("two", "reconstruct", "pooled", batch=0),
    ):
        assert judged(posed(case, data), honest).verdict == "exact"


def test_the_definition_of_the_products_is_fulfilled_too() -> None:
    """The walker that the tests above trust, against products listed one by one."""
    rng = np.random.default_rng(0)
    for number in range(20):
        case = replace(random_convolution(rng, number), dtype="float64", bias=False)
        if math.prod(case.result_shapes["output"]) > 200:
            continue
        tensors = {n: rng.integers(-9, 10, shape).astype(float) for n, shape in case.tensor_shapes.items()}
        result = honest(case, tensors)
        for element in np.ndindex(result.shape):
            terms: Sequence[Any] = list(products_reaching(case, element))
            assert result[element] == sum(tensors["input"][i] * tensors["weight"][j] for i, j in terms)


# ---- Zeros satisfy every such equation ----


@pytest.mark.parametrize("data", ["adjoint", "linearity"])
def test_nothing_but_zeros_does_not_pass_for_an_equation(data: str) -> None:
    problem = posed(make("t/zeros", in_channels=2, input=[4], kernel=3), data)
    judgement = judged(problem, lambda part, _: np.zeros(part.result_shapes["output"], np.float32))
    assert judgement.verdict == "deviates"
    assert judgement.diagnosis == "nothing but zeros came back, of which every such equation holds"


def test_zeros_are_right_where_no_kernel_reaches() -> None:
    case = make(
        "t/gap", in_channels=1, input=[1], kernel=1, stride=4, padding=[[1, 0]], output_padding=3, data=["linearity"]
    )
    problem = posed(case, "linearity")
    assert problem.vanishes
    assert judged(problem, honest).verdict == "exact"
