"""How much of its bound a result uses: the two gates that a rounded result has to pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from conformance.dtypes import FORMATS
from conformance.oracle.bounds import Arithmetic, gamma

BLOCK = 2**20
SMALL_SAMPLE = 8.0


@dataclass(frozen=True, slots=True)
class Usage:
    """``bound`` is the largest ``|error| / bound``, ``rms`` that of the statistical gate; both at most 1 when legal.

    ``worst`` is the flat index of the element that uses most of its bound (not a number uses infinitely much).
    """

    bound: float
    rms: float
    max_abs_error: float
    worst: int

    @property
    def legal(self) -> bool:
        return self.bound <= 1.0 and self.rms <= 1.0


def usage(
    arithmetic: Arithmetic,
    actual: np.ndarray,
    exact: np.ndarray,
    products: np.ndarray,
    magnitude: np.ndarray,
    bias: np.ndarray | None = None,
    oracle_unit: float = 0.0,
) -> Usage:
    """Measure a result against the exact one.

    ``actual``, ``exact`` and ``magnitude`` have the shape of the result, ``products`` broadcasts against it.
    ``bias``, which broadcasts too, matters to arithmetics that add it apart.  ``oracle_unit`` is the unit roundoff of
    the reference itself where that has rounded.

    The root mean square of few elements scatters: one product plus a bias may legally give 1.41 for a single element.
    Its limit is therefore ``sqrt(1 + 8 / m)`` for ``m`` elements, and ``rms`` is told relative to that limit.
    """
    columns = math.prod(products.shape) or 1
    n = products.reshape(1, -1) if products.size else np.ones((1, 1))
    views = [array.reshape(-1, columns) for array in (actual, exact, magnitude)]
    without = None
    if arithmetic.bias_apart and bias is not None:
        without = (exact - bias).reshape(-1, columns)
    squares, count, top, largest, worst = 0.0, 0, -1.0, 0.0, 0
    rows = max(BLOCK // columns, 1)
    for first in range(0, views[0].shape[0], rows):
        got, want, a = (view[first : first + rows] for view in views)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            error = np.abs(got.astype(np.float64) - want)
            np.copyto(error, np.inf, where=np.isnan(error))
            size = np.abs(want)
            if without is not None:
                size += (1 + FORMATS[arithmetic.dtype].unit_roundoff) * np.abs(without[first : first + rows])
            limit = arithmetic.bound(n, a, size)
            if oracle_unit:
                limit = limit + gamma(n, oracle_unit) * a
            used = ratio(error, limit)
            unit = ratio(error, arithmetic.scale(n, a, size))
        if (block_top := float(used.max(initial=0.0))) > top:
            top, worst = block_top, first * columns + int(used.argmax()) if used.size else 0
        largest = max(largest, float(error.max(initial=0.0)))
        squares += float(np.sum(np.square(unit)))
        count += unit.size
    rms = math.sqrt(squares / count / (1 + SMALL_SAMPLE / count)) if count else 0.0
    return Usage(max(top, 0.0), rms, largest, worst)


def rms(typical: np.ndarray) -> float:
    """The root mean square of errors told in the size that is typical of them, relative to its limit."""
    if not typical.size:
        return 0.0
    return math.sqrt(float(np.mean(np.square(typical))) / (1 + SMALL_SAMPLE / typical.size))


def ratio(error: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """``error / limit``, where 0 / 0 is 0: a bound of 0 demands exactly 0."""
    quotient: np.ndarray = np.divide(error, limit, out=np.where(error > 0, np.inf, 0.0), where=limit > 0)
    quotient[np.isinf(error)] = np.inf
    return quotient
