"""What PyTorch's operators, its gradients and Captum must do with chains.

Expected numbers are worked out by hand or follow from a definition written here in NumPy.
"""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conformance.dtypes import FORMATS
from conformance.execution import known_targets
from conformance.spec import Case, Chain, Deconvnet, MaxPool, MaxUnpool, ResponseNorm, ResponseNormGradient, is_index
from conformance.spec.loader import OPS
from conformance.spec.steps import Isolate, Rectify
from conformance.targets import captum_target, torch_targets
from conformance.targets.base import Target, Unsupported
from conformance.targets.torch_chain import TorchSteps

TARGETS: dict[str, Callable[[], Target]] = {
    "torch": torch_targets.Torch,
    "torch-autograd": torch_targets.TorchAutograd,
    "captum": captum_target.Captum,
}
Arrays = Mapping[str, np.ndarray]


@functools.cache
def target(name: str) -> Target:
    return TARGETS[name]()


@functools.cache
def steps() -> TorchSteps:
    made = torch_targets.Torch().steps(make("max_pool", input=[1], kernel=1))
    assert isinstance(made, TorchSteps)
    return made


def make(op: str, **keys: Any) -> Any:
    """The case that these keys would make in a YAML file."""
    entry = OPS[op].model_validate({"op": op, **keys})
    common = {"id": "t/case", "op": op, "dtype": entry.dtype, "batch": entry.batch, "data": ("rounding",)}
    return entry.resolve(common)


def net(*layers: Any, **keys: Any) -> Deconvnet:
    case = make("deconvnet", **{"dtype": "float64", "batch": 2, "in_channels": 2, "layers": list(layers), **keys})
    assert isinstance(case, Deconvnet)
    return case


def draw(case: Case, seed: int = 0) -> dict[str, np.ndarray]:
    """Numbers of either sign, and switches anywhere in the plane that they address."""
    rng = np.random.default_rng(seed)
    dtype = FORMATS[case.dtype].dtype
    return {
        name: rng.integers(0, 2, shape) if is_index(name) else rng.normal(size=shape).astype(dtype)
        for name, shape in case.tensor_shapes.items()
    }


def run(name: str, case: Case, tensors: Arrays | None = None) -> Arrays:
    return target(name).run(case, draw(case) if tensors is None else tensors)


def reason(name: str, case: Case) -> str:
    """Why the target declines the case."""
    with pytest.raises(Unsupported) as caught:
        run(name, case)
    return str(caught.value)


def apply(method: str, step: Any, *fed: Any) -> np.ndarray:
    """One step, on arrays."""
    values = [steps().read("", np.asarray(array)) for array in fed]
    return steps().results({"given": getattr(steps(), method)(step, *values)})["given"]


def close(one: np.ndarray, other: np.ndarray, ulps: int = 64) -> bool:
    """Whether two float64 arrays agree but for rounding, measured by their largest element."""
    assert one.shape == other.shape
    return bool(np.abs(one - other).max() <= ulps * np.finfo(np.float64).eps * np.abs(other).max())


def pooled(case: MaxPool, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maxima and switches, window by window; a later element wins only if it is larger."""
    values, switches = np.zeros(case.small_shape), np.zeros(case.small_shape, np.int64)
    for at in np.ndindex(case.small_shape):
        best = None
        for tap in itertools.product(*map(range, case.kernel)):
            j = tuple(m * a.stride - a.begin + t * a.dilation for m, t, a in zip(at[2:], tap, case.axes, strict=True))
            if not all(0 <= i < size for i, size in zip(j, case.large, strict=True)):
                continue
            value = x[(*at[:2], *j)]
            if best is None or (abs(value) > abs(best) if case.magnitude else value > best):
                best = value
                values[at], switches[at] = value, np.ravel_multi_index(j, case.large)
    return values, switches


# Pooling


def test_torch_switches_are_flat_within_each_plane_as_they_come() -> None:
    import torch

    x = torch.zeros(2, 2, 3, 4)
    x[:, :, 2, 1] = 1.0
    _, indices = torch.nn.functional.max_pool2d(x, (3, 4), return_indices=True)
    assert indices.dtype == torch.int64
    assert indices.flatten().tolist() == [2 * 4 + 1] * 4


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("dtype", FORMATS)
def test_of_equal_maxima_the_first_is_the_switch(rank: int, dtype: str) -> None:
    case = make("max_pool", input=[3] * rank, kernel=2, stride=1, dtype=dtype)
    results = run("torch", case, {"input": np.ones(case.large_shape, FORMATS[dtype].dtype)})
    first = np.ravel_multi_index(tuple(np.indices((2,) * rank)), (3,) * rank)
    np.testing.assert_array_equal(results["indices"][0, 0], first)
    assert results["indices"].dtype == np.int64
    assert results["output"].dtype == FORMATS[dtype].dtype


POOLINGS = {
    "plain": {"input": [6], "kernel": 2},
    "overlapping": {"input": [7, 8], "kernel": 3, "stride": 2},
    "remainder": {"input": [8, 5], "kernel": 3, "stride": [3, 2]},
    "volume": {"input": [4, 5, 3], "kernel": [2, 3, 2], "stride": [2, 1, 1]},
    "padded": {"input": [6, 5], "kernel": 3, "stride": 2, "padding": 1},
    "ceil": {"input": [6, 7], "kernel": 3, "stride": 2, "ceil_mode": True},
    "ceil padded": {"input": [5, 7], "kernel": [3, 2], "stride": [3, 2], "padding": 1, "ceil_mode": True},
    "ceil uneven": {"input": [6, 7], "kernel": 3, "stride": 2, "padding": [[1, 0], [0, 1]], "ceil_mode": True},
    "dilated": {"input": [7, 8], "kernel": [2, 3], "stride": 2, "dilation": [3, 2], "padding": [1, 1]},
    "uneven": {"input": [5, 6], "kernel": 3, "stride": 2, "padding": [[2, 0], [0, 1]]},
    "uneven volume": {"input": [3, 4, 5], "kernel": 2, "padding": [[1, 0], [0, 1], [1, 1]]},
    "more than half": {"input": [5, 6], "kernel": 3, "stride": 2, "padding": 2},
    "more than half of a row": {"input": [5], "kernel": 3, "stride": 2, "padding": 2},
    "half of the dilated kernel": {"input": [7, 7], "kernel": 3, "dilation": 2, "padding": 2},
    "same": {"input": [5, 6], "kernel": [3, 2], "stride": [2, 1], "padding": "same"},
    "valid": {"input": [5, 6], "kernel": [3, 2], "padding": "valid"},
    "magnitude": {"input": [5, 6], "kernel": 3, "stride": 2, "magnitude": True},
    "magnitude uneven": {"input": [4, 5], "kernel": 2, "padding": [[1, 0], [1, 0]], "magnitude": True},
}


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_takes_the_maximum_of_each_window_and_never_padding(name: str) -> None:
    case = make("max_pool", batch=2, channels=2, **POOLINGS[name])
    x = -np.abs(draw(case)["input"]) if "magnitude" not in name else draw(case)["input"]
    values, switches = pooled(case, x)
    results = run("torch", case, {"input": x})
    np.testing.assert_array_equal(results["output"], values)
    np.testing.assert_array_equal(results["indices"], switches)


@pytest.mark.parametrize("padding", [[1, 1], [[1, 0], [0, 1]], [[0, 1], [1, 0]]])
def test_a_switch_points_into_the_plane_where_all_is_minus_infinity(padding: Any) -> None:
    case = make("max_pool", input=[3, 4], kernel=2, stride=1, padding=padding)
    x = np.full(case.large_shape, -np.inf, np.float32)
    np.testing.assert_array_equal(run("torch", case, {"input": x})["indices"], pooled(case, x)[1])


def test_a_switch_of_a_dilated_window_that_begins_in_the_padding_names_one_of_its_elements() -> None:
    case = make("max_pool", input=[5, 4], kernel=[3, 2], stride=[3, 1], padding=[2, 0], dilation=2)
    x = np.full(case.large_shape, -np.inf, np.float32)
    np.testing.assert_array_equal(run("torch", case, {"input": x})["indices"], pooled(case, x)[1])


def test_ceil_mode_has_a_window_for_the_rest_but_none_in_the_padding() -> None:
    assert make("max_pool", input=[110], kernel=3, stride=2, ceil_mode=True).small == (55,)
    for size, small in ((5, 2), (6, 3), (7, 3)):
        case = make("max_pool", input=[size, size], kernel=3, stride=2, ceil_mode=True)
        assert run("torch", case)["output"].shape == (1, 1, small, small)
    inside = make("max_pool", input=[4], kernel=2, stride=3, padding=1, ceil_mode=True)
    assert run("torch", inside)["output"].shape == (1, 1, 2)


# Unpooling


def unpooled(case: MaxUnpool, values: list[float], indices: list[int]) -> list[float]:
    tensors = {"input": np.array([[values]], np.float32), "indices": np.array([[indices]])}
    tensors = {name: array.reshape(case.small_shape) for name, array in tensors.items()}
    result: list[float] = run("torch", case, tensors)["output"][0, 0].ravel().tolist()
    return result


@pytest.mark.parametrize(
    ("overlap", "expected"), [("sum", [0, 0, 8, 0, 4]), ("assign", [0, 0, 5, 0, 4]), ("mean", [0, 0, 4, 0, 4])]
)
def test_where_windows_overlap_the_policy_decides(overlap: str, expected: list[float]) -> None:
    """Windows [0, 2], [1, 3] and [2, 4] of a row of 5; the first two name place 2."""
    case = make("max_unpool", input=[3], kernel=3, stride=1, overlap=overlap)
    assert unpooled(case, [3, 5, 4], [2, 2, 4]) == expected


@pytest.mark.parametrize(("overlap", "centre"), [("sum", 10), ("assign", 4), ("mean", 2.5)])
def test_four_windows_may_name_one_place(overlap: str, centre: float) -> None:
    """Pooling 3/2 of 5 x 5: all four windows hold the centre, which is place 12."""
    case = make("max_unpool", input=[2, 2], kernel=3, stride=2, overlap=overlap)
    spread = unpooled(case, [1, 2, 3, 4], [12] * 4)
    assert spread == [0.0] * 12 + [centre] + [0.0] * 12


@pytest.mark.parametrize("overlap", ["sum", "assign", "mean"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_unpooling_puts_back_what_pooling_took(rank: int, overlap: str) -> None:
    size = [5, 7, 5][:rank]  # the last row is in no window, so the size has to be said
    pool = make("max_pool", batch=2, channels=2, input=size, kernel=2)
    x = draw(pool)["input"]
    taken = run("torch", pool, {"input": x})
    case = make("max_unpool", batch=2, channels=2, input=list(pool.small), kernel=2, overlap=overlap, output_size=size)
    spread = run("torch", case, {"input": taken["output"], "indices": taken["indices"]})["output"]
    assert spread.shape == x.shape
    assert np.count_nonzero(spread) == taken["output"].size
    np.testing.assert_array_equal(spread[spread != 0], x[spread != 0])


def test_output_size_is_said_only_where_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    said: list[Any] = []
    unpool = torch.nn.functional.max_unpool1d
    monkeypatch.setattr(
        torch.nn.functional, "max_unpool1d", lambda *args: said.append((args[4], args[5])) or unpool(*args)
    )
    keys: dict[str, Any] = {"kernel": 2, "overlap": "assign"}
    for more in ({}, {"padding": 1}, {"output_size": [7]}, {"output_size": [6]}, {"padding": [[1, 0]]}):
        run("torch", make("max_unpool", input=[3], **keys, **more))
    assert said == [((0,), None), ((1,), None), ((0,), [7]), ((0,), [6]), ((1,), [5])]


def test_a_size_that_the_unpooling_of_torch_cannot_reach_is_declined() -> None:
    case = net(
        {"conv": 1, "kernel": 1}, {"max_pool": 2, "stride": 1, "padding": "same"}, input=[5, 5], overlap="assign"
    )
    assert reason("torch", case) == "torch's unpooling gives sizes less than stride 1 from 6, not 5"
    assert "output" in run("torch", replace(case, overlap="sum"))


# The small steps


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_response_normalisation_divides_alpha_by_its_size(rank: int, size: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 6, *[3] * rank))
    step = ResponseNorm(size, alpha=0.5, beta=0.75, k=2.0)
    half = size // 2
    windows = [np.square(x[:, max(c - half, 0) : c + half + 1]).sum(axis=1) for c in range(6)]
    expected = x / (2.0 + 0.5 / size * np.stack(windows, axis=1)) ** 0.75
    assert close(apply("response_norm", step, x), expected, ulps=8)


def test_the_gradient_of_response_normalisation_is_its_transposed_jacobian() -> None:
    """``d y_c / d x_j = [c = j] d_c^-b - 2 (a / n) b x_c x_j d_c^(-b - 1)`` for j in the window of c."""
    rng = np.random.default_rng(0)
    x, signal = rng.normal(size=(2, 1, 5, 1))
    step = ResponseNorm(3, alpha=0.9, beta=0.75, k=1.0)
    near = np.abs(np.subtract.outer(range(5), range(5))) <= 1
    a = x[0, :, 0]
    d = 1.0 + 0.3 * near @ a**2
    jacobian = np.diag(d**-0.75) - 2 * 0.3 * 0.75 * near * np.outer(a * d**-1.75, a)
    expected = (signal[0, :, 0] @ jacobian).reshape(x.shape)
    assert close(apply("response_norm_gradient", ResponseNormGradient(step), signal, x), expected, ulps=8)


def test_the_rectifier_looks_at_the_signal_the_activation_or_both() -> None:
    signal, activation = [-2.0, -1.0, 1.0, 2.0], [0.0, 3.0, 0.0, 3.0]
    expected = {"signal": [0, 0, 1, 2], "mask": [0, -1, 0, 2], "both": [0, 0, 0, 2]}
    for by, values in expected.items():
        fed = (signal,) if by == "signal" else (signal, activation)
        assert apply("rectify", Rectify(by), *fed).tolist() == values  # type: ignore[arg-type]


TIES = np.array([[[[1, 5], [5, 2]], [[5, 3], [4, 5]]], [[[-4, -4], [-9, -8]], [[-7, -4], [-4, -6]]]], np.float32)
"""Two images of two channels; of each the strongest value comes several times, first in channel 0."""


@pytest.mark.parametrize(
    ("isolate", "kept"),
    [
        (Isolate("unit"), [1, 8]),
        (Isolate("unit", channel=1), [4, 13]),
        (Isolate("unit", unit=(1, 1)), [3, 11]),
        (Isolate("unit", channel=1, unit=(1, 0)), [6, 14]),
        (Isolate("channel"), [0, 1, 2, 3, 8, 9, 10, 11]),
        (Isolate("channel", channel=1), [4, 5, 6, 7, 12, 13, 14, 15]),
        (Isolate("none"), list(range(16))),
    ],
)
@pytest.mark.parametrize("seed", ["activation", "one"])
def test_what_is_kept_is_the_first_of_the_strongest_in_each_image(isolate: Isolate, kept: list[int], seed: Any) -> None:
    expected = np.zeros(16, np.float32)
    expected[kept] = TIES.ravel()[kept] if seed == "activation" else 1.0
    result = apply("isolate", replace(isolate, seed=seed), TIES)
    np.testing.assert_array_equal(result.ravel(), expected)


# Chains


def test_a_convolution_pads_unevenly_in_a_chain_and_not_by_itself() -> None:
    """As users do who have to: zeros first, then the convolution."""
    padding = [[1, 0], [0, 2]]
    alone = make("conv", in_channels=2, out_channels=3, input=[4, 5], kernel=[2, 3], padding=padding, dtype="float64")
    assert "cannot pad" in reason("torch", alone)
    case = net({"conv": 3, "kernel": [2, 3], "padding": padding, "bias": False}, input=[4, 5], batch=1)
    tensors = draw(case)
    padded = np.pad(tensors["input"], [(0, 0), (0, 0), (1, 0), (0, 2)])
    plain = replace(alone, axes=make("conv", input=[5, 7], kernel=[2, 3]).axes, padding=((0, 0), (0, 0)))
    expected = run("torch", plain, {"input": padded, "weight": tensors["conv1.weight"]})["output"]
    way_up = run("torch-autograd", replace(case, op="deconvnet_gradient"), tensors)
    assert way_up["output"].shape == case.layers[0].input
    values = [steps().read("", tensors[name]) for name in ("input", "conv1.weight")]
    given = steps().results({"conv1": steps().convolution(case.layers[0].step, *values)})["conv1"]
    np.testing.assert_array_equal(given, expected)


def test_a_crop_that_torch_cannot_say_is_declined_in_a_chain_as_by_itself() -> None:
    for padding, words in (([[0, 1], [0, 1]], "cannot crop 1 rows more at the end"), ([[1, 0], [1, 0]], "not 1")):
        case = net({"conv": 3, "kernel": 2, "padding": padding}, input=[4, 5])
        assert words in reason("torch", case)
        assert run("torch-autograd", case)["output"].shape == case.layers[0].input


POLICIES: dict[str, dict[str, Any]] = {
    "the paper's": {},
    "guided": {"rectify": "both", "seed": "one", "isolate": "channel"},
    "gradient": {"rectify": "mask", "lrn_down": "gradient", "isolate": "none"},
    "others": {"rectify": "none", "lrn_down": "forward", "overlap": "mean", "bias_down": "below"},
    "assigned": {"overlap": "assign", "channel": 1, "unit": [1, 0]},
}
CONV: dict[str, Any] = {"conv": 4, "kernel": 3}
LAYERS: tuple[Any, ...] = (
    {"conv": 3, "kernel": 5, "stride": 2, "padding": 1},
    "relu",
    {"max_pool": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    {"lrn": 3, "alpha": 0.5},
    CONV,
    "relu",
)


def replayed(case: Chain, fed: Arrays, given: Arrays) -> dict[str, np.ndarray]:
    """Every stage by itself, on what the chain says that it was fed."""
    methods = {"Deconvnet": None, "Convolution": "convolution", "MaxPool": "max_pool", "MaxUnpool": "max_unpool"}
    methods |= {"Rectify": "rectify", "ResponseNorm": "response_norm", "Isolate": "isolate"}
    methods |= {"ResponseNormGradient": "response_norm_gradient", "Reshape": "reshape", "Take": "take"}
    again = {}
    for stage in case.stages:
        values = [steps().read(name, given[name] if name in given else fed[name]) for name in stage.reads]
        result = getattr(steps(), methods[type(stage.step).__name__] or "")(stage.step, *values)
        again |= zip(stage.gives, result if isinstance(result, tuple) else (result,), strict=True)
    return dict(steps().results(again))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_stage_of_a_deconvnet_comes_back_as_the_next_one_got_it(policy: str) -> None:
    case = net(*LAYERS, input=[20, 23], **POLICIES[policy])
    tensors = draw(case)
    given = run("torch", case, tensors)
    assert list(given) == [name for stage in case.stages for name in stage.gives]
    assert given["output"].shape == case.layers[0].input
    for name, array in replayed(case, tensors, given).items():
        np.testing.assert_array_equal(given[name], array, err_msg=name)


@pytest.mark.parametrize("direction", ["reconstruct", "project"])
def test_every_stage_of_an_adaptive_deconvnet_comes_back(direction: str) -> None:
    case = adaptive(direction=direction, switches="pooled", dtype="float32")
    tensors = draw(case)
    given = run("torch", case, tensors)
    assert list(given) == [name for stage in case.stages for name in stage.gives]
    for name, array in replayed(case, tensors, given).items():
        np.testing.assert_array_equal(given[name], array, err_msg=name)


def adaptive(**keys: Any) -> Any:
    """Two layers; pooling over 2 maps and 2 x 2 positions with overlap in the maps."""
    first = {"maps": 3, "kernel": 3, "padding": 1, "pool": [2, 2, 2], "pool_stride": [1, 2, 2]}
    return make(
        "adaptive_deconv",
        **{"dtype": "float64", "batch": 2, "in_channels": 2, "input": [6, 8]} | keys,
        layers=[first, {"maps": 4, "kernel": 2}],
    )


@pytest.mark.parametrize("overlap", ["sum", "assign"])
def test_projection_is_the_adjoint_of_reconstruction_if_unpooling_sums(overlap: str) -> None:
    """``<R z, y> = <z, R.T y>`` with the switches held."""
    down, up = (adaptive(direction=d, overlap=overlap) for d in ("reconstruct", "project"))
    shared = draw(down)
    shared["layer1.indices"][...] = 5  # every window names one place, so that they overlap
    y = draw(up, seed=1)["input"]
    reconstructed = run("torch", down, shared)["output"]
    projected = run("torch", up, shared | {"input": y})["output"]
    left, right = np.vdot(reconstructed, y), np.vdot(shared["input"], projected)
    assert np.isclose(left, right, rtol=1e-12) == (overlap == "sum")


@pytest.mark.parametrize("rectify", ["signal", "mask", "both", "none"])
def test_a_block_unpools_rectifies_and_filters(rectify: str) -> None:
    case = make("deconv_block", input=[2], kernel=1, pool={"kernel": 2}, rectify=rectify)
    tensors = {
        "input": [[[-3.0, 2.0]]],
        "indices": [[[1, 2]]],
        "weight": [[[10.0]]],
        "activation": [[[9.0, 9.0, 0.0, 9.0]]],
    }
    fed = {name: np.array(tensors[name], np.int64 if is_index(name) else np.float32) for name in case.tensor_shapes}
    expected = {"signal": [0, 0, 20, 0], "mask": [0, -30, 0, 0], "both": [0] * 4, "none": [0, -30, 20, 0]}
    assert run("torch", case, fed)["output"].ravel().tolist() == expected[rectify]


def test_inputs_stay_as_they_are_even_read_only() -> None:
    case = net(*LAYERS, input=[20, 23], seed="one", lrn_down="gradient")
    tensors = draw(case)
    for array in tensors.values():
        array.setflags(write=False)
    for name in TARGETS:
        run(name, case, tensors)
    for name, array in draw(case).items():
        np.testing.assert_array_equal(tensors[name], array)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", TARGETS)
def test_every_dtype_comes_back_as_it_went_in(name: str, dtype: str) -> None:
    case = net(*LAYERS[:3], CONV, "relu", input=[20, 23], seed="one", dtype=dtype)
    for stage, array in run(name, case).items():
        assert array.dtype == (np.int64 if is_index(stage) else FORMATS[dtype].dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_response_normalisation_without_a_kernel_is_unsupported(dtype: str) -> None:
    case = net(CONV, {"lrn": 3}, input=[5, 5], dtype=dtype)
    assert "not implemented for" in reason("torch", case)
    assert "output" in run("torch", net(CONV, {"lrn": 3}, input=[5], dtype=dtype))


def test_an_empty_batch_is_an_empty_result() -> None:
    case = net(*LAYERS, input=[20, 23], batch=0, seed="one", lrn_down="gradient")
    assert run("torch", case)["output"].shape == (0, 2, 20, 23)
    assert run("torch-autograd", case)["output"].shape == (0, 2, 20, 23)
    assert reason("captum", case) == "captum needs an image"


# The whole as a gradient

OVERLAPPING: tuple[Any, ...] = (CONV, "relu", {"max_pool": 3, "stride": 2}, CONV, "relu")
TWICE: tuple[Any, ...] = (CONV, "relu", CONV, "relu")
"""Without pooling between them rectifiers can be told apart: every switch sits on a positive unit."""


def as_gradient(case: Deconvnet) -> Deconvnet:
    return replace(case, op="deconvnet_gradient")


@pytest.mark.parametrize("isolate", ["unit", "channel", "none"])
@pytest.mark.parametrize("rectify", ["signal", "mask", "both", "none"])
@pytest.mark.parametrize("name", ["torch", "torch-autograd"])
def test_the_deconvnet_is_the_gradient_with_another_rectifier(name: str, rectify: str, isolate: str) -> None:
    for layers in (OVERLAPPING, TWICE, LAYERS):
        case = net(*layers, input=[21, 24], rectify=rectify, isolate=isolate, lrn_down="gradient")
        tensors = draw(case)
        explicit = run("torch", case, tensors)["output"]
        gradient = run(name, as_gradient(case), tensors)
        assert list(gradient) == ["output"]
        assert close(gradient["output"], explicit)
    assert run("torch-autograd", case, tensors).keys() == {"output"}


@pytest.mark.parametrize("other", ["mask", "both", "none"])
def test_another_rectifier_gives_another_gradient(other: str) -> None:
    case = net(*TWICE, input=[9, 9])
    tensors = draw(case)
    signal = run("torch", case, tensors)["output"]
    assert not close(run("torch", as_gradient(replace(case, rectify=other)), tensors)["output"], signal, ulps=10**12)


def test_plain_backpropagation_is_the_gradient_that_torch_takes_by_itself() -> None:
    import torch

    case = net(*OVERLAPPING, input=[13, 13], rectify="mask", isolate="none", seed="one")
    tensors = draw(case)
    x, *weights = (torch.from_numpy(tensors[name]) for name in tensors)
    functional = torch.nn.functional
    x.requires_grad_()
    y = functional.max_pool2d(functional.relu(functional.conv2d(x, weights[0], weights[1])), 3, 2)
    functional.relu(functional.conv2d(y, weights[2], weights[3])).sum().backward()
    assert x.grad is not None
    assert close(run("torch-autograd", case, tensors)["output"], x.grad.numpy())


def test_response_normalisation_is_passed_through_or_differentiated() -> None:
    case = net(*LAYERS, input=[20, 23])
    tensors = draw(case)
    results = []
    for policy in ("identity", "gradient"):
        way = replace(case, lrn_down=policy)  # type: ignore[arg-type]
        results.append(run("torch-autograd", way, tensors)["output"])
        assert close(results[-1], run("torch", way, tensors)["output"])
    assert not close(*results, ulps=10**9)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_gradient_has_any_rank(rank: int) -> None:
    case = net(*OVERLAPPING, input=[11, 12, 11][:rank], batch=1)
    tensors = draw(case)
    assert close(run("torch-autograd", case, tensors)["output"], run("torch", case, tensors)["output"])


@pytest.mark.parametrize("name", ["torch-autograd", "captum"])
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"overlap": "assign"}, "overlap: sum, not assign"),
        ({"overlap": "mean"}, "overlap: sum, not mean"),
        ({"bias_down": "below"}, "a gradient has no bias"),
        ({"lrn_down": "forward"}, "a gradient does not apply the response normalisation a second time"),
    ],
)
def test_what_no_gradient_does_is_declined(name: str, keys: dict[str, Any], words: str) -> None:
    case = net(*LAYERS, input=[20, 23], **{"seed": "one", "lrn_down": "gradient"} | keys)
    assert words in reason(name, case)


def test_without_overlap_a_gradient_unpools_by_every_policy() -> None:
    case = net(CONV, "relu", {"max_pool": 2}, CONV, input=[12, 12], seed="one")
    tensors = draw(case)
    for name, overlap in itertools.product(TARGETS, ("sum", "assign", "mean")):
        result = run(name, replace(case, overlap=overlap), tensors)["output"]  # type: ignore[arg-type]
        assert close(result, run("torch", case, tensors)["output"])


# Captum


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("layers", [OVERLAPPING, TWICE, LAYERS, OVERLAPPING[:-1], OVERLAPPING[:3], ("relu", *TWICE)])
def test_captum_is_the_explicit_deconvnet_that_starts_from_one(layers: tuple[Any, ...], seed: int) -> None:
    case = net(*layers, input=[20, 23], seed="one", lrn_down="gradient")
    tensors = draw(case, seed)
    ours, explicit = run("captum", case, tensors), run("torch", case, tensors)
    assert np.any(ours["output"])
    assert close(ours["output"], explicit["output"])
    for name in ours.keys() - {"output"}:
        np.testing.assert_array_equal(ours[name], explicit[name])


def test_captum_returns_the_way_up_but_not_the_way_down() -> None:
    case = net(*OVERLAPPING, input=[13, 13], seed="one")
    assert set(run("captum", case)) == {"conv1", "relu1", "pool1", "pool1.indices", "conv2", "relu2", "seed", "output"}


def test_captum_is_asked_for_the_unit_that_the_case_names() -> None:
    case = net(*OVERLAPPING, input=[13, 13], seed="one", channel=2, unit=[1, 2])
    tensors = draw(case)
    results = run("captum", case, tensors)
    assert np.argwhere(results["seed"]).tolist() == [[0, 2, 1, 2], [1, 2, 1, 2]]
    assert close(results["output"], run("torch", case, tensors)["output"])


@pytest.mark.parametrize("rank", [1, 3])
def test_captum_has_any_rank(rank: int) -> None:
    case = net(*OVERLAPPING, input=[11, 12, 11][:rank], seed="one")
    tensors = draw(case)
    assert close(run("captum", case, tensors)["output"], run("torch", case, tensors)["output"])


def test_captum_pads_what_its_modules_cannot_by_a_module_before_them() -> None:
    pool = {"max_pool": 3, "stride": 2, "padding": "same"}
    case = net({"conv": 3, "kernel": 4, "stride": 2, "padding": "same"}, "relu", pool, CONV, input=[16, 16], seed="one")
    tensors = draw(case)
    results = run("captum", case, tensors)
    assert close(results["output"], run("torch-autograd", case, tensors)["output"])
    np.testing.assert_array_equal(results["pool1.indices"], pooled(case.layers[2].step, results["relu1"])[1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"rectify": "mask"}, "rectifies the signal, it has no rectify: mask"),
        ({"rectify": "both"}, "rectifies the signal, it has no rectify: both"),
        ({"rectify": "none"}, "rectifies the signal, it has no rectify: none"),
        ({"lrn_down": "identity"}, "differentiates response normalisation, it has no lrn_down: identity"),
        ({"isolate": "channel"}, "starts from one unit of each image, it has no isolate: channel"),
        ({"isolate": "none"}, "starts from one unit of each image, it has no isolate: none"),
        ({"seed": "activation"}, "captum starts from 1, not from the activation"),
    ],
)
def test_a_way_down_that_captum_does_not_go_is_declined(keys: dict[str, Any], words: str) -> None:
    case = net(*LAYERS, input=[20, 23], **{"seed": "one", "lrn_down": "gradient"} | keys)
    assert words in reason("captum", case)


def test_captum_has_no_other_op() -> None:
    assert reason("captum", make("max_pool", input=[4], kernel=2)) == "captum@cpu has no max_pool"
    assert reason("captum", make("conv", input=[4], kernel=2)) == "captum@cpu has no conv"
    assert reason("captum", as_gradient(net(CONV, input=[4, 4]))) == "captum@cpu has no deconvnet_gradient"


def test_captum_only_is_silenced_about_its_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    captum = target("captum")
    assert isinstance(captum, captum_target.Captum)

    class Loud:
        def __init__(self, network: Any) -> None:
            self.network = network

        def attribute(self, image: Any, target: Any) -> Any:
            warnings.warn("Something else", stacklevel=1)
            return image

    monkeypatch.setattr(captum, "_attr", type("Attr", (), {"Deconvolution": Loud}))
    with pytest.warns(UserWarning, match="Something else"):
        captum.run(case := net(CONV, input=[4, 4], seed="one"), draw(case))


def test_captum_shares_the_process_of_torch_and_says_its_version() -> None:
    spec = known_targets()["captum@cpu"]
    assert spec.framework == known_targets()["torch@cpu"].framework
    assert spec.requires == ("captum", "torch")
    assert target("captum").name == "captum@cpu"
    assert target("captum").environment()["captum"] == spec.versions["captum"]


IMPORTED = "import sys; print(*sorted({'torch', 'captum'} & sys.modules.keys()))"


def imported_after(statement: str) -> str:
    command = [sys.executable, "-c", f"{statement}; {IMPORTED}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_targets_imports_no_framework() -> None:
    modules = ("torch_chain", "torch_convolution", "torch_gradient", "captum_target")
    assert imported_after(f"import {', '.join(f'conformance.targets.{name}' for name in modules)}") == ""


def test_the_test_above_can_fail() -> None:
    assert imported_after("from conformance.targets.captum_target import Captum; Captum()") == "captum torch"
