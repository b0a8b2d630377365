"""Chains in Keras, on whichever backend: tensors ``(N, *spatial, C)``, as its users put its parts together.

Keras has no pooling with switches, no unpooling and no normalisation over neighbouring channels.  They are composed of
``keras.ops``, as in a layer of one's own.  Explicit padding is a padding before a ``valid`` convolution, and a crop
after a ``valid`` transposed convolution, whose size is ``(i - 1) s + max(k^, s)``.

Values that meet in one place are summed by ``scatter_update`` with ``reduction="add"``, in releases without it by
``scatter``, which does so against its own text ("equivalent to scatter_update").
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from conformance.arithmetic.spellings import Mode
from conformance.spec import (
    BatchNorm,
    Convolution,
    Isolate,
    MaxPool,
    MaxUnpool,
    Pad,
    Rectify,
    Reshape,
    ResponseNorm,
    ResponseNormGradient,
    Take,
    is_index,
)
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.channels_last import Ends, channels_second, from_canonical, pool_ends, windows, word_for
from conformance.targets.reasons import decline_onnx_spelling

_LAST = "channels_last"


class KerasSteps:
    """The steps of a chain on ``keras.ops``."""

    def __init__(self, keras: Any) -> None:
        self._keras = keras
        self._ops = keras.ops

    def read(self, name: str, array: np.ndarray) -> Any:
        return self._ops.convert_to_tensor(from_canonical(name, array))

    def results(self, values: Mapping[str, Any]) -> Tensors:
        arrays = {name: cast(np.ndarray, self._ops.convert_to_numpy(value)) for name, value in values.items()}
        return {name: channels_second(a.astype(np.int64) if is_index(name) else a) for name, a in arrays.items()}

    def convolution(self, step: Convolution, x: Any, weight: Any, bias: Any = None) -> Any:
        decline_onnx_spelling(step, "keras")
        if not step.transposed:
            word = word_for(step.axes, step.padding)
            padded = x if word else self._extended(x, list(step.crop))
            return self._conv(step, padded, weight, bias, word or "valid")
        if step.groups > 1:
            raise Unsupported(f"keras has no groups in a transposed convolution, the case has {step.groups}")
        if isinstance(step.padding, str):
            return self._conv(step, x, weight, bias, step.padding)
        ends = [(-axis.begin, -axis.end - max(axis.stride - axis.extent, 0)) for axis in step.axes]
        if max(map(max, ends)) <= 0:
            return self._extended(self._conv(step, x, weight, bias, "valid"), ends)
        y = self._extended(self._conv(step, x, weight, None, "valid"), ends)  # what is added needs its bias too
        return y if bias is None else self._ops.add(y, bias)

    def _conv(self, step: Convolution, x: Any, weight: Any, bias: Any, padding: Mode) -> Any:
        more = {"output_padding": step.output_padding} if step.transposed and isinstance(step.padding, str) else {}
        y = getattr(self._ops, step.op)(
            x, weight, strides=step.stride, padding=padding, data_format=_LAST, dilation_rate=step.dilation, **more
        )
        return y if bias is None else self._ops.add(y, bias)

    def max_pool(self, step: MaxPool, x: Any) -> tuple[Any, Any]:
        if step.magnitude:
            indices = self._switches(step, self._ops.absolute(x))
            return self._taken(x, indices), indices
        if max(step.dilation) > 1:
            raise Unsupported("keras's max pooling has no dilation")
        word = word_for(step.axes, step.padding)
        padded = x if word else self._padded(x, pool_ends(step), -math.inf)
        return self._pool(step, padded, word or "valid"), self._switches(step, x)

    def _pool(self, step: MaxPool, x: Any, padding: Mode) -> Any:
        return self._ops.max_pool(x, step.kernel, step.stride, padding, _LAST)

    def _switches(self, step: MaxPool, x: Any) -> Any:
        """The place of each window's maximum, from its elements side by side."""
        ops = self._ops
        table = windows(step)
        seen = ops.take(self._planes(x), ops.convert_to_tensor(table), axis=1)
        slots = ops.cast(ops.argmax(seen, axis=2), "int64")
        offsets = ops.convert_to_tensor(np.arange(len(table))[:, None] * table.shape[1])
        # No ops.add: on TensorFlow it takes a second operand (n, 1) for a bias, and adds it along the last axis.
        places = ops.take(ops.convert_to_tensor(table.ravel()), slots + offsets)
        return ops.reshape(places, (-1, *step.small, x.shape[-1]))

    def max_unpool(self, step: MaxUnpool, x: Any, indices: Any) -> Any:
        ops = self._ops
        shape = (ops.shape(x)[0], *step.large, x.shape[-1])  # of a symbolic tensor, a number of the graph
        size = math.prod(shape)
        places = ops.reshape(self._addresses(indices, math.prod(step.large)), (-1, 1))
        values = ops.reshape(x, (-1,))
        if step.overlap == "assign":
            y = ops.scatter_update(ops.zeros((size,), dtype=x.dtype), places, values)
        else:
            y = self._summed(places, values, size)
        if step.overlap == "mean":
            y = ops.divide(y, ops.maximum(self._summed(places, ops.ones_like(values), size), 1))
        return ops.reshape(y, shape)

    def _summed(self, places: Any, values: Any, size: int) -> Any:
        ops = self._ops
        if "reduction" not in inspect.signature(ops.scatter_update).parameters:
            return ops.scatter(places, values, (size,))
        return ops.scatter_update(ops.zeros((size,), dtype=values.dtype), places, values, reduction="add")

    def take(self, step: Take, x: Any, indices: Any) -> Any:  # noqa: ARG002
        return self._taken(x, indices)

    def _taken(self, x: Any, indices: Any) -> Any:
        return self._ops.take(self._ops.reshape(x, (-1,)), self._addresses(indices, math.prod(x.shape[1:-1])))

    def _addresses(self, indices: Any, plane: int) -> Any:
        """Places in planes of so many elements to places in the whole tensor."""
        ops = self._ops
        count, channels = ops.shape(indices)[0], indices.shape[-1]
        image = ops.reshape(ops.arange(count, dtype="int64"), (-1, *(1 for _ in indices.shape[1:])))
        return (image * plane + indices) * channels + ops.arange(channels, dtype="int64")

    def rectify(self, step: Rectify, x: Any, activation: Any = None) -> Any:
        y = x if step.by == "mask" else self._relu(x)
        return y if step.by == "signal" else self._ops.where(activation > 0, y, self._ops.zeros_like(y))

    def _relu(self, x: Any) -> Any:
        return self._ops.relu(x)

    def pad(self, step: Pad, x: Any) -> Any:
        return self._extended(x, list(step.ends), step.value)

    def batch_norm(self, step: BatchNorm, x: Any, scale: Any, shift: Any, mean: Any, variance: Any) -> Any:
        return self._ops.batch_normalization(x, mean, variance, -1, shift, scale, step.epsilon)

    def response_norm(self, step: ResponseNorm, x: Any) -> Any:
        return self._ops.divide(x, self._ops.power(self._scale(step, x), step.beta))

    def response_norm_gradient(self, step: ResponseNormGradient, signal: Any, x: Any) -> Any:
        ops, norm = self._ops, step.norm
        scale = self._scale(norm, x)
        passed = signal * ops.power(scale, -norm.beta)
        shared = self._neighbours(signal * x * ops.power(scale, -norm.beta - 1), norm.size)
        return passed - 2 * norm.alpha * norm.beta / norm.size * x * shared

    def _scale(self, step: ResponseNorm, x: Any) -> Any:
        return step.k + step.alpha / step.size * self._neighbours(self._ops.square(x), step.size)

    def _neighbours(self, x: Any, size: int) -> Any:
        """The sum over the ``size`` nearest channels."""
        around = [[0, 0]] * (len(x.shape) - 1) + [[size // 2, size // 2]]
        padded = self._ops.pad(x, around)
        return sum(padded[..., n : n + x.shape[-1]] for n in range(size))

    def isolate(self, step: Isolate, x: Any) -> Any:
        ops = self._ops
        values = ops.ones_like(x) if step.seed == "one" else x
        if step.keep == "none":
            return values
        planes = self._planes(x)
        channel, unit = self._chosen(step, planes, x.shape[1:-1])
        kept = ops.equal(ops.arange(x.shape[-1], dtype="int64"), channel)
        if step.keep == "unit":
            kept = ops.logical_and(kept, ops.equal(ops.arange(planes.shape[1], dtype="int64")[:, None], unit))
        y = ops.where(kept, self._planes(values), ops.zeros_like(planes))
        return ops.reshape(y, (-1, *x.shape[1:]))

    def _chosen(self, step: Isolate, planes: Any, size: tuple[int, ...]) -> tuple[Any, Any]:
        """Channel and flat position of what is kept, each ``(N, 1, 1)`` or one number for all."""
        ops = self._ops
        plane = planes.shape[1]
        if step.channel is None:
            flat = ops.reshape(ops.transpose(planes, (0, 2, 1)), (-1, plane * planes.shape[2]))
        else:
            flat = planes[:, :, step.channel]
        strongest = ops.cast(ops.argmax(flat, axis=1), "int64")[:, None, None]
        channel = strongest // plane if step.channel is None else step.channel
        unit = strongest % plane if step.unit is None else int(np.ravel_multi_index(step.unit, size))
        return channel, unit

    def reshape(self, step: Reshape, x: Any) -> Any:
        ops = self._ops
        rank = len(x.shape)
        canonical = ops.reshape(ops.transpose(x, (0, rank - 1, *range(1, rank - 1))), (-1, *step.shape[1:]))
        return ops.transpose(canonical, (0, *range(2, len(step.shape)), 1))

    def _planes(self, x: Any) -> Any:
        """``(N, *spatial, C)`` to ``(N, plane, C)``."""
        return self._ops.reshape(x, (-1, math.prod(x.shape[1:-1]), x.shape[-1]))

    def _extended(self, x: Any, ends: Ends, fill: float = 0.0) -> Any:
        """Rows added at the beginning and at the end of each spatial axis; where negative, dropped."""
        dropped = [(max(-begin, 0), max(-end, 0)) for begin, end in ends]
        added = [(max(begin, 0), max(end, 0)) for begin, end in ends]
        x = self._cropped(x, dropped) if any(map(any, dropped)) else x
        return self._padded(x, added, fill) if any(map(any, added)) else x

    def _cropped(self, x: Any, ends: Ends) -> Any:
        kept = (slice(begin, n - end) for n, (begin, end) in zip(x.shape[1:-1], ends, strict=True))
        return x[(slice(None), *kept)]

    def _padded(self, x: Any, ends: Ends, fill: float = 0.0) -> Any:
        return self._ops.pad(x, [(0, 0), *ends, (0, 0)], constant_values=fill)


class KerasLayerSteps(KerasSteps):
    """The same with ``keras.layers`` wherever there is a layer."""

    def _conv(self, step: Convolution, x: Any, weight: Any, bias: Any, padding: Mode) -> Any:
        arguments: dict[str, Any] = {"padding": padding}
        if not step.transposed:
            arguments["groups"] = step.groups
        elif isinstance(step.padding, str):
            arguments["output_padding"] = step.output_padding
        return convolution_layer(self._keras, step, x, [weight] if bias is None else [weight, bias], arguments)

    def _pool(self, step: MaxPool, x: Any, padding: Mode) -> Any:
        return self._layer(f"MaxPooling{step.rank}D", x, step.kernel, step.stride, padding, data_format=_LAST)

    def _relu(self, x: Any) -> Any:
        return self._layer("ReLU", x)

    def batch_norm(self, step: BatchNorm, x: Any, scale: Any, shift: Any, mean: Any, variance: Any) -> Any:
        dtype = self._keras.backend.standardize_dtype(x.dtype)
        layer = self._keras.layers.BatchNormalization(epsilon=step.epsilon, dtype=dtype)
        layer.build(x.shape)
        layer.set_weights([scale, shift, mean, variance])
        return layer(x, training=False)

    def _cropped(self, x: Any, ends: Ends) -> Any:
        return self._on_axes("Cropping", x, ends)

    def _padded(self, x: Any, ends: Ends, fill: float = 0.0) -> Any:
        return self._on_axes("ZeroPadding", x, ends) if fill == 0 else super()._padded(x, ends, fill)

    def _on_axes(self, kind: str, x: Any, ends: Ends) -> Any:
        if len(ends) == 1:
            return self._layer(f"{kind}1D", x, ends[0])
        return self._layer(f"{kind}{len(ends)}D", x, tuple(ends), data_format=_LAST)

    def _layer(self, kind: str, x: Any, *arguments: Any, **options: Any) -> Any:
        dtype = self._keras.backend.standardize_dtype(x.dtype)
        return getattr(self._keras.layers, kind)(*arguments, dtype=dtype, **options)(x)


def convolution_layer(keras: Any, case: Convolution, x: Any, weights: list[Any], arguments: Mapping[str, Any]) -> Any:
    """What ``Conv*D`` or ``Conv*DTranspose`` makes of ``x``; ``weights`` are the kernel and, if any, the bias."""
    kind = f"Conv{case.rank}D" + ("Transpose" if case.transposed else "")
    if max(case.stride) > 1 and max(case.dilation) > 1:
        raise Unsupported(f"keras.layers.{kind} takes no stride > 1 together with a dilation > 1")
    layer = getattr(keras.layers, kind)(
        case.out_channels,
        case.kernel,
        strides=case.stride,
        dilation_rate=case.dilation,
        data_format=_LAST,
        use_bias=len(weights) > 1,
        kernel_initializer="zeros",
        dtype=case.dtype,
        **arguments,
    )
    layer.build(x.shape)
    layer.set_weights(weights)
    return layer(x)
