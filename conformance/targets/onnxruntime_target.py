"""ONNX Runtime, fed with models that are made of the case: one node for a convolution, one graph for a chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from conformance.arithmetic import Axis
from conformance.spec import Case, Chain, Convolution, Stage
from conformance.targets.base import Tensors
from conformance.targets.onnx_graph import NEWEST_OPSET, OLDEST_OPSET, one_node_model
from conformance.targets.onnx_target import OnnxTarget, Run
from conformance.targets.reasons import refusals

CPU = "CPUExecutionProvider"
_LEVELS = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_PROBE = Convolution(id="probe/opset", op="conv_transpose", axes=(Axis(large=2, small=2, kernel=1),), padding=((0, 0),))


@dataclass(frozen=True, slots=True, kw_only=True)
class _OneStage(Chain):
    """A stage of a chain by itself."""

    stage: Stage

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (self.stage,)


class OnnxRuntime(OnnxTarget):
    """``onnxruntime.InferenceSession`` with one execution provider and otherwise its default settings.

    ``optimization`` is how far it rewrites graphs: ``off``, ``basic``, ``extended``, or ``all``, which is its default.
    ``opset`` defaults to the newest in which onnxruntime runs a ConvTranspose, at most the newest that changed it.
    Releases that have that operator of an opset have its MaxPool and MaxUnpool too (1.20 to 1.31).
    """

    largest_constants = 2**30  # bytes; a serialized model ends at 2 GiB

    def __init__(
        self, threads: int = 1, provider: str = CPU, opset: int | None = None, optimization: str = "all"
    ) -> None:
        super().__init__(threads)
        import onnx
        import onnxruntime

        self._onnx, self._runtime = onnx, onnxruntime
        self.provider = provider
        self.optimization = optimization
        runtime = "onnxruntime" if optimization == "all" else f"onnxruntime-{optimization}"
        self.name = f"{runtime}@{provider.removesuffix('ExecutionProvider').lower()}"
        self.opset = opset or self._newest_opset()

    def environment(self) -> dict[str, str]:
        return {
            "onnxruntime": self._runtime.__version__,
            "onnx": self._onnx.__version__,
            "provider": self.provider,
            "available providers": ", ".join(self._runtime.get_available_providers()),
            "opset": str(self.opset),
            "threads": str(self.threads),
            "graph optimization level": self._options().graph_optimization_level.name,
        }

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        """In float16 every stage is a model of its own.

        onnxruntime's processor provider runs a whole float16 graph in float32 and rounds only what it returns, so that
        in one model a stage would not get what the stage before it returned.
        """
        with refusals(f"onnxruntime in {case.dtype}"):
            if not (isinstance(case, Chain) and case.dtype == "float16" and self.provider == CPU):
                return super().run(case, tensors)
            values = dict(tensors)
            for stage in case.stages:
                alone = _OneStage(id=case.id, op=case.op, dtype=case.dtype, stage=stage)
                values |= super().run(alone, {name: values[name] for name in stage.reads})
            return {name: values[name] for stage in case.stages for name in stage.gives}

    def run_model(self, model: bytes, feeds: Tensors) -> Sequence[np.ndarray]:
        with refusals("onnxruntime"):
            return super().run_model(model, feeds)

    def prepare(self, model: bytes) -> Run:
        session = self._session(model)
        return lambda feeds: cast(Sequence[np.ndarray], session.run(None, dict(feeds)))

    def _session(self, model: bytes) -> Any:
        return self._runtime.InferenceSession(model, self._options(), providers=[self.provider])

    def _options(self) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # fatal; errors come as exceptions
        options.graph_optimization_level = getattr(self._runtime.GraphOptimizationLevel, _LEVELS[self.optimization])
        if self.provider != CPU:  # what the provider cannot run must not run elsewhere unnoticed
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def _newest_opset(self) -> int:
        """Older releases refuse newer opsets, or load them and lack the operator; only a session tells."""
        weight = {"weight": np.zeros(_PROBE.weight_shape, np.float32)}
        for opset in range(min(NEWEST_OPSET, self._onnx.defs.onnx_opset_version()), OLDEST_OPSET, -1):
            try:
                self._session(one_node_model(_PROBE, weight, opset).SerializeToString())
            except Exception:
                continue
            return opset
        return OLDEST_OPSET
