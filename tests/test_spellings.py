"""What frameworks mean by padding, ``same``, auto_pad and the like, against measured tables and plain counting."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from conformance.arithmetic import Axis, onnx_readings
from conformance.arithmetic import spellings as spell

SIZES = range(1, 13)
EXTENTS = range(1, 9)
STRIDES = range(1, 6)


def positions(padded: int, extent: int, stride: int) -> int:
    """How often a kernel can be put down in a padded row."""
    return sum(1 for start in range(0, padded, stride) if start + extent <= padded)


def covered(small: int, extent: int, stride: int) -> list[int]:
    """The rows of a full transposed convolution, numbered from 0: all up to the last that a kernel covers."""
    last = max(m * stride + tap for m in range(small) for tap in range(extent))
    return list(range(last + 1))


def kept(rows: list[int], crop: tuple[int, int]) -> list[int]:
    """The rows that are left, numbered as in the full result; numbers outside it are rows that were added."""
    begin, end = crop
    return list(range(rows[0] + begin, rows[-1] + 1 - end))


def configurations() -> Iterator[tuple[int, int, int]]:
    yield from itertools.product(SIZES, EXTENTS, STRIDES)


# ---- Keras and TensorFlow ----


def test_same_convolution_has_one_output_for_every_started_stride() -> None:
    for size, extent, stride in configurations():
        pair = spell.convolution_same(size, extent, stride)
        started = len(range(0, size, stride))
        assert positions(size + sum(pair), extent, stride) == started
        assert spell.convolution_size(size, extent, stride, pair) == started


def test_same_convolution_pads_no_more_than_it_must() -> None:
    for size, extent, stride in configurations():
        started = len(range(0, size, stride))
        least = next(zeros for zeros in itertools.count() if positions(size + zeros, extent, stride) >= started)
        assert sum(spell.convolution_same(size, extent, stride)) == least


def test_an_odd_row_of_same_padding_lies_at_the_end_unless_asked_otherwise() -> None:
    odd = 0
    for size, extent, stride in configurations():
        begin, end = spell.convolution_same(size, extent, stride)
        assert end - begin in (0, 1)
        assert spell.convolution_same(size, extent, stride, "begin") == (end, begin)
        odd += end - begin
    assert odd > 100


@pytest.mark.parametrize(
    ("size", "extent", "stride", "padding"),
    [
        (4, 3, 2, (0, 1)),
        (5, 3, 2, (1, 1)),
        (6, 3, 2, (0, 1)),
        (8, 2, 1, (0, 1)),
        (7, 4, 2, (1, 2)),
        (224, 7, 2, (2, 3)),
        (224, 3, 2, (0, 1)),
        (6, 1, 2, (0, 0)),
        (7, 2, 3, (0, 1)),
        (6, 2, 3, (0, 0)),
    ],
)
def test_tensorflow_pads_a_same_convolution(size: int, extent: int, stride: int, padding: tuple[int, int]) -> None:
    """Worked with the formulas of tf.nn.convolution: in % stride == 0 or not."""
    rest = size % stride or stride
    total = max(extent - rest, 0)
    assert (total // 2, total - total // 2) == padding
    assert spell.convolution_same(size, extent, stride) == padding


def test_transposed_same_undoes_convolution_same() -> None:
    """The transpose of a ``same`` convolution has the very same C: same sizes, same beginning."""
    for large, extent, stride in configurations():
        begin, end = spell.convolution_same(large, extent, stride)
        small = positions(large + begin + end, extent, stride)
        crop = spell.transposed_same(small, large, extent, stride)
        assert crop[0] == begin
        assert len(kept(covered(small, extent, stride), crop)) == large
        axis = Axis(large=large, small=small, kernel=extent, stride=stride, begin=begin)
        assert crop == (axis.begin, axis.end)


def test_a_kernel_below_the_stride_leaves_rows_to_be_added_at_the_end() -> None:
    assert spell.transposed_same(small=4, large=8, extent=1, stride=2) == (0, -1)
    assert spell.transposed_same(small=3, large=9, extent=2, stride=3) == (0, -1)
    assert spell.transposed_same(small=3, large=8, extent=2, stride=3) == (0, 0)


@pytest.mark.parametrize(
    ("kernel", "stride", "output_padding", "size", "crop"),
    [
        (3, 2, None, 8, (0, 1)),
        (3, 2, 0, 7, (1, 1)),
        (3, 2, 1, 8, (0, 1)),
        (4, 2, None, 8, (1, 1)),
        (4, 2, 0, 6, (2, 2)),
        (4, 2, 1, 7, (1, 2)),
        (5, 2, None, 8, (1, 2)),
        (5, 2, 0, 7, (2, 2)),
        (5, 2, 1, 8, (1, 2)),
        (2, 2, None, 8, (0, 0)),
        (2, 2, 1, 7, (0, 1)),
        (1, 2, None, 8, (0, -1)),
        (1, 3, None, 12, (0, -2)),
        (3, 1, None, 4, (1, 1)),
        (4, 1, None, 4, (1, 2)),
        (5, 3, 2, 12, (1, 1)),
    ],
)
def test_keras_same_crops_as_measured(
    kernel: int, stride: int, output_padding: int | None, size: int, crop: tuple[int, int]
) -> None:
    """Four inputs; sizes and crops as Keras 3.15.1 gave them, on its PyTorch backend."""
    assert spell.keras_transposed_size(4, kernel, stride, "same", output_padding) == size
    assert spell.keras_transposed(4, kernel, stride, "same", output_padding) == crop
    assert len(kept(covered(4, kernel, stride), crop)) == size


def test_keras_output_padding_moves_the_crop_at_the_beginning() -> None:
    """Unlike PyTorch's, which only ever adds at the end."""
    assert spell.keras_transposed(4, 3, 2, "same", 0)[0] == 1
    assert spell.keras_transposed(4, 3, 2, "same", 1)[0] == 0
    assert {spell.explicit_transposed((1, 1), added)[0] for added in (0, 1)} == {1}


@pytest.mark.parametrize(
    ("kernel", "stride", "output_padding", "size", "crop"),
    [
        (3, 2, None, 9, (0, 0)),
        (3, 2, 0, 9, (0, 0)),
        (3, 2, 1, 10, (0, -1)),
        (1, 2, None, 8, (0, -1)),
        (1, 2, 0, 7, (0, 0)),
        (2, 4, None, 16, (0, -2)),
        (4, 1, None, 7, (0, 0)),
    ],
)
def test_keras_valid_extends_at_the_end_as_measured(
    kernel: int, stride: int, output_padding: int | None, size: int, crop: tuple[int, int]
) -> None:
    assert spell.keras_transposed_size(4, kernel, stride, "valid", output_padding) == size
    assert spell.keras_transposed(4, kernel, stride, "valid", output_padding) == crop


def test_keras_without_output_padding_gives_stride_rows_for_each_input() -> None:
    for small, extent, stride in configurations():
        same = kept(covered(small, extent, stride), spell.keras_transposed(small, extent, stride, "same", None))
        assert len(same) == small * stride
        valid = kept(covered(small, extent, stride), spell.keras_transposed(small, extent, stride, "valid", None))
        assert valid[0] == 0
        assert len(valid) == max(len(covered(small, extent, stride)), small * stride)


def test_keras_output_padding_counts_from_the_rounded_half_kernel() -> None:
    """With ``same``, ``(i - 1) s + k - 2 (k // 2) + op`` rows; the shorter half is cropped at the beginning."""
    for small, extent, stride in configurations():
        for added in range(stride):
            crop = spell.keras_transposed(small, extent, stride, "same", added)
            rows = kept(covered(small, extent, stride), crop)
            assert len(rows) == (small - 1) * stride + extent - 2 * (extent // 2) + added
            excess = len(covered(small, extent, stride)) - len(rows)
            assert crop[0] == (excess // 2 if excess > 0 else 0)


# ---- PyTorch ----


@pytest.mark.parametrize(
    ("padding", "output_padding", "crop"),
    [((1, 1), 1, (1, 0)), ((1, 1), 0, (1, 1)), ((0, 0), 1, (0, -1)), ((2, 1), 2, (2, -1)), ((-1, 0), 0, (-1, 0))],
)
def test_explicit_padding_crops_and_output_padding_keeps_rows_at_the_end(
    padding: tuple[int, int], output_padding: int, crop: tuple[int, int]
) -> None:
    assert spell.explicit_transposed(padding, output_padding) == crop


def test_torch_padding_1_output_padding_1_is_not_what_keras_calls_same() -> None:
    """Kernel 3, stride 2: eight rows both times, one row apart (keras-team/keras#22876)."""
    torch, keras = spell.explicit_transposed((1, 1), 1), spell.keras_transposed(4, 3, 2, "same", None)
    assert (torch, keras) == ((1, 0), (0, 1))
    rows = covered(4, 3, 2)
    assert kept(rows, torch) == [row + 1 for row in kept(rows, keras)]


def test_output_size_is_output_padding_by_another_name() -> None:
    for small, extent, stride in configurations():
        for padding, added in itertools.product(range(extent), range(stride)):
            size = len(kept(covered(small, extent, stride), spell.explicit_transposed((padding, padding), added)))
            if size:
                assert spell.output_padding_for_size(small, extent, stride, (padding, padding), size) == added


# ---- ONNX ----


def onnx_pads(small: int, extent: int, stride: int, added: int, size: int, auto_pad: str) -> tuple[int, int]:
    """The pseudo code of the operator's text, line by line, for totals that are not negative."""
    total_padding = stride * (small - 1) + added + extent - size
    if auto_pad == "SAME_UPPER":
        return total_padding // 2, total_padding - total_padding // 2
    return total_padding - total_padding // 2, total_padding // 2


@pytest.mark.parametrize(
    ("kernel", "stride", "added", "size", "auto_pad", "crop"),
    [
        (3, 2, 0, 8, "NOTSET", (1, 0)),
        (3, 2, 0, 8, "SAME_UPPER", (0, 1)),
        (3, 2, 0, 8, "SAME_LOWER", (1, 0)),
        (3, 2, 1, 8, "SAME_UPPER", (1, 0)),
        (3, 2, 0, 7, "NOTSET", (1, 1)),
        (3, 2, 0, 9, "NOTSET", (0, 0)),
        (3, 2, 1, 10, "NOTSET", (0, -1)),
        (4, 3, 0, 12, "NOTSET", (1, 0)),
        (4, 3, 0, 12, "SAME_UPPER", (0, 1)),
        (5, 3, 0, 11, "NOTSET", (2, 1)),
        (5, 3, 0, 11, "SAME_UPPER", (1, 2)),
    ],
)
def test_onnx_splits_an_output_shape_as_measured(
    kernel: int, stride: int, added: int, size: int, auto_pad: spell.AutoPad, crop: tuple[int, int]
) -> None:
    """Four inputs; crops as ONNX Runtime 1.31 gave them."""
    assert spell.onnx_transposed_shape(4, kernel, stride, added, size, auto_pad) == crop
    assert len(kept(covered(4, kernel, stride), crop)) == size


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
def test_onnx_output_shape_follows_the_text_of_the_operator(auto_pad: spell.AutoPad) -> None:
    for small, extent, stride in configurations():
        rows = covered(small, extent, stride)
        for added in range(stride):
            for size in range(1, len(rows) + added + 1):
                begin, end = onnx_pads(small, extent, stride, added, size, auto_pad)
                crop = spell.onnx_transposed_shape(small, extent, stride, added, size, auto_pad)
                assert crop == (begin, end - added)
                assert len(kept(rows, crop)) == size


@pytest.mark.parametrize(
    ("auto_pad", "size", "crop"),
    [
        ("SAME_UPPER", 11, (-1, -1)),
        ("NOTSET", 11, (-1, -1)),
        ("SAME_UPPER", 10, (-1, 0)),
        ("NOTSET", 10, (0, -1)),
        ("SAME_LOWER", 10, (0, -1)),
    ],
)
def test_an_output_shape_beyond_the_full_result_adds_rows_with_halves_rounded_down(
    auto_pad: spell.AutoPad, size: int, crop: tuple[int, int]
) -> None:
    """Kernel 3, stride 2, four inputs: 9 rows in full.  The text leaves the rounding open; down is our choice."""
    assert spell.onnx_transposed_shape(4, 3, 2, 0, size, auto_pad) == crop


@pytest.mark.parametrize(
    ("kernel", "stride", "added", "auto_pad", "crop"),
    [
        (3, 2, 0, "SAME_UPPER", (0, 1)),
        (3, 2, 0, "SAME_LOWER", (1, 0)),
        (3, 2, 1, "SAME_UPPER", (1, 0)),
        (3, 2, 1, "SAME_LOWER", (1, 0)),
        (4, 2, 0, "SAME_UPPER", (1, 1)),
        (4, 2, 0, "SAME_LOWER", (1, 1)),
        (3, 2, 0, "VALID", (0, 0)),
        (3, 2, 1, "VALID", (0, -1)),
        (3, 2, 0, "NOTSET", (0, 0)),
        (3, 2, 1, "NOTSET", (0, -1)),
    ],
)
def test_onnx_auto_pad_crops_as_measured(
    kernel: int, stride: int, added: int, auto_pad: spell.AutoPad, crop: tuple[int, int]
) -> None:
    assert spell.onnx_transposed_auto(4, kernel, stride, added, auto_pad) == crop


def test_onnx_same_makes_stride_rows_for_each_input_also_where_the_kernel_is_smaller() -> None:
    for small, extent, stride in configurations():
        rows = covered(small, extent, stride)
        for auto_pad, added in itertools.product(("SAME_UPPER", "SAME_LOWER"), range(stride)):
            crop = spell.onnx_transposed_auto(small, extent, stride, added, auto_pad)  # type: ignore[arg-type]
            assert len(kept(rows, crop)) == small * stride


@pytest.mark.parametrize(
    ("kernel", "stride", "added", "size", "auto_pad", "readings"),
    [
        (1, 2, 0, None, "SAME_UPPER", [(-1, 0), (0, -1), (0, 0)]),
        (1, 2, 0, None, "SAME_LOWER", [(0, -1), (-1, 0), (0, 0)]),
        (1, 3, 0, None, "SAME_UPPER", [(-1, -1), (0, 0)]),
        (1, 3, 1, None, "SAME_UPPER", [(-1, -1), (0, -2), (0, -1)]),
        (3, 2, 0, 10, "NOTSET", [(0, -1), (-1, 0)]),
        (3, 2, 0, 10, "SAME_UPPER", [(-1, 0), (0, -1)]),
        (3, 2, 0, 11, "NOTSET", []),
        (3, 2, 0, 9, "NOTSET", []),
        (3, 2, 1, 10, "NOTSET", []),
        (1, 2, 0, None, "VALID", []),
        (1, 2, 1, None, "NOTSET", []),
        (3, 2, 0, None, "SAME_UPPER", []),
    ],
)
def test_where_the_text_of_onnx_is_open_its_readings_are_listed(
    kernel: int, stride: int, added: int, size: int | None, auto_pad: spell.AutoPad, readings: list[tuple[int, int]]
) -> None:
    """Four inputs.  ONNX Runtime 1.31 gives the last of the first row, and the second of ``[10]`` with SAME_UPPER."""
    assert list(onnx_readings.transposed_readings(4, kernel, stride, added, size, auto_pad).values()) == readings


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
def test_the_first_reading_is_ours_and_all_but_the_last_give_the_size_that_was_asked_for(
    auto_pad: spell.AutoPad,
) -> None:
    opened = 0
    for small, extent, stride in configurations():
        rows = covered(small, extent, stride)
        for added, size in itertools.product(range(stride), (None, len(rows), len(rows) + 3)):
            readings = onnx_readings.transposed_readings(small, extent, stride, added, size, auto_pad)
            if not readings:
                continue
            ours = (
                spell.onnx_transposed_auto(small, extent, stride, added, auto_pad)
                if size is None
                else spell.onnx_transposed_shape(small, extent, stride, added, size, auto_pad)
            )
            assert next(iter(readings.values())) == ours
            for name, crop in readings.items():
                unpadded = name in ("no negative pads", "no padding")
                asked = len(rows) + added if unpadded else size or small * stride
                assert len(kept(rows, crop)) == asked
            opened += 1
    assert opened > 100


def test_keras_same_is_onnx_same_upper_wherever_rows_are_cropped() -> None:
    for small, extent, stride in configurations():
        if extent >= stride:
            upper = spell.onnx_transposed_auto(small, extent, stride, 0, "SAME_UPPER")
            assert spell.keras_transposed(small, extent, stride, "same", None) == upper


def test_only_an_odd_excess_can_tell_the_sides_apart() -> None:
    """The blind spot of kernel 4, stride 2: why the suites need kernel 3, stride 2."""
    for small, extent, stride in configurations():
        upper = spell.onnx_transposed_auto(small, extent, stride, 0, "SAME_UPPER")
        lower = spell.onnx_transposed_auto(small, extent, stride, 0, "SAME_LOWER")
        assert (upper != lower) == ((extent - stride) % 2 == 1)
