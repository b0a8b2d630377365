"""The graph that is built by hand, node by node, as a file: what the targets ``onnxruntime`` and others are fed."""

from __future__ import annotations

from typing import Any

from conformance.spec import Case, Chain, Convolution
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.chain import follow
from conformance.targets.onnx_chain import OnnxSteps
from conformance.targets.onnx_graph import NEWEST_OPSET, OPERATORS, constants_of, one_node_model
from exporters.base import Binding, Exported, parameters


class OnnxGraph:
    """Opset 22 and weights as initializers, unless the case says otherwise; sizes fixed."""

    name = "onnx-graph"
    arithmetic = "native"
    symbolic = False

    def environment(self) -> dict[str, str]:
        import onnx

        return {"onnx": onnx.__version__, "opset": str(NEWEST_OPSET)}

    def export(self, case: Case, tensors: Tensors) -> Exported:
        inside = constants_of(case, tensors) if isinstance(case, Convolution) else parameters(tensors)
        model = self._model(case, tensors, inside)
        inputs = tuple(Binding(name, name) for name in tensors if name not in inside)
        return Exported(model.SerializeToString(), inputs, tuple(Binding(n, n) for n in case.result_shapes))

    def _model(self, case: Case, tensors: Tensors, inside: Tensors) -> Any:
        if isinstance(case, Convolution) and case.op in OPERATORS:
            return one_node_model(case, inside, NEWEST_OPSET)
        if not isinstance(case, Chain):
            raise Unsupported(f"ONNX has no {case.op}")
        steps = OnnxSteps(case, case.opset or NEWEST_OPSET, _never)
        values = follow(case, {name: steps.read(name, array) for name, array in tensors.items()}, steps)
        return steps.model({name: values[name] for name in case.result_shapes})


def _never(model: Any, feeds: Tensors) -> Any:
    raise NotImplementedError("an exporter runs nothing")
