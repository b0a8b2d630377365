"""``torch.onnx.export(dynamo=True)``: the module is captured by ``torch.export``, whose nodes are translated."""

from __future__ import annotations

from typing import Any

import torch

from conformance.targets.progress_bars import keep_locks_in_process
from exporters.torch_exporter import TorchExporter
from exporters.torch_module import CaseModule
from exporters.torch_sizes import Sizes
from exporters.torch_tables import built_once


class TorchDynamo(TorchExporter):
    """The exporter that is the default since PyTorch 2.9."""

    tool = "torch-dynamo"

    def __init__(self, sizes: str = "fixed", threads: int = 1) -> None:
        super().__init__(sizes, threads)
        keep_locks_in_process()

    def _exported(self, module: CaseModule, example: tuple[Any, ...], sizes: Sizes) -> bytes:
        with built_once():
            program = torch.onnx.export(
                module,
                example,
                dynamo=True,
                verbose=False,
                input_names=list(module.inputs),
                output_names=list(module.outputs),
                dynamic_shapes=_dynamic(module, sizes),
            )
        return bytes(program.model_proto.SerializeToString())


def _dynamic(module: CaseModule, sizes: Sizes) -> dict[str, Any] | None:
    """The open axes by the name of forward's argument."""
    if not sizes.open:
        return None
    dynamic = torch.export.Dim.DYNAMIC
    return {"given": tuple(dict.fromkeys(sizes.open[name], dynamic) for name in module.inputs)}
