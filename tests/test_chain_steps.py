"""The steps of chains and how errors pass through them; numbers for whole chains that nobody has to round."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from walkers import ADAPTIVE, BLOCK, NETS, make_case, net, walked

from conformance.arithmetic import Axis
from conformance.dtypes import FORMATS
from conformance.errors import OracleRounded
from conformance.oracle import pooling
from conformance.oracle.bounds import ARITHMETICS
from conformance.oracle.chains import draw_chain, walk
from conformance.oracle.convolution import conv_matrix, transposed_convolve
from conformance.oracle.gates import usage
from conformance.oracle.steps import Roundings, oracle_of
from conformance.problem import pose
from conformance.spec import (
    Chain,
    Isolate,
    MaxPool,
    MaxUnpool,
    Rectify,
    Reshape,
    ResponseNorm,
    ResponseNormGradient,
    Take,
    is_index,
)

EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True)
SINGLE = FORMATS["float32"]


def exact(step: Any, *fed: np.ndarray) -> np.ndarray:
    """What a step gives first."""
    result = oracle_of(step).exact(step, *fed)[0]
    assert result.dtype == np.float64
    return result


def rounded_in(step: Any, *fed: np.ndarray) -> Roundings:
    roundings = oracle_of(step).roundings(step, *fed)
    assert roundings is not None
    return roundings


def passed(step: Any, error: np.ndarray, *fed: np.ndarray, squared: bool = False) -> np.ndarray:
    return oracle_of(step).passed_on(step, error, *fed, squared=squared)


def whole(seed: int, *shape: int, limit: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).integers(-limit, limit + 1, shape).astype(np.float64)


# ---- A transposed convolution of maps that are nearly empty ----


@dataclass(frozen=True)
class Sparse:
    axes: tuple[Axis, ...]
    groups: int
    weight: np.ndarray
    y: np.ndarray


@st.composite
def nearly_empty_maps(draw: st.DrawFn) -> Sparse:
    """No element, one, a few or a box of them; crops and gaps of any kind, rows beyond the kernel."""
    rank = draw(st.integers(1, 3))
    axes = []
    for _ in range(rank):
        kernel, stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
        small, begin = draw(st.integers(1, (7, 5, 3)[rank - 1])), draw(st.integers(-3, 5))
        full = (small - 1) * stride + (kernel - 1) * dilation + 1
        axes.append(Axis(max(full - begin - draw(st.integers(-4, 5)), 1), small, kernel, stride, dilation, begin))
    groups, rows, columns, batch = (draw(st.integers(1, 2)) for _ in range(4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weight = rng.integers(-9, 10, (groups * rows, columns, *(a.kernel for a in axes))).astype(np.float64)
    y = np.zeros((batch, groups * rows, *(a.small for a in axes)))
    for _ in range(draw(st.integers(0, 3))):
        y.flat[rng.integers(y.size)] = rng.integers(-9, 10)
    if draw(st.booleans()):
        box = tuple(slice(low, low + 2) for low in (int(rng.integers(a.small)) for a in axes))
        y[(..., *box)] = 5
    return Sparse(tuple(axes), groups, weight, y)


@given(nearly_empty_maps())
@EXAMPLES
def test_the_transpose_of_the_matrix_applied_to_nearly_nothing(s: Sparse) -> None:
    """What is left out because it is zero changes nothing."""
    C = conv_matrix(s.axes, s.weight, s.groups).toarray()
    expected = (s.y.reshape(len(s.y), -1) @ C).reshape(len(s.y), -1, *(a.large for a in s.axes))
    assert np.array_equal(transposed_convolve(s.axes, s.y, s.weight, s.groups), expected)
    magnitude = (np.abs(s.y.reshape(len(s.y), -1)) @ np.abs(C)).reshape(expected.shape)
    assert np.array_equal(transposed_convolve(s.axes, s.y, s.weight, s.groups, absolute=True), magnitude)


AXES = (Axis(large=9, small=4, kernel=3, stride=2, begin=-1), Axis(large=12, small=3, kernel=2, stride=4, begin=0))


@pytest.mark.parametrize("unit", list(itertools.product((0, 1, 3), (0, 1, 2))), ids=str)
def test_one_unit_anywhere_puts_the_kernel_there(unit: tuple[int, int]) -> None:
    """With a row added in front, and gaps between the columns."""
    y = np.zeros((1, 1, 4, 3))
    y[(0, 0, *unit)] = 2
    weight = np.arange(1.0, 7).reshape(1, 1, 3, 2)
    expected = np.zeros((11, 12))
    top, left = unit[0] * 2 + 1, unit[1] * 4
    expected[top : top + 3, left : left + 2] = 2 * weight[0, 0]
    assert np.array_equal(transposed_convolve(AXES, y, weight)[0, 0], expected[:9])


def test_nothing_gives_nothing() -> None:
    assert not transposed_convolve(AXES, np.zeros((2, 2, 4, 3)), np.ones((2, 3, 3, 2))).any()
    assert transposed_convolve(AXES, np.zeros((2, 2, 4, 3)), np.ones((2, 3, 3, 2))).shape == (2, 3, 9, 12)


@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_one_special_number_is_not_left_out(special: float) -> None:
    y = np.zeros((1, 1, 4, 3))
    y[0, 0, 1, 1] = special
    spoilt = ~np.isfinite(transposed_convolve(AXES, y, np.ones((1, 1, 3, 2)))[0, 0])
    assert np.argwhere(spoilt).tolist() == [[r, c] for r in (3, 4, 5) for c in (4, 5)]


# ---- What the small steps give ----


@pytest.mark.parametrize(
    ("by", "expected"), [("signal", [0, 0, 0, 3, 3, 3]), ("mask", [0, 0, -2, 0, 0, 3]), ("both", [0, 0, 0, 0, 0, 3])]
)
def test_rectifying(by: Any, expected: list[float]) -> None:
    signal, activation = np.array([-2.0, -2, -2, 3, 3, 3]), np.array([-1.0, 0, 2, -1, 0, 2])
    fed = (signal,) if by == "signal" else (signal, activation)
    assert exact(Rectify(by), *fed).tolist() == expected


MAPS = np.array([[[[1.0, 7], [3, 2]], [[7, 0], [7, 1]], [[-1, 5], [2, 2]]], [[[-3, -3], [-5, -4]]] * 3])


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (Isolate(), [(0, 0, 0, 1), (1, 0, 0, 0)]),
        (Isolate(channel=1), [(0, 1, 0, 0), (1, 1, 0, 0)]),
        (Isolate(channel=2), [(0, 2, 0, 1), (1, 2, 0, 0)]),
        (Isolate(unit=(1, 0)), [(0, 0, 1, 0), (1, 0, 1, 0)]),
        (Isolate(channel=2, unit=(1, 1)), [(0, 2, 1, 1), (1, 2, 1, 1)]),
        (Isolate("channel"), [(n, 0, i, j) for n in (0, 1) for i in (0, 1) for j in (0, 1)]),
        (Isolate("channel", channel=2), [(n, 2, i, j) for n in (0, 1) for i in (0, 1) for j in (0, 1)]),
        (Isolate("none"), list(np.ndindex(2, 3, 2, 2))),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", ["activation", "one"])
def test_isolating_keeps_the_first_of_the_strongest(step: Isolate, kept: list[Any], seed: Any) -> None:
    """Also where all activations are negative, and channels tie."""
    result = exact(replace(step, seed=seed), MAPS)
    for at in np.ndindex(MAPS.shape):
        value = MAPS[at] if seed == "activation" else 1.0
        assert result[at] == (value if at in kept else 0.0)


def test_reshaping_and_taking_move_numbers() -> None:
    x = whole(0, 2, 3, 4)
    assert exact(Reshape((2, 1, 3, 4)), x).tolist() == x[:, None].tolist()
    switches = np.array([[[3, 0], [1, 1], [2, 3]]] * 2)
    taken = exact(Take((Axis(4, 2, 2, 2),)), x.astype(np.float32), switches)
    assert taken[1].tolist() == [[x[1, 0, 3], x[1, 0, 0]], [x[1, 1, 1]] * 2, [x[1, 2, 2], x[1, 2, 3]]]


ROW = (Axis(5, 3, 3, 1),)


@pytest.mark.parametrize(
    ("overlap", "expected"), [("sum", [0, 0, 8, 0, 4]), ("assign", [0, 0, 5, 0, 4]), ("mean", [0, 0, 4, 0, 4])]
)
def test_where_windows_overlap_the_policy_decides(overlap: Any, expected: list[float]) -> None:
    step = MaxUnpool(id="", op="max_unpool", axes=ROW, padding="valid", overlap=overlap)
    y, switches = np.array([[[3.0, 5, 4]]], np.float32), np.array([[[2, 2, 4]]])
    assert exact(step, y, switches).ravel().tolist() == expected


def test_pooling_gives_switches_as_integers() -> None:
    step = MaxPool(id="", op="max_pool", axes=ROW, padding="valid")
    values, switches = oracle_of(step).exact(step, np.array([[[1, 5, 2, 4, 4]]], np.float32))
    assert (values.dtype, switches.dtype) == (np.float64, np.int64)
    assert (values.ravel().tolist(), switches.ravel().tolist()) == ([5, 5, 4], [1, 1, 3])


def test_a_convolution_adds_its_bias() -> None:
    case = make_case("conv", input=[3], kernel=2, bias=True)
    fed = (np.array([[[1.0, 2, 3]]]), np.array([[[10.0, 1]]]), np.array([100.0]))
    assert exact(case, *fed).ravel().tolist() == [112, 123]
    roundings = rounded_in(case, *fed)
    assert np.broadcast_to(roundings.products, (1, 1, 2)).tolist() == [[[3, 3]]]
    assert roundings.magnitude.tolist() == [[[112, 123]]]
    assert not roundings.own_format


# ---- What may round ----


def unpooling(overlap: Any, axes: tuple[Axis, ...] = ROW, **keys: Any) -> MaxUnpool:
    return MaxUnpool(id="", op="max_unpool", axes=axes, padding="valid", overlap=overlap, **keys)


MOVING = {
    "signal": (Rectify(), (whole(1, 1, 2, 5),)),
    "mask": (Rectify("mask"), (whole(1, 1, 2, 5), whole(2, 1, 2, 5))),
    "isolate": (Isolate(), (whole(1, 1, 2, 5),)),
    "reshape": (Reshape((1, 10)), (whole(1, 1, 2, 5),)),
    "take": (Take(ROW), (whole(1, 1, 1, 5), np.array([[[0, 1, 4]]]))),
    "pool": (MaxPool(id="", op="max_pool", axes=ROW, padding="valid"), (whole(1, 1, 1, 5),)),
    "assigned": (unpooling("assign"), (whole(1, 1, 1, 3), np.array([[[2, 2, 2]]]))),
    "added, one to a place": (unpooling("sum"), (whole(1, 1, 1, 3), np.array([[[0, 2, 4]]]))),
    "averaged, one to a place": (unpooling("mean"), (whole(1, 1, 1, 3), np.array([[[0, 2, 4]]]))),
}


@pytest.mark.parametrize("name", MOVING)
def test_moving_numbers_rounds_nothing(name: str) -> None:
    step, fed = MOVING[name]
    assert oracle_of(step).roundings(step, *fed) is None


def test_adding_rounds_once_less_than_there_are_values_and_a_mean_divides_too() -> None:
    fed = np.array([[[3.0, -5, 4]]]), np.array([[[2, 2, 4]]])
    added, averaged = rounded_in(unpooling("sum"), *fed), rounded_in(unpooling("mean"), *fed)
    assert (added.products.tolist(), added.magnitude.tolist()) == ([[[0, 0, 1, 0, 0]]], [[[0, 0, 8, 0, 4]]])
    assert (averaged.products.tolist(), averaged.magnitude.tolist()) == ([[[0, 0, 2, 0, 0]]], [[[0, 0, 4, 0, 4]]])
    assert added.own_format
    assert averaged.own_format


@pytest.mark.parametrize("overlap", ["sum", "mean"])
@pytest.mark.parametrize(("dtype", "held_to"), [("float32", "float32"), ("float16", "float16-sums")])
def test_honest_sums_of_what_meets_stay_inside_of_the_bound(overlap: str, dtype: str, held_to: str) -> None:
    """Up to nine values in a place, added in any order and in their own format."""
    largest = 0.0
    for seed in range(100):
        case = make_case(
            "max_unpool", f"t/{seed}", channels=3, input=[4, 4], kernel=3, stride=1, dtype=dtype, overlap=overlap
        )
        problem = pose(case, "rounding", seed)
        fed = problem.tensors["input"], problem.tensors["indices"]
        got = walked(case, problem.tensors, seed, sums=FORMATS[dtype].dtype)["output"]
        roundings = rounded_in(case, *fed)
        found = usage(ARITHMETICS[held_to], got, exact(case, *fed), roundings.products, roundings.magnitude)
        assert found.legal, found
        largest = max(largest, found.bound)
    assert largest > 0.3


# ---- How errors pass through ----


def fed_to(name: str, seed: int) -> tuple[Any, tuple[np.ndarray, ...]]:
    """A step, and numbers for it."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape)

    windows = {"input": [5, 6], "kernel": [3, 2], "stride": [2, 1], "padding": [[1, 0], [0, 1]]}
    pool = make_case("max_pool", channels=2, batch=2, **windows)
    if name.startswith("conv"):
        op, _, rank = name.partition(" ")
        sizes = {"line": [5], "plane": [4, 3], "volume": [2, 3, 2]}[rank]
        keys = {"groups": 2, "in_channels": 4, "out_channels": 2, "kernel": 2, "stride": 2, "bias": True, "padding": 1}
        case = make_case(op, input=sizes, batch=2, **keys)
        return case, tuple(normal(*shape) for shape in case.tensor_shapes.values())
    if name in ("pool", "pool by magnitude"):
        return replace(pool, magnitude=name != "pool"), (normal(*pool.large_shape),)
    if name.startswith("unpool"):
        step = unpooling(name.split()[1], pool.axes)
        switches = pooling.max_pool(pool.axes, normal(*pool.large_shape))[1]
        return step, (normal(*pool.small_shape), switches)
    if name == "take":
        return Take(pool.axes), (normal(*pool.large_shape), pooling.max_pool(pool.axes, normal(*pool.large_shape))[1])
    norm = ResponseNorm(3, 2.0, 0.75, 1.0)
    return {
        "rectify by signal": (Rectify(), (normal(2, 2, 5),)),
        "rectify by mask": (Rectify("mask"), (normal(2, 2, 5), normal(2, 2, 5))),
        "rectify by both": (Rectify("both"), (normal(2, 2, 5), normal(2, 2, 5))),
        "isolate a unit": (Isolate(channel=1, unit=(2,)), (normal(2, 2, 5),)),
        "isolate a channel": (Isolate("channel", channel=0), (normal(2, 2, 5),)),
        "isolate nothing": (Isolate("none"), (normal(2, 2, 5),)),
        "isolate for one": (Isolate("channel", "one", channel=0), (normal(2, 2, 5),)),
        "reshape": (Reshape((2, 10)), (normal(2, 2, 5),)),
        "normalise": (norm, (normal(2, 5, 3) * 3,)),
        "gradient of normalising": (ResponseNormGradient(norm), (normal(2, 5, 3), normal(2, 5, 3) * 3)),
    }[name]


LINEAR = (
    *(f"{op} {rank}" for op in ("conv", "conv_transpose") for rank in ("line", "plane", "volume")),
    *("unpool sum", "unpool mean", "take", "reshape"),
    *("isolate a unit", "isolate a channel", "isolate nothing", "isolate for one", "rectify by mask"),
)
BOUNDED = (
    *("pool", "pool by magnitude", "unpool assign", "rectify by signal", "rectify by both", "gradient of normalising"),
    "normalise",
)


@pytest.mark.parametrize("name", [*LINEAR, *BOUNDED])
def test_no_error_grows_beyond_what_is_passed_on(name: str) -> None:
    """Errors of any sign and distribution, small enough that no maximum changes sign."""
    for seed in range(30):
        step, (x, *others) = fed_to(name, seed)
        rng = np.random.default_rng(seed)
        error = rng.random(x.shape) * rng.choice([0, 1e-6, 1e-5], x.shape)
        limit = passed(step, error, x, *others)
        right = exact(step, x, *others)
        for turn in range(6):
            part = rng.choice([-1, 1], x.shape) if turn % 2 else rng.uniform(-1, 1, x.shape)
            change = np.abs(exact(step, x + error * part, *others) - right)
            assert (change <= limit * 1.01 + 1e-14 * (1 + np.abs(right).max())).all()


@pytest.mark.parametrize("by", ["signal", "both"])
def test_a_rectifier_passes_on_what_gets_across_zero(by: Any) -> None:
    """-3 off by 1 stays below 0, -1 off by 3 may come to 2; 2 off by 3 loses at most 3, by the bound, and really 2."""
    signal, error = np.array([-3.0, -1, 2, 0]), np.array([1.0, 3, 3, 0.5])
    fed = (signal,) if by == "signal" else (signal, np.ones(4))
    assert passed(Rectify(by), error, *fed).tolist() == [0, 2, 3, 0.5]


@pytest.mark.parametrize("magnitude", [False, True])
def test_a_maximum_may_move_to_what_was_less_by_less_than_the_error(magnitude: bool) -> None:
    """1 beside 1.5 off by 1 may come to 2; the largest error of the window is what the maximum may change by."""
    step = MaxPool(id="", op="max_pool", axes=(Axis(4, 2, 2, 2),), padding="valid", magnitude=magnitude)
    x, error = np.array([[[1, 1.5, 3, 0]]]), np.array([[[1, 0.1, 0.25, 0.5]]])
    assert passed(step, error, x).tolist() == [[[1, 0.5]]]
    assert (np.abs(exact(step, x + error) - exact(step, x)) <= passed(step, error, x)).all()
    rng = np.random.default_rng(0)
    for _ in range(200):
        x, error = rng.uniform(1, 2, (1, 1, 4)), rng.random((1, 1, 4))
        change = exact(step, x + error * rng.uniform(-1, 1, x.shape)) - exact(step, x)
        assert (np.abs(change) <= passed(step, error, x)).all()


def jacobian(step: Any, x: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """Of a step that is linear in x, from what it does to one element at a time; whole numbers for whole numbers."""
    nothing = exact(step, np.zeros(x.shape), *others).ravel()
    columns = []
    for n in range(x.size):
        one = np.zeros(x.shape)
        one.flat[n] = 1
        columns.append(exact(step, one, *others).ravel() - nothing)
    return np.array(columns).T


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_step_passes_on_its_absolute_matrix_and_for_variances_its_square(name: str) -> None:
    step, (x, *others) = fed_to(name, 0)
    others = [o if o.dtype == np.int64 else np.rint(4 * o) for o in others]
    J = jacobian(step, x, *others)
    error = np.random.default_rng(0).integers(0, 100, x.shape).astype(np.float64)
    assert passed(step, error, x, *others).ravel() == pytest.approx(np.abs(J) @ error.ravel(), rel=1e-14)
    variance = passed(step, error, x, *others, squared=True)
    assert variance.ravel() == pytest.approx(np.square(J) @ error.ravel(), rel=1e-14)


@pytest.mark.parametrize("name", [*LINEAR, "unpool assign", "pool", "rectify by signal", "gradient of normalising"])
def test_variances_are_not_less_than_independent_errors_have(name: str) -> None:
    """Four thousand seeded draws, within five standard deviations of an estimated variance."""
    step, (x, *others) = fed_to(name, 1)
    rng, draws = np.random.default_rng(1), 4000
    deviation = rng.random(x.shape) * 1e-6
    right = exact(step, x, *others)
    squares = np.zeros(right.shape)
    for _ in range(draws):
        squares += np.square(exact(step, x + rng.standard_normal(x.shape) * deviation, *others) - right)
    allowed = passed(step, np.square(deviation), x, *others, squared=True)
    assert (squares / draws <= allowed * (1 + 5 * math.sqrt(2 / draws)) + 1e-28).all()


# ---- Exact data is exact ----

DEEP = [{"conv": 24, "kernel": 5, "padding": 2}, {"relu": True}] * 4


def exact_chains() -> Iterator[Chain]:
    for name in NETS.keys() - {"E"}:
        for overlap, rectify, isolate in itertools.product(
            ("sum", "assign"), ("signal", "mask", "both", "none"), ("unit", "none")
        ):
            yield net(name, f"t/{name}", overlap=overlap, rectify=rectify, isolate=isolate)
        yield net(name, f"t/{name}", seed="one", isolate="channel", bias_down="below")
        yield net(name, f"t/{name}", dtype="float64", overlap="sum")
    for overlap, rectify in itertools.product(("sum", "assign"), ("signal", "mask", "both", "none")):
        yield make_case("deconv_block", "t/block", **BLOCK, overlap=overlap, rectify=rectify)
    for direction, switches in itertools.product(("reconstruct", "project"), ("given", "pooled")):
        yield make_case("adaptive_deconv", "t/adaptive", **ADAPTIVE, direction=direction, switches=switches)
    yield make_case("max_pool", "t/pool", input=[5, 6], kernel=3, stride=2, padding=1, channels=2)
    for dtype in FORMATS:
        yield make_case("max_unpool", "t/unpool", input=[4, 3], kernel=3, stride=1, channels=2, dtype=dtype)


@pytest.mark.parametrize("seed", range(3))
def test_exact_data_comes_out_bit_for_bit_in_any_order_of_summation(seed: int) -> None:
    """In the arithmetic of the target, stage by stage."""
    for case in exact_chains():
        tensors, values = draw_chain(case, "exact", FORMATS[case.dtype], seed)
        for order in (1, 2):
            found = walked(case, tensors, order, sums=FORMATS[case.dtype].dtype)
            for name, value in values.items():
                assert np.array_equal(found[name].astype(np.float64), value), (case, name)


def test_it_matters_that_the_numbers_are_exact() -> None:
    """Else the test above would hold whatever is drawn."""
    case = net("A")
    tensors, _ = draw_chain(case, "exact", SINGLE, 0)
    wider = {**tensors, "input": tensors["input"] * np.float32(1 + 2.0**-20)}
    one, other = (walked(case, wider, order)["output"] for order in (1, 2))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("data", ["exact", "rounding"])
def test_something_comes_out_of_every_deconvnet_for_every_image(data: str) -> None:
    for name, rectify, overlap in itertools.product(
        NETS.keys() - ({"E"} if data == "exact" else set()), ("signal", "both"), ("sum", "assign")
    ):
        for seed in range(8):
            case = net(name, f"t/{name}{seed}", batch=3, rectify=rectify, overlap=overlap)
            _, values = draw_chain(case, data, SINGLE, seed)
            assert values["output"].reshape(3, -1).any(axis=1).all(), (name, rectify, overlap, seed)


def test_deep_nets_have_exact_data_too() -> None:
    """Four convolutions of 600 products each; weights have to be sparse."""
    case = make_case("deconvnet", "t/deep", in_channels=3, input=[9, 9], layers=_named(DEEP))
    tensors, values = draw_chain(case, "exact", SINGLE, 0)
    assert values["output"].any()
    found = walked(case, tensors, 3)
    assert all(np.array_equal(found[name].astype(np.float64), value) for name, value in values.items())
    taps = np.count_nonzero(tensors["conv4.weight"].reshape(24, -1), axis=1)
    assert set(taps) == {int(taps[0])}
    assert 1 <= taps[0] < 600


def _named(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [dict(layer) for layer in layers]


def test_where_no_whole_numbers_fit_it_is_said() -> None:
    """Every one of 576 windows sees the whole plane, so all find the same place, and bfloat16 counts to 256."""
    layers = [{"conv": 1, "kernel": 1}, {"max_pool": 47, "stride": 1, "padding": 23}]
    case = make_case("deconvnet", "t/crowd", input=[24, 24], layers=layers, isolate="none", seed="one")
    with pytest.raises(OracleRounded) as caught:
        draw_chain(case, "exact", FORMATS["bfloat16"], 0)
    assert str(caught.value) == "t/crowd: no whole numbers found whose sums bfloat16 can hold"
    draw_chain(case, "exact", SINGLE, 0)


def test_exact_data_are_whole_numbers_and_use_the_room_there_is() -> None:
    tensors, values = draw_chain(net("B"), "exact", SINGLE, 0)
    for tensor in tensors.values():
        assert tensor.dtype == np.float32
        assert np.array_equal(tensor, np.rint(tensor))
    assert np.abs(tensors["input"]).max() > 100
    assert set(np.abs(tensors["conv1.weight"]).ravel()) == {1, 2}
    assert 2**16 < np.abs(values["output"]).max() <= 2**24


def test_a_bias_is_drawn_small_and_not_always_zero() -> None:
    for data, limit in (("exact", 4), ("rounding", 1)):
        biases = [draw_chain(net("A"), data, SINGLE, seed)[0]["conv1.bias"] for seed in range(20)]
        assert 0 < np.abs(biases).max() <= limit


# ---- What is drawn ----


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    if one.keys() != other.keys():
        return False
    pairs = [(one[name].astype(np.float64), other[name].astype(np.float64)) for name in one]
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


@pytest.mark.parametrize("data", ["exact", "rounding"])
def test_the_same_case_and_seed_give_the_same_numbers(data: str) -> None:
    for make in (lambda id: net("C", id), lambda id: make_case("adaptive_deconv", id, **ADAPTIVE)):
        first = draw_chain(make("t/one"), data, SINGLE, 7)
        again = draw_chain(make("t/one"), data, SINGLE, 7)
        assert equal(first[0], again[0])
        assert equal(first[1], again[1])
        assert not equal(first[0], draw_chain(make("t/one"), data, SINGLE, 8)[0])
        assert not equal(first[0], draw_chain(make("t/other"), data, SINGLE, 7)[0])


def test_the_two_kinds_of_data_are_different_numbers() -> None:
    exact_ones, rounding_ones = (draw_chain(net("C"), data, SINGLE, 0)[0] for data in ("exact", "rounding"))
    assert not any(np.array_equal(exact_ones[name], rounding_ones[name]) for name in exact_ones)


def test_what_the_stages_give_is_what_the_walk_gives() -> None:
    for data in ("exact", "rounding"):
        case = net("F")
        tensors, values = draw_chain(case, data, SINGLE, 0)
        assert equal(values, walk(case.stages, tensors))
        assert list(values) == [name for stage in case.stages for name in stage.gives]
        for name, value in values.items():
            assert value.dtype == (np.int64 if is_index(name) else np.float64)


def test_rounding_data_look_like_a_network() -> None:
    """Weights scaled by the square root of 2 over the number of products; activations keep their size."""
    layers = [{"conv": 40, "kernel": 3, "padding": 1}, {"relu": True}, {"conv": 40, "kernel": 3}, {"relu": True}]
    case = make_case("deconvnet", "t/network", in_channels=20, input=[16, 16], layers=_named(layers), data=["rounding"])
    tensors, values = draw_chain(case, "rounding", SINGLE, 0)
    assert np.std(tensors["input"]) == pytest.approx(1, rel=0.05)
    assert np.std(tensors["conv2.weight"]) == pytest.approx(math.sqrt(2 / 360), rel=0.05)
    assert np.std(tensors["conv2.bias"]) == pytest.approx(0.1, rel=0.4)
    assert 0.5 < np.sqrt(np.mean(np.square(values["conv2"]))) < 3


@pytest.mark.parametrize("format", FORMATS.values(), ids=str)
def test_tensors_have_the_format_of_the_case(format: Any) -> None:
    case = replace(net("C"), dtype=format.name)
    for data in ("rounding",) if format.precision < 24 else ("rounding", "exact"):
        tensors, _ = draw_chain(case, data, format, 0)
        assert {name: t.shape for name, t in tensors.items()} == case.tensor_shapes
        assert {t.dtype for t in tensors.values()} == {format.dtype}


def test_switches_are_such_as_a_pooling_records_and_any_of_them() -> None:
    case = make_case("max_unpool", "t/switches", channels=50, input=[3, 3], kernel=3, stride=2, padding=1)
    seen = set()
    for seed in range(5):
        switches = draw_chain(case, "rounding", SINGLE, seed)[0]["indices"]
        assert switches.dtype == np.int64
        assert pooling.inside_window(case.axes, switches).all()
        seen |= {(n, int(s)) for plane in switches.reshape(-1, 9) for n, s in enumerate(plane)}
    table = pooling.windows(case.axes)
    assert seen == {(n, int(place)) for n, row in enumerate(table) for place in row if place >= 0}


@pytest.mark.parametrize(
    ("data", "special"), [("edge-nan", np.isnan), ("edge-inf", np.isposinf), ("edge-inf", np.isneginf)]
)
@pytest.mark.parametrize("dtype", FORMATS)
def test_edge_data_hold_special_numbers_among_others(data: str, special: Any, dtype: str) -> None:
    case = make_case("max_pool", "t/edge", channels=3, input=[6, 6], kernel=2, dtype=dtype, data=[data])
    tensors, values = draw_chain(case, data, FORMATS[dtype], 0)
    found = special(tensors["input"].astype(float))
    assert 0 < found.mean() < 0.5
    assert np.isfinite(tensors["input"].astype(float)).any()
    assert equal(values, walk(case.stages, tensors))


@pytest.mark.parametrize("data", ["exact", "rounding"])
def test_an_empty_batch_of_a_deconvnet_is_posed(data: str) -> None:
    problem = pose(net("C", batch=0), data)
    assert problem.exact.shape == (0, 2, 13, 11)  # type: ignore[attr-defined]


@pytest.mark.parametrize("data", ["exact", "rounding"])
def test_an_empty_batch_of_other_chains_is_posed(data: str) -> None:
    block, adaptive = {**BLOCK, "batch": 0}, {**ADAPTIVE, "batch": 0}
    for case in (
        make_case("deconv_block", "t/block", **block, overlap="mean", rectify="both"),
        *(make_case("adaptive_deconv", "t/adaptive", **adaptive, switches=s) for s in ("given", "pooled")),
        make_case("max_pool", "t/pool", input=[5], kernel=2, batch=0),
    ):
        problem = pose(case, data)
        assert problem.exact.shape == case.result_shapes["output"]  # type: ignore[attr-defined]
