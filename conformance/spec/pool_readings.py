"""What a max pooling may mean where the text of ONNX's MaxPool is open."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from conformance.arithmetic import Axis
from conformance.arithmetic.onnx_readings import is_before_clarified, pooled_same_readings
from conformance.arithmetic.spellings import Pair, convolution_size, convolved_ceil
from conformance.spec.onnx_words import WINDOWS_SINCE, OnnxWords

if TYPE_CHECKING:
    from conformance.spec.pooling import MaxPool

Order = Literal["plane", "tensor"]
Alternatives = tuple[str, list["PoolReading"]]
"""What a doubt is settled as by us, in words, and the other ways to settle it."""


@dataclass(frozen=True, slots=True)
class PoolReading:
    """One way to read a case.

    Beside the windows of ``axes`` there are ``empty`` ones at the end of each axis, which hold nothing but padding;
    what comes of those is not said.  ``order`` is what column-major indices count through, each plane or the tensor.
    """

    name: str
    axes: tuple[Axis, ...]
    empty: tuple[int, ...]
    order: Order = "plane"


def pool_readings(case: MaxPool) -> tuple[PoolReading, ...]:
    """The readings of a case, the first being what it means to us; none where there is no doubt."""
    words = case.onnx or OnnxWords()
    doubts = [found for doubt in (_negative, _strides, _windows, _pads, _order) if (found := doubt(case, words))[1]]
    if not doubts:
        return ()
    ours = PoolReading(", ".join(name for name, _ in doubts), case.axes, (0,) * case.rank)
    return (ours, *(reading for _, others in doubts for reading in others))


def _negative(case: MaxPool, _: OnnxWords) -> Alternatives:
    """SAME_* where windows leave rows out."""
    each = [pooled_same_readings(a.large, a.extent, a.stride, case.auto_pad or "NOTSET") for a in case.axes]
    names = list(dict.fromkeys(name for readings in each for name in readings))
    others: dict[tuple[Axis, ...], str] = {}
    for name in names[1:]:
        axes = (_moved(a, r[name]) if name in r else a for a, r in zip(case.axes, each, strict=True))
        others.setdefault(tuple(axes), name)
    return (names[0] if names else "", [_read(case, name, axes) for axes, name in others.items()])


def _strides(case: MaxPool, words: OnnxWords) -> Alternatives:
    """Strides that are left out: MaxPool-8 and -10 do not say what they are then."""
    if "strides" not in words.omit or not is_before_clarified(words.opset) or max(case.kernel) == 1:
        return "", []
    axes = tuple(_moved(replace(a, stride=a.kernel), (a.begin, max(a.end, 0))) for a in case.axes)
    return "strides left out are 1", [_read(case, "strides left out are the kernel", axes)]


def _windows(case: MaxPool, words: OnnxWords) -> Alternatives:
    """The last window of ceil_mode where it starts in the padding: MaxPool-22 ignores it, -10 to -12 do not say so."""
    if not case.ceil_mode or case.auto_pad not in (None, "NOTSET") or (words.opset or WINDOWS_SINCE) >= WINDOWS_SINCE:
        return "", []
    pairs = zip(case.axes, case.padding, strict=True)
    empty = tuple(
        convolved_ceil(a.large, a.extent, a.stride, pair) - a.small for a, pair in pairs if isinstance(pair, tuple)
    )
    kept = PoolReading("windows of nothing but padding are kept", case.axes, empty)
    return "windows that start in the padding are ignored", [kept] if any(empty) else []


def _pads(case: MaxPool, words: OnnxWords) -> Alternatives:
    """Pads beside auto_pad, which "cannot be used simultaneously"."""
    if words.pads is None:
        return "", []
    axes = tuple(_moved(a, pair) for a, pair in zip(case.axes, words.pads, strict=True))
    others = [_read(case, "pads count, and auto_pad does not", axes)] if axes != case.axes else []
    return "auto_pad counts, and pads do not", others


def _order(case: MaxPool, words: OnnxWords) -> Alternatives:
    """Column-major indices where there are several planes."""
    if words.storage_order != 1 or not words.indices or case.batch * case.channels <= 1:
        return "", []
    whole = PoolReading("column-major through the whole tensor", case.axes, (0,) * case.rank, "tensor")
    return "column-major within each plane", [whole]


def _read(case: MaxPool, name: str, axes: tuple[Axis, ...]) -> PoolReading:
    return PoolReading(name, axes, (0,) * case.rank)


def _moved(axis: Axis, pads: Pair) -> Axis:
    """The same axis with other padding, or another stride."""
    return replace(axis, begin=pads[0], small=convolution_size(axis.large, axis.extent, axis.stride, pads))
