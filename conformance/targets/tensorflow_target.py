"""TensorFlow, run eagerly in its own layout: activations ``(N, *spatial, C)``.

A transposed convolution is told its output size (``output_shape``), and ``padding`` says which convolution it
transposes: the gradient of ``tf.nn.conv*d`` from that size to the size of its input.  So one rule serves all three ops.
Sources: tf.nn.convolution, section "padding"; tf.nn.conv2d_transpose, ``output_shape`` and ``padding``.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import numpy as np

from conformance.arithmetic import Axis
from conformance.arithmetic.axis import convolved_size
from conformance.arithmetic.spellings import Mode, convolution_same
from conformance.spec import Case, Convolution
from conformance.targets.base import OpTarget, Tensors, Unsupported
from conformance.targets.reasons import decline_onnx_spelling, refusals

Pads = list[list[int]]


def load_tensorflow(threads: int) -> Any:
    """Import TensorFlow, with so many threads, and without the messages that it can be kept from logging."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # Keras compiles every grouped convolution anew, and TensorFlow remarks on it
    with contextlib.suppress(RuntimeError):  # a process can set this only before its first operation
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


def tensorflow_environment(tf: Any) -> dict[str, str]:
    """Version and the settings that results depend on."""
    return {
        "tensorflow": tf.__version__,
        "device": "CPU:0",
        "threads": str(tf.config.threading.get_intra_op_parallelism_threads()),
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
    }


def word_gives(mode: Mode, axis: Axis) -> bool:
    """Whether a convolution with this padding leads from ``large`` to ``small``, with the same beginning."""
    if mode == "valid":
        return axis.begin == 0 and convolved_size(axis.large, axis.extent, axis.stride, 0) == axis.small
    begin, _ = convolution_same(axis.large, axis.extent, axis.stride)
    return axis.begin == begin and axis.small == -(-axis.large // axis.stride)


class TensorFlow(OpTarget):
    """``tf.nn.conv*d``, ``tf.nn.conv*d_transpose`` and the operators that differentiate a convolution."""

    name = "tensorflow@cpu"
    arithmetic = "native+bias"

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        self._tf = load_tensorflow(threads)

    def environment(self) -> dict[str, str]:
        return tensorflow_environment(self._tf)

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        with refusals("tensorflow"), self._tf.device("/CPU:0"):
            return super().run(case, tensors)

    def conv(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        padding = _padding(case)
        x, weight = self._operands(tensors)
        operator = getattr(self._tf.nn, f"conv{case.rank}d")
        y = operator(x, weight, _with_ends(case.stride), padding, dilations=_with_ends(case.dilation))
        return self._result(y, tensors)

    def conv_transpose(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        padding = _padding(case)
        x, weight = self._operands(tensors)
        operator = getattr(self._tf.nn, f"conv{case.rank}d_transpose")
        shape, strides, dilations = _large_shape(case), _with_ends(case.stride), _with_ends(case.dilation)
        return self._result(operator(x, weight, shape, strides, padding, dilations=dilations), tensors)

    def conv_input_gradient(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        padding = _padding(case)
        gradient, weight = self._operands(tensors)
        differentiate = self._taped if case.rank == 1 else self._backprop
        return self._result(differentiate(case, gradient, weight, padding), tensors)

    def _taped(self, case: Convolution, gradient: Any, weight: Any, padding: str | Pads) -> Any:
        """In one dimension TensorFlow has the gradient, but no operator of its own for it."""
        tf = self._tf
        x = tf.zeros(_large_shape(case), weight.dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nn.conv1d(x, weight, _with_ends(case.stride), padding, dilations=_with_ends(case.dilation))
        return tape.gradient(y, x, output_gradients=gradient)

    def _backprop(self, case: Convolution, gradient: Any, weight: Any, padding: str | Pads) -> Any:
        arguments = {
            "input_sizes": _large_shape(case),
            "filter": weight,
            "out_backprop": gradient,
            "strides": _with_ends(case.stride),
            "dilations": _with_ends(case.dilation),
        }
        if case.rank == 3:
            return self._tf.raw_ops.Conv3DBackpropInputV2(padding=padding, **arguments)
        word = padding if isinstance(padding, str) else "EXPLICIT"
        pads = [] if isinstance(padding, str) else [pad for pair in padding for pad in pair]
        return self._tf.raw_ops.Conv2DBackpropInput(padding=word, explicit_paddings=pads, **arguments)

    def _operands(self, tensors: Tensors) -> tuple[Any, Any]:
        """Input as ``(N, *spatial, C)`` and weight as ``(*kernel, large channels / groups, small channels)``."""
        x = channels_last(tensors["input"])
        weight = spatial_first(tensors["weight"])
        return self._tf.convert_to_tensor(x), self._tf.convert_to_tensor(weight)

    def _result(self, y: Any, tensors: Tensors) -> np.ndarray:
        if (bias := tensors.get("bias")) is not None:
            y = self._tf.nn.bias_add(y, self._tf.convert_to_tensor(bias))
        return channels_second(y.numpy())


def channels_last(array: np.ndarray) -> np.ndarray:
    """``(N, C, *spatial)`` to ``(N, *spatial, C)``."""
    return np.moveaxis(array, 1, -1)


def channels_second(array: np.ndarray) -> np.ndarray:
    """``(N, *spatial, C)`` to ``(N, C, *spatial)``."""
    return np.moveaxis(array, -1, 1)


def spatial_first(weight: np.ndarray) -> np.ndarray:
    """``(small channels, large channels / groups, *kernel)`` to the same, the kernel first and the rest reversed."""
    return np.moveaxis(weight, (0, 1), (-1, -2))


def _padding(case: Convolution) -> str | Pads:
    """``padding`` as the case spells it, or else what says its geometry: VALID, SAME, or numbers in two dimensions."""
    decline_onnx_spelling(case, "tensorflow")
    if case.rank == 3 and case.groups > 1:
        raise Unsupported(f"tensorflow's 3-D convolutions have no groups, the case has {case.groups}")
    modes: tuple[Mode, ...] = (case.padding,) if isinstance(case.padding, str) else ("valid", "same")
    for mode in modes:
        if all(word_gives(mode, axis) for axis in case.axes):
            return mode.upper()
    if isinstance(case.padding, str):
        raise Unsupported(f"tensorflow's padding='{case.padding.upper()}' does not join {case.small} and {case.large}")
    return _explicit(case)


def _explicit(case: Convolution) -> Pads:
    if case.rank != 2:
        raise Unsupported(f"tensorflow's {case.rank}-D convolutions pad by SAME or VALID only, not by {case.crop}")
    for axis in case.axes:
        if axis.begin < 0 or -axis.end >= axis.stride:
            raise Unsupported(f"tensorflow's explicit padding cannot be negative, as in {(axis.begin, axis.end)}")
    return [[0, 0], *([a.begin, max(a.end, 0)] for a in case.axes), [0, 0]]


def _large_shape(case: Convolution) -> list[int]:
    return [case.batch, *case.large, case.large_channels]


def _with_ends(values: tuple[int, ...]) -> list[int]:
    """Strides or dilations of all axes, those of batch and channels being 1."""
    return [1, *values, 1]
