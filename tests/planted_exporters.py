"""Exporters that are wrong on purpose, as files that a user would bring: ``target`` makes one by its ``how``."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.spec import Case
from conformance.targets.base import Tensors, Unsupported
from exporters.base import Exported
from exporters.onnx_graph import OnnxGraph


class Planted(OnnxGraph):
    """The graph made by hand, and one thing wrong with it."""

    def __init__(self, how: str = "right") -> None:
        self.how = how
        self.symbolic = how == "claims to be symbolic"

    def environment(self) -> dict[str, str]:
        return {"how": self.how}

    def export(self, case: Case, tensors: Tensors) -> Exported:
        if self.how == "aborts":
            os.abort()
        if self.how == "hangs":
            time.sleep(60)
        if self.how == "raises":
            raise RuntimeError("no such operator\nin any opset")
        if self.how == "declines":
            raise Unsupported("it cannot say groups")
        if self.how == "flips":
            tensors = dict(tensors) | {"weight": np.ascontiguousarray(tensors["weight"][..., ::-1])}
        exported = super().export(case, tensors)
        return replace(exported, model=_spoilt(exported.model, self.how))


def _spoilt(serialized: bytes, how: str) -> bytes:
    import onnx

    model: Any = onnx.load_model_from_string(serialized)
    if how == "no model":
        return b"this is no model"
    if how == "says a wrong size":
        model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 1000
    if how == "names an unknown operator":
        model.graph.node[0].op_type = "Deconvolution"
    if how == "renames its output":
        model.graph.output[0].name = model.graph.node[0].output[0] = "y"
    return bytes(model.SerializeToString())


def target(how: str = "right") -> Planted:
    return Planted(how)
