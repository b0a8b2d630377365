"""What the two exporters of PyTorch have in common."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

from conformance.spec import Case, is_index
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.reasons import quiet, refusals
from conformance.targets.torch_targets import Torch
from exporters.base import Binding, Exported
from exporters.torch_module import CaseModule
from exporters.torch_sizes import Sizes, fixed, symbolic

_REFUSAL = re.compile(
    r"Exporting the operator '[^']*' to ONNX opset version \d+ is not supported"  # torch-script
    r"|Unsupported: ONNX export of [^.]*|ONNX does not support [^.]*"
    r"|Found an unsupported argument type in the JIT tracer"
    r"|No ONNX function found for <[^>]*>"  # torch-dynamo
)


class ExportError(Exception):
    """What went wrong in an export, without the exporter's general advice."""


class TorchExporter:
    """``torch.onnx.export`` of a `CaseModule` in inference mode, with the exporter's own defaults.

    ``sizes`` is ``fixed``, or ``symbolic``, see `exporters.torch_sizes`.  The example that is traced holds zeros, for a
    file must depend on weights and sizes alone.
    """

    tool: ClassVar[str]
    arithmetic = "native"

    def __init__(self, sizes: str = "fixed", threads: int = 1) -> None:
        self.symbolic = sizes == "symbolic"
        self.name = f"{self.tool}-symbolic" if self.symbolic else self.tool
        self._target = Torch(threads)

    def environment(self) -> dict[str, str]:
        import onnx
        import onnxscript

        return {
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxscript": onnxscript.__version__,
            "opset": str(torch.onnx._constants.ONNX_DEFAULT_OPSET),
        }

    def export(self, case: Case, tensors: Tensors) -> Exported:
        sizes = symbolic(case) if self.symbolic else fixed(case)
        example = tuple(_example(case, sizes))
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            with refusals("torch"):
                module = CaseModule(case, tensors, self._target.steps(case))
                module(*example)  # what PyTorch itself cannot do is no matter of the exporter
            try:
                model = self._exported(module, example, sizes)
            except Exception as error:
                raise _in_short(error) from error
        return Exported(model, _bindings(_kept(model, module.inputs)), _bindings(module.outputs))

    def _exported(self, module: CaseModule, example: tuple[Any, ...], sizes: Sizes) -> bytes:
        """The file, whose inputs and outputs have the names of the module's."""
        raise NotImplementedError


def _example(case: Case, sizes: Sizes) -> Iterator[Any]:
    for name, shape in sizes.example.items():
        yield torch.zeros(shape, dtype=torch.int64 if is_index(name) else getattr(torch, case.dtype))


def _kept(model: bytes, inputs: Sequence[str]) -> Sequence[str]:
    """The inputs that the file has: torch-script drops those that no output depends on (pytorch/pytorch#104949)."""
    import onnx

    there = {value.name for value in onnx.load_model_from_string(model).graph.input}
    return [name for name in inputs if name in there]


def _bindings(names: Sequence[str]) -> tuple[Binding, ...]:
    return tuple(Binding(name, name) for name in names)


def _in_short(error: Exception) -> Exception:
    """Unsupported where the exporter says itself that it lacks something, else what is behind its general words."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    for cause in causes:
        if said := _REFUSAL.search(quiet(str(cause))):
            return Unsupported(said[0])
    return ExportError(f"{type(causes[-1]).__name__}: {causes[-1]}")
