"""The steps of chains on ranges: one entry of `RANGES` per kind of step.

Where something may be in a place or not be there, its range takes 0 in.  Every step encloses: it may give too much, and
never too little, however wide the ranges are that it is fed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from conformance.oracle import pooling
from conformance.oracle import response_norm as norm
from conformance.oracle.pooling import Places
from conformance.oracle.ranges import Range, between
from conformance.oracle.steps import Roundings, oracle_of
from conformance.spec import (
    BatchNorm,
    Convolution,
    Isolate,
    MaxPool,
    MaxUnpool,
    NormedConvolution,
    Pad,
    Rectify,
    Reshape,
    ResponseNorm,
    ResponseNormGradient,
    Step,
    Take,
)

FEW = 16
"""Choices that are looked at one by one."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a step may give, and how many choices it finds ``open`` that something depends on.

    ``each`` is what it gives for one choice after the other, where they are few and everything depends on them.
    """

    tensors: tuple[Range | Places, ...]
    open: int = 0
    each: tuple[Range, ...] = ()


class RangeOracle(Protocol):
    """A kind of step; it is fed ranges, places for switches, and weights as they are."""

    def given(self, step: Any, *fed: Any) -> Given:
        """What the step may give before anything rounds in it."""
        ...

    def roundings(self, step: Any, *fed: Any) -> Roundings | None:
        """What may round in it at most."""
        ...


class Affine:
    """Steps that multiply what they are fed by a matrix and add to it; what they read beside it are its numbers."""

    def given(self, step: Step, x: Range, *weights: np.ndarray) -> Given:
        """From the middle of the range, and half its width; one far end must not swallow the digits of others."""
        oracle, x = oracle_of(step), x.evened()
        middle, radius = (x.low + x.high) / 2, (x.high - x.low) / 2
        value = oracle.exact(step, middle, *weights)[0]
        reach = oracle.passed_on(step, radius, middle, *weights)
        error = oracle.passed_on(step, x.error, middle, *weights)
        variance = oracle.passed_on(step, x.variance, middle, *weights, squared=True)
        return Given((Range(value - reach, value + reach, error, variance),))

    def roundings(self, step: Step, x: Range, *weights: np.ndarray) -> Roundings | None:
        return oracle_of(step).roundings(step, x.size, *weights)


class _MovesNumbers:
    def roundings(self, step: Any, *fed: Any) -> Roundings | None:  # noqa: ARG002
        return None


class _MaxPool(_MovesNumbers):
    def given(self, step: MaxPool, x: Range) -> Given:
        keys = x.widened()
        if step.magnitude:
            keys = keys.absolute()
        places = pooling.may_be_maxima(step.axes, keys.low, keys.high)
        if step.magnitude:
            return Given((_taken(x, places, (*x.low.shape[:2], *step.small)), places))
        return Given((x.moved(lambda part: pooling.max_pool(step.axes, part)[0]), places))


class _Take(_MovesNumbers):
    def given(self, step: Take, x: Range, places: Places) -> Given:
        taken = _taken(x, places, (*x.low.shape[:2], *(axis.small for axis in step.axes)))
        return Given((taken,), places.unsettled(taken.size > 0))


def _taken(x: Range, places: Places, small: tuple[int, ...]) -> Range:
    """What may stand in any of the places of each window."""
    return _any_of(x.moved(lambda part: part.reshape(-1)[places.place]), places.window, small)


def _any_of(each: Range, at: np.ndarray, shape: tuple[int, ...]) -> Range:
    """Any one of the numbers that come to each flat place; 0 where none does."""
    comes = np.bincount(at, minlength=math.prod(shape)).reshape(shape) > 0
    largest = [_extreme(np.maximum, part, at, shape) for part in (each.high, each.error, each.variance)]
    return Range(_extreme(np.minimum, each.low, at, shape), *largest).only(comes)


def _extreme(ufunc: np.ufunc, values: np.ndarray, at: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The smallest or the largest of the values at each flat place; infinite where there is none."""
    result = np.full(math.prod(shape), np.inf if ufunc is np.minimum else -np.inf)
    ufunc.at(result, at, values)
    return result.reshape(shape)


class _MaxUnpool:
    def given(self, step: MaxUnpool, y: Range, places: Places) -> Given:
        large = (*y.low.shape[:2], *step.large)
        each = y.moved(lambda part: part.reshape(-1)[places.window])
        total = each.or_zero(~places.sure).moved(lambda part: _added(part, places, large))
        if step.overlap == "sum":
            return Given((total,), places.unsettled(y.size > 0))
        one = _any_of(each, places.place, large).or_zero(places.count(large, places.sure) == 0)
        if step.overlap == "assign":
            return Given((one,), places.unsettled(y.size > 0) + _contested(each, places, large))
        count = np.maximum(places.count(large), 1.0)
        mean = Range(total.low / count, total.high / count, total.error / count, total.variance / np.square(count))
        uncertain = places.count(large, ~places.sure) > 0
        counts = _extreme(np.maximum, one.size.reshape(-1)[places.place], places.window, y.low.shape) > 0
        return Given((_where(uncertain, one, mean),), places.unsettled(counts))  # also a 0 makes a mean smaller

    def roundings(self, step: MaxUnpool, y: Range, places: Places) -> Roundings | None:
        """Those of a place to which all come that may."""
        large = (*y.low.shape[:2], *step.large)
        count, size = places.count(large), y.size.reshape(-1)[places.window]
        if step.overlap == "assign":
            return None
        if step.overlap == "sum":
            return Roundings(np.maximum(count - 1.0, 0.0), _added(size, places, large))
        largest = np.maximum(_extreme(np.maximum, size, places.place, large), 0.0)
        return Roundings(np.where(count > 1, count, 0.0), largest)


def _added(values: np.ndarray, places: Places, large: tuple[int, ...]) -> np.ndarray:
    total: np.ndarray = np.bincount(places.place, values, math.prod(large)).reshape(large)
    return total


def _contested(each: Range, places: Places, large: tuple[int, ...]) -> int:
    """To how many places values come that differ."""
    differs = np.zeros(large, bool)
    for part in (each.low, each.high):
        differs |= _extreme(np.minimum, part, places.place, large) < _extreme(np.maximum, part, places.place, large)
    return int(differs.sum())


def _where(condition: np.ndarray, a: Range, b: Range) -> Range:
    parts = ((a.low, b.low), (a.high, b.high), (a.error, b.error), (a.variance, b.variance))
    return Range(*(np.where(condition, one, other) for one, other in parts))


class _Rectify(_MovesNumbers):
    def given(self, step: Rectify, signal: Range, *activation: Range) -> Given:
        if step.by != "mask":
            low, high = np.maximum(signal.low, 0.0), np.maximum(signal.high, 0.0)
            signal = replace(signal.only(signal.high + signal.far > 0), low=low, high=high)
        if step.by == "signal":
            return Given((signal,))
        a = activation[0].widened()
        uncertain = (a.low <= 0) & (a.high > 0)
        return Given((signal.only(a.high > 0).or_zero(uncertain),), int((uncertain & (signal.size > 0)).sum()))


class _Isolate(_MovesNumbers):
    def given(self, step: Isolate, x: Range, twins: np.ndarray | None = None) -> Given:
        """``twins`` are never kept: they are equal to an element before them, whatever was chosen."""
        value = x if step.seed == "activation" else between(np.ones(x.low.shape), np.ones(x.low.shape))
        if step.keep == "none":
            return Given((value,))
        strongest = may_be_strongest(step, x, twins)
        count = strongest.sum(axis=1, keepdims=True)
        kept = _kept(step, strongest, x.low.shape)
        hull = value.only(kept).or_zero(kept & (count > 1).reshape(-1, *[1] * (kept.ndim - 1)))
        if not 1 < count.max(initial=0) <= FEW:
            return Given((hull,), int((count - 1).sum()))
        number = strongest.cumsum(axis=1)
        turns = (strongest & (number == np.minimum(turn, count)) for turn in range(1, count.max() + 1))
        each = tuple(value.only(_kept(step, turn, x.low.shape)) for turn in turns)
        return Given((hull,), int((count - 1).sum()), each)


def may_be_strongest(step: Isolate, x: Range, twins: np.ndarray | None = None) -> np.ndarray:
    """Which units of each image, in C order, or which of its channels, may be the one that is looked for."""
    images, channels = x.low.shape[:2]
    keys = x.widened()
    looked_at = np.ones((images, channels, 1), bool)
    if step.channel is not None:
        looked_at[:] = np.arange(channels)[:, None] == step.channel
    low, high = (np.where(looked_at, part.reshape(images, channels, -1), -np.inf) for part in (keys.low, keys.high))
    if step.keep == "channel" or step.unit is not None:
        low, high = low.max(axis=2), high.max(axis=2)
    elif twins is not None:
        low, high = (np.where(twins.reshape(low.shape), -np.inf, part) for part in (low, high))
    return pooling.may_be_largest(low.reshape(images, -1), high.reshape(images, -1))


def _kept(step: Isolate, strongest: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The elements of those units, or of those channels."""
    if step.keep == "unit" and step.unit is None:
        return strongest.reshape(shape)
    there = np.ones(shape[2:], bool)
    if step.unit is not None:
        there = np.zeros(shape[2:], bool)
        there[step.unit] = True
    return strongest.reshape(*shape[:2], *[1] * len(shape[2:])) & there


class _Reshape(_MovesNumbers):
    def given(self, step: Reshape, x: Range) -> Given:
        return Given((x.moved(lambda part: part.reshape(step.shape)),))


class _ResponseNorm:
    def given(self, step: ResponseNorm, x: Range) -> Given:
        return Given((_normed(step, x.widened()),))

    def roundings(self, step: ResponseNorm, x: Range) -> Roundings:
        return Roundings(_lost(step, x.widened(), step.beta), _normed(step, x.widened()).size)


class _ResponseNormGradient:
    def given(self, step: ResponseNormGradient, signal: Range, x: Range) -> Given:
        direct, mixed = _terms(step.norm, signal.widened(), x.widened())
        return Given((between(direct.low - mixed.high, direct.high - mixed.low),))

    def roundings(self, step: ResponseNormGradient, signal: Range, x: Range) -> Roundings:
        lost = _lost(step.norm, x.widened(), step.norm.beta + 1) + step.norm.size + 8
        direct, mixed = _terms(step.norm, signal.widened().absolute(), x.widened(), absolute=True)
        return Roundings(norm.window_sum(lost, step.norm.size), direct.high + mixed.high)


def _normed(by: ResponseNorm, x: Range) -> Range:
    return x * _powers(by, x, by.beta)


def _powers(by: ResponseNorm, x: Range, power: float) -> Range:
    """``s**-power``, which falls as the numbers of x grow in size."""
    smallest, largest = (norm.denominators(by, size) for size in (x.absolute().low, x.absolute().high))
    return between(largest**-power, smallest**-power)


def _terms(by: ResponseNorm, signal: Range, x: Range, absolute: bool = False) -> tuple[Range, Range]:
    """The two terms of the gradient; ``absolute``: for the absolute values of x."""
    values = x.absolute() if absolute else x
    inner = (signal * values * _powers(by, x, by.beta + 1)).moved(lambda part: norm.window_sum(part, by.size))
    factor = 2 * by.alpha * by.beta / by.size
    return signal * _powers(by, x, by.beta), (values * inner).moved(lambda part: factor * part)


def _lost(by: ResponseNorm, x: Range, power: float) -> np.ndarray:
    """Unit roundoffs of ``s**-power``: those of the smallest or of the largest ``s``."""
    lost: np.ndarray = np.maximum(*(norm.roundings(by, size, power) for size in (x.absolute().low, x.absolute().high)))
    return lost


_AFFINE = Affine()
RANGES: dict[type, RangeOracle] = {
    Convolution: _AFFINE,
    NormedConvolution: _AFFINE,
    BatchNorm: _AFFINE,
    Pad: _AFFINE,
    MaxPool: _MaxPool(),
    MaxUnpool: _MaxUnpool(),
    Rectify: _Rectify(),
    ResponseNorm: _ResponseNorm(),
    ResponseNormGradient: _ResponseNormGradient(),
    Isolate: _Isolate(),
    Reshape: _Reshape(),
    Take: _Take(),
}


def ranges_of(step: Step) -> RangeOracle:
    """The ranges of a step."""
    return RANGES[type(step)]
