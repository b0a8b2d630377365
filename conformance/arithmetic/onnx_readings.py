"""Where the texts of ONNX's operators are open: what an axis may mean, each reading by name.

Every function returns ``(begin, end)`` by the name of the reading, in the sense of `conformance.arithmetic.spellings`:
the padding of a convolution or pooling, the crop of a transposed convolution.  The first is the one that `spellings`
gives.  Nothing is returned where all readings come to the same, so that there is no doubt.
"""

from __future__ import annotations

from conformance.arithmetic.axis import full_size
from conformance.arithmetic.spellings import (
    AutoPad,
    End,
    Pair,
    convolution_same,
    explicit_transposed,
    halves,
    larger_end,
)

CLARIFIED = 11
"""The opset whose texts say what those of Conv-1, ConvTranspose-1 and MaxPool-10 left open."""

SAME = ("SAME_UPPER", "SAME_LOWER")
DOWN, TOWARDS_ZERO = "negative pads, half rounded down", "negative pads, half rounded towards zero"
OUTPUT_IS_INPUT = "output as large as the input"


def transposed_readings(
    small: int,
    extent: int,
    stride: int,
    output_padding: int,
    output_shape: int | None,
    auto_pad: AutoPad,
    opset: int | None = None,
) -> dict[str, Pair]:
    """The crops that ONNX's text allows where pads are generated.

    ConvTranspose-11 and -22 give the total padding and its split, but not how the half of an odd negative total rounds;
    and they say that pads are at least 0, which contradicts ``output_shape = input_shape * strides`` for SAME_* where
    the kernel is smaller than the stride, and that VALID means no padding, which contradicts ``output_shape``.
    ConvTranspose-1 splits the other way round in its equation than in the text of its auto_pad (onnx/onnx#1609), and
    SAME_* lets its output "match the input" (onnx/onnx#3153).  The first reading is that of `onnx_transposed_shape`.
    """
    if output_shape is None and auto_pad in ("NOTSET", "VALID"):
        return {}
    full = full_size(small, extent, stride) + output_padding
    readings: dict[str, Pair] = {}
    for text, size, larger in _texts(small, stride, output_shape, auto_pad, opset):
        for rounding, pads in _halved(full - size, larger).items():
            readings[", ".join(filter(None, (text, rounding))) or "pads as generated"] = pads
    if (output_shape is None and full < small * stride) or (output_shape is not None and auto_pad == "VALID"):
        readings["no padding" if auto_pad == "VALID" else "no negative pads"] = (0, 0)
    return _distinct({name: explicit_transposed(pads, output_padding) for name, pads in readings.items()})


def added_readings(padding: Pair, output_padding: int, opset: int | None) -> dict[str, Pair]:
    """The crops that explicit ONNX pads with output_padding may mean.

    ConvTranspose-1 adds to "one side of the output", -11 to the side with the higher indices (onnx/onnx#2333).
    """
    if not is_before_clarified(opset):
        return {}
    at_end = explicit_transposed(padding, output_padding)
    at_begin = (padding[0] - output_padding, padding[1])
    return _distinct({"output_padding at the end": at_end, "output_padding at the beginning": at_begin})


def same_readings(size: int, extent: int, stride: int, auto_pad: AutoPad, opset: int | None) -> dict[str, Pair]:
    """The paddings that SAME_* of an ONNX convolution may mean.

    Conv-1 lets the output size "match the input", Conv-11 be ``ceil(input_shape / strides)`` (onnx/onnx#3153).
    """
    if auto_pad not in SAME or not is_before_clarified(opset):
        return {}
    end = larger_end(auto_pad)
    rounded = convolution_same(size, extent, stride, end)
    enlarged = halves((size - 1) * stride + extent - size, end)
    return _distinct({"ceil(input / stride)": rounded, OUTPUT_IS_INPUT: enlarged})


def pooled_same_readings(size: int, extent: int, stride: int, auto_pad: AutoPad) -> dict[str, Pair]:
    """The paddings that SAME_* of an ONNX pooling may mean.

    Where windows leave rows out, the equation of ``pad_shape`` (MaxPool-22) comes out negative; ``pads`` are at least
    0, and how the half of an odd negative number rounds is not said.  The first reading is that of `convolution_same`.
    """
    total = (-(-size // stride) - 1) * stride + extent - size
    if auto_pad not in SAME or total >= 0:
        return {}
    readings = {"no negative pads": (0, 0)} | _halved(total, larger_end(auto_pad))
    # an even total has one half, but another axis of the same case may have two, and both go with this one
    readings.setdefault(TOWARDS_ZERO, readings[DOWN])
    return readings if len(set(readings.values())) > 1 else {}


def is_before_clarified(opset: int | None) -> bool:
    """Whether an opset is one before 11, which clarified Conv, ConvTranspose and the defaults of the poolings."""
    return opset is not None and opset < CLARIFIED


def _texts(
    small: int, stride: int, output_shape: int | None, auto_pad: AutoPad, opset: int | None
) -> list[tuple[str, int, End]]:
    """What an opset's text says of the output size and of the end that gets the odd row: a name for each reading."""
    size, end = small * stride if output_shape is None else output_shape, larger_end(auto_pad)
    if not is_before_clarified(opset):
        return [("", size, end)]
    other: End = "begin" if end == "end" else "end"
    splits: list[tuple[str, End]] = [
        ("split as by ConvTranspose-11", end),
        ("split as by the equation of ConvTranspose-1", other),
    ]
    found = [(name, size, where) for name, where in splits]
    if output_shape is None:
        found += [(f"{OUTPUT_IS_INPUT}, {name}", small, where) for name, where in splits]
    return found


def _halved(total: int, larger: End) -> dict[str, Pair]:
    """The two halves of a total padding, for each way to round that of a negative one."""
    if total >= 0:
        return {"": halves(total, larger)}
    begin, end = halves(total, larger)
    readings = {DOWN: (begin, end)}
    if total % 2:
        moved = 1 if larger == "end" else -1
        readings[TOWARDS_ZERO] = (begin + moved, end - moved)
    return readings


def _distinct(readings: dict[str, Pair]) -> dict[str, Pair]:
    """Readings that differ, each under its first name; none where all are the same."""
    first = {pair: name for name, pair in reversed(readings.items())}
    kept = {name: pair for name, pair in readings.items() if first[pair] == name}
    return kept if len(kept) > 1 else {}
