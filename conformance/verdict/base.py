"""A verdict and the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

PASSED = ("exact", "within_bound")
FAILED = ("reduced", "deviates", "wrong_shape", "wrong_dtype", "invalid_model", "error", "crash", "timeout", "fixed")
NEUTRAL = ("unsupported", "ambiguous", "nondeterministic")
VERDICTS = (*PASSED, *FAILED, *NEUTRAL)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict and the numbers behind it.

    ``arithmetic`` is what the target was held to, or for ``reduced`` what it did instead.  ``bound_usage`` and
    ``rms_usage`` are fractions of the two gates; None where nothing was measured.
    """

    verdict: str
    arithmetic: str = ""
    max_abs_error: float | None = None
    bound_usage: float | None = None
    rms_usage: float | None = None
    diagnosis: str = ""
    message: str = ""

    @property
    def passed(self) -> bool:
        return self.verdict in PASSED

    @property
    def failed(self) -> bool:
        return self.verdict in FAILED


def with_faults(judgement: Judgement, faults: Sequence[str]) -> Judgement:
    """The same where the numbers are wrong already, else that the model is not valid, for all that its numbers are."""
    if not faults:
        return judgement
    told = "; ".join(faults)
    if judgement.failed:
        return replace(judgement, message=f"{judgement.message}; {told}")
    return replace(judgement, verdict="invalid_model", message=told)


def read_as(judgement: Judgement, reading: str) -> Judgement:
    """The same where the specification is open, and this is what one of its readings gives."""
    return replace(judgement, verdict="ambiguous", diagnosis=f"the specification is open here; read as: {reading}")


def worst(actual: np.ndarray, exact: np.ndarray, index: int) -> str:
    """Where a result is wrong and by how much, in words; ``index`` is flat."""
    at = np.unravel_index(index, actual.shape)
    place = ",".join(str(int(i)) for i in at)
    return f"at [{place}] got {number(actual[at])}, expected {number(exact[at])}"


def number(value: float) -> str:
    value = float(value)
    return f"{value:.9g}" if math.isfinite(value) else str(value)


def sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def check_array(actual: object, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Judgement | None:
    """What is wrong with a returned array before one looks at its numbers; None if nothing is."""
    if not isinstance(actual, np.ndarray):
        return Judgement("error", message=f"returned no array named {name}")
    if actual.shape != shape:
        return Judgement("wrong_shape", message=f"expected {sizes(shape)}, got {sizes(actual.shape)}")
    if actual.dtype != dtype:
        return Judgement("wrong_dtype", message=f"expected {dtype.name}, got {actual.dtype}")
    return None
