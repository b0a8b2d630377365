"""How far from the exact result an honest implementation can be, derived and not chosen.

For an output element that sums ``n`` products (bias included), with ``A`` the sum of their absolute values, any order
of summation in an arithmetic with unit roundoff ``u``, with or without fused multiply-add, satisfies

    |error| <= gamma_n A + n tiny,        gamma_n = n u / (1 - n u)

(N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1 and 4.2; ``tiny`` accounts for
underflow of products, also where subnormals are flushed).  ``A = 0`` demands exactly 0.  The bound is nearly attained:
legal outputs use 0.98 of it.  What it lets pass, the root mean square over all elements sees: errors of independent
roundings grow with ``sqrt(n)`` only.

An `Arithmetic` is a way of computing that gives such a bound.  The native ones, named like the dtypes, are what a
target promises; the weaker ones serve to say what a target did instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from conformance.dtypes import FORMATS, Format

Bound = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""``(n, A, size)`` to the largest error; ``size`` is the absolute value of what is rounded to the output's dtype."""

SINGLE = FORMATS["float32"]


def gamma(n: np.ndarray, u: float) -> np.ndarray:
    """``n u / (1 - n u)``; infinite where n u >= 1, where nothing can be promised."""
    nu = n * u
    with np.errstate(divide="ignore"):
        return np.where(nu < 1, nu / np.maximum(1 - nu, 0), np.inf)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """A way of computing sums of products, and what it promises.

    ``bound`` is the largest legal error of each element.  ``scale`` is the size that errors of independent roundings
    have; their root mean square in this unit is at most 1 for legal outputs.  ``dtype`` is that of the tensors.
    ``bias_apart`` says that the bias is added by an operation of its own: then the result without it is rounded to the
    dtype too, and the third argument of both functions counts both roundings.
    """

    name: str
    dtype: str
    meaning: str
    bound: Bound
    scale: Bound
    bias_apart: bool = False


def summation(name: str, format: Format, sums: Format, meaning: str) -> Arithmetic:
    """Sums in one format, rounded once to another at the end (or not at all if they are the same)."""
    u, u_out = sums.unit_roundoff, format.unit_roundoff if format != sums else 0.0
    inside = sums.tiny if sums.precision >= SINGLE.precision else sums.subnormal
    outside = format.tiny if format != sums else 0.0

    def bound(n: np.ndarray, a: np.ndarray, size: np.ndarray) -> np.ndarray:
        largest: np.ndarray = u_out * size + (1 + u_out) ** 2 * gamma(n, u) * a + (a > 0) * (n * inside + outside)
        return largest

    def scale(n: np.ndarray, a: np.ndarray, size: np.ndarray) -> np.ndarray:
        typical: np.ndarray = u_out * size + u * a * np.sqrt(n) + (a > 0) * (n * inside + outside)
        return typical

    return Arithmetic(name, format.name, meaning, bound, scale)


def storing(arithmetic: Arithmetic, count: int) -> Arithmetic:
    """The same where every term was rounded so often more to the tensors' dtype, as by weights that were folded.

    Those roundings may be the same in all elements of a channel, so that in the mean they do not become less.
    """
    if not count:
        return arithmetic
    unit = FORMATS[arithmetic.dtype].unit_roundoff
    once = float(gamma(np.array(count), unit))

    def bound(n: np.ndarray, a: np.ndarray, size: np.ndarray) -> np.ndarray:
        largest: np.ndarray = arithmetic.bound(n, a, size) + once * a
        return largest

    def scale(n: np.ndarray, a: np.ndarray, size: np.ndarray) -> np.ndarray:
        typical: np.ndarray = arithmetic.scale(n, a, size) + count * unit * a
        return typical

    return replace(arithmetic, bound=bound, scale=scale)


def rounded_operands(name: str, significant_bits: int, meaning: str) -> Arithmetic:
    """Both operands rounded to fewer bits, products summed in float32."""
    u, tiny = 2.0**-significant_bits, SINGLE.tiny

    def bound(n: np.ndarray, a: np.ndarray, _: np.ndarray) -> np.ndarray:
        largest: np.ndarray = ((1 + u) ** 2 * (1 + gamma(n, SINGLE.unit_roundoff)) - 1) * a + (a > 0) * n * tiny
        return largest

    def scale(n: np.ndarray, a: np.ndarray, _: np.ndarray) -> np.ndarray:
        typical: np.ndarray = 2 * u * a + (a > 0) * n * tiny
        return typical

    return Arithmetic(name, SINGLE.name, meaning, bound, scale)


_ARITHMETICS = (
    summation("float64", FORMATS["float64"], FORMATS["float64"], "float64 throughout"),
    summation("float32", SINGLE, SINGLE, "float32 throughout"),
    summation("float16", FORMATS["float16"], SINGLE, "sums in float32, rounded once to float16"),
    summation("bfloat16", FORMATS["bfloat16"], SINGLE, "sums in float32, rounded once to bfloat16"),
    summation("float16-sums", FORMATS["float16"], FORMATS["float16"], "partial sums rounded to float16"),
    summation("bfloat16-sums", FORMATS["bfloat16"], FORMATS["bfloat16"], "partial sums rounded to bfloat16"),
    rounded_operands("tf32", 11, "operands rounded to 11 significant bits, sums in float32"),
    rounded_operands("bfloat16-operands", 8, "operands rounded to bfloat16, sums in float32"),
)

ARITHMETICS = {arithmetic.name: arithmetic for arithmetic in _ARITHMETICS}

COARSER_SUMS = {"float16": "float16-sums", "bfloat16": "bfloat16-sums"}
"""What a target of 16 bits may have done instead of what it promised."""


def arithmetic_for(promised: str, dtype: str) -> Arithmetic:
    """What a target that promises ``native`` or a named arithmetic is held to on tensors of a dtype.

    ``+bias`` after the name promises that much with a bias added apart.  Raises KeyError for an unknown name.
    """
    name, plus, extra = promised.partition("+")
    if extra != ("bias" if plus else ""):
        raise KeyError(promised)
    named = ARITHMETICS[dtype if name == "native" else name]
    return replace(named if named.dtype == dtype else ARITHMETICS[dtype], bias_apart=bool(plus))
