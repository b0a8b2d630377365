"""Timing of a call, the best of several."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable


def best(call: Callable[[], object], budget: float = 1.0, tries: int = 5) -> float:
    """Seconds of the fastest of at least two calls, within about ``budget`` seconds."""
    fastest, spent = math.inf, 0.0
    for n in range(tries):
        began = time.perf_counter()
        call()
        seconds = time.perf_counter() - began
        fastest, spent = min(fastest, seconds), spent + seconds
        if n and spent > budget:
            break
    return fastest


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))
