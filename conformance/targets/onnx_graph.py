"""ONNX graphs in the words of a case: graphs under construction, and the model of one node that is a convolution.

What becomes a constant of the graph is up to the caller: a deployed model has its weights inside, and onnxruntime packs
constant weights and picks its blocked kernels only then, so that is what is worth testing; ONNX files end at 2 GiB, so
large weights must be fed.  Sources: ONNX operators Conv-22 and ConvTranspose-22.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from conformance.arithmetic import Axis
from conformance.spec import Convolution, OnnxWords, is_index, is_parameter
from conformance.spec.onnx_words import BFLOAT16_SINCE
from conformance.targets.base import Unsupported

NEWEST_OPSET = 22
"""The opset that last changed Conv and ConvTranspose, and with them MaxPool and MaxUnpool."""

OLDEST_OPSET = 11
"""The opset before it that changed Conv and ConvTranspose."""

_PROBE = Convolution(id="probe/opset", op="conv_transpose", axes=(Axis(large=2, small=2, kernel=1),), padding=((0, 0),))

OPERATORS = {"conv": "Conv", "conv_transpose": "ConvTranspose"}
OLDEST_IR = 4
"""The version of the file format that first lets a constant be no input of the graph as well."""

_TYPES = {"float16": "FLOAT16", "bfloat16": "BFLOAT16", "float32": "FLOAT", "float64": "DOUBLE", "int64": "INT64"}


class Graph:
    """An ONNX graph under construction.  Values go by name; the floating-point ones that come out have one dtype."""

    def __init__(self, dtype: str, opset: int) -> None:
        self.dtype, self.opset = dtype, opset
        self._nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = []
        self._inputs: list[Any] = []
        self._constants: list[Any] = []
        self._given: set[str] = set()

    def input(self, name: str, shape: Sequence[int]) -> str:
        """A value that is fed."""
        self._given.add(name)
        self._inputs.append(_value(name, "int64" if is_index(name) else self.dtype, shape))
        return name

    def constant(self, array: np.ndarray, name: str | None = None, *, overridable: bool = False) -> str:
        """A value that is part of the model, named by its number unless it has a name.

        An ``overridable`` one is an input as well: a runtime must not count on its value, but need not be fed it.
        """
        name = name or f"constant:{len(self._constants)}"
        self._given.add(name)
        self._constants.append(_tensor(name, array))
        if overridable:
            self._inputs.append(_value(name, array.dtype.name, array.shape))
        return name

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """What a node with one output gives."""
        return self.nodes(operator, inputs, 1, **attributes)[0]

    def nodes(self, operator: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """What a node with several outputs gives."""
        given = [f"{operator}:{len(self._nodes)}.{n}" for n in range(outputs)]
        self._nodes.append((operator, list(inputs), given, attributes))
        return given

    def model(self, results: Mapping[str, str], ranks: Mapping[str, int] | None = None) -> Any:
        """The ``ModelProto`` that gives these values under the names of the results.

        Sizes of the results are left open, for the runtime to infer; onnx's checker asks for their ranks at least.
        """
        from onnx import defs, helper

        if self.opset > (newest := defs.onnx_opset_version()):
            raise Unsupported(f"the newest opset that onnx knows is {newest}, this is opset {self.opset}")
        names: dict[str, str] = {}
        for result, value in results.items():  # a value has one name, and what is fed keeps its own
            alone = value not in self._given and value not in names
            names[value if alone else self.node("Identity", [value])] = result
        made = [
            helper.make_node(
                operator, [names.get(i, i) for i in inputs], [names.get(o, o) for o in outputs], **attributes
            )
            for operator, inputs, outputs, attributes in self._nodes
        ]
        shapes = {name: [None] * rank for name, rank in (ranks or {}).items()}
        outputs = [_value(name, "int64" if is_index(name) else self.dtype, shapes.get(name)) for name in results]
        graph = helper.make_graph(made, "case", self._inputs, outputs, self._constants)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=_ir_version(helper, opsets),
            producer_name="deconv-conformance",
        )


def _ir_version(helper: Any, opsets: Any) -> int:
    """The version of the file format that has these opsets; not every old opset was in a release of its own."""
    try:
        return max(int(helper.find_min_ir_version_for(opsets)), OLDEST_IR)
    except ValueError:
        return OLDEST_IR


def one_node_model(case: Convolution, constants: Mapping[str, np.ndarray], opset: int = NEWEST_OPSET) -> Any:
    """A ``ModelProto`` that computes ``output`` from ``input``, ``weight`` and ``bias``.

    Tensors in ``constants`` become initializers, the others inputs of the graph.  Sizes of the output are left open,
    for the runtime to infer.  The opset that a case asks for comes before ``opset``.  Raises Unsupported where ONNX
    cannot say the case.
    """
    operator, opset = OPERATORS[case.op], case.opset or opset
    check_dtype(case.dtype, operator, opset)
    graph = Graph(case.dtype, opset)
    overridable = case.onnx is not None and case.onnx.weights == "overridable"
    for name, shape in case.tensor_shapes.items():
        if name in constants:
            graph.constant(constants[name], name, overridable=overridable)
        else:
            graph.input(name, shape)
    output = graph.node(operator, list(case.tensor_shapes), **attributes(case))
    return graph.model({"output": output}, {"output": 2 + case.rank})


def constants_of(case: Convolution, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors that become part of the model: weight and bias, unless the case wants them fed."""
    if case.onnx is not None and case.onnx.weights == "input":
        return {}
    return {name: array for name, array in tensors.items() if is_parameter(name)}


def check_dtype(dtype: str, operator: str, opset: int) -> None:
    """Raise Unsupported where an operator does not yet take the dtype."""
    if dtype == "bfloat16" and opset < BFLOAT16_SINCE:
        raise Unsupported(f"ONNX {operator} has no bfloat16 before opset {BFLOAT16_SINCE}, this is opset {opset}")


def worded(attributes: dict[str, Any], words: OnnxWords | None) -> dict[str, Any]:
    """A node's attributes as the words of a case want them written."""
    if words is None:
        return attributes
    if words.pads is not None:
        attributes = attributes | {"pads": [pair[end] for end in (0, 1) for pair in words.pads]}
    return {name: value for name, value in attributes.items() if name not in words.omit}


def attributes(case: Convolution) -> dict[str, Any]:
    """The node's attributes, as the case spells them.  Raises Unsupported where ONNX cannot."""
    return worded(_attributes(case), case.onnx)


def _attributes(case: Convolution) -> dict[str, Any]:
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


def _value(name: str, dtype: str, shape: Sequence[int | None] | None) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, _type(dtype), shape)


def _tensor(name: str, array: np.ndarray) -> Any:
    from onnx import helper

    return helper.make_tensor(name, _type(array.dtype.name), array.shape, array.tobytes(), raw=True)


def _type(dtype: str) -> int:
    from onnx import TensorProto

    return int(TensorProto.DataType.Value(_TYPES[dtype]))


def newest_opset(limit: int, run: Callable[[bytes], object]) -> int | None:
    """The newest opset of which ``run`` takes a ConvTranspose, from ``limit`` down; None if there is none.

    Older releases refuse newer opsets, or load them and lack the operator.
    """
    weight = {"weight": np.ones(_PROBE.weight_shape, np.float32)}
    for opset in range(min(NEWEST_OPSET, limit), OLDEST_OPSET - 1, -1):
        with contextlib.suppress(Exception):
            run(one_node_model(_PROBE, weight, opset).SerializeToString())
            return opset
    return None
