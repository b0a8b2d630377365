"""What a predicate may speak of: the parameters of a case, resolved, by name.

Every case has ``suite``, ``name``, ``op``, ``dtype``, ``batch``, ``opset``, ``onnx`` and ``steps``; ``input`` and
``output`` are spatial sizes of what the op is fed and returns.  A convolution or pooling has ``rank`` (spatial axes),
``kernel``, ``stride`` and ``dilation``, one number per axis, and the rows that are cropped, ``begin`` and ``end``.
What else a case says goes by the name that it has there: ``groups``, ``bias``, ``overlap``, ``ceil_mode`` ...

``steps`` lists the stages of a chain with their parameters, of a single convolution that one; ``kind`` says what a step
is: ``conv``, ``conv_transpose``, ``max_pool``, ``max_unpool``, ``rectify``, ``batch_norm``, ``response_norm`` ...
"""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from conformance.spec import (
    AdaptiveDeconv,
    BatchNorm,
    Case,
    Chain,
    ConvBlock,
    Convolution,
    DeconvBlock,
    Deconvnet,
    Isolate,
    MaxPool,
    MaxUnpool,
    OnnxWords,
    Pad,
    Pooling,
    Rectify,
    Reshape,
    ResponseNorm,
    Take,
)

_COMMON = ("suite", "op", "dtype", "batch", "opset")
_NOT_SAID = ("id", "data", "tags", "notes", "source", "location", "vectors", "axes", "readings")
_DERIVED = ("name", "onnx", "steps", "kind", "input", "output", "rank", "kernel", "stride", "dilation", "begin", "end")
_SPEAKERS = (
    *(Convolution, MaxPool, MaxUnpool, ConvBlock, DeconvBlock, Deconvnet, AdaptiveDeconv, OnnxWords),
    *(BatchNorm, Isolate, Pad, Rectify, Reshape, ResponseNorm, Take),
)
VOCABULARY = frozenset({f.name for kind in _SPEAKERS for f in fields(kind)} - set(_NOT_SAID) | {*_COMMON, *_DERIVED})
"""All names of parameters that there are."""


def parameters(case: Case) -> dict[str, Any]:
    """The parameters of a case by name."""
    said = _said(case) | {key: getattr(case, key) for key in _COMMON}
    said["name"] = case.id.partition("/")[2]
    said["onnx"] = None if case.onnx is None else _plain(case.onnx)
    said["steps"] = _steps(case) if isinstance(case, Chain) else [_step(case)]
    return said


def _steps(case: Chain) -> list[dict[str, Any]]:
    """The steps of a chain.  A response normalisation is told its ``channels``, on which it depends."""
    layers = case.layers if isinstance(case, Deconvnet) else ()
    channels = {id(layer.step): layer.input[1] for layer in layers if isinstance(layer.step, ResponseNorm)}
    return [_step(step) | ({"channels": channels[id(step)]} if id(step) in channels else {}) for step in case.steps]


def _step(step: Any) -> dict[str, Any]:
    kind = step.op if isinstance(step, Case) else re.sub(r"(?<=.)([A-Z])", r"_\1", type(step).__name__).lower()
    return _said(step) | {"kind": kind}


def _said(step: Any) -> dict[str, Any]:
    said = _plain(step)
    if isinstance(step, Case):
        shapes = {"input": step.tensor_shapes.get("input"), "output": step.result_shapes.get("output")}
        said |= {name: shape[2:] for name, shape in shapes.items() if shape is not None}
    if isinstance(step, Convolution | Pooling):
        said |= {"rank": step.rank, "kernel": step.kernel, "stride": step.stride, "dilation": step.dilation}
        said |= {"begin": tuple(a.begin for a in step.axes), "end": tuple(a.end for a in step.axes)}
    return said


def _plain(said: Any) -> dict[str, Any]:
    """The fields that hold numbers, texts, or lists of them."""
    values = {f.name: getattr(said, f.name) for f in fields(said) if f.name not in _NOT_SAID}
    return {name: value for name, value in values.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
