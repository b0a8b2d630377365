"""Ways in which a target may quietly compute with less: emulated, so that it can be named when it happens.

An operand reduction rounds the input, the weight or both before multiplying.  If a result is honest against the exact
result of the *reduced* operands, that is what the target did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np

Round = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Reduction:
    """``arithmetic`` as verdicts name it, the operands it touches, and how it rounds."""

    arithmetic: str
    operands: tuple[str, ...]
    round: Round

    def __str__(self) -> str:
        return self.arithmetic + (f" ({self.operands[0]} only)" if len(self.operands) == 1 else "")

    def apply(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: self.round(t) if name in self.operands else t for name, t in tensors.items()}


def _keep(bits: int, ties: Literal["even", "away"] | None) -> Round:
    """Keep ``bits`` significant bits of float32: to nearest, or truncated (None) as some tensor cores do."""
    drop = np.uint32(24 - bits)
    half = np.uint32(1 << (24 - bits - 1))

    def round(x: np.ndarray) -> np.ndarray:
        raw = np.ascontiguousarray(x, np.float32).view(np.uint32)
        if ties == "away":
            raw = raw + half
        elif ties == "even":
            raw = raw + (half - np.uint32(1)) + ((raw >> drop) & np.uint32(1))
        return ((raw >> drop) << drop).view(np.float32)

    return round


def _through(dtype: type[np.generic]) -> Round:
    def round(x: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return x.astype(dtype).astype(np.float32)

    return round


_ROUNDINGS: dict[str, tuple[tuple[str, Round], ...]] = {
    "float32": (
        ("tf32", _keep(11, "even")),
        ("tf32", _keep(11, "away")),
        ("tf32", _keep(11, None)),
        ("float16-operands", _through(np.float16)),
        ("bfloat16-operands", _through(ml_dtypes.bfloat16)),
        ("bfloat16-operands", _keep(8, None)),
    ),
    "float64": (("float32", _through(np.float32)),),
    "float16": (("bfloat16-operands", _through(ml_dtypes.bfloat16)),),
    "bfloat16": (),
}


def reductions(dtype: str) -> Iterator[Reduction]:
    """The operand reductions that make sense for a dtype, the mildest first."""
    for name, round in _ROUNDINGS[dtype]:
        for operands in (("input", "weight"), ("weight",), ("input",)):
            yield Reduction(name, operands, round)
