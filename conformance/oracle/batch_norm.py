"""Batch normalisation in inference, by itself and folded into the convolution before it.

With ``r = scale / sqrt(variance + epsilon)`` it gives ``y = r (z - mean) + shift``, where ``z = sum of w x + b`` has
``n`` terms whose absolute values add up to ``A``.  An honest implementation may

- compute ``z`` and then ``y``, by this formula or as ``r z + (shift - r mean)``;
- fold: multiply the weights by ``r``, once and for all, and sum ``(r w) x`` with the bias ``r (b - mean) + shift``;
- do anything between the two, such as to scale the weights and to add the rest afterwards.

In every one of them ``y`` is a sum of the terms ``r w x``, ``r b``, ``r mean`` and ``shift``, so that it is off by at
most ``gamma_k M``, ``M = |r| (A + |mean|) + |shift|``, if no term meets more than k roundings (Higham, Accuracy and
Stability of Numerical Algorithms, 2nd ed., lemmas 3.1 and 3.3).  Note the A: where the terms of z cancel, a rounded
folded weight costs what a rounded product does, so it is relative to ``|C| |x|`` and not to ``|C x|``.  To count k:

- ``r``: the addition under the root and a rounded epsilon, half of each because of the root; the root and its
  reciprocal, or an approximation of both that is off by 2 ulps or 4 u at most; the product with scale: 6 in all;
- a folded weight is rounded 1 time more, and its term n times in the sum; the terms of the folded bias 3 times, in a
  difference, a product and a sum, and n times after that;
- unfused, a term of z is rounded n times, and 3 times after that.

So ``k = n + 9``, n with the bias that folding makes.  In 16 bits sums are made in float32, and what is stored between
two operators is rounded to 16 bits: z with and without its bias, which is 2 more, and all that the 9 count.  The bound
is therefore ``gamma_n M`` in the format of sums and ``gamma_11 M`` in that of the tensors; in float32 both are the
same, and their sum is at least ``gamma_(n + 9) M``.

*Exact data* have variances such that ``variance + epsilon = 4**k``, and scales that are whole multiples of ``2**k``, so
that r is a whole number, however it is computed.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from conformance.dtypes import Format
from conformance.spec import BatchNorm

RATE = 6
"""Roundings of r."""

TERMS = 3
"""Roundings of a term of ``y`` beside those of r and of z."""

STORED = RATE + TERMS + 2
"""How often a term may be rounded to the format of the tensors, beside the roundings of the sum that it belongs to."""

LARGEST_RATE = 3
"""The largest r of exact data."""


def rates(step: BatchNorm, scale: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """r of each channel; float64, ``(C,)``."""
    quotient: np.ndarray = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + step.epsilon)
    return quotient


def batch_norm(step: BatchNorm, z: np.ndarray, *parameters: np.ndarray) -> np.ndarray:
    """The normalised ``z``; ``parameters`` are scale, shift, mean and variance, ``(C,)`` each."""
    rate, shift, mean = _beside(step, z, *parameters)
    normalised: np.ndarray = rate * (z - mean) + shift
    return normalised


def magnitude(step: BatchNorm, a: np.ndarray, *parameters: np.ndarray) -> np.ndarray:
    """``M`` per element, for terms of z whose absolute values add up to ``a``."""
    rate, shift, mean = map(np.abs, _beside(step, a, *parameters))
    total: np.ndarray = rate * (a + mean) + shift
    return total


def passed_on(step: BatchNorm, error: np.ndarray, *parameters: np.ndarray, squared: bool = False) -> np.ndarray:
    """What becomes of an error of ``z``, or of its variance."""
    rate, _, _ = _beside(step, error, *parameters)
    passed: np.ndarray = error * (np.square(rate) if squared else np.abs(rate))
    return passed


def _beside(
    step: BatchNorm, z: np.ndarray, scale: np.ndarray, shift: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> list[np.ndarray]:
    """r, shift and mean so that they broadcast against z."""
    each = (rates(step, scale, variance), shift.astype(np.float64), mean.astype(np.float64))
    return [array.reshape(-1, *[1] * (z.ndim - 2)) for array in each]


def whole_numbers(step: BatchNorm, what: str, channels: int, format: Format, rng: Generator) -> np.ndarray:
    """Exact data: one of the four parameters, called ``what``.  Channels take turns in their variance."""
    roots = np.resize(np.array(step.roots(format), np.float64), channels)
    if what == "variance":
        variance: np.ndarray = 4.0**roots - step.epsilon
        return variance
    if what == "scale":
        scale: np.ndarray = rng.integers(1, LARGEST_RATE + 1, channels) * rng.choice([-1.0, 1.0], channels) * 2.0**roots
        return scale
    return rng.integers(-4, 5, channels).astype(np.float64)


def normal_numbers(what: str, channels: int, rng: Generator) -> np.ndarray:
    """Rounding data, such as training leaves behind: variances from 1/4 to 4, all else of the size of activations."""
    if what == "variance":
        variance: np.ndarray = 4.0 ** rng.uniform(-1, 1, channels)
        return variance
    if what == "scale":
        scale: np.ndarray = rng.uniform(0.5, 1.5, channels) * rng.choice([-1.0, 1.0], channels)
        return scale
    values: np.ndarray = rng.standard_normal(channels) / 2
    return values
