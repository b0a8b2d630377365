"""Pooling and unpooling in ONNX's words.  Sources: MaxPool-1, -8, -10, -11, -12 and -22, MaxUnpool-9 and -22."""

from __future__ import annotations

from typing import Any

from conformance.spec import MaxPool, MaxUnpool, Pooling
from conformance.spec.onnx_words import DILATIONS_SINCE, INDICES_SINCE
from conformance.targets.base import Unsupported
from conformance.targets.onnx_graph import NEWEST_OPSET, worded

_AUTO_PADS = {"same": "SAME_UPPER", "valid": "VALID"}


def pool_attributes(step: MaxPool, opset: int = NEWEST_OPSET) -> dict[str, Any]:
    """MaxPool's attributes.  Raises Unsupported for those that the opset does not have.

    SAME_UPPER is TensorFlow's ``same``, an odd row at the end, where there are rows to add.  Where windows leave rows
    out, ONNX's formula makes the pads negative, and numbers say what ``same`` is.
    """
    spelled = {"kernel_shape": list(step.kernel), "strides": list(step.stride)} | _later_attributes(step, opset)
    if step.auto_pad is not None:
        spelled["auto_pad"] = step.auto_pad
    if step.auto_pad not in (None, "NOTSET"):
        return worded(spelled, step.onnx)
    if step.padding == "valid" or (step.padding == "same" and all(axis.full >= axis.large for axis in step.axes)):
        return spelled | {"auto_pad": _AUTO_PADS[step.padding]}
    return worded(spelled | {"pads": [pair[end] for end in (0, 1) for pair in _pads(step)]}, step.onnx)


def _later_attributes(step: MaxPool, opset: int) -> dict[str, Any]:
    """What MaxPool got in opsets 8 and 10."""
    if opset < INDICES_SINCE and step.tells_switches:
        raise Unsupported(f"ONNX MaxPool has no indices before opset {INDICES_SINCE}, this is opset {opset}")
    order = None if step.onnx is None else step.onnx.storage_order
    spelled: dict[str, Any] = {} if order is None else {"storage_order": order}
    if opset >= DILATIONS_SINCE:
        return spelled | {"dilations": list(step.dilation), "ceil_mode": int(step.ceil_mode)}
    if step.ceil_mode or max(step.dilation) > 1:
        said = "ceil_mode" if step.ceil_mode else "dilations"
        raise Unsupported(f"ONNX MaxPool has no {said} before opset {DILATIONS_SINCE}, this is opset {opset}")
    return spelled


def unpool_attributes(step: MaxUnpool) -> tuple[dict[str, Any], bool]:
    """MaxUnpool's attributes, and whether an ``output_shape`` must say the size, because it is another than theirs.

    Runtimes take no ``output_shape`` that is smaller, so ``pads`` crop more at the end then, unless the case is about
    ``output_shape`` itself.  MaxUnpool has no dilations; its windows only make the size, and a dilated one makes that
    of its extent.
    """
    spelled = {"kernel_shape": [axis.extent for axis in step.axes], "strides": list(step.stride)}
    if step.output_shape is not None:
        return worded(spelled | {"pads": [pair[end] for end in (0, 1) for pair in _pads(step)]}, step.onnx), True
    ends = [max(pair[1], axis.end) for pair, axis in zip(_pads(step), step.axes, strict=True)]
    spelled["pads"] = [axis.begin for axis in step.axes] + ends
    return worded(spelled, step.onnx), any(axis.end < end for axis, end in zip(step.axes, ends, strict=True))


def _pads(step: Pooling) -> tuple[tuple[int, int], ...]:
    if isinstance(step.padding, tuple):
        return step.padding
    return tuple((axis.begin, max(axis.end, 0)) for axis in step.axes)
