"""What tf2onnx and Keras's export make of a case, run by onnxruntime and judged against the oracle.

A process has one Keras backend; here it is TensorFlow, and one test exports on PyTorch in a process of its own.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from walkers import ADAPTIVE, BLOCK, NETS, make_case

from conformance.execution import find_targets
from conformance.execution.registry import EXPORTERS
from conformance.execution.worker import make
from conformance.outcome import Outcome
from conformance.problem import pose
from conformance.spec import Case
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.onnx_reference import OnnxReference
from conformance.targets.onnxruntime_target import OnnxRuntime
from conformance.verdict import Judgement, judge
from exporters.base import Exported
from exporters.check import checked
from exporters.tensorflow_sizes import fed_shapes

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("tensorflow", reason="tensorflow is not installed")
pytest.importorskip("tf2onnx", reason="tf2onnx is not installed")
tf2onnx_words = pytest.importorskip("exporters.tf2onnx_words")

TF2ONNX = ("tf2onnx", "tf2onnx-symbolic")
KERAS = ("keras-export", "keras-export-symbolic")
NAMES = (*TF2ONNX, *KERAS)

CONV: dict[str, Any] = {"in_channels": 4, "out_channels": 2, "batch": 2, "bias": True}
POOL: dict[str, Any] = {"channels": 2, "batch": 3}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "conv-line": ("conv", CONV | {"input": [9], "kernel": 3, "stride": 2}),
    "conv-plane": ("conv", CONV | {"input": [9, 8], "kernel": [3, 2], "dilation": [2, 1]}),
    "conv-same": ("conv", CONV | {"input": [6, 7], "kernel": [4, 3], "stride": [1, 2], "padding": "same"}),
    "conv-volume": ("conv", CONV | {"input": [4, 5, 3], "kernel": 2, "bias": False}),
    "transposed-line": ("conv_transpose", CONV | {"input": [5], "kernel": 3, "stride": 2, "padding": "same"}),
    "transposed-plane": ("conv_transpose", CONV | {"input": [3, 4], "kernel": [3, 4], "stride": [2, 3]}),
    "transposed-even": ("conv_transpose", CONV | {"input": [4, 3], "kernel": 4, "stride": 2, "padding": "same"}),
    "transposed-volume": ("conv_transpose", CONV | {"input": [2, 3, 2], "kernel": 2, "bias": False}),
    "fused": (
        "conv_block",
        CONV | {"input": [6, 5], "kernel": 3, "pad": 1, "batch_norm": True, "rectify": "signal", "then": {"kernel": 2}},
    ),
    "unpool-assigning": ("max_unpool", POOL | {"input": [2, 3], "kernel": 2, "overlap": "assign"}),
    # what only TensorFlow says
    "conv-groups": ("conv", CONV | {"input": [7, 6], "kernel": 3, "padding": [[2, 1], [0, 1]], "groups": 2}),
    "transposed-padded": ("conv_transpose", CONV | {"input": [4, 5], "kernel": 3, "stride": 2, "padding": 1}),
    "gradient-plane": ("conv_input_gradient", CONV | {"input": [9, 7], "kernel": 3, "stride": 2, "bias": False}),
    "gradient-volume": ("conv_input_gradient", CONV | {"input": [4, 5, 3], "kernel": 2, "bias": False}),
    "pool-line": ("max_pool", POOL | {"input": [9], "kernel": 3, "stride": 2, "padding": 1}),
    "pool-plane": ("max_pool", POOL | {"input": [7, 8], "kernel": [3, 2], "stride": 2}),
    "pool-same": ("max_pool", POOL | {"input": [6, 7], "kernel": 2, "stride": 2, "padding": "same"}),
    "pool-volume": ("max_pool", POOL | {"input": [4, 6, 4], "kernel": 2, "magnitude": True}),
    "unpool-volume": ("max_unpool", POOL | {"input": [2, 3, 2], "kernel": 2}),
    "block": ("deconv_block", BLOCK | {"pool": {"kernel": 2, "stride": 2}}),
    "net": ("deconvnet", NETS["B"] | {"batch": 2}),
    "adaptive-down": (
        "adaptive_deconv",
        ADAPTIVE
        | {
            "direction": "reconstruct",
            "layers": [{"maps": 5, "kernel": 3, "pool": [2, 3, 3]}, {"maps": 3, "kernel": 2}],
        },
    ),
    "adaptive-up": ("adaptive_deconv", ADAPTIVE | {"direction": "project"}),
}
OF_KERAS = tuple(CASES)[:10]


@functools.cache
def exporter(name: str) -> Any:
    if name.startswith("keras"):
        pytest.importorskip("keras", reason="keras is not installed")
    return make(next(spec for spec in EXPORTERS if spec.name == name), threads=1)


def case_of(name: str, **change: Any) -> Case:
    op, keys = CASES[name]
    case: Case = make_case(op, **(keys | change))
    return case


def exported(name: str, case: Case, kind: str = "exact") -> tuple[Exported, Tensors]:
    """The checked file, and what the case is fed."""
    maker, tensors = exporter(name), pose(case, kind).parts[0][1]
    return checked(maker.export(case, tensors), symbolic=maker.symbolic), tensors


@functools.cache
def file_of(name: str, case: str) -> tuple[Exported, Tensors]:
    """The same for one of the cases above."""
    return exported(name, case_of(case), kind_of(case))


def kind_of(case: str) -> str:
    return "rounding" if case in ("fused", "net") else "exact"


def run(case: Case, kind: str, file: Exported, tensors: Tensors) -> Judgement:
    """The verdict on a file that onnxruntime runs."""
    values = OnnxRuntime().run_model(file.model, file.feeds(tensors))
    outcome = Outcome("returned", file.results(values), faults=(*file.faults, *file.misinferred(values)))
    return judge(pose(case, kind), outcome, "native+bias")


def reason(name: str, case: Case) -> str:
    """Why the exporter declines the case."""
    with pytest.raises(Unsupported) as caught:
        exported(name, case)
    return str(caught.value)


def sizes_in(model: bytes) -> dict[str, list[int]]:
    """The sizes of inputs and outputs as the file has them, 0 where they are open."""
    graph = onnx.load_model_from_string(model).graph
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.input, *graph.output)}


# ---- Right ----


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for name in NAMES for case in (CASES if name in TF2ONNX else OF_KERAS)],
)
def test_an_exported_case_computes_what_the_oracle_does(name: str, case: str) -> None:
    judgement = run(case_of(case), kind_of(case), *file_of(name, case))
    assert judgement.passed, judgement
    assert kind_of(case) == "rounding" or judgement.verdict == "exact"


@pytest.mark.parametrize("case", ["conv-plane", "transposed-even", "pool-plane", "unpool-volume"])
def test_half_precision_stays_what_it_is(case: str) -> None:
    made = case_of(case, dtype="float16")
    file, tensors = exported("tf2onnx", made)
    results = OnnxRuntime().run_model(file.model, file.feeds(tensors))
    assert {array.dtype for array in results} <= {np.dtype(np.float16), np.dtype(np.int64)}
    assert run(made, "exact", file, tensors).verdict == "exact"


def test_double_precision_stays_what_it_is() -> None:
    case = case_of("transposed-plane", dtype="float64")
    file, tensors = exported("tf2onnx", case, "rounding")
    outcome = Outcome("returned", file.results(OnnxReference().run_model(file.model, file.feeds(tensors))))
    assert judge(pose(case, "rounding"), outcome, "native+bias").passed


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_in_the_file_and_only_results_come_out(name: str) -> None:
    file, _ = file_of(name, "fused")
    assert [binding.tensor for binding in file.inputs] == ["input"]
    assert [binding.tensor for binding in file.outputs] == ["output"]
    assert len(sizes_in(file.model)) == 2


def test_indices_come_out_with_the_values() -> None:
    file, tensors = file_of("tf2onnx", "pool-plane")
    results = file.results(OnnxRuntime().run_model(file.model, file.feeds(tensors)))
    planes = tensors["input"].reshape(3, 2, -1)
    picked = np.take_along_axis(planes, results["indices"].reshape(3, 2, -1), axis=2)
    np.testing.assert_array_equal(picked, results["output"].reshape(3, 2, -1))


def test_outputs_with_names_of_the_exporters_own_keep_their_order() -> None:
    module = pytest.importorskip("exporters.keras_export", reason="keras is not installed")
    x, first, second = (onnx.helper.make_tensor_value_info(name, 1, [2]) for name in ("a_b", "Identity_1", "Identity"))
    nodes = [onnx.helper.make_node("Neg", ["a_b"], [name]) for name in ("Identity_1", "Identity")]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [x], [first, second]))
    inputs, outputs = module._bindings(model.SerializeToString(), ["a.b", "c"], ["output", "indices"])
    assert [(b.name, b.tensor) for b in inputs] == [("a_b", "a.b")]
    assert [(b.name, b.tensor) for b in outputs] == [("Identity_1", "output"), ("Identity", "indices")]


# ---- Sizes ----


@pytest.mark.parametrize("name", ["tf2onnx", "keras-export"])
@pytest.mark.parametrize("case", ["conv-plane", "transposed-volume", "fused"])
def test_a_file_of_fixed_sizes_says_all_of_them_channels_last(name: str, case: str) -> None:
    made, (file, _) = case_of(case), file_of(name, case)
    sizes = sizes_in(file.model)
    for binding, (count, channels, *size) in (
        *((b, made.tensor_shapes[b.tensor]) for b in file.inputs),
        *((b, made.result_shapes[b.tensor]) for b in file.outputs),
    ):
        assert sizes[binding.name] == [count, *size, channels]


@pytest.mark.parametrize(
    ("name", "case", "open_axes"),
    [
        ("tf2onnx-symbolic", "conv-line", {0, 1}),
        ("tf2onnx-symbolic", "transposed-volume", {0, 1, 2, 3}),
        ("tf2onnx-symbolic", "pool-plane", {0, 1, 2}),
        ("tf2onnx-symbolic", "pool-volume", {0}),
        ("tf2onnx-symbolic", "gradient-volume", {0}),
        ("tf2onnx-symbolic", "block", {0}),
        ("keras-export-symbolic", "transposed-plane", {0, 1, 2}),
        ("keras-export-symbolic", "unpool-assigning", {0}),
    ],
)
def test_a_symbolic_file_leaves_sizes_open(name: str, case: str, open_axes: set[int]) -> None:
    file, _ = file_of(name, case)
    sizes = {name: {n for n, size in enumerate(each) if not size} for name, each in sizes_in(file.model).items()}
    assert all(sizes[binding.name] == open_axes for binding in file.inputs)


def test_pooling_is_open_where_there_is_an_operator_for_its_switches() -> None:
    plane, dilated = case_of("pool-plane"), make_case("max_pool", input=[9], kernel=2, dilation=2)
    assert fed_shapes(plane, symbolic=True, has_switches=True) == {"input": (None, None, None, 2)}
    assert fed_shapes(plane, symbolic=True, has_switches=False) == {"input": (None, 7, 8, 2)}
    assert fed_shapes(dilated, symbolic=True, has_switches=True) == {"input": (None, 9, 1)}


@pytest.mark.parametrize(
    ("name", "case", "change"),
    [
        ("tf2onnx-symbolic", "conv-same", {"input": [9, 4], "batch": 3}),
        ("tf2onnx-symbolic", "transposed-even", {"input": [2, 7], "batch": 1}),
        ("tf2onnx-symbolic", "transposed-volume", {"input": [3, 1, 4], "batch": 1}),
        ("tf2onnx-symbolic", "pool-plane", {"input": [9, 3], "batch": 1}),
        ("tf2onnx-symbolic", "block", {"batch": 5}),
        ("tf2onnx-symbolic", "adaptive-up", {"batch": 1}),
        ("keras-export-symbolic", "conv-line", {"input": [20], "batch": 1}),
        ("keras-export-symbolic", "transposed-even", {"input": [2, 7], "batch": 1}),
        ("keras-export-symbolic", "unpool-assigning", {"batch": 5}),
    ],
)
def test_one_symbolic_file_serves_every_size(name: str, case: str, change: dict[str, Any]) -> None:
    other = case_of(case, **change)
    problem = pose(other, "exact")
    tensors = problem.parts[0][1]
    file = exporter(name).export(case_of(case), tensors)  # those weights, and the sizes of the first case
    assert run(other, "exact", file, tensors).verdict == "exact"


# ---- Wrong ----


def edited(file: Exported, edit: Callable[[Any], None]) -> Exported:
    model = onnx.load_model_from_string(file.model)
    edit(model.graph)
    return Exported(model.SerializeToString(), file.inputs, file.outputs)


def flipped(graph: Any) -> None:
    """Every kernel turned round."""
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim > 2:
            turned = np.ascontiguousarray(array[..., ::-1])
            tensor.CopyFrom(onnx.numpy_helper.from_array(turned, tensor.name))


def without_bias(graph: Any) -> None:
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim == 1:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(array), tensor.name))


def doubled_stride(graph: Any) -> None:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "strides":
                attribute.ints[:] = [2 * stride for stride in attribute.ints]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["conv-same", "transposed-plane"])
@pytest.mark.parametrize("edit", [flipped, without_bias])
def test_a_wrong_file_is_seen(name: str, case: str, edit: Callable[[Any], None]) -> None:
    file, tensors = file_of(name, case)
    assert run(case_of(case), "exact", edited(file, edit), tensors).verdict == "deviates"


def test_a_file_of_another_geometry_is_seen() -> None:
    file, tensors = file_of("keras-export-symbolic", "conv-plane")
    assert run(case_of("conv-plane"), "exact", edited(file, doubled_stride), tensors).verdict == "wrong_shape"


def test_a_binding_that_leaves_the_channels_where_they_are_is_seen() -> None:
    case = make_case("conv", in_channels=4, out_channels=3, input=[4, 4], kernel=2)
    file, tensors = exported("tf2onnx", case)
    outputs = tuple(type(binding)(binding.name, binding.tensor) for binding in file.outputs)
    assert run(case, "exact", Exported(file.model, file.inputs, outputs), tensors).verdict == "deviates"


# ---- Declined, and failed ----


@pytest.mark.parametrize(
    ("name", "case", "words"),
    [
        ("tf2onnx", make_case("conv", input=[5], kernel=2, auto_pad="SAME_LOWER"), "tensorflow has no auto_pad"),
        ("tf2onnx", make_case("max_pool", input=[5], kernel=2, auto_pad="VALID"), "tensorflow has no auto_pad"),
        ("tf2onnx", make_case("conv", input=[5], kernel=2, padding=1), "1-D convolutions pad by SAME or VALID only"),
        ("tf2onnx", make_case("conv", input=[5], kernel=2, dtype="bfloat16"), "tf2onnx has no bfloat16"),
        (
            "tf2onnx",
            make_case("max_pool", input=[3, 3, 3], kernel=2, dtype="float64"),
            "tensorflow has no kernel for float64",
        ),
        (
            "tf2onnx",
            make_case("deconvnet", **NETS["E"], lrn_down="gradient"),
            "tf2onnx has no mapping for LRNGrad",
        ),
        ("tf2onnx-symbolic", make_case("conv_input_gradient", input=[5], kernel=2), "has no mapping for ShapeN"),
        ("keras-export", make_case("conv", input=[5], kernel=2, dtype="float16"), "dtype float32 only"),
        ("keras-export", make_case("conv", input=[5], kernel=2, padding=1), "keras pads by same or valid only"),
        ("keras-export", make_case("conv_input_gradient", input=[5], kernel=2), "keras has no conv_input_gradient"),
        ("keras-export", make_case("max_pool", input=[9], kernel=2, dilation=2), "keras's max pooling has no dilation"),
        ("keras-export", make_case("max_pool", input=[4], kernel=2), "tf2onnx has no mapping for Bitcast"),
        ("keras-export", make_case("max_pool", input=[5], kernel=2, auto_pad="VALID"), "keras has no auto_pad"),
    ],
)
def test_the_reason_of_a_refusal_is_told(name: str, case: Case, words: str) -> None:
    told = reason(name, case)
    assert words in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("name", "words"), [("tf2onnx", "has no mapping for ShapeN"), ("keras-export", "keras has no deconvnet_gradient")]
)
def test_the_gradient_of_a_network_is_not_taken_for_its_deconvnet(name: str, words: str) -> None:
    case = make_case("deconvnet", **NETS["A"])
    tensors = pose(case, "exact").parts[0][1]
    with pytest.raises(Unsupported, match=words):
        exporter(name).export(replace(case, op="deconvnet_gradient"), tensors)


LOGGER = logging.getLogger("tf2onnx")


def converted(*said: tuple[Any, ...], error: Exception | None = None, **more: Any) -> None:
    """A conversion during which tf2onnx logs these errors, and raises one."""
    with tf2onnx_words.conversion():
        for message in said:
            LOGGER.error(*message, **more)
        if error is not None:
            raise error


def test_operators_without_a_mapping_are_told_by_name() -> None:
    unmapped = "Tensorflow op [%s: %s] is not supported"
    with pytest.raises(Unsupported) as caught:
        converted((unmapped, "a/b: c", "Second"), (unmapped, "d", "First"), error=ValueError("no order"))
    assert str(caught.value) == "tf2onnx has no mapping for First, Second"


def test_an_operator_that_fails_to_convert_is_an_error_with_its_cause() -> None:
    cause = ValueError("sizes differ")
    with pytest.raises(tf2onnx_words.ConversionFailed, match=r"'up'.*: sizes differ$") as caught:
        converted(("Failed to convert node %r (fct=%r)\n%r", "up", "f", "a summary"), exc_info=cause)
    assert caught.value.__cause__ is cause


def test_other_errors_are_left_as_they_are_and_the_logger_too() -> None:
    before = LOGGER.level, LOGGER.propagate, list(LOGGER.handlers)
    with pytest.raises(KeyError):
        converted(("rewriter %s: exception %s", "f", "e"), error=KeyError("x"))
    converted(("Failed to apply an optimizer",))
    assert (LOGGER.level, LOGGER.propagate, LOGGER.handlers) == before


# ---- What an exporter says of itself ----


@pytest.mark.parametrize("name", NAMES)
def test_an_exporter_is_what_its_entry_says(name: str) -> None:
    (spec,) = find_targets([f"{name}:onnxruntime"])
    assert spec.exporter is not None
    assert spec.exporter.framework == name.removesuffix("-symbolic")
    assert exporter(name).name == name
    assert exporter(name).symbolic == name.endswith("symbolic")
    assert exporter(name).arithmetic == spec.exporter.arithmetic == "native+bias"
    said = exporter(name).environment()
    assert {package: said[package] for package in spec.exporter.requires} == spec.exporter.versions


ON_TORCH = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from walkers import make_case
from conformance.outcome import Outcome
from conformance.problem import pose
from conformance.targets.onnxruntime_target import OnnxRuntime
from conformance.verdict import judge
from exporters.keras_export import KerasExport
case = make_case("conv_transpose", batch=2, in_channels=2, out_channels=3, bias=True, input=[3, 4], kernel=3, stride=2)
problem = pose(case, "exact")
tensors = problem.parts[0][1]
file = KerasExport(backend="torch").export(case, tensors)
values = OnnxRuntime().run_model(file.model, file.feeds(tensors))
print(judge(problem, Outcome("returned", file.results(values)), "native+bias").verdict, "torch" in sys.modules)
"""


def test_keras_exports_on_pytorch_too() -> None:
    for package in ("torch", "keras", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    command = [sys.executable, "-W", "ignore", "-c", ON_TORCH, json.dumps(sys.path)]
    done = subprocess.run(command, env=os.environ | {"KERAS_BACKEND": "torch"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "exact True"
