"""``matrix`` and ``exclude``: one entry that stands for many cases."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from conformance.spec.fields import show

MAX_CASES = 200_000


def assignments(matrix: Mapping[str, list[Any]], exclude: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, int]]:
    """Every combination of a matrix that no line of ``exclude`` matches.

    A combination maps each key to the *position* of its value in the list, so that errors can point there.
    """
    keys = list(matrix)
    for positions in itertools.product(*(range(len(matrix[key])) for key in keys)):
        chosen = dict(zip(keys, positions, strict=True))
        values = {key: matrix[key][at] for key, at in chosen.items()}
        if not any(all(same(values[key], value) for key, value in line.items()) for line in exclude):
            yield chosen


def size(matrix: Mapping[str, list[Any]]) -> int:
    return math.prod(map(len, matrix.values()))


def same(a: Any, b: Any) -> bool:
    """Equality of YAML values; ``1`` and ``true`` differ."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def label(key: str, value: Any) -> str:
    """``kernel=3x4``, ``padding=1:2x0:1``: a value as it appears in a case id."""
    return f"{key}={_short(value)}"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "x".join(":".join(map(str, v)) if isinstance(v, list) else str(v) for v in value)
    if isinstance(value, dict):
        return "+".join(f"{key}:{_short(v)}" for key, v in value.items())
    return value if isinstance(value, str) else show(value)
