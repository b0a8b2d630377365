"""The axes of poolings and unpoolings, and whether they are possible."""

from __future__ import annotations

from conformance.arithmetic import Axis
from conformance.arithmetic import spellings as spell
from conformance.arithmetic.axis import extent
from conformance.spec.case import Shape
from conformance.spec.fields import KeyedError

Pads = tuple[spell.Pair, ...] | spell.Mode


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
        if not every_window_has_an_element(axis):
            raise KeyedError("padding", f"expected an element in every window, one on axis {n} lies in the padding")
        axes.append(axis)
    return tuple(axes)


def every_window_has_an_element(axis: Axis) -> bool:
    """Whether no window lies in the padding as a whole."""
    starts = {0, axis.small - 1} if axis.dilation == 1 else range(axis.small)
    reach = range(0, axis.extent, axis.dilation)
    return all(any(0 <= m * axis.stride - axis.begin + t < axis.large for t in reach) for m in starts)


def unpooled_axis(
    n: int, small: int, kernel: int, stride: int, pads: spell.Pair, size: int | None, shape: int | None
) -> Axis:
    """Axis ``n`` of an unpooling whose result has an ``output_size`` or an ONNX ``output_shape``, or neither.

    Raises KeyedError.
    """
    smallest = (small - 1) * stride + kernel - sum(pads)
    large = shape or size or smallest
    axis = Axis(large=large, small=small, kernel=kernel, stride=stride, begin=pads[0])
    if large < 1:
        raise KeyedError("padding", f"impossible shape: the output would be {large} on axis {n}")
    pooled = smallest - stride < large < smallest + stride  # what a pooling, rounding its size down or up, comes from
    if not pooled and shape is None:
        low, high = max(smallest - stride + 1, 1), smallest + stride - 1
        raise KeyedError("output_size", f"expected {low} to {high} on axis {n}, got {large}")
    if not every_window_has_an_element(axis):
        key = "padding" if shape is None else "output_shape"
        raise KeyedError(key, f"expected an element in every window, one on axis {n} lies in the padding")
    return axis
