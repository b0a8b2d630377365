"""Ranges of numbers: all that honest implementations may give, whatever they chose.

A `Range` holds the smallest and the largest number that exact arithmetic may give in each element, over all choices
that are open, and the largest and the typical rounding error on top of that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

FAR = 8.0
"""How many times their typical size the errors of many roundings may come to in a single element.

The statistical gate allows 1 in the mean, of which honest float32 results were never seen to use half.
"""

HUGE = 1e150
"""A bound that says nothing."""

FAR_OFF = 1e100
"""Beyond this a bound says nothing either."""


@dataclass(frozen=True, slots=True)
class Range:
    """Every number from ``low`` to ``high``, and rounding errors up to ``error`` that have a ``variance``.

    All are float64 and of one shape.
    """

    low: np.ndarray
    high: np.ndarray
    error: np.ndarray
    variance: np.ndarray

    @property
    def far(self) -> np.ndarray:
        """How far rounding may lead."""
        largest: np.ndarray = np.minimum(self.error, FAR * np.sqrt(self.variance))
        return largest

    @property
    def size(self) -> np.ndarray:
        """The largest absolute value."""
        largest: np.ndarray = np.maximum(np.abs(self.low), np.abs(self.high)) + self.far
        return largest

    def widened(self) -> Range:
        """The same as numbers that nothing is to be added to."""
        return self.off_by(self.far)

    def off_by(self, error: np.ndarray) -> Range:
        """The same, off by so much at most."""
        return between(self.low - error, self.high + error)

    def evened(self) -> Range:
        """The same, and bounded at neither end where it is as good as unbounded at one."""
        bounded = (self.low > -FAR_OFF) & (self.high < FAR_OFF)
        return replace(self, low=np.where(bounded, self.low, -HUGE), high=np.where(bounded, self.high, HUGE))

    def absolute(self) -> Range:
        smallest = np.where((self.low <= 0) & (self.high >= 0), 0.0, np.minimum(np.abs(self.low), np.abs(self.high)))
        return replace(self, low=smallest, high=np.maximum(np.abs(self.low), np.abs(self.high)))

    def or_zero(self, where: np.ndarray) -> Range:
        """The same, and 0 as well where so said."""
        low, high = np.minimum(self.low, 0.0), np.maximum(self.high, 0.0)
        return replace(self, low=np.where(where, low, self.low), high=np.where(where, high, self.high))

    def only(self, where: np.ndarray) -> Range:
        """The same, and nothing but 0 elsewhere."""
        return self.moved(lambda part: np.where(where, part, 0.0))

    def moved(self, function: Callable[[np.ndarray], np.ndarray]) -> Range:
        """The same numbers elsewhere."""
        return Range(function(self.low), function(self.high), function(self.error), function(self.variance))

    def __mul__(self, other: Range) -> Range:
        """Products of ranges that were widened."""
        products = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return between(np.minimum.reduce(products), np.maximum.reduce(products))


def between(low: np.ndarray, high: np.ndarray) -> Range:
    """A range of numbers that are not rounded."""
    return Range(low, high, np.zeros(low.shape), np.zeros(low.shape))
