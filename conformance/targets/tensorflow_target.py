"""TensorFlow, run eagerly in its own layout: activations ``(N, *spatial, C)``.

A transposed convolution is told its output size (``output_shape``), and ``padding`` says which convolution it
transposes: the gradient of ``tf.nn.conv*d`` from that size to the size of its input.  So one rule serves all three ops.
Sources: tf.nn.convolution, section "padding"; tf.nn.conv2d_transpose, ``output_shape`` and ``padding``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.spec import Case, Chain, Convolution, Deconvnet
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.chain import ChainTarget
from conformance.targets.channels_last import channels_last, channels_second, spatial_first, word_for
from conformance.targets.reasons import decline_onnx_spelling, refusals
from conformance.targets.tensorflow_chain import NO_GROUPS, Pads, TensorFlowSteps, explicit_pads, with_ends
from conformance.targets.tensorflow_gradient import deconvnet_gradient

_NO_KERNEL = re.compile(
    r"Could not find device for node: .*?node (\w+)|is not in the list of allowed values.*?node (\w+)", re.DOTALL
)
_NO_IMAGES = re.compile(r"\w+ must not be empty")  # the kernel of max_pool_with_argmax, on an empty batch


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


@contextlib.contextmanager
def kernels(framework: str, dtype: str) -> Iterator[None]:
    """Turn TensorFlow's ways to say that no kernel takes these tensors into Unsupported."""
    try:
        yield
    except Exception as error:
        if found := _NO_KERNEL.search(str(error)):
            raise Unsupported(f"{framework} has no kernel of {found[1] or found[2]} for {dtype}") from error
        if found := _NO_IMAGES.search(str(error)):
            raise Unsupported(f"{framework}: {found[0]}") from error
        raise


class TensorFlow(ChainTarget):
    """``tf.nn.conv*d``, ``tf.nn.conv*d_transpose``, the operators that differentiate a convolution, and chains."""

    name = "tensorflow@cpu"
    arithmetic = "native+bias"

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        self._tf = load_tensorflow(threads)

    def environment(self) -> dict[str, str]:
        return tensorflow_environment(self._tf)

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        with refusals("tensorflow"), kernels("tensorflow", case.dtype), self._tf.device("/CPU:0"):
            return super().run(case, tensors)

    def steps(self, case: Chain) -> TensorFlowSteps:  # noqa: ARG002
        return TensorFlowSteps(self._tf)

    def deconvnet_gradient(self, case: Deconvnet, tensors: Tensors) -> np.ndarray:
        """The projection to pixels as the gradient of the network, whose ReLU has the rectifier for its gradient."""
        return deconvnet_gradient(self._tf, case, tensors)

    def conv(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        padding = _padding(case)
        x, weight = self._operands(tensors)
        operator = getattr(self._tf.nn, f"conv{case.rank}d")
        y = operator(x, weight, with_ends(case.stride), padding, dilations=with_ends(case.dilation))
        return self._result(y, tensors)

    def conv_transpose(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        padding = _padding(case)
        x, weight = self._operands(tensors)
        operator = getattr(self._tf.nn, f"conv{case.rank}d_transpose")
        shape, strides, dilations = _large_shape(case), with_ends(case.stride), with_ends(case.dilation)
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
            y = tf.nn.conv1d(x, weight, with_ends(case.stride), padding, dilations=with_ends(case.dilation))
        return tape.gradient(y, x, output_gradients=gradient)

    def _backprop(self, case: Convolution, gradient: Any, weight: Any, padding: str | Pads) -> Any:
        arguments = {
            "input_sizes": _large_shape(case),
            "filter": weight,
            "out_backprop": gradient,
            "strides": with_ends(case.stride),
            "dilations": with_ends(case.dilation),
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


def _padding(case: Convolution) -> str | Pads:
    """``padding`` as the case spells it, or else what says its geometry: VALID, SAME, or numbers in two dimensions."""
    decline_onnx_spelling(case, "tensorflow")
    if case.rank == 3 and case.groups > 1:
        raise Unsupported(NO_GROUPS.format(case.groups))
    if word := word_for(case.axes, case.padding):
        return word.upper()
    if isinstance(case.padding, str):
        raise Unsupported(f"tensorflow's padding='{case.padding.upper()}' does not join {case.small} and {case.large}")
    return _explicit(case)


def _explicit(case: Convolution) -> Pads:
    if case.rank != 2:
        raise Unsupported(f"tensorflow's {case.rank}-D convolutions pad by SAME or VALID only, not by {case.crop}")
    if (pads := explicit_pads(case)) is None:
        raise Unsupported(f"tensorflow's explicit padding cannot be negative, as in {case.crop}")
    return pads


def _large_shape(case: Convolution) -> list[int]:
    return [case.batch, *case.large, case.large_channels]
