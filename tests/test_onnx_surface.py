"""ONNX's words in graphs, who declines them, and what two runtimes make of the suite."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="graphs of ONNX are made with onnx")

import onnx
from onnx import numpy_helper

from conformance.outcome import Outcome
from conformance.problem import pose
from conformance.spec import Case, Convolution, MaxPool, OnnxWords, load_cases
from conformance.spec.loader import OPS
from conformance.targets.base import OpTarget, Tensors, Unsupported, decline_onnx_words
from conformance.targets.one_stage import stage_by_stage
from conformance.targets.onnx_graph import constants_of, one_node_model
from conformance.targets.onnx_reference import OnnxReference
from conformance.targets.onnx_target import OnnxTarget, Run
from conformance.targets.onnxruntime_target import OnnxRuntime
from conformance.verdict import FAILED, Judgement, judge

TARGETS = {"onnxruntime": OnnxRuntime, "onnx-reference": OnnxReference}
OPERATORS = ("Conv", "ConvTranspose", "MaxPool", "MaxUnpool")
POOL = {"input": [3, 4], "kernel": 2, "stride": 1}


def make(op: str, words: OnnxWords | None = None, **keys: Any) -> Any:
    entry = OPS[op].model_validate({"op": op, **keys})
    return entry.resolve({"id": "t/case", "op": op, "batch": entry.batch, "dtype": entry.dtype, "onnx": words})


@functools.cache
def target(name: str) -> OnnxTarget:
    return TARGETS[name]()


class Recorder(OnnxTarget):
    """Keeps the last model, and the names of what it was fed."""

    name = "recorder@cpu"
    opset = 22

    def prepare(self, model: bytes) -> Run:
        self.model = onnx.load_model_from_string(model)
        onnx.checker.check_model(self.model)
        return self._run

    def _run(self, feeds: Tensors) -> list[np.ndarray]:
        self.fed = sorted(feeds)
        return [np.zeros(1) for _ in self.model.graph.output]

    @property
    def attributes(self) -> dict[str, Any]:
        node = next(n for n in self.model.graph.node if n.op_type in OPERATORS)
        return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def recorded(case: Any) -> Recorder:
    recorder = Recorder()
    recorder.run(case, pose(case, "exact").tensors)
    return recorder


# ---- Graphs ----


def test_the_opset_of_a_case_comes_before_that_of_the_target() -> None:
    for case in (
        make("conv", OnnxWords(opset=11), input=[3], kernel=2),
        make("max_pool", OnnxWords(opset=12), **POOL),
        make("max_unpool", OnnxWords(opset=9), input=[3], kernel=2, overlap="assign"),
    ):
        assert recorded(case).model.opset_import[0].version == case.opset
    assert recorded(make("max_pool", OnnxWords(), **POOL)).model.opset_import[0].version == 22


@pytest.mark.parametrize("opset", range(1, 23))
def test_every_opset_has_a_format_even_those_that_were_never_released(opset: int) -> None:
    assert recorded(make("conv", OnnxWords(opset=opset), input=[3], kernel=2)).model.ir_version >= 4


def test_constants_need_not_be_inputs_in_the_oldest_opset_either() -> None:
    """Format version 3, which goes with opset 1, lists every constant among the inputs."""
    recorder = recorded(make("conv_transpose", OnnxWords(opset=1), input=[3], kernel=2))
    assert recorder.model.ir_version >= 4
    assert [value.name for value in recorder.model.graph.input] == ["input"]


@pytest.mark.parametrize(
    ("words", "inputs", "constants", "fed"),
    [
        (None, ["input"], ["weight", "bias"], ["input"]),
        (OnnxWords(), ["input"], ["weight", "bias"], ["input"]),
        (OnnxWords(weights="input"), ["input", "weight", "bias"], [], ["bias", "input", "weight"]),
        (OnnxWords(weights="overridable"), ["input", "weight", "bias"], ["weight", "bias"], ["input"]),
    ],
)
def test_weights_are_constants_or_fed_or_both(
    words: OnnxWords | None, inputs: list[str], constants: list[str], fed: list[str]
) -> None:
    recorder = recorded(make("conv_transpose", words, input=[3], kernel=2, bias=True))
    graph = recorder.model.graph
    assert [value.name for value in graph.input] == inputs
    assert [tensor.name for tensor in graph.initializer] == constants
    assert recorder.fed == fed


def test_only_the_attributes_that_are_left_out_are_missing() -> None:
    every = {"kernel_shape", "strides", "dilations", "group", "pads"}
    assert set(recorded(make("conv_transpose", OnnxWords(), input=[3], kernel=2)).attributes) == every
    for name in every:
        words = OnnxWords(omit=(name,))
        assert set(recorded(make("conv_transpose", words, input=[3], kernel=2)).attributes) == every - {name}
    words = OnnxWords(omit=("strides", "pads"))
    pool = recorded(make("max_pool", words, **POOL))
    assert set(pool.attributes) == {"kernel_shape", "dilations", "ceil_mode"}
    unpool = recorded(make("max_unpool", words, input=[3], kernel=1, stride=1, overlap="assign"))
    assert set(unpool.attributes) == {"kernel_shape"}


@pytest.mark.parametrize(
    ("opset", "indices", "attributes"),
    [
        (1, False, {"kernel_shape", "strides", "pads"}),
        (8, True, {"kernel_shape", "strides", "pads"}),
        (10, True, {"kernel_shape", "strides", "pads", "dilations", "ceil_mode"}),
    ],
)
def test_a_pooling_says_what_its_opset_has(opset: int, indices: bool, attributes: set[str]) -> None:
    recorder = recorded(make("max_pool", OnnxWords(opset=opset, indices=indices), **POOL))
    assert set(recorder.attributes) == attributes
    assert len(recorder.model.graph.node[0].output) == 1 + indices
    assert [value.name for value in recorder.model.graph.output] == ["output", "indices"][: 1 + indices]


def test_pads_are_written_beside_what_settles_the_size() -> None:
    words = OnnxWords(pads=((1, 0), (2, 3)))
    case = make("conv_transpose", words, input=[3, 4], kernel=3, output_shape=[4, 4])
    assert recorded(case).attributes["pads"] == [1, 2, 0, 3]
    pool = make("max_pool", words, input=[6, 6], kernel=4, auto_pad="SAME_LOWER")
    assert recorded(pool).attributes | {"kernel_shape": 0} == {
        "kernel_shape": 0,
        "strides": [4, 4],
        "dilations": [1, 1],
        "ceil_mode": 0,
        "auto_pad": b"SAME_LOWER",
        "pads": [1, 2, 0, 3],
    }


def test_an_output_shape_is_fed_whole_with_the_pads_of_the_pooling() -> None:
    keys = {"input": [2, 3], "kernel": 3, "padding": [[1, 0], 0], "channels": 4, "batch": 2, "overlap": "assign"}
    recorder = recorded(make("max_unpool", OnnxWords(), **keys, output_shape=[7, 30]))
    (node,) = [n for n in recorder.model.graph.node if n.op_type == "MaxUnpool"]
    constants = {t.name: numpy_helper.to_array(t) for t in recorder.model.graph.initializer}
    assert constants[node.input[2]].tolist() == [2, 4, 7, 30]
    attributes = {a.name: list(a.ints) for a in node.attribute}
    assert attributes == {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [1, 0, 0, 0]}


@pytest.mark.parametrize("shape", [4, 3, 9])
def test_an_output_shape_is_fed_whether_it_is_larger_or_smaller_or_no_news(shape: int) -> None:
    case = make("max_unpool", input=[2], kernel=2, overlap="assign", output_shape=[shape])
    (node,) = [n for n in recorded(case).model.graph.node if n.op_type == "MaxUnpool"]
    assert len(node.input) == 3
    assert {a.name: list(a.ints) for a in node.attribute}["pads"] == [0, 0]


def test_a_stage_by_itself_has_the_words_of_its_chain() -> None:
    case, asked = make("max_pool", OnnxWords(opset=8), **POOL), []

    def run(alone: Case, _: Tensors) -> Tensors:
        asked.append(alone.opset)
        return {"output": np.zeros(1), "indices": np.zeros(1)}

    stage_by_stage(case, {"input": np.zeros(1)}, run)
    assert asked == [8]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (make("max_pool", **POOL), "ONNX MaxPool has no indices before opset 8, this is opset 7"),
        (
            make("max_pool", OnnxWords(indices=False), **POOL, dilation=2),
            "ONNX MaxPool has no dilations before opset 10, this is opset 7",
        ),
        (
            make("max_pool", OnnxWords(indices=False), **POOL, ceil_mode=True),
            "ONNX MaxPool has no ceil_mode before opset 10, this is opset 7",
        ),
        (
            make("conv", input=[3], kernel=2, dtype="bfloat16"),
            "ONNX Conv has no bfloat16 before opset 22, this is opset 7",
        ),
        (
            make("conv", OnnxWords(opset=99), input=[3], kernel=2),
            f"the newest opset that onnx knows is {onnx.defs.onnx_opset_version()}, this is opset 99",
        ),
    ],
)
def test_what_an_opset_does_not_have_is_declined(case: Any, said: str) -> None:
    recorder = Recorder()
    recorder.opset = 7
    with pytest.raises(Unsupported, match=f"^{re.escape(said)}$"):
        recorder.run(case, pose(case, "exact").tensors)


def test_the_model_of_a_convolution_asks_for_what_is_no_constant() -> None:
    case = make("conv", OnnxWords(weights="input"), input=[3], kernel=2, bias=True)
    tensors = pose(case, "exact").tensors
    assert constants_of(case, tensors) == {}
    model = one_node_model(case, constants_of(case, tensors))
    assert [value.name for value in model.graph.input] == ["input", "weight", "bias"]


# ---- Indices, worked out by hand ----


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("planes", [1, 6])
def test_column_major_indices_come_back_row_major(name: str, order: int, planes: int) -> None:
    """Three rows of four, 1 to 12: of windows of two by two the last corner is the largest."""
    words = OnnxWords(storage_order=order)
    case = make("max_pool", words, input=[3, 4], kernel=2, stride=[1, 2], batch=planes, channels=1)
    x = np.arange(1.0, 13, dtype=np.float32).reshape(1, 1, 3, 4).repeat(planes, 0)
    given = target(name).run(case, {"input": x})
    assert given["output"][-1, 0].tolist() == [[6, 8], [10, 12]]
    assert given["indices"][-1, 0].tolist() == [[5, 7], [9, 11]]


@pytest.mark.parametrize("name", TARGETS)
def test_column_major_indices_of_a_volume_come_back_row_major(name: str) -> None:
    case = make("max_pool", OnnxWords(storage_order=1), input=[2, 3, 4], kernel=[1, 3, 2], stride=[1, 3, 2], channels=2)
    x = np.arange(48, dtype=np.float32).reshape(1, 2, 2, 3, 4)
    assert target(name).run(case, {"input": x})["indices"][0, 1].ravel().tolist() == [9, 11, 21, 23]


# ---- Who declines ----


class Deaf(OpTarget):
    """A target that knows nothing of ONNX and overrides nothing."""

    name = "deaf@cpu"

    def conv(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        return np.zeros(1)

    max_pool = max_unpool = conv  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (make("conv", OnnxWords(), input=[3], kernel=2), "deaf@cpu: `onnx` words are ONNX's own"),
        (make("max_pool", **POOL, auto_pad="NOTSET"), "deaf@cpu has no auto_pad=NOTSET"),
        (make("max_pool", **POOL, auto_pad="VALID"), "deaf@cpu has no auto_pad=VALID"),
        (
            make("max_unpool", input=[3], kernel=2, overlap="assign", output_shape=[9]),
            "deaf@cpu has no output_shape of any size, as ONNX has",
        ),
    ],
)
def test_a_target_that_runs_no_onnx_declines_without_doing_anything(case: Any, said: str) -> None:
    with pytest.raises(Unsupported, match=f"^{re.escape(said)}$"):
        Deaf().run(case, {})
    with pytest.raises(Unsupported):
        decline_onnx_words(case, "an exporter")


def test_the_same_target_runs_what_needs_no_onnx() -> None:
    for case in (make("conv", input=[3], kernel=2), make("max_pool", **POOL)):
        assert list(Deaf().run(case, {})) == ["output"]
        decline_onnx_words(case, "an exporter")


def test_torch_declines_every_case_of_the_suite() -> None:
    pytest.importorskip("torch", reason="declines with torch's target")
    from conformance.targets.torch_targets import Torch

    torch = Torch()
    cases = load_cases(["onnx"])
    assert len(cases) > 700
    for case in cases:
        with pytest.raises(Unsupported):
            torch.run(case, {})


# ---- Refusals that one reading allows ----


def refused(case: Any, kind: str = "error") -> Judgement:
    return judge(pose(case, "exact"), Outcome(kind, message="no"))  # type: ignore[arg-type]


BETWEEN = {"input": [4], "kernel": 2, "stride": 2, "dilation": 3, "output_padding": 2}


@pytest.mark.parametrize(
    ("case", "reading"),
    [
        (
            make("conv_transpose", OnnxWords(), **BETWEEN),
            "output_padding has to be below the stride, whatever the dilation",
        ),
        (
            make("conv", OnnxWords(pads=((1, 1),)), input=[4], kernel=2, auto_pad="VALID"),
            "pads cannot stand beside auto_pad",
        ),
        (
            make("max_pool", OnnxWords(pads=((1, 1), (0, 0))), input=[4, 4], kernel=2, auto_pad="SAME_UPPER"),
            "pads cannot stand beside auto_pad",
        ),
        (
            make("max_unpool", OnnxWords(), input=[3], kernel=2, overlap="assign", output_shape=[5]),
            "switches count in the size that follows from the windows, not in the one asked for, "
            "and have no place there",
        ),
    ],
)
def test_a_runtime_may_fail_where_the_text_can_be_read_so_that_the_model_is_wrong(case: Any, reading: str) -> None:
    judgement = refused(case)
    assert (judgement.verdict, judgement.message) == ("ambiguous", "no")
    assert judgement.diagnosis == f"the specification is open here; read as: {reading}"
    assert refused(case, "crash").verdict == "crash"
    assert refused(case, "timeout").verdict == "timeout"


@pytest.mark.parametrize(
    "case",
    [
        make("conv_transpose", **BETWEEN),  # not about ONNX
        make("conv_transpose", OnnxWords(), **(BETWEEN | {"output_padding": 1})),
        make("conv_transpose", OnnxWords(), **(BETWEEN | {"stride": 3, "dilation": 2, "output_padding": 2})),
        make("conv_transpose", OnnxWords(pads=((1, 1),)), input=[4], kernel=3, output_shape=[5]),
        make("max_unpool", OnnxWords(), input=[3], kernel=2, overlap="assign", output_shape=[6]),
        make("max_pool", OnnxWords(), **POOL, auto_pad="VALID"),
    ],
)
def test_elsewhere_a_failure_is_a_failure(case: Any) -> None:
    assert refused(case).verdict == "error"


# ---- Readings ----


def judged(case: MaxPool, x: np.ndarray, **returned: Any) -> Judgement:
    problem = pose(case, "exact")
    problem = type(problem)(case, "exact", {"input": x}, problem.values)  # type: ignore[call-arg]
    return judge(problem, Outcome("returned", {k: np.asarray(v) for k, v in returned.items()}))


X = np.arange(1.0, 6, dtype=np.float32).reshape(1, 1, 5)
CEIL: Mapping[str, Any] = {"input": [5], "kernel": 2, "stride": 2, "padding": 1, "ceil_mode": True}


def pooled(*values: float) -> np.ndarray:
    return np.array([[values]], np.float32)


def places(*indices: int) -> np.ndarray:
    return np.array([[indices]], np.int64)


@pytest.mark.parametrize(
    ("opset", "values", "indices", "verdict"),
    [
        (22, (1, 3, 5), (0, 2, 4), "exact"),
        (22, (1, 3, 5, -np.inf), (0, 2, 4, 0), "wrong_shape"),
        (12, (1, 3, 5), (0, 2, 4), "ambiguous"),
        (12, (1, 3, 5, -np.inf), (0, 2, 4, 0), "ambiguous"),
        (12, (1, 3, 5, 0), (0, 2, 4, -1), "ambiguous"),
        (12, (1, 3, 4, 0), (0, 2, 3, 0), "deviates"),
        (12, (1, 3, 5, 0, 0), (0, 2, 4, 0, 0), "wrong_shape"),
        (12, (1, 3), (0, 2), "wrong_shape"),
    ],
)
def test_a_window_of_nothing_but_padding_may_be_kept_before_opset_22(
    opset: int, values: tuple[float, ...], indices: tuple[int, ...], verdict: str
) -> None:
    case = make("max_pool", OnnxWords(opset=opset), **CEIL)
    assert judged(case, X, output=pooled(*values), indices=places(*indices)).verdict == verdict


def test_a_tie_in_one_of_two_readings_is_still_a_reading() -> None:
    case = make("max_pool", OnnxWords(opset=12), **CEIL)
    level = np.full((1, 1, 5), 3, np.float32)
    judgement = judged(case, level, output=pooled(3, 3, 3), indices=places(0, 2, 4))
    assert judgement.verdict == "ambiguous"
    assert "start in the padding are ignored" in judgement.diagnosis


# ---- Two runtimes ----

KNOWN = {
    "onnxruntime": (
        "pool-auto-pad-ceil",  # ceil_mode counts with VALID
        "pool-auto-pad-dilated",  # SAME_* without the dilation
        "pool-pads-as-large-as-the-kernel",  # refuses them
        "transposed-output-shape-larger",  # rows at one end
        "transposed-float16-opset-1",  # inserts a Cast that opset 1 does not have
    ),
    "onnx-reference": (
        "pool-all-omitted",  # the path for stride 1
        "pool-auto-pad",  # that, and SAME_LOWER
        "pool-storage-order-auto-pad",
        "pool-storage-order-one-plane-stride-one",
        "pool-stride-one",
        "pool-strides-omitted",
        "transposed-auto-pad-groups",  # groups
        "transposed-depthwise",
        "transposed-formats-groups",
        "transposed-groups",
        "transposed-weights-groups",
        "transposed-empty-batch",  # no image
        "transposed-kernel-shape-omitted-output-shape",  # output_shape without SAME_*
        "transposed-output-shape",
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_what_fails_in_the_suite_is_what_is_known(name: str) -> None:
    """By the name of the case, so that a release in which something is mended passes too."""
    runtime, unexpected = target(name), []
    for case in load_cases(["onnx"]):
        problem = pose(case, case.data[0])
        try:
            outcome = Outcome("returned", dict(runtime.run(case, problem.tensors)))
        except Unsupported as reason:
            outcome = Outcome("unsupported", message=str(reason))
        except Exception as error:
            outcome = Outcome("error", message=str(error))
        judgement = judge(problem, outcome)
        if judgement.verdict in FAILED and not case.id.removeprefix("onnx/").startswith(KNOWN[name]):
            unexpected.append((case.id, judgement))
    assert unexpected == []
