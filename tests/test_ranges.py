"""Steps on ranges enclose: of whatever numbers and whatever choices, nothing comes out that they do not hold."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from walkers import make_case

from conformance.arithmetic import Axis
from conformance.oracle import pooling
from conformance.oracle.pooling import Places
from conformance.oracle.range_steps import FEW, RANGES, Given, may_be_strongest, ranges_of
from conformance.oracle.ranges import FAR, Range, between
from conformance.oracle.steps import STEPS, oracle_of
from conformance.spec import Isolate, Pad, Rectify, Reshape, ResponseNorm, ResponseNormGradient, Take

TURNS = range(40)
AXES = (Axis(5, 2, 3, 2, begin=0), Axis(4, 4, 2, 1, begin=1))
POOL: dict[str, Any] = {"input": [5, 4], "kernel": [3, 2], "stride": [2, 1], "padding": [[0, 0], [1, 0]], "channels": 3}
UNPOOL: dict[str, Any] = {**POOL, "input": [2, 4], "output_size": [5, 4]}


def some_range(rng: np.random.Generator, shape: tuple[int, ...]) -> Range:
    """Wide here, a single number there; with errors here, without there; many numbers near one another."""
    middle = rng.integers(-3, 4, shape) / 2
    width = rng.choice([0, 0, 0.25, 2], shape) * rng.random(shape)
    error = rng.choice([0, 0, 0.1, 1], shape) * rng.random(shape)
    return Range(middle - width, middle + width, error, np.square(error * rng.choice([0.05, 2], shape)))


def member(rng: np.random.Generator, x: Range) -> np.ndarray:
    """A number of each range, at one end or between, and off by as much as rounding leads."""
    inside = x.low + (x.high - x.low) * rng.choice([0, 1, 0.5, rng.random()], x.low.shape)
    return inside + x.far * rng.choice([-1, 0, 1], x.low.shape)


def holds(x: Range, value: np.ndarray) -> bool:
    room = x.error + 1e-12
    return bool(((x.low - room <= value) & (value <= x.high + room)).all())


def range_in(given: Given) -> Range:
    found = given.tensors[0]
    assert isinstance(found, Range)
    return found


def test_every_step_of_the_oracle_has_ranges() -> None:
    assert RANGES.keys() == STEPS.keys()


@pytest.mark.parametrize(
    "step",
    [
        make_case("conv", input=[5, 4], kernel=[3, 2], in_channels=4, out_channels=2, groups=2, padding=1, bias=True),
        make_case("conv_transpose", input=[5, 4], kernel=3, stride=2, in_channels=4, out_channels=3),
        Pad(((1, -1), (0, 2)), 0.5),
        Reshape((2, 8, 10)),
        Rectify(),
        ResponseNorm(3, 2.0, 0.75, 0.5),
        ResponseNorm(5, 0.5, 0.0, 1.0),
    ],
    ids=lambda step: getattr(step, "op", type(step).__name__),
)
def test_what_a_step_makes_of_numbers_in_ranges_is_in_its_range(step: Any) -> None:
    for turn in TURNS:
        rng = np.random.default_rng(turn)
        x = some_range(rng, (2, 4, 5, 4))
        weights = [
            rng.standard_normal(shape) for n, shape in getattr(step, "tensor_shapes", {}).items() if n != "input"
        ]
        found = range_in(ranges_of(step).given(step, x, *weights))
        for _ in range(10):
            assert holds(found, oracle_of(step).exact(step, member(rng, x), *weights)[0])


def test_a_range_without_an_end_does_not_swallow_what_the_others_add_to_it() -> None:
    """1 is added to what lies between 0 and 1e120, so that 1 may come out, and so may 0 and 1 - 1e120."""
    step = make_case("conv", input=[1], kernel=1, in_channels=2)
    x = between(np.array([[[0.0], [-3]]]), np.array([[[1e120], [-1]]]))
    found = range_in(ranges_of(step).given(step, x, np.ones((1, 2, 1))))
    assert found.low.item() < -1e120
    assert found.high.item() > 1e120


@pytest.mark.parametrize("by", ["mask", "both"])
def test_a_mask_that_is_open_lets_a_signal_through_or_not(by: Any) -> None:
    step, seen = Rectify(by), 0
    for turn in TURNS:
        rng = np.random.default_rng(turn)
        signal, activation = some_range(rng, (2, 4, 5)), some_range(rng, (2, 4, 5))
        given = ranges_of(step).given(step, signal, activation)
        masks = []
        for _ in range(10):
            masks.append(member(rng, activation))
            assert holds(range_in(given), oracle_of(step).exact(step, member(rng, signal), masks[-1])[0])
        open_at = [mask > 0 for mask in masks]
        moved = np.any(open_at, axis=0) & ~np.all(open_at, axis=0) & (range_in(given).size > 0)
        assert given.open >= moved.sum()
        seen += int(moved.sum())
    assert seen > 100


def test_the_gradient_of_a_normalisation_of_ranges_at_ranges() -> None:
    step = ResponseNormGradient(ResponseNorm(3, 2.0, 0.75, 0.5))
    for turn in TURNS:
        rng = np.random.default_rng(turn)
        signal, x = some_range(rng, (2, 5, 3)), some_range(rng, (2, 5, 3))
        given, roundings = ranges_of(step).given(step, signal, x), ranges_of(step).roundings(step, signal, x)
        assert roundings is not None
        for _ in range(10):
            fed = member(rng, signal), member(rng, x)
            assert holds(range_in(given), oracle_of(step).exact(step, *fed)[0])
            own = oracle_of(step).roundings(step, *fed)
            assert own is not None
            assert (own.products <= roundings.products + 1e-9).all()
            assert (own.magnitude <= roundings.magnitude + 1e-9).all()


@pytest.mark.parametrize("magnitude", [False, True])
def test_the_maxima_of_numbers_in_ranges_are_among_the_places(magnitude: bool) -> None:
    step = make_case("max_pool", **POOL, batch=2, magnitude=magnitude)
    moved = 0
    for turn in TURNS:
        rng = np.random.default_rng(turn)
        x = some_range(rng, (2, 3, 5, 4))
        values, places = ranges_of(step).given(step, x).tensors
        assert isinstance(places, Places)
        assert isinstance(values, Range)
        entries = set(zip(places.window.tolist(), places.place.tolist(), strict=True))
        taken = []
        for _ in range(20):
            found, switches = pooling.max_pool(step.axes, member(rng, x), magnitude)
            taken.append(pooling.settled(switches, step.large))
            assert entries.issuperset(zip(taken[-1].window.tolist(), taken[-1].place.tolist(), strict=True))
            assert holds(values, found)
        several = np.ptp([one.place for one in taken], axis=0) > 0
        assert not places.sure[np.isin(places.window, np.flatnonzero(several))].any()
        moved += int(several.sum())
    assert moved > 50


def test_numbers_that_are_known_leave_nothing_open() -> None:
    """Not even where they are equal: then it is the first."""
    step = make_case("max_pool", **POOL, batch=2)
    x = np.random.default_rng(0).integers(-1, 2, (2, 3, 5, 4)).astype(np.float64)
    values, places = ranges_of(step).given(step, between(x, x)).tensors
    expected, switches = pooling.max_pool(step.axes, x)
    assert isinstance(places, Places)
    assert isinstance(values, Range)
    assert places.sure.all()
    assert np.array_equal(places.place, pooling.settled(switches, step.large).place)
    assert np.array_equal(values.low, expected)


def test_places_are_the_same_however_many_windows_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 4))
    together = pooling.may_be_maxima(AXES, x - 0.1, x + 0.1)
    monkeypatch.setattr(pooling, "BLOCK", 1)
    apart = pooling.may_be_maxima(AXES, x - 0.1, x + 0.1)
    assert all(np.array_equal(getattr(together, name), getattr(apart, name)) for name in ("window", "place", "sure"))


LARGEST = [
    ([1, 2], [1, 2], [False, True]),
    ([2, 2], [2, 2], [True, False]),
    ([1, 2], [3, 2], [True, True]),
    ([1, 2], [2, 3], [True, True]),  # 2 and 2: the first
    ([2, 1], [3, 2], [True, True]),
    ([2, 2], [2, 3], [True, True]),
    ([2, 2], [3, 2], [True, False]),  # the second is known, and the first no smaller
    ([-math.inf, 0], [-math.inf, 1], [False, True]),
    ([-math.inf, -math.inf], [-math.inf, -math.inf], [True, False]),
]


@pytest.mark.parametrize(("low", "high", "expected"), LARGEST, ids=str)
def test_what_may_be_the_first_of_the_largest(low: list[float], high: list[float], expected: list[bool]) -> None:
    assert pooling.may_be_largest(np.array(low), np.array(high)).tolist() == expected


def test_windows_that_surely_take_the_same_place_are_twins_of_the_first() -> None:
    places = Places(np.array([0, 1, 2, 3, 3, 4]), np.array([7, 5, 7, 7, 9, 7]), np.array([1, 1, 1, 0, 0, 1], bool))
    assert places.twins((1, 1, 5)).ravel().tolist() == [False, False, True, False, True]


# ---- Unpooling through switches that are open ----


def undecided(rng: np.random.Generator) -> tuple[np.ndarray, Places]:
    """Which elements of each window are possible, ``(planes, windows, taps)``, and the places that says."""
    table = pooling.windows(AXES)
    keys = np.where(table >= 0, rng.random((6, *table.shape)), -1.0)
    possible = keys == keys.max(axis=2, keepdims=True)
    possible |= (rng.random(possible.shape) < 0.3) & (table >= 0) & (rng.random((6, table.shape[0], 1)) < 0.3)
    plane, window, tap = np.nonzero(possible)
    flat = plane * table.shape[0] + window
    return possible, Places(flat, plane * 20 + table[window, tap], np.bincount(flat)[flat] == 1)


def decided(rng: np.random.Generator, possible: np.ndarray) -> np.ndarray:
    """Switches, ``(N, C, *small)``."""
    keys = np.where(possible, rng.random(possible.shape), -1.0)
    table = np.broadcast_to(pooling.windows(AXES), keys.shape)
    return np.take_along_axis(table, keys.argmax(axis=2)[..., None], axis=2).reshape(2, 3, 2, 4)


def assigned(rng: np.random.Generator, y: np.ndarray, switches: np.ndarray) -> np.ndarray:
    result = np.zeros((6, 20))
    for n in rng.permutation(8):
        result[np.arange(6), switches.reshape(6, -1)[:, n]] = y.reshape(6, -1)[:, n]
    return result.reshape(2, 3, 5, 4)


@pytest.mark.parametrize("overlap", ["sum", "mean", "assign"])
def test_whatever_is_unpooled_through_whichever_switches_is_in_the_range(overlap: str) -> None:
    step = make_case("max_unpool", **UNPOOL, batch=2, overlap=overlap)
    assert step.axes == AXES
    for turn in TURNS:
        rng = np.random.default_rng(turn)
        y, (possible, places) = some_range(rng, (2, 3, 2, 4)), undecided(rng)
        given, roundings = ranges_of(step).given(step, y, places), ranges_of(step).roundings(step, y, places)
        results = []
        for _ in range(20):
            value, switches = member(rng, y), decided(rng, possible)
            results.append(oracle_of(step).exact(step, value, switches)[0])
            if overlap == "assign":
                results.append(assigned(rng, value, switches))
            elif (own := oracle_of(step).roundings(step, value, switches)) is not None:
                assert roundings is not None
                assert (own.products <= roundings.products).all()
                assert (own.magnitude <= roundings.magnitude + 1e-9).all()
        assert all(holds(range_in(given), result) for result in results)
        assert given.open > 0


def test_taking_through_whichever_switches() -> None:
    step = Take(AXES)
    for turn in TURNS:
        rng = np.random.default_rng(turn)
        x, (possible, places) = some_range(rng, (2, 3, 5, 4)), undecided(rng)
        given = ranges_of(step).given(step, x, places)
        for _ in range(20):
            assert holds(range_in(given), pooling.take(member(rng, x), decided(rng, possible)))
        assert given.open == len({*places.window[~places.sure]} - {*np.flatnonzero(range_in(given).size == 0)})


def row(overlap: str, y: Any, places: Any, sure: Any) -> Given:
    """Three windows of three places each, unpooled to a row of five."""
    step = make_case("max_unpool", input=[3], kernel=3, stride=1, overlap=overlap)
    low, high = (np.array(end, np.float64).reshape(1, 1, 3) for end in y)
    window = np.array([n for n, those in enumerate(places) for _ in those])
    flat = np.array([place for those in places for place in those])
    return ranges_of(step).given(step, between(low, high), Places(window, flat, np.array(sure, bool)[window]))


def ends(given: Given) -> list[tuple[float, float]]:
    found = range_in(given)
    return list(zip(found.low.ravel().tolist(), found.high.ravel().tolist(), strict=True))


KNOWN = ((3, 5, 4), (3, 5, 4))


def test_the_ranges_of_a_row_by_hand() -> None:
    """3 to place 2, 5 to place 2 or 3, 4 to place 4."""
    places, sure = ((2,), (2, 3), (4,)), (True, False, True)
    given = row("sum", KNOWN, places, sure)
    assert ends(given) == [(0, 0), (0, 0), (3, 8), (0, 5), (4, 4)]
    assert given.open == 1
    given = row("assign", KNOWN, places, sure)
    assert ends(given) == [(0, 0), (0, 0), (3, 5), (0, 5), (4, 4)]
    assert given.open == 2  # the switch, and what stays if it is that of the first place
    given = row("mean", KNOWN, places, sure)
    assert ends(given) == [(0, 0), (0, 0), (3, 5), (0, 5), (4, 4)]
    assert given.open == 1


def test_where_several_values_are_assigned_any_may_stay() -> None:
    given = row("assign", ((3, 5, 4), (3, 6, 4)), ((2,), (2,), (2,)), (True, True, True))
    assert ends(given) == [(0, 0), (0, 0), (3, 6), (0, 0), (0, 0)]
    assert given.open == 1
    assert row("assign", ((5, 5, 5), (5, 5, 5)), ((2,), (2,), (4,)), (True, True, True)).open == 0


def test_a_mean_of_what_surely_comes_is_narrow() -> None:
    given = row("mean", ((3, 5, 4), (4, 6, 4)), ((2,), (2,), (4,)), (True, True, True))
    assert ends(given) == [(0, 0), (0, 0), (4, 5), (0, 0), (4, 4)]
    assert given.open == 0


def test_a_zero_that_may_go_elsewhere_leaves_a_mean_open_and_a_sum_not() -> None:
    """Of 6 and 0 the mean is 3, and 6 without the 0."""
    y, places, sure = ((6, 0, 4), (6, 0, 4)), ((2,), (2, 3), (4,)), (True, False, True)
    assert (ends(row("mean", y, places, sure))[2], row("mean", y, places, sure).open) == ((0, 6), 1)
    assert (ends(row("sum", y, places, sure))[2], row("sum", y, places, sure).open) == ((6, 6), 0)
    apart = ((1,), (2, 3), (4,))
    assert row("mean", y, apart, sure).open == 0


# ---- The unit that is isolated ----

ISOLATIONS = [
    Isolate(keep, seed, channel, unit)
    for keep, seed, channel, unit in itertools.product(
        ("unit", "channel", "none"), ("activation", "one"), (None, 1), (None, (1,))
    )
    if not (keep != "unit" and unit) and not (keep == "none" and channel)
]


@pytest.mark.parametrize("step", ISOLATIONS, ids=str)
def test_what_is_isolated_of_numbers_in_ranges_is_one_of_the_choices(step: Isolate) -> None:
    several = 0
    for turn in TURNS:
        rng = np.random.default_rng(turn)
        x = some_range(rng, (3, 4, 5))
        given = ranges_of(step).given(step, x)
        for _ in range(20):
            result = oracle_of(step).exact(step, member(rng, x))[0]
            assert holds(range_in(given), result)
            for image in range(3) if given.each else ():
                assert any(holds(one_image(choice, image), result[image]) for choice in given.each)
        several += given.open > 0
    nothing_looked_for = step.keep == "none" or (step.channel is not None and (step.keep == "channel" or step.unit))
    assert (several == 0) if nothing_looked_for else (several > 20)


def one_image(x: Range, image: int) -> Range:
    return x.moved(lambda part: part[image])


def test_each_choice_is_one_unit() -> None:
    """4 and 5 in the first image, 6 alone in the second."""
    low = np.array([[[4.0, 1], [2, 3]], [[1, 6], [0, 0]]])
    x = between(low, low + np.array([[[0, 0], [0, 2.0]], [[0, 0], [0, 0]]]))
    given = ranges_of(Isolate()).given(Isolate(), x)
    assert given.open == 1
    assert [choice.high.ravel().nonzero()[0].tolist() for choice in given.each] == [[0, 5], [3, 5]]
    assert [choice.low.ravel()[[0, 3, 5]].tolist() for choice in given.each] == [[4, 0, 6], [0, 3, 6]]
    hull = range_in(given)
    assert hull.low.ravel().tolist() == [0, 0, 0, 0, 0, 6, 0, 0]
    assert hull.high.ravel().tolist() == [4, 0, 0, 5, 0, 6, 0, 0]


def test_more_choices_than_a_few_are_not_looked_at_one_by_one() -> None:
    for rivals in (FEW, FEW + 1):
        low = np.zeros((1, 1, rivals))
        given = ranges_of(Isolate()).given(Isolate(), between(low, low + 1))
        assert (given.open, len(given.each)) == (rivals - 1, rivals if rivals <= FEW else 0)


def test_a_twin_is_no_rival() -> None:
    x = between(np.array([[[1.0, 1, 0]]]), np.array([[[2.0, 2, 1.5]]]))
    twins = np.array([[[False, True, False]]])
    assert may_be_strongest(Isolate(), x).tolist() == [[True, True, True]]
    assert may_be_strongest(Isolate(), x, twins).tolist() == [[True, False, True]]


# ---- Ranges themselves ----


def test_rounding_leads_no_further_than_the_largest_error_nor_than_many_typical_ones() -> None:
    x = Range(np.zeros(2), np.zeros(2), np.array([1.0, 100]), np.array([4.0, 4]))
    assert x.far.tolist() == [1, 2 * FAR]
    assert x.size.tolist() == [1, 2 * FAR]
    assert x.widened().low.tolist() == [-1, -2 * FAR]


def test_a_rectifier_takes_away_the_error_of_what_is_far_below_zero() -> None:
    x = Range(np.array([-2.0, -2, 3]), np.array([-1.0, -1, 3]), np.array([0.5, 2, 1]), np.array([9.0, 9, 9]))
    found = range_in(ranges_of(Rectify()).given(Rectify(), x))
    assert found.error.tolist() == [0, 2, 1]
    assert found.variance.tolist() == [0, 9, 9]
    assert found.low.tolist() == found.high.tolist() == [0, 0, 3]


def test_products_of_ranges() -> None:
    for a, b in itertools.product([(-2.0, 1.0), (1.0, 3.0), (-3.0, -1.0), (0.0, 0.0)], repeat=2):
        found = between(*map(np.array, a)) * between(*map(np.array, b))
        products = [x * y for x in np.linspace(*a, 7) for y in np.linspace(*b, 7)]
        assert (found.low, found.high) == (min(products), max(products))


def test_absolute_values_of_ranges() -> None:
    found = between(np.array([-2.0, 1, -3]), np.array([1.0, 3, -1])).absolute()
    assert found.low.tolist() == [0, 1, 1]
    assert found.high.tolist() == [2, 3, 3]
