"""Chains in TensorFlow: eager tensors ``(N, *spatial, C)``, its operators as its users put them together.

TensorFlow has pooling with switches in two dimensions only (``tf.nn.max_pool_with_argmax``, whose index is
``(y * W + x) * C + c``), and no unpooling.  What is missing is composed of ``tf.gather``, ``tf.argmax`` and
``tf.scatter_nd``.  Between the steps, indices are flat in each plane.

Sources: tf.nn.max_pool_with_argmax; tf.nn.pool; tf.scatter_nd ("duplicates are summed");
tf.nn.local_response_normalization (its alpha is not divided by the size).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

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
from conformance.targets.tensorflow_convolution import (
    NO_GROUPS,
    Pads,
    convolve,
    convolve_transposed,
    explicit_pads,
    with_ends,
)


class TensorFlowSteps:
    """The steps of a chain on ``tf``."""

    def __init__(self, tf: Any) -> None:
        self._tf = tf

    def read(self, name: str, array: np.ndarray) -> Any:
        return self._tf.convert_to_tensor(from_canonical(name, array))

    def results(self, values: Mapping[str, Any]) -> Tensors:
        arrays = {name: channels_second(cast(np.ndarray, value.numpy())) for name, value in values.items()}
        return {name: array.astype(np.int64) if is_index(name) else array for name, array in arrays.items()}

    def convolution(self, step: Convolution, x: Any, weight: Any, bias: Any = None) -> Any:
        decline_onnx_spelling(step, "tensorflow")
        if step.rank == 3 and step.groups > 1:
            raise Unsupported(NO_GROUPS.format(step.groups))
        y = (self._transposed if step.transposed else self._direct)(step, x, weight)
        return y if bias is None else self._tf.nn.bias_add(y, bias)

    def _direct(self, step: Convolution, x: Any, weight: Any) -> Any:
        padding = _said(step)
        if padding is None:
            x, padding = self.extended(x, list(step.crop)), "VALID"
        return convolve(self._tf, step, x, weight, padding)

    def _transposed(self, step: Convolution, x: Any, weight: Any) -> Any:
        if padding := _said(step):
            return convolve_transposed(self._tf, step, x, weight, padding)
        whole = replace(step, axes=tuple(replace(axis, large=axis.full, begin=0) for axis in step.axes))
        y = convolve_transposed(self._tf, whole, x, weight, "VALID")
        return self.extended(y, [(-begin, -end) for begin, end in step.crop])

    def max_pool(self, step: MaxPool, x: Any) -> tuple[Any, Any]:
        if step.magnitude:
            _, indices = self._switches(step, self._tf.abs(x))
            return self._taken(x, indices), indices
        y, indices = self._switches(step, x)
        return (self.pooled(step, x) if y is None else y), indices

    def pooled(self, step: MaxPool, x: Any) -> Any:
        """The maxima alone."""
        dilated = max(step.dilation) > 1
        word = word_for(step.axes, step.padding)
        if word is None or (dilated and not isinstance(step.padding, str)):
            x, word = self.extended(x, pool_ends(step), -math.inf), "valid"
        if dilated:
            return self._tf.nn.pool(
                x, step.kernel, "MAX", strides=step.stride, padding=word.upper(), dilations=step.dilation
            )
        operator = getattr(self._tf.nn, f"max_pool{step.rank}d")
        return operator(x, list(step.kernel), list(step.stride), word.upper())

    def _switches(self, step: MaxPool, x: Any) -> tuple[Any, Any]:
        """Maxima, or None where TensorFlow does not give them along with the switches, and the switches."""
        if step.rank == 3 or max(step.dilation) > 1:
            return None, self._searched(step, x)
        word = word_for(step.axes, step.padding)
        ends = [(0, 0)] * step.rank if word else pool_ends(step)
        plain, x = x, self.extended(x, ends, -math.inf)
        y, indices = self._with_argmax(step, x, (word or "valid").upper())
        places = indices // x.shape[-1]
        if step.rank == 1:
            return y, self._tf.maximum(places - ends[0][0], 0)
        width = _size(self._tf, x, 2)
        row, column = places // width - ends[0][0], places % width - ends[1][0]
        return y, self._tf.maximum(row, 0) * _size(self._tf, plain, 2) + self._tf.maximum(column, 0)

    def _with_argmax(self, step: MaxPool, x: Any, word: str) -> tuple[Any, Any]:
        """Values and raw indices; one dimension is two, the first of size 1."""
        flat = step.rank == 1
        kernel, stride = ((1, *step.kernel), (1, *step.stride)) if flat else (step.kernel, step.stride)
        found = self._tf.nn.max_pool_with_argmax(
            x[:, None] if flat else x, with_ends(kernel), with_ends(stride), word, output_dtype=self._tf.int64
        )
        y, indices = (value[:, 0] for value in found) if flat else found
        return y, indices

    def _searched(self, step: MaxPool, x: Any) -> Any:
        """The switches, from the elements of every window side by side."""
        tf = self._tf
        table = windows(step)
        seen = tf.gather(_planes(tf, x), table, axis=1)
        slots = tf.argmax(seen, axis=2) + np.arange(len(table))[:, None] * table.shape[1]
        return tf.reshape(tf.gather(table.ravel(), slots), [_size(tf, x, 0), *step.small, x.shape[-1]])

    def max_unpool(self, step: MaxUnpool, x: Any, indices: Any) -> Any:
        tf = self._tf
        shape = [_size(tf, x, 0), *step.large, x.shape[-1]]
        size = [math.prod(shape)]
        places = tf.reshape(self._addresses(indices, math.prod(step.large)), [-1, 1])
        updates = tf.reshape(x, [-1])
        if step.overlap == "assign":
            y = tf.tensor_scatter_nd_update(tf.zeros(size, x.dtype), places, updates)
        else:
            y = tf.scatter_nd(places, updates, size)
        if step.overlap == "mean":
            y = tf.math.divide_no_nan(y, tf.scatter_nd(places, tf.ones_like(updates), size))
        return tf.reshape(y, shape)

    def take(self, step: Take, x: Any, indices: Any) -> Any:  # noqa: ARG002
        return self._taken(x, indices)

    def _taken(self, x: Any, indices: Any) -> Any:
        tf = self._tf
        return tf.gather(tf.reshape(x, [-1]), self._addresses(indices, math.prod(x.shape[1:-1])))

    def _addresses(self, indices: Any, plane: int) -> Any:
        """Places in planes of so many elements to places in the whole tensor: TensorFlow's own, batch included."""
        count, channels = _size(self._tf, indices, 0), indices.shape[-1]
        image = self._tf.reshape(self._tf.range(count, dtype=self._tf.int64), [count] + [1] * (len(indices.shape) - 1))
        return (image * plane + indices) * channels + self._tf.range(channels, dtype=self._tf.int64)

    def rectify(self, step: Rectify, x: Any, activation: Any = None) -> Any:
        y = x if step.by == "mask" else self._tf.nn.relu(x)
        return y if step.by == "signal" else self._tf.where(activation > 0, y, self._tf.zeros_like(y))

    def pad(self, step: Pad, x: Any) -> Any:
        return self.extended(x, list(step.ends), step.value)

    def batch_norm(self, step: BatchNorm, x: Any, scale: Any, shift: Any, mean: Any, variance: Any) -> Any:
        return self._tf.nn.batch_normalization(x, mean, variance, shift, scale, step.epsilon)

    def response_norm(self, step: ResponseNorm, x: Any) -> Any:
        images = _planes(self._tf, x)[:, :, None]  # it takes two spatial axes
        y = self._tf.nn.local_response_normalization(
            images, depth_radius=step.size // 2, bias=step.k, alpha=step.alpha / step.size, beta=step.beta
        )
        return self._tf.reshape(y, _shape(self._tf, x))

    def response_norm_gradient(self, step: ResponseNormGradient, signal: Any, x: Any) -> Any:
        with self._tf.GradientTape() as tape:
            tape.watch(x)
            y = self.response_norm(step.norm, x)
        return tape.gradient(y, x, output_gradients=signal)

    def isolate(self, step: Isolate, x: Any) -> Any:
        tf = self._tf
        values = tf.ones_like(x) if step.seed == "one" else x
        if step.keep == "none":
            return values
        planes = _planes(tf, x)
        channel, unit = self._chosen(step, planes, x.shape[1:-1])
        kept = tf.equal(tf.range(x.shape[-1], dtype=tf.int64), channel)
        if step.keep == "unit":
            kept &= tf.equal(tf.range(planes.shape[1], dtype=tf.int64)[:, None], unit)
        return tf.reshape(tf.where(kept, _planes(tf, values), tf.zeros_like(planes)), _shape(tf, x))

    def _chosen(self, step: Isolate, planes: Any, size: Any) -> tuple[Any, Any]:
        """Channel and flat position of what is kept, each ``(N, 1, 1)`` or one number for all."""
        tf = self._tf
        plane, channels = planes.shape[1:]
        if step.channel is None:
            flat = tf.reshape(tf.transpose(planes, [0, 2, 1]), [_size(tf, planes, 0), channels * plane])
        else:
            flat = planes[:, :, step.channel]
        strongest = tf.argmax(flat, axis=1)[:, None, None]
        channel = strongest // plane if step.channel is None else step.channel
        unit = strongest % plane if step.unit is None else int(np.ravel_multi_index(step.unit, tuple(size)))
        return channel, unit

    def reshape(self, step: Reshape, x: Any) -> Any:
        tf = self._tf
        rank = len(x.shape)
        canonical = tf.reshape(tf.transpose(x, [0, rank - 1, *range(1, rank - 1)]), [_size(tf, x, 0), *step.shape[1:]])
        return tf.transpose(canonical, [0, *range(2, len(step.shape)), 1])

    def extended(self, x: Any, ends: Ends, fill: float = 0.0) -> Any:
        """Rows added at the beginning and at the end of each spatial axis; where negative, dropped."""
        x = x[(slice(None), *(slice(max(-begin, 0), min(end, 0) or None) for begin, end in ends))]
        added = [[max(begin, 0), max(end, 0)] for begin, end in ends]
        if not any(map(any, added)):
            return x
        return self._tf.pad(x, [[0, 0], *added, [0, 0]], constant_values=self._tf.cast(fill, x.dtype))


def _said(step: Convolution) -> str | Pads | None:
    """``padding`` where TensorFlow's takes the step's geometry.

    Numbers with groups or dilations are left out, because their gradients have no kernel.
    """
    if word := word_for(step.axes, step.padding):
        return word.upper()
    if isinstance(step.padding, str):
        raise Unsupported(f"tensorflow's padding='{step.padding.upper()}' does not join {step.small} and {step.large}")
    return None if step.groups > 1 or max(step.dilation) > 1 else explicit_pads(step)


def _planes(tf: Any, x: Any) -> Any:
    """``(N, *spatial, C)`` to ``(N, plane, C)``."""
    return tf.reshape(x, [_size(tf, x, 0), math.prod(x.shape[1:-1]), x.shape[-1]])


def _shape(tf: Any, x: Any) -> list[Any]:
    return [_size(tf, x, 0), *x.shape[1:]]


def _size(tf: Any, x: Any, axis: int) -> Any:
    """The size of an axis: a number, or in a function for any size a tensor."""
    size = x.shape[axis]
    return tf.shape(x, out_type=tf.int64)[axis] if size is None else size
