"""ONNX's own reference evaluator, NumPy and Python loops, fed with models that are made of the case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from conformance.spec import Case
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.onnx_graph import NEWEST_OPSET
from conformance.targets.onnx_target import OnnxTarget, Run
from conformance.targets.reasons import refusals

LIMIT = 2_000_000
"""Products that a case may have: 2 to 3 microseconds each at worst, in a ConvTranspose of one input channel."""


class OnnxReference(OnnxTarget):
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

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        check_size(case)
        return super().run(case, tensors)

    def prepare(self, model: bytes) -> Run:
        evaluator = self._onnx.reference.ReferenceEvaluator(model)

        def run(feeds: Tensors) -> Sequence[np.ndarray]:
            with refusals("onnx's reference evaluator"):
                return cast(Sequence[np.ndarray], evaluator.run(None, dict(feeds)))

        return run


def check_size(case: Case) -> None:
    """Raise Unsupported for a case that pure Python would take minutes for."""
    if case.products > LIMIT:
        raise Unsupported(f"pure-Python evaluator: {case.products:,} products, more than {LIMIT:,}")
