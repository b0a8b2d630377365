"""LiteRT (TensorFlow Lite): what its converter makes of the functions that the TensorFlow target runs.

A convolution becomes ``CONV_2D``, a transposed one ``TRANSPOSE_CONV``, in three dimensions ``CONV_3D`` and
``CONV_3D_TRANSPOSE``.  Weights become constants of the model, as in a deployed one.  Operators are LiteRT's own: what
needs TensorFlow's (``SELECT_TF_OPS``) is not supported, with the converter's reason.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from conformance.spec import Case, is_parameter
from conformance.targets.base import Function, Unsupported
from conformance.targets.tensorflow_target import TensorFlow

_NEEDS_TENSORFLOW = re.compile(r"(?:TF Select|Custom) ops: ([^\n]+)")
_NO_TYPE = re.compile(
    r"Unsupported TensorFlow type `<dtype: '(\w+)'>`|has DataType (\w+) not in list of allowed values"
)
_EMPTY = "Invalid tensor size."  # Interpreter.set_tensor, of an array without elements


class LiteRt(TensorFlow):
    """``tf.lite.TFLiteConverter`` and LiteRT's ``Interpreter``, with its default delegate, XNNPACK."""

    arithmetic = "native"

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter: Any = Interpreter
        self.name = "litert@cpu"

    def environment(self) -> dict[str, str]:
        from importlib.metadata import version

        return {
            "ai-edge-litert": version("ai-edge-litert"),
            "converter": f"tensorflow {self._tf.__version__}",
            "delegate": "default (XNNPACK)",
            "threads": str(self.threads),
        }

    def compiled(self, case: Case, function: Function) -> Function:  # noqa: ARG002
        """The function as a LiteRT model, converted when it is called, with the weights that it is called with."""

        def call(*arguments: Any) -> Any:
            fed, bind = self._apart(arguments)
            with _declining():
                traced = self._traced(lambda *inputs: function(*bind(inputs)), fed)
                model = self._tf.lite.TFLiteConverter.from_concrete_functions([traced]).convert()
                outputs = self._interpret(model, [tensor.numpy() for tensor in fed])
            return self._tf.nest.pack_sequence_as(traced.structured_outputs, outputs)

        return call

    def _traced(self, function: Function, fed: Sequence[Any]) -> Any:
        specs = [self._tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in fed]
        return self._tf.function(function, autograph=False).get_concrete_function(*specs)

    def _apart(self, arguments: Sequence[Any]) -> tuple[list[Any], Function]:
        """What is fed, and how to put it back among the weights: arguments are tensors, the input first, or named."""
        if not isinstance(arguments[0], Mapping):
            return [arguments[0]], lambda inputs: (inputs[0], *arguments[1:])
        (known,) = arguments
        names = [name for name in known if not is_parameter(name)]
        return [known[name] for name in names], lambda inputs: ({**known, **dict(zip(names, inputs, strict=True))},)

    def _interpret(self, model: bytes, inputs: Sequence[np.ndarray]) -> list[Any]:
        interpreter = self._interpreter(model_content=model, num_threads=self.threads)
        interpreter.allocate_tensors()
        for detail, array in zip(interpreter.get_input_details(), inputs, strict=True):
            interpreter.set_tensor(detail["index"], array)
        interpreter.invoke()
        outputs = [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
        return [self._tf.convert_to_tensor(output) for output in outputs]


@contextlib.contextmanager
def _declining() -> Iterator[None]:
    """Turn the ways of the converter and the interpreter to say what they lack into Unsupported."""
    try:
        yield
    except Exception as error:
        if (reason := _reason(str(error))) is None:
            raise
        raise Unsupported(f"litert: {reason}") from None


def _reason(said: str) -> str | None:
    if found := _NEEDS_TENSORFLOW.search(said):
        return f"its own operators lack {', '.join(sorted(set(found[1].split(', '))))}, which are TensorFlow's"
    if found := _NO_TYPE.search(said):
        return f"no {found[1] or found[2]}"
    return "it takes no empty tensors" if said == _EMPTY else None
