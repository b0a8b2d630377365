"""A chain as one ONNX model, whose results are what all its stages give.

ONNX's indices of a pooling count through the whole tensor, ``((n * C + c) * H + h) * W + w``.  Those that MaxPool gives
go to MaxUnpool as they are; stages return them flat in each plane, after a Sub.  MaxUnpool assigns, so that a sum is a
ScatterElements.  Sources: ONNX operators MaxPool-22, MaxUnpool-22, ScatterElements-18, LRN-13.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from conformance.dtypes import FORMATS
from conformance.spec import (
    BatchNorm,
    Case,
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
    is_parameter,
)
from conformance.spec.case import Shape
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.onnx_graph import OPERATORS, Graph, attributes, check_dtype
from conformance.targets.onnx_pooling import pool_attributes, unpool_attributes

OLDEST_OPSET = 16
"""The opset that let ScatterElements add."""

Run = Callable[[Any, Tensors], Sequence[np.ndarray]]
"""Runs a ``ModelProto`` on what is fed, and returns the outputs in the order of the graph."""


class OnnxSteps:
    """`conformance.targets.chain.Steps` whose values are names in a graph, which ``results`` runs once.

    Weights become constants of the graph up to ``constants`` bytes of them.
    """

    def __init__(self, case: Case, opset: int, run: Run, constants: float = math.inf) -> None:
        check_dtype(case.dtype, "MaxPool", opset)
        self._graph = Graph(case.dtype, opset)
        self._dtype = FORMATS[case.dtype].dtype
        self._run, self._room = run, constants
        self._feeds: dict[str, np.ndarray] = {}
        self._shapes: dict[str, Shape] = {}
        self._whole: dict[tuple[str, int], str] = {}

    def read(self, name: str, array: np.ndarray) -> str:
        self._shapes[name] = array.shape
        if is_parameter(name) and array.nbytes <= self._room:
            self._room -= array.nbytes
            return self._graph.constant(array, name)
        self._feeds[name] = array
        return self._graph.input(name, array.shape)

    def results(self, values: Mapping[str, str]) -> Tensors:
        outputs = self._run(self.model(values), self._feeds)
        return dict(zip(values, outputs, strict=True))

    def model(self, values: Mapping[str, str]) -> Any:
        """The ``ModelProto`` that gives these values."""
        ranks = {result: len(self._shapes[value]) for result, value in values.items()}
        return self._graph.model(values, ranks)

    def convolution(self, step: Convolution, x: str, weight: str, bias: str | None = None) -> str:
        inputs = [x, weight] if bias is None else [x, weight, bias]
        return self._node(OPERATORS[step.op], inputs, step.result_shapes["output"], **attributes(step))

    def max_pool(self, step: MaxPool, x: str) -> tuple[str, ...]:
        strength = self._node("Abs", [x], step.large_shape) if step.magnitude else x
        spelled = pool_attributes(step, self._graph.opset)
        if not step.tells_switches:
            return (self._node("MaxPool", [strength], step.small_shape, **spelled),)
        output, places = self._graph.nodes("MaxPool", [strength], 2, **spelled)
        self._shapes |= {output: step.small_shape, places: step.small_shape}
        if spelled.get("storage_order"):
            places = self._row_major(places, step.large)
        plane = math.prod(step.large)
        indices = self._node("Sub", [places, self._offsets(places, plane)], step.small_shape)
        self._whole[indices, plane] = places
        return self._taken(x, indices) if step.magnitude else output, indices

    def max_unpool(self, step: MaxUnpool, x: str, indices: str) -> str:
        if step.overlap == "assign":
            return self._unpool(step, x, indices)
        total = self._scatter_sum(step, x, indices)
        if step.overlap == "sum":
            return total
        writers = self._scatter_sum(step, self._filled(1, step.small_shape), indices)
        at_least_one = self._node("Max", [writers, self._number(1)], step.large_shape)
        return self._node("Div", [total, at_least_one], step.large_shape)

    def rectify(self, step: Rectify, x: str, activation: str | None = None) -> str:
        shape = self._shapes[x]
        signal = x if step.by == "mask" else self._node("Relu", [x], shape)
        if activation is None:
            return signal
        active = self._node("Greater", [activation, self._number(0)], shape)
        return self._node("Where", [active, signal, self._number(0)], shape)

    def response_norm(self, step: ResponseNorm, x: str) -> str:
        spelled = {"size": step.size, "alpha": step.alpha, "beta": step.beta, "bias": step.k}
        return self._node("LRN", [x], self._shapes[x], **spelled)

    def response_norm_gradient(self, step: ResponseNormGradient, signal: str, x: str) -> str:
        """``r s**-beta - 2 alpha beta / size * x * W(r x s**(-beta - 1))``, ``s = k + alpha / size * W(x**2)``.

        W sums over the channels of the window around each; it is its own transpose.
        """
        norm, shape = step.norm, self._shapes[x]
        rate = norm.alpha / norm.size

        def apply(operator: str, a: str, b: str) -> str:
            return self._node(operator, [a, b], shape)

        squares = self._window_sum(apply("Mul", x, x), norm.size)
        scale = apply("Add", self._number(norm.k), apply("Mul", self._number(rate), squares))
        direct = apply("Div", signal, apply("Pow", scale, self._number(norm.beta)))
        shared = apply("Div", apply("Mul", signal, x), apply("Pow", scale, self._number(norm.beta + 1)))
        spread = apply("Mul", x, self._window_sum(shared, norm.size))
        return apply("Sub", direct, apply("Mul", self._number(2 * norm.beta * rate), spread))

    def isolate(self, step: Isolate, x: str) -> str:
        shape = batch, channels, *_ = self._shapes[x]
        plane = math.prod(shape[2:])
        if step.keep == "none":
            return x if step.seed == "activation" else self._filled(1, shape)
        planes = self._reshaped(x, (batch, channels, plane))
        channel = self._channel(step, planes)
        if step.keep == "channel":
            return self._reshaped(self._only(planes, channel, step), shape)
        start = self._integer_node("Mul", channel, plane)
        place = self._node("Add", [start, self._unit(step, planes, channel, shape[2:])], (batch, 1, 1))
        return self._reshaped(self._only(self._reshaped(x, (batch, channels * plane, 1)), place, step), shape)

    def reshape(self, step: Reshape, x: str) -> str:
        return self._node("Reshape", [x, self._integers(step.shape)], step.shape)

    def take(self, step: Take, x: str, indices: str) -> str:  # noqa: ARG002
        return self._taken(x, indices)

    def pad(self, step: Pad, x: str) -> str:
        shape = self._shapes[x]
        begins, ends = zip((0, 0), (0, 0), *step.ends, strict=True)
        inputs = [x, self._integers([*begins, *ends])] + ([self._number(step.value)] if step.value else [])
        return self._node("Pad", inputs, (*shape[:2], *step.size(shape[2:])))

    def batch_norm(self, step: BatchNorm, x: str, scale: str, shift: str, mean: str, variance: str) -> str:
        inputs = [x, scale, shift, mean, variance]
        return self._node("BatchNormalization", inputs, self._shapes[x], epsilon=step.epsilon)

    def _taken(self, x: str, indices: str) -> str:
        everything = self._reshaped(x, (math.prod(self._shapes[x]),))
        places = self._places(indices, math.prod(self._shapes[x][2:]))
        return self._node("Gather", [everything, places], self._shapes[indices])

    def _unpool(self, step: MaxUnpool, x: str, indices: str) -> str:
        """The framework's own unpooling, which takes places in the whole tensor."""
        spelled, larger = unpool_attributes(step)
        places = self._places(indices, math.prod(step.large))
        size = [self._integers(step.large_shape)] if larger else []
        return self._node("MaxUnpool", [x, places, *size], step.large_shape, **spelled)

    def _scatter_sum(self, step: MaxUnpool, x: str, indices: str) -> str:
        if self._graph.opset < OLDEST_OPSET:
            raise Unsupported(f"ONNX ScatterElements cannot add before opset {OLDEST_OPSET}")
        flat = _flat(step.large_shape)
        inputs = [self._filled(0, flat), self._planes(indices), self._planes(x)]
        total = self._node("ScatterElements", inputs, flat, axis=2, reduction="add")
        return self._reshaped(total, step.large_shape)

    def _window_sum(self, x: str, size: int) -> str:
        """The sum over ``size`` neighbouring channels, with zeros beyond the first and the last."""
        shape, half = self._shapes[x], size // 2
        pads = np.zeros((2, len(shape)), np.int64)
        pads[:, 1] = half
        padded = self._node("Pad", [x, self._integers(pads.ravel())], (shape[0], shape[1] + 2 * half, *shape[2:]))
        axis = self._integers([1])
        parts = [
            self._node("Slice", [padded, self._integers([n]), self._integers([n + shape[1]]), axis], shape)
            for n in range(size)
        ]
        return self._node("Sum", parts, shape)

    def _channel(self, step: Isolate, planes: str) -> str:
        """The channel that is kept of each image, ``(N, 1, 1)``."""
        batch, channels, plane = self._shapes[planes]
        if step.channel is not None:
            return self._integers(np.full((batch, 1, 1), step.channel))
        flat = self._reshaped(planes, (batch, channels * plane, 1))
        return self._integer_node("Div", self._node("ArgMax", [flat], (batch, 1, 1), axis=1), plane)

    def _unit(self, step: Isolate, planes: str, channel: str, size: Shape) -> str:
        """The position in that channel that is kept, flat, ``(N, 1, 1)``."""
        if step.unit is not None:
            return self._integers(np.reshape(np.ravel_multi_index(step.unit, size), (1, 1, 1)))
        return self._node("ArgMax", [self._row(planes, channel)], self._shapes[channel], axis=2)

    def _only(self, rows: str, kept: str, step: Isolate) -> str:
        """Zeros, but for the kept row of each image; rows are ``(N, number, width)``."""
        row, shape = self._row(rows, kept), self._shapes[rows]
        seed = row if step.seed == "activation" else self._filled(1, self._shapes[row])
        places = self._node("Expand", [kept, self._integers(self._shapes[row])], self._shapes[row])
        return self._node("ScatterElements", [self._filled(0, shape), places, seed], shape, axis=1)

    def _row(self, rows: str, which: str) -> str:
        """One row of each image, ``(N, 1, width)``."""
        batch, number, width = self._shapes[rows]
        begins = self._integers(np.reshape(np.arange(batch) * number, (batch, 1)))
        all_rows = self._reshaped(rows, (batch * number, width))
        places = self._node("Add", [self._reshaped(which, (batch, 1)), begins], (batch, 1))
        return self._node("Gather", [all_rows, places], (batch, 1, width), axis=0)

    def _node(self, operator: str, inputs: Sequence[str], shape: Shape, **attributes: Any) -> str:
        value = self._graph.node(operator, inputs, **attributes)
        self._shapes[value] = shape
        return value

    def _integer_node(self, operator: str, x: str, number: int) -> str:
        return self._node(operator, [x, self._integers([number])], self._shapes[x])

    def _planes(self, x: str) -> str:
        return self._reshaped(x, _flat(self._shapes[x]))

    def _reshaped(self, x: str, shape: Shape) -> str:
        return x if self._shapes[x] == shape else self.reshape(Reshape(shape), x)

    def _filled(self, number: float, shape: Shape) -> str:
        return self._node("Expand", [self._number(number), self._integers(shape)], shape)

    def _number(self, number: float) -> str:
        return self._graph.constant(np.array(number, self._dtype))

    def _integers(self, numbers: Any) -> str:
        array = np.asarray(numbers, np.int64)
        value = self._graph.constant(array)
        self._shapes[value] = array.shape
        return value

    def _places(self, indices: str, plane: int) -> str:
        """Indices through the whole tensor, of those in planes of that size."""
        if (indices, plane) not in self._whole:
            inputs = [indices, self._offsets(indices, plane)]
            self._whole[indices, plane] = self._node("Add", inputs, self._shapes[indices])
        return self._whole[indices, plane]

    def _row_major(self, places: str, size: Shape) -> str:
        """Column-major places in planes of that size as row-major ones; the planes themselves are in C order."""
        plane = self._integer_node("Div", places, math.prod(size))
        rest, result = self._remainder(places, plane, math.prod(size)), plane
        for extent in size[:-1]:
            whole = self._integer_node("Div", rest, extent)
            result = self._below(result, extent, self._remainder(rest, whole, extent))
            rest = whole
        return self._below(result, size[-1], rest)

    def _remainder(self, x: str, quotient: str, divisor: int) -> str:
        whole = self._integer_node("Mul", quotient, divisor)
        return self._node("Sub", [x, whole], self._shapes[x])

    def _below(self, place: str, extent: int, position: str) -> str:
        """A place on an axis of that size, inside of what has come so far."""
        before = self._integer_node("Mul", place, extent)
        return self._node("Add", [before, position], self._shapes[place])

    def _offsets(self, indices: str, plane: int) -> str:
        """Where each plane begins in the whole tensor."""
        batch, channels, *size = self._shapes[indices]
        images = max(batch, 1)  # some releases of onnxruntime lose nodes with empty constants
        begins = np.arange(images * channels) * plane
        return self._integers(begins.reshape(images, channels, *[1] * len(size)))


def _flat(shape: Shape) -> Shape:
    """The shape with each plane in one row."""
    return (*shape[:2], math.prod(shape[2:]))
