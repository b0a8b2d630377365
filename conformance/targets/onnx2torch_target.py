"""onnx2torch: ONNX models as modules of PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np

from conformance.spec import Case
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.onnx_target import OnnxTarget, Run
from conformance.targets.reasons import refusals

OPSET = 17
"""The newest opset for which it converts what it has of the operators of a case; opset 18 changed Pad, 19 Reshape."""


class Onnx2Torch(OnnxTarget):
    """``onnx2torch.convert``, and the module that it makes."""

    name = "onnx2torch@cpu"
    opset = OPSET

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        import onnx
        import torch

        torch.set_num_threads(threads)
        self._onnx: Any = onnx
        self._torch: Any = torch
        self._converter = _load(torch)

    def environment(self) -> dict[str, str]:
        from importlib.metadata import version

        return {
            "onnx2torch": version("onnx2torch"),
            "torch": self._torch.__version__,
            "onnx": self._onnx.__version__,
            "opset": str(self.opset),
            "threads": str(self._torch.get_num_threads()),
        }

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        with refusals("onnx2torch"):
            return super().run(case, tensors)

    def run_model(self, model: bytes, feeds: Tensors) -> list[np.ndarray]:
        with refusals("onnx2torch"):
            return list(super().run_model(model, feeds))

    def prepare(self, model: bytes) -> Run:
        proto = self._onnx.load_model_from_string(model)
        try:
            module = self._converter.convert(proto).eval()
        except NotImplementedError as reason:
            raise Unsupported(f"onnx2torch: {reason}") from None
        constants = {tensor.name for tensor in proto.graph.initializer}
        names = [value.name for value in proto.graph.input if value.name not in constants]

        def run(feeds: Tensors) -> list[np.ndarray]:
            with self._torch.inference_mode():
                given = module(*(self._tensor(feeds[name]) for name in names))
            outputs = given if isinstance(given, list | tuple) else [given]
            return [output.numpy() for output in outputs]

        return run

    def _tensor(self, array: np.ndarray) -> Any:
        return self._torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _load(torch: Any) -> Any:
    """The package.  It imports torchvision for two operators, and that is built for one release of torch each."""
    try:
        import onnx2torch
    except (ImportError, RuntimeError) as error:
        raise ImportError(f"onnx2torch needs the torchvision that fits torch {torch.__version__}: {error}") from error
    return onnx2torch
