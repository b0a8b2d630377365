"""Chains in JAX: tensors ``(N, *spatial, C)``, operators of ``jax.lax`` and ``jax.numpy`` as its users compose them.

JAX has pooling as ``lax.reduce_window``, which pads and dilates as it is told and pads with what it starts from, -inf.
It has no switches, no unpooling and no normalisation: switches are ``jnp.argmax`` over the elements of each window side
by side, unpooling is an update of a flat array ``.at[places]``, by ``add`` or ``set``, and batch normalisation is
composed as in Flax.

Sources: jax.lax.reduce_window; jax.numpy.ndarray.at (which of several values set in one place stays is not said);
jax.numpy.argmax (the first of equal maxima).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

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
from conformance.targets.base import Tensors
from conformance.targets.channels_last import channels_second, from_canonical, pool_ends, windows
from conformance.targets.jax_convolution import Transposed, convolve


class JaxSteps:
    """The steps of a chain on ``jax.numpy``; ``transposed`` is the way to apply C.T."""

    def __init__(self, jax: Any, transposed: Transposed) -> None:
        self._jax = jax
        self._numpy = jax.numpy
        self._convolve_transposed = transposed

    def read(self, name: str, array: np.ndarray) -> Any:
        return self._numpy.asarray(from_canonical(name, array))

    def results(self, values: Mapping[str, Any]) -> Tensors:
        arrays = {name: channels_second(np.asarray(value)) for name, value in values.items()}
        return {name: array.astype(np.int64) if is_index(name) else array for name, array in arrays.items()}

    def convolution(self, step: Convolution, x: Any, weight: Any, bias: Any = None) -> Any:
        y = (self._convolve_transposed if step.transposed else convolve)(self._jax, step, x, weight)
        return y if bias is None else y + bias

    def max_pool(self, step: MaxPool, x: Any) -> tuple[Any, Any]:
        if step.magnitude:
            indices = self._switches(step, self._numpy.abs(x))
            return self._taken(x, indices), indices
        return self.pooled(step, x), self._switches(step, x)

    def pooled(self, step: MaxPool, x: Any) -> Any:
        """The maxima alone."""
        return self._jax.lax.reduce_window(
            x,
            -math.inf,
            self._jax.lax.max,
            window_dimensions=(1, *step.kernel, 1),
            window_strides=(1, *step.stride, 1),
            padding=step.padding.upper() if isinstance(step.padding, str) else [(0, 0), *pool_ends(step), (0, 0)],
            window_dilation=(1, *step.dilation, 1),
        )

    def _switches(self, step: MaxPool, x: Any) -> Any:
        """The place of each window's maximum, from its elements side by side."""
        numpy = self._numpy
        table = windows(step)
        slots = numpy.argmax(numpy.take(_planes(x), table, axis=1), axis=2)
        offsets = np.arange(len(table))[:, None] * table.shape[1]
        return numpy.take(table.ravel(), slots + offsets).reshape(x.shape[0], *step.small, x.shape[-1])

    def max_unpool(self, step: MaxUnpool, x: Any, indices: Any) -> Any:
        numpy = self._numpy
        shape = (x.shape[0], *step.large, x.shape[-1])
        places, values = self._addresses(indices, math.prod(step.large)).ravel(), x.ravel()
        zeros = numpy.zeros(math.prod(shape), x.dtype)
        if step.overlap == "assign":
            return zeros.at[places].set(values).reshape(shape)
        y = zeros.at[places].add(values)
        if step.overlap == "mean":
            y = y / numpy.maximum(zeros.at[places].add(1), 1)
        return y.reshape(shape)

    def take(self, step: Take, x: Any, indices: Any) -> Any:  # noqa: ARG002
        return self._taken(x, indices)

    def _taken(self, x: Any, indices: Any) -> Any:
        return self._numpy.take(x.ravel(), self._addresses(indices, math.prod(x.shape[1:-1])))

    def _addresses(self, indices: Any, plane: int) -> Any:
        """Places in planes of so many elements to places in the whole tensor."""
        count, channels = indices.shape[0], indices.shape[-1]
        image = self._numpy.arange(count).reshape(count, *(1 for _ in indices.shape[1:]))
        return (image * plane + indices) * channels + self._numpy.arange(channels)

    def rectify(self, step: Rectify, x: Any, activation: Any = None) -> Any:
        y = x if step.by == "mask" else self._jax.nn.relu(x)
        return y if step.by == "signal" else self._numpy.where(activation > 0, y, 0)

    def pad(self, step: Pad, x: Any) -> Any:
        around = [(0, 0, 0), *((begin, end, 0) for begin, end in step.ends), (0, 0, 0)]
        return self._jax.lax.pad(x, self._numpy.asarray(step.value, x.dtype), around)

    def batch_norm(self, step: BatchNorm, x: Any, scale: Any, shift: Any, mean: Any, variance: Any) -> Any:
        """JAX itself has none; this is how Flax puts it together."""
        return (x - mean) * (self._jax.lax.rsqrt(variance + step.epsilon) * scale) + shift

    def response_norm(self, step: ResponseNorm, x: Any) -> Any:
        return x / (step.k + step.alpha / step.size * self._neighbours(x * x, step.size)) ** step.beta

    def response_norm_gradient(self, step: ResponseNormGradient, signal: Any, x: Any) -> Any:
        _, back = self._jax.vjp(functools.partial(self.response_norm, step.norm), x)
        return back(signal)[0]

    def _neighbours(self, x: Any, size: int) -> Any:
        """The sum over the ``size`` nearest channels."""
        padded = self._numpy.pad(x, [(0, 0)] * (x.ndim - 1) + [(size // 2, size // 2)])
        return sum(padded[..., n : n + x.shape[-1]] for n in range(size))

    def isolate(self, step: Isolate, x: Any) -> Any:
        numpy = self._numpy
        values = numpy.ones_like(x) if step.seed == "one" else x
        if step.keep == "none":
            return values
        planes = _planes(x)
        channel, unit = self._chosen(step, planes, x.shape[1:-1])
        kept = numpy.arange(x.shape[-1]) == channel
        if step.keep == "unit":
            kept = kept & (numpy.arange(planes.shape[1])[:, None] == unit)
        return numpy.where(kept, _planes(values), 0).reshape(x.shape)

    def _chosen(self, step: Isolate, planes: Any, size: tuple[int, ...]) -> tuple[Any, Any]:
        """Channel and flat position of what is kept, each ``(N, 1, 1)`` or one number for all."""
        count, plane, _ = planes.shape
        flat = planes.swapaxes(1, 2).reshape(count, -1) if step.channel is None else planes[:, :, step.channel]
        strongest = self._numpy.argmax(flat, axis=1)[:, None, None]
        channel = strongest // plane if step.channel is None else step.channel
        unit = strongest % plane if step.unit is None else int(np.ravel_multi_index(step.unit, size))
        return channel, unit

    def reshape(self, step: Reshape, x: Any) -> Any:
        canonical = self._numpy.moveaxis(x, -1, 1).reshape(step.shape)
        return self._numpy.moveaxis(canonical, 1, -1)


def _planes(x: Any) -> Any:
    """``(N, *spatial, C)`` to ``(N, plane, C)``."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])


def in_numpy(y: Any) -> np.ndarray:
    """A result as a NumPy array, channels second."""
    return channels_second(np.asarray(y))
