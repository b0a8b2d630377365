"""Chains in TensorFlow and Keras: every stage against its definition, on what the target itself fed to it.

The numbers are small and whole, so that results are compared with ``==`` wherever no response is normalised.  A process
has one Keras backend: here it is TensorFlow, and the last test runs those of Keras again on others, in other processes.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
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
    Step,
    Take,
    is_index,
)
from conformance.spec.loader import OPS
from conformance.targets import keras_targets, tensorflow_target
from conformance.targets.base import Target, Unsupported
from conformance.targets.channels_last import windows

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

BACKEND = os.environ.get("TESTED_KERAS_BACKEND", "tensorflow")
TARGETS: dict[str, Callable[[], Target]] = {
    "tensorflow": tensorflow_target.TensorFlow,
    "keras": lambda: keras_targets.KerasLayers(backend=BACKEND),
    "keras-ops": lambda: keras_targets.KerasOps(backend=BACKEND),
}
KERAS = ("keras", "keras-ops")
everywhere = pytest.mark.parametrize("name", TARGETS)

Arrays = dict[str, np.ndarray]
Position = tuple[int, ...]


@functools.cache
def target(name: str) -> Target:
    return TARGETS[name]()


def make(op: str, **keys: Any) -> Chain:
    """The case that these keys would make in a YAML file."""
    entry = OPS[op].model_validate({"op": op, **keys})
    common = {"id": f"t/{op}", "op": op, "dtype": entry.dtype, "batch": entry.batch}
    case = entry.resolve(common)
    assert isinstance(case, Chain)
    return case


def draw(case: Chain, largest: int = 4) -> Arrays:
    """Whole numbers, many of them equal; indices as pooling of such numbers would give them."""
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.integers(-largest, largest + 1, shape).astype(FORMATS[case.dtype].dtype)
        for name, shape in case.tensor_shapes.items()
        if not is_index(name)
    }
    for stage in case.stages:
        if isinstance(stage.step, MaxUnpool | Take) and stage.reads[1] in case.tensor_shapes:
            shape = case.tensor_shapes[stage.reads[1]]
            plane = rng.integers(-largest, largest + 1, (*shape[:2], *(axis.large for axis in stage.step.axes)))
            tensors[stage.reads[1]] = max_pool(stage.step.axes, plane.astype(np.float64))[1]
    return tensors


# ---- Definitions, element by element -------------------------------------------------------------------------------


def positions(shape: Position) -> Iterator[Position]:
    return itertools.product(*map(range, shape))


def reached(axes: Any, m: Position) -> Iterator[tuple[Position, Position]]:
    """Taps and large positions that the window at ``m`` sees, in C order."""
    for t in positions(tuple(axis.kernel for axis in axes)):
        j = tuple(at * a.stride - a.begin + tap * a.dilation for at, tap, a in zip(m, t, axes, strict=True))
        if all(0 <= at < a.large for at, a in zip(j, axes, strict=True)):
            yield t, j


def max_pool(axes: Any, x: np.ndarray, magnitude: bool = False) -> tuple[np.ndarray, np.ndarray]:
    small, large = (tuple(getattr(axis, side) for axis in axes) for side in ("small", "large"))
    values = np.zeros((*x.shape[:2], *small), x.dtype)
    indices = np.zeros(values.shape, np.int64)
    for n, c, *m in positions(values.shape):
        best = max(
            (j for _, j in reached(axes, tuple(m))), key=lambda j: abs(x[(n, c, *j)]) if magnitude else x[(n, c, *j)]
        )
        values[(n, c, *m)], indices[(n, c, *m)] = x[(n, c, *best)], np.ravel_multi_index(best, large)
    return values, indices


def max_unpool(step: MaxUnpool, y: np.ndarray, indices: np.ndarray) -> np.ndarray:
    total, count, last = np.zeros((3, *step.large_shape))
    for n, c, *m in positions(y.shape):
        at = (n, c, *np.unravel_index(indices[(n, c, *m)], step.large))
        total[at] += y[(n, c, *m)]
        count[at] += 1
        last[at] = y[(n, c, *m)]
    return {"sum": total, "assign": last, "mean": total / np.maximum(count, 1)}[step.overlap]


def take(step: Take, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    planes = x.reshape(*x.shape[:2], -1)
    return np.array([planes[n, c, indices[(n, c, *m)]] for n, c, *m in positions(indices.shape)]).reshape(indices.shape)


def convolution(step: Convolution, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    y = np.zeros(step.result_shapes["output"])
    width, height = step.large_channels // step.groups, step.small_channels // step.groups
    for m in positions(step.small):
        for t, j in reached(step.axes, m):
            for s in range(step.small_channels):
                group = slice(s // height * width, s // height * width + width)
                kernel = w[(s, slice(None), *t)].astype(np.float64)
                if step.transposed:
                    y[(slice(None), group, *j)] += x[(slice(None), s, *m)].astype(np.float64)[:, None] * kernel
                else:
                    y[(slice(None), s, *m)] += x[(slice(None), group, *j)].astype(np.float64) @ kernel
    return y if bias is None else y + bias.astype(np.float64).reshape(-1, *[1] * step.rank)


def rectify(step: Rectify, r: np.ndarray, activation: np.ndarray | None = None) -> np.ndarray:
    y = r if step.by == "mask" else np.maximum(r, 0)
    return y if activation is None else np.where(activation > 0, y, 0)


def scale(step: ResponseNorm, x: np.ndarray) -> np.ndarray:
    around = [slice(max(c - step.size // 2, 0), c + step.size // 2 + 1) for c in range(x.shape[1])]
    return np.stack([step.k + step.alpha / step.size * np.square(x[:, near]).sum(axis=1) for near in around], axis=1)


def response_norm(step: ResponseNorm, x: np.ndarray) -> np.ndarray:
    return x / scale(step, x) ** step.beta


def response_norm_gradient(step: ResponseNormGradient, signal: np.ndarray, x: np.ndarray) -> np.ndarray:
    """By central differences of the sum of ``signal * response_norm(x)``."""
    x, signal, gradient = x.astype(np.float64), signal.astype(np.float64), np.zeros(x.shape)
    for at in positions(x.shape):
        ends = []
        for moved in (1e-4, -1e-4):
            shifted = x.copy()
            shifted[at] += moved
            ends.append((signal * response_norm(step.norm, shifted)).sum())
        gradient[at] = (ends[0] - ends[1]) / 2e-4
    return gradient


def isolate(step: Isolate, x: np.ndarray) -> np.ndarray:
    kept = np.full(x.shape, step.keep == "none")
    for n in range(len(x)) if step.keep != "none" else ():
        channel = step.channel
        if channel is None:
            channel = max(range(x.shape[1]), key=lambda c: x[n, c].max())
        if step.keep == "channel":
            kept[n, channel] = True
        else:
            unit = step.unit or max(positions(x.shape[2:]), key=lambda j: x[(n, channel, *j)])
            kept[(n, channel, *unit)] = True
    return np.where(kept, 1 if step.seed == "one" else x, 0)


DEFINITIONS: dict[type, Callable[..., Any]] = {
    Convolution: convolution,
    MaxPool: lambda step, x: max_pool(step.axes, x, step.magnitude),
    MaxUnpool: max_unpool,
    Take: take,
    Rectify: rectify,
    ResponseNorm: response_norm,
    ResponseNormGradient: response_norm_gradient,
    Isolate: isolate,
    Reshape: lambda step, x: x.reshape(step.shape),
}


def defined(step: Step, fed: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    given = DEFINITIONS[type(step)](step, *fed)
    return given if isinstance(given, tuple) else (given,)


def run(name: str, case: Chain, tensors: Mapping[str, np.ndarray] | None = None) -> Arrays:
    return dict(target(name).run(case, draw(case) if tensors is None else tensors))


def assert_stages(name: str, case: Chain, tensors: Arrays | None = None) -> Arrays:
    """Every stage gives what it should of what it was fed, in the case's dtype.  Returns what they gave."""
    tensors = draw(case) if tensors is None else tensors
    given = run(name, case, tensors)
    rounds = any(isinstance(step, ResponseNorm | ResponseNormGradient) for step in case.steps)
    assert sorted(given) == sorted(itertools.chain(*(stage.gives for stage in case.stages)))
    for stage in case.stages:
        fed = [given.get(source, tensors.get(source)) for source in stage.reads]
        for gives, expected in zip(stage.gives, defined(stage.step, fed), strict=True):  # type: ignore[arg-type]
            assert given[gives].dtype == (np.int64 if is_index(gives) else FORMATS[case.dtype].dtype), gives
            if rounds:
                np.testing.assert_allclose(given[gives], expected, 1e-5, 1e-5, err_msg=gives)
            else:
                np.testing.assert_array_equal(given[gives].astype(np.float64), expected, err_msg=gives)
    return given


def reason(name: str, case: Chain) -> str:
    """Why the target declines the case."""
    with pytest.raises(Unsupported) as caught:
        run(name, case)
    return str(caught.value)


# ---- Raw conventions -----------------------------------------------------------------------------------------------


def test_tensorflow_counts_positions_before_channels_and_leaves_the_image_out() -> None:
    """``(y * W + x) * C + c``, and with ``include_batch_in_index`` an image of ``H * W * C`` further."""
    import tensorflow as tf

    x = np.zeros((2, 4, 6, 3), np.float32)
    x[0, 1, 4, 2] = x[1, 3, 5, 1] = 1
    pool = functools.partial(tf.nn.max_pool_with_argmax, x, [4, 6], [4, 6], "VALID")
    assert pool()[1].numpy().ravel().tolist() == [0, 1, (1 * 6 + 4) * 3 + 2, 0, (3 * 6 + 5) * 3 + 1, 2]
    image = 4 * 6 * 3
    whole = pool(include_batch_in_index=True)[1].numpy().ravel().tolist()
    assert whole == [0, 1, 32, image, image + 70, image + 2]


def test_tensorflow_counts_in_the_plane_and_not_in_its_same_padding() -> None:
    import tensorflow as tf

    x = -np.arange(1, 6, dtype=np.float32).reshape(1, 5, 1, 1)
    values, indices = tf.nn.max_pool_with_argmax(x, [3, 1], [1, 1], "SAME")
    assert values.numpy().ravel().tolist() == [-1, -1, -2, -3, -4]
    assert indices.numpy().ravel().tolist() == [0, 0, 1, 2, 3]


def test_tensorflow_sums_or_assigns_what_meets() -> None:
    import tensorflow as tf

    places, values = [[2], [2], [0]], [1.0, 2.0, 5.0]
    assert tf.scatter_nd(places, values, [4]).numpy().tolist() == [5, 0, 3, 0]
    assert tf.tensor_scatter_nd_update(tf.zeros(4), places, values).numpy().tolist() == [5, 0, 2, 0]


def test_scatter_of_keras_sums_and_its_update_assigns() -> None:
    target("keras")
    import keras

    places, values = np.array([[2], [2], [0]]), np.array([1, 2, 5], np.float32)
    summed = keras.ops.scatter(places, keras.ops.convert_to_tensor(values), (4,))
    assigned = keras.ops.scatter_update(keras.ops.zeros((4,)), places, values)
    assert keras.ops.convert_to_numpy(summed).tolist() == [5, 0, 3, 0]
    assert keras.ops.convert_to_numpy(assigned).tolist() == [5, 0, 2, 0]


@pytest.mark.parametrize(("rank", "gradient"), [(1, [1, 0, 0]), (2, [1, 0, 0]), (3, [1, 1, 1])])
def test_tensorflow_passes_the_gradient_of_a_tie_to_the_first_but_in_volumes_to_all(
    rank: int, gradient: list[int]
) -> None:
    import tensorflow as tf

    x = tf.zeros([1, *[1] * (rank - 1), 3, 1])
    window = [*[1] * (rank - 1), 3]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = getattr(tf.nn, f"max_pool{rank}d")(x, window, window, "VALID")
    assert tape.gradient(y, x).numpy().ravel().tolist() == gradient


def test_windows_stay_in_the_plane() -> None:
    """Three windows of three on five places, one place of padding before them, two after."""
    step = make("max_pool", input=[5], kernel=3, stride=3, padding=[[1, 2]])
    assert isinstance(step, MaxPool)
    assert windows(step).tolist() == [[0, 0, 1], [2, 3, 4]]
    wider = make("max_pool", input=[2, 3], kernel=[1, 2], stride=1, padding=[[0, 0], [1, 0]])
    assert isinstance(wider, MaxPool)
    assert windows(wider).tolist() == [[0, 0], [0, 1], [1, 2], [3, 3], [3, 4], [4, 5]]


# ---- Pooling -------------------------------------------------------------------------------------------------------

POOLS: dict[str, dict[str, Any]] = {
    "line": {"input": [7], "kernel": 3, "stride": 2},  # three windows, three channels
    "line-padded": {"input": [6], "kernel": 3, "stride": 2, "padding": [[1, 2]]},
    "line-same": {"input": [6], "kernel": 3, "stride": 2, "padding": "same"},
    "line-ceil": {"input": [8], "kernel": 3, "stride": 2, "ceil_mode": True},
    "plane": {"input": [6, 8], "kernel": [2, 3], "stride": [2, 1]},
    "plane-odd": {"input": [7, 5], "kernel": 2},
    "plane-padded": {"input": [5, 7], "kernel": 3, "stride": 2, "padding": 1},
    "plane-padded-unevenly": {"input": [6, 5], "kernel": 3, "stride": 2, "padding": [[0, 1], [2, 0]]},
    "plane-same": {"input": [5, 6], "kernel": [4, 3], "stride": [1, 2], "padding": "same"},
    "plane-ceil": {"input": [6, 7], "kernel": 3, "stride": 2, "ceil_mode": True},
    "plane-ceil-padded": {"input": [6, 6], "kernel": [3, 2], "stride": [2, 3], "padding": 1, "ceil_mode": True},
    "plane-gaps": {"input": [7, 8], "kernel": [1, 2], "stride": 3},
    "plane-by-magnitude": {"input": [5, 6], "kernel": 3, "stride": 2, "padding": 1, "magnitude": True},
    "volume": {"input": [4, 5, 6], "kernel": [2, 1, 3], "stride": [1, 2, 3]},
    "volume-padded": {
        "input": [3, 4, 5],
        "kernel": [3, 2, 3],
        "stride": [1, 2, 2],
        "padding": [[1, 0], [0, 1], [1, 1]],
    },
    "volume-ceil": {"input": [4, 5, 6], "kernel": 2, "stride": [3, 2, 3], "ceil_mode": True},
    "volume-by-magnitude": {"input": [3, 4, 4], "kernel": 2, "magnitude": True},
}
DILATED: dict[str, dict[str, Any]] = {
    "line": {"input": [9], "kernel": 3, "dilation": 2, "stride": 1},
    "plane": {"input": [6, 7], "kernel": 2, "dilation": [3, 1], "stride": 1, "padding": [[1, 0], [0, 1]]},
    "volume": {"input": [4, 3, 4], "kernel": 2, "dilation": [2, 1, 3], "stride": 1},
}


@everywhere
@pytest.mark.parametrize("pool", POOLS)
def test_pooling_gives_the_maxima_and_the_first_of_their_places(name: str, pool: str) -> None:
    case = make("max_pool", batch=2, channels=3, **POOLS[pool])
    assert_stages(name, case)
    assert_stages(name, case, {"input": draw(case)["input"] - 9})  # all negative: padding must not win


@everywhere
@pytest.mark.parametrize("dtype", FORMATS)
def test_pooling_in_every_dtype(name: str, dtype: str) -> None:
    assert_stages(name, make("max_pool", channels=2, input=[5, 6], kernel=3, stride=2, padding=1, dtype=dtype))


@pytest.mark.parametrize("pool", DILATED)
def test_tensorflow_pools_with_dilation_at_stride_1(pool: str) -> None:
    assert_stages("tensorflow", make("max_pool", batch=2, channels=3, **DILATED[pool]))
    assert "not supported in conjunction" in reason("tensorflow", make("max_pool", **DILATED[pool] | {"stride": 2}))


@pytest.mark.parametrize("name", KERAS)
def test_keras_has_no_dilation_in_pooling(name: str) -> None:
    assert reason(name, make("max_pool", **DILATED["line"])) == "keras's max pooling has no dilation"


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_tensorflow_has_no_volumes_in_every_dtype(dtype: str) -> None:
    case = make("max_pool", input=[2, 2, 2], kernel=2, dtype=dtype)
    assert reason("tensorflow", case) == f"tensorflow has no kernel of MaxPool3D for {dtype}"
    assert_stages("tensorflow", make("max_pool", input=[2, 2, 2], kernel=2, dtype=dtype, magnitude=True))


@everywhere
def test_a_window_of_nothing_but_minus_infinity_has_its_first_place_for_switch(name: str) -> None:
    case = make("max_pool", input=[4, 5], kernel=3, stride=2, padding=1)
    given = run(name, case, {"input": np.full((1, 1, 4, 5), -np.inf, np.float32)})
    assert given["indices"].ravel().tolist() == [0, 1, 3, 5, 6, 8]


def test_tensorflow_pools_no_empty_batch() -> None:
    assert (
        reason("tensorflow", make("max_pool", batch=0, input=[4], kernel=2))
        == "tensorflow: tensor_in must not be empty"
    )


# ---- Unpooling -----------------------------------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize(("overlap", "middle"), [("sum", 6), ("assign", 3), ("mean", 2)])
def test_what_meets_in_one_place(name: str, overlap: str, middle: int) -> None:
    """Windows of three with stride one on five places; all three have the middle for their maximum."""
    case = make("max_unpool", batch=1, channels=2, input=[3], kernel=3, stride=1, overlap=overlap)
    y = np.array([[[1, 2, 3], [1, 2, 3]]], np.float32)
    indices = np.array([[[2, 2, 2], [0, 1, 4]]])
    output = run(name, case, {"input": y, "indices": indices})["output"]
    assert output.tolist() == [[[0, 0, middle, 0, 0], [1, 2, 0, 0, 3]]]


@everywhere
@pytest.mark.parametrize("overlap", ["sum", "assign", "mean"])
@pytest.mark.parametrize(
    "keys",
    [
        {"input": [4], "kernel": 3, "stride": 2},
        {"input": [3, 4], "kernel": 3, "stride": 2, "padding": 1, "output_size": [6, 8]},
        {"input": [2, 3], "kernel": 2, "output_size": [5, 7]},
        {"input": [2, 3, 2], "kernel": [2, 3, 2], "stride": [1, 2, 2]},
    ],
)
def test_unpooling_fills_the_plane(name: str, overlap: str, keys: dict[str, Any]) -> None:
    case = make("max_unpool", batch=2, channels=3, overlap=overlap, **keys)
    tensors = draw(case)
    tensors["input"] = 12 * tensors["input"]  # divisible by any number of writers
    assert_stages(name, case, tensors)


@everywhere
@pytest.mark.parametrize("overlap", ["sum", "assign", "mean"])
@pytest.mark.parametrize("dtype", FORMATS)
def test_unpooling_in_every_dtype(name: str, overlap: str, dtype: str) -> None:
    case = make("max_unpool", input=[3, 3], kernel=3, stride=2, overlap=overlap, dtype=dtype)
    tensors = draw(case, 1)
    tensors["input"] = (12 * tensors["input"]).astype(tensors["input"].dtype)
    assert_stages(name, case, tensors)


@pytest.mark.parametrize("name", KERAS)
def test_releases_of_keras_without_a_reduction_sum_by_scatter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target(name)
    import keras

    update = keras.ops.scatter_update
    monkeypatch.setattr(keras.ops, "scatter_update", lambda inputs, indices, updates: update(inputs, indices, updates))
    assert_stages(name, make("max_unpool", batch=2, input=[3], kernel=3, stride=1))


# ---- Convolutions in chains ----------------------------------------------------------------------------------------

BLOCKS: dict[str, dict[str, Any]] = {
    "line": {"input": [3], "kernel": 3, "stride": 2},
    "line-cropped": {"input": [3], "kernel": 4, "stride": 3, "padding": [[1, 2]]},
    "line-widened": {"input": [3], "kernel": 2, "padding": [[-1, -2]]},
    "line-kernel-below-stride": {"input": [3], "kernel": 1, "stride": 3},
    "line-kernel-below-stride-widened": {"input": [3], "kernel": 2, "stride": 4, "output_padding": 3},
    "line-same": {"input": [3], "kernel": 3, "stride": 2, "padding": "same"},
    "line-same-and-output-padding": {"input": [3], "kernel": 3, "stride": 2, "padding": "same", "output_padding": 0},
    "plane": {"input": [2, 3], "kernel": [3, 4], "stride": [2, 3], "padding": [[1, 0], [0, 2]]},
    "plane-widened-at-the-end": {"input": [2, 3], "kernel": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "plane-widened": {"input": [2, 2], "kernel": 2, "stride": [1, 3], "padding": [[-1, 0], [0, -3]]},
    "plane-dilated": {"input": [2, 3], "kernel": 2, "dilation": [1, 3], "padding": [[0, 1], [1, 0]]},
    "volume": {"input": [2, 1, 2], "kernel": [2, 3, 2], "stride": [1, 1, 3], "padding": [[0, 1], [1, 0], [0, 0]]},
}


@everywhere
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_block_unpools_rectifies_and_filters(name: str, block: str, bias: bool) -> None:
    keys = BLOCKS[block]
    case = make("deconv_block", batch=2, in_channels=2, out_channels=3, pool={"kernel": 2}, bias=bias, **keys)
    try:
        assert_stages(name, case)
    except Unsupported as declined:
        if "dilation rates larger than 1" not in str(declined):  # only oneDNN has that kernel, on some processors
            raise


@pytest.mark.parametrize(("operator", "block"), [("conv2d_transpose", "plane"), ("conv1d_transpose", "line-widened")])
def test_tensorflow_crops_itself_where_its_api_takes_numbers(
    operator: str, block: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    said: list[Any] = []
    actual = getattr(tf.nn, operator)

    def spy(x: Any, weight: Any, shape: Any, strides: Any, padding: Any, **more: Any) -> Any:
        said.append(padding)
        return actual(x, weight, shape, strides, padding, **more)

    monkeypatch.setattr(tf.nn, operator, spy)
    assert_stages("tensorflow", make("deconv_block", pool={"kernel": 2}, **BLOCKS[block]))
    assert said == [[[0, 0], [1, 0], [0, 2], [0, 0]] if block == "plane" else "VALID"]


@everywhere
@pytest.mark.parametrize("rectify", ["signal", "mask", "both", "none"])
def test_every_rectifier(name: str, rectify: str) -> None:
    assert_stages(name, make("deconv_block", input=[3, 4], kernel=2, pool={"kernel": 2}, rectify=rectify, bias=True))


@everywhere
@pytest.mark.parametrize("dtype", FORMATS)
def test_a_block_in_every_dtype(name: str, dtype: str) -> None:
    assert_stages(name, make("deconv_block", input=[3, 2], kernel=2, padding=1, pool={"kernel": 2}, dtype=dtype))


@pytest.mark.parametrize("name", KERAS)
def test_keras_transposes_no_groups(name: str) -> None:
    case = make("deconv_block", in_channels=2, out_channels=2, groups=2, input=[3], kernel=2, pool={"kernel": 2})
    assert reason(name, case) == "keras has no groups in a transposed convolution, the case has 2"


@everywhere
def test_the_spelling_of_onnx_is_declined(name: str) -> None:
    case = make("deconv_block", input=[3], kernel=3, stride=2, auto_pad="SAME_UPPER", pool={"kernel": 2})
    assert reason(name, case).endswith("has no auto_pad=SAME_UPPER")


# ---- Networks ------------------------------------------------------------------------------------------------------

NETWORKS: dict[str, dict[str, Any]] = {
    "line": {"input": [12], "layers": [{"conv": 3, "kernel": 3, "padding": 1}, "relu", {"max_pool": 3, "stride": 2}]},
    "plane": {
        "input": [13, 12],
        "layers": [
            {"conv": 3, "kernel": [3, 4], "stride": 2, "padding": 1},
            "relu",
            {"max_pool": 3, "stride": 2},
            {"conv": 4, "kernel": 2, "padding": "same"},
            "relu",
        ],
    },
    "plane-ceil": {
        "input": [9, 10],
        "layers": [
            {"conv": 2, "kernel": 2},
            {"max_pool": 3, "stride": 2, "ceil_mode": True},
            "relu",
            {"conv": 3, "kernel": 2},
        ],
    },
    "volume": {
        "input": [5, 4, 6],
        "layers": [{"conv": 2, "kernel": 2, "padding": [1, 0, 1]}, "relu", {"max_pool": 2}, {"conv": 2, "kernel": 1}],
    },
}


@everywhere
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("isolated", ["unit", "channel", "none"])
def test_a_deconvnet_goes_up_and_down_stage_by_stage(name: str, network: str, isolated: str) -> None:
    assert_stages(name, make("deconvnet", batch=2, in_channels=2, isolate=isolated, **NETWORKS[network]))


@everywhere
@pytest.mark.parametrize(
    "policies",
    [
        {"rectify": "mask", "seed": "one"},
        {"rectify": "both", "overlap": "assign", "channel": 1},
        {"rectify": "none", "bias_down": "below", "isolate": "channel", "seed": "one"},
        {"channel": 2, "unit": [1, 0], "isolate": "unit"},
        {"unit": [0, 1], "seed": "one"},
        {"isolate": "channel", "channel": 3},
        {"isolate": "none", "seed": "one"},
    ],
)
def test_policies_of_a_deconvnet(name: str, policies: dict[str, Any]) -> None:
    assert_stages(name, make("deconvnet", batch=2, in_channels=2, **NETWORKS["plane"] | policies))


@everywhere
@pytest.mark.parametrize("isolated", ["unit", "channel"])
def test_of_equal_activations_the_first_in_c_order_is_kept(name: str, isolated: str) -> None:
    """Channels come before positions: 5 in channel 1 is first, although channel 2 has one at an earlier position."""
    case = make(
        "deconvnet", in_channels=1, input=[2, 3], layers=[{"conv": 3, "kernel": 1, "bias": False}], isolate=isolated
    )
    weight = np.array([1, 5, 5], np.float32).reshape(3, 1, 1, 1)
    seed = run(name, case, {"input": np.array([[[[0, 0, 1], [0, 1, 1]]]], np.float32), "conv1.weight": weight})["seed"]
    kept = np.zeros((1, 3, 2, 3))
    kept[0, 1] = [[0, 0, 5], [0, 5, 5]] if isolated == "channel" else [[0, 0, 5], [0, 0, 0]]
    assert seed.tolist() == kept.tolist()


@everywhere
@pytest.mark.parametrize("size", [[5], [3, 4], [2, 3, 2]])
@pytest.mark.parametrize("lrn_down", ["identity", "gradient", "forward"])
def test_response_normalisation_and_its_gradient(name: str, size: list[int], lrn_down: str) -> None:
    layers = [{"conv": 6, "kernel": 1}, {"lrn": 3, "alpha": 0.5, "beta": 0.75, "k": 2.0}]
    case = make("deconvnet", batch=2, in_channels=2, input=size, layers=layers, lrn_down=lrn_down, isolate="none")
    assert_stages(name, case, draw(case, 2))


def test_tensorflow_normalises_responses_in_half_and_single_precision_only() -> None:
    layers = [{"conv": 2, "kernel": 1}, {"lrn": 3}]
    for dtype in ("bfloat16", "float64"):
        case = make("deconvnet", input=[2, 2], layers=layers, dtype=dtype)
        assert reason("tensorflow", case) == f"tensorflow has no kernel of LRN for {dtype}"
    run("tensorflow", make("deconvnet", input=[2, 2], layers=layers, dtype="float16"))


@everywhere
@pytest.mark.parametrize("direction", ["reconstruct", "project"])
@pytest.mark.parametrize("switches", ["given", "pooled"])
@pytest.mark.parametrize("size", [[9], [8, 7]])
def test_an_adaptive_deconvolutional_network(name: str, direction: str, switches: str, size: list[int]) -> None:
    layers = [
        {"maps": 4, "kernel": 2, "pool": [2] * (len(size) + 1)},
        {"maps": 3, "kernel": 3, "stride": 2, "padding": 1},
    ]
    case = make(
        "adaptive_deconv", batch=2, in_channels=2, input=size, layers=layers, direction=direction, switches=switches
    )
    assert_stages(name, case)


# ---- The deconvnet as a gradient -----------------------------------------------------------------------------------

SWITCHED = [
    {"conv": 4, "kernel": 3},
    "relu",
    {"max_pool": 3, "stride": 2},
    {"conv": 5, "kernel": 3, "padding": 1},
    "relu",
]


def as_gradient(case: Chain) -> np.ndarray:
    return run("tensorflow", replace(case, op="deconvnet_gradient"))["output"]


@pytest.mark.parametrize("rectify", ["signal", "mask", "both", "none"])
@pytest.mark.parametrize("seed", [{}, {"seed": "one", "isolate": "channel"}, {"channel": 1, "isolate": "unit"}])
def test_a_deconvnet_is_the_gradient_with_another_relu(rectify: str, seed: dict[str, Any]) -> None:
    case = make("deconvnet", batch=2, in_channels=2, input=[13, 12], layers=SWITCHED, rectify=rectify, **seed)
    explicit = run("tensorflow", case)["output"]
    assert np.abs(explicit).sum() > 0
    np.testing.assert_array_equal(as_gradient(case), explicit)


@pytest.mark.parametrize(
    "keys",
    [
        {
            "input": [14],
            "layers": [{"conv": 3, "kernel": 3, "padding": [[1, 2]]}, "relu", {"max_pool": 3, "padding": 1}],
        },
        {"input": [12, 11], "layers": [*SWITCHED[:2], {"max_pool": 3, "stride": 2, "padding": 1}, *SWITCHED[3:]]},
        {"input": [10, 10], "layers": [*SWITCHED[:2], {"max_pool": 3, "stride": 2, "ceil_mode": True}, *SWITCHED[3:]]},
        {"input": [9, 9], "layers": [*SWITCHED[:2], {"max_pool": 2, "stride": 1, "dilation": 2}]},
    ],
)
def test_the_gradient_passes_padded_pooling_too(keys: dict[str, Any]) -> None:
    case = make("deconvnet", batch=2, in_channels=2, isolate="channel", **keys)
    np.testing.assert_array_equal(as_gradient(case), run("tensorflow", case)["output"])


@pytest.mark.parametrize("lrn_down", ["identity", "gradient"])
def test_the_gradient_of_response_normalisation_or_none(lrn_down: str) -> None:
    layers = [*SWITCHED[:3], {"lrn": 3, "alpha": 0.1}, *SWITCHED[3:]]
    case = make("deconvnet", in_channels=2, input=[13, 12], layers=layers, lrn_down=lrn_down)
    np.testing.assert_allclose(as_gradient(case), run("tensorflow", case)["output"], 1e-5, 1e-4)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"overlap": "assign"}, "the gradient of overlapping pooling is unpooling with overlap: sum, not assign"),
        ({"overlap": "mean"}, "the gradient of overlapping pooling is unpooling with overlap: sum, not mean"),
        ({"bias_down": "below"}, "a gradient has no bias"),
        ({"lrn_down": "forward"}, "a gradient does not apply the response normalisation a second time"),
    ],
)
def test_what_no_gradient_does_is_declined(policy: dict[str, Any], words: str) -> None:
    layers = [*SWITCHED, {"lrn": 3}]
    case = make("deconvnet", in_channels=2, input=[13, 12], layers=layers, **policy)
    assert reason("tensorflow", replace(case, op="deconvnet_gradient")) == words


# ---- Other backends of Keras ---------------------------------------------------------------------------------------


@pytest.mark.skipif(BACKEND != "tensorflow", reason="this is the other process")
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_the_same_holds_on_another_backend(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "keras", __file__]
    environment = {**os.environ, "TESTED_KERAS_BACKEND": backend}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
