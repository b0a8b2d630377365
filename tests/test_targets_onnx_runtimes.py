"""OpenVINO, onnx2torch and LiteRT, judged against the oracle; each test skips where its package is absent."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from definition import make
from walkers import BLOCK, make_case

from conformance.outcome import Outcome
from conformance.problem import pose
from conformance.spec import Case
from conformance.targets import onnx2torch_target, openvino_target
from conformance.targets.base import Unsupported
from conformance.targets.litert_target import LiteRt
from conformance.targets.one_stage import stage_by_stage
from conformance.targets.onnx2torch_target import Onnx2Torch
from conformance.targets.onnx_graph import one_node_model
from conformance.targets.openvino_target import OpenVino
from conformance.verdict import Judgement, judge, judge_parts

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
PASSED = {"exact", "within_bound"}
CLASSES = {"openvino": OpenVino, "onnx2torch": Onnx2Torch, "litert": LiteRt}
PACKAGES = {
    "openvino": ("openvino", "onnx"),
    "onnx2torch": ("onnx2torch", "onnx"),
    "litert": ("ai_edge_litert", "tensorflow"),
}


@functools.cache
def import_onnx2torch() -> None:
    """With a stand-in for a torchvision that was built for another torch: it is needed for two operators only."""
    stand_ins = {name: types.ModuleType(name) for name in ("torchvision", "torchvision.ops")}
    stand_ins["torchvision.ops"].roi_align = None  # type: ignore[attr-defined]
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        sys.modules.update(stand_ins)
    importlib.import_module("onnx2torch")
    for name, module in stand_ins.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]


@functools.cache
def target(name: str) -> Any:
    for package in PACKAGES[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    if name == "onnx2torch":
        import_onnx2torch()
    return CLASSES[name]()


def verdict(name: str, case: Case, data: str = "exact") -> Judgement:
    """What a target's result is worth; a refusal is raised."""
    problem = pose(case, data)
    ((case, tensors),) = problem.parts
    return judge(problem, Outcome("returned", target(name).run(case, tensors)), target(name).arithmetic)


def reason(name: str, case: Case) -> str:
    with pytest.raises(Unsupported) as caught:
        verdict(name, case)
    return str(caught.value)


# ---- What all three compute ----

COMPUTED: dict[str, Case] = {
    "conv-1d": make(op="conv", input=[7], kernel=3, stride=2, in_channels=2, out_channels=3, bias=True, batch=2),
    "conv-2d": make(op="conv", input=[6, 5], kernel=[3, 2], stride=[1, 2], out_channels=2, bias=True),
    "conv-3d": make(op="conv", input=[3, 4, 5], kernel=[1, 2, 3], stride=[1, 1, 2], in_channels=2, bias=True),
    "conv-grouped": make(op="conv", input=[4, 5], kernel=[2, 3], in_channels=4, out_channels=6, groups=2),
    "conv-dilated": make(op="conv", input=[7, 6], kernel=[2, 3], dilation=[3, 2], in_channels=2),
    "up-1d": make(input=[4], kernel=3, stride=2, in_channels=3, out_channels=2, bias=True, batch=2),
    "up-2d": make(input=[3, 4], kernel=[3, 2], stride=[1, 2], in_channels=3, out_channels=2, bias=True),
    "up-3d": make(input=[2, 1, 3], kernel=[1, 2, 3], stride=[2, 1, 2], in_channels=2, out_channels=3),
    "up-many-products": make(input=[5, 5], kernel=4, stride=2, in_channels=64, out_channels=3, bias=True),
}
on_all = pytest.mark.parametrize("name", CLASSES)


@on_all
@pytest.mark.parametrize("case_name", COMPUTED)
def test_a_convolution_is_exact_where_it_need_not_round_and_within_the_bound_where_it_must(
    name: str, case_name: str
) -> None:
    assert verdict(name, COMPUTED[case_name]).verdict == "exact"
    assert verdict(name, COMPUTED[case_name], "rounding").verdict in PASSED


@on_all
def test_the_same_case_again_with_other_numbers_gives_other_results(name: str) -> None:
    """Models stay ready between calls, and results of one call are not overwritten by the next."""
    case = COMPUTED["up-2d"]
    given = []
    for seed in (1, 2, 1):
        ((case, tensors),) = pose(case, "exact", seed).parts
        weights = pose(case, "exact", 1).parts[0][1]
        given.append(target(name).run(case, {**weights, "input": tensors["input"]})["output"])
    first, second, again = given
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)


@on_all
def test_inputs_may_be_read_only_and_stay_as_they_are(name: str) -> None:
    ((case, tensors),) = pose(COMPUTED["up-2d"], "exact").parts
    before = {key: array.copy() for key, array in tensors.items()}
    for array in tensors.values():
        array.setflags(write=False)
    target(name).run(case, tensors)
    assert all(np.array_equal(before[key], tensors[key]) for key in before)


@on_all
def test_names_and_environments_are_text(name: str) -> None:
    assert target(name).name == f"{name}@cpu"
    assert all(isinstance(text, str) and text for pair in target(name).environment().items() for text in pair)
    assert target(name).environment()["threads"] == "1"


@pytest.mark.parametrize("name", ["openvino", "litert"])
def test_a_block_of_a_deconvnet_is_computed_stage_by_stage(name: str) -> None:
    case = make_case("deconv_block", **BLOCK, overlap="sum", rectify="signal")
    assert verdict(name, case).verdict == "exact"
    assert verdict(name, case, "rounding").verdict in PASSED


# ---- OpenVINO ----


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("op", ["conv", "conv_transpose"])
def test_openvino_sums_in_float32_what_has_16_bits(op: str, dtype: str) -> None:
    case = make(op=op, input=[5, 4], kernel=3, in_channels=8, out_channels=2, dtype=dtype)
    assert verdict("openvino", case).verdict == "exact"
    assert verdict("openvino", case, "rounding").verdict in PASSED


def test_the_bits_of_bfloat16_go_in_and_come_out() -> None:
    case = make(op="conv", input=[5], kernel=1, dtype="bfloat16")
    x = np.array([[[1, -2.5, 3e38, 2**-100, -0.0]]]).astype(BFLOAT16)
    output = target("openvino").run(case, {"input": x, "weight": np.ones((1, 1, 1), BFLOAT16)})["output"]
    assert output.dtype == BFLOAT16
    assert np.array_equal(output.view(np.uint16)[..., :4], x.view(np.uint16)[..., :4])
    assert output[0, 0, 4] == 0


def test_openvino_is_asked_for_float32() -> None:
    """Where the processor has bfloat16, its default is bfloat16."""
    case = make(op="conv", input=[8, 8], kernel=3, in_channels=32, out_channels=32, bias=True)
    assert verdict("openvino", case, "rounding").verdict in PASSED
    assert target("openvino").environment()["inference precision"] == "f32"
    assert target("openvino").environment()["float32 in use"] == "float32"
    default = OpenVino(precision="default")
    assert default.name == "openvino-default@cpu"
    assert default.environment()["inference precision"] in ("default: f32", "default: bf16", "default: f16")
    assert "INFERENCE_PRECISION_HINT" not in default._settings()


def test_a_float16_chain_is_run_stage_by_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one model a stage would be fed what OpenVINO has in float32, and not what the stage before it returned."""
    block = {**BLOCK, "in_channels": 16, "input": [8, 8], "dtype": "float16"}
    case = make_case("deconv_block", **block, overlap="sum", rectify="none")
    assert verdict("openvino", case, "rounding").verdict in PASSED
    monkeypatch.setattr(openvino_target, "stage_by_stage", lambda case, tensors, run: run(case, tensors))
    assert verdict("openvino", case, "rounding").verdict not in PASSED


def test_every_stage_is_fed_what_the_stage_before_it_returned() -> None:
    case = make_case("deconv_block", **BLOCK, overlap="sum", rectify="signal")
    fed: list[dict[str, int]] = []

    def run(alone: Any, tensors: Any) -> Any:
        fed.append({name: int(array) for name, array in tensors.items()})
        assert alone.stages == (case.stages[len(fed) - 1],)
        return {name: np.array(10 * len(fed)) for name in alone.told}

    given = stage_by_stage(case, {name: np.array(n) for n, name in enumerate(case.tensor_shapes)}, run)
    assert {name: int(array) for name, array in given.items()} == {"unpool": 10, "rectify": 20, "output": 30}
    numbers = dict(zip(case.tensor_shapes, range(9), strict=False))
    assert fed == [
        {"input": numbers["input"], "indices": numbers["indices"]},
        {"unpool": 10},
        {"rectify": 20, "weight": numbers["weight"], "bias": numbers["bias"]},
    ]


def test_what_openvino_lacks_is_not_supported_and_named() -> None:
    unpool = make_case("max_unpool", input=[2, 2], kernel=3, stride=2, overlap="assign")
    words = reason("openvino", unpool)
    assert words.startswith("openvino: ")
    assert "No conversion rule found for operations: MaxUnpool" in words
    assert "batch_size" in reason("openvino", make_case("max_pool", batch=0, input=[4], kernel=2))


def test_what_openvino_lacks_in_a_model_from_elsewhere_is_not_supported_either() -> None:
    onnx = pytest.importorskip("onnx")
    values = [
        onnx.helper.make_tensor_value_info("x", 1, [1, 1, 2]),
        onnx.helper.make_tensor_value_info("i", 7, [1, 1, 2]),
    ]
    node = onnx.helper.make_node("MaxUnpool", ["x", "i"], ["y"], kernel_shape=[2])
    graph = onnx.helper.make_graph([node], "g", values, [onnx.helper.make_tensor_value_info("y", 1, [1, 1, 3])])
    with pytest.raises(Unsupported, match="operations: MaxUnpool"):
        target("openvino").run_model(onnx.helper.make_model(graph, ir_version=8).SerializeToString(), {})


def test_what_openvino_fails_at_is_no_refusal() -> None:
    with pytest.raises(Exception, match=r"(?i)model") as caught:
        target("openvino").run_model(b"no model", {})
    assert not isinstance(caught.value, Unsupported)


def test_openvino_is_fed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    target("openvino")
    monkeypatch.setattr(OpenVino, "largest_constants", 0)  # so that weights are fed too
    runtime = OpenVino()
    problem = pose(COMPUTED["up-2d"], "exact")
    ((case, tensors),) = problem.parts
    output = runtime.run(case, dict(reversed(tensors.items())))
    assert judge(problem, Outcome("returned", output)).verdict == "exact"


def test_sizes_may_be_open_in_a_model_from_elsewhere() -> None:
    case = make(op="conv", input=[4], kernel=2)
    model = one_node_model(case, {"weight": np.array([[[1, 10]]], np.float32)}, 22)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "L"
    for name in ("openvino", "onnx2torch"):
        model.opset_import[0].version = target(name).opset
        for batch, size in ((1, 3), (2, 2)):
            x = np.arange(1, batch * size + 1, dtype=np.float32).reshape(batch, 1, size)
            (output,) = target(name).run_model(model.SerializeToString(), {"input": x})
            assert np.array_equal(output, x[..., :-1] + 10 * x[..., 1:])


# ---- onnx2torch ----


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (make(input=[4, 3], kernel=[3, 4], padding=[[0, 2], [1, 1]]), "ConvTranspose with non symmetrical padding"),
        (make(input=[3], kernel=3, stride=2, auto_pad="SAME_UPPER"), '"SAME_UPPER" auto_pad is not implemented'),
        (make(input=[3], kernel=3, dtype="bfloat16"), "ONNX ConvTranspose has no bfloat16 before opset 22"),
        (make_case("max_unpool", input=[2, 2], kernel=2, overlap="assign"), "operation_type='MaxUnpool'"),
    ],
)
def test_what_onnx2torch_does_not_implement_is_not_supported(case: Case, words: str) -> None:
    assert words in reason("onnx2torch", case)


def test_onnx2torch_takes_no_weights_in_bfloat16() -> None:
    case = make(op="conv", input=[4], kernel=2, dtype="bfloat16")
    model = one_node_model(case, {"weight": np.ones((1, 1, 2), BFLOAT16)}, 22)
    model.opset_import[0].version = 17
    with pytest.raises(Unsupported, match="bfloat16"):
        target("onnx2torch").run_model(model.SerializeToString(), {"input": np.ones((1, 1, 4), BFLOAT16)})


def test_onnx2torch_is_not_fed_constants_that_are_listed_as_inputs() -> None:
    onnx = pytest.importorskip("onnx")
    model = one_node_model(make(op="conv", input=[3], kernel=2), {"weight": np.array([[[1, 10]]], np.float32)}, 17)
    model.graph.input.insert(0, onnx.helper.make_tensor_value_info("weight", onnx.TensorProto.FLOAT, [1, 1, 2]))
    x = np.array([[[1, 2, 3]]], np.float32)
    (output,) = target("onnx2torch").run_model(model.SerializeToString(), {"input": x})
    assert output.tolist() == [[[21, 32]]]


def test_a_torchvision_that_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    with pytest.raises(ImportError, match=f"onnx2torch needs the torchvision that fits torch {torch.__version__[:5]}"):
        onnx2torch_target._load(torch)


# ---- LiteRT ----


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            make(input=[3, 4], kernel=2, dilation=2),
            "its own operators lack Conv2DBackpropInput, which are TensorFlow's",
        ),
        (
            make(input=[3, 4], kernel=3, padding=[[2, 0], [0, 1]]),
            "its own operators lack Conv2DBackpropInput, which are TensorFlow's",
        ),
        (make(input=[3, 4], kernel=2, dtype="float16"), "Conv2DBackpropInput"),
        (make(op="conv", input=[3, 4], kernel=2, dtype="float64"), "its own operators lack Conv2D,"),
        (make(input=[3, 4], kernel=2, dtype="bfloat16"), "litert: no bfloat16"),
        (make_case("max_pool", input=[4, 4, 4], kernel=2, dtype="float64"), "litert: no float64"),
        (make(op="conv", batch=0, input=[3, 4], kernel=2), "litert: it takes no empty tensors"),
        (make_case("max_pool", input=[4, 4], kernel=2), "MaxPoolWithArgmax"),
    ],
)
def test_what_litert_has_no_operator_for_is_not_supported(case: Case, words: str) -> None:
    assert words in reason("litert", case)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_litert_says_tensorflows_words(padding: str) -> None:
    for op in ("conv", "conv_transpose", "conv_input_gradient"):
        assert (
            verdict("litert", make(op=op, input=[5, 6], kernel=[3, 4], stride=[2, 3], padding=padding)).verdict
            == "exact"
        )


def test_a_model_that_litert_makes_and_cannot_run_is_no_refusal() -> None:
    """The converter takes a transposed convolution with groups; the interpreter does not."""
    grouped = make(input=[3, 4], kernel=2, in_channels=4, out_channels=2, groups=2)
    try:
        judgement = verdict("litert", grouped)
    except RuntimeError:
        return
    assert judgement.verdict in PASSED  # a release that can


def test_weights_are_constants_and_only_the_input_is_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    interpret = LiteRt._interpret

    def watched(self: LiteRt, model: bytes, inputs: Any) -> Any:
        fed.append(len(inputs))
        return interpret(self, model, inputs)

    target("litert")
    monkeypatch.setattr(LiteRt, "_interpret", watched)
    verdict("litert", COMPUTED["up-2d"])
    verdict("litert", make_case("deconv_block", **BLOCK, overlap="sum", rectify="signal"))
    assert fed == [1, 2]  # the switches too


def test_the_gradient_of_a_network_is_a_model_too() -> None:
    layers = [{"conv": 2, "kernel": 3}, "relu", {"conv": 2, "kernel": 2}, "relu"]
    case = make_case("deconvnet", input=[6, 5], in_channels=2, layers=layers, rectify="signal", isolate="none")
    problem = pose(case, "gradient")
    outcomes = [Outcome("returned", target("litert").run(part, tensors)) for part, tensors in problem.parts]
    assert len(outcomes) == 2
    assert judge_parts(problem, outcomes).verdict in PASSED
