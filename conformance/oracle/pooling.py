"""Max pooling with switches, and unpooling through them.

Window ``m`` of an axis covers the positions ``j = m s - begin + t d`` with ``0 <= j < large`` (`Axis`); what lies
outside never wins.  A switch is the flat index of the maximum in the plane of its channel.  Unpooling puts every value
back to the place that its switch names.  Where windows overlap, several values may meet in one place: their sum is the
adjoint of pooling through the same switches,

    < P x, y > = < x, U y >,

which neither one of them (assignment) nor their mean is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conformance.arithmetic import Axis

Axes = Sequence[Axis]

BLOCK = 2**22  # elements of all windows that are looked at together


@functools.lru_cache(maxsize=64)
def windows(axes: tuple[Axis, ...]) -> np.ndarray:
    """Flat large positions of every window, ``(windows, taps)`` in C order; -1 for what lies outside."""
    table = np.zeros((1, 1), np.int64)
    for axis in axes:
        m, t = np.arange(axis.small)[:, None], np.arange(axis.kernel)[None, :]
        j = m * axis.stride - axis.begin + t * axis.dilation
        inside = (j >= 0) & (j < axis.large)
        before, after = table[:, None, :, None], np.where(inside, j, -1)[None, :, None, :]
        joined = np.where((before < 0) | (after < 0), -1, before * axis.large + after)
        table = joined.reshape(table.shape[0] * axis.small, table.shape[1] * axis.kernel)
    table.flags.writeable = False
    return table


def planes(x: np.ndarray) -> np.ndarray:
    """``(N, C, *spatial)`` as ``(N * C, positions)``."""
    return x.reshape(x.shape[0] * x.shape[1], math.prod(x.shape[2:]))


def _lowest(x: np.ndarray) -> np.ndarray:
    """-inf in x's dtype: NumPy 1 finds none that bfloat16 shares with a Python float."""
    return np.array(-np.inf, x.dtype)


def max_pool(axes: Axes, x: np.ndarray, magnitude: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Values and switches: ``(N, C, *large)`` to two times ``(N, C, *small)``, the values of x's dtype.

    Of equal maxima the first in C order; a NaN is larger than any number, and the first of several.  ``magnitude``
    compares absolute values and keeps the sign.
    """
    table = windows(tuple(axes))
    values = planes(x)
    keys = np.abs(values) if magnitude else values
    first = table[np.arange(table.shape[0]), (table >= 0).argmax(axis=1)]
    switches = np.empty((values.shape[0], table.shape[0]), np.int64)
    for start in range(0, values.shape[0], step := max(BLOCK // max(table.size, 1), 1)):
        rows = slice(start, start + step)
        seen = np.where(table >= 0, keys[rows][:, table], _lowest(keys))
        best = seen.argmax(axis=2)
        found = table[np.arange(table.shape[0]), best]
        lowest = np.take_along_axis(seen, best[..., None], axis=2)[..., 0] == -np.inf
        switches[rows] = np.where(lowest, first, found)
    small = (*x.shape[:2], *(a.small for a in axes))
    return np.take_along_axis(values, switches, axis=1).reshape(small), switches.reshape(small)


def window_maxima(axes: Axes, x: np.ndarray) -> np.ndarray:
    """The largest element of each window, NaN passed over; -inf where there is nothing else."""
    table = windows(tuple(axes))
    values = planes(x)
    seen = np.where(table >= 0, values[:, table], _lowest(values))
    largest: np.ndarray = np.fmax.reduce(seen, axis=2, initial=-np.inf)
    return largest.reshape(*x.shape[:2], *(a.small for a in axes))


def only_nan(axes: Axes, x: np.ndarray) -> np.ndarray:
    """Whether a window holds nothing but NaN."""
    table = windows(tuple(axes))
    numbers: np.ndarray = ((table >= 0) & ~np.isnan(planes(x)[:, table])).any(axis=2)
    return ~numbers.reshape(*x.shape[:2], *(a.small for a in axes))


def holds(axes: Axes, x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Whether each value is an element of its window; NaN is never."""
    table = windows(tuple(axes))
    found = (table >= 0) & (planes(x)[:, table] == planes(values)[..., None])
    return found.any(axis=2).reshape(values.shape)  # type: ignore[no-any-return]


def inside_window(axes: Axes, switches: np.ndarray) -> np.ndarray:
    """Whether each switch names an element of its own window."""
    table = windows(tuple(axes))
    found = (table[None] == planes(switches)[..., None]) & (table >= 0)
    return found.any(axis=2).reshape(switches.shape)  # type: ignore[no-any-return]


def take(x: np.ndarray, switches: np.ndarray) -> np.ndarray:
    """Pooling through given switches: the elements of ``(N, C, *large)`` that ``(N, C, *small)`` switches name."""
    return np.take_along_axis(planes(x), planes(switches), axis=1).reshape(switches.shape)


def writers(switches: np.ndarray, large: Sequence[int]) -> np.ndarray:
    """How many values each place gets; float64, ``(N, C, *large)``."""
    return unpool(np.ones(switches.shape), switches, large)


def unpool_assign(y: np.ndarray, switches: np.ndarray, large: Sequence[int], *, first: bool = False) -> np.ndarray:
    """Unpooling that assigns: the last value in C order stays, or the first."""
    values, places = planes(y.astype(np.float64)), planes(switches)
    result = np.zeros((values.shape[0], math.prod(large)))
    order = slice(None, None, -1) if first else slice(None)
    rows = np.repeat(np.arange(values.shape[0]), values.shape[1]).reshape(values.shape)
    result[rows[:, order].ravel(), places[:, order].ravel()] = values[:, order].ravel()
    return result.reshape(*y.shape[:2], *large)


def contested(y: np.ndarray, switches: np.ndarray, large: Sequence[int]) -> np.ndarray:
    """For each place whether it gets values that differ."""
    last = take(unpool_assign(y, switches, large), switches)
    differs = (last != y) & ~(np.isnan(last) & np.isnan(y.astype(np.float64)))
    places: np.ndarray = unpool(differs.astype(np.float64), switches, large) > 0
    return places


def written_by_one(actual: np.ndarray, y: np.ndarray, switches: np.ndarray) -> np.ndarray:
    """For each place whether what stands there is one of the values that it gets, or 0 if it gets none."""
    large = actual.shape[2:]
    same = np.equal(take(actual.astype(np.float64), switches), y.astype(np.float64))
    same |= np.isnan(take(actual, switches)) & np.isnan(y)
    hits = unpool(same.astype(np.float64), switches, large)
    untouched: np.ndarray = (writers(switches, large) == 0) & (actual == 0)
    return untouched | (hits > 0)


def unpool(y: np.ndarray, switches: np.ndarray, large: Sequence[int]) -> np.ndarray:
    """Unpooling that adds: ``(N, C, *small)`` to ``(N, C, *large)`` in float64."""
    values, places = planes(y.astype(np.float64)), planes(switches)
    size = math.prod(large)
    result = np.zeros(values.shape[0] * size)
    flat = (places + np.arange(values.shape[0])[:, None] * size).ravel()
    if np.isfinite(values).all():
        result = np.bincount(flat, values.ravel(), result.size).astype(np.float64)
    else:
        with np.errstate(invalid="ignore"):  # inf - inf is NaN, as it should be
            np.add.at(result, flat, values.ravel())
    return result.reshape(*y.shape[:2], *large)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the values of windows may stand: an entry for each place that a window's may have.

    ``window`` and ``place`` are flat over all planes; ``sure`` is the only entry of its window.
    """

    window: np.ndarray
    place: np.ndarray
    sure: np.ndarray

    def unsettled(self, small: np.ndarray) -> int:
        """How many windows have several places, of those that ``small`` says to look at."""
        return int(small.reshape(-1)[np.unique(self.window[~self.sure])].sum())

    def twins(self, small: Sequence[int]) -> np.ndarray:
        """The windows whose value comes from a place that a window before them takes it from, surely both."""
        windows, places = self.window[self.sure], self.place[self.sure]
        again = np.ones(windows.size, bool)
        again[np.unique(places, return_index=True)[1]] = False
        result = np.zeros(math.prod(small), bool)
        result[windows[again]] = True
        return result.reshape(small)

    def count(self, large: Sequence[int], which: np.ndarray | None = None) -> np.ndarray:
        """How many values may come to each place of ``(N, C, *large)``, or those of some entries."""
        places = self.place if which is None else self.place[which]
        return np.bincount(places, minlength=math.prod(large)).reshape(large)


def settled(switches: np.ndarray, large: Sequence[int]) -> Places:
    """The places that switches ``(N, C, *small)`` name, in planes of that size."""
    places = planes(switches) + np.arange(math.prod(switches.shape[:2]))[:, None] * math.prod(large)
    return Places(np.arange(switches.size), places.reshape(-1), np.ones(switches.size, bool))


def may_be_maxima(axes: Axes, low: np.ndarray, high: np.ndarray) -> Places:
    """The places of all elements that may be the maximum of their window, where x lies between low and high."""
    table = windows(tuple(axes))
    lows, highs = planes(low), planes(high)
    found: list[tuple[np.ndarray, ...]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for start in range(0, lows.shape[0], step := max(BLOCK // max(table.size, 1), 1)):
        rows = slice(start, start + step)
        seen = [np.where(table >= 0, bounds[rows][:, table], -np.inf) for bounds in (lows, highs)]
        plane, window, tap = np.nonzero(may_be_largest(*seen))
        plane += start
        found.append((plane * table.shape[0] + window, plane * lows.shape[1] + table[window, tap]))
    window, place = (np.concatenate(each) for each in zip(*found, strict=True))
    return Places(window, place, np.bincount(window)[window] == 1)


def may_be_largest(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which numbers along the last axis may be the largest, and the first of several, if they lie between low and high.

    Of numbers that are known and equal that is the first.
    """
    lowest = low.max(axis=-1, keepdims=True)
    first = np.arange(low.shape[-1]) == low.argmax(axis=-1)[..., None]
    may_be: np.ndarray = first | (high > lowest) | ((high == lowest) & (low < high))
    return may_be
