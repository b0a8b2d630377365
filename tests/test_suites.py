"""The shipped suites: they load, they are complete, and the numbers that they quote are right."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache

import jsonschema
import numpy as np
import pytest
import yaml

from conformance.spec import PUBLISHED, Case, Convolution, load_suite, shipped_suites, suite_schema

SUITES = shipped_suites()
OF_CONVOLUTIONS = ("architectures", "asymmetric", "dumoulin-visin", "edge", "published", "spellings", "sweep")


@cache
def cases(suite: str) -> tuple[Case, ...]:
    return tuple(load_suite(SUITES[suite]))


def quick(suite: str) -> list[Case]:
    return [case for case in cases(suite) if "full" not in case.tags]


def everything() -> Iterator[Case]:
    return itertools.chain.from_iterable(map(cases, SUITES))


def convolutions(suite: str) -> list[Convolution]:
    return [case for case in cases(suite) if isinstance(case, Convolution)]


def plain_loop(case: Convolution, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """The definition, product by product: tap t joins small m with large m * stride - begin + t * dilation."""
    x, weight = tensors["input"].astype(np.float64), tensors["weight"].astype(np.float64)
    result = np.zeros(case.result_shapes["output"])
    if "bias" in tensors:
        for channel, bias in enumerate(tensors["bias"].astype(np.float64)):
            result[:, channel] += bias
    per_group = case.large_channels // case.groups
    for n, small, offset in itertools.product(range(case.batch), range(case.small_channels), range(per_group)):
        large = small * case.groups // case.small_channels * per_group + offset
        for m in itertools.product(*map(range, case.small)):
            for tap in itertools.product(*map(range, case.kernel)):
                begin = [crop[0] for crop in case.crop]
                at = [
                    i * s - b + t * d for i, s, b, t, d in zip(m, case.stride, begin, tap, case.dilation, strict=True)
                ]
                if any(not 0 <= i < size for i, size in zip(at, case.large, strict=True)):
                    continue
                w = weight[(small, offset, *tap)]
                if case.transposed:
                    result[(n, large, *at)] += x[(n, small, *m)] * w
                else:
                    result[(n, small, *m)] += x[(n, large, *at)] * w
    return result


def integers(case: Case) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(-9, 10, shape) for name, shape in case.tensor_shapes.items()}


def twins() -> list[tuple[Convolution, Convolution]]:
    by_id = {case.id: case for suite in OF_CONVOLUTIONS for case in convolutions(suite)}
    return [(case, by_id[f"{name[:-2]}-b"]) for name, case in by_id.items() if name.endswith("-a")]


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_loads_and_is_named_like_its_file(suite: str) -> None:
    assert cases(suite)
    assert {case.suite for case in cases(suite)} == {suite}


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_fits_the_schema_that_editors_use(suite: str) -> None:
    jsonschema.validate(yaml.safe_load(SUITES[suite].read_text()), suite_schema())


@pytest.mark.parametrize("suite", OF_CONVOLUTIONS)
def test_a_suite_says_first_what_it_is_for(suite: str) -> None:
    assert SUITES[suite].read_text().startswith("# ")


def test_no_id_stands_for_two_cases() -> None:
    assert [name for name, count in Counter(case.id for case in everything()).items() if count > 1] == []


def test_the_quick_profile_stays_quick() -> None:
    chosen = list(itertools.chain.from_iterable(map(quick, SUITES)))
    assert len(chosen) < 4200
    assert sum(case.products for case in chosen) < 500e6


@pytest.mark.parametrize("number", [n for n in range(1, 16) if n != 7])
def test_every_relationship_of_the_guide_has_a_case(number: int) -> None:
    assert [case.id for case in convolutions("dumoulin-visin") if case.relationship == number]


@pytest.mark.parametrize("figure", [
    "no-padding-no-strides", "arbitrary-padding-no-strides", "same-padding-no-strides", "full-padding-no-strides",
    "no-padding-strides", "padding-strides", "padding-strides-odd", "dilation",
])  # fmt: skip
def test_every_figure_of_the_guide_has_a_transpose_and_a_gradient(figure: str) -> None:
    direct, transposed, gradient = (
        next(case for case in convolutions("dumoulin-visin") if case.id == f"dumoulin-visin/{figure}{ending}")
        for ending in ("", "-transposed", "-gradient")
    )
    assert (direct.op, transposed.op, gradient.op) == ("conv", "conv_transpose", "conv_input_gradient")
    assert direct.axes == transposed.axes == gradient.axes


def test_there_are_75_architectures_and_the_quick_ones_are_small() -> None:
    assert len(cases("architectures")) == 75
    assert all(case.source for case in cases("architectures"))
    assert len(quick("architectures")) >= 20
    assert sum(case.products for case in quick("architectures")) < 250e6
    assert max(case.elements for case in quick("architectures")) * 4 < 8e6


def test_the_sweep_is_large_and_reaches_the_corners() -> None:
    assert len(quick("sweep")) >= 1000
    assert len(cases("sweep")) - len(quick("sweep")) >= 3000
    sweep = [case for case in quick("sweep") if isinstance(case, Convolution)]
    assert max(case.products for case in sweep) < 20_000
    assert {case.op for case in sweep} == {"conv", "conv_transpose", "conv_input_gradient"}
    assert {case.dtype for case in sweep} == {"float16", "bfloat16", "float32", "float64"}
    assert {case.rank for case in sweep} == {1, 2, 3}
    assert {0, 1, 2, 3} <= {case.batch for case in sweep}
    axes = [axis for case in sweep for axis in case.axes]
    assert any(axis.kernel < axis.stride for axis in axes)
    assert any(axis.begin > axis.extent - 1 for axis in axes)
    assert any(axis.kernel == 1 for axis in axes)
    added = [(axis, a) for case in sweep for axis, a in zip(case.axes, case.output_padding or (), strict=False)]
    assert any(axis.stride <= a < axis.dilation for axis, a in added)
    assert any(case.groups == case.in_channels > 1 for case in sweep)
    assert any(1 < case.groups < min(case.in_channels, case.out_channels) for case in sweep)
    assert any(case.in_channels == 1 for case in sweep)
    assert any(case.out_channels == 1 for case in sweep)


def test_there_are_twins_for_every_op() -> None:
    assert Counter(case.op for case, _ in twins()).keys() == {"conv", "conv_transpose", "conv_input_gradient"}
    assert len(twins()) >= 40


@pytest.mark.parametrize(("a", "b"), twins(), ids=[case.id[:-2] for case, _ in twins()])
def test_twins_have_the_same_shapes_and_different_values(a: Convolution, b: Convolution) -> None:
    assert (a.tensor_shapes, a.result_shapes) == (b.tensor_shapes, b.result_shapes)
    assert (a.batch, a.groups, a.dtype) == (b.batch, b.groups, b.dtype)
    assert (a.op, a.axes) != (b.op, b.axes)
    assert not np.array_equal(plain_loop(a, integers(a)), plain_loop(b, integers(b)))


def test_edge_data_is_asked_for_in_every_format_and_op() -> None:
    edge = convolutions("edge")
    assert {kind for case in edge for kind in case.data} == {
        "edge-nan", "edge-inf", "edge-zero", "edge-subnormal", "edge-huge",
    }  # fmt: skip
    assert {(case.op, case.dtype) for case in edge} == set(
        itertools.product(
            ("conv", "conv_transpose", "conv_input_gradient"), ("float16", "bfloat16", "float32", "float64")
        )
    )


def test_every_published_case_brings_its_result_and_its_source() -> None:
    for case in cases("published"):
        assert case.data == (PUBLISHED,)
        assert case.vectors is not None
        assert "output" in case.vectors.expected, case.id
        assert case.source, case.id


@pytest.mark.parametrize("case", convolutions("published"), ids=lambda case: case.id)
def test_a_published_vector_is_what_the_plain_loop_computes(case: Convolution) -> None:
    assert case.vectors is not None
    np.testing.assert_array_equal(plain_loop(case, case.vectors.tensors), case.vectors.expected["output"])


def test_published_vectors_see_a_kernel_that_is_turned() -> None:
    """Were the loop above wrong in this way, it could not agree with them."""
    seeing = set()
    for case in convolutions("published"):
        assert case.vectors is not None
        weight = case.vectors.tensors["weight"]
        turned = {**case.vectors.tensors, "weight": np.flip(weight, tuple(range(2, weight.ndim)))}
        if not np.array_equal(plain_loop(case, turned), case.vectors.expected["output"]):
            seeing.add(case.id)
    large = {case.id for case in convolutions("published") if max(case.kernel) > 1}
    of_onnx = {name for name in large if name.startswith("published/onnx-")}
    assert seeing == large - of_onnx | {"published/onnx-convtranspose-dilations"}
