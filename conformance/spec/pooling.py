"""``max_pool`` and ``max_unpool``: the cases, and the models of how they are written in YAML."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from conformance.arithmetic import Axis
from conformance.arithmetic import spellings as spell
from conformance.arithmetic.axis import extent
from conformance.spec.case import OnAxes, Shape
from conformance.spec.fields import (
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
from conformance.spec.steps import Chain, Overlap, Stage

Pads = tuple[spell.Pair, ...] | spell.Mode


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
    ``magnitude`` picks by absolute value and keeps the sign.
    """

    ceil_mode: bool = False
    magnitude: bool = False

    @property
    def tensor_shapes(self) -> dict[str, Shape]:
        return {"input": self.large_shape}

    @property
    def result_shapes(self) -> dict[str, Shape]:
        return {"output": self.small_shape, "indices": self.small_shape}

    @property
    def products(self) -> int:
        return math.prod(self.small_shape) * math.prod(self.kernel)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (Stage("output", self, ("input",), ("output", "indices")),)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxUnpool(Pooling):
    """Every value back to the place that its switch names, zero elsewhere.

    The result is the large side.  Where pooling windows overlap, several values may name the same place; ``overlap``
    says what becomes of them: their ``sum`` (the adjoint of pooling), one of them (``assign``), or their ``mean``.
    ``output_size`` is None where the size is the one that follows from the windows.
    """

    overlap: Overlap = "sum"
    output_size: Shape | None = None

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
        return tuple(a.full - sum(pair) for a, pair in zip(self.axes, pads, strict=True))


def pool_axes(size: Shape, kernel: Shape, stride: Shape, dilation: Shape, pads: Pads, ceil: bool) -> tuple[Axis, ...]:
    """The axes of a pooling of that size.  Raises KeyedError where a window has no element."""
    axes = []
    for n, (i, k, s, d) in enumerate(zip(size, kernel, stride, dilation, strict=True)):
        ke = extent(k, d)
        pair = pads[n] if isinstance(pads, tuple) else spell.convolution_same(i, ke, s) if pads == "same" else (0, 0)
        if min(pair) < 0:
            raise KeyedError("padding", f"expected no negative padding, got {list(pair)} on axis {n}")
        o = spell.pooled_size(i, ke, s, pair, ceil)
        if o < 1:
            raise KeyedError("kernel", f"impossible shape: no window fits on axis {n} (size {i}, extent {ke})")
        axis = Axis(large=i, small=o, kernel=k, stride=s, dilation=d, begin=pair[0])
        if not _every_window_has_an_element(axis):
            raise KeyedError("padding", f"expected an element in every window, one on axis {n} lies in the padding")
        axes.append(axis)
    return tuple(axes)


def _every_window_has_an_element(axis: Axis) -> bool:
    starts = {0, axis.small - 1} if axis.dilation == 1 else range(axis.small)
    reach = range(0, axis.extent, axis.dilation)
    return all(any(0 <= m * axis.stride - axis.begin + t < axis.large for t in reach) for m in starts)


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
    output: SpatialSize | None = None

    def resolve(self, common: dict[str, Any]) -> MaxPool:
        rank = len(self.input)
        kernel = per_axis("kernel", self.kernel, rank)
        stride = kernel if self.stride is None else per_axis("stride", self.stride, rank)
        pads = pads_per_axis(self.padding, rank)
        if self.ceil_mode and isinstance(pads, str):
            raise KeyedError("ceil_mode", f"expected no ceil_mode beside padding: {pads}")
        axes = pool_axes(self.input, kernel, stride, per_axis("dilation", self.dilation, rank), pads, self.ceil_mode)
        check_output(self.output, tuple(axis.small for axis in axes))
        return MaxPool(
            **common,
            channels=self.channels,
            axes=axes,
            padding=pads,
            ceil_mode=self.ceil_mode,
            magnitude=self.magnitude,
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
    output: SpatialSize | None = None

    def refused(self) -> dict[str, str]:
        if self.overlap == "sum":
            return super().refused()
        return super().refused() | dict.fromkeys(("adjoint", "linearity"), f"they do not hold for {self.overlap}")

    def resolve(self, common: dict[str, Any]) -> MaxUnpool:
        case = unpool(
            common, self.channels, self.input, self.kernel, self.stride, self.padding, self.overlap, self.output_size
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
    axes = tuple(
        _unpooled_axis(n, small[n], kernel[n], stride[n], pads[n], None if size is None else size[n])
        for n in range(rank)
    )
    return MaxUnpool(**common, channels=channels, axes=axes, padding=pads, overlap=overlap, output_size=size)


def _unpooled_axis(n: int, small: int, kernel: int, stride: int, pads: spell.Pair, size: int | None) -> Axis:
    smallest = (small - 1) * stride + kernel - sum(pads)
    large = smallest if size is None else size
    axis = Axis(large=large, small=small, kernel=kernel, stride=stride, begin=pads[0])
    if large < 1:
        raise KeyedError("padding", f"impossible shape: the output would be {large} on axis {n}")
    if not smallest - stride < large < smallest + stride:  # what a pooling, rounding its size down or up, comes from
        low, high = max(smallest - stride + 1, 1), smallest + stride - 1
        raise KeyedError("output_size", f"expected {low} to {high} on axis {n}, got {large}")
    if not _every_window_has_an_element(axis):
        raise KeyedError("padding", f"expected an element in every window, one on axis {n} lies in the padding")
    return axis


def check_output(written: Shape | None, actual: Shape) -> None:
    """Raise KeyedError where the size that a case expects is not the one that it has."""
    if written is not None and written != actual:
        raise KeyedError("output", f"expected {list(actual)} by pooling arithmetic, got {list(written)}")
