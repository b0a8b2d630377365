"""ONNX Runtime, fed with models that are made of the case: one node for a convolution, one graph for a chain."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from conformance.spec import Case, Chain
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.one_stage import stage_by_stage
from conformance.targets.onnx_graph import OLDEST_OPSET, newest_opset
from conformance.targets.onnx_target import OnnxTarget, Run
from conformance.targets.onnxruntime_fallback import computed_elsewhere
from conformance.targets.precision import float32_in_use
from conformance.targets.reasons import refusals

CPU = "CPUExecutionProvider"
TF32_BY_DEFAULT = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
_LEVELS = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


class OnnxRuntime(OnnxTarget):
    """``onnxruntime.InferenceSession`` with one execution provider and otherwise its default settings.

    ``optimization`` is how far it rewrites graphs: ``off``, ``basic``, ``extended``, or ``all``, which is its default.
    ``opset`` defaults to the newest in which onnxruntime runs a ConvTranspose, at most the newest that changed it.
    Releases that have that operator of an opset have its MaxPool and MaxUnpool too (1.20 to 1.31).
    """

    largest_constants = 2**30  # bytes; a serialized model ends at 2 GiB

    def __init__(
        self,
        threads: int = 1,
        provider: str = CPU,
        opset: int | None = None,
        optimization: str = "all",
        tf32: str = "default",
    ) -> None:
        super().__init__(threads)
        import onnx
        import onnxruntime

        self._onnx, self._runtime = onnx, onnxruntime
        self.provider = provider
        self.optimization = optimization
        self._provider_options = {"use_tf32": "0"} if tf32 == "off" else {}
        if provider in TF32_BY_DEFAULT and tf32 == "default":
            self.arithmetic = "tf32"
        variant = "ieee" if tf32 == "off" else optimization
        runtime = "onnxruntime" if variant == "all" else f"onnxruntime-{variant}"
        self.name = f"{runtime}@{provider.removesuffix('ExecutionProvider').lower()}"
        newest = self._onnx.defs.onnx_opset_version()
        self.opset = opset or newest_opset(newest, self._session) or OLDEST_OPSET

    def environment(self) -> dict[str, str]:
        proven = {} if self.provider == CPU else {"float32 in use": float32_in_use(self)}
        return proven | {
            "onnxruntime": self._runtime.__version__,
            "onnx": self._onnx.__version__,
            "provider": self.provider,
            "available providers": ", ".join(self._runtime.get_available_providers()),
            "opset": str(self.opset),
            "threads": str(self.threads),
            "graph optimization level": self._options().graph_optimization_level.name,
        }

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        """In float16 every stage that is told is a model of its own.

        onnxruntime's processor provider runs a whole float16 graph in float32 and rounds only what it returns, so that
        in one model a stage would not get what the stage before it returned.
        """
        with refusals(f"onnxruntime in {case.dtype}"):
            widens = case.dtype == "float16" and self.provider == CPU
            if isinstance(case, Chain) and case.tells_stages and widens:
                return stage_by_stage(case, tensors, super().run)
            return super().run(case, tensors)

    def run_model(self, model: bytes, feeds: Tensors) -> Sequence[np.ndarray]:
        with refusals("onnxruntime"):
            return super().run_model(model, feeds)

    def prepare(self, model: bytes) -> Run:
        if self.provider != CPU:
            return self._watched(model)
        session = self._session(model)
        return lambda feeds: cast(Sequence[np.ndarray], session.run(None, dict(feeds)))

    def _watched(self, model: bytes) -> Run:
        """A session that must compute on its provider, which the first run shows."""
        folder = tempfile.mkdtemp(prefix="conformance-profile-")
        session = self._session(model, profile=str(Path(folder) / "run"))
        if self.provider not in session.get_providers():
            shutil.rmtree(folder)
            raise RuntimeError(f"onnxruntime offers {self.provider} and could not start it; it would use {CPU}")
        unwatched = [folder]
        refused: dict[str, str] = {}

        def run(feeds: Tensors) -> Sequence[np.ndarray]:
            values = cast(Sequence[np.ndarray], session.run(None, dict(feeds)))
            if unwatched:
                refused.update(computed_elsewhere(Path(session.end_profiling()), self.provider))
                shutil.rmtree(unwatched.pop())
            if refused:
                nodes = ", ".join(f"{operator} on {where}" for operator, where in refused.items())
                raise Unsupported(f"onnxruntime has no kernel in {self.provider}, and computed {nodes}")
            return values

        return run

    def _session(self, model: bytes, profile: str = "") -> Any:
        options = self._options()
        options.enable_profiling = bool(profile)
        options.profile_file_prefix = profile
        providers = [(self.provider, self._provider_options)] if self._provider_options else [self.provider]
        return self._runtime.InferenceSession(model, options, providers=providers)

    def _options(self) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # fatal; errors come as exceptions
        options.graph_optimization_level = getattr(self._runtime.GraphOptimizationLevel, _LEVELS[self.optimization])
        return options
