"""``max_pool`` and ``max_unpool``: the cases, and the models of how they are written in YAML."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from conformance.arithmetic import Axis
from conformance.arithmetic import spellings as spell
from conformance.arithmetic.axis import extent
from conformance.spec.case import OnAxes, Shape
from conformance.spec.fields import (
    AutoPadName,
    Boolean,
    Entry,
    KeyedError,
    OverlapName,
    Padding,
    PerAxis,
    Positive,
    SpatialSize,
    pads_per_axis,
    per_axis,
)
from conformance.spec.pool_axes import Pads, every_window_has_an_element, pool_axes, unpooled_axis
from conformance.spec.pool_readings import PoolReading, pool_readings
from conformance.spec.steps import Chain, Overlap, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling(OnAxes, Chain):
    """What pooling and unpooling share: windows that join a large side with a small one."""

    channels: int = 1
    axes: tuple[Axis, ...]
    padding: Pads

    @property
    def large_shape(self) -> Shape:
        return (self.batch, self.channels, *self.large)

    @property
    def small_shape(self) -> Shape:
        return (self.batch, self.channels, *self.small)

    @property
    def overlapping(self) -> bool:
        """Whether two windows may pick the same element."""
        return any(axis.extent > axis.stride for axis in self.axes)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxPool(Pooling):
    """The maximum of each window, and its switch: the flat index of the maximum within the plane of its channel.

    The input is the large side.  Padding never wins; the first of equal maxima in C order is the switch.
    ``magnitude`` picks by absolute value and keeps the sign.  ``auto_pad`` is ONNX's; ``padding`` is what it comes to.
    Where ONNX's text allows several results, ``readings`` has them all, the first being ``axes``.
    """

    ceil_mode: bool = False
    magnitude: bool = False
    auto_pad: spell.AutoPad | None = None
    readings: tuple[PoolReading, ...] = ()

    @property
    def tells_switches(self) -> bool:
        return self.onnx is None or self.onnx.indices

    @property
    def tensor_shapes(self) -> dict[str, Shape]:
        return {"input": self.large_shape}

    @property
    def result_shapes(self) -> dict[str, Shape]:
        return dict.fromkeys(self.stages[0].gives, self.small_shape)

    @property
    def products(self) -> int:
        return math.prod(self.small_shape) * math.prod(self.kernel)

    @property
    def stages(self) -> tuple[Stage, ...]:
        given = ("output", "indices") if self.tells_switches else ("output",)
        return (Stage("output", self, ("input",), given),)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxUnpool(Pooling):
    """Every value back to the place that its switch names, zero elsewhere.

    The result is the large side.  Where pooling windows overlap, several values may name the same place; ``overlap``
    says what becomes of them: their ``sum`` (the adjoint of pooling), one of them (``assign``), or their ``mean``.
    ``output_size`` is None where the size is the one that follows from the windows.  ``output_shape`` is ONNX's: any
    size that holds what is put there; what the switches count in then is contested (onnx/onnx#2398).
    """

    overlap: Overlap = "sum"
    output_size: Shape | None = None
    output_shape: Shape | None = None

    @property
    def tensor_shapes(self) -> dict[str, Shape]:
        return {"input": self.small_shape, "indices": self.small_shape}

    @property
    def result_shapes(self) -> dict[str, Shape]:
        return {"output": self.large_shape}

    @property
    def products(self) -> int:
        return math.prod(self.small_shape)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage("output", self, ("input", "indices"), ("output",)),)

    @property
    def inferred(self) -> Shape:
        """The size that follows from the windows alone, which an ``output_size`` may exceed."""
        pads = self.padding if isinstance(self.padding, tuple) else ((0, 0),) * self.rank
        return tuple(size - sum(pair) for size, pair in zip(self.unpadded, pads, strict=True))

    @property
    def unpadded(self) -> Shape:
        """The size that follows from windows without padding."""
        return tuple(axis.full for axis in self.axes)


class MaxPoolEntry(Entry):
    """``max_pool``.  ``stride`` is the kernel where it is not given, as in PyTorch and Keras."""

    kinds: ClassVar[tuple[str, ...]] = ("exact", "rounding", "edge-nan", "edge-inf", "adjoint")

    op: Literal["max_pool"]
    channels: Positive = 1
    input: SpatialSize
    kernel: PerAxis
    stride: PerAxis | None = None
    padding: Padding | None = None
    dilation: PerAxis = 1
    ceil_mode: Boolean = False
    magnitude: Boolean = False
    auto_pad: AutoPadName | None = None
    output: SpatialSize | None = None

    def resolve(self, common: dict[str, Any]) -> MaxPool:
        rank = len(self.input)
        kernel = per_axis("kernel", self.kernel, rank)
        stride = kernel if self.stride is None else per_axis("stride", self.stride, rank)
        dilation = per_axis("dilation", self.dilation, rank)
        pads = self._pads(kernel, stride, dilation)
        if self.ceil_mode and isinstance(pads, str):
            raise KeyedError("ceil_mode", f"expected no ceil_mode beside padding: {pads}")
        rounds_up = self.ceil_mode and self.auto_pad in (None, "NOTSET")
        axes = pool_axes(self.input, kernel, stride, dilation, pads, rounds_up)
        check_output(self.output, tuple(axis.small for axis in axes))
        case = MaxPool(
            **common,
            channels=self.channels,
            axes=axes,
            padding=pads,
            ceil_mode=self.ceil_mode,
            magnitude=self.magnitude,
            auto_pad=self.auto_pad,
        )
        readings = pool_readings(case)
        if not all(axis.small > 0 and every_window_has_an_element(axis) for r in readings for axis in r.axes):
            raise KeyedError("onnx.pads", "expected an element in every window, with these pads one has none")
        return replace(case, readings=readings)

    def _pads(self, kernel: Shape, stride: Shape, dilation: Shape) -> Pads:
        """``padding``, or the numbers that ``auto_pad`` comes to; SAME_* gives ``ceil(i / s)`` windows (MaxPool-22)."""
        if self.auto_pad in (None, "NOTSET"):
            return pads_per_axis(self.padding, len(self.input))
        if self.padding is not None:
            raise KeyedError("padding", f"expected no padding beside auto_pad: {self.auto_pad}")
        end = spell.larger_end(self.auto_pad)
        return tuple(
            (0, 0) if self.auto_pad == "VALID" else spell.convolution_same(i, extent(k, d), s, end)
            for i, k, s, d in zip(self.input, kernel, stride, dilation, strict=True)
        )


class MaxUnpoolEntry(Entry):
    """``max_unpool``.  ``input`` is the pooled size; ``output_size`` the size before pooling where it is not plain."""

    kinds: ClassVar[tuple[str, ...]] = ("exact", "rounding", "edge-nan", "edge-inf", "adjoint", "linearity")

    op: Literal["max_unpool"]
    channels: Positive = 1
    input: SpatialSize
    kernel: PerAxis
    stride: PerAxis | None = None
    padding: Padding | None = None
    overlap: OverlapName = "sum"
    output_size: PerAxis | None = None
    output_shape: PerAxis | None = None
    output: SpatialSize | None = None

    def refused(self) -> dict[str, str]:
        if self.overlap == "sum":
            return super().refused()
        return super().refused() | dict.fromkeys(("adjoint", "linearity"), f"they do not hold for {self.overlap}")

    def resolve(self, common: dict[str, Any]) -> MaxUnpool:
        if self.output_shape is not None and self.output_size is not None:
            raise KeyedError("output_shape", "expected no other spelling of the size beside output_size")
        if self.output_shape is not None and self.overlap != "assign":
            raise KeyedError("overlap", f"expected assign, as ONNX's MaxUnpool does, got {self.overlap}")
        case = unpool(
            common,
            self.channels,
            self.input,
            self.kernel,
            self.stride,
            self.padding,
            self.overlap,
            self.output_size,
            self.output_shape,
        )
        check_output(self.output, case.large)
        return case


def unpool(
    common: dict[str, Any],
    channels: int,
    small: Shape,
    kernel: Any,
    stride: Any,
    padding: Any,
    overlap: Overlap,
    output_size: Any,
    output_shape: Any = None,
) -> MaxUnpool:
    """The unpooling of maps of size ``small``, with the sizes as they are written.  Raises KeyedError."""
    rank = len(small)
    kernel = per_axis("kernel", kernel, rank)
    stride = kernel if stride is None else per_axis("stride", stride, rank)
    pads = pads_per_axis(padding, rank)
    if isinstance(pads, str):
        raise KeyedError("padding", f"expected numbers, got {pads}")
    for n, pair in enumerate(pads):
        if min(pair) < 0:
            raise KeyedError("padding", f"expected no negative padding, got {list(pair)} on axis {n}")
    size = None if output_size is None else per_axis("output_size", output_size, rank)
    shape = None if output_shape is None else per_axis("output_shape", output_shape, rank)
    axes = tuple(
        unpooled_axis(
            n, small[n], kernel[n], stride[n], pads[n], size[n] if size else None, shape[n] if shape else None
        )
        for n in range(rank)
    )
    return MaxUnpool(
        **common,
        channels=channels,
        axes=axes,
        padding=pads,
        overlap=overlap,
        output_size=size,
        output_shape=shape,
    )


def check_output(written: Shape | None, actual: Shape) -> None:
    """Raise KeyedError where the size that a case expects is not the one that it has."""
    if written is not None and written != actual:
        raise KeyedError("output", f"expected {list(actual)} by pooling arithmetic, got {list(written)}")
