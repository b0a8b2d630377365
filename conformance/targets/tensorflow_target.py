"""TensorFlow, run eagerly in its own layout: activations ``(N, *spatial, C)``."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.spec import Case, Convolution, Deconvnet
from conformance.targets.base import Function, Tensors, Unsupported
from conformance.targets.chain import ChainTarget
from conformance.targets.channels_last import channels_second, from_canonical
from conformance.targets.precision import float32_in_use
from conformance.targets.reasons import refusals
from conformance.targets.tensorflow_chain import TensorFlowSteps
from conformance.targets.tensorflow_convolution import OPERATORS, padding
from conformance.targets.tensorflow_gradient import deconvnet_gradient

_NO_KERNEL = re.compile(
    r"Could not find device for node: .*?node (\w+)|is not in the list of allowed values.*?node (\w+)", re.DOTALL
)
_NO_TYPE = re.compile(r"parameter '\w+' has DataType (\w+) not in list of allowed values")  # where a graph is traced
_NO_IMAGES = re.compile(r"\w+ must not be empty")  # the kernel of max_pool_with_argmax, on an empty batch


def load_tensorflow(threads: int, device: str = "cpu") -> Any:
    """Import TensorFlow, with so many threads, and without the messages that it can be kept from logging.

    It takes all memory of every GPU that it sees, so that it sees one only if it is to run there, and takes what it
    needs.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # Keras compiles every grouped convolution anew, and TensorFlow remarks on it
    with contextlib.suppress(RuntimeError):  # a process can set this only before its first operation
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        if device == "cpu":
            tf.config.set_visible_devices([], "GPU")
        for found in tf.config.get_visible_devices("GPU"):
            tf.config.experimental.set_memory_growth(found, True)
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
        if found := _NO_TYPE.search(str(error)):
            raise Unsupported(f"{framework} has no kernel for {found[1]}") from error
        if found := _NO_IMAGES.search(str(error)):
            raise Unsupported(f"{framework}: {found[0]}") from error
        raise


class TensorFlow(ChainTarget):
    """``tf.nn.conv*d``, ``tf.nn.conv*d_transpose``, the operators that differentiate a convolution, and chains."""

    arithmetic = "native+bias"

    def __init__(self, threads: int = 1, device: str = "cpu", tf32: str = "default") -> None:
        super().__init__(threads)
        self._tf = load_tensorflow(threads, device)
        self.name = f"tensorflow{'-ieee' if tf32 == 'off' else ''}@{device}"
        self._device = "/CPU:0" if device == "cpu" else "/GPU:0"
        if device != "cpu" and not self._tf.config.list_physical_devices("GPU"):
            raise RuntimeError(f"this tensorflow ({self._tf.__version__}) has no CUDA, or sees no device")
        if device != "cpu":
            self.arithmetic = "tf32+bias" if tf32 == "default" else "native+bias"
        if tf32 == "off":
            self._tf.config.experimental.enable_tensor_float_32_execution(False)

    def environment(self) -> dict[str, str]:
        facts = tensorflow_environment(self._tf)
        if self._device == "/CPU:0":
            return facts
        tf32 = str(self._tf.config.experimental.tensor_float_32_execution_enabled())
        return facts | {"device": "GPU:0", "TF32 enabled": tf32, "float32 in use": float32_in_use(self)}

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        with refusals("tensorflow"), kernels("tensorflow", case.dtype), self._tf.device(self._device):
            return super().run(case, tensors)

    def steps(self, case: Case) -> TensorFlowSteps:  # noqa: ARG002
        return TensorFlowSteps(self._tf)

    def deconvnet_gradient(self, case: Deconvnet, tensors: Tensors) -> np.ndarray:
        """The projection to pixels as the gradient of the network, whose ReLU has the rectifier for its gradient."""
        steps = self.steps(case)
        read = {name: steps.read(name, array) for name, array in tensors.items()}
        project = self.compiled(case, lambda values: deconvnet_gradient(self._tf, steps, case, values))
        return channels_second(project(read).numpy())

    def conv(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        names = ("input", "weight", "bias")[: 2 + case.bias]
        operands = [self._tf.convert_to_tensor(from_canonical(name, tensors[name])) for name in names]
        return channels_second(self.compiled(case, self.operation(case))(*operands).numpy())

    conv_transpose = conv
    conv_input_gradient = conv

    def operation(self, case: Convolution) -> Function:
        """The op as a function of input, weight and, if any, bias.  Raises Unsupported."""
        operator, said = OPERATORS[case.op], padding(case)

        def operate(x: Any, weight: Any, *bias: Any) -> Any:
            y = operator(self._tf, case, x, weight, said)
            return self._tf.nn.bias_add(y, *bias) if bias else y

        return operate
