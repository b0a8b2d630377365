"""``tf2onnx.convert.from_function``: a ``tf.function`` of what the target ``tensorflow`` runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx
import tf2onnx
from tf2onnx.constants import PREFERRED_OPSET

from conformance.spec import Case, Chain, Convolution, Deconvnet, is_index
from conformance.targets.base import Function, Tensors, Unsupported, decline_onnx_words
from conformance.targets.chain import CHAINS, follow
from conformance.targets.reasons import refusals
from conformance.targets.tensorflow_gradient import deconvnet_gradient
from conformance.targets.tensorflow_target import TensorFlow, kernels, load_tensorflow
from exporters.base import Binding, Exported, graph_name, parameters
from exporters.tensorflow_sizes import fed_shapes
from exporters.tf2onnx_words import conversion


class Tf2Onnx:
    """The function with its weights in variables, as a SavedModel has them, and tf2onnx with its own defaults.

    ``sizes`` is ``fixed``, or ``symbolic``, see `exporters.tensorflow_sizes`.
    """

    arithmetic = "native+bias"

    def __init__(self, sizes: str = "fixed", threads: int = 1) -> None:
        self.symbolic = sizes == "symbolic"
        self.name = "tf2onnx-symbolic" if self.symbolic else "tf2onnx"
        self._tf = load_tensorflow(threads)
        self._target = TensorFlow(threads)

    def environment(self) -> dict[str, str]:
        return {
            "tensorflow": self._tf.__version__,
            "tf2onnx": tf2onnx.__version__,
            "onnx": onnx.__version__,
            "opset": str(PREFERRED_OPSET),
        }

    def export(self, case: Case, tensors: Tensors) -> Exported:
        decline_onnx_words(case, "tensorflow")
        if case.dtype == "bfloat16":
            raise Unsupported("tf2onnx has no bfloat16, and writes float16 for it (onnx/tensorflow-onnx#2337)")
        shapes = fed_shapes(case, symbolic=self.symbolic, has_switches=True)
        with refusals("tensorflow"), kernels("tensorflow", case.dtype), self._tf.device("/CPU:0"):
            function = self._function(case, tensors)
            signature = [self._spec(case, *fed) for fed in shapes.items()]
            with conversion():
                model, _ = tf2onnx.convert.from_function(
                    self._tf.function(function, input_signature=signature, autograph=False), signature
                )
        graph = model.graph
        return Exported(
            model.SerializeToString(),
            _bound(graph.input, case.tensor_shapes),
            _bound(graph.output, case.result_shapes),
        )

    def _function(self, case: Case, tensors: Tensors) -> Function:
        """What is fed, in order, to the results of the case by their names in the graph."""
        walk = self._walk(case)
        read = self._target.steps(case).read
        weights = {name: self._tf.Variable(read(name, array)) for name, array in parameters(tensors).items()}
        names = [name for name in tensors if name not in weights]

        def function(*fed: Any) -> dict[str, Any]:
            values = walk({**weights, **dict(zip(names, fed, strict=True))})
            return {graph_name(name): values[name] for name in case.result_shapes}

        return function

    def _walk(self, case: Case) -> Function:
        """Named tensors to named tensors, as the target computes them.  Raises Unsupported."""
        steps = self._target.steps(case)
        if isinstance(case, Convolution):
            operate, names = self._target.operation(case), ("input", "weight", "bias")[: 2 + case.bias]
            return lambda values: {"output": operate(*(values[name] for name in names))}
        if isinstance(case, Deconvnet) and case.op == "deconvnet_gradient":
            return lambda values: {"output": deconvnet_gradient(self._tf, steps, case, values)}
        if not isinstance(case, Chain) or case.op not in CHAINS:
            raise Unsupported(f"tensorflow has no {case.op}")
        return lambda values: follow(case, values, steps)

    def _spec(self, case: Case, name: str, shape: tuple[int | None, ...]) -> Any:
        return self._tf.TensorSpec(shape, "int64" if is_index(name) else case.dtype, name=graph_name(name))


def _bound(values: Iterable[Any], names: Mapping[str, object]) -> tuple[Binding, ...]:
    """How the graph's values carry the tensors of the case, in the graph's order."""
    known = {graph_name(name): name for name in names}
    return tuple(Binding(value.name, known[value.name], channels_last=True) for value in values)
