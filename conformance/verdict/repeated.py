"""The same problem, run several times: do the runs give the same bits?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from conformance.outcome import Outcome
from conformance.verdict.base import Judgement, number


def joined(judgements: Sequence[Judgement], runs: Sequence[Sequence[Outcome]]) -> Judgement:
    """The first run that failed, or else the first.

    Runs that all pass and differ are ``nondeterministic``: legal, since every one of them is within the bounds, and
    worth knowing.  A run that fails beside others that pass says so.
    """
    failed = [judgement for judgement in judgements if judgement.failed]
    differing = max(filter(None, (_difference(runs[0], run) for run in runs[1:])), default=None)
    if failed:
        sometimes = f"{len(failed)} of {len(runs)} runs" if len(failed) < len(runs) else ""
        words = "; ".join(filter(None, (failed[0].message, sometimes)))
        return replace(failed[0], message=words)
    if differing is None or any(judgement.verdict == "unsupported" for judgement in judgements):
        return judgements[0]
    count, largest = differing
    said = f"{count} elements differ between runs on the same input, by at most {number(largest)}; each run conforms"
    return replace(judgements[0], verdict="nondeterministic", message=said)


def _difference(first: Sequence[Outcome], other: Sequence[Outcome]) -> tuple[int, float] | None:
    """Number of elements whose bits differ, and the largest difference; None where there is none."""
    counts = list(_differences(first, other))
    count = sum(n for n, _ in counts)
    return (count, max(size for _, size in counts)) if count else None


def _differences(first: Sequence[Outcome], other: Sequence[Outcome]) -> Iterator[tuple[int, float]]:
    for before, after in zip(first, other, strict=True):
        for name in before.tensors.keys() & after.tensors.keys():
            a, b = before.tensors[name], after.tensors[name]
            if a.shape != b.shape or a.dtype != b.dtype:
                yield max(a.size, b.size, 1), np.inf
            elif a.tobytes() != b.tobytes():
                wide = a.astype(np.float64), b.astype(np.float64)
                yield (
                    int((_bits(a) != _bits(b)).any(axis=1).sum()),
                    float(np.nanmax(np.abs(wide[0] - wide[1]), initial=0.0)),
                )


def _bits(array: np.ndarray) -> np.ndarray:
    """One row of bytes for each element."""
    return np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8)
