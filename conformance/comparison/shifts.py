"""Growth of errors and times over the cells that two runs share, told only where it is both real and large.

*Real*: the Wilcoxon signed-rank test of the paired logarithms of ratios, corrected for the number of groups by
Bonferroni.  *Large*: the size of the shift itself, since thousands of cells make the smallest shift real.  Honest ways
to compute the same convolutions (ten targets of four libraries, which sum in other orders), compared with each other
target by target and family by family, differ in float32 by less than 1.4 where the difference is real; fused
multiply-adds alone account for up to the square root of 2.  A target that begins to tell the stages of a chain, or
ceases to, is judged by another gate, which shows as a shift.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from conformance.comparison.model import Shift
from conformance.comparison.run import said
from conformance.comparison.transitions import conforms
from conformance.runs import Record

Pair = tuple[Record, Record]
"""The same cell before and after."""
LARGE_ERROR = 1.5
SMALL = 0.01
"""Added to errors, as a fraction of the gate: what is smaller is the luck of a few elements."""
LARGE_TIME = 2.0
LARGE_TIME_BESIDE_OTHERS = 1.5
"""Where three or more targets tell how much slower the machine was; load alone made all of them 1.4 times as slow."""
TELLS_THE_MACHINE = 3
CHANCE = 0.01
FEWEST = 10
"""Cells that differ: with less, no shift is real."""


def signed_rank(differences: np.ndarray) -> float:
    """Two-sided p of the Wilcoxon signed-rank test, by the normal distribution, corrected for ties; zeros are left out.

    M. Hollander, D. A. Wolfe and E. Chicken, Nonparametric Statistical Methods, 3rd ed., section 3.1.
    """
    d = differences[differences != 0]
    if d.size == 0:
        return 1.0
    _, which, ties = np.unique(np.abs(d), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[which]
    n = float(d.size)
    variance = n * (n + 1) * (2 * n + 1) / 24 - float((ties.astype(float) ** 3 - ties).sum()) / 48
    z = (float(ranks[d > 0].sum()) - n * (n + 1) / 4) / math.sqrt(variance)
    return math.erfc(abs(z) / math.sqrt(2))


@dataclass(frozen=True, slots=True)
class _Sample:
    """One cell: its target, the arithmetic, the suite and the family of its case, and both values."""

    target: str
    arithmetic: str
    suite: str
    family: str
    old: float
    new: float

    @property
    def groups(self) -> tuple[tuple[str, str, str], ...]:
        return tuple((self.target, self.arithmetic, group) for group in ("", self.suite, self.family))


def error_shifts(pairs: Iterable[Pair]) -> tuple[Shift, ...]:
    """Groups of cells that conform in both runs and whose errors grew or shrank; growth first, the largest first.

    A group inside another one that is told and went the same way is not told again.
    """
    groups: dict[tuple[str, str, str], list[_Sample]] = defaultdict(list)
    for sample in filter(None, map(_error, pairs)):
        for key in sample.groups:
            groups[key].append(sample)
    tested = {key: group for key, group in groups.items() if len(group) >= FEWEST}
    shifts: dict[tuple[str, str, str], Shift] = {}
    for key in sorted(tested, key=lambda key: (_breadth(key[2]), key)):
        found = _error_shift(key, tested[key], len(tested))
        if found is not None and not any(_covers(shifts.get(wide), found) for wide in _wider(key)):
            shifts[key] = found
    return tuple(sorted(shifts.values(), key=lambda s: (not s.regression, -abs(math.log(s.ratio)))))


def _error(pair: Pair) -> _Sample | None:
    old, new = pair
    if not (conforms(old) and conforms(new) and old.arithmetic == new.arithmetic):
        return None
    if old.rms_usage is None or new.rms_usage is None or not old.rms_usage + new.rms_usage > 0:
        return None
    if not math.isfinite(old.rms_usage + new.rms_usage):
        return None
    return _Sample(new.target, new.arithmetic, *_place(new.case), max(old.rms_usage, 0), max(new.rms_usage, 0))


def _place(case: str) -> tuple[str, str]:
    """The suite of a case, and its family: all that one entry with a matrix makes."""
    return case.partition("/")[0], case.partition("[")[0]


def _breadth(group: str) -> int:
    return 0 if not group else 2 if "/" in group else 1


def _wider(key: tuple[str, str, str]) -> list[tuple[str, str, str]]:
    target, arithmetic, group = key
    return [(target, arithmetic, wide) for wide in ("", group.partition("/")[0]) if wide != group]


def _covers(wide: Shift | None, narrow: Shift) -> bool:
    return wide is not None and wide.regression == narrow.regression


def _logarithms(samples: Sequence[_Sample]) -> np.ndarray:
    values = np.array([(sample.old, sample.new) for sample in samples]) + SMALL
    logs: np.ndarray = np.log(values[:, 1] / values[:, 0])
    return logs


def _error_shift(key: tuple[str, str, str], group: list[_Sample], tests: int) -> Shift | None:
    logs = _logarithms(group)
    size = float(logs.mean())
    if abs(size) < math.log(LARGE_ERROR) or np.count_nonzero(logs) < FEWEST:
        return None
    p = min(signed_rank(logs) * tests, 1.0)
    if p > CHANCE:
        return None
    old, new = (float(np.sqrt(np.mean(np.square(v)))) for v in zip(*((s.old, s.new) for s in group), strict=True))
    target, arithmetic, name = (said(part) for part in key)
    return Shift(
        target=target,
        arithmetic=arithmetic,
        group=name,
        cells=len(group),
        old=old,
        new=new,
        ratio=math.exp(size),
        p=p,
        worst=_worst(group, math.copysign(1, size)),
        regression=size > 0,
    )


def _worst(group: Sequence[_Sample], sign: float) -> str:
    families: dict[str, list[_Sample]] = defaultdict(list)
    for sample in group:
        families[sample.family].append(sample)
    return said(max(families, key=lambda name: sign * float(_logarithms(families[name]).mean())))


def time_shifts(pairs: Iterable[Pair]) -> tuple[tuple[Shift, ...], float | None]:
    """Targets that take longer or less long than before, and how many times as long the targets take in the median.

    Where there are several targets, each is compared with that median: it is the machine, or its load.
    """
    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for old, new in pairs:
        if conforms(old) and conforms(new) and 0 < old.seconds < math.inf and 0 < new.seconds < math.inf:
            seconds[new.target].append((old.seconds, new.seconds))
    values = {target: np.array(both) for target, both in seconds.items() if len(both) >= FEWEST}
    logs = {target: np.log(both[:, 1] / both[:, 0]) for target, both in values.items()}
    beside_others = len(logs) >= TELLS_THE_MACHINE
    common = float(np.median([np.median(one) for one in logs.values()])) if beside_others else 0.0
    large = math.log(LARGE_TIME_BESIDE_OTHERS if beside_others else LARGE_TIME)
    found = (_time_shift(t, values[t], logs[t] - common, large, len(logs)) for t in logs)
    shifts = sorted(filter(None, found), key=lambda shift: -shift.ratio)
    return tuple(shifts), math.exp(common) if beside_others else None


def _time_shift(target: str, values: np.ndarray, logs: np.ndarray, large: float, tests: int) -> Shift | None:
    size = float(np.median(logs))
    p = min(signed_rank(logs) * tests, 1.0)
    if abs(size) < large or p > CHANCE:
        return None
    old, new = (float(np.median(values[:, side])) for side in (0, 1))
    told: Mapping[str, str] = {"target": said(target), "arithmetic": "", "group": "", "worst": ""}
    return Shift(**told, cells=len(logs), old=old, new=new, ratio=math.exp(size), p=p, regression=False)
