"""The key `onnx`, and what ONNX's own spellings of pooling and unpooling come to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from conformance.arithmetic import onnx_readings
from conformance.errors import SpecError
from conformance.spec import MaxPool, OnnxWords, case_digest, load_suite, make_case, suite_schema

Load = Callable[[str], list[Any]]
SCHEMA = jsonschema.Draft202012Validator(suite_schema())
POOL = "op: max_pool, input: [6, 7], kernel: 3, stride: 2"
UNPOOL = "op: max_unpool, overlap: assign, input: [3, 4], kernel: 2"
TRANSPOSED = "op: conv_transpose, input: [3, 4], kernel: 3, stride: 2"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(keys: str) -> list[Any]:
        path = tmp_path / "s.yaml"
        path.write_text(f"suite: s\ncases:\n  c: {{{keys}}}\n")
        return load_suite(path, "s.yaml")

    return load


def test_words_are_read(load: Load) -> None:
    words = "{opset: 11, omit: [kernel_shape, group], weights: input, pads: [[1, 0], 2]}"
    (case,) = load(f"{TRANSPOSED}, output_shape: [6, 8], onnx: {words}")
    assert case.onnx == OnnxWords(11, ("kernel_shape", "group"), "input", ((1, 0), (2, 2)))
    assert case.opset == 11
    (case,) = load(f"{POOL}, onnx: {{storage_order: 1, indices: false}}")
    assert case.onnx == OnnxWords(storage_order=1, indices=False)
    assert case.opset is None


def test_words_are_told_as_far_as_they_say_something() -> None:
    assert str(OnnxWords(opset=8, indices=False)) == "opset 8, indices False"
    assert str(OnnxWords()) == ""


def test_one_attribute_may_be_omitted_without_a_list(load: Load) -> None:
    (case,) = load(f"{TRANSPOSED}, onnx: {{omit: kernel_shape}}")
    assert case.onnx.omit == ("kernel_shape",)


def test_words_are_part_of_what_a_case_says(load: Load) -> None:
    texts = ("", ", onnx: {}", ", onnx: {opset: 11}", ", onnx: {opset: 22}", ", onnx: {weights: input}")
    digests = {case_digest(load(TRANSPOSED + text)[0]) for text in texts}
    assert len(digests) == len(texts)


def test_the_words_of_a_matrix_are_part_of_the_id(load: Load) -> None:
    cases = load(f"{TRANSPOSED}, matrix: {{onnx: [{{opset: 11}}, {{opset: 22, omit: [group, dilations]}}]}}")
    assert [case.id for case in cases] == ["s/c[onnx=opset:11]", "s/c[onnx=opset:22+omit:groupxdilations]"]


def test_a_pooling_without_indices_gives_its_values_alone(load: Load) -> None:
    (case,) = load(f"{POOL}, onnx: {{indices: false}}")
    assert list(case.result_shapes) == ["output"]
    assert case.stages[0].gives == ("output",)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (f"{TRANSPOSED}, onnx: 11", "onnx: expected a mapping, got 11"),
        (f"{TRANSPOSED}, onnx: {{opsets: 11}}", "onnx.opsets: unknown key; did you mean opset?"),
        (f"{TRANSPOSED}, onnx: {{opset: 0}}", "onnx.opset: expected an integer from 1 to 99, got 0"),
        (f"{TRANSPOSED}, onnx: {{opset: true}}", "onnx.opset: expected an integer from 1 to 99, got true"),
        (f"{TRANSPOSED}, onnx: {{omit: shape}}",
         "onnx.omit: expected one or a list of kernel_shape, strides, dilations, group, pads, got \"shape\""),
        (f"{TRANSPOSED}, onnx: {{omit: []}}",
         "onnx.omit: expected one or a list of kernel_shape, strides, dilations, group, pads, got []"),
        (f"{TRANSPOSED}, onnx: {{omit: strides}}", "stride: expected 1, the default of strides that are left out"),
        (f"{TRANSPOSED}, dilation: [1, 2], onnx: {{omit: dilations}}",
         "dilation: expected 1, the default of dilations that are left out"),
        (f"{TRANSPOSED}, in_channels: 2, out_channels: 2, groups: 2, onnx: {{omit: group}}",
         "groups: expected 1, the default of group that are left out"),
        (f"{TRANSPOSED}, padding: [0, [0, 1]], onnx: {{omit: pads}}",
         "padding: expected 0, the default of pads that are left out"),
        (f"{TRANSPOSED}, onnx: {{weights: constant}}",
         'onnx.weights: expected one of initializer, input, overridable, got "constant"'),
        (f"{TRANSPOSED}, onnx: {{pads: 1}}",
         "onnx.pads: expected them only beside auto_pad or output_shape; padding says the others"),
        (f"{TRANSPOSED}, auto_pad: NOTSET, onnx: {{pads: 1}}",
         "onnx.pads: expected them only beside auto_pad or output_shape; padding says the others"),
        (f"{TRANSPOSED}, auto_pad: VALID, onnx: {{pads: [[0, -1], 0]}}", "onnx.pads: expected no negative pads"),
        (f"{TRANSPOSED}, auto_pad: VALID, onnx: {{pads: 9}}",
         "onnx.pads: impossible shape: with these pads there would be no output"),
        (f"{TRANSPOSED}, auto_pad: VALID, onnx: {{pads: [1]}}",
         "onnx.pads: expected 2 values, one per axis of input, got 1"),
        (f"{TRANSPOSED}, auto_pad: VALID, onnx: {{pads: same}}",
         'onnx.pads: expected an integer, or one integer or [begin, end] pair per spatial axis, got "same"'),
        (f"{TRANSPOSED}, onnx: {{storage_order: 1}}",
         "onnx.storage_order: no word of conv_transpose; expected opset, omit, weights, pads"),
        (f"{TRANSPOSED}, dtype: bfloat16, onnx: {{opset: 21}}",
         "onnx.opset: expected at least 22, the first with ConvTranspose in bfloat16, got 21"),
        (f"{TRANSPOSED}, data: adjoint, onnx: {{}}",
         "data: no adjoint data: words of ONNX say how one node is written, and a property needs two"),
        ("op: conv_input_gradient, input: [3], kernel: 1, onnx: {}",
         "onnx: expected op conv, conv_transpose, max_pool, max_unpool; conv_input_gradient is no operator of ONNX"),
        (f"{POOL}, onnx: {{weights: input}}",
         "onnx.weights: no word of max_pool; expected opset, omit, pads, storage_order, indices"),
        (f"{POOL}, onnx: {{storage_order: 2}}", "onnx.storage_order: expected an integer from 0 to 1, got 2"),
        (f"{POOL}, onnx: {{omit: group}}",
         "onnx.omit: expected some of strides, dilations, pads for max_pool, got group"),
        (f"{POOL}, onnx: {{opset: 7}}",
         "onnx.opset: expected at least 8, the first with indices of MaxPool (indices: false asks for none), got 7"),
        (f"{POOL}, onnx: {{opset: 7, indices: false, storage_order: 0}}",
         "onnx.opset: expected at least 8, the first with storage_order of MaxPool, got 7"),
        (f"{POOL}, dilation: 2, onnx: {{opset: 9}}",
         "onnx.opset: expected at least 10, the first with dilations of MaxPool, got 9"),
        (f"{POOL}, ceil_mode: true, onnx: {{opset: 9}}",
         "onnx.opset: expected at least 10, the first with ceil_mode of MaxPool, got 9"),
        (f"{POOL}, magnitude: true, onnx: {{}}",
         "magnitude: expected none beside onnx: MaxPool takes the largest value"),
        (f"{POOL}, auto_pad: VALID, padding: 1", "padding: expected no padding beside auto_pad: VALID"),
        (f"{POOL}, auto_pad: SAME", 'auto_pad: expected one of NOTSET, SAME_UPPER, SAME_LOWER, VALID, got "SAME"'),
        (f"{POOL}, auto_pad: VALID, onnx: {{pads: 4}}",
         "onnx.pads: expected an element in every window, with these pads one has none"),
        (f"{UNPOOL}, onnx: {{opset: 8}}", "onnx.opset: expected at least 9, the first with MaxUnpool, got 8"),
        (f"{UNPOOL}, onnx: {{indices: false}}", "onnx.indices: no word of max_unpool; expected opset, omit"),
        (UNPOOL.replace("assign", "sum") + ", onnx: {}", "overlap: expected assign, as ONNX's MaxUnpool does, got sum"),
        (UNPOOL.replace("assign", "sum") + ", output_shape: 9",
         "overlap: expected assign, as ONNX's MaxUnpool does, got sum"),
        (f"{UNPOOL}, output_shape: 9, output_size: 7",
         "output_shape: expected no other spelling of the size beside output_size"),
        (f"{UNPOOL}, output_shape: [4, 8]",
         "output_shape: expected an element in every window, one on axis 0 lies in the padding"),
    ],
)  # fmt: skip
def test_a_mistake_with_words_is_told_in_a_line(load: Load, keys: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(keys)
    assert str(caught.value) == f"s.yaml:3: cases.c.{said}"


@pytest.mark.parametrize(
    "words",
    [
        "{opset: 1}",
        "{omit: [strides]}",
        "{omit: strides, weights: overridable}",
        "{pads: [[1, 0], 2]}",
        "{indices: false, storage_order: 1}",
    ],
)
def test_the_schema_knows_the_words(words: str) -> None:
    SCHEMA.validate(_document(words))


@pytest.mark.parametrize(
    "words", ["{opset: 0}", "{opsets: 1}", "{omit: shape}", "{weights: 1}", "{storage_order: 2}", "{indices: 1}", "3"]
)
def test_the_schema_refuses_what_is_no_word(words: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate(_document(words))


def _document(words: str) -> Any:
    import yaml

    return yaml.safe_load(f"suite: s\ncases: {{c: {{op: conv_transpose, input: [3], kernel: 1, onnx: {words}}}}}")


# ---- auto_pad of a pooling, by counting windows ----


@pytest.mark.parametrize("word", ["SAME_UPPER", "SAME_LOWER"])
def test_same_gives_a_window_for_every_stride_and_the_odd_row_to_its_end(load: Load, word: str) -> None:
    for size, kernel, stride, dilation in itertools.product((5, 6, 9), (1, 2, 3, 4), (1, 2, 3), (1, 2)):
        keys = f"op: max_pool, input: [{size}], kernel: {kernel}, stride: {stride}, dilation: {dilation}"
        (case,) = load(f"{keys}, auto_pad: {word}")
        (axis,) = case.axes
        assert axis.small == math.ceil(size / stride)
        reach = (axis.small - 1) * stride + (kernel - 1) * dilation + 1
        added = max(reach - size, 0)
        assert axis.begin == (added // 2 if word == "SAME_UPPER" else added - added // 2)


def test_valid_counts_the_windows_that_fit_whatever_ceil_mode_says(load: Load) -> None:
    for size, kernel, stride, ceil in itertools.product((5, 6, 9), (2, 3), (1, 2, 4), ("true", "false")):
        keys = f"op: max_pool, input: [{size}], kernel: {kernel}, stride: {stride}, ceil_mode: {ceil}"
        (case,) = load(f"{keys}, auto_pad: VALID")
        assert case.small == (len(range(0, size - kernel + 1, stride)),)


@pytest.mark.parametrize(
    ("keys", "readings"),
    [
        (f"{POOL}, ceil_mode: true, padding: [[1, 1], [1, 2]], onnx: {{opset: 22}}", 0),
        (f"{POOL}, ceil_mode: true, padding: [[1, 1], [1, 2]], onnx: {{opset: 21}}", 2),
        (f"{POOL}, ceil_mode: true, padding: [[1, 1], [1, 2]]", 0),
        (f"{POOL}, ceil_mode: true, onnx: {{opset: 12}}", 0),
        (f"{POOL}, auto_pad: SAME_UPPER", 0),
        ("op: max_pool, input: [6], kernel: 1, stride: 4, auto_pad: SAME_UPPER", 3),
        ("op: max_pool, input: [5], kernel: 1, stride: 3, auto_pad: SAME_UPPER", 3),
        ("op: max_pool, input: [6], kernel: 1, stride: 3, auto_pad: SAME_LOWER", 2),
        ("op: max_pool, input: [6], kernel: 2, stride: 1, onnx: {opset: 10, omit: strides}", 2),
        ("op: max_pool, input: [6], kernel: 2, stride: 1, onnx: {opset: 11, omit: strides}", 0),
        ("op: max_pool, input: [6], kernel: 1, stride: 1, onnx: {opset: 8, omit: strides}", 0),
        (f"{POOL}, onnx: {{storage_order: 1}}", 0),
        (f"{POOL}, batch: 2, onnx: {{storage_order: 1}}", 2),
        (f"{POOL}, channels: 2, onnx: {{storage_order: 1, indices: false}}", 0),
        (f"{POOL}, channels: 2, onnx: {{storage_order: 0}}", 0),
        (f"{POOL}, auto_pad: VALID, onnx: {{pads: 0}}", 0),
        (f"{POOL}, auto_pad: VALID, onnx: {{pads: 1}}", 2),
        (f"{POOL}, batch: 2, auto_pad: VALID, onnx: {{pads: 1, storage_order: 1}}", 3),
    ],
)
def test_a_pooling_lists_its_readings_where_the_text_is_open(load: Load, keys: str, readings: int) -> None:
    (case,) = load(keys)
    assert len(case.readings) == readings
    if readings:
        assert case.readings[0].axes == case.axes
        assert len({reading.name for reading in case.readings}) == readings


@pytest.mark.parametrize(
    ("keys", "readings"),
    [
        ("output_padding: 1, padding: 1, onnx: {opset: 1}", 2),
        ("output_padding: 1, padding: 1, onnx: {opset: 11}", 0),
        ("output_padding: 1, padding: 1", 0),
        ("output_padding: 0, padding: 1, onnx: {opset: 1}", 0),
        ("auto_pad: SAME_UPPER, onnx: {opset: 11}", 0),
        ("auto_pad: SAME_UPPER, onnx: {opset: 10}", 4),
        ("output_shape: [6, 8], onnx: {opset: 10}", 2),
        ("output_shape: [5, 7], onnx: {opset: 10}", 0),
        ("output_shape: [6, 8], auto_pad: VALID", 2),
        ("output_shape: [7, 9], auto_pad: VALID", 0),
        ("output_shape: [6, 8], onnx: {pads: 1}", 0),
        ("auto_pad: VALID, onnx: {pads: 1}", 2),
        ("auto_pad: SAME_UPPER, onnx: {pads: [[0, 1], [0, 1]]}", 0),
    ],
)
def test_a_transposed_convolution_lists_its_readings_where_the_text_is_open(
    load: Load, keys: str, readings: int
) -> None:
    (case,) = load(f"{TRANSPOSED}, {keys}")
    assert len(case.readings) == readings
    if readings:
        assert case.readings[0][1] == case.axes
        assert len({axes for _, axes in case.readings}) == readings


@pytest.mark.parametrize(
    ("opset", "readings"),
    [(1, {"ceil(input / stride)": (1, 2), "output as large as the input": (5, 6)}), (11, {}), (None, {})],
)
def test_same_of_the_first_convolution_may_match_the_input(
    opset: int | None, readings: dict[str, tuple[int, int]]
) -> None:
    """Nine inputs, kernel 4, stride 2: five outputs need 3 rows, nine outputs 11."""
    assert onnx_readings.same_readings(9, 4, 2, "SAME_UPPER", opset) == readings


def test_unpooling_to_an_output_shape_has_the_size_that_is_asked_for(load: Load) -> None:
    for shape in ("[6, 8]", "[7, 8]", "[9, 30]", "[5, 7]"):
        (case,) = load(f"{UNPOOL}, output_shape: {shape}")
        assert list(case.large) == [int(n) for n in shape.strip("[]").split(",")]
        assert case.inferred == (6, 8)
    (case,) = load(f"{UNPOOL}, padding: [[1, 0], 0], output_shape: [7, 9]")
    assert (case.inferred, case.unpadded) == ((5, 8), (6, 8))


def test_an_even_negative_total_has_one_half_however_that_of_another_axis_is_rounded() -> None:
    """Rows left out by two and by one: half of -2 is -1 either way, half of -1 is -1 or 0."""
    case = make_case(op="max_pool", input=[7, 6], kernel=1, stride=4, auto_pad="SAME_UPPER")
    assert isinstance(case, MaxPool)
    begins = {reading.name.partition(",")[2]: tuple(axis.begin for axis in reading.axes) for reading in case.readings}
    assert begins == {"": (0, 0), " half rounded down": (-1, -1), " half rounded towards zero": (-1, 0)}
