"""How the key ``onnx:`` of a case is written, and what of it fits the case."""

from __future__ import annotations

from typing import Any

from conformance.spec.case import Case, Convolution
from conformance.spec.fields import (
    Boolean,
    KeyedError,
    OmittedNames,
    Opset,
    Rows,
    StorageOrder,
    Strict,
    WeightsName,
    pads_per_axis,
)
from conformance.spec.nested import validated
from conformance.spec.onnx_words import (
    BFLOAT16_SINCE,
    DILATIONS_SINCE,
    INDICES_SINCE,
    ONNX_OPERATORS,
    OnnxOperator,
    OnnxWords,
)
from conformance.spec.pooling import MaxPool, MaxUnpool, Pooling

_AT_DEFAULT = {"strides": ("stride", 1), "dilations": ("dilation", 1), "group": ("groups", 1)}


class OnnxEntry(Strict):
    """The words, as they stand in YAML."""

    opset: Opset | None = None
    omit: OmittedNames = ()
    weights: WeightsName = "initializer"
    pads: Rows | None = None
    storage_order: StorageOrder | None = None
    indices: Boolean = True


def onnx_words(entry: Any) -> OnnxWords | None:
    """The words that an entry says.  Raises KeyedError for one that its op does not have."""
    if entry.onnx is None:
        return None
    if (operator := ONNX_OPERATORS.get(entry.op)) is None:
        known = ", ".join(ONNX_OPERATORS)
        raise KeyedError("onnx", f"expected op {known}; {entry.op} is no operator of ONNX")
    written = validated(OnnxEntry, entry.onnx, "onnx", "")
    for word in written.model_fields_set:
        if word not in operator.words:
            raise KeyedError(f"onnx.{word}", f"no word of {entry.op}; expected {', '.join(operator.words)}")
    values = written.model_dump()
    if written.pads is not None:
        values["pads"] = pads_per_axis(written.pads, len(entry.input), "onnx.pads")
    return OnnxWords(**values)


def check_words(case: Case) -> None:
    """Raise KeyedError where a case cannot be said in its words."""
    if (words := case.onnx) is None:
        return
    operator = ONNX_OPERATORS[case.op]
    _check_opset(case, words, operator)
    for name in words.omit:
        _check_omitted(case, name, operator)
    if words.pads is not None:
        _check_pads(case, words.pads)
    if isinstance(case, MaxPool) and case.magnitude:
        raise KeyedError("magnitude", "expected none beside onnx: MaxPool takes the largest value")
    if isinstance(case, MaxUnpool) and case.overlap != "assign":
        raise KeyedError("overlap", f"expected assign, as ONNX's MaxUnpool does, got {case.overlap}")


def _check_opset(case: Case, words: OnnxWords, operator: OnnxOperator) -> None:
    if words.opset is None:
        return
    for since, what in _needed(case, words, operator):
        if words.opset < since:
            raise KeyedError("onnx.opset", f"expected at least {since}, the first with {what}, got {words.opset}")


def _needed(case: Case, words: OnnxWords, operator: OnnxOperator) -> list[tuple[int, str]]:
    """What a case makes use of, and since which opset that is there."""
    needed = [(operator.since, operator.name)]
    if case.dtype == "bfloat16":
        needed.append((BFLOAT16_SINCE, f"{operator.name} in bfloat16"))
    if isinstance(case, MaxPool):
        dilated = any(axis.dilation > 1 for axis in case.axes)
        needed += [(DILATIONS_SINCE, "dilations of MaxPool")] * dilated
        needed += [(DILATIONS_SINCE, "ceil_mode of MaxPool")] * case.ceil_mode
        needed += [(INDICES_SINCE, "indices of MaxPool (indices: false asks for none)")] * words.indices
        needed += [(INDICES_SINCE, "storage_order of MaxPool")] * (words.storage_order is not None)
    return needed


def _check_omitted(case: Case, name: str, operator: OnnxOperator) -> None:
    if name not in operator.optional:
        raise KeyedError("onnx.omit", f"expected some of {', '.join(operator.optional)} for {case.op}, got {name}")
    assert isinstance(case, Convolution | Pooling)
    if name in _AT_DEFAULT:
        key, default = _AT_DEFAULT[name]
        value: Any = getattr(case, key)
        if value not in (default, (default,) * case.rank):
            raise KeyedError(key, f"expected {default}, the default of {name} that are left out")
    if name == "pads" and any(pair != (0, 0) for pair in case.padding):
        raise KeyedError("padding", "expected 0, the default of pads that are left out")


def _check_pads(case: Case, pads: tuple[tuple[int, int], ...]) -> None:
    settled = getattr(case, "auto_pad", None) not in (None, "NOTSET") or getattr(case, "output_shape", None) is not None
    if not settled:
        raise KeyedError("onnx.pads", "expected them only beside auto_pad or output_shape; padding says the others")
    if min(map(min, pads)) < 0:
        raise KeyedError("onnx.pads", "expected no negative pads")
