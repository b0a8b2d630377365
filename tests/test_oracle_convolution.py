"""C, its transpose, and the two ways to apply them, against a C filled in entry by entry from the definition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.arithmetic import Axis
from conformance.oracle import convolution
from conformance.oracle.convolution import (
    col2im,
    conv_matrix,
    convolve,
    im2col,
    taps_reaching,
    transposed_convolve,
)

EXAMPLES = settings(max_examples=250, deadline=None, derandomize=True)

Tap = tuple[int, ...]
Place = Callable[[Axis, int, int], int]


def place(axis: Axis, m: int, t: int) -> int:
    """Where in the large side tap ``t`` at position ``m`` of the small side lies."""
    return m * axis.stride - axis.begin + t * axis.dilation


def dense_matrix(axes: tuple[Axis, ...], weight: np.ndarray, groups: int = 1, place: Place = place) -> np.ndarray:
    """C, one entry at a time: rows are (map, position) of the small side, columns (map, position) of the large one."""
    small_maps, maps_in_group = weight.shape[:2]
    large_maps = maps_in_group * groups
    small_positions = list(itertools.product(*[range(axis.small) for axis in axes]))
    large_positions = list(itertools.product(*[range(axis.large) for axis in axes]))
    column_of = {position: column for column, position in enumerate(large_positions)}
    C = np.zeros((small_maps * len(small_positions), large_maps * len(large_positions)))
    for small_map in range(small_maps):
        group = small_map // (small_maps // groups)
        for row, position in enumerate(small_positions):
            for in_group in range(maps_in_group):
                for tap in itertools.product(*[range(axis.kernel) for axis in axes]):
                    there = tuple(place(axis, m, t) for axis, m, t in zip(axes, position, tap, strict=True))
                    if there in column_of:
                        large_map = group * maps_in_group + in_group
                        C[
                            small_map * len(small_positions) + row,
                            large_map * len(large_positions) + column_of[there],
                        ] += weight[(small_map, in_group, *tap)]
    return C


@dataclass(frozen=True)
class Configuration:
    """A convolution with numbers: small integers, so that float64 holds every sum."""

    axes: tuple[Axis, ...]
    batch: int
    groups: int
    weight: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def __repr__(self) -> str:
        return f"{self.axes} batch={self.batch} groups={self.groups} weight={self.weight.shape}"


@st.composite
def an_axis(draw: st.DrawFn, largest: int) -> Axis:
    """Any crop at either end, also more than there is and less than nothing."""
    kernel, stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    small, begin = draw(st.integers(1, largest)), draw(st.integers(-2, 4))
    full = (small - 1) * stride + (kernel - 1) * dilation + 1
    large = max(full - begin - draw(st.integers(-3, 4)), 1)
    return Axis(large=large, small=small, kernel=kernel, stride=stride, dilation=dilation, begin=begin)


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    rank = draw(st.integers(1, 3))
    axes = tuple(draw(an_axis(largest=(5, 3, 2)[rank - 1])) for _ in range(rank))
    groups, small_in_group, large_in_group = (draw(st.integers(1, 3 if rank == 1 else 2)) for _ in range(3))
    batch = draw(st.integers(0, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weight_shape = (groups * small_in_group, large_in_group, *(a.kernel for a in axes))
    return Configuration(
        axes,
        batch,
        groups,
        rng.integers(-9, 10, weight_shape).astype(np.float64),
        rng.integers(-9, 10, (batch, groups * large_in_group, *(a.large for a in axes))).astype(np.float64),
        rng.integers(-9, 10, (batch, groups * small_in_group, *(a.small for a in axes))).astype(np.float64),
    )


def flat(images: np.ndarray) -> np.ndarray:
    """One image to a row, in C order."""
    return images.reshape(images.shape[0], math.prod(images.shape[1:]))


def same(actual: np.ndarray, expected: np.ndarray) -> bool:
    """Same shape, same type, same bits (zeros of either sign are one)."""
    return actual.shape == expected.shape and actual.dtype == expected.dtype and bool(np.all(actual == expected))


# ---- The matrix ----


@given(configurations())
@EXAMPLES
def test_the_matrix_is_the_definition_written_down(c: Configuration) -> None:
    assert same(conv_matrix(c.axes, c.weight, c.groups).toarray(), dense_matrix(c.axes, c.weight, c.groups))


def test_the_matrix_is_the_one_printed_in_the_guide() -> None:
    """Dumoulin and Visin, section 4.1: kernel 3x3 over a 4x4 input, no padding, unit strides."""
    w = {name: float(n + 1) for n, name in enumerate(f"w{i}{j}" for i in range(3) for j in range(3))} | {"0": 0.0}
    printed = """
        w00 w01 w02 0   w10 w11 w12 0   w20 w21 w22 0   0   0   0   0
        0   w00 w01 w02 0   w10 w11 w12 0   w20 w21 w22 0   0   0   0
        0   0   0   0   w00 w01 w02 0   w10 w11 w12 0   w20 w21 w22 0
        0   0   0   0   0   w00 w01 w02 0   w10 w11 w12 0   w20 w21 w22
    """
    C = np.array([[w[entry] for entry in line.split()] for line in printed.split("\n") if line.strip()])
    assert C.shape == (4, 16)
    weight = np.array([w[f"w{i}{j}"] for i in range(3) for j in range(3)]).reshape(1, 1, 3, 3)
    assert same(conv_matrix([Axis(4, 2, 3), Axis(4, 2, 3)], weight).toarray(), C)


def test_a_matrix_without_a_single_tap_inside_is_all_zero() -> None:
    axis = Axis(large=2, small=1, kernel=2, begin=-5)
    weight = np.ones((2, 3, 2))
    assert same(conv_matrix([axis], weight).toarray(), np.zeros((2, 6)))
    assert same(convolve([axis], np.ones((1, 3, 2)), weight), np.zeros((1, 2, 1)))
    assert same(transposed_convolve([axis], np.ones((1, 2, 1)), weight), np.zeros((1, 3, 2)))


# ---- The matrix-free path ----


@given(configurations())
@EXAMPLES
def test_convolution_is_c_times_x(c: Configuration) -> None:
    C = dense_matrix(c.axes, c.weight, c.groups)
    expected = (flat(c.x) @ C.T).reshape(c.batch, c.weight.shape[0], *(a.small for a in c.axes))
    assert same(convolve(c.axes, c.x, c.weight, c.groups), expected)


@given(configurations())
@EXAMPLES
def test_transposed_convolution_is_the_transpose_of_convolution(c: Configuration) -> None:
    C = dense_matrix(c.axes, c.weight, c.groups)
    expected = (flat(c.y) @ C).reshape(c.batch, c.weight.shape[1] * c.groups, *(a.large for a in c.axes))
    assert same(transposed_convolve(c.axes, c.y, c.weight, c.groups), expected)


@given(configurations())
@EXAMPLES
def test_the_transpose_moves_to_the_other_side_of_an_inner_product(c: Configuration) -> None:
    """<C x, y> = <x, C.T y>, exactly."""
    forward = convolve(c.axes, c.x, c.weight, c.groups)
    backward = transposed_convolve(c.axes, c.y, c.weight, c.groups)
    for image in range(c.batch):
        assert np.vdot(forward[image], c.y[image]) == np.vdot(c.x[image], backward[image])


@given(configurations())
@EXAMPLES
def test_absolute_takes_the_absolute_values_of_both_factors(c: Configuration) -> None:
    x, y, weight = c.x.copy(), c.y.copy(), c.weight.copy()
    forward = convolve(c.axes, np.abs(x), np.abs(weight), c.groups)
    backward = transposed_convolve(c.axes, np.abs(y), np.abs(weight), c.groups)
    assert same(convolve(c.axes, x, weight, c.groups, absolute=True), forward)
    assert same(transposed_convolve(c.axes, y, weight, c.groups, absolute=True), backward)
    for before, after in ((c.x, x), (c.y, y), (c.weight, weight)):
        assert same(after, before), "the numbers that it was given have changed"


@given(configurations(), st.integers(1, 40))
@EXAMPLES
def test_working_in_blocks_changes_nothing(c: Configuration, block: int) -> None:
    whole = convolve(c.axes, c.x, c.weight, c.groups), transposed_convolve(c.axes, c.y, c.weight, c.groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "BLOCK", block)
        in_blocks = convolve(c.axes, c.x, c.weight, c.groups), transposed_convolve(c.axes, c.y, c.weight, c.groups)
    assert same(in_blocks[0], whole[0])
    assert same(in_blocks[1], whole[1])


@pytest.mark.parametrize(("block", "blocks"), [(1, 5), (2**20, 1)])
def test_a_small_block_really_takes_several_rounds(monkeypatch: pytest.MonkeyPatch, block: int, blocks: int) -> None:
    """Otherwise the test above compares a path with itself."""
    rounds = {"im2col": 0, "col2im": 0}

    def counting(name: str, function: Callable[..., np.ndarray | None]) -> Callable[..., np.ndarray | None]:
        def counted(*arguments: object) -> np.ndarray | None:
            rounds[name] += 1
            return function(*arguments)

        return counted

    monkeypatch.setattr(convolution, "BLOCK", block)
    monkeypatch.setattr(convolution, "im2col", counting("im2col", im2col))
    monkeypatch.setattr(convolution, "col2im", counting("col2im", col2im))
    axes, weight = [Axis(4, 2, 3)], np.ones((2, 5, 3))
    convolve(axes, np.ones((1, 5, 4)), weight)
    transposed_convolve(axes, np.ones((1, 2, 2)), weight)
    assert rounds == {"im2col": blocks, "col2im": blocks}


@given(configurations())
@EXAMPLES
def test_col2im_is_the_transpose_of_im2col(c: Configuration) -> None:
    rng = np.random.default_rng(c.batch)
    x = rng.integers(-9, 10, (c.groups, 2, *(a.large for a in c.axes))).astype(np.float64)
    kernel, small = [a.kernel for a in c.axes], [a.small for a in c.axes]
    columns = rng.integers(-9, 10, (c.groups, 2, *kernel, *small)).astype(np.float64)
    read = im2col(c.axes, x)
    assert read.shape == (c.groups, 2 * math.prod(kernel), math.prod(small))
    written = np.zeros_like(x)
    col2im(c.axes, columns, written)
    assert np.vdot(read, columns.reshape(read.shape)) == np.vdot(x, written)


def test_col2im_adds_to_what_is_there() -> None:
    x = np.full((1, 1, 4), 100.0)
    col2im([Axis(4, 2, 3)], np.ones((1, 1, 3, 2)), x)
    assert x.tolist() == [[[101.0, 102.0, 102.0, 101.0]]]


# ---- How many products there are ----


@given(configurations())
@EXAMPLES
def test_taps_reaching_counts_the_nonzeros_of_the_rows_and_columns_of_c(c: Configuration) -> None:
    ones = np.ones((1, 1, *(a.kernel for a in c.axes)))
    C = dense_matrix(c.axes, ones)
    for transposed, counts, shape in (
        (False, np.count_nonzero(C, axis=1), [a.small for a in c.axes]),
        (True, np.count_nonzero(C, axis=0), [a.large for a in c.axes]),
    ):
        assert same(taps_reaching(c.axes, transposed), counts.reshape(shape).astype(np.float64))


def test_counts_of_taps_cannot_be_changed_behind_the_cache() -> None:
    counts = taps_reaching((Axis(4, 2, 3),), True)
    with pytest.raises(ValueError, match="read-only"):
        counts[0] = 7


# ---- Inputs of other types, and nothing at all ----


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8])
def test_narrow_inputs_are_computed_with_in_float64(dtype: type[np.generic]) -> None:
    axes, weight = [Axis(3, 2, 2)], np.full((1, 1, 2), 100, dtype)
    x, y = np.full((1, 1, 3), 100, dtype), np.full((1, 1, 2), 100, dtype)
    assert same(convolve(axes, x, weight), np.full((1, 1, 2), 20000.0))
    assert same(transposed_convolve(axes, y, weight), np.array([[[10000.0, 20000.0, 10000.0]]]))


def test_an_empty_batch_gives_an_empty_result() -> None:
    axes, weight = [Axis(4, 2, 3), Axis(5, 3, 3)], np.ones((4, 3, 3, 3))
    assert convolve(axes, np.ones((0, 6, 4, 5)), weight, 2).shape == (0, 4, 2, 3)
    assert transposed_convolve(axes, np.ones((0, 4, 2, 3)), weight, 2).shape == (0, 6, 4, 5)


def test_rows_beyond_the_kernel_are_zero() -> None:
    """Stride 4, kernel 3, output_padding 3: a gap after each kernel, and three rows behind the last."""
    axis = Axis(large=10, small=2, kernel=3, stride=4)
    rows = transposed_convolve([axis], np.ones((1, 1, 2)), np.ones((1, 1, 3)))
    assert rows.ravel().tolist() == [1, 1, 1, 0, 1, 1, 1, 0, 0, 0]


def test_not_a_number_reaches_no_further_than_c_connects_it() -> None:
    y = np.array([[[1.0, np.nan, 1.0]]])
    rows = transposed_convolve([Axis(large=9, small=3, kernel=2, stride=3)], y, np.ones((1, 1, 2)))
    assert np.isnan(rows.ravel()).tolist() == [False] * 3 + [True] * 2 + [False] * 4


# ---- The comparisons can fail: mistakes planted into the dense C show ----

LINE = (Axis(large=7, small=3, kernel=3, stride=2),)
PLANE = (Axis(large=5, small=3, kernel=3), Axis(large=7, small=3, kernel=3, stride=2))


def flipped(weight: np.ndarray) -> np.ndarray:
    return np.flip(weight, tuple(range(2, weight.ndim)))


def without_a_tap(weight: np.ndarray) -> np.ndarray:
    spoilt = weight.copy()
    spoilt[(0, 0, *[0] * (weight.ndim - 2))] = 0
    return spoilt


WRONG_WEIGHTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the kernel is flipped": flipped,
    "the channel axes are swapped": lambda weight: weight.swapaxes(0, 1),
    "the last two axes are swapped": lambda weight: weight.swapaxes(-1, -2),
    "one tap is dropped": without_a_tap,
}


def shifted(axis: Axis, m: int, t: int) -> int:
    return place(axis, m, t) + 1


def undilated(axis: Axis, m: int, t: int) -> int:
    return place(replace(axis, dilation=1), m, t)


def stride_for_dilation(axis: Axis, m: int, t: int) -> int:
    return place(replace(axis, stride=axis.dilation, dilation=axis.stride), m, t)


def uncropped(axis: Axis, m: int, t: int) -> int:
    return place(replace(axis, begin=0), m, t)


WRONG_PLACES: dict[str, Place] = {
    "everything is one pixel off": shifted,
    "dilation is ignored": undilated,
    "stride and dilation are exchanged": stride_for_dilation,
    "the crop is ignored": uncropped,
}


def distinct(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(1.0, math.prod(shape) + 1).reshape(shape)


@pytest.mark.parametrize("mistake", WRONG_WEIGHTS)
def test_a_wrong_weight_shows(mistake: str) -> None:
    weight = distinct((2, 2, 3, 3))
    spoilt = dense_matrix(PLANE, WRONG_WEIGHTS[mistake](weight))
    x, y = distinct((1, 2, 5, 7)), distinct((1, 2, 3, 3))
    assert not same(conv_matrix(PLANE, weight).toarray(), spoilt)
    assert not same(convolve(PLANE, x, weight), (flat(x) @ spoilt.T).reshape(1, 2, 3, 3))
    assert not same(transposed_convolve(PLANE, y, weight), (flat(y) @ spoilt).reshape(1, 2, 5, 7))


@pytest.mark.parametrize("mistake", WRONG_PLACES)
def test_a_tap_in_the_wrong_place_shows(mistake: str) -> None:
    axes, weight = (Axis(large=9, small=3, kernel=3, stride=3, dilation=2, begin=1),), distinct((1, 1, 3))
    spoilt = dense_matrix(axes, weight, place=WRONG_PLACES[mistake])
    x, y = distinct((1, 1, 9)), np.array([[[7.0, 1.0, 4.0]]])
    assert not same(conv_matrix(axes, weight).toarray(), spoilt)
    assert not same(convolve(axes, x, weight), (flat(x) @ spoilt.T).reshape(1, 1, 3))
    assert not same(transposed_convolve(axes, y, weight), (flat(y) @ spoilt).reshape(1, 1, 9))


def test_channels_of_the_wrong_group_show() -> None:
    weight = distinct((4, 2, 3))
    right = dense_matrix(LINE, weight, groups=2)
    interleaved = right.reshape(4, 3, 2, 2, 7).swapaxes(2, 3).reshape(right.shape)
    assert same(conv_matrix(LINE, weight, groups=2).toarray(), right)
    assert not same(conv_matrix(LINE, weight, groups=2).toarray(), interleaved)


def test_the_transpose_is_not_the_inverse() -> None:
    """A transposed convolution gives back the shape, not the numbers."""
    x = distinct((1, 1, 7))
    weight = distinct((1, 1, 3))
    again = transposed_convolve(LINE, convolve(LINE, x, weight), weight)
    assert again.shape == x.shape
    assert not same(again, x)
