"""A case: one configuration of one op, validated and resolved, without numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from conformance.arithmetic import Axis
from conformance.arithmetic.spellings import AutoPad, Mode, Pair
from conformance.spec.onnx_words import OnnxWords

EDGE_KINDS = ("edge-nan", "edge-inf", "edge-zero", "edge-subnormal", "edge-huge")
DRAWN_KINDS = ("exact", "rounding", *EDGE_KINDS)
PROPERTIES = ("adjoint", "linearity", "gradient")
PUBLISHED = "published"
DATA_KINDS = (*DRAWN_KINDS, *PROPERTIES, PUBLISHED)

Shape = tuple[int, ...]


def is_index(name: str) -> bool:
    """Whether a tensor of that name holds int64 indices, and not numbers of the case's dtype."""
    return name.rpartition(".")[2] == "indices"


_PARAMETERS = ("weight", "bias", "scale", "shift", "mean", "variance")


def is_parameter(name: str) -> bool:
    """Whether a tensor of that name belongs to the model, and not to what the model is fed."""
    return name.rpartition(".")[2] in _PARAMETERS


@dataclass(frozen=True, slots=True)
class Vectors:
    """Numbers that a case brings along: what to feed and, where published, what must come out."""

    tensors: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    decimals: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is common to all ops.  ``id`` is ``suite/name`` or ``suite/name[key=value,...]`` and seeds the numbers.

    A case with ``onnx`` words is about how a node of ONNX is written; targets that run no ONNX cannot say it.
    """

    id: str
    op: str
    dtype: str = "float32"
    batch: int = 1
    data: tuple[str, ...] = ("exact", "rounding")
    tags: tuple[str, ...] = ()
    notes: str = ""
    source: str = ""
    location: str = ""
    vectors: Vectors | None = field(default=None, compare=False)
    onnx: OnnxWords | None = None

    @property
    def suite(self) -> str:
        return self.id.partition("/")[0]

    @property
    def opset(self) -> int | None:
        """The opset of ONNX that it asks for, None where any will do."""
        return None if self.onnx is None else self.onnx.opset

    @property
    def tensor_shapes(self) -> dict[str, Shape]:
        """Shapes of the tensors that the op is fed, in the canonical layout."""
        raise NotImplementedError

    @property
    def result_shapes(self) -> dict[str, Shape]:
        """Shapes of what it must return."""
        raise NotImplementedError

    @property
    def elements(self) -> int:
        """Number of elements of all tensors together, a measure of memory."""
        return sum(map(math.prod, (*self.tensor_shapes.values(), *self.result_shapes.values())))

    @property
    def products(self) -> int:
        """Number of multiply-adds, a measure of time."""
        raise NotImplementedError


class OnAxes:
    """Sizes of a case that joins a large side with a small one, read from its axes."""

    __slots__ = ()
    axes: tuple[Axis, ...]

    @property
    def rank(self) -> int:
        return len(self.axes)

    @property
    def large(self) -> Shape:
        return tuple(a.large for a in self.axes)

    @property
    def small(self) -> Shape:
        return tuple(a.small for a in self.axes)

    @property
    def kernel(self) -> Shape:
        return tuple(a.kernel for a in self.axes)

    @property
    def stride(self) -> Shape:
        return tuple(a.stride for a in self.axes)

    @property
    def dilation(self) -> Shape:
        return tuple(a.dilation for a in self.axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution(OnAxes, Case):
    """``conv``, ``conv_transpose`` or ``conv_input_gradient``.

    ``in_channels`` and ``out_channels`` belong to the op, or for ``conv_input_gradient`` to the convolution whose
    gradient it is: that op is fed ``out_channels`` maps and returns ``in_channels``.

    ``axes`` is what all spellings of size resolve to.  The spelling itself is kept, because some targets can say one
    and not another: ``padding`` is ``(begin, end)`` per axis, ``same`` or ``valid``; ``auto_pad`` and ``output_shape``
    are ONNX's, ``output_size`` is PyTorch's.  Where the specification of a spelling allows several results,
    ``readings`` names them with their axes, the first being ``axes``.
    """

    in_channels: int = 1
    out_channels: int = 1
    groups: int = 1
    bias: bool = False
    axes: tuple[Axis, ...]
    padding: tuple[Pair, ...] | Mode
    output_padding: Shape | None = None
    output_size: Shape | None = None
    auto_pad: AutoPad | None = None
    output_shape: Shape | None = None
    relationship: int | None = None
    readings: tuple[tuple[str, tuple[Axis, ...]], ...] = ()

    @property
    def transposed(self) -> bool:
        """Whether the op applies C.T rather than C."""
        return self.op != "conv"

    @property
    def crop(self) -> tuple[Pair, ...]:
        """Rows dropped at ``(begin, end)`` of the full transposed result; negative: added."""
        return tuple((a.begin, a.end) for a in self.axes)

    @property
    def small_channels(self) -> int:
        """Channels on the side that the convolution writes and its transpose reads."""
        return self.in_channels if self.op == "conv_transpose" else self.out_channels

    @property
    def large_channels(self) -> int:
        return self.out_channels if self.op == "conv_transpose" else self.in_channels

    @property
    def weight_shape(self) -> Shape:
        """``(small channels, large channels / groups, *kernel)``: PyTorch's layout for all three ops."""
        return (self.small_channels, self.large_channels // self.groups, *self.kernel)

    @property
    def small_shape(self) -> Shape:
        return (self.batch, self.small_channels, *self.small)

    @property
    def large_shape(self) -> Shape:
        return (self.batch, self.large_channels, *self.large)

    @property
    def tensor_shapes(self) -> dict[str, Shape]:
        shapes = {"input": self.small_shape if self.transposed else self.large_shape, "weight": self.weight_shape}
        return shapes | ({"bias": (self.out_channels,)} if self.bias else {})

    @property
    def result_shapes(self) -> dict[str, Shape]:
        return {"output": self.large_shape if self.transposed else self.small_shape}

    @property
    def products(self) -> int:
        return math.prod(self.small_shape) * self.weight_shape[1] * math.prod(self.kernel)
