"""``keras.Model.export(path, format="onnx")``: through tf2onnx on TensorFlow, through ``torch.onnx`` on PyTorch."""

from __future__ import annotations

import contextlib
import importlib.metadata
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx

from conformance.spec import Case, is_index
from conformance.targets.base import Tensors, Unsupported, decline_onnx_words
from conformance.targets.keras_targets import KerasLayers
from conformance.targets.reasons import refusals
from conformance.targets.tensorflow_target import kernels
from exporters.base import Binding, Exported, graph_name
from exporters.keras_model import keras_model
from exporters.tensorflow_sizes import Open, fed_shapes
from exporters.tf2onnx_words import conversion
from exporters.torch_tables import built_once

_CONVERTERS = {"tensorflow": ("tensorflow", "tf2onnx", "onnx"), "torch": ("torch", "onnx", "onnxscript", "onnx_ir")}


class KerasExport:
    """Export with Keras's defaults; ``input_signature`` tells which sizes are fixed.

    ``sizes`` is ``fixed``, or ``symbolic``, see `exporters.tensorflow_sizes`.
    """

    arithmetic = "native+bias"

    def __init__(self, backend: str = "tensorflow", sizes: str = "fixed", threads: int = 1) -> None:
        self.backend = backend
        self.symbolic = sizes == "symbolic"
        self.name = f"keras-export{'' if backend == 'tensorflow' else f'-{backend}'}{'-symbolic' * self.symbolic}"
        self._target = KerasLayers(threads, backend)
        self._keras = self._target.keras

    def environment(self) -> dict[str, str]:
        versions = {package: importlib.metadata.version(package) for package in _CONVERTERS[self.backend]}
        return {"keras": self._keras.__version__, "backend": self.backend, **versions}

    def export(self, case: Case, tensors: Tensors) -> Exported:
        who = f"keras on {self.backend}"
        decline_onnx_words(case, "keras")
        if case.dtype != "float32":
            raise Unsupported(f"keras exports models of dtype float32 only, by its documentation, not {case.dtype}")
        self._keras.backend.clear_session(free_memory=False)
        with refusals(who), kernels(who, case.dtype), self._keras.device("cpu"), _quiet():
            shapes = fed_shapes(case, symbolic=self.symbolic, has_switches=False)
            inputs = {name: self._input(name, shape) for name, shape in shapes.items()}
            model = keras_model(self._target, case, tensors, inputs)
            with built_once() if self.backend == "torch" else conversion():
                exported = self._file(model, list(inputs.values()))
        return Exported(exported, *_bindings(exported, list(shapes), list(case.result_shapes)))

    def _input(self, name: str, shape: Open) -> Any:
        dtype = "int64" if is_index(name) else "float32"
        return self._keras.Input(batch_shape=shape, dtype=dtype, name=graph_name(name))

    def _file(self, model: Any, inputs: Sequence[Any]) -> bytes:
        """The file.  Without a signature Keras leaves the batch open, whatever the model says."""
        signature = [[self._keras.InputSpec(dtype=x.dtype, shape=x.shape, name=x.name) for x in inputs]]
        with tempfile.TemporaryDirectory(prefix="conformance-keras-") as folder:
            path = Path(folder) / "model.onnx"
            model.export(path, format="onnx", verbose=False, input_signature=signature)
            return path.read_bytes()


def _bindings(file: bytes, fed: Iterable[str], given: Sequence[str]) -> tuple[tuple[Binding, ...], tuple[Binding, ...]]:
    """Inputs keep their names; outputs have names of the exporter's own, and their order."""
    graph = onnx.load_model_from_string(file).graph
    known = {graph_name(name): name for name in fed}
    if strangers := [value.name for value in graph.input if value.name not in known]:
        raise ValueError(f"the file wants to be fed {', '.join(strangers)}, which the model has inside")
    inputs = tuple(Binding(value.name, known[value.name], channels_last=True) for value in graph.input)
    outputs = zip(graph.output, given, strict=True)
    return inputs, tuple(Binding(value.name, name, channels_last=True) for value, name in outputs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
