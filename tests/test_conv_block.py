"""Filters with what runtimes fuse with them: how they are written, drawn, computed, judged and fused."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from walkers import make_case, returned, walked

from conformance.dtypes import FORMATS
from conformance.errors import SpecError
from conformance.oracle import batch_norm
from conformance.oracle.operators import OPERATORS
from conformance.oracle.steps import oracle_of
from conformance.outcome import Outcome
from conformance.problem import ChainProblem, pose
from conformance.spec import (
    BatchNorm,
    ConvBlock,
    Convolution,
    NormedConvolution,
    Pad,
    Rectify,
    Stage,
    load_cases,
    load_suite,
    suite_schema,
)
from conformance.spec.case import Case
from conformance.spec.fields import KeyedError
from conformance.targets.base import Unsupported
from conformance.targets.chain import run_chain
from conformance.verdict import Judgement, judge

SMALLEST: dict[str, Any] = {"in_channels": 4, "out_channels": 6, "input": [6, 7], "kernel": 3, "batch": 2}
NORM = ("scale", "shift", "mean", "variance")
EPSILON = float(np.float32(1e-5))


def block(id: str = "t/block", **keys: Any) -> ConvBlock:
    case = make_case("conv_block", id, **{**SMALLEST, **keys})
    assert isinstance(case, ConvBlock)
    return case


def posed(case: ConvBlock, data: str = "exact", seed: int = 0) -> ChainProblem:
    problem = pose(case, data, seed)
    assert isinstance(problem, ChainProblem)
    return problem


def judged(problem: ChainProblem, values: Mapping[str, np.ndarray], promised: str = "native") -> Judgement:
    return judge(problem, returned({"output": values["output"]}), promised)


@functools.cache
def suite() -> tuple[ConvBlock, ...]:
    return tuple(case for case in load_cases(["fusion"], "quick") if isinstance(case, ConvBlock))


# ---- How a block is written, and what it is made of ----


def described(stages: tuple[Stage, ...]) -> list[tuple[str, type, tuple[str, ...], tuple[str, ...]]]:
    return [(stage.name, type(stage.step), stage.reads, stage.gives) for stage in stages]


def test_a_filter_alone_is_a_block() -> None:
    assert described(block().stages) == [("filter", Convolution, ("input", "weight"), ("output",))]


FULL: dict[str, Any] = {
    "pad": [[1, 2], 0],
    "bias": True,
    "batch_norm": True,
    "rectify": "signal",
    "then": {"filter": "conv_transpose", "kernel": 2, "out_channels": 5, "batch_norm": True},
}


def test_the_stages_of_a_block() -> None:
    assert described(block(**FULL).stages) == [
        ("pad", Pad, ("input",), ("pad",)),
        ("filter", Convolution, ("pad", "weight", "bias"), ("filter",)),
        ("batch_norm", BatchNorm, ("filter", *NORM), ("batch_norm",)),
        ("rectify", Rectify, ("batch_norm",), ("rectify",)),
        ("then.filter", Convolution, ("rectify", "then.weight"), ("then.filter",)),
        ("then.batch_norm", BatchNorm, ("then.filter", *(f"then.{name}" for name in NORM)), ("output",)),
    ]


def test_a_filter_and_its_normalisation_are_judged_as_one() -> None:
    assert described(block(**FULL).merged) == [
        ("pad", Pad, ("input",), ("pad",)),
        ("batch_norm", NormedConvolution, ("pad", "weight", "bias", *NORM), ("batch_norm",)),
        ("rectify", Rectify, ("batch_norm",), ("rectify",)),
        (
            "then.batch_norm",
            NormedConvolution,
            ("rectify", "then.weight", *(f"then.{name}" for name in NORM)),
            ("output",),
        ),
    ]


def test_the_shapes_of_a_block() -> None:
    case = block(**FULL)
    assert case.tensor_shapes == {
        "input": (2, 4, 6, 7),
        "weight": (6, 4, 3, 3),
        "bias": (6,),
        **dict.fromkeys(NORM, (6,)),
        "then.weight": (6, 5, 2, 2),
        **dict.fromkeys((f"then.{name}" for name in NORM), (5,)),
    }
    assert case.result_shapes == {"output": (2, 5, 8, 6)}  # 6 + 3 rows, 7 after the first, 8 after the second
    assert case.products == sum(step.products for step in case.steps if isinstance(step, Convolution)) > 0


def test_only_the_result_is_asked_for() -> None:
    assert block(**FULL).told == ("output",)
    assert make_case("deconv_block", input=[3], pool={"kernel": 2}, kernel=2).told == ("unpool", "rectify", "output")


@pytest.mark.parametrize(
    ("keys", "ends", "value"),
    [
        ({"pad": 1}, ((1, 1), (1, 1)), 0),
        ({"pad": [1, 2]}, ((1, 1), (2, 2)), 0),
        ({"pad": [[1, 2], [-1, 0]], "pad_value": -3}, ((1, 2), (-1, 0)), -3),
        ({"pad": 0}, ((0, 0), (0, 0)), 0),
    ],
)
def test_the_spellings_of_padding(keys: dict[str, Any], ends: Any, value: float) -> None:
    assert block(**keys).stages[0].step == Pad(ends, value)


@pytest.mark.parametrize(
    ("written", "epsilon"), [(True, EPSILON), ({}, EPSILON), ({"epsilon": 0.001}, float(np.float32(0.001)))]
)
def test_epsilon_is_the_number_of_float32_in_every_format(written: Any, epsilon: float) -> None:
    for dtype in ("float32", "float64", "bfloat16"):
        (stage,) = (s for s in block(batch_norm=written, dtype=dtype).stages if isinstance(s.step, BatchNorm))
        assert stage.step == BatchNorm(epsilon)


def test_without_a_normalisation_nothing_is_merged() -> None:
    case = block(batch_norm=False, rectify="signal")
    assert case.merged == case.stages


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], list[Case]]:
    def load(text: str) -> list[Case]:
        path = tmp_path / "s.yaml"
        path.write_text(dedent(text), encoding="utf-8")
        return list(load_suite(path, "s.yaml"))

    return load


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("filter: pool", "filter: expected 'conv' or 'conv_transpose', got \"pool\""),
        ("output_padding: 1", "output_padding: expected filter: conv_transpose beside it"),
        ("output_size: 12", "output_size: expected filter: conv_transpose beside it"),
        ("output_shape: 12", "output_shape: expected filter: conv_transpose beside it"),
        ("filter: conv_transpose, output_padding: 1", "output_padding: expected less than max(stride, dilation) = 1, "
         "got 1"),
        ("filter: conv_transpose, stride: 4, auto_pad: SAME_UPPER",
         "auto_pad: expected a spelling of the size that can be read one way only"),
        ("groups: 4", "out_channels: expected a multiple of groups=4, got 6"),
        ("input: [2, 2]", "input: impossible shape: the output would be [0, 0]"),
        ("output: [6, 7]", "output: expected [4, 5] by convolution arithmetic, got [6, 7]"),
        ("relationship: 1", "relationship: unknown key; "),
        ("pad: same", 'pad: expected an integer, or one integer or [begin, end] pair per spatial axis, got "same"'),
        ("pad: [1, 1, 1]", "pad: expected 2 values, one per axis of input, got 3"),
        ("pad: [-2, [-4, -3]]", "pad: expected to keep some of the 7 rows of axis 1, got [-4, -3]"),
        ("pad: [[-6, 9], 0]", "pad: expected to keep some of the 6 rows of axis 0, got [-6, 9]"),
        ("pad_value: 1", "pad_value: expected pad beside it"),
        ("pad: 1, pad_value: 17", "pad_value: expected an integer from -16 to 16, got 17"),
        ("pad: 1, pad_value: 0.5", "pad_value: expected an integer from -16 to 16, got 0.5"),
        ("batch_norm: 1", "batch_norm: expected true, false or a mapping with epsilon, got 1"),
        ("batch_norm: {eps: 1}", "batch_norm.eps: unknown key; did you mean epsilon?"),
        ("batch_norm: {epsilon: -1}", "batch_norm.epsilon: expected a number >= 0, got -1"),
        ("batch_norm: {epsilon: 0}", "batch_norm.epsilon: expected a number > 0, at most 1, that float32 holds, "
         "got 0.0"),
        ("batch_norm: {epsilon: 2}", "batch_norm.epsilon: expected a number > 0, at most 1, that float32 holds, "
         "got 2.0"),
        ("batch_norm: {epsilon: 0.001}, data: exact",
         "data: no exact data: no variance of float32 gives a power of 4 with epsilon 0.00100000005"),
        ("dtype: float16, data: exact", "data: no exact data: float16 cannot hold the sums"),
        ("data: edge", "data: conv_block has no edge data"),
        ("rectify: both", "rectify: expected 'signal' or 'none', got \"both\""),
        ("then: 3", "then: expected a mapping with filter, "),
        ("then: {out_channels: 3}", "then.kernel: required for then"),
        ("then: {kernel: 3, strid: 2}", "then.strid: unknown key; did you mean stride?"),
        ("then: {kernel: 3, input: [3]}", "then.input: unknown key; "),
        ("then: {kernel: 5}", "then.kernel: impossible shape: the output would be [0, 1]"),
        ("then: {kernel: 1, groups: 4}", "then.groups: expected a multiple of groups=4, got 6"),
        ("then: {kernel: 1, batch_norm: 2}", "then.batch_norm: expected true, false or a mapping with epsilon, got 2"),
        ("then: {kernel: 1, pad: [1, 2, 3]}", "then.pad: expected 2 values, one per axis of input, got 3"),
        ("then: {kernel: 1, output_size: 3}", "then.output_size: expected filter: conv_transpose beside it"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_a_line(load: Callable[[str], list[Case]], keys: str, said: str) -> None:
    defaults = {"in_channels": "4", "out_channels": "6", "kernel": "3", "input": "[6, 7]"}
    more = ", ".join(f"{key}: {value}" for key, value in defaults.items() if f"{key}:" not in keys.split("then")[0])
    with pytest.raises(SpecError) as caught:
        load(f"suite: s\ncases:\n  c: {{op: conv_block, {keys}, {more}}}\n")
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"s.yaml:3: cases.c.{said}")


def test_a_block_fits_the_schema_that_editors_use() -> None:
    text = "{suite: s, cases: {c: {op: conv_block, kernel: 3, batch_norm: %s, pad: %s, then: {kernel: 1, bias: true}}}}"
    schema = suite_schema()
    for norm, pad in (("true", "1"), ("{epsilon: 0.25}", "[[1, 2], 0]")):
        jsonschema.validate(yaml.safe_load(text % (norm, pad)), schema)
    for norm, pad in (("1", "1"), ("{eps: 1}", "1"), ("true", "same")):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(text % (norm, pad)), schema)


# ---- The oracle ----


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


def test_a_normalisation_by_hand() -> None:
    """2 (5 - 3) / sqrt(3.75 + 0.25) + 1 = 3, and -1 (0 - 1) / sqrt(0.75 + 0.25) + 4 = 5."""
    z = np.array([5.0, 0.0]).reshape(1, 2, 1)
    parameters = [np.array(pair) for pair in ((2.0, -1.0), (1.0, 4.0), (3.0, 1.0), (3.75, 0.75))]
    (y,) = oracle_of(BatchNorm(0.25)).exact(BatchNorm(0.25), z, *parameters)
    np.testing.assert_array_equal(y, [[[3.0], [5.0]]])


@pytest.mark.parametrize(
    ("ends", "value", "expected"),
    [
        ((1, 2), 0.0, [0, 1, 2, 3, 0, 0]),
        ((0, 1), -4.0, [1, 2, 3, -4]),
        ((-1, 0), 0.0, [2, 3]),
        ((-2, 1), 7.0, [3, 7]),
        ((1, -2), 7.0, [7, 1]),
        ((0, 0), 7.0, [1, 2, 3]),
    ],
)
def test_padding_by_hand(ends: tuple[int, int], value: float, expected: list[float]) -> None:
    step = Pad((ends,), value)
    (y,) = oracle_of(step).exact(step, np.array([[[1.0, 2.0, 3.0]]]))
    assert y.tolist() == [[expected]]
    assert step.size((3,)) == (len(expected),)
    assert oracle_of(step).roundings(step, y) is None


@pytest.mark.parametrize(
    ("epsilon", "roots"), [(EPSILON, (-8, -7)), (0.25, (0, 1, 2, 3)), (float(np.float32(1e-3)), ())]
)
def test_which_powers_of_4_a_variance_of_float32_makes_with_epsilon(epsilon: float, roots: tuple[int, ...]) -> None:
    assert BatchNorm(epsilon).roots(FORMATS["float32"]) == roots
    for k in roots:
        variance = np.float32(4.0**k - epsilon)
        assert variance > 0
        assert variance + np.float32(epsilon) == np.float32(4.0**k)
        assert float(variance) + epsilon == 4.0**k


STEPS: dict[str, tuple[Any, tuple[tuple[int, ...], ...]]] = {
    "pad": (Pad(((1, 2), (-1, 1)), 3.0), ((2, 3, 4, 5),)),
    "batch_norm": (BatchNorm(0.25), ((2, 3, 4, 5), *[(3,)] * 4)),
    "normed": (
        NormedConvolution(make_case("conv", in_channels=3, out_channels=2, bias=True, input=[4, 5], kernel=2, batch=2),
                          BatchNorm(0.25)),
        ((2, 3, 4, 5), (2, 3, 2, 2), (2,), *[(2,)] * 4),
    ),
    "normed_transpose": (
        NormedConvolution(make_case("conv_transpose", in_channels=4, out_channels=6, groups=2, input=[4, 5], kernel=2,
                                    batch=2), BatchNorm(0.25)),
        ((2, 4, 4, 5), (4, 3, 2, 2), *[(6,)] * 4),
    ),
}  # fmt: skip


def numbers(shapes: tuple[tuple[int, ...], ...], rng: np.random.Generator) -> list[np.ndarray]:
    drawn = [rng.standard_normal(shape) for shape in shapes]
    if len(drawn) > 1:
        drawn[-1] = rng.uniform(0.1, 3, shapes[-1])  # variances
    return drawn


@pytest.mark.parametrize("name", STEPS)
def test_no_error_grows_beyond_what_is_passed_on(name: str) -> None:
    step, shapes = STEPS[name]
    oracle = oracle_of(step)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        fed = numbers(shapes, rng)
        error = 0.1 * np.abs(rng.standard_normal(shapes[0]))
        moved = fed[0] + error * rng.choice([-1, 1], error.shape)
        change = np.abs(oracle.exact(step, moved, *fed[1:])[0] - oracle.exact(step, *fed)[0])
        largest = oracle.passed_on(step, error, *fed)
        assert (change <= largest * (1 + 1e-12) + 1e-12).all()
        assert (change > 0.3 * largest).any()


@pytest.mark.parametrize("name", STEPS)
def test_variances_are_those_of_independent_errors(name: str) -> None:
    step, shapes = STEPS[name]
    rng = np.random.default_rng(0)
    fed = numbers(shapes, rng)
    variance = rng.random(shapes[0])
    passed = oracle_of(step).passed_on(step, variance, *fed, squared=True)
    base = oracle_of(step).exact(step, *fed)[0]
    total = np.zeros(base.shape)
    for at in np.ndindex(shapes[0]):  # the square of every element of the Jacobian
        moved = fed[0].copy()
        moved[at] += 1
        total += variance[at] * np.square(oracle_of(step).exact(step, moved, *fed[1:])[0] - base)
    np.testing.assert_allclose(passed, total, rtol=1e-9, atol=1e-9)


def test_a_merged_step_gives_what_its_two_steps_give() -> None:
    for name in ("normed", "normed_transpose"):
        step, shapes = STEPS[name]
        fed = numbers(shapes, np.random.default_rng(0))
        count = len(step.convolution.tensor_shapes)
        (z,) = oracle_of(step.convolution).exact(step.convolution, *fed[:count])
        (y,) = oracle_of(step.norm).exact(step.norm, z, *fed[count:])
        np.testing.assert_array_equal(oracle_of(step).exact(step, *fed)[0], y)


# ---- Numbers ----


def any_block(rng: np.random.Generator, id: str, dtype: str = "float32") -> ConvBlock | None:
    """One filter or two, with anything around them; None where their sizes do not fit."""

    def one(*choices: Any) -> Any:
        return choices[int(rng.integers(len(choices)))]

    rank = one(1, 2, 2, 2, 3)

    def keys(groups: int) -> dict[str, Any]:
        made = {
            "filter": one("conv", "conv_transpose"),
            "kernel": one(1, 2, 3, 3, 4) if rank < 3 else one(1, 2),
            "groups": groups,
            "bias": bool(rng.integers(2)),
            "stride": one(1, 2),
            "dilation": one(1, 1, 2),
            "padding": one(0, [[0, 1]] * rank),
            "rectify": one("signal", "none"),
        }
        if rng.integers(5):
            made["batch_norm"] = {"epsilon": one(1e-5, 0.25, 1e-3, 0.0009765625)}
        if rng.integers(2):
            made |= {"pad": [one([1, 2], [0, 1], [2, -1]) for _ in range(rank)], "pad_value": one(0, 0, 3, -2)}
        return made

    first, second = one(1, 1, 2, 3), one(1, 2)
    made = keys(first) | {
        "in_channels": one(1, 2, 3, 8) * first,
        "out_channels": one(1, 2, 4) * first * second,
        "input": [int(rng.integers(5, 9)) for _ in range(rank)],
        "batch": one(1, 2),
        "dtype": dtype,
    }
    if rng.integers(2):
        made["then"] = keys(second) | {"out_channels": one(1, 3) * second}
    try:
        return block(id, **made)
    except KeyedError:
        return None


def any_problem(data: str, dtype: str, first: int, count: int) -> Iterator[tuple[int, ChainProblem]]:
    for number in range(first, first + count):
        case = any_block(np.random.default_rng(number), f"t/{number}", dtype)
        if case is not None and data in case.data:
            yield number, posed(case, data, number)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exact_data_comes_out_bit_for_bit_whatever_is_folded(dtype: str) -> None:
    """In two thousand blocks of each kind nobody was accused."""
    count = 0
    for number, problem in any_problem("exact", dtype, 0, 120):
        for merged in (False, True):
            values = walked(problem.case, problem.tensors, number, merged=merged)
            assert judged(problem, values).verdict == "exact", problem.case
            count += 1
        one_off = np.nextafter(values["output"], np.inf).astype(values["output"].dtype)
        assert judged(problem, {"output": one_off}).failed
    assert count > 120


def test_exact_data_have_whole_rates_that_differ_between_channels() -> None:
    problem = posed(block(batch_norm=True, out_channels=30))
    t = problem.tensors
    rates = batch_norm.rates(BatchNorm(EPSILON), t["scale"], t["variance"])
    assert set(np.abs(rates)) == {1, 2, 3}
    assert set(np.sign(rates)) == {-1, 1}
    assert len(set(t["variance"].tolist())) == 2
    assert t["mean"].any()
    assert t["shift"].any()


def test_no_sum_of_exact_data_exceeds_24_bits_however_stages_are_computed_in_one_another() -> None:
    """Absolute values all the way, the second filter applied to what the first sums before anything cancels."""
    wide = block(in_channels=48, out_channels=48, batch_norm=True, then={"kernel": 3, "out_channels": 2})
    for case in (wide, *suite()):
        if "exact" not in case.data or not case.batch:
            continue
        tensors = {name: np.abs(array) for name, array in posed(case).tensors.items()}
        values: dict[str, np.ndarray] = dict(tensors)
        for stage in case.stages:
            fed = [values[name].astype(np.float64) for name in stage.reads]
            if isinstance(stage.step, BatchNorm):
                fed[3] = -fed[3]  # so that the mean is added
            values[stage.gives[0]] = np.abs(oracle_of(stage.step).exact(stage.step, *fed)[0])
        assert values["output"].max() <= 2.0 ** FORMATS[case.dtype].precision, case.id


def test_rounding_data_have_the_variances_and_scales_of_a_trained_network() -> None:
    t = posed(block(batch_norm=True, out_channels=400), "rounding").tensors
    assert 0.25 <= t["variance"].min() < 0.4
    assert 3 < t["variance"].max() <= 4
    assert np.abs(t["scale"]).min() >= 0.5
    assert np.abs(t["scale"]).max() <= 1.5
    assert 0.3 < t["mean"].std() < 0.7
    assert 0.3 < t["shift"].std() < 0.7


# ---- Honest implementations are never accused ----


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_no_honest_way_to_fold_is_accused(dtype: str) -> None:
    """In 29000 blocks of the three formats the largest usage of the gates was 0.988 and 0.58; in float32 0.40."""
    seen: Counter[str] = Counter()
    for number, problem in any_problem("rounding", dtype, 0, 100):
        for merged in (False, True):
            judgement = judged(problem, walked(problem.case, problem.tensors, number, merged=merged))
            assert not judgement.failed, (problem.case, merged, judgement)
            assert (judgement.rms_usage or 0) < 0.8
            seen[judgement.verdict] += 1
        told = judge(problem, returned(walked(problem.case, problem.tensors, number)))
        assert not told.failed, (problem.case, told)
    assert seen["within_bound"] > 100


def cancelling() -> tuple[ChainProblem, dict[str, np.ndarray]]:
    """Two products that cancel up to one part in 2**20, and what folding makes of them, weights rounded."""
    case = block(in_channels=2, out_channels=1, kernel=1, input=[40], batch=1, batch_norm={"epsilon": 0.25})
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 2, (1, 1, 40)).astype(np.float32)
    tensors = {
        "input": np.concatenate([x, x], axis=1),
        "weight": np.array([1.0, -1 - 2.0**-20], np.float32).reshape(1, 2, 1),
        "scale": np.array([1.1], np.float32),
        "shift": np.zeros(1, np.float32),
        "mean": np.zeros(1, np.float32),
        "variance": np.array([0.7], np.float32),
    }
    problem = ChainProblem(case, "rounding", tensors, walk_of(case, tensors))
    r = tensors["scale"] / np.sqrt(tensors["variance"] + np.float32(0.25))
    folded = tensors["weight"] * r
    return problem, {"output": x * folded[0, 0] + x * folded[0, 1]}


def walk_of(case: ConvBlock, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    from conformance.oracle.chains import walk

    return walk(case.stages, tensors)


def test_a_folded_weight_may_cost_what_a_product_does_where_the_products_cancel() -> None:
    problem, folded = cancelling()
    error = np.abs(folded["output"] - problem.exact).max()
    assert error > 1e-2 * np.abs(problem.exact).max()  # relative to what comes out it is off by a hundredth
    assert judged(problem, folded).verdict == "within_bound"


def test_it_is_no_excuse_for_more_than_that() -> None:
    problem, folded = cancelling()
    off = {"output": problem.exact + 40 * (folded["output"] - problem.exact)}
    assert judged(problem, {"output": off["output"].astype(np.float32)}).failed


def test_the_bound_of_a_folded_filter_is_that_of_its_terms() -> None:
    """k = n + 9 roundings of M = |r| (A + |mean|) + |shift|, by hand for one product and a bias: n is 2, and 1 more."""
    step = NormedConvolution(make_case("conv", bias=True, input=[1], kernel=1), BatchNorm(0.25))
    fed = [np.array(v, np.float64) for v in ([[[3.0]]], [[[-2.0]]], [1.0], [4.0], [-5.0], [6.0], [3.75])]
    roundings = oracle_of(step).roundings(step, *fed)
    assert roundings is not None
    assert roundings.magnitude.tolist() == [[[2 * (6 + 1 + 6) + 5.0]]]
    assert roundings.products.ravel().tolist() == [3]
    assert roundings.stored == 11


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """To so many significant bits."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 2.0**bits) / 2.0**bits, exponent).astype(x.dtype)


def in_fewer_bits(problem: ChainProblem, bits: int) -> dict[str, np.ndarray]:
    """What comes out if every filter rounds its operands."""

    def coarse(step: Any, fed: list[np.ndarray], _: Any) -> tuple[np.ndarray]:
        named = dict(zip(("input", "weight", "bias"), fed, strict=False))
        named |= {name: rounded(named[name], bits) for name in ("input", "weight")}
        return (OPERATORS[step.op].output(step, named).astype(np.float32),)

    return walked(problem.case, problem.tensors, wrong=dict.fromkeys(("filter", "then.filter"), coarse))


@pytest.mark.parametrize(("bits", "name"), [(11, "tf32"), (8, "bfloat16-operands")])
def test_operands_of_fewer_bits_are_named(bits: int, name: str) -> None:
    problem = posed(block(batch_norm=True, bias=True, in_channels=8, rectify="signal"), "rounding")
    values = in_fewer_bits(problem, bits)
    judgement = judged(problem, values)
    assert (judgement.verdict, judgement.arithmetic) == ("reduced", name)
    assert judged(problem, values, name).verdict == "within_bound"


def test_who_promises_fewer_bits_may_round_exact_data_and_nobody_else() -> None:
    """What the second filter is fed needs more than 11 bits."""
    problem = posed(block(batch_norm=True, in_channels=8, then={"kernel": 3, "out_channels": 3}))
    values = in_fewer_bits(problem, 11)
    assert judged(problem, values).verdict == "deviates"
    assert judged(problem, values, "tf32").verdict == "within_bound"
    assert judged(problem, walked(problem.case, problem.tensors), "tf32").verdict == "exact"
    assert judged(problem, {"output": 1.1 * values["output"]}, "tf32").failed


def test_in_16_bits_folded_weights_may_be_stored_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = posed(block(batch_norm=True, in_channels=32, dtype="bfloat16", bias=True), "rounding")
    folded = walked(problem.case, problem.tensors, merged=True)
    assert judged(problem, folded).verdict == "within_bound"
    monkeypatch.setattr(batch_norm, "STORED", 0)
    assert judged(posed(problem.case, "rounding"), folded).failed


# ---- Frameworks ----


def make_torch() -> Any:
    from conformance.targets.torch_targets import Torch

    return Torch()


def make_tensorflow() -> Any:
    from conformance.targets.tensorflow_target import TensorFlow

    return TensorFlow()


def make_keras() -> Any:
    from conformance.targets.keras_targets import KerasLayers

    return KerasLayers(backend="tensorflow")


def make_keras_ops() -> Any:
    from conformance.targets.keras_targets import KerasOps

    return KerasOps(backend="tensorflow")


def make_jax() -> Any:
    pytest.importorskip("jax")
    from conformance.targets.jax_target import Jax

    return Jax()


def make_reference() -> Any:
    from conformance.targets.onnx_reference import OnnxReference

    return OnnxReference()


def make_onnxruntime(level: str = "all") -> Any:
    from conformance.targets.onnxruntime_target import OnnxRuntime

    return OnnxRuntime(optimization=level)


TARGETS: dict[str, Callable[[], Any]] = {
    "torch": make_torch,
    "tensorflow": make_tensorflow,
    "keras": make_keras,
    "keras-ops": make_keras_ops,
    "jax": make_jax,
    "onnx-reference": make_reference,
    "onnxruntime": make_onnxruntime,
    **{f"onnxruntime-{level}": functools.partial(make_onnxruntime, level) for level in ("off", "basic", "extended")},
}
everywhere = pytest.mark.parametrize("name", TARGETS)
quiet = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@functools.cache
def target(name: str) -> Any:
    return TARGETS[name]()


def by_hand(**keys: Any) -> dict[str, np.ndarray]:
    return {name: np.array(value, np.float32) for name, value in keys.items()}


@quiet
@everywhere
def test_a_block_by_hand(name: str) -> None:
    """[1, 2] padded to [7, 1, 2], summed in pairs to [8, 3]; 1 more, 2 (z - 5) / 2 + 1, rectified: [5, 0]."""
    case = block(in_channels=1, out_channels=1, batch=1, input=[2], kernel=2, pad=[[1, 0]], pad_value=7, bias=True,
                 batch_norm={"epsilon": 0.25}, rectify="signal")  # fmt: skip
    tensors = by_hand(
        input=[[[1, 2]]], weight=[[[1, 1]]], bias=[1], scale=[2], shift=[1], mean=[5], variance=[3.75]
    )  # fmt: skip
    results = target(name).run(case, tensors)
    assert {key: array.tolist() for key, array in results.items()} == {"output": [[[5, 0]]]}


@quiet
@everywhere
@pytest.mark.parametrize("filter", ["conv", "conv_transpose"])
def test_every_framework_gives_what_the_oracle_gives(name: str, filter: str) -> None:
    case = block(filter=filter, input=[4, 5], kernel=[2, 3], stride=2, bias=True, pad=[[1, 0], [0, 2]],
                 batch_norm=True, rectify="signal", then={"kernel": 2, "out_channels": 3, "pad": 1, "pad_value": 2,
                                                         "batch_norm": {"epsilon": 0.25}})  # fmt: skip
    verdicts = {}
    for data in case.data:
        problem = posed(case, data)
        results = target(name).run(case, problem.tensors)
        assert list(results) == ["output"]
        verdicts[data] = judge(problem, Outcome("returned", results), target(name).arithmetic).verdict
    assert verdicts["exact"] == "exact"
    assert verdicts["rounding"] in ("exact", "within_bound")


@quiet
@pytest.mark.parametrize("name", [name for name in TARGETS if name != "onnx-reference"])
def test_rows_are_dropped_as_they_are_added(name: str) -> None:
    case = block(in_channels=1, out_channels=1, batch=1, input=[4], kernel=1, pad=[[-1, 2]], pad_value=-3)
    tensors = by_hand(input=[[[1, 2, 3, 4]]], weight=[[[10]]])
    assert target(name).run(case, tensors)["output"].tolist() == [[[20, 30, 40, -30, -30]]]


@pytest.mark.parametrize("name", ["torch", "onnxruntime", "onnxruntime-off", "onnxruntime-extended"])
def test_the_suite_comes_out_bit_for_bit(name: str) -> None:
    verdicts: Counter[str] = Counter()
    for case in suite():
        if "exact" not in case.data:
            continue
        problem = posed(case)
        try:
            outcome = Outcome("returned", target(name).run(case, problem.tensors))
        except Unsupported:
            continue
        verdicts[judge(problem, outcome, target(name).arithmetic).verdict] += 1
    assert verdicts.keys() == {"exact"}
    assert verdicts["exact"] > 140


# ---- What onnxruntime makes of the graphs ----

LEVELS = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
BLOCKED = "com.microsoft.nchwc"


def model_of(case: ConvBlock) -> Any:
    """The ``ModelProto`` that a target feeds to its runtime."""
    from conformance.targets.onnx_chain import OnnxSteps

    made: list[Any] = []

    def run(model: Any, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        made.append(model)
        return [np.zeros(case.result_shapes["output"], np.float32)]

    run_chain(case, posed(case).tensors, OnnxSteps(case, make_onnxruntime().opset, run))
    return made[0]


@functools.cache
def optimised(case_id: str, level: str) -> tuple[Any, ...]:
    """The nodes of the graph that onnxruntime runs, in order."""
    import tempfile

    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        options = runtime.SessionOptions()
        options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, LEVELS[level])
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        model = model_of(next(case for case in suite() if case.id == case_id))
        runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return tuple(onnx.load(options.optimized_model_filepath).graph.node)


def operators(case_id: str, level: str) -> list[str]:
    return [node.op_type for node in optimised(case_id, level)]


def fusible() -> list[ConvBlock]:
    """The cases in float32 with an image that ONNX can say."""
    words = {"same", "valid"}
    cases = [case for case in suite() if case.dtype == "float32" and case.batch and "exact" in case.data]
    return [case for case in cases if not any(b.filter.padding in words for b in case.blocks)]


def test_the_graph_has_one_result_and_its_parameters_inside() -> None:
    model = model_of(block(**FULL))
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["output"]
    assert {"weight", "bias", *NORM} <= {tensor.name for tensor in model.graph.initializer}
    assert [node.op_type for node in model.graph.node] == [
        "Pad", "Conv", "BatchNormalization", "Relu", "ConvTranspose", "BatchNormalization"
    ]  # fmt: skip


def test_without_optimisation_every_step_is_a_node() -> None:
    for case in fusible():
        count = Counter(operators(case.id, "off"))
        steps = Counter(type(step) for step in case.steps)
        assert count["BatchNormalization"] == steps[BatchNorm]
        assert count["Relu"] == steps[Rectify]
        assert count["Pad"] == steps[Pad]
        assert count["Conv"] + count["ConvTranspose"] == steps[Convolution]


def test_normalisations_are_folded_into_convolutions() -> None:
    folded = 0
    for case in fusible():
        if any(b.batch_norm for b in case.blocks) and all(b.filter.op == "conv" for b in case.blocks):
            assert "BatchNormalization" not in operators(case.id, "basic"), case.id
            folded += 1
    assert folded > 60


def test_normalisations_are_folded_into_transposed_convolutions_too() -> None:
    if tuple(map(int, target("onnxruntime").environment()["onnxruntime"].split(".")[:2])) < (1, 31):
        pytest.skip("onnxruntime folds them into convolutions only before 1.31")
    cases = [case for case in fusible() if case.blocks[0].filter.op == "conv_transpose" and case.blocks[0].batch_norm]
    assert sum(case.blocks[0].filter.groups > 1 for case in cases) > 5
    for case in cases:
        assert "BatchNormalization" not in operators(case.id, "basic"), case.id


def test_rectifiers_become_the_end_of_convolutions() -> None:
    fused = 0
    for case in fusible():
        rectified = [b for b in case.blocks if b.rectify and b.filter.op == "conv"]
        nodes = optimised(case.id, "extended")
        activations = [node for node in nodes if any(a.name == "activation" for a in node.attribute)]
        assert len(activations) == len(rectified), case.id
        fused += len(activations)
    assert fused > 70


def foldable(pad: Pad, filter: Convolution) -> bool:
    plain = pad.value == 0 and min(map(min, pad.ends)) >= 0
    return filter.op == "conv" and plain and filter.auto_pad in (None, "NOTSET")


def test_padding_is_folded_where_it_can_be_and_nowhere_else() -> None:
    seen: Counter[bool] = Counter()
    for case in fusible():
        pads = [foldable(b.pad, b.filter) or not any(map(any, b.pad.ends)) for b in case.blocks if b.pad]
        assert operators(case.id, "basic").count("Pad") == pads.count(False), case.id
        seen.update(pads)
    assert seen[True] > 10
    assert seen[False] > 25


def test_blocked_layouts_are_used_and_stay_across_two_filters() -> None:
    """Between a reordering at the beginning and one at the end there are two convolutions, and nothing else."""
    blocked = [case for case in fusible() if any(node.domain == BLOCKED for node in optimised(case.id, "all"))]
    if not blocked:
        pytest.skip("onnxruntime has no blocked layout on this processor")
    assert len(blocked) > 20
    inside = ["ReorderInput", "Conv", "Conv", "ReorderOutput"]
    assert sum(operators(case.id, "all") == inside for case in blocked) >= 4
    assert any(math.gcd(b.filter.out_channels, 8) < 8 for case in blocked for b in case.blocks)


# ---- The suite ----


def test_the_suite_reaches_the_corners() -> None:
    cases, filters = suite(), [b.filter for case in suite() for b in case.blocks]
    assert 120 <= len(cases) <= 180
    assert sum(case.products for case in cases) < 10e6
    assert {case.batch for case in cases} == {0, 1, 2, 3}
    assert {case.dtype for case in cases} == {"float16", "bfloat16", "float32", "float64"}
    assert {filter.rank for filter in filters} == {1, 2, 3}
    assert {filter.op for filter in filters} == {"conv", "conv_transpose"}
    transposed = [b for case in cases for b in case.blocks if b.filter.op == "conv_transpose" and b.batch_norm]
    assert any(b.filter.groups > 1 and b.filter.in_channels != b.filter.out_channels for b in transposed)
    assert any(b.filter.in_channels == b.filter.out_channels > b.filter.groups for b in transposed)
    assert any(begin != end for b in transposed for begin, end in b.filter.crop)
    assert any(filter.groups == filter.in_channels > 1 for filter in filters)
    assert any(max(filter.kernel) == 1 for filter in filters)
    assert {8, 16, 24, 32} <= {filter.out_channels for filter in filters}
    pads = [b.pad for case in cases for b in case.blocks if b.pad]
    assert any(pad.value for pad in pads)
    assert any(min(map(min, pad.ends)) < 0 for pad in pads)
    assert {len(case.blocks) for case in cases} == {1, 2}
