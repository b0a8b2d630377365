"""Anybody's ONNX backend: a module, file or object with the interface of ``onnx.backend.base.Backend``.

``prepare(model, device)`` returns something with ``run(inputs)``, or else ``run_model(model, inputs, device)`` does it
all; inputs are a list in the order of the graph.  Source: "Implementing an ONNX backend" in ONNX's documentation, and
the runner of its backend tests, which skips where ``is_compatible`` is false, at ``unittest.SkipTest``, and at
``BackendIsNotSupposedToImplementIt``.
"""

from __future__ import annotations

import contextlib
import importlib
import unittest
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conformance.spec import Case, Chain
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.one_stage import stage_by_stage
from conformance.targets.onnx_graph import NEWEST_OPSET, newest_opset
from conformance.targets.onnx_target import OnnxTarget, Run
from conformance.targets.python_file import module_from
from conformance.targets.reasons import refusals

_DECLINED = "BackendIsNotSupposedToImplementIt"
_METHODS = ("prepare", "run_model")


class OnnxBackend(OnnxTarget):
    """The backend that ``source`` names: ``package.module``, ``package.module:attribute`` or the path of a file.

    A file or module without the interface may have a ``backend`` that has it.
    """

    largest_constants = 2**30  # bytes; a serialized model ends at 2 GiB

    def __init__(self, threads: int = 1, source: str = "", device: str = "CPU", name: str = "") -> None:
        super().__init__(threads)
        import onnx

        self._onnx: Any = onnx
        self._backend = find_backend(source)
        self._source, self._device = source, device
        self.name = name or f"onnx-backend={source}"
        self.arithmetic = getattr(self._backend, "arithmetic", "native")
        supports = getattr(self._backend, "supports_device", None)
        if supports is not None and not supports(device):
            raise RuntimeError(f"{source} does not support the device {device}")
        newest: int = min(NEWEST_OPSET, self._onnx.defs.onnx_opset_version())
        self.opset = newest_opset(newest, self._runs) or newest  # with none at all, cases tell what is wrong

    def environment(self) -> dict[str, str]:
        return {
            "backend": self._source,
            "device": self._device,
            "onnx": self._onnx.__version__,
            "opset": str(self.opset),
        }

    def _runs(self, model: bytes) -> None:
        self.prepare(model)({"input": np.ones((1, 1, 2), np.float32)})

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        """In 16 bits every stage is a model of its own: most runtimes compute the whole of a model in float32."""
        if isinstance(case, Chain) and case.tells_stages and case.dtype in ("float16", "bfloat16"):
            return stage_by_stage(case, tensors, super().run)
        return super().run(case, tensors)

    def prepare(self, model: bytes) -> Run:
        proto = self._onnx.load_model_from_string(model)
        constants = {tensor.name for tensor in proto.graph.initializer}
        inputs = [value.name for value in proto.graph.input if value.name not in constants]
        with self._declining():
            execute = self._prepared(proto)

        def run(feeds: Tensors) -> Sequence[np.ndarray]:
            with self._declining():
                return _arrays(execute([feeds[name] for name in inputs]), len(proto.graph.output))

        return run

    def _prepared(self, proto: Any) -> Any:
        """What takes the inputs and gives the outputs."""
        compatible = getattr(self._backend, "is_compatible", None)
        if compatible is not None and not compatible(proto, self._device):
            raise Unsupported(f"{self.name}: is_compatible says that it is not")
        prepare = getattr(self._backend, "prepare", None)
        prepared = None if prepare is None else prepare(proto, self._device)
        if prepared is not None:
            return prepared.run
        return lambda inputs: self._backend.run_model(proto, inputs, self._device)  # one that is not split in two

    @contextlib.contextmanager
    def _declining(self) -> Iterator[None]:
        """The ways of a backend to say that it does not implement a model."""
        try:
            with refusals(self.name):
                yield
        except (NotImplementedError, unittest.SkipTest) as reason:
            raise Unsupported(f"{self.name}: {str(reason) or type(reason).__name__}") from None
        except Exception as error:
            if type(error).__name__ != _DECLINED:
                raise
            raise Unsupported(f"{self.name}: {error}") from None


def find_backend(source: str) -> Any:
    """What has the interface.  Raises TypeError if nothing does, and whatever the import raises."""
    if source.endswith(".py"):
        found: Any = module_from(Path(source))
    else:
        module, _, attribute = source.partition(":")
        found = importlib.import_module(module)
        found = getattr(found, attribute) if attribute else found
    for candidate in (found, getattr(found, "backend", None)):
        if any(callable(getattr(candidate, method, None)) for method in _METHODS):
            return candidate
    raise TypeError(f"{source} has no {' and no '.join(_METHODS)}, of which an ONNX backend has one")


def _arrays(outputs: Any, expected: int) -> Sequence[np.ndarray]:
    """One array per output, in the order of the graph."""
    if not isinstance(outputs, Sequence):
        returned = type(outputs).__name__
        raise TypeError(f"expected one array per output, in a tuple or a list, the backend returned {returned}")
    if len(outputs) != expected:
        raise ValueError(f"the model has {expected} outputs, the backend returned {len(outputs)}")
    return [np.asarray(output) for output in outputs]
