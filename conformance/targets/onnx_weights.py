"""The weights of an ONNX model's convolutions, read in a worker.

It answers where a target would, because what reads a stranger's model belongs into a process of its own; it is no
target, and the registry does not list it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.spec import Case
from conformance.targets.base import Tensors, Unsupported


class OnnxWeights:
    """``run`` is fed a file as ``model`` and returns ``<node>.weight`` and ``<node>.bias``, in graph order."""

    name = "onnx-weights"
    arithmetic = "native"

    def environment(self) -> dict[str, str]:
        return {}

    def run(self, case: Case, tensors: Tensors) -> Tensors:  # noqa: ARG002
        import onnx

        try:
            graph = onnx.load_model_from_string(tensors["model"].tobytes()).graph
        except Exception:
            raise Unsupported("it is no ONNX model") from None
        known = {tensor.name: tensor for tensor in graph.initializer} | _constants(graph)
        found: dict[str, np.ndarray] = {}
        for node in graph.node:
            if node.op_type == "Conv" and node.domain in ("", "ai.onnx"):
                name = _unused(node.name or f"Conv_{len(found)}", found)
                for part, source in zip(("weight", "bias"), filter(None, node.input[1:3]), strict=False):
                    found[f"{name}.{part}"] = _array(node.name or name, source, known)
        return found


def _constants(graph: Any) -> dict[str, Any]:
    """What nodes of type Constant give, as far as they hold a tensor."""
    return {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }


def _unused(name: str, found: dict[str, np.ndarray]) -> str:
    while f"{name}.weight" in found:
        name += "_"
    return name


def _array(node: str, source: str, known: dict[str, Any]) -> np.ndarray:
    from onnx import TensorProto, numpy_helper

    if source not in known:
        raise Unsupported(f"{node}: expected a weight that the model stores, {source} is computed")
    if known[source].data_location == TensorProto.EXTERNAL:
        raise Unsupported(f"{node}: expected a weight inside the model, {source} is in another file")
    return np.asarray(numpy_helper.to_array(known[source]))
