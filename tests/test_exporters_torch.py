"""What PyTorch's two exporters make of a case, run by onnxruntime and judged against the oracle."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Mapping
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
from conformance.targets import torch_targets
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.onnxruntime_target import OnnxRuntime
from conformance.verdict import Judgement, judge
from exporters import torch_tables
from exporters.base import Exported
from exporters.check import checked
from exporters.torch_sizes import fixed, symbolic

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
torch_module = pytest.importorskip("exporters.torch_module", reason="torch is not installed")
torch_exporter = pytest.importorskip("exporters.torch_exporter")
torch_dynamo = pytest.importorskip("exporters.torch_dynamo")

NAMES = ("torch-dynamo", "torch-script", "torch-dynamo-symbolic", "torch-script-symbolic")
SCRIPTS = ("torch-script", "torch-script-symbolic")
DYNAMOS = ("torch-dynamo", "torch-dynamo-symbolic")

CONV: dict[str, Any] = {"in_channels": 4, "out_channels": 2, "batch": 2, "bias": True}
POOL: dict[str, Any] = {"channels": 2, "batch": 2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "conv-line": ("conv", CONV | {"input": [9], "kernel": 3, "stride": 2, "padding": 1, "groups": 2}),
    "conv-plane": ("conv", CONV | {"input": [9, 8], "kernel": [3, 2], "dilation": [2, 1]}),
    "conv-volume": ("conv", CONV | {"input": [4, 5, 3], "kernel": 2, "batch": 1}),
    "conv-same": ("conv", CONV | {"input": [6, 7], "kernel": [4, 3], "padding": "same"}),
    "conv-empty": ("conv", CONV | {"input": [6], "kernel": 3, "batch": 0}),
    "transposed-line": ("conv_transpose", CONV | {"input": [5], "kernel": 3, "stride": 2, "output_padding": 1}),
    "transposed-plane": (
        "conv_transpose",
        CONV | {"input": [3, 4], "kernel": 3, "stride": [2, 3], "padding": [[1, 1], [0, 0]], "groups": 2},
    ),
    "transposed-volume": ("conv_transpose", CONV | {"input": [2, 3, 2], "kernel": 2, "dilation": 2, "bias": False}),
    "transposed-sized": ("conv_transpose", CONV | {"input": [3, 4], "kernel": 3, "stride": 2, "output_size": [8, 9]}),
    "pool-line": ("max_pool", POOL | {"input": [9], "kernel": 3, "stride": 2, "padding": 1}),
    "pool-plane": ("max_pool", POOL | {"input": [7, 8], "kernel": [3, 2], "stride": 2}),
    "pool-volume": ("max_pool", POOL | {"input": [4, 6, 4], "kernel": 2, "magnitude": True}),
    "pool-same": ("max_pool", POOL | {"input": [6, 7], "kernel": 2, "stride": 2, "padding": "same"}),
    "unpool-line": ("max_unpool", POOL | {"input": [4], "kernel": 3, "stride": 2}),
    "unpool-volume": ("max_unpool", POOL | {"input": [2, 3, 2], "kernel": 2}),
    "block": ("deconv_block", BLOCK),
    "net": ("deconvnet", NETS["C"] | {"batch": 2}),
    "adaptive-down": ("adaptive_deconv", ADAPTIVE | {"direction": "reconstruct"}),
    "adaptive-up": ("adaptive_deconv", ADAPTIVE | {"direction": "project"}),
    "fused": (
        "conv_block",
        CONV | {"input": [6, 5], "kernel": 3, "pad": 1, "batch_norm": True, "rectify": "signal", "then": {"kernel": 2}},
    ),
}


@functools.cache
def exporter(name: str) -> Any:
    made: Any = make(next(spec for spec in EXPORTERS if spec.name == name), threads=1)
    assert isinstance(made, torch_exporter.TorchExporter)
    return made


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


def judged(name: str, case: Case, kind: str = "exact") -> Judgement:
    """The verdict on the file that the exporter makes, run by onnxruntime."""
    return run(case, kind, *exported(name, case, kind))


def run(case: Case, kind: str, file: Exported, tensors: Tensors) -> Judgement:
    values = OnnxRuntime().run_model(file.model, file.feeds(tensors))
    outcome = Outcome("returned", file.results(values), faults=(*file.faults, *file.misinferred(values)))
    return judge(pose(case, kind), outcome)


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


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_an_exported_case_computes_what_the_oracle_does(name: str, case: str) -> None:
    judgement = run(case_of(case), kind_of(case), *file_of(name, case))
    assert judgement.passed, judgement
    assert kind_of(case) == "rounding" or judgement.verdict == "exact"


@pytest.mark.parametrize("name", DYNAMOS)
def test_unpooling_that_assigns_goes_through_the_newer_exporter(name: str) -> None:
    assert judged(name, make_case("max_unpool", **POOL, input=[2, 3], kernel=2, overlap="assign")).verdict == "exact"


@pytest.mark.parametrize("name", ["torch-dynamo", "torch-script"])
@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_weights_are_in_the_file_as_they_are(name: str, dtype: str) -> None:
    file, tensors = exported(name, case_of("transposed-plane", dtype=dtype))
    graph = onnx.load_model_from_string(file.model).graph
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for weight in ("weight", "bias"):
        assert held[weight].dtype == tensors[weight].dtype
        np.testing.assert_array_equal(held[weight], tensors[weight])


@pytest.mark.parametrize("name", ["torch-dynamo", "torch-script"])
def test_half_precision_stays_what_it_is(name: str) -> None:
    assert judged(name, case_of("conv-plane", dtype="float16"), "rounding").passed


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_file_depends_on_weights_and_sizes_and_on_nothing_that_is_fed(name: str) -> None:
    case = case_of("block")
    tensors = dict(pose(case, "exact").parts[0][1])
    other = tensors | {"input": tensors["input"] + 1, "indices": np.zeros_like(tensors["indices"])}
    for array in tensors.values():
        array.setflags(write=False)
    assert exporter(name).export(case, tensors).model == exporter(name).export(case, other).model


def test_an_input_that_nothing_depends_on_is_not_fed_where_it_was_dropped() -> None:
    ones = make_case("deconvnet", **NETS["A"], isolate="none", seed="one", rectify="signal")
    assert exported("torch-script", ones)[0].inputs == ()
    assert judged("torch-script", ones).verdict == "exact"
    assert [binding.name for binding in exported("torch-script-symbolic", ones)[0].inputs] == ["input"]


# ---- Sizes ----


@pytest.mark.parametrize("name", DYNAMOS[1:] + SCRIPTS[1:])
@pytest.mark.parametrize(
    ("case", "open_axes"),
    [
        ("conv-line", (0, 2)),
        ("conv-same", (0, 2, 3)),
        ("transposed-plane", (0, 2, 3)),
        ("transposed-sized", (0,)),
        ("pool-plane", (0, 2, 3)),
        ("pool-same", (0,)),
        ("unpool-line", (0,)),
        ("adaptive-up", (0,)),
    ],
)
def test_a_symbolic_file_leaves_sizes_open(name: str, case: str, open_axes: tuple[int, ...]) -> None:
    file, _ = file_of(name, case)
    sizes = {name: {n for n, size in enumerate(each) if not size} for name, each in sizes_in(file.model).items()}
    assert all(sizes[binding.name] == set(open_axes) for binding in file.inputs)
    assert all(sizes[binding.name] >= set(open_axes) for binding in file.outputs)  # torch-script opens some more


@pytest.mark.parametrize("case", CASES)
def test_the_example_of_a_symbolic_export_has_another_size_on_every_open_axis(case: str) -> None:
    made = case_of(case)
    sizes, own = symbolic(made), made.tensor_shapes
    for name, shape in sizes.example.items():
        assert [n for n in range(len(shape)) if shape[n] != own[name][n]] == list(sizes.open[name])
        assert shape[0] >= 2
    assert fixed(made).example == {name: own[name] for name in sizes.example}


@pytest.mark.parametrize("name", ["torch-dynamo-symbolic", "torch-script-symbolic"])
def test_one_symbolic_file_serves_every_size(name: str) -> None:
    small, large = case_of("conv-line"), case_of("conv-line", input=[14], batch=5)
    file, tensors = file_of(name, "conv-line")
    problem = pose(large, "exact")
    weights = {key: problem.parts[0][1][key] for key in ("weight", "bias")}
    again = exporter(name).export(small, dict(tensors) | weights)
    values = OnnxRuntime().run_model(again.model, again.feeds(problem.parts[0][1]))
    assert judge(problem, Outcome("returned", again.results(values))).verdict == "exact"
    assert file.model != again.model


def test_padding_that_depends_on_the_size_leaves_only_the_batch_open() -> None:
    uneven = make_case("conv", input=[8], kernel=3, stride=2, padding=[[1, 0]])
    assert symbolic(uneven).open["input"] == {0: "batch"}
    assert symbolic(make_case("conv_transpose", input=[8], kernel=3, padding=[[1, 0]])).open["input"].keys() == {0, 2}
    padded_before = make_case("max_pool", input=[6], kernel=3, padding=2)  # torch pads at most half of the kernel
    assert symbolic(padded_before).open["indices"] == {0: "batch"}


# ---- Wrong ----


def planted(monkeypatch: pytest.MonkeyPatch, op: str, wrong: Callable[..., Any]) -> None:
    """Another operator in place of that of an op."""
    right = torch_module._OPERATORS[op]
    monkeypatch.setitem(torch_module._OPERATORS, op, functools.partial(wrong, right))


@pytest.mark.parametrize("name", NAMES)
def test_a_module_that_flips_its_kernel_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def flipped(conv: Callable[..., Any], torch: Any, case: Any, x: Any, weight: Any, *more: Any) -> Any:
        return conv(torch, case, x, weight.flip(2), *more)

    planted(monkeypatch, "conv", flipped)
    assert judged(name, case_of("conv-line")).verdict == "deviates"


def bakes_its_batch(conv: Callable[..., Any], torch: Any, case: Any, x: Any, *more: Any) -> Any:
    """Right for as many images as the case has, and not for as many as the example has."""
    return conv(torch, case, x, *more) * (len(range(x.shape[0])) / case.batch)


def test_a_size_that_tracing_bakes_in_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, "conv", bakes_its_batch)
    assert judged("torch-script-symbolic", case_of("conv-line")).verdict == "deviates"
    assert judged("torch-script", case_of("conv-line")).verdict == "exact"


def test_a_size_that_capture_would_bake_in_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, "conv", bakes_its_batch)
    with pytest.raises(torch_exporter.ExportError, match="inferred a static shape of 3"):
        exported("torch-dynamo-symbolic", case_of("conv-line"))


@pytest.mark.parametrize("name", ["torch-dynamo", "torch-script"])
def test_what_goes_wrong_in_an_export_is_an_error_with_its_cause(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def breaks(conv: Callable[..., Any], *given: Any) -> Any:
        calls.append(given)
        if len(calls) > 1:  # the first call is the module's own
            raise KeyError("no such thing")
        return conv(*given)

    planted(monkeypatch, "conv", breaks)
    with pytest.raises(torch_exporter.ExportError, match=r"^KeyError: 'no such thing'"):
        exported(name, case_of("conv-line"))


@pytest.mark.parametrize("name", ["torch-dynamo", "torch-script"])
def test_a_file_that_says_another_shape_than_onnx_infers_is_an_invalid_model(name: str) -> None:
    if int(exporter(name).environment()["opset"]) >= 22:
        pytest.skip("from opset 22 on, ONNX drops a window that begins in the padding, as PyTorch does")
    case = make_case("max_pool", **POOL, input=[5], kernel=2, stride=3, padding=1, ceil_mode=True)
    assert judged(name, case).verdict == "invalid_model"


# ---- Declined ----


@pytest.mark.parametrize(
    ("name", "case", "words"),
    [
        ("torch-script", make_case("conv", input=[5], kernel=2, auto_pad="SAME_LOWER"), "torch has no auto_pad"),
        ("torch-dynamo", make_case("conv_transpose", input=[5], kernel=2, padding="same"), "has no padding='same'"),
        (
            "torch-dynamo",
            make_case("conv_input_gradient", input=[5], kernel=2),
            "No ONNX function found for <OpOverload(op='aten.convolution_backward'",
        ),
        (
            "torch-script",
            make_case("conv_input_gradient", input=[5], kernel=2),
            "Found an unsupported argument type in the JIT tracer",
        ),
        (
            "torch-script",
            make_case("max_unpool", input=[3], kernel=2, output_size=[7], overlap="assign"),
            "Exporting the operator 'aten::max_unpool2d' to ONNX opset version",
        ),
        (
            "torch-script-symbolic",
            make_case("max_unpool", input=[3], kernel=2, stride=1, overlap="mean"),
            "ONNX does not support mean reduction for scatter_reduce",
        ),
        ("torch-script", make_case("deconvnet", **NETS["E"], lrn_down="gradient"), "autograd.grad inside a model"),
    ],
)
def test_the_reason_of_a_refusal_is_quoted(name: str, case: Case, words: str) -> None:
    assert words in reason(name, case)


def test_onnx_words_are_declined() -> None:
    case = make_case("max_pool", input=[6], kernel=2, auto_pad="SAME_LOWER")
    assert "torch has no auto_pad=SAME_LOWER" in reason("torch-script", case)


# ---- What an exporter says of itself ----


def test_a_module_trains_its_weights_and_keeps_its_statistics() -> None:
    case = case_of("fused")
    module = torch_module.CaseModule(case, pose(case, "rounding").parts[0][1], torch_targets.Torch().steps(case))
    assert {name for name, _ in module.named_buffers()} == {"mean", "variance"}
    assert {name for name, _ in module.named_parameters()} >= {"weight", "bias", "scale", "shift", "then_weight"}
    assert not module.training


@pytest.mark.parametrize("name", NAMES)
def test_an_exporter_has_the_name_and_the_sizes_of_its_entry(name: str) -> None:
    (spec,) = find_targets([f"{name}:onnxruntime"])
    assert spec.exporter is not None
    assert spec.exporter.framework == "torch-exporters"
    assert exporter(name).name == name
    assert exporter(name).symbolic == name.endswith("symbolic")


@pytest.mark.parametrize("name", ["torch-dynamo", "torch-script"])
def test_the_opset_that_is_told_is_that_of_the_files(name: str) -> None:
    file, _ = file_of(name, "conv-line")
    (opset,) = onnx.load_model_from_string(file.model).opset_import
    assert exporter(name).environment()["opset"] == str(opset.version)


def test_no_semaphore_is_left_behind_by_progress_bars() -> None:
    progress = pytest.importorskip("tqdm", reason="tqdm is not installed").tqdm
    progress.set_lock(None)
    torch_dynamo.TorchDynamo()
    assert isinstance(progress.get_lock(), type(threading.RLock()))


# ---- Tables that are built once ----


def test_files_are_the_same_with_tables_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, _ = file_of("torch-dynamo", "block")
    monkeypatch.setattr(torch_dynamo, "built_once", contextlib.nullcontext)
    anew, _ = exported("torch-dynamo", case_of("block"))
    assert kept.model == anew.model


def test_tables_are_built_once_and_the_functions_put_back() -> None:
    before = [vars(holder)[name] for holder, name, _ in torch_tables._remembered()]
    assert len(before) == len(torch_tables._FUNCTIONS)
    with torch_tables.built_once():
        inside = [vars(holder)[name] for holder, name, _ in torch_tables._remembered()]
        assert not any(a is b for a, b in zip(before, inside, strict=True))
        assert inside[2]() is inside[2]()
    assert [vars(holder)[name] for holder, name, _ in torch_tables._remembered()] == before


def test_a_release_without_such_a_function_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_tables, "_FUNCTIONS", (("torch.nowhere", "", "f"), ("torch.onnx", "", "no_such")))
    monkeypatch.setattr(torch_tables, "_remembered", torch_tables._remembered.__wrapped__)
    with torch_tables.built_once():
        assert torch_tables._remembered() == ()


def test_a_table_is_remembered_by_its_arguments() -> None:
    calls: list[tuple[Any, ...]] = []

    def table(*args: Any, **named: Any) -> Mapping[str, Any]:
        calls.append(args)
        return {"args": args, **named}

    remembering = torch_tables._remembering(table)
    assert remembering({1, 2}) is remembering({2, 1})
    assert remembering({1, 2}) is not remembering({1})
    assert remembering(opset=20) is remembering(opset=20)
    assert remembering(opset=20) is not remembering(opset=18)
    assert len(calls) == 4
