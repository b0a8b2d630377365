"""Sentences that several targets decline a case with, and how a framework's own refusal is quoted."""

from __future__ import annotations

import re

from conformance.arithmetic.axis import convolved_size
from conformance.spec import Convolution
from conformance.targets.base import Unsupported

_NOISE = re.compile(r"\{\{.*?\}\}\s*|\s*\[Op:.*", re.DOTALL)
_LONGEST = 160


def decline_onnx_spelling(case: Convolution, framework: str) -> None:
    """Raise Unsupported for a case that is about ``auto_pad`` or ``output_shape``, which only ONNX has."""
    if case.auto_pad not in (None, "NOTSET"):
        raise Unsupported(f"{framework} has no auto_pad={case.auto_pad}")
    if case.output_shape is not None:
        raise Unsupported(f"{framework} has no output_shape that settles the padding, as ONNX has")


def symmetric_padding(case: Convolution, framework: str) -> tuple[int, ...]:
    """The zero padding, the same at both ends, of the convolution between the case's large and small sides.

    Where the last window ends before the padding does, an asymmetric pair is the same convolution as a symmetric one.
    Raises Unsupported where no symmetric padding gives these sizes.
    """
    for axis in case.axes:
        if axis.begin < 0 or convolved_size(axis.large, axis.extent, axis.stride, 2 * axis.begin) != axis.small:
            raise Unsupported(
                f"{framework}'s convolution cannot pad {axis.begin} at the beginning and {axis.end} at the end"
            )
    return tuple(axis.begin for axis in case.axes)


def first_line(error: BaseException) -> str:
    """What a framework said, cut to one line and freed of the names of its inner functions."""
    text = _NOISE.sub("", str(error)).strip().partition("\n")[0]
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
