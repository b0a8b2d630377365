"""Which verdict is worse than another, and which arithmetic is weaker."""

from __future__ import annotations

import numpy as np

from conformance.oracle.bounds import ARITHMETICS
from conformance.oracle.bounds import rounded_operands as _rounded_operands

WORST_FIRST = ("deviates", "crash", "timeout", "wrong_shape", "wrong_dtype", "error", "invalid_model", "reduced")
"""Wrong values that nobody is told of are the worst, those that are only less exact than promised the least."""

PRODUCTS = 16.0
"""How many products the sum has whose typical error ranks the arithmetics: a kernel of 4 by 4."""


def _typical_error(name: str) -> float:
    n, a = np.array([PRODUCTS]), np.array([1.0])
    return float(_ALL[name].scale(n, a, a)[0])


_ALL = ARITHMETICS | {"float16-operands": _rounded_operands("float16-operands", 11, "operands rounded to float16")}
TYPICAL_ERROR = {name: _typical_error(name) for name in _ALL}
"""Of a sum of `PRODUCTS` products whose absolute values sum to 1."""


def severity(verdict: str) -> int:
    """How bad a failure is; 0 for what is none."""
    return len(WORST_FIRST) - WORST_FIRST.index(verdict) if verdict in WORST_FIRST else 0


def weaker(arithmetic: str, than: str) -> bool:
    """Whether an arithmetic promises less than another; False where they cannot be compared.

    How a bias is added (``+bias``) does not count: it is one rounding more, whatever the sums are.
    """
    errors = [TYPICAL_ERROR.get(name.partition("+")[0]) for name in (arithmetic, than)]
    return errors[0] is not None and errors[1] is not None and errors[0] > errors[1]
