"""Is an exported file valid ONNX, and does it say the right shapes?  Runs where onnx may be imported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from exporters.base import Binding, Exported

Shape = tuple[int | None, ...]
MAX_WORDS = 300


def checked(exported: Exported, *, symbolic: bool) -> Exported:
    """The same with what is wrong with it, and with the shapes that inference finds.

    The checker with its full check, shape inference in strict mode with data propagation, names that are bound but not
    in the graph, and for a ``symbolic`` export an input none of whose sizes is open.
    """
    import onnx

    faults: list[str] = []
    model: Any = onnx.load_model_from_string(exported.model)
    try:
        onnx.checker.check_model(exported.model, full_check=True)
    except Exception as error:
        faults.append(f"onnx.checker: {_line(error)}")
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:
        if not faults:  # the full check infers shapes too
            faults.append(f"strict shape inference: {_line(error)}")
    inputs = {value.name: _shape(value) for value in model.graph.input}
    outputs = {value.name: _shape(value) for value in model.graph.output}
    faults += [f"the file has no input {name}" for name in _absent(exported.inputs, inputs)]
    faults += [f"the file has no output {name}" for name in _absent(exported.outputs, outputs)]
    if symbolic and inputs and not any(size is None for size in (inputs[next(iter(inputs))] or (None,))):
        faults.append("the sizes were asked to be symbolic, and the file fixes them")
    shapes = tuple(outputs.get(binding.name) for binding in exported.outputs)
    return replace(exported, shapes=shapes, faults=tuple(faults))


def _absent(bindings: Iterable[Binding], names: Iterable[str]) -> list[str]:
    known = set(names)
    return [binding.name for binding in bindings if binding.name not in known]


def _shape(value: Any) -> Shape | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= MAX_WORDS else text[: MAX_WORDS - 3] + "..."
