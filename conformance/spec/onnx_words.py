"""The words that only ONNX has and that are no part of an op's arithmetic: how a node of a graph is written.

They are the key ``onnx:`` of a case.  The same case without them asks for the same numbers, unless the text of the
operator in that opset is open; then the case lists its readings.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from conformance.arithmetic.spellings import Pair

WeightsFrom = Literal["initializer", "input", "overridable"]
WEIGHTS_FROM: tuple[str, ...] = get_args(WeightsFrom)

INDICES_SINCE = 8
"""The opset that gave MaxPool its second output, and storage_order."""

DILATIONS_SINCE = 10
"""The opset that gave MaxPool dilations and ceil_mode."""

BFLOAT16_SINCE = 22
"""The opset that let Conv, ConvTranspose, MaxPool and MaxUnpool take bfloat16."""

WINDOWS_SINCE = 22
"""The opset whose MaxPool ignores windows that would start in the padding at the end."""


@dataclass(frozen=True, slots=True)
class OnnxWords:
    """How the node of a case is written.

    ``opset`` is the version of the operators, None for the newest that a target has.  ``omit`` names attributes that
    are left out, for the operator's default to stand.  ``weights`` are an ``initializer``, an ``input`` that is fed, or
    an ``overridable`` initializer, which is an input as well.  ``pads`` are written although ``auto_pad`` or
    ``output_shape`` settles the size.  ``storage_order`` is MaxPool's; without ``indices`` it has one output.
    """

    opset: int | None = None
    omit: tuple[str, ...] = ()
    weights: WeightsFrom = "initializer"
    pads: tuple[Pair, ...] | None = None
    storage_order: int | None = None
    indices: bool = True

    @property
    def said(self) -> tuple[str, ...]:
        """The words that say something else than nothing."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != f.default)

    def __str__(self) -> str:
        return ", ".join(f"{name} {getattr(self, name)}" for name in self.said)


@dataclass(frozen=True, slots=True)
class OnnxOperator:
    """An operator of ONNX: since when there is one, which words a case may say of it, and what may be left out."""

    name: str
    since: int
    words: tuple[str, ...]
    optional: tuple[str, ...]


_CONVOLUTION = (("opset", "omit", "weights", "pads"), ("kernel_shape", "strides", "dilations", "group", "pads"))

ONNX_OPERATORS = {
    "conv": OnnxOperator("Conv", 1, *_CONVOLUTION),
    "conv_transpose": OnnxOperator("ConvTranspose", 1, *_CONVOLUTION),
    "max_pool": OnnxOperator(
        "MaxPool", 1, ("opset", "omit", "pads", "storage_order", "indices"), ("strides", "dilations", "pads")
    ),
    "max_unpool": OnnxOperator("MaxUnpool", 9, ("opset", "omit"), ("strides", "pads")),
}
