"""Windows, switches, unpooling through them: against loops over windows, elements and writers."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from walkers import make_case, net

from conformance.arithmetic import Axis
from conformance.dtypes import FORMATS
from conformance.oracle import pooling
from conformance.oracle.chains import walk
from conformance.problem import pose
from conformance.spec import Isolate, MaxUnpool

EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True)
Axes = tuple[Axis, ...]


def window(axes: Axes, m: Sequence[int]) -> list[int | None]:
    """Flat positions of a window's elements in C order; None for what lies outside."""
    found: list[int | None] = []
    for tap in itertools.product(*(range(axis.kernel) for axis in axes)):
        j = [a * axis.stride - axis.begin + t * axis.dilation for a, t, axis in zip(m, tap, axes, strict=True)]
        inside = all(0 <= place < axis.large for place, axis in zip(j, axes, strict=True))
        found.append(int(np.ravel_multi_index(j, [axis.large for axis in axes])) if inside else None)
    return found


def all_windows(axes: Axes) -> list[list[int | None]]:
    return [window(axes, m) for m in np.ndindex(*(axis.small for axis in axes))]


def elements(axes: Axes) -> list[list[int]]:
    """What of each window exists."""
    return [[place for place in one if place is not None] for one in all_windows(axes)]


def small_of(axes: Axes) -> tuple[int, ...]:
    return tuple(axis.small for axis in axes)


def large_of(axes: Axes) -> tuple[int, ...]:
    return tuple(axis.large for axis in axes)


@dataclass(frozen=True)
class Maps:
    """Windows, with numbers on both sides of them and one switch out of each window."""

    axes: Axes
    x: np.ndarray
    y: np.ndarray
    switches: np.ndarray

    def __repr__(self) -> str:
        return f"{self.axes} x={self.x.tolist()} y={self.y.tolist()} switches={self.switches.tolist()}"

    @property
    def planes(self) -> list[tuple[int, int]]:
        return list(np.ndindex(*self.x.shape[:2]))

    def writers(self, plane: tuple[int, int]) -> dict[int, list[float]]:
        """The values that each place gets, in C order of the windows."""
        found: dict[int, list[float]] = defaultdict(list)
        for place, value in zip(self.switches[plane].ravel(), self.y[plane].ravel(), strict=True):
            found[int(place)].append(float(value))
        return found


@st.composite
def pooling_axes(draw: st.DrawFn) -> Axes:
    """Windows with padding, dilation, gaps and rest, also such as begin inside of the plane; none is empty."""
    rank = draw(st.integers(1, 3))
    axes = []
    for _ in range(rank):
        kernel, stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
        large, begin = draw(st.integers(1, (9, 6, 4)[rank - 1])), draw(st.integers(-1, 3))
        small = draw(st.integers(1, (5, 4, 3)[rank - 1]))
        axes.append(Axis(large=large, small=small, kernel=kernel, stride=stride, dilation=dilation, begin=begin))
    return tuple(axes)


@st.composite
def pooled_maps(draw: st.DrawFn) -> Maps:
    """Small whole numbers, so that many maxima are equal."""
    axes = draw(pooling_axes())
    inside = elements(axes)
    assume(all(inside))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    maps = draw(st.integers(0, 2)), draw(st.integers(1, 3))
    limit = draw(st.sampled_from([1, 3, 1000]))
    x = rng.integers(-limit, limit + 1, (*maps, *large_of(axes))).astype(np.float64)
    y = rng.integers(-limit, limit + 1, (*maps, *small_of(axes))).astype(np.float64)
    chosen = [[int(rng.choice(one)) for one in inside] for _ in range(math.prod(maps))]
    return Maps(axes, x, y, np.array(chosen, np.int64).reshape(y.shape))


def same(actual: np.ndarray, expected: Any) -> bool:
    expected = np.asarray(expected)
    return actual.shape == expected.shape and bool(np.array_equal(actual, expected, equal_nan=actual.dtype.kind != "i"))


# ---- Windows ----


@given(pooling_axes())
@EXAMPLES
def test_windows_are_their_definition_written_down(axes: Axes) -> None:
    expected = [[-1 if place is None else place for place in one] for one in all_windows(axes)]
    assert same(pooling.windows(axes), expected)


def test_the_windows_of_a_plane_with_padding() -> None:
    """Kernel 2x3, strides 2 and 1, a row of padding above and a column on the left, over 2x3 elements."""
    axes = (Axis(2, 2, 2, 2, begin=1), Axis(3, 2, 3, 1, begin=1))
    assert pooling.windows(axes).tolist() == [
        [-1, -1, -1, -1, 0, 1],
        [-1, -1, -1, 0, 1, 2],
        [-1, 3, 4, -1, -1, -1],
        [3, 4, 5, -1, -1, -1],
    ]


def test_a_row_of_windows_never_reaches_into_the_next() -> None:
    """The element right of the last column of a row is outside, and not the first of the row below."""
    axes = (Axis(3, 3, 1), Axis(4, 2, 3, 2))
    assert pooling.windows(axes).tolist() == [[0, 1, 2], [2, 3, -1], [4, 5, 6], [6, 7, -1], [8, 9, 10], [10, 11, -1]]


def test_windows_cannot_be_changed_behind_the_cache() -> None:
    with pytest.raises(ValueError, match="read-only"):
        pooling.windows((Axis(4, 2, 2, 2),))[0, 0] = 7


# ---- Pooling ----


@pytest.mark.parametrize("magnitude", [False, True])
@given(pooled_maps())
@EXAMPLES
def test_the_maximum_of_a_window_and_the_first_place_where_it_stands(magnitude: bool, maps: Maps) -> None:
    values, switches = pooling.max_pool(maps.axes, maps.x, magnitude)
    assert switches.dtype == np.int64
    for plane in maps.planes:
        x = maps.x[plane].ravel()
        for n, inside in enumerate(elements(maps.axes)):
            keys = [abs(x[place]) if magnitude else x[place] for place in inside]
            first = inside[keys.index(max(keys))]
            assert (switches[plane].flat[n], values[plane].flat[n]) == (first, x[first])


def test_the_first_of_equal_maxima_in_c_order() -> None:
    x = np.array([[[[1.0, 5, 5], [5, 2, 5], [0, 5, 5]]]])
    axes = (Axis(3, 2, 2, 1), Axis(3, 2, 2, 1))
    values, switches = pooling.max_pool(axes, x)
    assert values.ravel().tolist() == [5, 5, 5, 5]
    assert switches.ravel().tolist() == [1, 1, 3, 5]


def test_magnitude_keeps_the_sign_of_the_largest() -> None:
    x = np.array([[[2.0, -3, 3, -1, 1, 0]]])
    values, switches = pooling.max_pool((Axis(6, 3, 2, 2),), x, magnitude=True)
    assert values.ravel().tolist() == [-3, 3, 1]
    assert switches.ravel().tolist() == [1, 2, 4]


@pytest.mark.parametrize("format", FORMATS.values(), ids=str)
def test_values_keep_their_format(format: Any) -> None:
    x = np.array([[[-4.0, -2, -8, -16]]]).astype(format.dtype)
    values, switches = pooling.max_pool((Axis(4, 3, 2, 2, begin=1),), x)
    assert values.dtype == format.dtype
    assert (values.astype(float).ravel().tolist(), switches.ravel().tolist()) == ([-4, -2, -16], [0, 1, 3])


@pytest.mark.parametrize("format", FORMATS.values(), ids=list(FORMATS))
def test_what_stands_in_the_padding_is_of_the_format_itself(format: Any) -> None:
    """NumPy 1 has no type for bfloat16 and a float of Python's together."""
    lowest = pooling._lowest(np.ones(3, format.dtype))
    assert lowest.dtype == format.dtype
    assert float(lowest) == -math.inf


def test_padding_never_wins_over_negative_numbers() -> None:
    x = np.full((1, 1, 3, 3), -7.0)
    axes = (Axis(3, 3, 3, begin=1), Axis(3, 3, 3, begin=1))
    values, switches = pooling.max_pool(axes, x)
    assert values.ravel().tolist() == [-7] * 9
    assert switches.ravel().tolist() == [0, 0, 1, 0, 0, 1, 3, 3, 4]


@pytest.mark.parametrize("format", FORMATS.values(), ids=str)
def test_where_all_is_minus_infinity_the_switch_is_the_first_element_and_not_the_padding(format: Any) -> None:
    x = np.full((1, 2, 2, 3), -np.inf).astype(format.dtype)
    x[0, 1, 0, 0] = 1
    axes = (Axis(2, 2, 2, 2, begin=1), Axis(3, 2, 3, 2, begin=2))
    values, switches = pooling.max_pool(axes, x)
    assert switches[0, 0].ravel().tolist() == [0, 0, 3, 3]
    assert values[0, 0].astype(float).ravel().tolist() == [-np.inf] * 4
    assert values[0, 1].astype(float).ravel().tolist() == [1, 1, -np.inf, -np.inf]


@pytest.mark.parametrize("format", FORMATS.values(), ids=str)
@pytest.mark.parametrize("magnitude", [False, True])
def test_not_a_number_is_the_maximum_and_the_first_of_several(format: Any, magnitude: bool) -> None:
    x = np.array([[[1, np.nan, np.nan, 9, np.inf, np.nan, -np.inf, 2]]]).astype(format.dtype)
    values, switches = pooling.max_pool((Axis(8, 4, 3, 2, begin=1),), x, magnitude)
    assert switches.ravel().tolist() == [1, 1, 5, 5]
    assert np.isnan(values.astype(float)).all()


def test_an_empty_batch_is_pooled_to_nothing() -> None:
    values, switches = pooling.max_pool((Axis(4, 2, 2, 2),), np.zeros((0, 3, 4), np.float32))
    assert (values.shape, switches.shape, values.dtype) == ((0, 3, 2), (0, 3, 2), np.float32)


@pytest.mark.parametrize("magnitude", [False, True])
def test_working_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch, magnitude: bool) -> None:
    axes = (Axis(6, 3, 3, 2, begin=1), Axis(5, 3, 2, 2))
    x = np.random.default_rng(0).integers(-5, 6, (3, 4, 6, 5)).astype(np.float32)
    whole = pooling.max_pool(axes, x, magnitude)
    for block in (1, 55, 150, 500):  # one plane at a time, two, three, nine
        monkeypatch.setattr(pooling, "BLOCK", block)
        assert all(map(same, pooling.max_pool(axes, x, magnitude), whole))


# ---- What else there is in a window ----


@given(pooled_maps(), st.integers(0, 3))
@EXAMPLES
def test_window_maxima_pass_over_what_is_not_a_number(maps: Maps, holes: int) -> None:
    x = maps.x.copy()
    x[np.random.default_rng(holes).random(x.shape) < holes / 3] = np.nan
    largest = pooling.window_maxima(maps.axes, x)
    for plane in maps.planes:
        for n, inside in enumerate(elements(maps.axes)):
            numbers = [x[plane].flat[place] for place in inside if not np.isnan(x[plane].flat[place])]
            assert largest[plane].flat[n] == max(numbers, default=-np.inf)


@given(pooled_maps(), st.integers(0, 2**32))
@EXAMPLES
def test_what_may_be_a_maximum_is_what_reaches_the_lowest_that_it_can_be(maps: Maps, seed: int) -> None:
    """Element by element; of those that are known and equal to the lowest the first."""
    error = np.random.default_rng(seed).choice([0, 1.5], maps.x.shape)
    places = pooling.may_be_maxima(maps.axes, maps.x - error, maps.x + error)
    found, size = set(zip(places.window.tolist(), places.place.tolist(), strict=True)), math.prod(large_of(maps.axes))
    expected, window = set(), 0
    for number, plane in enumerate(maps.planes):
        for inside in elements(maps.axes):
            low, high = ({place: (maps.x + e)[plane].flat[place] for place in inside} for e in (-error, error))
            lowest = max(low.values())
            reaching = [p for p in inside if high[p] > lowest or (high[p] == lowest and low[p] < high[p])]
            first = next(place for place in inside if low[place] == lowest)
            expected |= {(window, number * size + place) for place in (first, *reaching)}
            window += 1
    assert found == expected
    assert places.sure.tolist() == [np.count_nonzero(places.window == n) == 1 for n in places.window]


@given(pooled_maps(), st.integers(0, 3))
@EXAMPLES
def test_a_window_holds_its_elements_or_nothing_but_nan(maps: Maps, holes: int) -> None:
    rng = np.random.default_rng(holes)
    x = np.where(rng.random(maps.x.shape) < holes / 3, np.nan, maps.x)
    wanted = np.where(rng.random(maps.y.shape) < 0.5, maps.y, pooling.take(x, maps.switches))
    empty, held = pooling.only_nan(maps.axes, x), pooling.holds(maps.axes, x, wanted)
    for plane in maps.planes:
        for n, inside in enumerate(elements(maps.axes)):
            there = [x[plane].flat[place] for place in inside]
            assert empty[plane].flat[n] == all(map(np.isnan, there))
            assert held[plane].flat[n] == (wanted[plane].flat[n] in [v for v in there if not np.isnan(v)])


@given(pooled_maps(), st.integers(0, 2**32))
@EXAMPLES
def test_a_switch_is_inside_of_its_window_or_is_not(maps: Maps, seed: int) -> None:
    anything = np.random.default_rng(seed).integers(-2, math.prod(large_of(maps.axes)) + 2, maps.switches.shape)
    found = pooling.inside_window(maps.axes, anything)
    for plane in maps.planes:
        for n, inside in enumerate(elements(maps.axes)):
            assert found[plane].flat[n] == (anything[plane].flat[n] in inside)
    assert pooling.inside_window(maps.axes, maps.switches).all()


def test_padding_is_no_element_of_a_window() -> None:
    """-1 stands for padding inside of the oracle, and is no switch."""
    axes = (Axis(4, 3, 3, 2, begin=1),)
    assert pooling.inside_window(axes, np.array([[[-1, 1, 3]]])).ravel().tolist() == [False, True, True]


@given(pooled_maps())
@EXAMPLES
def test_what_pooling_found_is_what_its_switches_take(maps: Maps) -> None:
    values, switches = pooling.max_pool(maps.axes, maps.x)
    assert pooling.inside_window(maps.axes, switches).all()
    assert same(pooling.take(maps.x, switches), values)
    assert same(pooling.window_maxima(maps.axes, maps.x), values)


# ---- Unpooling ----


@given(pooled_maps())
@EXAMPLES
def test_taking_reads_where_the_switches_say(maps: Maps) -> None:
    taken = pooling.take(maps.x, maps.switches)
    for plane in maps.planes:
        assert taken[plane].ravel().tolist() == [maps.x[plane].flat[place] for place in maps.switches[plane].ravel()]


@given(pooled_maps())
@EXAMPLES
def test_every_place_gets_the_values_whose_switches_name_it(maps: Maps) -> None:
    large = large_of(maps.axes)
    arguments = (maps.y, maps.switches, large)
    total, count = pooling.unpool(*arguments), pooling.writers(maps.switches, large)
    last, first = pooling.unpool_assign(*arguments), pooling.unpool_assign(*arguments, first=True)
    contested = pooling.contested(*arguments)
    step = MaxUnpool(id="", op="max_unpool", axes=maps.axes, padding="valid", overlap="mean")
    for result in (total, count, last, first):
        assert (result.shape, result.dtype) == ((*maps.y.shape[:2], *large), np.float64)
    mean = exact(step, maps.y, maps.switches)
    for plane in maps.planes:
        written = maps.writers(plane)
        for place in range(math.prod(large)):
            values = written.get(place, [])
            some = values or [0.0]
            assert total[plane].flat[place] == sum(values)
            assert count[plane].flat[place] == len(values)
            assert (last[plane].flat[place], first[plane].flat[place]) == (some[-1], some[0])
            assert contested[plane].flat[place] == (min(some) != max(some))
            assert mean[plane].flat[place] == sum(some) / len(some)


def exact(step: Any, *fed: np.ndarray) -> np.ndarray:
    from conformance.oracle.steps import oracle_of

    return oracle_of(step).exact(step, *fed)[0]


@given(pooled_maps())
@EXAMPLES
def test_unpooling_by_sums_is_the_adjoint_of_pooling_through_the_same_switches(maps: Maps) -> None:
    """<P x, y> = <x, U y>, in whole numbers."""
    large = large_of(maps.axes)
    taken = pooling.take(maps.x, maps.switches)
    assert inner(taken, maps.y) == inner(maps.x, pooling.unpool(maps.y, maps.switches, large))


def inner(a: np.ndarray, b: np.ndarray) -> int:
    return sum(int(p) * int(q) for p, q in zip(a.ravel(), b.ravel(), strict=True))


def test_neither_assignment_nor_the_mean_is_the_adjoint_where_windows_overlap() -> None:
    x, y, switches = np.array([[[1.0, 2, 9, 3, 4]]]), np.array([[[5.0, 7]]]), np.array([[[2, 2]]])
    assert inner(pooling.take(x, switches), y) == 108 == inner(x, pooling.unpool(y, switches, (5,)))
    for first, found in ((False, 63), (True, 45)):
        assert inner(x, pooling.unpool_assign(y, switches, (5,), first=first)) == found
    step = MaxUnpool(id="", op="max_unpool", axes=(Axis(5, 2, 3, 2),), padding="valid", overlap="mean")
    assert inner(x, exact(step, y, switches)) == 54


@given(pooled_maps(), st.integers(0, 2**32))
@EXAMPLES
def test_what_stands_in_a_place_is_one_of_its_values_or_is_not(maps: Maps, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.where(rng.random(maps.y.shape) < 0.2, np.nan, maps.y)
    holed = Maps(maps.axes, maps.x, y, maps.switches)
    actual = pooling.unpool_assign(y, maps.switches, large_of(maps.axes), first=bool(rng.integers(2)))
    assert pooling.written_by_one(actual, y, maps.switches).all()
    changed = np.where(rng.random(actual.shape) < 0.5, rng.choice([0, 1, 2, np.nan], actual.shape), actual)
    found = pooling.written_by_one(changed, y, maps.switches)
    for plane in maps.planes:
        written = holed.writers(plane)
        for place in range(math.prod(large_of(maps.axes))):
            there = changed[plane].flat[place]
            values = written.get(place, [0.0])
            assert found[plane].flat[place] == any(there == v or (np.isnan(there) and np.isnan(v)) for v in values)


@given(pooled_maps(), st.integers(0, 2**32))
@EXAMPLES
def test_a_place_is_contested_where_its_values_differ_nan_being_like_nan(maps: Maps, seed: int) -> None:
    y = np.where(np.random.default_rng(seed).random(maps.y.shape) < 0.4, np.nan, maps.y)
    found = pooling.contested(y, maps.switches, large_of(maps.axes))
    holed = Maps(maps.axes, maps.x, y, maps.switches)
    for plane in maps.planes:
        written = holed.writers(plane)
        for place in range(math.prod(large_of(maps.axes))):
            different = {"nan" if np.isnan(value) else value for value in written.get(place, [])}
            assert found[plane].flat[place] == (len(different) > 1)


def test_what_is_written_in_the_next_plane_is_no_excuse() -> None:
    y, switches = np.array([[[5.0], [7.0]]]), np.array([[[0], [0]]])
    assert pooling.written_by_one(np.array([[[7.0, 0], [5, 0]]]), y, switches).tolist() == [
        [[False, True], [False, True]]
    ]


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_infinities_and_nan_are_added_as_any_number() -> None:
    y = np.array([[[np.inf, -np.inf, 1], [np.inf, 1, 2], [np.nan, 1, 2], [4, 2, 1]]])
    switches = np.array([[[1, 1, 0]] * 4])
    total = pooling.unpool(y, switches, (3,))
    assert same(total, [[[1, np.nan, 0], [2, np.inf, 0], [2, np.nan, 0], [1, 6, 0]]])


def test_infinities_of_both_signs_meet_without_a_warning() -> None:
    case = make_case("max_unpool", "t/inf", batch=2, channels=3, input=[4, 4], kernel=3, stride=1, data=["edge-inf"])
    for seed in range(10):
        pose(case, "edge-inf", seed)


def test_an_empty_batch_is_unpooled_to_nothing() -> None:
    y, switches = np.zeros((0, 3, 2), np.float32), np.zeros((0, 3, 2), np.int64)
    assert pooling.unpool(y, switches, (4,)).shape == (0, 3, 4)
    assert pooling.unpool_assign(y, switches, (4,)).shape == (0, 3, 4)
    assert pooling.written_by_one(np.zeros((0, 3, 4)), y, switches).shape == (0, 3, 4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_values_of_narrow_formats_are_added_in_float64(dtype: Any) -> None:
    y, switches = np.array([[[2048, 1, 1]]], dtype), np.array([[[1, 1, 1]]])
    assert pooling.unpool(y, switches, (2,)).tolist() == [[[0.0, 2050.0]]]


# ---- Assigning where windows overlap erases what a deconvnet looks for ----


def test_an_isolated_activation_is_erased_by_the_zeros_of_its_neighbours() -> None:
    """Windows [0, 1, 2] and [2, 3, 4] share their maximum; one is kept, and the zero of the other is put on it."""
    axes, switches = (Axis(5, 2, 3, 2),), np.array([[[2, 2]]])
    values, found = pooling.max_pool(axes, np.array([[[1.0, 2, 9, 3, 4]]]))
    assert (values.tolist(), found.tolist()) == ([[[9, 9]]], switches.tolist())
    kept = exact(Isolate(), values)
    assert kept.tolist() == [[[9, 0]]]
    assert pooling.unpool(kept, switches, (5,)).tolist() == [[[0, 0, 9, 0, 0]]]
    assert pooling.unpool_assign(kept, switches, (5,)).tolist() == [[[0, 0, 0, 0, 0]]]
    assert pooling.unpool_assign(kept, switches, (5,), first=True).tolist() == [[[0, 0, 9, 0, 0]]]
    mean = MaxUnpool(id="", op="max_unpool", axes=axes, padding="valid", overlap="mean")
    assert exact(mean, kept, switches).tolist() == [[[0, 0, 4.5, 0, 0]]]


def test_a_whole_deconvnet_may_see_nothing_for_it() -> None:
    """Its strongest activation stands where four windows meet: the sum projects it to pixels, assignment to nothing."""
    layers = [{"conv": 1, "kernel": 1, "bias": False}, {"relu": True}, {"max_pool": 3, "stride": 2}]
    image = np.zeros((1, 1, 5, 5))
    image[0, 0, 2, 2] = 3
    tensors = {"input": image, "conv1.weight": np.full((1, 1, 1, 1), 2.0)}
    results = {}
    for overlap in ("sum", "assign", "mean"):
        case = net("C", input=[5, 5], in_channels=1, batch=1, layers=layers, overlap=overlap)
        results[overlap] = walk(case.stages, tensors)["output"]
    assert results["sum"][0, 0, 2, 2] == 12
    assert results["mean"][0, 0, 2, 2] == 3
    assert not results["assign"].any()
    assert np.count_nonzero(results["sum"]) == np.count_nonzero(results["mean"]) == 1
