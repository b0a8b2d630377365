"""The commonest wrong answer with a right shape: the right values, a pixel from where they belong."""

from __future__ import annotations

import itertools

import numpy as np

FARTHEST = 2
FEWEST = 4
"""So many different values have to be found elsewhere, or it may be chance."""


def shifted(actual: np.ndarray, exact: np.ndarray, bound: np.ndarray) -> str:
    """How far all values stand from their places, in words; empty if that is not what is wrong.

    All arrays are ``(N, C, *spatial)``; ``bound`` is the largest legal error of each element of ``exact``.
    """
    rank = exact.ndim - 2
    moves = itertools.product(range(-FARTHEST, FARTHEST + 1), repeat=rank)
    for move in sorted((m for m in moves if any(m)), key=lambda m: sum(map(abs, m))):
        here, there = zip(
            *(_overlap(step, size) for step, size in zip(move, exact.shape[2:], strict=True)), strict=True
        )
        came, wanted, legal = actual[(..., *here)], exact[(..., *there)], bound[(..., *there)]
        if len(np.unique(wanted)) >= FEWEST and bool((np.abs(came - wanted) <= legal).all()):
            places = " and ".join(_words(axis, step) for axis, step in enumerate(move) if step)
            return f"the right values, shifted {places}"
    return ""


def _overlap(step: int, size: int) -> tuple[slice, slice]:
    """Where values stand that were moved by ``step``, and where they belong."""
    n = max(size - abs(step), 0)
    start = max(step, 0)
    return slice(start, start + n), slice(start - step, start - step + n)


def _words(axis: int, step: int) -> str:
    return f"by {step:+d} on axis {axis}"
