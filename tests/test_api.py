"""What a program may use: five lines with any array library, and a list of names that stays."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import conformance
from conformance import (
    BadInput,
    Outcome,
    assert_conforms,
    conv_matrix,
    judge,
    load_cases,
    make_case,
    pose,
    pose_given,
    run,
)
from conformance.arrays import as_numpy
from conformance.dtypes import FORMATS, round_once

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
RNG = np.random.default_rng(7)
SAID = {"op": "conv_transpose", "input": [4, 5], "kernel": [2, 3], "stride": 2, "in_channels": 3, "out_channels": 2}


def numbers(case: Any, dtype: str = "float32") -> dict[str, np.ndarray]:
    return {name: RNG.standard_normal(shape).astype(dtype) for name, shape in case.tensor_shapes.items()}


def right(case: Any, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """The result by the matrix itself, rounded once."""
    matrix = conv_matrix(case, tensors["weight"].astype(np.float64))
    matrix = matrix.T if case.transposed else matrix
    images = [matrix @ image.astype(np.float64).ravel() for image in tensors["input"]]
    exact = np.stack(images).reshape(case.result_shapes["output"])
    if "bias" in tensors:
        exact += tensors["bias"].astype(np.float64).reshape(-1, 1, 1)
    return round_once(exact, FORMATS[case.dtype])


# ---- assert_conforms ----


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("op", ["conv", "conv_transpose"])
def test_a_right_result_of_anybodys_numbers_conforms(op: str, dtype: str) -> None:
    case = make_case(**SAID | {"op": op, "input": [6, 7], "bias": True, "batch": 2, "dtype": dtype})
    tensors = numbers(case, FORMATS[dtype].dtype.name)
    assert assert_conforms(right(case, tensors), case, tensors).passed


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e6])
def test_rounding_is_legal_and_one_wrong_number_is_not(scale: float) -> None:
    case = make_case(**SAID)
    tensors = numbers(case)
    tensors["input"] *= np.float32(scale)
    legal = right(case, tensors)
    legal = np.nextafter(legal, np.float32(np.inf))
    assert assert_conforms(legal, case, tensors).verdict == "within_bound"
    wrong = legal.copy()
    wrong[0, 1, 2, 3] += 1e-4 * np.abs(wrong).max()
    with pytest.raises(AssertionError, match=r"^deviates: at \[0,1,2,3\] got .*, expected "):
        assert_conforms(wrong, case, tensors)


def test_whole_numbers_leave_no_tolerance_at_all() -> None:
    case = make_case(**SAID)
    tensors = {name: RNG.integers(-9, 10, shape).astype(np.float32) for name, shape in case.tensor_shapes.items()}
    result = right(case, tensors)
    assert assert_conforms(result, case, tensors).verdict == "exact"
    result[0, 0, 0, 0] = np.nextafter(result[0, 0, 0, 0], np.float32(np.inf))
    with pytest.raises(AssertionError, match=r"exact data"):
        assert_conforms(result, case, tensors)


def test_numbers_that_are_all_multiples_of_a_small_unit_are_exact_too() -> None:
    case = make_case(**SAID | {"bias": True})
    tensors = {name: RNG.integers(-9, 10, shape) * np.float32(2.0**-70) for name, shape in case.tensor_shapes.items()}
    tensors["bias"] = tensors["bias"] * np.float32(2.0**-70)
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    assert pose_given(case, tensors).data == "exact"
    tensors["bias"][0] = 1.0
    assert pose_given(case, tensors).data == "published"


def test_half_a_million_terms_of_random_numbers_never_alarm() -> None:
    """float64 itself rounds their sums, and the bounds allow for it."""
    case = make_case(op="conv", input=[200], kernel=200, in_channels=300, out_channels=4, dtype="float64", batch=3)
    tensors = numbers(case, "float64")
    x, w = tensors["input"], tensors["weight"]
    for order in (slice(None), slice(None, None, -1)):
        ours = np.einsum("ncx,kcx->nk", x[:, order], w[:, order])[..., None]
        assert assert_conforms(ours, case, tensors).passed


def test_a_weaker_arithmetic_conforms_only_where_it_is_promised() -> None:
    case = make_case(**SAID | {"in_channels": 32})
    tensors = numbers(case)
    rounded = {name: (t.view(np.uint32) + 0x1000 & 0xFFFFE000).view(np.float32) for name, t in tensors.items()}
    result = right(case, rounded)
    assert assert_conforms(result, case, tensors, arithmetic="tf32").verdict == "within_bound"
    with pytest.raises(AssertionError, match=r"^reduced: computed as with tf32"):
        assert_conforms(result, case, tensors)


def test_a_case_may_be_said_in_words() -> None:
    tensors = {"input": np.ones((1, 1, 2), np.float32), "weight": np.ones((1, 1, 2), np.float32)}
    assert_conforms(np.array([[[1, 2, 1]]], np.float32), {"op": "conv_transpose", "input": [2], "kernel": 2}, tensors)


def test_an_open_specification_is_no_failure() -> None:
    """input x stride is 9 rows; without negative pads there are 7, which onnxruntime returns."""
    case = make_case(op="conv_transpose", input=[3], kernel=1, stride=3, auto_pad="SAME_UPPER")
    tensors = {"input": np.float32([[[1, 2, 3]]]), "weight": np.float32([[[1]]])}
    seven = np.float32([[[1, 0, 0, 2, 0, 0, 3]]])
    assert assert_conforms(seven, case, tensors).verdict == "ambiguous"
    seven[0, 0, 0] = 2
    with pytest.raises(AssertionError, match=r"^(deviates|wrong_shape)"):
        assert_conforms(seven, case, tensors)


def test_ops_of_several_stages_take_a_mapping() -> None:
    case = make_case(op="max_pool", input=[4], kernel=2)
    tensors = {"input": np.float32([[[1, 3, 2, 2]]])}
    told = {"output": np.float32([[[3, 2]]]), "indices": np.array([[[1, 2]]])}
    assert assert_conforms(told, case, tensors).passed
    with pytest.raises(AssertionError):
        assert_conforms(told | {"indices": np.array([[[0, 2]]])}, case, tensors)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("weight"), "expected the tensors input, weight, got input"),
        (lambda t: t.update(bias=np.zeros(2)), "expected the tensors input, weight, got input, weight, bias"),
        (lambda t: t.update(input=np.zeros((3, 4))), r"input: expected the shape \(1, 3, 4, 5\), got \(3, 4\)"),
        (lambda t: t.update(input=np.full((1, 3, 4, 5), 0.1)), "input: holds numbers that float32 does not have"),
        (lambda t: t.update(input=np.full((1, 3, 4, 5), np.inf)), "input: expected finite numbers"),
        (lambda t: t.update(input=np.full((1, 3, 4, 5), 1e300)), "input: expected finite numbers"),
        (lambda t: t.update(input=np.full((1, 3, 4, 5), 2.0**127)), "may overflow float32"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change: Callable[[dict[str, Any]], Any], told: str) -> None:
    case = make_case(**SAID)
    tensors: dict[str, Any] = {name: np.ones(shape, np.float32) for name, shape in case.tensor_shapes.items()}
    change(tensors)
    with pytest.raises(BadInput, match=told):
        pose_given(case, tensors)


def test_a_wrong_shape_says_both() -> None:
    case = make_case(**SAID)
    with pytest.raises(AssertionError, match=r"^wrong_shape: expected 1x2x8x11, got 2x8x11"):
        assert_conforms(np.zeros((2, 8, 11), np.float32), case, numbers(case))


# ---- Any array library ----


def test_arrays_of_torch_are_taken_with_their_history_and_bfloat16() -> None:
    torch = pytest.importorskip("torch")
    x = torch.arange(6.0, requires_grad=True).reshape(2, 3)
    assert as_numpy(x.T * 1).tolist() == [[0, 3], [1, 4], [2, 5]]
    half = as_numpy(torch.tensor([1.5, -2.0]).bfloat16()[::1])
    assert half.dtype == ml_dtypes.bfloat16
    assert half.astype(float).tolist() == [1.5, -2.0]
    assert as_numpy(torch.arange(6.0).bfloat16().reshape(2, 3).T).astype(float).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_torch_conforms_in_five_lines() -> None:
    torch = pytest.importorskip("torch")
    case = make_case(op="conv_transpose", input=[8, 8], kernel=4, stride=2, padding=1, in_channels=3, out_channels=2)
    x, w = torch.randn(1, 3, 8, 8), torch.randn(3, 2, 4, 4)
    y = torch.nn.functional.conv_transpose2d(x, w, stride=2, padding=1)
    assert_conforms(y, case, {"input": x, "weight": w})
    with pytest.raises(AssertionError, match=r"^deviates"):
        assert_conforms(y.flip(-1), case, {"input": x, "weight": w})


def test_arrays_of_jax_are_taken() -> None:
    jnp = pytest.importorskip("jax.numpy")
    assert as_numpy(jnp.ones((2, 3), "bfloat16")).dtype == ml_dtypes.bfloat16
    assert as_numpy(jnp.arange(3)).tolist() == [0, 1, 2]


def test_lists_and_whatever_has_a_way_to_numpy_are_taken() -> None:
    class Tensor:
        def numpy(self) -> np.ndarray:
            return np.ones(2)

    class OnDevice:
        def get(self) -> np.ndarray:
            return np.zeros(3)

    assert as_numpy([[1.0, 2.0]]).shape == (1, 2)
    assert as_numpy(Tensor()).tolist() == [1, 1]
    assert as_numpy(OnDevice()).tolist() == [0, 0, 0]


@pytest.mark.parametrize("thing", ["text", None, object(), {"a": 1}])
def test_what_is_no_array_is_refused(thing: object) -> None:
    with pytest.raises(TypeError, match="expected an array of numbers"):
        as_numpy(thing)


# ---- The other names ----


def test_a_case_is_made_as_in_yaml_and_its_mistakes_are_told_alike() -> None:
    case = make_case(op="conv", input=(5, 6), kernel=np.int64(3), padding=[[0, 1], 2])
    assert case.result_shapes == {"output": (1, 1, 4, 8)}
    with pytest.raises(BadInput, match=r"cases\.case\.strid: unknown key; did you mean stride\?"):
        make_case(op="conv", input=[5], kernel=3, strid=2)
    with pytest.raises(BadInput, match="expected values as in YAML, got object"):
        make_case(op="conv", input=object())


def test_the_matrix_of_a_case_is_the_convolution() -> None:
    case = make_case(op="conv", input=[4, 4], kernel=3)
    weight = np.arange(9.0).reshape(1, 1, 3, 3)
    image = RNG.integers(-5, 6, (4, 4)).astype(float)
    expected = [[(image[i : i + 3, j : j + 3] * weight[0, 0]).sum() for j in range(2)] for i in range(2)]
    assert (conv_matrix(case, weight) @ image.ravel()).reshape(2, 2).tolist() == expected
    with pytest.raises(BadInput, match="expected the shape"):
        conv_matrix(case, weight[0])
    with pytest.raises(BadInput, match="expected a convolution, got max_pool"):
        conv_matrix(make_case(op="max_pool", input=[4], kernel=2), weight)


def test_judging_takes_arrays_mappings_and_outcomes() -> None:
    problem = pose(make_case(**SAID))
    rounded = problem.rounded  # type: ignore[attr-defined]
    assert judge(problem, rounded).verdict == "exact"
    assert judge(problem, {"output": rounded}).verdict == "exact"
    assert judge(problem, Outcome("unsupported", message="no")).verdict == "unsupported"


def test_running_yields_a_record_for_each_verdict() -> None:
    pytest.importorskip("onnxruntime")
    cases = load_cases(["dumoulin-visin"])[:3]
    records = list(run(cases, ["onnxruntime"], data=["exact"]))
    assert [(r.case, r.target, r.data) for r in records] == [(c.id, "onnxruntime@cpu", "exact") for c in cases]
    with pytest.raises(BadInput, match="no such target"):
        list(run(cases, ["none"]))


def test_the_public_names_are_those_of_the_page() -> None:
    documented = set(re.findall(r"^\| `(\w+)", PAGE.read_text(), re.MULTILINE))
    assert documented == set(conformance.__all__) - {"__version__"}
    assert set(conformance.api.__all__) == documented
    assert set(dir(conformance)) >= documented
    for name in documented:
        assert getattr(conformance, name).__doc__, name


def test_the_examples_of_the_page_run() -> None:
    pytest.importorskip("torch")
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", PAGE.read_text(), re.MULTILINE)
    ran = 0
    for block in blocks:
        if "assert_conforms" in block or "conv_matrix" in block:
            code = "\n".join(line.removeprefix("    ") for line in block.splitlines())
            if "pytest" not in code:
                exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102
                ran += 1
    assert ran >= 2


def test_importing_the_package_imports_nothing_and_what_is_not_there_is_told() -> None:
    script = "import sys, conformance; print('numpy' in sys.modules, hasattr(conformance, 'nonsense'))"
    assert subprocess.run((sys.executable, "-c", script), capture_output=True, text=True, check=True).stdout == (
        "False False\n"
    )
