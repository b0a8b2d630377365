"""Chains as ONNX graphs: what every stage must give, stated with loops over the definition, and ONNX's own conventions.

The data are small integers where sums are to be compared with ``==``.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from conformance.dtypes import FORMATS
from conformance.spec import (
    Chain,
    Convolution,
    Isolate,
    MaxPool,
    MaxUnpool,
    Rectify,
    Reshape,
    ResponseNorm,
    ResponseNormGradient,
    Stage,
    Step,
    Take,
    is_index,
)
from conformance.spec.loader import OPS, data_kinds
from conformance.targets.base import Unsupported
from conformance.targets.chain import ChainTarget, run_chain
from conformance.targets.onnx_chain import OnnxSteps
from conformance.targets.onnx_graph import NEWEST_OPSET, Graph
from conformance.targets.onnx_pooling import pool_attributes, unpool_attributes
from conformance.targets.onnx_reference import OnnxReference
from conformance.targets.onnxruntime_target import OnnxRuntime

Tensors = Mapping[str, np.ndarray]
TARGETS = {"onnxruntime": OnnxRuntime, "onnx-reference": OnnxReference}
on_both = pytest.mark.parametrize("name", TARGETS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Single(Chain):
    """One step by itself."""

    stage: Stage

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (self.stage,)


@functools.cache
def target(name: str) -> ChainTarget:
    return TARGETS[name]()


def make(op: str, **keys: Any) -> Any:
    """The chain that these keys would make in a YAML file."""
    entry = OPS[op].model_validate({"op": op, **keys})
    common = {"id": "t/case", "op": op, "dtype": entry.dtype, "batch": entry.batch, "data": data_kinds(entry)}
    return entry.resolve(common)


def apply(name: str, step: Step, *fed: np.ndarray) -> np.ndarray:
    """What a target makes of one step."""
    stage = Stage("s", step, tuple(f"x{n}" for n in range(len(fed))), ("y",))
    case = Single(id="t/step", op="deconvnet", dtype=fed[0].dtype.name, stage=stage)
    return target(name).run(case, dict(zip(stage.reads, fed, strict=True)))["y"]


def draw(case: Chain, low: int = -3, high: int = 3) -> dict[str, np.ndarray]:
    """Small integers; indices that point into the window of their element."""
    rng = np.random.default_rng(0)
    dtype = FORMATS[case.dtype].dtype
    tensors = {n: rng.integers(low, high + 1, shape).astype(dtype) for n, shape in case.tensor_shapes.items()}
    for stage in case.stages:
        for name in stage.reads:
            if is_index(name) and name in tensors:
                tensors[name] = pick(stage.step, tensors[name].shape)
    return tensors


def pick(step: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Indices that the pooling of these axes could have given."""
    large = (*shape[:2], *(axis.large for axis in step.axes))
    noise = np.random.default_rng(1).standard_normal(large).astype(np.float32)
    return pooled(step.axes, noise, False)[1]


def pooled(axes: Any, x: np.ndarray, magnitude: bool) -> tuple[np.ndarray, np.ndarray]:
    """Max pooling, window by window: the first of equal maxima wins, and padding never does."""
    output = np.zeros((*x.shape[:2], *(a.small for a in axes)), x.dtype)
    indices = np.zeros(output.shape, np.int64)
    for at in np.ndindex(*output.shape):
        best = -1.0 if magnitude else -np.inf
        for tap in itertools.product(*(range(a.kernel) for a in axes)):
            j = tuple(m * a.stride - a.begin + t * a.dilation for m, t, a in zip(at[2:], tap, axes, strict=True))
            if all(0 <= i < a.large for i, a in zip(j, axes, strict=True)):
                value = x[(*at[:2], *j)]
                if (abs(value) if magnitude else value) > best:
                    best = abs(value) if magnitude else value
                    output[at], indices[at] = value, np.ravel_multi_index(j, x.shape[2:])
    return output, indices


def unpooled(step: MaxUnpool, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Every value to its place; of several, their sum, their mean, or the last in C order."""
    planes = (*step.large_shape[:2], int(np.prod(step.large)))
    total, count = np.zeros(planes), np.zeros(planes)
    for at in np.ndindex(*x.shape):
        place = (*at[:2], indices[at])
        total[place] = x[at] if step.overlap == "assign" else total[place] + x[at]
        count[place] += 1
    result = total / np.maximum(count, 1) if step.overlap == "mean" else total
    return result.reshape(step.large_shape)


def convolved(step: Convolution, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """Tap t joins m of the small side with j = m * stride - begin + t * dilation of the large side."""
    result = np.zeros(step.result_shapes["output"])
    width = step.large_channels // step.groups
    for m, tap in itertools.product(np.ndindex(*step.small), np.ndindex(*step.kernel)):
        j = tuple(i * a.stride - a.begin + t * a.dilation for i, t, a in zip(m, tap, step.axes, strict=True))
        if not all(0 <= i < a.large for i, a in zip(j, step.axes, strict=True)):
            continue
        for small, within in np.ndindex(step.small_channels, width):
            large = small // (step.small_channels // step.groups) * width + within
            ends = ((slice(None), small, *m), (slice(None), large, *j))
            source, sink = ends if step.transposed else ends[::-1]
            result[sink] += x[source].astype(np.float64) * float(weight[(small, within, *tap)])
    return result if bias is None else result + bias.astype(np.float64).reshape(-1, *[1] * step.rank)


def isolated(step: Isolate, x: np.ndarray) -> np.ndarray:
    kept = np.zeros(x.shape, bool)
    for n, maps in enumerate(x):
        channel = np.argmax(maps) // maps[0].size if step.channel is None else step.channel
        unit = np.unravel_index(np.argmax(maps[channel]), maps.shape[1:]) if step.unit is None else step.unit
        kept[{"unit": (n, channel, *unit), "channel": (n, channel), "none": (n,)}[step.keep]] = True
    return np.where(kept, x if step.seed == "activation" else 1, 0)


def scales(norm: ResponseNorm, x: np.ndarray) -> np.ndarray:
    """k + alpha / size * the sum of squares over the window around each channel."""
    half = norm.size // 2
    sums = [np.square(x[:, max(c - half, 0) : c + half + 1]).sum(axis=1) for c in range(x.shape[1])]
    return norm.k + norm.alpha / norm.size * np.stack(sums, axis=1)


def normalised(norm: ResponseNorm, x: np.ndarray) -> np.ndarray:
    return x / scales(norm, x) ** norm.beta


def by_definition(step: Step, *fed: np.ndarray) -> tuple[np.ndarray, ...]:
    if isinstance(step, MaxPool):
        return pooled(step.axes, fed[0], step.magnitude)
    if isinstance(step, MaxUnpool):
        return (unpooled(step, *fed),)
    if isinstance(step, Convolution):
        return (convolved(step, *fed),)
    if isinstance(step, Isolate):
        return (isolated(step, fed[0]),)
    if isinstance(step, Reshape):
        return (fed[0].reshape(step.shape),)
    if isinstance(step, Take):
        flat = fed[0].reshape(*fed[1].shape[:2], -1)
        return (np.take_along_axis(flat, fed[1].reshape(*fed[1].shape[:2], -1), axis=2).reshape(fed[1].shape),)
    assert isinstance(step, Rectify)
    signal = fed[0] if step.by == "mask" else np.maximum(fed[0], 0)
    return (signal if step.by == "signal" else np.where(fed[1] > 0, signal, 0),)


def assert_right(name: str, case: Chain, tensors: Tensors | None = None) -> Tensors:
    """Every stage is returned, and gives by definition what follows from what the stages before it returned."""
    tensors = tensors or draw(case)
    given = target(name).run(case, tensors)
    assert list(given) == [result for stage in case.stages for result in stage.gives]
    values = {**tensors, **given}
    for stage in case.stages:
        expected = by_definition(stage.step, *(values[fed] for fed in stage.reads))
        for result, wanted in zip(stage.gives, expected, strict=True):
            assert given[result].dtype == (np.int64 if is_index(result) else FORMATS[case.dtype].dtype), result
            np.testing.assert_array_equal(given[result].astype(np.float64), wanted.astype(np.float64), result)
    return given


def model_of(case: Chain, tensors: Tensors | None = None, room: float = float("inf")) -> tuple[Any, Tensors]:
    """The one model that a chain becomes, and what it is fed."""
    seen: list[tuple[Any, Tensors]] = []

    def run(model: Any, feeds: Tensors) -> Sequence[np.ndarray]:
        seen.append((model, dict(feeds)))
        return [np.zeros(0)] * len(model.graph.output)

    run_chain(case, tensors or draw(case), OnnxSteps(case, NEWEST_OPSET, run, room))
    assert len(seen) == 1
    return seen[0]


def operators(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node]


# ---- ONNX's own conventions, on graphs written down here ----


def raw(name: str, operator: str, feeds: Tensors, outputs: tuple[str, ...], **attributes: Any) -> list[np.ndarray]:
    """One node, run as it is."""
    graph = Graph("float32", NEWEST_OPSET)
    inputs = [graph.input(n, a.shape) for n, a in feeds.items() if n != "size"]
    if "size" in feeds:
        inputs.append(graph.constant(feeds["size"], "size"))
    values = graph.nodes(operator, inputs, len(outputs), **attributes)
    model = graph.model(dict(zip(outputs, values, strict=True)))
    fed = {n: a for n, a in feeds.items() if n != "size"}
    return list(target(name).evaluate(model.SerializeToString(), fed))  # type: ignore[attr-defined]


RAMP = np.arange(2 * 2 * 4 * 6, dtype=np.float32).reshape(2, 2, 4, 6)


@on_both
def test_the_indices_of_onnx_count_through_the_whole_tensor(name: str) -> None:
    indices = raw(name, "MaxPool", {"x": RAMP}, ("y", "indices"), kernel_shape=[2, 3], strides=[2, 3])[1]
    np.testing.assert_array_equal(indices, RAMP[:, :, 1::2, 2::3])


@on_both
def test_storage_order_1_counts_down_the_columns_of_each_plane(name: str) -> None:
    attributes = {"kernel_shape": [2, 3], "strides": [2, 3], "storage_order": 1}
    indices = raw(name, "MaxPool", {"x": RAMP}, ("y", "indices"), **attributes)[1]
    n, c, h, w = np.indices(RAMP.shape)
    columns_first = (n * 2 + c) * 24 + h + w * 4
    np.testing.assert_array_equal(indices, columns_first[:, :, 1::2, 2::3])


def test_nothing_here_stores_by_columns() -> None:
    assert "storage_order" not in pool_attributes(make("max_pool", input=[4], kernel=2))


POOLED = np.float32([[[[1, 2], [3, 4]]]])
PLACES = np.array([[[[5, 7], [13, 15]]]])


def test_an_output_shape_is_read_in_two_ways() -> None:
    """Indices address the given shape in onnxruntime, the inferred one in the evaluator, which lays it out anew."""
    feeds = {"x": POOLED, "indices": PLACES, "size": np.array([1, 1, 5, 5])}
    found = {n: raw(n, "MaxUnpool", feeds, ("y",), kernel_shape=[2, 2], strides=[2, 2])[0] for n in TARGETS}
    places = {name: np.flatnonzero(plane).tolist() for name, plane in found.items()}
    assert places["onnxruntime"] == [5, 7, 13, 15]
    assert places["onnx-reference"] in ([6, 8, 16, 18], [5, 7, 13, 15])


@on_both
def test_an_output_shape_cannot_say_a_smaller_size_but_pads_can(name: str) -> None:
    feeds = {"x": POOLED, "indices": np.array([[[[0, 2], [6, 8]]]])}
    windows = {"kernel_shape": [2, 2], "strides": [2, 2]}
    with pytest.raises(Exception, match=r"smaller than minimum required|could not broadcast"):
        raw(name, "MaxUnpool", {**feeds, "size": np.array([1, 1, 3, 3])}, ("y",), **windows)
    cropped = raw(name, "MaxUnpool", feeds, ("y",), **windows, pads=[0, 0, 1, 1])[0]
    np.testing.assert_array_equal(cropped, [[[[1, 0, 2], [0, 0, 0], [3, 0, 4]]]])


def test_with_indices_onnxruntime_keeps_a_nan_only_where_a_window_begins() -> None:
    windows = np.float32([[[np.nan, 1, 2, 3, np.nan, 2, 5, 4, np.nan]]])
    attributes = {"kernel_shape": [3], "strides": [3]}
    values, indices = raw("onnxruntime", "MaxPool", {"x": windows}, ("y", "indices"), **attributes)
    np.testing.assert_array_equal(values, [[[np.nan, 3, 5]]])
    np.testing.assert_array_equal(indices, [[[0, 3, 6]]])


# ---- Pooling and unpooling ----

POOLINGS: dict[str, dict[str, Any]] = {
    "line": {"input": [7], "kernel": 3, "stride": 2},
    "plane": {"input": [6, 5], "kernel": [3, 2], "stride": [2, 1]},
    "volume": {"input": [4, 3, 5], "kernel": [2, 1, 3], "stride": [2, 1, 2]},
    "padded": {"input": [5, 6], "kernel": 3, "stride": 2, "padding": 1},
    "uneven": {"input": [4, 5], "kernel": 3, "stride": 2, "padding": [[2, 1], [0, 1]]},
    "rounded-up": {"input": [6, 5], "kernel": [3, 2], "stride": 2, "ceil_mode": True},
    "rounded-up-padded": {"input": [6], "kernel": 2, "stride": 2, "padding": 1, "ceil_mode": True},
    "dilated": {"input": [7, 6], "kernel": [2, 3], "stride": 1, "dilation": [3, 2]},
    "same": {"input": [5, 6], "kernel": [3, 4], "stride": [2, 3], "padding": "same"},
    "same-beyond-the-kernel": {"input": [9, 8], "kernel": 1, "stride": 3, "padding": "same"},
    "valid": {"input": [5, 7], "kernel": 2, "stride": [2, 3], "padding": "valid"},
    "magnitude": {"input": [7, 5], "kernel": 3, "stride": 2, "magnitude": True},
}
pools = pytest.mark.parametrize("pooling", POOLINGS)


@on_both
@pools
def test_pooling_gives_the_first_maximum_and_its_place_in_the_plane(name: str, pooling: str) -> None:
    assert_right(name, make("max_pool", batch=2, channels=3, **POOLINGS[pooling]))


@on_both
def test_all_negative_windows_do_not_see_the_padding(name: str) -> None:
    case = make("max_pool", channels=2, input=[5, 5], kernel=3, stride=2, padding=1)
    assert assert_right(name, case, draw(case, -9, -1))["output"].max() < 0


def test_dense_windows_are_right_in_onnxruntime() -> None:
    assert_right("onnxruntime", make("max_pool", batch=2, channels=2, input=[4, 5], kernel=2, stride=1))


def test_the_evaluators_fault_at_stride_1_is_not_told_as_unsupported() -> None:
    case = make("max_pool", batch=2, channels=2, input=[4, 5], kernel=2, stride=1)
    try:
        target("onnx-reference").run(case, draw(case))
    except Unsupported as declined:
        pytest.fail(f"hidden: {declined}")


def test_same_is_an_auto_pad_and_numbers_where_windows_leave_rows_out() -> None:
    assert pool_attributes(make("max_pool", **POOLINGS["same"]))["auto_pad"] == "SAME_UPPER"
    assert pool_attributes(make("max_pool", **POOLINGS["valid"]))["auto_pad"] == "VALID"
    beyond = pool_attributes(make("max_pool", **POOLINGS["same-beyond-the-kernel"]))
    assert "auto_pad" not in beyond
    assert beyond["pads"] == [0, 0, 0, 0]
    assert pool_attributes(make("max_pool", **POOLINGS["uneven"]))["pads"] == [2, 0, 1, 1]


@on_both
@pytest.mark.parametrize(("overlap", "here"), [("sum", 7.0), ("assign", 4.0), ("mean", 3.5)])
def test_where_windows_overlap_values_meet(name: str, overlap: str, here: float) -> None:
    """Windows of 3 with stride 2 share an element; the second channel tells planes apart."""
    case = make("max_unpool", channels=2, input=[2], kernel=3, stride=2, overlap=overlap)
    tensors = {"input": np.float32([[[3, 4], [5, 6]]]), "indices": np.array([[[2, 2], [0, 4]]])}
    output = target(name).run(case, tensors)["output"]
    np.testing.assert_array_equal(output, [[[0, 0, here, 0, 0], [5, 0, 0, 0, 6]]])


UNPOOLINGS: dict[str, dict[str, Any]] = {
    "line": {"input": [3], "kernel": 3, "stride": 2},
    "plane": {"input": [2, 3], "kernel": [3, 2], "stride": [2, 1]},
    "volume": {"input": [2, 1, 2], "kernel": [3, 2, 2], "stride": [2, 1, 2]},
    "padded": {"input": [3, 2], "kernel": 3, "stride": 2, "padding": 1},
    "uneven": {"input": [2, 3], "kernel": 3, "stride": 2, "padding": [[1, 0], [0, 1]]},
    "rounded-up": {"input": [3, 3], "kernel": 3, "stride": 2, "output_size": [6, 7]},
    "padded-smaller": {"input": [3], "kernel": 3, "stride": 2, "padding": 1, "output_size": [4]},
}
LARGER: dict[str, dict[str, Any]] = {
    "segnet-odd": {"input": [2, 3], "kernel": 2, "output_size": [5, 7]},
    "padded-larger": {"input": [3, 3], "kernel": 3, "stride": 2, "padding": 1, "output_size": [6, 5]},
    "smaller-and-larger": {"input": [3, 3], "kernel": [3, 2], "stride": 2, "output_size": [6, 7]},
}
overlaps = pytest.mark.parametrize("overlap", ["sum", "assign", "mean"])


@on_both
@overlaps
@pytest.mark.parametrize("unpooling", UNPOOLINGS)
def test_unpooling_puts_every_value_where_it_was(name: str, unpooling: str, overlap: str) -> None:
    case = make("max_unpool", batch=2, channels=3, overlap=overlap, **UNPOOLINGS[unpooling])
    assert not unpool_attributes(case)[1]
    tensors = draw(case)
    if overlap == "mean":  # quotients by 1, 2 and 4 writers are exact, by 3 too if the sum is a multiple
        tensors["input"] *= 12
    assert_right(name, case, tensors)


@overlaps
@pytest.mark.parametrize("unpooling", LARGER)
def test_a_size_beyond_the_windows_counts_in_its_own_rows(unpooling: str, overlap: str) -> None:
    case = make("max_unpool", batch=2, channels=3, overlap=overlap, **LARGER[unpooling])
    tensors = draw(case) | {"input": 12 * draw(case)["input"]}
    assert unpool_attributes(case)[1]
    assert_right("onnxruntime", case, tensors)
    if overlap != "assign":
        assert_right("onnx-reference", case, tensors)


def test_a_rounded_up_size_is_cropped_by_pads_and_a_larger_one_told() -> None:
    assert unpool_attributes(make("max_unpool", **UNPOOLINGS["rounded-up"])) == (
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 0]},
        False,
    )
    case = make("max_unpool", overlap="assign", **LARGER["smaller-and-larger"])
    assert unpool_attributes(case) == ({"kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 0, 1, 0]}, True)
    model, _ = model_of(case)
    size = model.graph.node[-1].input[2]
    found = next(constant for constant in model.graph.initializer if constant.name == size)
    assert np.frombuffer(found.raw_data, np.int64).tolist() == [1, 1, 6, 7]


# ---- The small steps ----

NORMS = {
    "krizhevsky": ResponseNorm(5, 1e-4, 0.75, 2.0),
    "strong": ResponseNorm(3, 1.5, 0.5, 0.25),
    "wider-than-the-maps": ResponseNorm(9, 1.0, 0.75, 1.0),
    "alone": ResponseNorm(1, 2.0, 1.0, 1.0),
}
norms = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)


@norms
def test_normalisation_is_krizhevskys_with_alpha_over_the_size(norm: ResponseNorm) -> None:
    x = np.random.default_rng(0).standard_normal((2, 7, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(apply("onnxruntime", norm, x), normalised(norm, x.astype(np.float64)), rtol=2e-6)


def test_the_evaluator_normalises_where_there_are_as_many_images_as_channels() -> None:
    """The release that the tests run with loops over the images where the channels are meant."""
    x = np.random.default_rng(0).standard_normal((3, 3, 2, 2)).astype(np.float32)
    norm = NORMS["strong"]
    np.testing.assert_allclose(apply("onnx-reference", norm, x), normalised(norm, x.astype(np.float64)), rtol=2e-6)


@on_both
@pytest.mark.parametrize("size", [(4,), (2, 1, 3)])
def test_normalisation_of_other_than_images_runs_or_is_refused_aloud(name: str, size: tuple[int, ...]) -> None:
    """ONNX defines LRN for any number of spatial axes."""
    x = np.random.default_rng(0).standard_normal((5, 5, *size)).astype(np.float32)
    try:
        found = apply(name, NORMS["strong"], x)
    except Exception as error:
        assert "NumDimensions() == 4" in str(error) or "only applies on 4D" in str(error)  # noqa: PT017
        return
    np.testing.assert_allclose(found, normalised(NORMS["strong"], x.astype(np.float64)), rtol=2e-6)


@on_both
@norms
@pytest.mark.parametrize("size", [(3, 2), (4,), (2, 1, 2)])
def test_the_gradient_of_normalisation_is_its_gradient(name: str, norm: ResponseNorm, size: tuple[int, ...]) -> None:
    """Against central differences of the written formula in float64, whose error is about 1e-10."""
    rng = np.random.default_rng(0)
    x, signal = rng.standard_normal((2, 2, 7, *size))
    found = apply(name, ResponseNormGradient(norm), signal, x)
    slopes = np.zeros(x.shape)
    for at in np.ndindex(*x.shape):
        step = np.zeros(x.shape)
        step[at] = 1e-5
        slopes[at] = np.sum(signal * (normalised(norm, x + step) - normalised(norm, x - step))) / 2e-5
    np.testing.assert_allclose(found, slopes, rtol=0, atol=1e-8)
    single = apply(name, ResponseNormGradient(norm), signal.astype(np.float32), x.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, found, rtol=0, atol=1e-5)


@on_both
@pytest.mark.parametrize("by", ["signal", "mask", "both"])
def test_the_three_rectifiers(name: str, by: str) -> None:
    signal = np.float32([[[-2, 3, -4, 5, 0]]])
    activation = np.float32([[[1, 1, 0, -1, 2]]])
    expected = {"signal": [0, 3, 0, 5, 0], "mask": [-2, 3, 0, 0, 0], "both": [0, 3, 0, 0, 0]}
    fed = (signal,) if by == "signal" else (signal, activation)
    np.testing.assert_array_equal(apply(name, Rectify(by), *fed), [[expected[by]]])  # type: ignore[arg-type]


ISOLATIONS = [
    Isolate(keep, seed, channel, unit)
    for keep, seed, channel in itertools.product(("unit", "channel", "none"), ("activation", "one"), (None, 2))
    for unit in ([None, (1, 0)] if keep == "unit" else [None])
]


@on_both
@pytest.mark.parametrize("step", ISOLATIONS, ids=str)
def test_isolation_keeps_the_first_of_equals(name: str, step: Isolate) -> None:
    x = np.random.default_rng(0).integers(-2, 2, (4, 3, 3, 2)).astype(np.float32)
    assert (x.reshape(4, -1) == x.reshape(4, -1).max(axis=1, keepdims=True)).sum(axis=1).min() > 1, "no ties"
    np.testing.assert_array_equal(apply(name, step, x), isolated(step, x))


@on_both
def test_isolation_among_negative_numbers_and_many_of_them(name: str) -> None:
    """A zero would win over all of them; and ties are far apart, for kernels that look at several numbers at once."""
    x = np.random.default_rng(0).integers(-3, 0, (2, 70, 9, 5)).astype(np.float32)
    for step in (Isolate(), Isolate("channel"), Isolate(channel=69)):
        np.testing.assert_array_equal(apply(name, step, x), isolated(step, x))


@on_both
def test_isolation_does_not_multiply(name: str) -> None:
    x = np.float32([[[np.inf, 1], [np.nan, -np.inf]]])
    np.testing.assert_array_equal(apply(name, Isolate(channel=0, unit=(1,)), x), [[[0, 1], [0, 0]]])


@on_both
def test_taking_reads_planes_of_any_size(name: str) -> None:
    """More than 64 elements, the limit of the evaluator's GatherElements."""
    step = Take(make("max_pool", input=[9, 11], kernel=2).axes)
    x = np.random.default_rng(0).integers(-9, 9, (2, 3, 9, 11)).astype(np.float32)
    indices = np.random.default_rng(1).integers(0, 99, (2, 3, 4, 5))
    stage = Stage("s", step, ("x", "indices"), ("y",))
    found = target(name).run(Single(id="t/take", op="deconvnet", stage=stage), {"x": x, "indices": indices})["y"]
    np.testing.assert_array_equal(found, by_definition(step, x, indices)[0])


# ---- Whole chains ----

UP = [{"conv": 3, "kernel": 3, "padding": 1}, "relu", {"max_pool": 3, "stride": 2}, {"conv": 2, "kernel": 2}, "relu"]
CHAINS: dict[str, Any] = {
    "block": make("deconv_block", batch=2, in_channels=3, out_channels=2, input=[3, 2], kernel=3, pool={"kernel": 2}),
    "block-odd": make(
        "deconv_block",
        input=[2, 3],
        kernel=3,
        stride=2,
        padding=1,
        bias=True,
        rectify="both",
        pool={"kernel": 2, "output_size": [5, 7]},
    ),
    "block-bare": make("deconv_block", input=[3], kernel=2, rectify="none", pool={"kernel": 3, "stride": 2}),
    "net": make("deconvnet", batch=2, input=[7, 8], layers=UP, isolate="none"),
    "net-unit": make("deconvnet", batch=2, input=[7, 8], layers=UP, seed="one"),
    "net-channel": make("deconvnet", batch=2, input=[7, 8], layers=UP, isolate="channel", rectify="mask"),
    "net-below": make("deconvnet", input=[9], layers=UP, isolate="none", bias_down="below", rectify="none"),
    "net-rounded-up": make(
        "deconvnet",
        input=[6, 7],
        in_channels=2,
        layers=[{"conv": 2, "kernel": 3, "stride": 2, "padding": 1}, {"max_pool": 2, "ceil_mode": True}],
        isolate="none",
        overlap="assign",
    ),
    "net-dilated": make(
        "deconvnet",
        input=[9, 8],
        layers=[{"conv": 2, "kernel": 2}, {"max_pool": [2, 3], "stride": 2, "dilation": [3, 2], "padding": [0, 1]}],
        isolate="none",
        overlap="assign",
    ),
    "adaptive": make(
        "adaptive_deconv",
        input=[5, 5],
        layers=[{"maps": 4, "kernel": 2, "pool": [2, 2, 2]}, {"maps": 2, "kernel": 2}],
    ),
    "adaptive-up": make(
        "adaptive_deconv",
        batch=2,
        input=[7],
        direction="project",
        switches="pooled",
        layers=[{"maps": 4, "kernel": 2, "pool": [2, 2]}, {"maps": 3, "kernel": 2}],
    ),
}
chains = pytest.mark.parametrize("chain", CHAINS)


@on_both
@chains
def test_every_stage_of_a_chain_is_right_on_what_it_was_fed(name: str, chain: str) -> None:
    assert_right(name, CHAINS[chain])


@chains
def test_a_chain_is_one_valid_model_that_gives_every_stage(chain: str) -> None:
    import onnx

    case = CHAINS[chain]
    model, _ = model_of(case)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.output] == [name for stage in case.stages for name in stage.gives]
    assert model.opset_import[0].version == NEWEST_OPSET


def test_the_switches_of_a_pooling_go_to_the_unpooling_as_they_are() -> None:
    case = make("deconvnet", input=[7, 8], layers=UP, overlap="assign")
    nodes = {node.op_type: node for node in model_of(case)[0].graph.node}
    assert nodes["MaxUnpool"].input[1] == nodes["MaxPool"].output[1]
    assert "Add" not in operators(model_of(make("deconvnet", input=[7, 8], layers=UP[:3], isolate="none"))[0])


def test_switches_that_are_given_are_counted_through_the_whole_tensor() -> None:
    assert operators(model_of(make("max_unpool", input=[3], kernel=2, overlap="assign"))[0]) == ["Add", "MaxUnpool"]


def test_results_have_their_own_names_even_where_a_step_does_nothing() -> None:
    case = make("deconvnet", input=[5], layers=[{"conv": 2, "kernel": 2}], isolate="none")
    model, _ = model_of(case)
    assert operators(model) == ["Conv", "ConvTranspose", "Identity"]
    assert_right("onnxruntime", case)


def test_a_network_with_normalisation_runs_whole() -> None:
    layers = [{"conv": 4, "kernel": 3}, "relu", {"max_pool": 3, "stride": 2}, {"lrn": 3, "alpha": 0.5}]
    case = make("deconvnet", batch=2, input=[9, 9], layers=layers, lrn_down="gradient", isolate="channel")
    given = target("onnxruntime").run(case, {n: a / 4 for n, a in draw(case).items()})
    norm = case.layers[-1].step
    x = given["pool1"].astype(np.float64)
    np.testing.assert_allclose(given["norm1"], normalised(norm, x), rtol=2e-6)
    direct = given["seed"] / scales(norm, x) ** norm.beta
    assert not np.allclose(given["down.norm1"], direct, rtol=1e-3), "the neighbours take part"
    assert given["output"].shape == (2, 3, 9, 9)


# ---- Weights, dtypes, opsets, limits ----


def test_weights_are_constants_once_and_the_image_is_fed() -> None:
    case = CHAINS["net"]
    model, fed = model_of(case)
    assert list(fed) == ["input"]
    assert [value.name for value in model.graph.input] == ["input"]
    names = [constant.name for constant in model.graph.initializer]
    assert [name for name in names if "conv" in name] == ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"]


def test_weights_beyond_the_room_are_fed() -> None:
    case = CHAINS["net"]
    room = 4 * sum(int(np.prod(case.tensor_shapes[name])) for name in ("conv1.weight", "conv1.bias"))
    model, fed = model_of(case, room=room)
    assert list(fed) == ["input", "conv2.weight", "conv2.bias"]
    assert "conv1.weight" in [constant.name for constant in model.graph.initializer]


def test_large_weights_are_fed_to_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    target("onnxruntime")  # which loads a model to see what it can do
    fed: list[list[str]] = []
    onnx = pytest.importorskip("onnx")
    session = OnnxRuntime._session

    def spy(self: OnnxRuntime, model: Any) -> Any:
        fed.append([value.name for value in onnx.load_model_from_string(model).graph.input])
        return session(self, model)

    monkeypatch.setattr(OnnxRuntime, "_session", spy)
    monkeypatch.setattr(OnnxRuntime, "largest_constants", 100)
    assert_right("onnxruntime", CHAINS["net"])
    assert fed == [["input", "conv1.weight", "conv2.weight"]]


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_evaluator_runs_chains_in_every_dtype(dtype: str) -> None:
    case = make("deconvnet", batch=2, input=[7, 8], layers=UP, isolate="none", dtype=dtype)
    assert_right("onnx-reference", case, draw(case, -1, 1))


def test_onnxruntime_pools_in_float64_and_has_no_unpooling_in_it() -> None:
    assert_right("onnxruntime", make("max_pool", input=[7, 6], kernel=2, dtype="float64"))
    assert_right("onnxruntime", make("max_unpool", input=[3], kernel=2, dtype="float64"))
    case = make("max_unpool", input=[3], kernel=2, dtype="float64", overlap="assign")
    with pytest.raises(Unsupported, match=r"onnxruntime in float64: Could not find an implementation for MaxUnpool"):
        target("onnxruntime").run(case, draw(case))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_onnxruntime_has_no_deconvnet_in_some_dtypes(dtype: str) -> None:
    case = make("deconvnet", input=[7, 8], layers=UP, dtype=dtype)
    with pytest.raises(Unsupported, match=f"onnxruntime in {dtype}: Could not find an implementation for"):
        target("onnxruntime").run(case, draw(case))


def test_onnxruntime_does_not_add_in_float16() -> None:
    case = make("max_unpool", input=[3], kernel=2, dtype="float16")
    with pytest.raises(Exception, match="MLFloat16 data type is not supported with ScatterElements"):
        target("onnxruntime").run(case, draw(case))


def test_in_float16_a_stage_gets_what_the_stage_before_it_returned() -> None:
    """In one model onnxruntime would hand on the float32 that it computes with."""
    layers = [{"conv": 8, "kernel": 3}, "relu", {"conv": 8, "kernel": 3}, {"conv": 8, "kernel": 3}]
    case = make("deconvnet", batch=2, input=[16, 16], layers=layers, isolate="none", dtype="float16")
    rng = np.random.default_rng(0)
    tensors = {n: rng.standard_normal(shape).astype(np.float16) for n, shape in case.tensor_shapes.items()}
    given = target("onnxruntime").run(case, tensors)
    values = {**tensors, **given}
    assert list(given) == [result for stage in case.stages for result in stage.gives]
    for stage in case.stages:
        alone = Single(id="t/alone", op="deconvnet", dtype="float16", stage=stage)
        again = target("onnxruntime").run(alone, {name: values[name] for name in stage.reads})
        np.testing.assert_array_equal(again[stage.gives[0]], given[stage.gives[0]])


def test_older_opsets_lack_sums_and_bfloat16() -> None:
    with pytest.raises(Unsupported, match="ScatterElements cannot add before opset 16"):
        OnnxReference(opset=13).run(CHAINS["block"], draw(CHAINS["block"]))
    case = make("max_pool", input=[4], kernel=2, dtype="bfloat16")
    with pytest.raises(Unsupported, match="no bfloat16 before opset 22, this is opset 18"):
        OnnxReference(opset=18).run(case, draw(case))


@on_both
@pytest.mark.parametrize("opset", [16, 18, 20])
def test_chains_run_in_older_opsets(name: str, opset: int) -> None:
    case = make("deconvnet", batch=2, input=[7, 8], layers=UP, isolate="channel", rectify="both")
    tensors = draw(case)
    older = TARGETS[name](opset=opset).run(case, tensors)
    for result, array in target(name).run(case, tensors).items():
        np.testing.assert_array_equal(older[result], array)


def test_the_evaluator_is_spared_large_chains() -> None:
    case = make("max_pool", input=[1000, 1000], kernel=3, stride=2)
    with pytest.raises(Unsupported, match="pure-Python evaluator: 2,241,009 products, more than 2,000,000"):
        target("onnx-reference").run(case, {"input": np.zeros((1, 1, 1000, 1000), np.float32)})


@on_both
def test_inputs_stay_as_they_are_even_read_only(name: str) -> None:
    case = CHAINS["net"]
    tensors = draw(case)
    for array in tensors.values():
        array.setflags(write=False)
    target(name).run(case, tensors)
    for tensor, array in draw(case).items():
        np.testing.assert_array_equal(tensors[tensor], array)


def test_onnxruntime_takes_an_empty_batch() -> None:
    case = make("deconvnet", batch=0, input=[7, 8], layers=UP)
    assert target("onnxruntime").run(case, draw(case))["output"].shape == (0, 3, 7, 8)
