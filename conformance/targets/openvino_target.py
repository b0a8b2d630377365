"""OpenVINO on the processor, fed with ONNX models that are made of the case.

On processors that multiply bfloat16 OpenVINO computes float32 models in bfloat16 unless it is told otherwise
(``INFERENCE_PRECISION_HINT``, documented under "Precision Control").  So there are two targets: one that asks for
float32, and one that takes what a user gets who asks for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from conformance.spec import Case, Chain
from conformance.targets.base import Tensors
from conformance.targets.one_stage import stage_by_stage
from conformance.targets.onnx_graph import NEWEST_OPSET
from conformance.targets.onnx_target import OnnxTarget, Run
from conformance.targets.precision import float32_in_use
from conformance.targets.reasons import refusals

DEVICE = "CPU"
_PRECISION = "INFERENCE_PRECISION_HINT"
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class OpenVino(OnnxTarget):
    """``openvino.Core.compile_model`` on the device CPU, in ``precision`` ``f32`` or the ``default`` of the device."""

    largest_constants = 2**30  # bytes; a serialized model ends at 2 GiB

    def __init__(self, threads: int = 1, precision: str = "f32", opset: int | None = None) -> None:
        super().__init__(threads)
        import openvino

        self._openvino: Any = openvino
        self._core = openvino.Core()
        self.precision = precision
        self.name = "openvino@cpu" if precision == "f32" else f"openvino-{precision}@cpu"
        self.opset = opset or NEWEST_OPSET

    def environment(self) -> dict[str, str]:
        return {
            "openvino": self._openvino.__version__,
            "device": self._core.get_property(DEVICE, "FULL_DEVICE_NAME"),
            "inference precision": self._precision(),
            "float32 in use": float32_in_use(self),
            "threads": str(self.threads),
            "opset": str(self.opset),
        }

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        """In float16 every stage is a model of its own: OpenVINO computes the whole of a model in one precision."""
        with refusals("openvino"):
            if isinstance(case, Chain) and case.tells_stages and case.dtype == "float16":
                return stage_by_stage(case, tensors, super().run)
            return super().run(case, tensors)

    def run_model(self, model: bytes, feeds: Tensors) -> Sequence[np.ndarray]:
        with refusals("openvino"):
            return super().run_model(model, feeds)

    def prepare(self, model: bytes) -> Run:
        compiled = self._core.compile_model(self._core.read_model(model), DEVICE, self._settings())
        request = compiled.create_infer_request()

        def run(feeds: Tensors) -> Sequence[np.ndarray]:
            arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
            for name, array in arrays.items():  # alive until the request has run, for tensors may share their memory
                request.set_tensor(name, self._tensor(array))
            request.infer()
            return [_array(tensor) for tensor in request.output_tensors]

        return run

    def _settings(self) -> dict[str, Any]:
        """One request at a time.  Not pinned to a core: every worker would choose the same."""
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
            "ENABLE_CPU_PINNING": False,
        }
        return settings if self.precision == "default" else settings | {_PRECISION: self.precision}

    def _precision(self) -> str:
        if self.precision != "default":
            return self.precision
        return f"default: {self._core.get_property(DEVICE, _PRECISION).get_type_name()}"

    def _tensor(self, array: np.ndarray) -> Any:
        """NumPy has no bfloat16 that OpenVINO knows: its bits go in, and come out, under OpenVINO's name for them."""
        if array.dtype != _BFLOAT16:
            return self._openvino.Tensor(array)
        bits = array.view(np.uint16)
        return self._openvino.Tensor(bits, self._openvino.Shape(bits.shape), self._openvino.Type.bf16)


def _array(tensor: Any) -> np.ndarray:
    """A copy, since the next run overwrites the tensor.  OpenVINO shows bfloat16 as float16, the bits unchanged."""
    array = np.array(tensor.data)
    return array.view(_BFLOAT16) if tensor.element_type.get_type_name() == "bf16" else array
