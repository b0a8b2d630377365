"""Verdicts on chains: honest walkers are never accused, and of dishonest ones the first wrong stage is named."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from walkers import ADAPTIVE, BLOCK, NETS, RELU, Arrays, make_case, net, returned, walked

from conformance.dtypes import FORMATS, round_once
from conformance.oracle import pooling
from conformance.oracle.bounds import ARITHMETICS, gamma
from conformance.oracle.chains import walk
from conformance.oracle.steps import oracle_of
from conformance.outcome import Outcome
from conformance.problem import ChainProblem, pose
from conformance.spec import Chain, Convolution, MaxPool, MaxUnpool, Vectors, is_index
from conformance.verdict import Judgement, judge, judge_published, judge_stages, steps, whole

Values = Mapping[str, np.ndarray]


def posed(case: Chain, data: str = "rounding", seed: int = 0) -> ChainProblem:
    problem = pose(case, data, seed)
    assert isinstance(problem, ChainProblem)
    return problem


def with_numbers(case: Chain, data: str = "rounding", **tensors: Any) -> ChainProblem:
    """A problem with these tensors; ``_`` stands for the dot in their names."""
    dtype = FORMATS[case.dtype].dtype
    shapes = case.tensor_shapes
    named = {name: tensors[name.replace(".", "_")] for name in shapes}
    made = {n: np.array(t, np.int64 if is_index(n) else dtype).reshape(shapes[n]) for n, t in named.items()}
    with np.errstate(invalid="ignore"):
        return ChainProblem(case, data, made, walk(case.stages, made))


def judged(problem: ChainProblem, values: Mapping[str, Any], promised: str = "native") -> Judgement:
    return judge(problem, returned(values), promised)


def opaque(values: Values) -> dict[str, np.ndarray]:
    return {"output": values["output"]}


def fresh(problem: ChainProblem) -> ChainProblem:
    """The same problem, of which nothing has been judged."""
    return replace(problem, judged={})


def any_chain(rng: np.random.Generator, id: str, dtype: str = "float32", nets: Sequence[str] = tuple(NETS)) -> Chain:
    """A net, a block, an adaptive network, a pooling or an unpooling, with any policies."""

    def one(*words: str) -> str:
        return str(rng.choice(words))

    kind = one(*nets, *nets, "block", "adaptive", "pool", "unpool")
    policies = {"overlap": one("sum", "assign", "mean"), "rectify": one("signal", "mask", "both", "none")}
    if kind in NETS:
        more = {"isolate": one("unit", "channel", "none"), "seed": one("activation", "one")}
        down = {"lrn_down": one("identity", "gradient", "forward"), "bias_down": one("none", "below")}
        return net(kind, id, dtype=dtype, **policies, **more, **down)
    if kind == "block":
        return make_case("deconv_block", id, **BLOCK, **policies, dtype=dtype)
    if kind == "adaptive":
        words = {"direction": one("reconstruct", "project"), "switches": one("given", "pooled")}
        return make_case("adaptive_deconv", id, **ADAPTIVE, **words, overlap=policies["overlap"], dtype=dtype)
    sizes = {"kernel": [3, 2], "stride": [1, 2], "padding": 1, "batch": 2, "channels": 3, "dtype": dtype}
    if kind == "pool":
        return make_case("max_pool", id, input=[5, 6], magnitude=bool(rng.integers(2)), **sizes)
    return make_case("max_unpool", id, input=[4, 3], overlap=policies["overlap"], **sizes)


# ---- Honest walkers are never accused ----


@pytest.mark.parametrize("part", range(4))
def test_a_naive_walker_is_never_accused(part: int) -> None:
    """400 chains in float32, all stages told or none.  Largest usage of the gates in 3000 of them: 0.9977 and 0.38."""
    seen: Counter[str] = Counter()
    for number in range(100):
        rng = np.random.default_rng(1000 * part + number)
        case = any_chain(rng, f"t/{part}-{number}")
        problem = posed(case, "rounding", number)
        values = walked(case, problem.tensors, number)
        told = judged(problem, values)
        assert not told.failed, (case, told)
        assert (told.rms_usage or 0) < 0.7, (case, told)
        seen[told.verdict] += 1
        if "indices" not in case.result_shapes:
            alone = judged(problem, opaque(values))
            assert not alone.failed, (case, alone)
            seen[f"alone {alone.verdict}"] += 1
    assert seen["within_bound"] > 40
    assert seen["alone within_bound"] > 60
    assert not {"error", "reduced", "deviates"} & set(seen)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_walker_of_16_bits_that_tells_its_stages_is_never_accused(dtype: str) -> None:
    """Sums in float32; what is unpooled may be added in 16 bits."""
    for number in range(100):
        case = any_chain(np.random.default_rng(number), f"t/{number}", dtype)
        problem = posed(case, "rounding", number)
        sums = FORMATS[dtype].dtype if isinstance(case, MaxUnpool) else np.float32
        assert not (told := judged(problem, walked(case, problem.tensors, number, sums=sums))).failed, (case, told)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exact_data_has_to_come_out_bit_for_bit(dtype: str) -> None:
    seen: Counter[str] = Counter()
    for number in range(150):
        case = any_chain(np.random.default_rng(number), f"t/{number}", dtype, "ABCDF")
        problem = posed(case, "exact", number)
        values = walked(case, problem.tensors, number)
        told = judged(problem, values)
        alone = told if isinstance(case, MaxPool) else judged(problem, opaque(values))
        if not problem.nothing_rounds:
            assert not told.failed, (case, told)
            assert alone.passed, (case, alone)
            continue
        assert told.verdict == "exact" or "assigned" in told.diagnosis, (case, told)
        assert alone.verdict in ("exact", told.verdict), (case, alone)
        seen[told.verdict] += 1
        up = np.nextafter(values["output"], np.inf).astype(values["output"].dtype)
        assert judged(problem, {**values, "output": up}).failed, case
    assert seen["exact"] > 50


def test_whole_numbers_do_not_make_a_normalisation_exact() -> None:
    case = net("E", lrn_down="gradient")
    rng = np.random.default_rng(0)
    numbers = {n.replace(".", "_"): rng.integers(-2, 3, shape) for n, shape in case.tensor_shapes.items()}
    problem = with_numbers(case, "exact", **numbers)
    values = walked(case, problem.tensors)
    assert judged(problem, values).verdict == "within_bound"
    assert judged(problem, opaque(values)).verdict == "within_bound"


def test_the_order_of_what_is_returned_and_its_layout_in_memory_do_not_matter() -> None:
    problem = posed(net("C"))
    values = walked(problem.case, problem.tensors)
    backwards = {name: np.asfortranarray(values[name]) for name in reversed(values)}
    strided = {name: np.repeat(value, 2, axis=-1)[..., ::2] for name, value in values.items()}
    expected = judged(problem, values)
    assert expected.verdict == "within_bound"
    for same in (backwards, strided):
        assert judged(fresh(problem), same) == expected


def test_tensors_that_nobody_asked_for_are_passed_over() -> None:
    problem = posed(net("C"))
    values = walked(problem.case, problem.tensors)
    more = {**values, "attention": np.zeros(3), "output2": "no array at all", "conv9": values["conv1"]}
    assert judged(problem, more) == judged(fresh(problem), values)


# ---- The first wrong stage is named ----


def spoilt(_: Any, __: list[np.ndarray], given: Arrays) -> Arrays:
    """The largest number of what a stage gives is a little larger."""
    values = given[0].copy()
    at = np.unravel_index(np.abs(values).argmax(), values.shape)
    values[at] = values[at] * values.dtype.type(1.0625) if values[at] else 1
    return (values, *given[1:])


def chains_to_spoil() -> Iterator[Chain]:
    yield net("A", "t/A", rectify="mask", bias_down="below")
    yield net("C", "t/C")
    yield net("E", "t/E", lrn_down="gradient", rectify="both")
    yield net("E", "t/E", lrn_down="forward", isolate="channel", overlap="mean")
    yield net("F", "t/F", overlap="assign", seed="one", isolate="none")
    yield make_case("deconv_block", "t/block", **BLOCK, rectify="both")
    yield make_case("adaptive_deconv", "t/adaptive", **ADAPTIVE, switches="pooled")
    yield make_case("adaptive_deconv", "t/adaptive", **ADAPTIVE, direction="project")


@pytest.mark.parametrize("data", ["rounding", "exact"])
def test_whichever_stage_is_wrong_is_named(data: str) -> None:
    for case in chains_to_spoil():
        if data not in case.data:
            continue
        problem = posed(case, data)
        for stage in case.stages:
            values = walked(case, problem.tensors, 1, wrong={stage.name: spoilt})
            told = judged(problem, values)
            assert (told.verdict, told.diagnosis) == ("deviates", f"first wrong stage: {stage.name}"), (case, told)
            assert told.message.startswith("at ["), told


def test_only_the_wrong_stage_is_wrong_by_itself() -> None:
    """What follows is right for what it is fed."""
    for case in chains_to_spoil():
        problem = posed(case)
        for stage in case.stages:
            values = walked(case, problem.tensors, 1, wrong={stage.name: spoilt})
            each = dict(judge_stages(problem, returned(values)))
            if isinstance(stage.step, MaxPool):  # what comes after reads switches that are not to be trusted
                assert each.keys() < {s.name for s in case.stages}
            else:
                assert list(each) == [s.name for s in case.stages]
            assert [name for name, judgement in each.items() if judgement.failed] == [stage.name], (case, each)


def test_of_several_wrong_stages_the_first_is_named() -> None:
    problem = posed(net("F"))
    names = [stage.name for stage in problem.case.stages]
    for first, second in itertools.pairwise(names):
        values = walked(problem.case, problem.tensors, 1, wrong=dict.fromkeys((first, second), spoilt))
        assert judged(problem, values).diagnosis == f"first wrong stage: {first}"


def test_a_wrong_result_alone_does_not_pass() -> None:
    """An opaque target makes the mistake; which stage it was, nobody knows."""
    for case in chains_to_spoil():
        problem = posed(case)
        right = walked(case, problem.tensors, 1)["output"]
        for stage in case.stages:
            values = walked(case, problem.tensors, 1, wrong={stage.name: turned})
            if np.abs(values["output"] - right).max() > 1e-3:
                told = judged(problem, opaque(values))
                if getattr(case, "overlap", "") == "assign":  # where values contend, what stays is open
                    assert not told.passed, (case, stage.name, told)
                else:
                    assert (told.verdict, told.diagnosis) == ("deviates", ""), (case, stage.name, told)


def turned(_: Any, __: list[np.ndarray], given: Arrays) -> Arrays:
    return (np.flip(given[0], -1).copy(), *given[1:])


def test_a_single_element_is_held_to_its_own_bound() -> None:
    """Of ten thousand elements one is off by twice its bound, which does not show in their mean."""
    layers = [{"conv": 2, "kernel": 3}]
    case = make_case("deconvnet", "t/one", in_channels=1, input=[100, 100], layers=layers, isolate="none")
    problem = posed(case)
    values = opaque(walked(case, problem.tensors))
    at = tuple(int(i) for i in np.unravel_index(np.abs(values["output"]).argmin(), values["output"].shape))
    right, far = values["output"].copy(), values["output"].copy()
    far[at] = problem.exact[at] + 2.0**-10
    unit = 2.0**-10 / (judged(problem, {"output": far}).bound_usage or 0)
    right[at], far[at] = problem.exact[at] + 0.9 * unit, problem.exact[at] + 2 * unit
    assert judged(problem, {"output": right}).verdict == "within_bound"
    told = judged(problem, {"output": far})
    assert (told.verdict, told.bound_usage) == ("deviates", pytest.approx(2, rel=1e-3))
    assert (told.rms_usage or 9) < 1
    assert told.message.startswith(f"at [{','.join(map(str, at))}] got ")


def test_a_result_that_is_not_that_of_the_stages_is_the_last_stages_fault() -> None:
    for case in chains_to_spoil():
        problem = posed(case)
        values = walked(case, problem.tensors)
        other = walked(case, problem.tensors, wrong={case.stages[len(case.stages) // 2].name: turned})["output"]
        told = judged(problem, {**values, "output": other * np.float32(1.01)})
        assert told.diagnosis == f"first wrong stage: {case.stages[-1].name}"


def test_a_chain_of_one_stage_has_no_first_wrong_one() -> None:
    problem = posed(make_case("max_unpool", input=[3], kernel=2))
    values = walked(problem.case, problem.tensors, wrong={"output": spoilt})
    told = judged(problem, values)
    assert (told.verdict, told.diagnosis) == ("deviates", "")


BIASED: dict[str, Any] = {
    "in_channels": 4,
    "input": [9, 9],
    "layers": [{"conv": 4, "kernel": 3, "bias": False}, {"conv": 4, "kernel": 3, "bias": False}] * 2,
    "isolate": "none",
}


def test_errors_of_one_sign_that_every_stage_may_make_are_too_much_together() -> None:
    """Each stage is off by nearly what independent roundings come to; but they are not independent, and add up."""
    layers = [dict(layer, name=f"conv{n}") for n, layer in enumerate(BIASED["layers"])]
    case = make_case("deconvnet", **{**BIASED, "layers": layers})
    rng = np.random.default_rng(0)
    problem = with_numbers(
        case, **{n.replace(".", "_"): rng.uniform(0.5, 1, shape) for n, shape in case.tensor_shapes.items()}
    )

    def drifting(step: Convolution, fed: list[np.ndarray], _: Arrays) -> Arrays:
        roundings = oracle_of(step).roundings(step, *fed)
        value = oracle_of(step).exact(step, *fed)[0]
        assert roundings is not None
        n, a = roundings.products, roundings.magnitude
        return ((value + 0.9 * ARITHMETICS["float32"].scale(n, a, value)).astype(np.float32),)

    honest = walked(case, problem.tensors)
    assert judged(problem, honest).verdict == "within_bound"
    down = {stage.name: drifting for stage in case.stages if stage.name.startswith("down")}
    values = walked(case, problem.tensors, wrong=down)
    assert all(judgement.passed for _, judgement in judge_stages(problem, returned(values)))
    told = judged(problem, values)
    assert told.verdict == "deviates"
    assert told.diagnosis == "every stage is right on what it was said to be fed, but the result is not theirs"
    assert (told.bound_usage or 9) < 1 < (told.rms_usage or 0)
    assert judged(problem, opaque(values)).diagnosis == ""


# ---- What is not there, or not what it should be ----


def test_a_missing_result_is_an_error() -> None:
    problem = posed(net("C"))
    values = walked(problem.case, problem.tensors)
    del values["output"]
    told = judged(problem, values)
    assert (told.verdict, told.message) == ("error", "returned no array named output")
    pool = posed(make_case("max_pool", input=[4], kernel=2))
    told = judged(pool, opaque(walked(pool.case, pool.tensors)))
    assert (told.verdict, told.message) == ("error", "returned no array named indices")


@pytest.mark.parametrize("name", ["conv1", "pool1", "pool1.indices", "seed", "down.pool1", "output"])
def test_what_has_not_the_right_shape_or_type_or_is_no_array_is_named(name: str) -> None:
    problem = posed(net("C"))
    values = walked(problem.case, problem.tensors)
    stage = next(stage.name for stage in problem.case.stages if name in stage.gives)
    right = values[name]
    n, c, h, w = right.shape
    wide = "float64" if right.dtype == np.float32 else "int32"
    for wrong, verdict, message in (
        (right[:, :, 1:], "wrong_shape", f"expected {n}x{c}x{h}x{w}, got {n}x{c}x{h - 1}x{w}"),
        (right[0], "wrong_shape", f"expected {n}x{c}x{h}x{w}, got {c}x{h}x{w}"),
        (right[0, 0, 0, 0, ...], "wrong_shape", f"expected {n}x{c}x{h}x{w}, got a scalar"),
        (right.astype(wide), "wrong_dtype", f"expected {right.dtype}, got {wide}"),
        (
            right.astype(right.dtype.newbyteorder()),
            "wrong_dtype",
            f"expected {right.dtype}, got >{right.dtype.str[1:]}",
        ),
        (right.tolist(), "error", f"returned no array named {name}"),
        (None, "error", f"returned no array named {name}"),
    ):
        told = judged(problem, {**values, name: wrong})
        assert (told.verdict, told.message) == (verdict, message)
        assert told.diagnosis == f"first wrong stage: {stage}"


@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_a_number_that_is_none_deviates(special: float) -> None:
    problem = posed(net("C"))
    values = walked(problem.case, problem.tensors)
    for name in ("conv1", "pool1", "seed", "down.relu1", "output"):
        spoiled = {**values, name: values[name].copy()}
        spoiled[name][0, 0, 0, 1] = special
        told = judged(problem, spoiled)
        assert told.verdict == "deviates"
        assert f"at [0,0,0,1] got {special}, expected " in told.message, told
    told = judged(problem, opaque(spoiled))
    assert (told.verdict, told.bound_usage) == ("deviates", math.inf)
    assert told.message.startswith(f"at [0,0,0,1] got {special}, expected ")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_empty_batch_is_right_where_nothing_comes_out(dtype: str) -> None:
    for case in (
        make_case("deconv_block", "t/block", **{**BLOCK, "batch": 0, "dtype": dtype}),
        make_case("adaptive_deconv", "t/adaptive", **{**ADAPTIVE, "batch": 0, "dtype": dtype}, switches="pooled"),
        make_case("max_unpool", "t/unpool", input=[4], kernel=3, stride=1, batch=0, dtype=dtype),
    ):
        problem = posed(case)
        values = walked(case, problem.tensors)
        assert judged(problem, values).verdict == "exact"
        assert judged(problem, opaque(values)).verdict == "exact"


def test_a_failure_says_what_the_target_said() -> None:
    problem = posed(net("C"))
    for kind in ("error", "crash", "timeout", "unsupported"):
        told = judge(problem, Outcome(kind, message="its words"))  # type: ignore[arg-type]
        assert (told.verdict, told.message, told.arithmetic) == (kind, "its words", "float32")


# ---- Pooling: switches, ties and NaN ----


def pooled(x: Any, outputs: Any, indices: Any, data: str = "rounding", **keys: Any) -> Judgement:
    """The verdict on one pooling of a row."""
    case = make_case("max_pool", input=[np.size(x)], **{"kernel": 2, **keys})
    values = {"output": np.array([[outputs]], np.float32), "indices": np.array([[indices]], np.int64)}
    return judged(with_numbers(case, data, input=x), values)


OPEN = "the specification is open here; read as: "


def test_the_maximum_and_its_switch_are_exact() -> None:
    told = pooled([1, 5, 3, 2], [5, 3], [1, 2])
    assert (told.verdict, told.max_abs_error, told.bound_usage, told.rms_usage) == ("exact", 0, 0, 0)


@pytest.mark.parametrize("data", ["rounding", "exact"])
def test_of_equal_maxima_another_one_is_one_of_the_answers(data: str) -> None:
    told = pooled([5, 5, 3, 2], [5, 3], [1, 2], data)
    assert (told.verdict, told.diagnosis) == ("ambiguous", OPEN + "of equal maxima not the first is the switch")
    assert pooled([5, 5, 3, 2], [5, 3], [0, 2], data).verdict == "exact"


def test_zeros_of_either_sign_are_equal_maxima() -> None:
    assert pooled([0.0, -0.0, -1, -2], [-0.0, -1], [1, 2]).verdict == "ambiguous"
    assert pooled([-0.0, 0.0, -1, -2], [0.0, -1], [0, 2]).verdict == "exact"


@pytest.mark.parametrize("wrong", [2, 4, -1, 10**6, -(10**6)])
def test_a_switch_outside_of_its_window_deviates(wrong: int) -> None:
    told = pooled([1, 5, 3, 2], [5, 3], [wrong, 2])
    assert told.verdict == "deviates"
    assert told.message == f"at [0,0,0] the switch {wrong} is no element of its window; expected 1"


def test_a_switch_into_the_padding_deviates() -> None:
    told = pooled([1, 5], [1, 5], [-1, 1], padding=1)
    assert told.message == "at [0,0,0] the switch -1 is no element of its window; expected 0"


def test_a_switch_of_another_element_of_the_window_deviates() -> None:
    told = pooled([1, 5, 3, 2], [5, 3], [1, 3])
    assert (told.verdict, told.message) == ("deviates", "at [0,0,1] got 3, expected 3, but the switch 3 names 2")


def test_an_element_of_the_window_that_is_not_the_largest_deviates() -> None:
    told = pooled([1, 5, 3, 2], [1, 3], [0, 2])
    assert (told.verdict, told.message) == ("deviates", "at [0,0,0] got 1, expected 5; 1 of 2 elements")


def test_a_value_that_is_not_in_the_window_deviates() -> None:
    told = pooled([1, 5, 3, 2], [5, 3.0000002], [1, 2])
    assert (told.verdict, told.message) == (
        "deviates",
        "at [0,0,1] got 3.00000024, expected 3, but the switch 2 names 3",
    )


def test_by_magnitude_either_sign_is_the_largest() -> None:
    assert pooled([-5, 2, 3, 1], [-5, 3], [0, 2], magnitude=True).verdict == "exact"
    assert pooled([-5, 5, 3, 1], [5, 3], [1, 2], magnitude=True).diagnosis.endswith("not the first is the switch")
    assert pooled([-5, 2, 3, 1], [2, 3], [1, 2], magnitude=True).verdict == "deviates"
    lost = pooled([-5, 2, 3, 1], [5, 3], [0, 2], magnitude=True)
    assert lost.message == "at [0,0,0] got 5, expected -5, but the switch 0 names -5"


NAN = math.nan
NAN_ROW = [NAN, 5, 3, NAN, 1, 2]


def test_not_a_number_wins_or_is_passed_over_but_not_now_and_then() -> None:
    assert pooled(NAN_ROW, [NAN, NAN, 2], [0, 3, 5], "edge-nan").verdict == "exact"
    told = pooled(NAN_ROW, [5, 3, 2], [1, 2, 5], "edge-nan")
    assert (told.verdict, told.diagnosis) == ("ambiguous", OPEN + "a NaN in the window is passed over")
    for outputs, indices, at in (([NAN, 3, 2], [0, 2, 5], 1), ([5, NAN, 2], [1, 3, 5], 0)):
        told = pooled(NAN_ROW, outputs, indices, "edge-nan")
        assert (told.verdict, told.diagnosis) == (
            "deviates",
            "a NaN wins in some windows and is passed over in others",
        )
        assert told.message == f"at [0,0,{at}] got {outputs[at]}, expected nan"


def test_passing_over_what_is_not_a_number_takes_the_largest_number() -> None:
    told = pooled([NAN, 5, 7, 1], [5, 7], [1, 2], "edge-nan", kernel=3, stride=1)
    assert (told.verdict, told.message) == ("deviates", "at [0,0,0] got 5, expected nan; 1 of 2 elements")


def test_not_a_number_where_there_is_none_deviates() -> None:
    told = pooled([1, 5, 3, 2], [NAN, 3], [1, 2])
    assert told.message == "at [0,0,0] got nan, expected 5, but the switch 1 names 5"


def test_another_of_several_nan_is_as_good() -> None:
    assert pooled([NAN, NAN, 3, 2], [NAN, 3], [1, 2], "edge-nan").verdict == "exact"


def test_a_window_of_nothing_but_nan_gives_nan_also_where_nan_is_passed_over() -> None:
    told = pooled([NAN, NAN, NAN, 5], [NAN, 5], [0, 3], "edge-nan")
    assert (told.verdict, told.diagnosis) == ("ambiguous", OPEN + "a NaN in the window is passed over")


def test_infinities_are_numbers() -> None:
    row = [-math.inf, -math.inf, math.inf, 2]
    assert pooled(row, [-math.inf, math.inf], [0, 2], "edge-inf").verdict == "exact"
    assert pooled(row, [-math.inf, math.inf], [1, 2], "edge-inf").verdict == "ambiguous"
    assert pooled(row, [-3.4e38, math.inf], [0, 2], "edge-inf").verdict == "deviates"


def in_a_chain(name: str, value: Any) -> dict[str, Any]:
    """The stages of an adaptive network, whose pooling tells no switches."""
    problem = posed(make_case("adaptive_deconv", "t/adaptive", **ADAPTIVE, switches="pooled"))
    values = walked(problem.case, problem.tensors)
    del values["layer1.indices"]
    return dict(judge_stages(problem, returned({**values, name: value(values[name])})))


def test_without_switches_the_values_are_judged_alone() -> None:
    assert in_a_chain("layer1.pool", lambda x: x)["layer1.pool"].verdict == "exact"
    wrong = in_a_chain("layer1.pool", lambda x: x * np.float32(1.01))["layer1.pool"]
    assert wrong.verdict == "deviates"
    assert wrong.message.endswith("elements")


def test_without_switches_a_lost_sign_deviates_too() -> None:
    assert in_a_chain("layer1.pool", np.abs)["layer1.pool"].verdict == "deviates"


# ---- Unpooling where windows overlap ----


def unpooled(
    overlap: str, outputs: Any, data: str = "rounding", y: Any = (3, 5, 4), dtype: str = "float32"
) -> Judgement:
    """The verdict on unpooling a row of 5; two values are put to place 2, one to place 4."""
    case = make_case("max_unpool", input=[3], kernel=3, stride=1, overlap=overlap, dtype=dtype)
    problem = with_numbers(case, data, input=y, indices=[2, 2, 4])
    return judged(problem, {"output": np.array([[outputs]]).astype(FORMATS[dtype].dtype)})


@pytest.mark.parametrize(
    ("outputs", "who"), [([0, 0, 5, 0, 4], "the last"), ([0, 0, 3, 0, 4], "the first")], ids=["last", "first"]
)
def test_whichever_of_several_values_is_assigned_is_one_of_the_answers(outputs: list[float], who: str) -> None:
    told = unpooled("assign", outputs)
    expected = OPEN + f"several values are assigned to one place, and {who} of them stays"
    assert (told.verdict, told.diagnosis) == ("ambiguous", expected)


def test_it_may_be_another_one_in_every_place() -> None:
    case = make_case("max_unpool", input=[4], kernel=4, stride=1, overlap="assign")
    problem = with_numbers(case, input=[1, 2, 3, 4], indices=[3, 3, 4, 4])
    for outputs, who in (([2, 4], "the last"), ([1, 3], "the first"), ([1, 4], "any one"), ([2, 3], "any one")):
        told = judged(problem, {"output": np.array([[[0, 0, 0, *outputs, 0, 0]]], np.float32)})
        assert (told.verdict, told.diagnosis.split(", and ")[1]) == ("ambiguous", f"{who} of them stays")


@pytest.mark.parametrize(
    "outputs", [[0, 0, 8, 0, 4], [0, 0, 4, 0, 4], [0, 0, 0, 0, 4], [0, 0, 5, 0, 3], [1, 0, 5, 0, 4]]
)
def test_none_of_the_values_deviates(outputs: list[float]) -> None:
    told = unpooled("assign", outputs)
    assert told.verdict == "deviates"
    assert told.message.endswith("1 of 5 elements")


def test_where_all_values_of_a_place_are_equal_nothing_is_open() -> None:
    assert unpooled("assign", [0, 0, 5, 0, 4], y=(5, 5, 4)).verdict == "exact"


@pytest.mark.parametrize("stays", [5.0, NAN])
def test_a_number_or_the_nan_beside_it_is_open_too(stays: float) -> None:
    assert unpooled("assign", [0, 0, stays, 0, 4], "edge-nan", y=(NAN, 5, 4)).verdict == "ambiguous"


def in_a_larger_plane(outputs: list[list[float]], overlap: str = "assign", indices: Any = (1, 3, 8, 14)) -> Judgement:
    """2x2 values in windows of 2x2, of which 4x4 places follow; asked for are 5x5."""
    case = make_case("max_unpool", input=[2, 2], kernel=2, output_size=[5, 5], overlap=overlap)
    problem = with_numbers(case, input=[1, 2, 3, 4], indices=indices)
    return judged(problem, {"output": np.array([[outputs]], np.float32)})


COUNTED_IN_FIVE = [[0, 1, 0, 2, 0], [0, 0, 0, 3, 0], [0, 0, 0, 0, 4], [0] * 5, [0] * 5]
COUNTED_IN_FOUR = [[0, 1, 0, 2, 0], [0] * 5, [3, 0, 0, 0, 0], [0, 0, 4, 0, 0], [0] * 5]


def test_switches_may_be_read_as_counting_in_the_size_that_follows_from_the_windows() -> None:
    """onnx/onnx#2398; where the unpooling is an assignment, as ONNX has it."""
    assert in_a_larger_plane(COUNTED_IN_FIVE).verdict == "exact"
    told = in_a_larger_plane(COUNTED_IN_FOUR)
    reading = "switches count in the size that follows from the windows, not in the one asked for"
    assert (told.verdict, told.diagnosis) == ("ambiguous", OPEN + reading)
    assert in_a_larger_plane(COUNTED_IN_FOUR, overlap="sum").verdict == "deviates"
    turned_over = [row[::-1] for row in COUNTED_IN_FOUR]
    assert in_a_larger_plane(turned_over).verdict == "deviates"


def test_a_switch_beyond_the_smaller_size_can_be_read_in_one_way_only() -> None:
    assert in_a_larger_plane(COUNTED_IN_FOUR, indices=(1, 3, 8, 24)).verdict == "deviates"


def test_sums_may_round_where_values_meet_and_nowhere_else() -> None:
    y = (1 / 3, 1e-4, 0.1)
    total = np.float32(y[0]) + np.float32(y[1])
    up = total + 2 * np.spacing(total)
    assert unpooled("sum", [0, 0, total, 0, y[2]], y=y).passed
    assert unpooled("sum", [0, 0, up, 0, y[2]], y=y).verdict == "deviates"
    copied = np.nextafter(np.float32(y[2]), np.float32(1))
    told = unpooled("sum", [0, 0, total, 0, copied], y=y)
    assert (told.verdict, told.message) == (
        "deviates",
        "at [0,0,4] got 0.100000009, expected 0.100000001; 1 of 5 elements",
    )
    assert unpooled("sum", [1e-30, 0, total, 0, y[2]], y=y).verdict == "deviates"
    assert unpooled("sum", [0, 0, up, 0, y[2]], "exact", y=y).verdict == "deviates"


@pytest.mark.parametrize("by", ["dividing", "multiplying"])
def test_a_mean_may_be_a_quotient_or_a_product(by: str) -> None:
    for y in itertools.product((1.0, 5.0, 0.3, -7.0), repeat=3):
        case = make_case("max_unpool", input=[3], kernel=3, stride=1, overlap="mean")
        problem = with_numbers(case, "exact", input=y, indices=[2, 2, 2])
        total = np.float32(y[0]) + np.float32(y[1]) + np.float32(y[2])
        mean = total / np.float32(3) if by == "dividing" else total * (1 / np.float32(3))
        told = judged(problem, {"output": np.array([[[0, 0, mean, 0, 0]]], np.float32)})
        assert told.passed, (y, told)


@pytest.mark.parametrize("special", [NAN, math.inf])
def test_a_mean_may_round_also_beside_infinities_and_nan(special: float) -> None:
    """5 times 1/3 in float32 is not 5/3 rounded."""
    case = make_case("max_unpool", input=[5], kernel=5, stride=1, overlap="mean", data=["edge-nan", "edge-inf"])
    problem = with_numbers(case, "edge-nan", input=[special, 1, 5, 5, 0], indices=[4, 4, 5, 5, 5])
    mean = np.float32(10) * (1 / np.float32(3))
    assert mean != np.float32(10 / 3)
    output = np.array([[[0, 0, 0, 0, special, mean, 0, 0, 0]]], np.float32)
    assert judged(problem, {"output": output}).passed


def test_sums_of_whole_numbers_may_not_be_off_by_what_other_sums_may() -> None:
    below = np.nextafter(np.float32(8), np.float32(0))
    assert unpooled("sum", [0, 0, below, 0, 4]).verdict == "within_bound"
    assert unpooled("sum", [0, 0, below, 0, 4], "exact").verdict == "deviates"


def test_sums_of_16_bits_may_be_kept_in_16_bits() -> None:
    y = (2048, 1, 0)
    for total in (2048, 2050):  # 2049 is a tie, and either neighbour is a sum
        assert unpooled("sum", [0, 0, total, 0, 0], y=y, dtype="float16").passed
    assert unpooled("sum", [0, 0, 2052, 0, 0], y=y, dtype="float16").verdict == "deviates"


# ---- Less arithmetic than promised ----


def tf32(x: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.rint(mantissa * 2.0**11), exponent - 11).astype(x.dtype)


def in_tf32(step: Convolution, fed: list[np.ndarray], _: Arrays) -> Arrays:
    operands = [tf32(array) for array in fed[:2]]
    return (oracle_of(step).exact(step, *operands, *fed[2:])[0].astype(fed[0].dtype),)


@pytest.mark.parametrize("name", ["conv1", "conv2", "down.conv2", "down.conv1"])
def test_one_stage_in_tf32_is_named(name: str) -> None:
    problem = posed(net("C"))
    told = judged(problem, walked(problem.case, problem.tensors, wrong={name: in_tf32}))
    assert (told.verdict, told.arithmetic) == ("reduced", "tf32")
    assert told.diagnosis == f"first wrong stage: {name}; computed as with tf32"
    assert told.message.startswith("at [")


def test_a_whole_chain_in_tf32_does_not_pass_unseen() -> None:
    for name in ("A", "C", "F"):
        problem = posed(net(name))
        convolutions = {s.name: in_tf32 for s in problem.case.stages if isinstance(s.step, Convolution)}
        values = walked(problem.case, problem.tensors, wrong=convolutions)
        assert judged(problem, values).diagnosis == "first wrong stage: conv1; computed as with tf32"
        assert judged(problem, opaque(values)).verdict == "deviates"


def wide_net(channels: int, dtype: str) -> Chain:
    layers = [{"conv": channels, "kernel": 3}, RELU, {"conv": channels, "kernel": 3}, RELU]
    keys = {"layers": layers, "dtype": dtype, "isolate": "none", "data": ["rounding"]}
    return make_case("deconvnet", "t/sums", in_channels=channels, input=[9, 9], **keys)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_partial_sums_rounded_to_16_bits_are_named(dtype: str) -> None:
    problem = posed(wide_net(16, dtype))
    case = problem.case
    values = walked(case, problem.tensors, sums=FORMATS[dtype].dtype)
    told = judged(problem, values)
    assert (told.verdict, told.arithmetic) == ("reduced", f"{dtype}-sums")
    assert told.diagnosis == f"first wrong stage: conv1; partial sums rounded to {dtype}"
    assert judged(problem, values, f"{dtype}-sums").verdict == "within_bound"
    alone = judged(problem, opaque(values))
    assert (alone.verdict, alone.arithmetic) == ("reduced", f"{dtype}-sums")
    assert alone.diagnosis == f"partial sums rounded to {dtype}"
    assert judged(problem, opaque(values), f"{dtype}-sums").verdict == "within_bound"


def test_where_nothing_can_be_promised_nobody_is_accused() -> None:
    """Sums of 288 products in bfloat16."""
    problem = posed(wide_net(32, "bfloat16"))
    values = walked(problem.case, problem.tensors, sums=FORMATS["bfloat16"].dtype)
    each = judge_stages(problem, returned(values), "bfloat16-sums")
    assert all(judgement.passed for _, judgement in each)
    assert judged(problem, values, "bfloat16-sums").verdict == "within_bound"


def test_a_bias_added_apart_is_no_mistake_where_that_is_promised() -> None:
    """It rounds once more: in bfloat16, to which the sum has been rounded before."""

    def apart(step: Convolution, fed: list[np.ndarray], _: Arrays) -> Arrays:
        dtype = FORMATS["bfloat16"]
        bare = round_once(oracle_of(step).exact(replace(step, bias=False), *fed[:2])[0], dtype)
        bias = fed[2].astype(np.float64).reshape(-1, 1, 1)
        return (round_once(bare.astype(np.float64) + bias, dtype),)

    accused = 0
    for seed in range(5):
        problem = posed(net("A", f"t/{seed}", dtype="bfloat16", isolate="none"), "rounding", seed)
        tensors = {n: t * FORMATS["bfloat16"].dtype.type(16) if "bias" in n else t for n, t in problem.tensors.items()}
        problem = replace(problem, tensors=tensors, values=walk(problem.case.stages, tensors))
        values = walked(problem.case, tensors, wrong={"conv1": apart, "conv2": apart})
        assert judged(problem, values, "native+bias").passed
        assert judged(problem, opaque(values), "native+bias").passed
        accused += judged(problem, values).failed
    assert accused == 5


def test_a_bias_added_apart_may_leave_little_of_a_large_sum() -> None:
    """64 + 36 + 0.75 is 101 in bfloat16; less 100 that is 1, and not 0.75."""
    layers = [{"conv": 1, "kernel": 1}]
    case = make_case("deconvnet", "t/apart", in_channels=3, input=[1], layers=layers, dtype="bfloat16")
    problem = with_numbers(case, input=[64, 36, 0.75], conv1_weight=[1, 1, 1], conv1_bias=[-100])
    apart = {"output": np.ones((1, 3, 1), FORMATS["bfloat16"].dtype)}
    assert judged(problem, apart).failed
    assert judged(problem, apart, "native+bias").verdict == "within_bound"
    assert judged(problem, {"output": 4 * apart["output"]}, "native+bias").verdict == "deviates"


def test_an_unknown_promise_is_an_error() -> None:
    told = judged(posed(net("A")), {}, "float24")
    assert told.verdict == "error"
    assert told.message.startswith("the target promises float24; expected native or one of float64, float32, ")


# ---- Switches that rounding leaves open ----


def near_tie(apart: float, **keys: Any) -> ChainProblem:
    """A 1x1 convolution of four maps and a pooling; in each of two windows the two best differ by ``apart``.

    The sums are 4 + apart and 4 in the first window, 8 and 8 + apart in the second.
    """
    layers = [{"conv": 1, "kernel": 1, "bias": False}, {"max_pool": 2}]
    case = make_case(
        "deconvnet", "t/tie", **{"in_channels": 4, "input": [4], "layers": layers, "isolate": "none", **keys}
    )
    rows = [[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 2], [1 + apart, 1, 2, 2 + apart]]
    return with_numbers(case, input=rows, conv1_weight=[1, 1, 1, 1])


def other_of_the_first(step: MaxPool, fed: list[np.ndarray], given: Arrays) -> Arrays:
    """The other element of the first window, as if it had come out larger."""
    switches = given[1].copy()
    switches.flat[0] = 1 - switches.flat[0]
    return (np.take_along_axis(fed[0], switches, axis=2), switches)


def test_a_switch_that_rounding_leaves_open_is_not_held_against_who_does_not_tell_it() -> None:
    problem = near_tie(2.0**-20)
    values = walked(problem.case, problem.tensors)
    assert judged(problem, opaque(values)).passed
    values = walked(problem.case, problem.tensors, wrong={"pool1": other_of_the_first})
    told = judged(problem, opaque(values))
    assert told.verdict == "ambiguous"
    assert told.diagnosis == "2 switches or places are open, and the target does not say which it took"
    assert judged(problem, values).diagnosis == "first wrong stage: pool1"


def test_who_tells_its_switches_is_followed() -> None:
    """What the convolution gave is a little off, as honest rounding may be, and the pooling is right for that."""

    def rounded_down(step: Any, fed: list[np.ndarray], given: Arrays) -> Arrays:
        x = given[0].copy()
        x[0, 0, :2] = x[0, 0, 1::-1]
        return (x,)

    problem = near_tie(2.0**-20)
    values = walked(problem.case, problem.tensors, wrong={"conv1": rounded_down})
    assert values["pool1.indices"].ravel().tolist() == [1, 3]
    assert problem.values["pool1.indices"].ravel().tolist() == [0, 3]
    assert judged(problem, values).verdict == "within_bound"


def test_who_tells_its_switches_is_followed_from_a_single_unit_too() -> None:
    def exchanged(step: Any, fed: list[np.ndarray], given: Arrays) -> Arrays:
        x = given[0].copy()
        x[0, 0, 2:] = x[0, 0, :1:-1]
        return (x,)

    problem = near_tie(2.0**-20, isolate="unit")
    values = walked(problem.case, problem.tensors, wrong={"conv1": exchanged})
    assert values["output"][0, 0].tolist() != walked(problem.case, problem.tensors)["output"][0, 0].tolist()
    assert values["pool1.indices"].ravel().tolist() == [0, 2]
    assert judged(problem, values).verdict == "within_bound"


def test_a_switch_that_no_rounding_moves_is_held_against_everyone() -> None:
    problem = near_tie(2.0**-12)
    values = walked(problem.case, problem.tensors, wrong={"pool1": other_of_the_first})
    assert judged(problem, opaque(values)).verdict == "deviates"


def test_an_open_switch_through_which_no_signal_passes_excuses_nothing() -> None:
    """The strongest unit is in the second window, where the other element is far below."""
    layers = [{"conv": 1, "kernel": 1, "bias": False}, {"max_pool": 2}]
    case = make_case("deconvnet", "t/tie", in_channels=4, input=[4], layers=layers)
    rows = [[1, 1, 2, 1], [1, 1, 2, 1], [1, 1, 2, 1], [1 + 2.0**-22, 1, 2, 1]]
    problem = with_numbers(case, input=rows, conv1_weight=[1, 1, 1, 1])
    values = walked(case, problem.tensors)
    assert judged(problem, opaque(values)).passed
    told = judged(problem, {"output": values["output"][..., ::-1].copy()})
    assert told.verdict == "deviates"


def test_a_strongest_activation_that_rounding_leaves_open_is_not_held_against_who_does_not_tell_it() -> None:
    """The second window's maximum is larger by half a unit in the last place of the first's."""
    layers = [{"conv": 1, "kernel": 1, "bias": False}]
    case = make_case("deconvnet", "t/seed", in_channels=4, input=[2], layers=layers)
    rows = [[1, 1], [1, 1], [1, 1], [1, 1 + 2.0**-23]]
    problem = with_numbers(case, input=rows, conv1_weight=[1, 1, 1, 1])

    def first(step: Any, fed: list[np.ndarray], given: Arrays) -> Arrays:
        return (np.full(given[0].shape, 4, np.float32),)  # 4 + 2**-23 rounds to 4

    values = walked(case, problem.tensors, wrong={"conv1": first})
    assert judged(problem, values).passed
    assert judged(problem, opaque(values)).verdict == "ambiguous"


@pytest.mark.parametrize(
    ("keys", "verdict"),
    [
        ({}, "ambiguous"),
        ({"unit": [0]}, "ambiguous"),
        ({"isolate": "channel"}, "ambiguous"),
        ({"channel": 1}, "deviates"),
        ({"channel": 1, "unit": [0]}, "deviates"),
        ({"isolate": "channel", "channel": 1}, "deviates"),
        ({"isolate": "none"}, "deviates"),
    ],
    ids=str,
)
def test_between_two_channels_rounding_leaves_open_only_what_is_looked_for(keys: dict[str, Any], verdict: str) -> None:
    """At the first place one channel gives 4, the other 4 and a little; the target comes down from the one."""
    layers = [{"conv": 2, "kernel": 1, "bias": False}]
    case = make_case("deconvnet", "t/two", in_channels=4, input=[2], layers=layers, **keys)
    weights = [[1, 1, 1, 1], [2, 2, 0, 2.0**-22]]
    problem = with_numbers(case, input=[[1, 0], [1, 0], [1, 0], [1, 0]], conv1_weight=weights)
    assert problem.values["seed"][0, 0, 0] in (0, 4)
    assert problem.values["seed"][0, 1, 0] == 4 + 2.0**-22
    output = np.zeros((1, 4, 2), np.float32)
    output[0, :, 0] = 4
    assert judged(problem, {"output": output}).verdict == verdict


@pytest.mark.parametrize("rectify", ["mask", "both"])
def test_an_activation_that_rounding_moves_across_zero_is_not_held_against_who_does_not_tell_it(rectify: str) -> None:
    """1e4 + 1e-4 - 1e4 is 1e-4 or 0, as one adds; the signal of the unit above passes through it or does not."""
    layers = [{"conv": 1, "kernel": 1, "bias": False}, RELU, {"conv": 1, "kernel": 1}, RELU]
    case = make_case("deconvnet", "t/mask", in_channels=3, input=[1], layers=layers, rectify=rectify)
    numbers = {"conv1_weight": [1, 1, 1], "conv2_weight": [1], "conv2_bias": [5]}
    problem = with_numbers(case, input=[1e4, 1e-4, -1e4], **numbers)

    def lost(step: Any, fed: list[np.ndarray], given: Arrays) -> Arrays:
        return (np.zeros_like(given[0]),)

    values = walked(case, problem.tensors, wrong={"conv1": lost})
    assert judged(problem, values).passed
    assert judged(problem, opaque(values)).verdict == "ambiguous"


@pytest.mark.parametrize("rectify", ["mask", "both"])
def test_what_rounding_made_of_a_dead_unit_may_come_down_through_its_own_mask(rectify: str) -> None:
    """1e4 - 1e-4 - 1e4 is below 0, and after rounding above it: the unit is its own signal, and its own mask."""
    layers = [{"conv": 1, "kernel": 1, "bias": False}, RELU]
    case = make_case("deconvnet", "t/mask", in_channels=3, input=[1], layers=layers, rectify=rectify, isolate="none")
    problem = with_numbers(case, input=[1e4, -1e-4, -1e4], conv1_weight=[1, 1, 1])

    def above(step: Any, fed: list[np.ndarray], given: Arrays) -> Arrays:
        return (np.full_like(given[0], 1e-4),)

    values = walked(case, problem.tensors, wrong={"conv1": above})
    assert judged(problem, values).passed
    assert not judged(problem, opaque(values)).failed


def test_a_given_unit_of_the_strongest_channel_does_not_leave_everything_open() -> None:
    """The unit is weak, and all that is stronger is taken for a rival; but only the strongest of each channel is."""
    for name in ("A", "B"):
        problem = posed(net(name, "t/unit", unit=[0, 0]), "rounding", 3)
        values = walked(problem.case, problem.tensors)
        assert judged(problem, opaque(values)).passed
        assert judged(problem, {"output": values["output"] * np.float32(1.5)}).verdict == "deviates"


# ---- What is told has to hang together ----


@pytest.mark.parametrize("name", ["input", "conv1.bias"])
def test_what_the_case_gives_is_not_the_targets_to_change(name: str) -> None:
    """It computes with another input, and says so."""
    problem = posed(net("C"))
    other = {**problem.tensors, name: problem.tensors[name] * 2}
    values = walked(problem.case, other)
    assert judged(problem, values).diagnosis == "first wrong stage: conv1"
    assert judged(problem, {**values, name: other[name]}).diagnosis == "first wrong stage: conv1"


def test_a_mistake_does_not_pass_because_its_stage_is_left_out() -> None:
    problem = posed(net("C"))
    values = walked(problem.case, problem.tensors, wrong={"conv1": turned})
    assert judged(problem, values).diagnosis == "first wrong stage: conv1"
    del values["conv1"]
    assert judged(problem, values).verdict == "deviates"


def test_switches_are_followed_only_if_what_was_pooled_was_told() -> None:
    """The wrong stage is told, and so is what follows from it; what lies between is not."""
    problem = posed(net("C"))
    values = walked(problem.case, problem.tensors, wrong={"relu1": turned})
    for left_out in (("relu1",), ("relu1", "conv1")):
        told = judged(problem, {name: value for name, value in values.items() if name not in left_out})
        assert told.verdict == "deviates"


def test_an_honest_target_may_leave_out_any_stage() -> None:
    problem = posed(net("F"))
    values = walked(problem.case, problem.tensors)
    for left_out in values.keys() - {"output"}:
        told = judged(fresh(problem), {name: value for name, value in values.items() if name != left_out})
        assert told.verdict == "within_bound", (left_out, told)


@pytest.mark.parametrize("wrong", [10**6, -(10**6), 99])
def test_switches_without_their_pooling_cannot_break_the_judge(wrong: int) -> None:
    """99 is the size of the plane."""
    problem = posed(net("C"))
    values = walked(problem.case, problem.tensors)
    values["pool1.indices"] = np.full_like(values["pool1.indices"], wrong)
    del values["pool1"]
    assert judged(problem, values).verdict == "deviates"


@pytest.mark.parametrize("name", ["conv1", "pool1.indices", "seed"])
def test_stages_are_judged_by_themselves_also_where_one_gives_something_else_entirely(name: str) -> None:
    problem = posed(net("C"))
    values = walked(problem.case, problem.tensors)
    for other in (values[name][:, :, 1:], values[name].astype(np.float16), "no array", values[name] + 10**6):
        each = dict(judge_stages(problem, returned({**values, name: other})))
        wrong = [stage for stage, judgement in each.items() if judgement.failed]
        assert wrong[0] == name.partition(".")[0]


def test_a_stage_that_is_fed_nan_may_give_nan() -> None:
    def with_nan(step: Any, fed: list[np.ndarray], given: Arrays) -> Arrays:
        values = given[0].copy()
        values[0, 0, 4, 4] = NAN
        return (values,)

    problem = posed(net("A"))
    values = walked(problem.case, problem.tensors, wrong={"relu1": with_nan})
    each = dict(judge_stages(problem, returned(values)))
    assert [name for name, judgement in each.items() if judgement.failed] == ["relu1"]


# ---- Ways to judge faster judge the same ----


def alike(one: Judgement, other: Judgement) -> bool:
    """The same verdict; usages may differ by what the faster way does not know exactly."""
    if (one.verdict, one.diagnosis, one.arithmetic) != (other.verdict, other.diagnosis, other.arithmetic):
        return False
    pairs = ((one.bound_usage or 0, other.bound_usage or 0), (one.rms_usage or 0, other.rms_usage or 0))
    return all(a == b or abs(a - b) <= 0.02 * max(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_nearly_known_is_judged_as_what_is_computed_anew(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution that is fed nearly what the oracle is, is expected to give what the oracle's gives and a little."""
    for number in range(40):
        case = any_chain(np.random.default_rng(number), f"t/{number}", dtype)
        problem = posed(case, "rounding", number)
        middle = case.stages[len(case.stages) // 2].name
        for wrong in ({}, {middle: spoilt}, {case.stages[-1].name: in_tf32} if dtype == "float32" else {}):
            if in_tf32 in wrong.values() and not isinstance(case.stages[-1].step, Convolution):
                continue
            outcome = returned(walked(case, problem.tensors, number, wrong=wrong))
            near = dict(judge_stages(fresh(problem), outcome))
            with monkeypatch.context() as patch:
                patch.setattr(steps, "NEAR", -1.0)
                anew = dict(judge_stages(fresh(problem), outcome))
            assert near.keys() == anew.keys()
            for name in near:
                assert alike(near[name], anew[name]), (case, name, near[name], anew[name])


def fed_nearly(op: str, rng: np.random.Generator) -> tuple[Convolution, list[np.ndarray], list[np.ndarray]]:
    """A convolution, what the oracle was fed, and what a target was."""
    keys = {"in_channels": 4, "out_channels": 6, "groups": 2, "kernel": [3, 2], "stride": [2, 1], "bias": True}
    case = make_case(op, input=[6, 5], batch=2, padding=1, **keys)
    own = [rng.standard_normal(shape) for shape in case.tensor_shapes.values()]
    own[1:] = [tensor.astype(np.float32) for tensor in own[1:]]
    off = rng.standard_normal(own[0].shape) * rng.choice([0, 2.0**-24, 2.0**-13], own[0].shape)
    return case, own, [(own[0] + off).astype(np.float32), *own[1:]]


@pytest.mark.parametrize("op", ["conv", "conv_transpose"])
def test_what_is_nearly_known_is_within_what_is_added_to_its_magnitude(op: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        case, own, fed = fed_nearly(op, rng)
        oracle = oracle_of(case)
        known, roundings = oracle.exact(case, *own)[0], oracle.roundings(case, *own)
        assert roundings is not None
        near = steps.near_known(case, fed, own, known, lambda r=roundings: r.magnitude)
        assert near is not None
        right, right_roundings = oracle.exact(case, *fed)[0], oracle.roundings(case, *fed)
        assert right_roundings is not None
        assert (near[1] >= right_roundings.magnitude).all()
        spare = near[1] - right_roundings.magnitude
        n = np.broadcast_to(roundings.products, known.shape)
        assert (np.abs(near[0] - right) <= gamma(n, 2.0**-24) * spare + 1e-14).all()
        assert np.abs(known - right).max() > 1e-5, "nothing was to be corrected"
        fed[0][0, 0, 0, 0] += np.float32(0.1)
        assert steps.near_known(case, fed, own, known, lambda r=roundings: r.magnitude) is None


@pytest.mark.parametrize("name", ["A", "B", "C", "D", "F"])
@pytest.mark.parametrize("overlap", ["sum", "mean"])
def test_a_way_down_that_is_only_scaled_is_judged_as_one_that_is_computed_anew(
    name: str, overlap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a single unit, whose value the target has rounded."""
    for seed, rectify in itertools.product(range(4), ("signal", "none")):
        problem = posed(net(name, f"t/{name}", overlap=overlap, rectify=rectify, batch=3), "rounding", seed)
        right = walked(problem.case, problem.tensors, seed)
        told = {n: v for n, v in right.items() if not n.startswith("down.")}
        exchanged = {**told, "output": told["output"][[1, 0, 2]]}
        larger = {**told, "output": told["output"] * np.float32(1.001)}
        for values, verdict in ((told, "within_bound"), (exchanged, "deviates"), (larger, "deviates")):
            scaled = judged(fresh(problem), values)
            with monkeypatch.context() as patch:
                patch.setattr(whole, "_only_scaled", lambda *_: None)
                anew = judged(fresh(problem), values)
            assert scaled.verdict == verdict, (problem.case, scaled)
            assert alike(scaled, anew), (problem.case, scaled, anew)


def test_a_way_down_that_was_judged_for_one_target_is_scaled_for_the_next() -> None:
    """The second computes with other roundings, and its unit is another multiple."""
    problem = posed(net("F", batch=3))
    for seed in range(5):
        values = walked(problem.case, problem.tensors, seed)
        assert alike(judged(problem, values), judged(fresh(problem), values))


# ---- What was judged before ----


def outside(switch: int, case: Chain, name: str) -> int:
    """A place half a plane away, in no window with the first."""
    size = math.prod(next(stage.step for stage in case.stages if name in stage.gives).large)  # type: ignore[union-attr]
    return (switch + size // 2) % size


def test_a_right_outcome_does_not_make_a_later_wrong_one_right() -> None:
    """One element of one tensor is another; everything else is the same bits."""
    for case in (net("C", overlap="mean"), net("E", lrn_down="gradient", rectify="mask")):
        problem = posed(case)
        values = walked(case, problem.tensors)
        assert judged(problem, values).verdict == "within_bound"
        count = len(problem.judged)
        assert count > len(case.stages)
        assert judged(problem, {name: value.copy() for name, value in values.items()}).verdict == "within_bound"
        assert len(problem.judged) == count, "the same bits were judged again"
        for name, value in values.items():
            for at in (0, value.size // 2, value.size - 1):
                changed = value.copy()
                changed.flat[at] = outside(value.flat[at], case, name) if is_index(name) else value.flat[at] + 1
                told = judged(problem, {**values, name: changed})
                stage = next(stage.name for stage in case.stages if name in stage.gives)
                assert (told.verdict, told.diagnosis) == ("deviates", f"first wrong stage: {stage}")
        changed = values["output"].copy()
        changed.flat[5] += 1
        assert judged(problem, opaque(values)).passed
        assert judged(problem, {"output": changed}).verdict == "deviates"
        assert judged(problem, values).verdict == "within_bound"


def test_a_wrong_outcome_does_not_make_a_later_right_one_wrong() -> None:
    problem = posed(net("C"))
    right = walked(problem.case, problem.tensors)
    for stage in problem.case.stages:
        wrong = walked(problem.case, problem.tensors, wrong={stage.name: spoilt})
        judged(problem, wrong)
        judged(problem, opaque(wrong))
        assert judged(problem, right) == judged(fresh(problem), right)


def test_what_was_promised_is_part_of_what_was_judged() -> None:
    problem = posed(net("A", dtype="float16", isolate="none"))
    values = walked(problem.case, problem.tensors, sums=np.float16)
    for promises in itertools.permutations(("native", "float16-sums", "native+bias")):
        for promised in promises:
            assert judged(problem, values, promised) == judged(fresh(problem), values, promised)
            assert judged(problem, opaque(values), promised) == judged(fresh(problem), opaque(values), promised)


def test_zeros_of_another_sign_are_other_bits_and_the_same_verdict() -> None:
    problem = posed(net("C"), "exact")
    values = walked(problem.case, problem.tensors)
    negative = {n: np.where(v == 0, -v, v) if v.dtype == np.float32 else v for n, v in values.items()}
    assert judged(problem, values).verdict == judged(problem, negative).verdict == "exact"


def test_the_same_tensors_under_exchanged_names_are_another_outcome() -> None:
    """Two stages whose results have the same shape; neither is judged, since what they read is not told."""
    layers = [{"conv": 2, "kernel": 3, "padding": 1}, RELU] * 2
    case = make_case("deconvnet", "t/names", in_channels=2, input=[6, 6], layers=[dict(layer) for layer in layers])
    problem = posed(case, "exact")
    values = walked(case, problem.tensors)
    right, inner = values["output"], values["down.conv2"]
    assert judged(problem, {"output": right, "down.conv2": inner}).verdict == "exact"
    assert judged(fresh(problem), {"down.conv2": right, "output": inner}).verdict == "deviates"
    assert judged(problem, {"down.conv2": right, "output": inner}).verdict == "deviates"


# ---- What the verdict says ----


def test_the_usages_are_the_largest_of_any_stage_or_of_the_whole() -> None:
    problem = posed(net("E"))
    values = walked(problem.case, problem.tensors)
    each = dict(judge_stages(problem, returned(values)))
    alone = judged(problem, opaque(values))
    told = judged(problem, values)
    assert told.bound_usage == max(j.bound_usage or 0 for j in each.values())
    assert told.rms_usage == max(j.rms_usage or 0 for j in each.values())
    assert (told.bound_usage or 0) > (alone.bound_usage or 1)
    assert told.arithmetic == "float32"
    assert told.max_abs_error is not None
    assert 0 < told.max_abs_error < 1e-5


def test_a_chain_is_exact_only_if_all_its_stages_are() -> None:
    """The result is right to the last bit, and something on the way was rounded."""
    problem = posed(net("D"))
    right = {n: round_once(v, problem.format) if not is_index(n) else v for n, v in problem.values.items()}
    assert judged(problem, opaque(right)).verdict == "exact"
    assert judged(problem, {**right, "attention": right["conv1"]}).verdict in ("exact", "within_bound")
    up = {**right, "conv1": right["conv1"].copy()}
    at = tuple(int(i[0]) for i in np.nonzero(right["relu1"] == 0))
    up["conv1"][at] = np.nextafter(up["conv1"][at], np.float32(-9))
    told = judged(problem, up)
    assert told.verdict == "within_bound"
    assert 0 < (told.bound_usage or 0) < 1


def test_an_ambiguous_stage_makes_the_chain_ambiguous_and_a_wrong_one_after_it_wrong() -> None:
    problem = posed(net("C", overlap="assign", isolate="none"))
    told = judged(problem, values := walked(problem.case, problem.tensors))
    assert (told.verdict, told.diagnosis.split("; ")[0]) == ("ambiguous", "the specification is open here")
    values = walked(problem.case, problem.tensors, wrong={"down.conv1": spoilt})
    assert judged(problem, values).diagnosis == "first wrong stage: down.conv1"


def firsts(step: MaxUnpool, fed: list[np.ndarray], _: Arrays) -> Arrays:
    order = slice(None, None, -1)
    result = np.zeros((*fed[0].shape[:2], math.prod(step.large)), fed[0].dtype)
    for plane in np.ndindex(*fed[0].shape[:2]):
        result[plane][fed[1][plane].ravel()[order]] = fed[0][plane].ravel()[order]
    return (result.reshape(*fed[0].shape[:2], *step.large),)


def test_what_a_target_assigned_is_followed() -> None:
    """Another value stays than the oracle's, and what comes of it is right for that."""
    problem = posed(net("C", overlap="assign", isolate="none"))
    values = walked(problem.case, problem.tensors, wrong={"down.pool1": firsts})
    assert not np.array_equal(values["down.pool1"], walked(problem.case, problem.tensors)["down.pool1"])
    told = judged(problem, values)
    assert (told.verdict, told.diagnosis.split(", and ")[1]) == ("ambiguous", "the first of them stays")


@pytest.mark.parametrize("seed", range(3))
def test_what_was_assigned_is_open_for_who_does_not_tell_it(seed: int) -> None:
    problem = posed(net("C", overlap="assign", isolate="none"), "rounding", seed)
    values = walked(problem.case, problem.tensors, wrong={"down.pool1": firsts})
    places = int(pooling.contested(problem.values["down.conv2"], problem.values["pool1.indices"], (11, 9)).sum())
    assert places > 0
    told = judged(problem, opaque(values))
    assert told.verdict == "ambiguous"
    assert told.diagnosis == f"{places} switches or places are open, and the target does not say which it took"


# ---- Published chains judge the oracle ----


def published(expected: dict[str, Any], decimals: int | None = None) -> Judgement:
    case = make_case("max_pool", input=[4], kernel=2)
    vectors = Vectors(
        {"input": np.array([[[1, 2.5, 3, -1]]], np.float32)},
        {name: np.array([[value]], np.float64) for name, value in expected.items()},
        decimals,
    )
    problem = posed(replace(case, vectors=vectors, data=("published",)), "published")
    return judge_published(problem)


def test_published_values_and_switches_are_those_of_the_oracle() -> None:
    assert published({"output": [2.5, 3], "indices": [1, 2]}).verdict == "exact"
    wrong = published({"output": [2.5, 3], "indices": [1, 3]})
    assert (wrong.verdict, wrong.message) == ("deviates", "indices at [0,0,1] got 2, expected 3")
    wrong = published({"output": [2.5, NAN]})
    assert wrong.verdict == "deviates"


def test_published_switches_are_never_rounded() -> None:
    """Two of 2000 places are within the rounding of float16, and they are two places."""
    case = make_case("max_pool", input=[2000], kernel=2000, dtype="float16")
    image = np.zeros((1, 1, 2000), np.float16)
    image[..., 1500] = 1
    for place, verdict in ((1500, "exact"), (1501, "deviates")):
        vectors = Vectors({"input": image}, {"indices": np.array([[[place]]], np.float64)})
        problem = posed(replace(case, vectors=vectors, data=("published",)), "published")
        assert judge_published(problem).verdict == verdict


def test_published_values_may_be_rounded_to_so_many_decimals() -> None:
    assert published({"output": [2.54, 3]}, decimals=1).verdict == "within_bound"
    assert published({"output": [2.56, 3]}, decimals=1).verdict == "deviates"
    assert published({"output": [2.54, 3]}).verdict == "deviates"
    assert published({"output": [2.54, 3], "indices": [1, 1]}, decimals=0).verdict == "deviates"
