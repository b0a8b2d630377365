"""The four floating-point formats, as NumPy sees them and as rounding analysis needs them."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np


@dataclass(frozen=True, slots=True)
class Format:
    """A binary floating-point format (IEEE 754-2019, section 3.3; bfloat16 as ml_dtypes defines it).

    ``precision`` counts significant bits, the implicit one included, so the unit roundoff is ``2**-precision``.
    ``tiny`` is the smallest normal number, ``subnormal`` the smallest of all, ``largest`` the largest finite one.
    """

    name: str
    dtype: np.dtype[np.generic]
    precision: int
    tiny: float
    subnormal: float
    largest: float

    @property
    def unit_roundoff(self) -> float:
        return 2.0**-self.precision


def _format(name: str, dtype: type[np.generic]) -> Format:
    info = ml_dtypes.finfo(dtype)
    return Format(
        name=name,
        dtype=np.dtype(dtype),
        precision=int(info.nmant) + 1,
        tiny=float(info.smallest_normal),
        subnormal=float(info.smallest_subnormal),
        largest=float(info.max),
    )


FORMATS = {
    "float16": _format("float16", np.float16),
    "bfloat16": _format("bfloat16", ml_dtypes.bfloat16),
    "float32": _format("float32", np.float32),
    "float64": _format("float64", np.float64),
}


def round_once(exact: np.ndarray, format: Format) -> np.ndarray:
    """Round float64 values to a format once, to nearest, ties to even; overflow gives infinity.

    bfloat16 goes through float32 rounded to odd, which makes the second rounding harmless (Boldo and Melquiond,
    "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if format.name == "bfloat16":
            exact = _float32_to_odd(exact)
        return exact.astype(format.dtype, copy=False)


def _float32_to_odd(exact: np.ndarray) -> np.ndarray:
    nearest = exact.astype(np.float32)
    bits = nearest.view(np.uint32).copy()
    away = np.isfinite(exact) & (np.abs(nearest.astype(np.float64)) > np.abs(exact))
    bits[away] -= 1
    inexact = np.isfinite(exact) & (bits.view(np.float32).astype(np.float64) != exact)
    bits[inexact] |= 1
    return bits.view(np.float32)
