"""A case as an ONNX model of one node, in the words of the case.

What becomes a constant of the graph is up to the caller: a deployed model has its weights inside, and onnxruntime packs
constant weights and picks its blocked kernels only then, so that is what is worth testing; ONNX files end at 2 GiB, so
large weights must be fed.  Sources: ONNX operators Conv-22 and ConvTranspose-22.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from conformance.spec import Convolution
from conformance.targets.base import Unsupported

NEWEST_OPSET = 22
"""The opset that last changed Conv and ConvTranspose."""

OLDEST_OPSET = 11
"""The opset before it that did."""

_OPERATORS = {"conv": "Conv", "conv_transpose": "ConvTranspose"}
_TYPES = {"float16": "FLOAT16", "bfloat16": "BFLOAT16", "float32": "FLOAT", "float64": "DOUBLE"}


def one_node_model(case: Convolution, constants: Mapping[str, np.ndarray], opset: int = NEWEST_OPSET) -> Any:
    """A ``ModelProto`` that computes ``output`` from ``input``, ``weight`` and ``bias``.

    Tensors in ``constants`` become initializers, the others inputs of the graph.  The shape of the output is left open,
    for the runtime to infer.  Raises Unsupported where ONNX cannot say the case.
    """
    from onnx import helper

    operator = _OPERATORS[case.op]
    if case.dtype == "bfloat16" and opset < NEWEST_OPSET:
        raise Unsupported(f"ONNX {operator} has no bfloat16 before opset {NEWEST_OPSET}, this is opset {opset}")
    names = list(case.tensor_shapes)
    node = helper.make_node(operator, names, ["output"], **attributes(case))
    graph = helper.make_graph(
        [node],
        operator,
        [_value(name, case, shape) for name, shape in case.tensor_shapes.items() if name not in constants],
        [_value("output", case, None)],
        [_constant(name, case, constants[name]) for name in names if name in constants],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="deconv-conformance",
    )


def attributes(case: Convolution) -> dict[str, Any]:
    """The node's attributes, as the case spells them.  Raises Unsupported where ONNX cannot."""
    if isinstance(case.padding, str):
        raise Unsupported(f"ONNX has no Keras '{case.padding}'; its auto_pad is another spelling")
    spelled = {
        "kernel_shape": list(case.kernel),
        "strides": list(case.stride),
        "dilations": list(case.dilation),
        "group": case.groups,
    }
    if case.auto_pad is not None:
        spelled["auto_pad"] = case.auto_pad
    if case.output_shape is not None:
        spelled["output_shape"] = list(case.output_shape)
    elif case.auto_pad in (None, "NOTSET"):
        return spelled | _pads(case)
    return spelled | ({} if case.output_padding is None else {"output_padding": list(case.output_padding)})


def _pads(case: Convolution) -> dict[str, Any]:
    """``pads``, all beginnings before all ends, and ``output_padding`` where rows are to be added at the end."""
    if any(axis.begin < 0 for axis in case.axes):
        raise Unsupported(f"ONNX pads are not negative, as the beginning of {case.crop}")
    ends, added = _ends(case)
    pads = {"pads": [axis.begin for axis in case.axes] + ends}
    return pads | ({"output_padding": added} if any(added) or case.output_padding is not None else {})


def _ends(case: Convolution) -> tuple[list[int], list[int]]:
    """The pad at each end and the output_padding: the case's own, or without negative numbers the equivalent."""
    written = [pair[1] for pair in case.padding if isinstance(pair, tuple)]
    added = [end - axis.end if case.transposed else 0 for end, axis in zip(written, case.axes, strict=True)]
    if min(written) >= 0:
        return written, added
    for axis in case.axes:
        limit = max(axis.stride, axis.dilation) if case.transposed else axis.stride
        if -axis.end >= limit:
            raise Unsupported(f"ONNX pads are not negative, as the end of {case.crop}")
    return [max(a.end, 0) for a in case.axes], [max(-a.end, 0) if case.transposed else 0 for a in case.axes]


def _value(name: str, case: Convolution, shape: tuple[int, ...] | None) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, _type(case), shape)


def _constant(name: str, case: Convolution, array: np.ndarray) -> Any:
    from onnx import helper

    return helper.make_tensor(name, _type(case), array.shape, array.tobytes(), raw=True)


def _type(case: Convolution) -> int:
    from onnx import TensorProto

    return int(TensorProto.DataType.Value(_TYPES[case.dtype]))
