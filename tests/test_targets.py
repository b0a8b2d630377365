"""What every target must do, stated on cases small enough for three nested loops in Python.

The data are small integers, so that every arithmetic is exact and results are compared with ``==``.
"""

from __future__ import annotations

import functools
import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.dtypes import FORMATS
from conformance.spec import Convolution, load_suite
from conformance.targets import (
    keras_targets,
    onnx_reference,
    onnx_target,
    onnxruntime_target,
    tensorflow_convolution,
    tensorflow_target,
    torch_targets,
)
from conformance.targets.base import Target, Unsupported
from conformance.targets.channels_last import word_gives
from conformance.targets.onnx_graph import attributes, one_node_model
from conformance.targets.reasons import refusals

of_torch = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")

of_keras = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

TARGETS: dict[str, Callable[[], Target]] = {
    "torch": torch_targets.Torch,
    "torch-autograd": torch_targets.TorchAutograd,
    "torch-nn-grad": torch_targets.TorchNNGrad,
    "torch-direct": torch_targets.TorchDirect,
    "tensorflow": tensorflow_target.TensorFlow,
    "keras": keras_targets.KerasLayers,
    "keras-ops": keras_targets.KerasOps,
    "onnxruntime": onnxruntime_target.OnnxRuntime,
    "onnx-reference": onnx_reference.OnnxReference,
}
GRADIENTS = {"torch-autograd", "torch-nn-grad"}
FORWARD = set(TARGETS) - GRADIENTS
ONNX = {"onnxruntime", "onnx-reference"}
KERAS = {"keras", "keras-ops"}

# Sizes, kernels, strides and pads differ between axes, and between beginning and end, wherever an API lets them.
SUITE = """
suite: targets
defaults: {batch: 2, in_channels: 2, out_channels: 3}
cases:
  conv-1d: {op: conv, input: [7], kernel: 3, stride: 2, bias: true}
  conv-2d: {op: conv, input: [6, 5], kernel: [3, 2], stride: [1, 2], padding: [1, 0], bias: true}
  conv-2d-uneven: {op: conv, input: [4, 5], kernel: [3, 2], padding: [[2, 0], [0, 1]]}
  conv-3d: {op: conv, input: [3, 4, 5], kernel: [1, 2, 3], stride: [1, 1, 2]}
  conv-dilated: {op: conv, input: [7, 6], kernel: [2, 3], dilation: [3, 2]}
  conv-grouped: {op: conv, input: [4, 5], kernel: [2, 3], in_channels: 4, out_channels: 6, groups: 2, bias: true}
  conv-same: {op: conv, input: [5, 6], kernel: [3, 4], padding: same}
  conv-same-strided: {op: conv, input: [5, 6], kernel: [3, 4], stride: [2, 3], padding: same}
  conv-same-upper: {op: conv, input: [5, 6], kernel: [3, 4], stride: [2, 3], auto_pad: SAME_UPPER}
  conv-same-lower: {op: conv, input: [5, 6], kernel: [3, 4], stride: [2, 3], auto_pad: SAME_LOWER}

  up-1d: {op: conv_transpose, input: [4], kernel: 3, stride: 2, bias: true}
  up-2d: {op: conv_transpose, input: [3, 4], kernel: [3, 2], stride: [1, 2], bias: true}
  up-3d: {op: conv_transpose, input: [2, 1, 3], kernel: [1, 2, 3], stride: [2, 1, 2]}
  up-padded: {op: conv_transpose, input: [3, 4], kernel: [4, 4], stride: [2, 2], padding: [1, 1]}
  up-asymmetric: {op: conv_transpose, input: [3, 4], kernel: [4, 3], stride: [2, 1], padding: 1, output_padding: [1, 0]}
  up-sized: {op: conv_transpose, input: [3, 4], kernel: 3, stride: 2, padding: 1, output_size: [6, 7]}
  up-cropped-at-the-end: {op: conv_transpose, input: [4, 3], kernel: [3, 4], padding: [[0, 2], [1, 1]]}
  up-dilated: {op: conv_transpose, input: [3, 4], kernel: [2, 3], dilation: [3, 2]}
  up-grouped: {op: conv_transpose, input: [3, 4], kernel: [2, 3], in_channels: 6, out_channels: 4, groups: 2}
  up-beyond-the-stride: {op: conv_transpose, input: [3], kernel: 2, dilation: 3, output_padding: 2}
  up-same: {op: conv_transpose, input: [3, 4], kernel: [3, 4], stride: [2, 3], padding: same, bias: true}
  up-same-even-unpadded: {op: conv_transpose, input: [3], kernel: 2, padding: same, output_padding: 0}
  up-valid-kernel-below-stride: {op: conv_transpose, input: [3, 2], kernel: [1, 2], stride: [2, 3], padding: valid}
  up-same-upper: {op: conv_transpose, input: [3, 4], kernel: [3, 4], stride: 2, auto_pad: SAME_UPPER}
  up-output-shape: {op: conv_transpose, input: [3, 4], kernel: 3, stride: 2, output_shape: [6, 8]}

  gradient-1d: {op: conv_input_gradient, input: [7], kernel: 3, stride: 2}
  gradient-2d: {op: conv_input_gradient, input: [6, 5], kernel: [3, 2], stride: [2, 3], padding: [1, 0]}
  gradient-3d: {op: conv_input_gradient, input: [4, 3, 5], kernel: [2, 1, 3], stride: [2, 1, 1]}
  gradient-same: {op: conv_input_gradient, input: [5, 6], kernel: [3, 4], padding: same}
"""

UNSUPPORTED = {
    "conv-2d": {"keras": "same or valid only", "keras-ops": "same or valid only"},
    "conv-2d-uneven": dict.fromkeys(KERAS, "same or valid only") | {"torch": "pad 2 at the beginning and 0 at the end"},
    "conv-same": dict.fromkeys(ONNX, "auto_pad is another spelling"),
    "conv-same-strided": dict.fromkeys(ONNX, "another spelling") | {"torch": "padding='same' needs stride 1, not 3"},
    "conv-same-upper": dict.fromkeys(FORWARD - ONNX, "no auto_pad=SAME_UPPER"),
    "conv-same-lower": dict.fromkeys(FORWARD - ONNX, "no auto_pad=SAME_LOWER"),
    "up-1d": dict.fromkeys(GRADIENTS, "a gradient has no bias"),
    "up-2d": dict.fromkeys(GRADIENTS, "a gradient has no bias"),
    "up-asymmetric": dict.fromkeys(KERAS, "keras cannot crop ((1, 0), (1, 1))"),
    "up-sized": dict.fromkeys(KERAS, "keras cannot crop ((1, 0), (1, 1))"),
    "up-cropped-at-the-end": {"torch": "crop 2 rows more at the end"}
    | dict.fromkeys(GRADIENTS, "pad 0 at the beginning and 2 at the end")
    | dict.fromkeys(KERAS, "keras cannot crop ((0, 2), (1, 1))"),
    "up-grouped": dict.fromkeys(KERAS, "keras has no groups in a transposed convolution, the case has 2"),
    "up-beyond-the-stride": {"tensorflow": "1-D convolutions pad by SAME or VALID only"}
    | dict.fromkeys(KERAS, "an output_padding less than the stride")
    | dict.fromkeys(GRADIENTS, "pad 0 at the beginning and -2 at the end")
    | {"onnxruntime": "output_padding (2) may be too large for stride (1)"},
    "up-same": dict.fromkeys(ONNX, "ONNX has no Keras 'same'")
    | dict.fromkeys(GRADIENTS | {"torch", "torch-direct"}, "no padding='same'"),
    "up-same-even-unpadded": dict.fromkeys(ONNX, "ONNX has no Keras 'same'")
    | dict.fromkeys(GRADIENTS | {"torch", "torch-direct"}, "no padding='same'")
    | {"tensorflow": "padding='SAME' does not join (3,) and (2,)"},
    "up-valid-kernel-below-stride": dict.fromkeys(ONNX, "ONNX has no Keras 'valid'")
    | dict.fromkeys(GRADIENTS | {"torch", "torch-direct"}, "no padding='valid'"),
    "up-same-upper": dict.fromkeys(set(TARGETS) - ONNX, "no auto_pad=SAME_UPPER"),
    "up-output-shape": dict.fromkeys(set(TARGETS) - ONNX, "no output_shape"),
    "gradient-same": {"torch-nn-grad": "torch.nn.grad has no padding='same'", "torch-direct": "no padding='same'"},
}
LACKS = {
    "torch": {"conv_input_gradient"},
    "torch-autograd": {"conv"},
    "torch-nn-grad": {"conv"},
    "torch-direct": {"conv"},
} | {name: {"conv_input_gradient"} for name in KERAS | ONNX}

# Where an API says the case, and the release that the tests run with may raise or be wrong: to be shown, not hidden.
FAULTS = {
    ("onnx-reference", "up-beyond-the-stride"),
    ("onnx-reference", "up-grouped"),
    ("onnx-reference", "up-output-shape"),
    ("keras", "up-same-even-unpadded"),
    ("keras-ops", "up-same-even-unpadded"),
}

# Where TensorFlow has a kernel on some processors (those that oneDNN serves) and not on others.
SOMETIMES = {(name, case) for name in ("tensorflow", *KERAS) for case in ("up-dilated", "up-grouped", "conv-grouped")}
NO_KERNEL = "not yet support|not supported on CPU"


def load(text: str) -> dict[str, Convolution]:
    """The cases of a suite, by name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "suite.yaml"
        path.write_text(text)
        return {case.id.partition("/")[2]: case for case in load_suite(path) if isinstance(case, Convolution)}


def one(entry: str) -> Convolution:
    """The case that a flow mapping writes down."""
    return load(f"suite: one\ncases: {{case: {{{entry}}}}}")["case"]


CASES = load(SUITE)


@functools.cache
def target(name: str) -> Target:
    return TARGETS[name]()


def draw(case: Convolution) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    dtype = FORMATS[case.dtype].dtype
    return {name: rng.integers(-3, 4, shape).astype(dtype) for name, shape in case.tensor_shapes.items()}


def by_definition(case: Convolution, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Tap t joins m of the small side with j = m * stride - begin + t * dilation of the large side."""
    x, w = (tensors[name].astype(np.float64) for name in ("input", "weight"))
    y = np.zeros(case.result_shapes["output"])
    width = case.large_channels // case.groups
    for m, t in itertools.product(positions(case.small), positions(case.kernel)):
        j = tuple(m[n] * a.stride - a.begin + t[n] * a.dilation for n, a in enumerate(case.axes))
        if not all(0 <= j[n] < a.large for n, a in enumerate(case.axes)):
            continue
        for small, within in positions((case.small_channels, width)):
            large = small // (case.small_channels // case.groups) * width + within
            ends = ((small, *m), (large, *j))
            source, sink = ends if case.transposed else ends[::-1]
            y[(slice(None), *sink)] += x[(slice(None), *source)] * w[(small, within, *t)]
    bias = tensors.get("bias", np.zeros(1)).astype(np.float64)
    return y + bias.reshape(-1, *[1] * case.rank)


def positions(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, shape))


def assert_right(name: str, case: Convolution) -> None:
    tensors = draw(case)
    output = target(name).run(case, tensors)["output"]
    assert output.dtype == FORMATS[case.dtype].dtype
    np.testing.assert_array_equal(output.astype(np.float64), by_definition(case, tensors))


def reason(name: str, case: Convolution) -> str:
    """Why the target declines the case."""
    with pytest.raises(Unsupported) as caught:
        target(name).run(case, draw(case))
    return str(caught.value)


def declines(name: str, case_name: str) -> str | None:
    """Words of the reason that the target must give, None if it must compute the case."""
    op = CASES[case_name].op
    return f"has no {op}" if op in LACKS.get(name, ()) else UNSUPPORTED.get(case_name, {}).get(name)


def pairs(wanted: Callable[[str, str], bool]) -> Any:
    chosen = [(name, case) for name in TARGETS for case in CASES if wanted(name, case)]
    return pytest.mark.parametrize(("name", "case_name"), chosen)


@pairs(lambda name, case: declines(name, case) is None and (name, case) not in FAULTS | SOMETIMES)
@of_torch
def test_a_target_computes_what_its_api_can_say(name: str, case_name: str) -> None:
    assert_right(name, CASES[case_name])


@pairs(lambda name, case: declines(name, case) is not None)
def test_a_target_declines_what_its_api_cannot_say(name: str, case_name: str) -> None:
    words = declines(name, case_name)
    assert words is not None
    assert words in reason(name, CASES[case_name])


@pairs(lambda name, case: (name, case) in FAULTS and declines(name, case) is None)
def test_a_fault_of_the_framework_is_not_told_as_unsupported(name: str, case_name: str) -> None:
    try:
        target(name).run(CASES[case_name], draw(CASES[case_name]))
    except Unsupported as declined:
        pytest.fail(f"hidden: {declined}")
    except Exception:
        return


@pairs(lambda name, case: (name, case) in SOMETIMES and declines(name, case) is None)
def test_tensorflow_without_a_kernel_is_unsupported(name: str, case_name: str) -> None:
    try:
        assert_right(name, CASES[case_name])
    except Unsupported as declined:
        if not re.search(NO_KERNEL, str(declined)):
            raise


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", TARGETS)
@of_keras
def test_every_dtype_comes_back_as_it_went_in(name: str, dtype: str) -> None:
    case = one(f"op: conv_transpose, input: [3, 4], kernel: [3, 2], stride: [1, 2], dtype: {dtype}, batch: 2")
    if name == "onnxruntime" and dtype in ("float64", "bfloat16"):
        assert f"onnxruntime in {dtype}: Could not find an implementation" in reason(name, case)
    else:
        assert_right(name, case)


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"tensorflow", "onnx-reference", *KERAS}))
def test_an_empty_batch_is_an_empty_result(name: str) -> None:
    case = one("op: conv_transpose, batch: 0, input: [3, 4], kernel: 3, stride: 2")
    assert target(name).run(case, draw(case))["output"].shape == (0, 1, 7, 9)


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_stay_as_they_are_even_read_only(name: str) -> None:
    case = one("op: conv_transpose, input: [4], kernel: 3, stride: 2")
    tensors = draw(case)
    for array in tensors.values():
        array.setflags(write=False)
    output = target(name).run(case, tensors)["output"]
    np.testing.assert_array_equal(output, by_definition(case, draw(case)))


@pytest.mark.parametrize("name", TARGETS)
def test_the_environment_is_text(name: str) -> None:
    environment = target(name).environment()
    assert environment
    assert all(isinstance(text, str) for item in environment.items() for text in item)


def test_names_carry_runtime_and_device() -> None:
    assert [target(name).name for name in TARGETS] == [
        "torch@cpu",
        "torch-autograd@cpu",
        "torch-nn-grad@cpu",
        "torch-direct@cpu",
        "tensorflow@cpu",
        "keras-tensorflow@cpu",
        "keras-ops-tensorflow@cpu",
        "onnxruntime@cpu",
        "onnx-reference@cpu",
    ]


def test_torch_takes_large_arrays_without_copying_them() -> None:
    torch_target = torch_targets.Torch()
    array = np.zeros((2, 3), np.float32)
    assert torch_target._tensor(array).data_ptr() == array.ctypes.data


def test_the_output_size_of_torch_adds_less_than_a_stride() -> None:
    uneven = one(
        "op: conv_transpose, input: [3], kernel: 4, stride: 2, dilation: 3, padding: [[2, 1]], output_size: [12]"
    )
    assert reason("torch", uneven) == "torch's output_size adds less than stride 2 rows, not 2"


@pytest.mark.parametrize(
    ("padding", "words"),
    [
        ("[-1, 0]", "torch's transposed convolution cannot add 1 rows at the beginning"),
        ("[0, 1]", "torch's transposed convolution cannot crop 1 rows more at the end"),
        ("[0, -3]", "torch's output_padding must be less than max(stride, dilation) = 3, not 3"),
    ],
)
def test_torch_crops_alike_at_both_ends_but_for_output_padding(padding: str, words: str) -> None:
    case = one(f"op: conv_transpose, input: [4], kernel: 3, stride: 2, dilation: 3, padding: [{padding}]")
    assert reason("torch", case) == words


@pytest.mark.parametrize("name", ["tensorflow", *sorted(KERAS)])
def test_a_kernel_that_tensorflow_lacks_is_told_in_its_words(name: str) -> None:
    case = one("op: conv_transpose, input: [4], kernel: 3, dilation: 2, dtype: float64, padding: same")
    assert "implementations do not yet support dilation rates larger than 1." in reason(name, case)


def test_a_case_that_names_its_words_is_said_in_them() -> None:
    """Here same and valid, and output_padding 0 and None, come to the same crop."""
    assert tensorflow_convolution.padding(one("op: conv, input: [3], kernel: 1, padding: same")) == "SAME"
    spelled = one("op: conv_transpose, input: [3], kernel: 3, padding: same, output_padding: 0")
    assert keras_targets._transposed_padding(spelled) == ("same", (0,))


def test_two_keras_backends_do_not_fit_into_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    target("keras")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    with pytest.raises(RuntimeError, match="already runs Keras on tensorflow; torch needs a process of its own"):
        keras_targets.KerasLayers(backend="torch")


def test_keras_finds_its_words_for_a_crop_given_in_numbers() -> None:
    """same crops ((i - 1) s + k^ - i s) / 2 at the beginning, with output_padding another number of rows."""
    for entry in (
        "input: [4], kernel: 3, stride: 1, padding: 1",  # same, for its output has the input's size
        "input: [4], kernel: 4, stride: 2, padding: 1",  # the same with an even kernel
        "input: [4], kernel: 5, stride: 3, padding: 2",  # same with output_padding 0
        "input: [4], kernel: 2, stride: 3, output_padding: 1",  # valid, extended to i s
        "input: [4], kernel: 5, stride: 3, output_padding: 2",  # valid with output_padding 2
    ):
        for name in KERAS:
            assert_right(name, one(f"op: conv_transpose, {entry}"))


@pytest.mark.parametrize(
    ("framework_says", "told"),
    [
        ("\"slow_conv2d_cpu\" not implemented for 'Half'", True),
        ("Exception encountered when calling Conv1DTranspose.call().\n\n\x1b[1m{{function_node x}} Current CPU "
         "implementations do not yet support dilation rates larger than 1. [Op:Conv2DBackpropInput]\x1b[0m", True),
        ("could not create a primitive descriptor for the convolution forward propagation primitive", False),
        ("expected size of input's dimension 2 to match the calculated number of sliding blocks", False),
    ],
)  # fmt: skip
def test_only_a_missing_kernel_counts_as_a_refusal(framework_says: str, told: bool) -> None:
    expected = Unsupported if told else RuntimeError
    with pytest.raises(expected) as caught, refusals("framework"):
        raise RuntimeError(framework_says)
    assert "\x1b" not in str(caught.value) or not told
    assert "\n" not in str(caught.value)


def test_a_word_means_what_tensorflow_documents() -> None:
    """SAME: ceil(i / s) outputs and half of the missing rows, rounded down, at the beginning; VALID: no padding."""
    same = one("op: conv, input: [5], kernel: 4, stride: 2, padding: same").axes[0]
    assert (same.begin, same.small) == (1, 3)
    assert word_gives("same", same)
    assert not word_gives("valid", same)
    assert not word_gives("same", one("op: conv, input: [5], kernel: 4, stride: 2, padding: [[2, 1]]").axes[0])


def test_the_graph_spells_the_case() -> None:
    assert attributes(CASES["up-asymmetric"]) == {
        "kernel_shape": [4, 3],
        "strides": [2, 1],
        "dilations": [1, 1],
        "group": 1,
        "pads": [1, 1, 1, 1],
        "output_padding": [1, 0],
    }
    assert attributes(CASES["up-cropped-at-the-end"])["pads"] == [0, 1, 2, 1]
    assert attributes(CASES["conv-same-lower"])["auto_pad"] == "SAME_LOWER"
    assert attributes(CASES["up-output-shape"])["output_shape"] == [6, 8]
    assert "pads" not in attributes(CASES["up-output-shape"])
    assert attributes(CASES["up-sized"])["output_padding"] == [1, 0]


def test_rows_added_at_the_end_are_output_padding_for_onnx() -> None:
    spelled = attributes(one("op: conv_transpose, input: [3], kernel: 3, stride: 2, padding: [[1, -1]]"))
    assert spelled["pads"] == [1, 0]
    assert spelled["output_padding"] == [1]
    for pads in ("[-1, 0]", "[0, -2]"):
        case = one(f"op: conv_transpose, input: [3], kernel: 3, stride: 2, padding: [{pads}]")
        assert "ONNX pads are not negative" in reason("onnxruntime", case)


def test_given_constants_are_part_of_the_graph_and_the_rest_is_fed() -> None:
    case = CASES["up-2d"]
    tensors = draw(case)
    graph = one_node_model(case, {"weight": tensors["weight"]}).graph
    assert [value.name for value in graph.input] == ["input", "bias"]
    assert [value.name for value in graph.initializer] == ["weight"]
    assert [size.WhichOneof("value") for size in graph.output[0].type.tensor_type.shape.dim] == [None] * 4


def test_small_weights_are_constants_and_large_ones_are_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    constants: list[set[str]] = []

    def spy(case: Convolution, given: Mapping[str, np.ndarray], opset: int) -> Any:
        constants.append(set(given))
        return one_node_model(case, given, opset)

    monkeypatch.setattr(onnx_target, "one_node_model", spy)
    assert_right("onnxruntime", CASES["up-2d"])
    monkeypatch.setattr(onnxruntime_target.OnnxRuntime, "largest_constants", 100)
    assert_right("onnxruntime", CASES["up-2d"])
    assert constants == [{"weight", "bias"}, set()]


def test_an_older_onnxruntime_gets_an_older_opset(monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    session = onnxruntime_target.OnnxRuntime._session

    def of_an_older_release(self: onnxruntime_target.OnnxRuntime, model: Any) -> Any:
        if onnx.load_model_from_string(model).opset_import[0].version > 17:
            raise RuntimeError("opset 18 is under development")
        return session(self, model)

    monkeypatch.setattr(onnxruntime_target.OnnxRuntime, "_session", of_an_older_release)
    assert onnxruntime_target.OnnxRuntime().opset == 17


def test_the_reference_evaluator_is_spared_large_cases() -> None:
    case = one("op: conv_transpose, input: [500, 500], kernel: 3")
    assert reason("onnx-reference", case) == "pure-Python evaluator: 2,250,000 products, more than 2,000,000"


MODULES = sorted({factory.__module__ for factory in TARGETS.values()} | {"conformance.targets.onnx_graph"})
IMPORTED = "import sys; print(*{'torch', 'tensorflow', 'keras', 'onnx', 'onnxruntime'} & sys.modules.keys())"


def imported_after(statement: str) -> str:
    command = [sys.executable, "-c", f"{statement}; {IMPORTED}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_targets_imports_no_framework() -> None:
    assert imported_after(f"import {', '.join(MODULES)}") == ""


def test_the_test_above_can_fail() -> None:
    made = "from conformance.targets.onnx_reference import OnnxReference; OnnxReference()"
    assert imported_after(made) == "onnx"
