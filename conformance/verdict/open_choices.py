"""What a chain may give where the target had a choice and does not say which it took.

Rounding may have moved a switch to another element of its window that comes as close as the errors reach, isolated
another activation, opened or closed a mask; and of values that are assigned to one place any may stay.  From the first
such choice on the chain is walked with ranges, which hold what comes of every choice.  Where everything depends on one
choice of a few, it is walked once for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from conformance.oracle import pooling
from conformance.oracle.gates import ratio, rms
from conformance.oracle.pooling import Places
from conformance.oracle.range_steps import FEW, Affine, ranges_of
from conformance.oracle.ranges import Range
from conformance.oracle.steps import Roundings
from conformance.spec import Isolate, MaxPool, MaxUnpool, Rectify, Stage, is_index
from conformance.verdict.walk import Walk, finite, rounding


@dataclass(frozen=True)
class Way:
    """What may come out one way, and how many choices are open on it."""

    result: Range
    open: int


def ways(walk: Walk) -> Iterator[Way]:
    """All that a chain may give to a target of which a walk knows all that it has told; none where nothing is open.

    There is one way, or several where everything depends on one choice of a few.
    """
    for end in _ends(OpenChoices(walk), walk.computed, FEW):
        if end.count:
            yield Way(end.result, end.count)


def explain(ways: Iterable[Way], got: np.ndarray) -> tuple[int, bool]:
    """How many choices are open, and whether they explain a result.  Every image may have gone its own way."""
    count, explained = 0, np.zeros(got.shape[0], bool)
    for way in ways:
        count, explained = max(count, way.open), explained | _holds(way.result, got)
        if explained.all():
            break
    return count, bool(explained.all())


def _holds(reach: Range, got: np.ndarray) -> np.ndarray:
    """Of which images all is in reach, up to rounding."""
    wide = got.astype(np.float64)
    beyond = np.maximum(np.maximum(reach.low - wide, wide - reach.high), 0.0)
    beyond[np.isnan(beyond)] = math.inf
    typical = ratio(beyond, np.sqrt(reach.variance)).reshape(got.shape[0], -1)
    near: np.ndarray = (beyond <= reach.far).reshape(got.shape[0], -1).all(axis=1)
    return near & np.array([rms(image) <= 1 for image in typical], bool)  # type: ignore[no-any-return]


def _ends(state: OpenChoices, stages: Sequence[Stage], most: int) -> Iterator[OpenChoices]:
    """Where the ways end, no more than so many."""
    for n, stage in enumerate(stages):
        choices = state.enclose(stage)
        if 1 < len(choices) <= most:
            for choice in choices:
                ranges = {**state.ranges, stage.gives[0]: choice}
                yield from _ends(replace(state, ranges=ranges), stages[n + 1 :], most // len(choices))
            return
    yield state


@dataclass
class OpenChoices:
    """The ranges of what depends on a choice that is open, and the ``count`` of those choices."""

    walk: Walk
    count: int = 0
    ranges: dict[str, Range | Places] = field(default_factory=dict)
    depending: frozenset[str] = frozenset()
    """The tensors that depend on a choice; the ranges of others are there because they are narrower than the walk's."""
    twins: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def result(self) -> Range:
        """All that may come out."""
        return self._range("output")

    def enclose(self, stage: Stage) -> tuple[Range, ...]:
        """Note what a stage may give; its choices one by one, where they are few and everything depends on them."""
        depends = not self.depending.isdisjoint(stage.reads)
        if isinstance(stage.step, MaxPool):
            self._pool(stage, stage.step, depends)
        if isinstance(stage.step, MaxPool) or not (depends or _may_choose(stage)):
            return ()
        fed = [self._fed(stage, n) for n in range(len(stage.reads))]
        if isinstance(stage.step, Isolate) and stage.reads[0] in self.twins:
            fed.append(self.twins[stage.reads[0]])
        given = ranges_of(stage.step).given(stage.step, *fed)
        if depends or given.open:
            (value,) = given.tensors
            assert isinstance(value, Range)
            self.ranges[stage.gives[0]] = self._rounded(stage, value, ranges_of(stage.step).roundings(stage.step, *fed))
            self.depending |= {stage.gives[0]}
        self.count += given.open
        return given.each

    def _pool(self, stage: Stage, step: MaxPool, depends: bool) -> None:
        name, *switches = stage.gives
        values, places = ranges_of(step).given(step, self._range(stage.reads[0])).tensors
        assert isinstance(places, Places)
        self.ranges[name] = values
        self.twins[name] = places.twins(self.walk.values[name].shape)
        if depends or not places.sure.all():
            self.ranges |= dict.fromkeys(switches, places)
            self.depending |= {*switches}
        signs = places.unsettled(values.size > 0) if step.magnitude else 0  # type: ignore[union-attr]
        self.count += signs
        if depends or signs:
            self.depending |= {name}

    def _fed(self, stage: Stage, n: int) -> Range | Places | np.ndarray:
        name, step = stage.reads[n], stage.step
        if is_index(name):
            large = step.large if isinstance(step, MaxUnpool) else tuple(axis.large for axis in step.axes)  # type: ignore[union-attr]
            found = self.ranges.get(name)
            return found if isinstance(found, Places) else pooling.settled(self.walk.fed(name), large)
        return self.walk.fed(name) if n and isinstance(ranges_of(step), Affine) else self._range(name)

    def _range(self, name: str) -> Range:
        """The range of a tensor; where a rectifier gave it, rounding does not reach what is far below 0."""
        if name not in self.ranges:
            stage = next((stage for stage in self.walk.computed if name in stage.gives), None)
            if stage is None or not isinstance(stage.step, Rectify) or stage.step.by != "signal":
                return self.walk.range_of(name)
            (self.ranges[name],) = ranges_of(stage.step).given(stage.step, self._range(stage.reads[0])).tensors
        found = self.ranges[name]
        assert isinstance(found, Range)
        return found

    def _rounded(self, stage: Stage, value: Range, roundings: Roundings | None) -> Range:
        """The same, and what rounding may add to it."""
        error, variance = value.error.copy(), value.variance.copy()
        if roundings is not None:
            if self.walk.strict:  # but where sums are larger than those of the oracle's choices
                fits = roundings.magnitude <= 2.0**self.walk.problem.format.precision
                roundings = replace(roundings, products=np.where(fits, 0.0, roundings.products))
            rounds, bound, scale = rounding(stage.step, roundings, value.size, self.walk.held_to(roundings))
            error[rounds] += bound
            variance[rounds] += np.square(scale)
        return replace(value.evened(), error=finite(error), variance=finite(variance))


def _may_choose(stage: Stage) -> bool:
    step = stage.step
    assigns = isinstance(step, MaxUnpool) and step.overlap == "assign"
    return assigns or isinstance(step, Isolate) or (isinstance(step, Rectify) and step.by != "signal")
