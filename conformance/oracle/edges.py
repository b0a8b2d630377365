"""Edge data: numbers at the edges of the format, and what may come of them.

The special numbers stand in the op's input only.  A weight that is infinite or not a number would reach, through the
zeros that some implementations pad or stretch the input with (0 * inf), elements that C does not connect it to.

===============  ==========================  =======================================================================
kind             input holds                 an element must be
===============  ==========================  =======================================================================
edge-nan         NaN                         NaN if a product with NaN reaches it, otherwise exact
edge-inf         +inf, -inf                  NaN if infinities of both signs reach it, infinite if one does, else exact
edge-zero        +0, -0, +1, -1              exact; a zero is +0 unless all its addends are -0 (IEEE 754, section 6.3)
edge-subnormal   multiples of the smallest   exact: all sums are multiples of it too
edge-huge        multiples of 2**(emax - 2)  exact where no partial sum can overflow; infinite where all must; where it
                                             depends on the order of summation, any of the outcomes that an order gives
===============  ==========================  =======================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from conformance.dtypes import Format
from conformance.oracle.draws import Layout
from conformance.spec.case import Shape

FINITE, POSITIVE_INFINITE, NEGATIVE_INFINITE, NAN = 1, 2, 4, 8
SCALE = 2.0**-600
"""Huge numbers are computed with scaled down by this much, so that float64 cannot overflow."""

Apply = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Allowed:
    """What each element may be: a set of FINITE, POSITIVE_INFINITE, NEGATIVE_INFINITE, NAN as bits.

    ``negative_zero`` marks elements all of whose addends are -0, where a zero of either sign is right.
    """

    outcomes: np.ndarray
    negative_zero: np.ndarray


def draw_edge(kind: str, layout: Layout, format: Format, rng: Generator) -> dict[str, np.ndarray]:
    """Tensors in float64, every element representable in ``format``."""
    tensors = {name: _small(rng, shape) for name, shape in layout.shapes.items()}
    shape = layout.shapes["input"]
    if kind in ("edge-nan", "edge-inf"):
        special = [np.nan] if kind == "edge-nan" else [np.inf, -np.inf]
        count = max(1, math.prod(shape) // (3 * math.prod(layout.shapes["weight"][2:]))) if math.prod(shape) else 0
        places = rng.choice(max(math.prod(shape), 1), count, replace=False)
        tensors["input"].flat[places] = rng.choice(special, count)
    elif kind == "edge-zero":
        tensors["input"] = rng.choice([0.0, -0.0, -0.0, 1.0, -1.0], shape, p=[0.2, 0.3, 0.3, 0.1, 0.1])
        if "bias" in tensors:
            tensors["bias"] = rng.choice([0.0, -0.0], tensors["bias"].shape)
    elif kind == "edge-subnormal":
        tensors["input"] = _integers(rng, shape, 2 ** (format.precision // 2)) * format.subnormal
        if "bias" in tensors:
            tensors["bias"] = _small(rng, tensors["bias"].shape) * format.subnormal
    else:
        unit = _huge_unit(format)
        tensors["input"] = _small(rng, shape) * unit
        if "bias" in tensors:
            tensors["bias"] = _small(rng, tensors["bias"].shape) * unit
    return tensors


def expect_edge(
    kind: str, tensors: Mapping[str, np.ndarray], apply: Apply, bias: np.ndarray, format: Format
) -> tuple[np.ndarray, Allowed]:
    """The exact result, infinite or NaN where it must be, and what else is allowed.

    ``apply(input, weight)`` is the bilinear op without bias, ``bias`` broadcasts against its result
    and is -0, the neutral element of addition, where there is none.
    """
    x, w = tensors["input"], tensors["weight"]
    if kind == "edge-huge":
        return _expect_huge(x, w, apply, bias, format)
    exact: np.ndarray = apply(np.where(np.isfinite(x), x, 0.0), w) + bias
    outcomes = np.full(exact.shape, FINITE, np.uint8)
    if kind in ("edge-nan", "edge-inf"):
        not_a_number = apply(np.isnan(x), np.ones_like(w)) > 0
        plus, minus = (_reached_by_infinity(x, w, apply, sign) for sign in (1.0, -1.0))
        for where, value, outcome in (
            (plus, np.inf, POSITIVE_INFINITE),
            (minus, -np.inf, NEGATIVE_INFINITE),
            (not_a_number | (plus & minus), np.nan, NAN),
        ):
            exact[where] = value
            outcomes[where] = outcome
    return exact, Allowed(outcomes, _only_negative_zeros(x, w, apply, bias))


def _expect_huge(
    x: np.ndarray, w: np.ndarray, apply: Apply, bias: np.ndarray, format: Format
) -> tuple[np.ndarray, Allowed]:
    """Which partial sums can overflow follows from the sums of the positive and of the negative products."""
    scaled = apply(x * SCALE, w) + bias * SCALE
    magnitude = apply(np.abs(x) * SCALE, np.abs(w)) + np.abs(bias) * SCALE
    overflow = _huge_unit(format) * SCALE * 8
    positive, negative = (magnitude + scaled) / 2, (magnitude - scaled) / 2
    up, down = positive >= overflow, negative >= overflow
    outcomes = np.where(np.abs(scaled) < overflow, FINITE, 0).astype(np.uint8)
    outcomes[up] |= POSITIVE_INFINITE
    outcomes[down] |= NEGATIVE_INFINITE
    outcomes[up & down] |= NAN
    with np.errstate(over="ignore"):
        exact = np.where(np.abs(scaled) < overflow, scaled / SCALE, np.copysign(np.inf, scaled))
    return exact, Allowed(outcomes, _only_negative_zeros(x, w, apply, bias))


def _reached_by_infinity(x: np.ndarray, w: np.ndarray, apply: Apply, sign: float) -> np.ndarray:
    same = apply(x == sign * np.inf, (w > 0).astype(np.float64))
    other = apply(x == -sign * np.inf, (w < 0).astype(np.float64))
    reached: np.ndarray = same + other > 0
    return reached


def _only_negative_zeros(x: np.ndarray, w: np.ndarray, apply: Apply, bias: np.ndarray) -> np.ndarray:
    """Elements reached by no product other than -0, and by no bias other than -0 (which stands for none too)."""
    other: np.ndarray | int = 0
    for sign in (1.0, -1.0):
        reaches = ((x != 0) | (np.copysign(1.0, x) == sign)).astype(np.float64)
        other = other + apply(reaches, (np.copysign(1.0, w) == sign).astype(np.float64))
    only: np.ndarray = (other == 0) & (np.asarray(bias) == 0) & np.signbit(bias)
    return only


def _small(rng: Generator, shape: Shape) -> np.ndarray:
    """1 or 2, either sign."""
    return _integers(rng, shape, 3)


def _integers(rng: Generator, shape: Shape, limit: int) -> np.ndarray:
    """Non-zero integers below ``limit`` in absolute value."""
    magnitude = rng.integers(1, limit, shape).astype(np.float64)
    signed: np.ndarray = np.copysign(magnitude, rng.choice([-1.0, 1.0], shape))
    return signed


def _huge_unit(format: Format) -> float:
    """``2**(emax - 2)``: 7 of them are finite, 8 overflow."""
    return 2.0 ** (math.frexp(format.largest)[1] - 3)
