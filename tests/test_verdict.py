"""Verdicts: honest implementations are never accused, dishonest ones never pass, and what they did is named."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from definition import make

from conformance.arithmetic import Axis
from conformance.dtypes import FORMATS
from conformance.oracle.bounds import ARITHMETICS
from conformance.oracle.operators import OPERATORS
from conformance.outcome import Outcome
from conformance.problem import Problem, Tensors, pose
from conformance.spec import Convolution, Vectors
from conformance.spec.fields import KeyedError
from conformance.verdict import FAILED, NEUTRAL, PASSED, VERDICTS, Judgement, judge, judge_published

# ---- A naive implementation: tap after tap, pair of channels after pair of channels ----


def joined(axis: Axis, tap: int) -> tuple[list[int], list[int]]:
    """Positions of the small and of the large side that a tap joins."""
    pairs = [(m, m * axis.stride - axis.begin + tap * axis.dilation) for m in range(axis.small)]
    inside = [(m, j) for m, j in pairs if 0 <= j < axis.large]
    return [m for m, _ in inside], [j for _, j in inside]


def loop(
    case: Convolution, tensors: Tensors, sums: type[np.generic] | np.dtype[Any] = np.float32, seed: int = 0
) -> np.ndarray:
    """The result in the type of the sums; taps in an order that the seed gives, the bias first or last."""
    rng = np.random.default_rng(seed)
    x, w = tensors["input"].astype(sums), tensors["weight"].astype(sums)
    result = np.zeros(case.result_shapes["output"], sums)
    bias = tensors["bias"].astype(sums).reshape(-1, *[1] * case.rank) if "bias" in tensors else np.zeros(1, sums)
    bias_first = bool(rng.integers(2))
    if bias_first:
        result += bias
    in_group, per_group = case.large_channels // case.groups, case.small_channels // case.groups
    work = list(itertools.product(range(case.small_channels), *map(range, case.kernel)))
    for small, *tap in (work[n] for n in rng.permutation(len(work))):
        first = small // per_group * in_group
        large = range(first, first + in_group)
        m, j = zip(*itertools.starmap(joined, zip(case.axes, tap, strict=True)), strict=True)
        images = range(case.batch)
        if case.transposed:
            factors = w[(small, slice(None), *tap)].reshape(-1, *[1] * case.rank)
            result[np.ix_(images, large, *j)] += x[np.ix_(images, [small], *m)] * factors
        else:
            for channel in range(in_group):
                read = x[np.ix_(images, [large[channel]], *j)]
                result[np.ix_(images, [small], *m)] += read * w[(small, channel, *tap)]
    return result if bias_first else result + bias


def honest(problem: Problem, seed: int = 0) -> np.ndarray:
    """Sums in float32, or float64 for float64; rounded once at the end."""
    sums = np.float64 if problem.format.name == "float64" else np.float32
    return loop(problem.case, problem.tensors, sums, seed).astype(problem.format.dtype)


def returned(output: Any) -> Outcome:
    return Outcome("returned", {"output": output})


def judged(problem: Problem, output: np.ndarray, promised: str = "native") -> Judgement:
    return judge(problem, returned(output.astype(problem.format.dtype)), promised)


# ---- Honest implementations are never accused ----


def random_case(rng: np.random.Generator, number: int) -> Convolution:
    op = str(rng.choice(list(OPERATORS)))
    rank, groups = int(rng.integers(1, 4)), int(rng.choice([1, 1, 2, 3]))
    largest = (8, 5, 3)[rank - 1]

    def each(low: int, high: int) -> list[int]:
        return [int(v) for v in rng.integers(low, high, rank)]

    while True:
        keys: dict[str, Any] = {
            "input": each(1, largest + 1),
            "kernel": each(1, (6, 4, 3)[rank - 1]),
            "stride": each(1, 4),
            "dilation": each(1, 3),
            "padding": each(0, 3),
        }
        if op == "conv_transpose":
            keys["output_padding"] = [
                int(rng.integers(max(s, d))) for s, d in zip(keys["stride"], keys["dilation"], strict=True)
            ]
        try:
            return make(
                f"t/random-{number}",
                op,
                dtype=str(rng.choice(["float32", "float32", "float16", "bfloat16", "float64"])),
                batch=int(rng.integers(1, 3)),
                in_channels=groups * int(rng.integers(1, 5)),
                out_channels=groups * int(rng.integers(1, 4)),
                groups=groups,
                bias=op != "conv_input_gradient" and bool(rng.integers(2)),
                **keys,
            )
        except KeyedError:
            continue


@pytest.mark.parametrize("part", range(4))
def test_a_naive_loop_is_never_accused(part: int) -> None:
    """150 random cases: exact on exact data, exact or within the bound on rounding data."""
    rng = np.random.default_rng(part)
    seen: Counter[str] = Counter()
    for number in range(150):
        case = random_case(rng, 1000 * part + number)
        exact = pose(case, "exact")
        assert judged(exact, honest(exact, number)).verdict == "exact", case
        if case.dtype != "float64":
            rounding = pose(case, "rounding")
            judgement = judged(rounding, honest(rounding, number))
            assert judgement.passed, (case, judgement)
            seen[judgement.verdict] += 1
    assert seen["within_bound"] > 20


def test_exact_data_is_exact_also_where_sums_are_made_in_the_narrow_type() -> None:
    rng = np.random.default_rng(9)
    for number in range(200):
        case = replace(random_case(rng, number), dtype=("float16", "bfloat16")[number % 2])
        problem = pose(case, "exact")
        assert judged(problem, loop(case, problem.tensors, problem.format.dtype, number)).verdict == "exact"


# ---- Cases on which every axis, side, channel and group differs from the others ----

CASES: dict[str, Convolution] = {
    name: make(f"t/{name}", batch=2, **keys)
    for name, keys in {
        "A": {
            "in_channels": 2,
            "out_channels": 3,
            "bias": True,
            "input": [3, 4],
            "kernel": [3, 4],
            "stride": [2, 3],
            "padding": [0, 1],
            "output_padding": [0, 2],
        },
        "B": {
            "in_channels": 2,
            "out_channels": 2,
            "bias": True,
            "input": [4, 3],
            "kernel": [3, 2],
            "dilation": [1, 2],
            "padding": 1,
        },
        "C": {
            "in_channels": 3,
            "out_channels": 3,
            "bias": True,
            "input": [3, 5],
            "kernel": [2, 3],
            "stride": [3, 2],
            "padding": [0, 1],
            "output_padding": [2, 0],
        },
        "groups": {
            "in_channels": 4,
            "out_channels": 6,
            "groups": 2,
            "bias": True,
            "input": [3, 3],
            "kernel": 3,
            "stride": 2,
            "padding": 1,
            "output_padding": 1,
        },
        "square": {
            "in_channels": 3,
            "out_channels": 3,
            "bias": True,
            "input": [4, 4],
            "kernel": 3,
            "stride": 2,
            "padding": 1,
            "output_padding": 1,
        },
        "sides": {
            "in_channels": 2,
            "out_channels": 3,
            "bias": True,
            "input": [3, 4],
            "kernel": [3, 4],
            "stride": [2, 3],
            "padding": [[0, 1], [2, 0]],
        },
        "half": {
            "in_channels": 2,
            "out_channels": 3,
            "bias": True,
            "input": [5, 4],
            "kernel": 3,
            "dilation": 2,
            "padding": 2,
        },
        "exchanged": {
            "in_channels": 2,
            "out_channels": 2,
            "bias": True,
            "input": [3, 3],
            "kernel": 3,
            "stride": [2, 3],
            "dilation": [3, 2],
        },
        "line": {
            "in_channels": 3,
            "out_channels": 2,
            "bias": True,
            "input": [5],
            "kernel": 4,
            "stride": 3,
            "padding": 1,
            "output_padding": 2,
        },
        "gaps": {
            "in_channels": 2,
            "out_channels": 2,
            "bias": True,
            "input": [3, 2],
            "kernel": 3,
            "stride": [4, 5],
            "output_padding": [1, 2],
        },
        "volume": {
            "in_channels": 2,
            "out_channels": 2,
            "bias": True,
            "input": [2, 3, 2],
            "kernel": [1, 3, 2],
            "stride": [2, 1, 1],
            "padding": [0, 1, 0],
        },
        "conv": {
            "op": "conv",
            "in_channels": 2,
            "out_channels": 3,
            "bias": True,
            "input": [6, 7],
            "kernel": [3, 2],
            "stride": [2, 1],
            "padding": [[1, 0], [0, 1]],
        },
        "gradient": {
            "op": "conv_input_gradient",
            "in_channels": 3,
            "out_channels": 3,
            "input": [6, 8],
            "kernel": [2, 3],
            "stride": [2, 3],
            "padding": [0, 1],
        },
    }.items()
}

# ---- Less arithmetic than promised is named ----


def keep(bits: int, rounding: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    def change(x: np.ndarray) -> np.ndarray:
        mantissa, exponent = np.frexp(x.astype(np.float64))
        return np.ldexp(rounding(mantissa * 2.0**bits), exponent - bits).astype(x.dtype)

    return change


def ties_away(x: np.ndarray) -> np.ndarray:
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


@dataclass(frozen=True)
class Reduction:
    name: str
    change: Callable[[np.ndarray], np.ndarray]
    operands: tuple[str, ...] = ("input", "weight")

    def __str__(self) -> str:
        return f"{self.name}-{'-'.join(self.operands)}"

    def result(self, problem: Problem) -> np.ndarray:
        tensors = {n: self.change(t) if n in self.operands else t for n, t in problem.tensors.items()}
        return honest(replace(problem, tensors=tensors))


def through(dtype: type[np.generic]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: x.astype(dtype).astype(x.dtype)


REDUCTIONS = {
    "tf32 to nearest": Reduction("tf32", keep(11, np.rint)),
    "tf32 truncated": Reduction("tf32", keep(11, np.trunc)),
    "tf32 to nearest, ties away": Reduction("tf32", keep(11, ties_away)),
    "tf32, weight only": Reduction("tf32", keep(11, np.rint), ("weight",)),
    "tf32, input only": Reduction("tf32", keep(11, np.rint), ("input",)),
    "tf32 truncated, weight only": Reduction("tf32", keep(11, np.trunc), ("weight",)),
    "bfloat16": Reduction("bfloat16-operands", through(ml_dtypes.bfloat16)),
    "bfloat16 truncated": Reduction("bfloat16-operands", keep(8, np.trunc)),
    "bfloat16, weight only": Reduction("bfloat16-operands", through(ml_dtypes.bfloat16), ("weight",)),
    "bfloat16, input only": Reduction("bfloat16-operands", through(ml_dtypes.bfloat16), ("input",)),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("data", ["exact", "rounding"])
def test_operands_rounded_to_less_are_named(reduction: str, data: str) -> None:
    planted = REDUCTIONS[reduction]
    for case in CASES.values():
        problem = pose(case, data)
        judgement = judged(problem, planted.result(problem))
        assert (judgement.verdict, judgement.arithmetic) == ("reduced", planted.name), (case.id, judgement)
        only = f" ({planted.operands[0]} only)" if len(planted.operands) == 1 else ""
        assert judgement.diagnosis == f"computed as with {planted.name}{only}"


MANY = make("t/many", in_channels=17, out_channels=2, input=[6, 6], kernel=3)
"""So many products that the wide numbers fit into float16."""


@pytest.mark.parametrize("operands", [("input", "weight"), ("weight",), ("input",)])
@pytest.mark.parametrize("data", ["exact", "rounding"])
def test_operands_in_float16_do_not_pass(data: str, operands: tuple[str, ...]) -> None:
    """On numbers of ordinary size float16 and TF32 round alike, and are called the same."""
    problem = pose(MANY, data)
    half = Reduction("float16-operands", through(np.float16), operands)
    assert np.array_equal(half.result(problem), Reduction("tf32", keep(11, np.rint), operands).result(problem))
    judgement = judged(problem, half.result(problem))
    assert (judgement.verdict, judgement.arithmetic) == ("reduced", "tf32")


def test_operands_in_float16_are_told_from_tf32_where_their_ranges_differ() -> None:
    """Numbers below 2**-14 are subnormal in float16 and lose bits that TF32 keeps."""
    rng = np.random.default_rng(0)
    tensors = {
        "input": (rng.uniform(1, 2, (1, 2, 5)) * 2.0**-17).astype(np.float32),
        "weight": rng.uniform(1, 2, (2, 1, 3)).astype(np.float32),
    }
    case = replace(make(in_channels=2, input=[5], kernel=3), vectors=Vectors(tensors, {}), data=("published",))
    problem = pose(case, "published")
    judgement = judged(problem, Reduction("", through(np.float16)).result(problem))
    assert (judgement.verdict, judgement.arithmetic) == ("reduced", "float16-operands")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_partial_sums_rounded_to_16_bits_are_named(dtype: str) -> None:
    for case in CASES.values():
        problem = pose(replace(case, dtype=dtype), "rounding")
        result = loop(problem.case, problem.tensors, problem.format.dtype)
        judgement = judged(problem, result)
        assert (judgement.verdict, judgement.arithmetic) == ("reduced", f"{dtype}-sums"), case.id
        assert judgement.diagnosis == f"partial sums rounded to {dtype}"
        assert judged(problem, result, f"{dtype}-sums").verdict == "within_bound"


def test_float64_computed_in_float32_is_named() -> None:
    for case in CASES.values():
        problem = pose(replace(case, dtype="float64"), "exact")
        with np.errstate(all="ignore"):
            narrow = {
                name: t.astype(np.float32).astype(np.float64) for name, t in problem.tensors.items() if name != "bias"
            }
        result = loop(problem.case, {**problem.tensors, **narrow}, np.float64)
        judgement = judged(problem, result)
        assert (judgement.verdict, judgement.arithmetic) == ("reduced", "float32"), judgement


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_target_that_promises_less_is_held_to_what_it_promises(reduction: str) -> None:
    planted = REDUCTIONS[reduction]
    for data in ("exact", "rounding"):
        problem = pose(CASES["A"], data)
        if "truncated" not in reduction:
            assert judged(problem, planted.result(problem), planted.name).verdict == "within_bound"
        assert judged(problem, honest(problem), planted.name).passed


def winograd(d: np.ndarray, g: np.ndarray) -> np.ndarray:
    """F(4, 3): four outputs of a 3-tap correlation over six inputs, in float32 (Lavin and Gray, arXiv:1509.09308)."""
    BT = [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
    G = [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
    AT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    transformed = (np.float32(G) @ g) * (np.float32(BT) @ d)
    result: np.ndarray = np.float32(AT) @ transformed
    return result


def test_a_winograd_algorithm_is_named() -> None:
    """Integers of 18 bits over six: not a single result has to come out right, and none is far off."""
    for seed in range(10):
        problem = pose(make("t/winograd", "conv", input=[6], kernel=3), "exact", seed)
        result = winograd(problem.tensors["input"].ravel(), problem.tensors["weight"].ravel()).reshape(1, 1, 4)
        judgement = judged(problem, result)
        if judgement.verdict != "exact":
            assert (judgement.verdict, judgement.arithmetic) == ("reduced", "winograd-like")
            return
    pytest.fail("the algorithm never rounded")


LONG = make("t/long", in_channels=64, out_channels=2, input=[6, 6], kernel=3)
"""So many products that the bound of their sum is wider than a single one of them."""


def test_rounding_noise_is_winograd_like_and_a_lost_product_is_not() -> None:
    for case in (MANY, LONG):
        problem = pose(case, "rounding")
        largest, most = problem.magnitude.max(), problem.products.max()
        signs = np.random.default_rng(0).choice([-1.0, 1.0], problem.exact.shape)
        noise = signs * largest * min(4 * most * 2.0**-24, 0.1 / most)
        assert judged(problem, problem.exact + noise).arithmetic == "winograd-like"
        lost = problem.exact.copy()
        lost[0, 0, 3, 3] += largest / most
        assert judged(problem, lost).verdict == "deviates"


def test_where_many_products_meet_only_the_statistical_gate_sees_tf32() -> None:
    problem = pose(make("t/sums", in_channels=1000, out_channels=2, input=[20], kernel=1), "rounding")
    judgement = judged(problem, REDUCTIONS["tf32 to nearest"].result(problem))
    assert (judgement.bound_usage or 9) < 1 < (judgement.rms_usage or 0)
    assert (judgement.verdict, judgement.arithmetic) == ("reduced", "tf32")


# ---- Mistakes of shape-preserving kinds never pass ----

Mistake = Callable[[Convolution, Tensors], np.ndarray | None]


def with_axes(case: Convolution, tensors: Tensors, **changed: list[int]) -> np.ndarray:
    """The naive loop with other parameters, the size kept."""
    axes = tuple(
        replace(axis, **{key: values[n] for key, values in changed.items()}) for n, axis in enumerate(case.axes)
    )
    return loop(replace(case, axes=axes), tensors)


def with_weight(case: Convolution, tensors: Tensors, weight: np.ndarray) -> np.ndarray:
    return loop(case, {**tensors, "weight": np.ascontiguousarray(weight)})


def added(case: Convolution) -> list[int]:
    """Rows that are computed at the end beyond those at the beginning: output_padding."""
    return [max(begin - end, 0) for begin, end in case.crop]


def bias_of(case: Convolution, tensors: Tensors) -> np.ndarray:
    return tensors["bias"].reshape(-1, *[1] * case.rank)


def not_flipped(case: Convolution, tensors: Tensors) -> np.ndarray:
    w = tensors["weight"]
    return with_weight(case, tensors, np.flip(w, tuple(range(2, w.ndim))))


def kernel_axes_swapped(case: Convolution, tensors: Tensors) -> np.ndarray | None:
    w = tensors["weight"]
    if case.rank < 2:
        return None
    return with_weight(case, tensors, w.reshape(*w.shape[:-2], w.shape[-1], w.shape[-2]).swapaxes(-1, -2))


def input_axes_swapped(case: Convolution, tensors: Tensors) -> np.ndarray | None:
    x = tensors["input"]
    if case.rank < 2:
        return None
    return loop(case, {**tensors, "input": x.reshape(*x.shape[:-2], x.shape[-1], x.shape[-2]).swapaxes(-1, -2)})


def channels_swapped(case: Convolution, tensors: Tensors) -> np.ndarray | None:
    w = tensors["weight"]
    if case.groups > 1:
        return None
    return with_weight(case, tensors, w.reshape(w.shape[1], w.shape[0], *w.shape[2:]).swapaxes(0, 1))


def groups_transposed_globally(case: Convolution, tensors: Tensors) -> np.ndarray:
    w, g = tensors["weight"], case.groups
    rows, columns = w.shape[0] // g, w.shape[1]
    direct = w.swapaxes(0, 1).reshape(g, columns, rows, *w.shape[2:])
    return with_weight(case, tensors, direct.swapaxes(1, 2).reshape(w.shape))


def groups_interleaved(case: Convolution, tensors: Tensors) -> np.ndarray:
    y = loop(case, tensors)
    return y.reshape(y.shape[0], case.groups, -1, *y.shape[2:]).swapaxes(1, 2).reshape(y.shape)


def groups_share_the_first(case: Convolution, tensors: Tensors) -> np.ndarray:
    x = tensors["input"].reshape(case.batch, case.groups, -1, *tensors["input"].shape[2:])
    return loop(case, {**tensors, "input": np.repeat(x[:, :1], case.groups, 1).reshape(tensors["input"].shape)})


def output_padding_at_begin(case: Convolution, tensors: Tensors) -> np.ndarray:
    return with_axes(case, tensors, begin=[a.begin - n for a, n in zip(case.axes, added(case), strict=True)])


def output_padding_at_the_top_and_right(case: Convolution, tensors: Tensors) -> np.ndarray:
    top = case.axes[0].begin - added(case)[0]
    return with_axes(case, tensors, begin=[top, *(a.begin for a in case.axes[1:])])


def output_padding_of_zeros(case: Convolution, tensors: Tensors) -> np.ndarray:
    y = loop(case, tensors)
    for axis, rows in enumerate(added(case)):
        if rows:
            tail = (slice(None), slice(None), *[slice(None)] * axis, slice(-rows, None))
            y[tail] = np.broadcast_to(bias_of(case, tensors), y.shape)[tail] if case.bias else 0
    return y


def padding_ignored(case: Convolution, tensors: Tensors) -> np.ndarray:
    return with_axes(case, tensors, begin=[0] * case.rank)


def padding_of_the_input(case: Convolution, tensors: Tensors) -> np.ndarray:
    return with_axes(case, tensors, begin=[2 * a.begin - a.stride * a.begin for a in case.axes])


def padding_sides_swapped(case: Convolution, tensors: Tensors) -> np.ndarray:
    return with_axes(case, tensors, begin=[end for _, end in case.crop])


def padding_axes_swapped(case: Convolution, tensors: Tensors) -> np.ndarray:
    return with_axes(case, tensors, begin=[a.begin for a in case.axes[::-1]])


def padding_read_as_pairs(case: Convolution, tensors: Tensors) -> np.ndarray:
    flat = [begin for begin, _ in case.crop] + [end for _, end in case.crop]
    return with_axes(case, tensors, begin=flat[::2])


def padding_times_dilation(case: Convolution, tensors: Tensors) -> np.ndarray:
    return with_axes(case, tensors, begin=[a.begin * a.dilation for a in case.axes])


def one_pixel_off(case: Convolution, tensors: Tensors) -> np.ndarray:
    return with_axes(case, tensors, begin=[a.begin + 1 for a in case.axes])


def stride_axes_swapped(case: Convolution, tensors: Tensors) -> np.ndarray:
    return with_axes(case, tensors, stride=[a.stride for a in case.axes[::-1]])


def stride_ignored(case: Convolution, tensors: Tensors) -> np.ndarray:
    return with_axes(case, tensors, stride=[1] * case.rank)


def stride_one_too_large(case: Convolution, tensors: Tensors) -> np.ndarray:
    return with_axes(case, tensors, stride=[a.stride + 1 for a in case.axes])


def dilation_ignored(case: Convolution, tensors: Tensors) -> np.ndarray:
    return with_axes(case, tensors, dilation=[1] * case.rank)


def dilation_ignored_and_centred(case: Convolution, tensors: Tensors) -> np.ndarray:
    centred = [a.begin - (a.extent - a.kernel) // 2 for a in case.axes]
    return with_axes(case, tensors, dilation=[1] * case.rank, begin=centred)


def dilation_axes_swapped(case: Convolution, tensors: Tensors) -> np.ndarray:
    return with_axes(case, tensors, dilation=[a.dilation for a in case.axes[::-1]])


def stride_for_dilation(case: Convolution, tensors: Tensors) -> np.ndarray:
    return with_axes(case, tensors, stride=[a.dilation for a in case.axes], dilation=[a.stride for a in case.axes])


def nearest_upsampling(case: Convolution, tensors: Tensors) -> np.ndarray | None:
    if not case.transposed:
        return None
    x = tensors["input"]
    for n, axis in enumerate(case.axes):
        x = np.repeat(x, axis.stride, n + 2)
    axes = tuple(replace(a, small=a.small * a.stride, stride=1) for a in case.axes)
    return loop(replace(case, axes=axes), {**tensors, "input": x})


def bias_ignored(case: Convolution, tensors: Tensors) -> np.ndarray:
    return loop(case, {name: t for name, t in tensors.items() if name != "bias"})


def bias_with_every_product(case: Convolution, tensors: Tensors) -> np.ndarray | None:
    if not case.bias:
        return None
    ones = {"input": np.ones_like(tensors["input"]), "weight": np.ones_like(tensors["weight"])}
    return bias_ignored(case, tensors) + loop(case, ones) * bias_of(case, tensors)


def bias_missing_in_added_rows(case: Convolution, tensors: Tensors) -> np.ndarray | None:
    if not case.bias:
        return None
    y, without = loop(case, tensors), bias_ignored(case, tensors)
    for axis, rows in enumerate(added(case)):
        if rows:
            tail = (slice(None), slice(None), *[slice(None)] * axis, slice(-rows, None))
            y[tail] = without[tail]
    return y


def bias_in_the_wrong_order(case: Convolution, tensors: Tensors) -> np.ndarray | None:
    return loop(case, {**tensors, "bias": tensors["bias"][::-1]}) if case.bias else None


def one_tap_dropped(case: Convolution, tensors: Tensors) -> np.ndarray:
    w = tensors["weight"].copy()
    w[(-1, 0, *(k // 2 for k in case.kernel))] = 0
    return with_weight(case, tensors, w)


def last_input_row_dropped(case: Convolution, tensors: Tensors) -> np.ndarray:
    x = tensors["input"].copy()
    x[..., -1] = 0
    return loop(case, {**tensors, "input": x})


def first_image_for_all(case: Convolution, tensors: Tensors) -> np.ndarray:
    return np.repeat(loop(case, tensors)[:1], case.batch, 0)


def convolution_for_its_transpose(case: Convolution, tensors: Tensors) -> np.ndarray | None:
    """Only where the shapes allow it: as many channels in as out, as large an output as the input."""
    w = tensors["weight"]
    if not case.transposed or case.groups > 1 or w.shape[0] != w.shape[1] or case.large != case.small:
        return None
    return loop(replace(case, op="conv"), tensors)


MISTAKES: tuple[Mistake, ...] = (
    not_flipped,
    kernel_axes_swapped,
    input_axes_swapped,
    channels_swapped,
    groups_transposed_globally,
    groups_interleaved,
    groups_share_the_first,
    output_padding_at_begin,
    output_padding_at_the_top_and_right,
    output_padding_of_zeros,
    padding_ignored,
    padding_of_the_input,
    padding_sides_swapped,
    padding_axes_swapped,
    padding_read_as_pairs,
    padding_times_dilation,
    one_pixel_off,
    stride_axes_swapped,
    stride_ignored,
    stride_one_too_large,
    dilation_ignored,
    dilation_ignored_and_centred,
    dilation_axes_swapped,
    stride_for_dilation,
    nearest_upsampling,
    bias_ignored,
    bias_with_every_product,
    bias_missing_in_added_rows,
    bias_in_the_wrong_order,
    one_tap_dropped,
    last_input_row_dropped,
    first_image_for_all,
    convolution_for_its_transpose,
)


def is_blind(case: Convolution, mistake: Mistake) -> bool:
    """Whether the mistake changes nothing on this case, found with numbers that no draw had a hand in."""
    rng = np.random.default_rng(1)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in case.tensor_shapes.items()}
    result = mistake(case, tensors)
    return result is None or bool(np.allclose(result, loop(case, tensors), rtol=1e-4, atol=1e-4))


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_deviates_wherever_it_changes_anything(mistake: Mistake) -> None:
    caught = 0
    for case in CASES.values():
        blind = is_blind(case, mistake)
        for data in ("exact", "rounding"):
            problem = pose(case, data)
            result = mistake(case, problem.tensors)
            if result is None:
                continue
            verdict = judged(problem, result).verdict
            assert verdict in (PASSED if blind else ("deviates",)), (case.id, data)
            caught += not blind
    assert caught >= 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize(
    "mistake", [not_flipped, channels_swapped, one_tap_dropped, bias_ignored, padding_sides_swapped]
)
def test_a_mistake_never_passes_in_other_types_either(mistake: Mistake, dtype: str) -> None:
    for name in ("A", "B", "square", "line"):
        case = replace(CASES[name], dtype=dtype)
        if is_blind(CASES[name], mistake):
            continue
        for data in ("exact",) if dtype == "float64" else ("exact", "rounding"):
            problem = pose(case, data)
            wide = {n: t.astype(np.float64) for n, t in problem.tensors.items()}
            assert judged(problem, mistake(case, wide)).failed, (case.id, data)  # type: ignore[arg-type]


def test_the_eight_figures_of_the_guide_alone_are_blind_to_many_mistakes() -> None:
    """Why the cases above are asymmetric: a square case with one channel in and out sees far fewer mistakes."""
    square = make(input=[3, 3], kernel=3, padding=1)
    blind = {mistake.__name__ for mistake in MISTAKES if is_blind(square, mistake)}
    assert {"channels_swapped", "groups_interleaved", "output_padding_at_begin", "padding_axes_swapped"} <= blind
    assert len(blind) > len(MISTAKES) / 2


# ---- What is not a result ----


def test_verdicts_pass_fail_or_are_neutral() -> None:
    assert len(VERDICTS) == len(set(VERDICTS)) == len(PASSED) + len(FAILED) + len(NEUTRAL)
    for verdict in VERDICTS:
        judgement = Judgement(verdict)
        assert (judgement.passed, judgement.failed) == (verdict in PASSED, verdict in FAILED)


PROBLEM = pose(CASES["A"], "rounding")


@pytest.mark.parametrize("kind", ["unsupported", "error", "crash", "timeout"])
def test_what_did_not_return_is_told_as_it_came(kind: Any) -> None:
    assert judge(PROBLEM, Outcome(kind, message="because")) == Judgement(kind, "float32", message="because")


def test_a_wrong_shape_is_told() -> None:
    judgement = judge(PROBLEM, returned(np.zeros((2, 3, 7, 12), np.float32)))
    assert judgement == Judgement("wrong_shape", "float32", message="expected 2x3x7x13, got 2x3x7x12")
    scalar = judge(PROBLEM, returned(np.zeros((), np.float32)))
    assert scalar == Judgement("wrong_shape", "float32", message="expected 2x3x7x13, got a scalar")


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float16, ml_dtypes.bfloat16, np.int32, np.complex64, np.bool_, np.object_]
)
def test_a_wrong_type_is_told(dtype: type[np.generic]) -> None:
    judgement = judge(PROBLEM, returned(PROBLEM.rounded.astype(dtype)))
    assert judgement == Judgement("wrong_dtype", "float32", message=f"expected float32, got {np.dtype(dtype)}")


def test_a_type_of_the_other_byte_order_is_a_wrong_type() -> None:
    assert judge(PROBLEM, returned(PROBLEM.rounded.astype(">f4"))).verdict == "wrong_dtype"


@pytest.mark.parametrize(
    "tensors", [{}, {"y": np.zeros(3)}, {"output": None}, {"output": [1.0]}, {"output": 3.0}, {"output": "text"}]
)
def test_no_array_of_the_right_name_is_an_error(tensors: Any) -> None:
    expected = Judgement("error", "float32", message="returned no array named output")
    assert judge(PROBLEM, Outcome("returned", tensors)) == expected


@pytest.mark.parametrize("data", ["exact", "rounding"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, 1e30, -1e-30])
def test_garbage_deviates(value: float, data: str) -> None:
    problem = pose(CASES["A"], data)
    assert judged(problem, np.full(problem.exact.shape, value)).verdict == "deviates"
    one = problem.rounded.copy()
    one[1, 2, 3, 4] = value
    judgement = judged(problem, one)
    assert judgement.verdict == "deviates"
    assert judgement.message.startswith("at [1,2,3,4] got ")


def test_uninitialised_memory_deviates() -> None:
    noise = np.random.default_rng(0).integers(0, 2**32, PROBLEM.exact.shape, np.uint32).view(np.float32)
    assert judged(PROBLEM, noise).verdict == "deviates"


def test_an_unknown_promise_is_an_error_that_lists_the_known_ones() -> None:
    judgement = judge(PROBLEM, returned(PROBLEM.rounded), "float8")
    known = ", ".join(ARITHMETICS)
    assert judgement.verdict == "error"
    assert judgement.message == f"the target promises float8; expected native or one of {known} (+bias)"


def test_a_result_that_cannot_be_bettered_is_exact_whatever_was_promised() -> None:
    for promised in ("native", "native+bias", *ARITHMETICS):
        assert judged(PROBLEM, PROBLEM.rounded, promised).verdict == "exact"


def test_the_exact_result_of_an_exact_problem_leaves_nothing_to_measure() -> None:
    judgement = judged(PROBLEM, PROBLEM.rounded)
    assert judgement == Judgement("exact", "float32", 0.0, 0.0, 0.0)


def test_on_exact_data_one_ulp_is_too_much() -> None:
    """Nothing has to be rounded, so there is no tolerance at all."""
    problem = pose(CASES["A"], "exact")
    actual = problem.rounded.copy()
    actual[0, 0, 0, 0] = np.nextafter(actual[0, 0, 0, 0], np.float32(np.inf))
    assert judged(problem, actual).failed


def test_on_rounding_data_one_ulp_is_within_the_bound_and_measured() -> None:
    actual = PROBLEM.rounded.copy()
    at = np.unravel_index(int(np.argmax(PROBLEM.products + 0 * PROBLEM.exact)), PROBLEM.exact.shape)
    actual[at] = np.nextafter(actual[at], np.float32(np.inf))
    judgement = judged(PROBLEM, actual)
    assert judgement.verdict == "within_bound"
    assert judgement.max_abs_error == np.abs(actual - PROBLEM.exact).max()
    assert 0 < (judgement.bound_usage or 0) <= 1
    assert 0 < (judgement.rms_usage or 0) <= 1


@pytest.mark.parametrize("data", ["exact", "rounding"])
def test_an_empty_batch_is_exact(data: str) -> None:
    problem = pose(make(batch=0, input=[3], kernel=2), data)
    assert judged(problem, problem.rounded).verdict == "exact"


# ---- Where a specification is open ----

OPEN = make("t/open", input=[4], kernel=1, stride=2, auto_pad="SAME_UPPER")


def test_every_reading_of_an_open_specification_is_ambiguous_and_named() -> None:
    problem = pose(OPEN, "exact")
    assert len({axes for _, axes in OPEN.readings}) == 3
    for _, axes in OPEN.readings:
        judgement = judged(problem, loop(replace(OPEN, axes=axes), problem.tensors))
        name = next(name for name, same in OPEN.readings if same == axes)
        assert judgement.verdict == "ambiguous"
        assert judgement.diagnosis == f"the specification is open here; read as: {name}"


def test_every_reading_is_ambiguous_on_edge_data_too() -> None:
    problem = pose(OPEN, "edge-nan")
    for _, axes in OPEN.readings:
        assert judged(problem, loop(replace(OPEN, axes=axes), problem.tensors)).verdict == "ambiguous"


def test_what_no_reading_allows_still_fails() -> None:
    problem = pose(OPEN, "exact")
    right = loop(OPEN, problem.tensors)
    assert judged(problem, np.roll(right, 3)).verdict == "deviates"
    assert judged(problem, right[..., :-2]).verdict == "wrong_shape"


def test_a_specification_that_is_clear_leaves_nothing_ambiguous() -> None:
    clear = make("t/clear", input=[4], kernel=3, stride=2, auto_pad="SAME_UPPER")
    assert clear.readings == ()
    problem = pose(clear, "exact")
    lower = replace(clear, axes=(replace(clear.axes[0], begin=1),))
    assert judged(problem, loop(lower, problem.tensors)).verdict == "deviates"


# ---- Published numbers judge the oracle too ----


def published(output: Any, decimals: int | None = None, dtype: str = "float32", bias: Any = None) -> Problem:
    """x' = C.T y with y = (1, 2), w = (3, 4): (3, 10, 8)."""
    case = make(dtype=dtype, input=[2], kernel=2, bias=bias is not None)
    tensors = {"input": np.array([[[1, 2]]]), "weight": np.array([[[3, 4]]])} | ({} if bias is None else {"bias": bias})
    vectors = Vectors(
        {name: np.array(t, FORMATS[dtype].dtype) for name, t in tensors.items()},
        {"output": np.array([[output]], float)},
        decimals,
    )
    return pose(replace(case, vectors=vectors, data=("published",)), "published")


def test_the_oracle_agrees_with_numbers_worked_by_hand() -> None:
    assert judge_published(published([3, 10, 8])) == Judgement("exact", "float64", 0.0, 0.0, 0.0)


@pytest.mark.parametrize("wrong", [[3, 10, 8.001], [3, 8, 10], [4, 11, 6], [3, 10, math.nan], [3, math.inf, 8]])
def test_the_oracle_does_not_agree_with_other_numbers(wrong: list[float]) -> None:
    assert judge_published(published(wrong)).verdict == "deviates"


@pytest.mark.parametrize(
    ("output", "decimals", "verdict"),
    [
        ([3, 10, 8.04], 1, "within_bound"),
        ([3, 10, 8.06], 1, "deviates"),
        ([3, 10, 8.4], 0, "within_bound"),
        ([3, 10, 8.6], 0, "deviates"),
        ([3, 10, 8.0001], 3, "within_bound"),
        ([3, 10, 8], 3, "exact"),
    ],
)
def test_published_decimals_say_how_far_off_they_may_be(output: list[float], decimals: int, verdict: str) -> None:
    assert judge_published(published(output, decimals)).verdict == verdict


def test_a_tie_may_be_published_rounded_either_way() -> None:
    """An eighth to two decimals is 0.12 or 0.13, by the rule that the source rounds with."""
    for printed in (0.12, 0.13):
        assert judge_published(published([printed, 7.13, 5.13], 2, bias=[-2.875])).verdict == "within_bound"


def test_published_numbers_of_a_narrow_type_may_be_rounded_to_it() -> None:
    third = float(np.float16(1 / 3))
    problem = published([3 + third, 10 + third, 8 + third], dtype="float16", bias=[third])
    assert judge_published(problem).verdict == "exact"
    rounded = [float(np.float16(v)) for v in (3 + third, 10 + third, 8 + third)]
    assert judge_published(published(rounded, dtype="float16", bias=[third])).verdict == "within_bound"


def test_targets_are_judged_on_published_numbers_by_the_oracle_and_not_by_what_was_printed() -> None:
    problem = published([3, 10, 8.04], decimals=1)
    assert judged(problem, np.array([[[3, 10, 8]]])).verdict == "exact"
    assert judged(problem, np.array([[[3, 10, 8.04]]])).verdict == "deviates"


def test_a_case_that_publishes_no_output_cannot_judge_the_oracle() -> None:
    with pytest.raises(ValueError, match=r"^t/case publishes no output$"):
        judge_published(pose(make(input=[3], kernel=2), "exact"))


def test_double_precision_of_published_numbers_may_round_as_the_oracle_does() -> None:
    rng = np.random.default_rng(0)
    tensors = {"input": rng.standard_normal((1, 8, 5)), "weight": rng.standard_normal((8, 1, 3))}
    case = make(dtype="float64", in_channels=8, input=[5], kernel=3)
    problem = pose(replace(case, vectors=Vectors(tensors, {}), data=("published",)), "published")
    for seed in range(20):
        assert judged(problem, loop(case, tensors, np.float64, seed)).passed
    assert judged(problem, loop(case, tensors, np.float32)).failed
