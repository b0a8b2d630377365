"""ONNX's own reference evaluator, NumPy and Python loops, fed with a one-node model of the case."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from conformance.spec import Convolution
from conformance.targets.base import OpTarget, Tensors, Unsupported
from conformance.targets.onnx_graph import NEWEST_OPSET, one_node_model
from conformance.targets.reasons import refusals

LIMIT = 2_000_000
"""Products that a case may have: 2 to 3 microseconds each at worst, in a ConvTranspose of one input channel."""


class OnnxReference(OpTarget):
    """``onnx.reference.ReferenceEvaluator``."""

    name = "onnx-reference@cpu"

    def __init__(self, threads: int = 1, opset: int | None = None) -> None:
        super().__init__(threads)
        import onnx
        import onnx.reference

        self._onnx: Any = onnx
        self.opset = opset or min(NEWEST_OPSET, onnx.defs.onnx_opset_version())

    def environment(self) -> dict[str, str]:
        return {"onnx": self._onnx.__version__, "numpy": np.__version__, "opset": str(self.opset)}

    def conv(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        if case.products > LIMIT:
            raise Unsupported(f"pure-Python evaluator: {case.products:,} products, more than {LIMIT:,}")
        weights = {name: array for name, array in tensors.items() if name != "input"}
        evaluator = self._onnx.reference.ReferenceEvaluator(one_node_model(case, weights, self.opset))
        with refusals("onnx's reference evaluator"):
            return cast(np.ndarray, evaluator.run(["output"], {"input": tensors["input"]})[0])

    conv_transpose = conv
