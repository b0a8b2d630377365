"""ONNX's own reference evaluator, NumPy and Python loops, fed with models that are made of the case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from conformance.spec import Case, Chain, Convolution
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.chain import ChainTarget
from conformance.targets.onnx_chain import OnnxSteps
from conformance.targets.onnx_graph import NEWEST_OPSET, one_node_model
from conformance.targets.reasons import refusals

LIMIT = 2_000_000
"""Products that a case may have: 2 to 3 microseconds each at worst, in a ConvTranspose of one input channel."""


class OnnxReference(ChainTarget):
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
        _check_size(case)
        weights = {name: array for name, array in tensors.items() if name != "input"}
        return self._evaluate(one_node_model(case, weights, self.opset), {"input": tensors["input"]})[0]

    conv_transpose = conv

    def steps(self, case: Chain) -> OnnxSteps:
        _check_size(case)
        return OnnxSteps(case, self.opset, self._evaluate)

    def _evaluate(self, model: Any, feeds: Tensors) -> Sequence[np.ndarray]:
        evaluator = self._onnx.reference.ReferenceEvaluator(model)
        with refusals("onnx's reference evaluator"):
            return cast(Sequence[np.ndarray], evaluator.run(None, dict(feeds)))


def _check_size(case: Case) -> None:
    if case.products > LIMIT:
        raise Unsupported(f"pure-Python evaluator: {case.products:,} products, more than {LIMIT:,}")
