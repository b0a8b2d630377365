"""``torch.onnx.export(dynamo=False)``: the module is traced into TorchScript, whose nodes are translated."""

from __future__ import annotations

import io
from typing import Any

import torch

from exporters.torch_exporter import TorchExporter
from exporters.torch_module import CaseModule
from exporters.torch_sizes import Sizes


class TorchScript(TorchExporter):
    """The exporter that was the default until PyTorch 2.8."""

    tool = "torch-script"

    def _exported(self, module: CaseModule, example: tuple[Any, ...], sizes: Sizes) -> bytes:
        file = io.BytesIO()
        torch.onnx.export(
            module,
            example,
            file,
            dynamo=False,
            input_names=list(module.inputs),
            output_names=list(module.outputs),
            dynamic_axes=sizes.open or None,
        )
        return file.getvalue()
