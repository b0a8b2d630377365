"""Local response normalisation: the formula, its gradient, and how far honest arithmetic strays from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conformance.oracle import response_norm as norm
from conformance.oracle.bounds import ARITHMETICS
from conformance.oracle.gates import Usage, usage
from conformance.oracle.steps import oracle_of
from conformance.spec import ResponseNorm, ResponseNormGradient

ALEXNET = ResponseNorm(5, 1e-4, 0.75, 1.0)
STRONG = ResponseNorm(3, 2.0, 0.75, 1.0)
NORMS = {
    "alexnet": ALEXNET,
    "krizhevsky": ResponseNorm(5, 5e-4, 0.75, 2.0),
    "strong": STRONG,
    "one channel": ResponseNorm(1, 0.5, 0.5, 1.0),
    "wider than all": ResponseNorm(9, 10.0, 1.25, 0.5),
    "small k": ResponseNorm(3, 0.1, 0.75, 1e-3),
}


def nearest(j: int, size: int, channels: int) -> list[int]:
    return [i for i in range(channels) if abs(i - j) <= (size - 1) / 2]


def defined(step: ResponseNorm, x: Any, i: int) -> Any:
    """The channel ``i`` of one position, in whatever arithmetic x is."""
    s = step.k + x.dtype.type(step.alpha) / step.size * sum(x[c] * x[c] for c in nearest(i, step.size, len(x)))
    return x[i] / s**step.beta


def drawn(seed: int, scale: float = 1.0, shape: tuple[int, ...] = (2, 5, 3, 2)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape) * scale


def positions(x: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Of images and places, without the channel."""
    for image, *place in np.ndindex(x.shape[0], *x.shape[2:]):
        yield (image, ..., *place)  # type: ignore[misc]


def close(actual: np.ndarray, expected: np.ndarray, by: float) -> bool:
    return actual.shape == expected.shape and bool((np.abs(actual - expected) <= by * np.abs(expected).max()).all())


# ---- The formula ----


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9, 11])
@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_the_window_is_the_nearest_channels_that_exist(size: int, channels: int) -> None:
    x = np.random.default_rng(0).integers(-9, 10, (2, channels, 3)).astype(np.float64)
    before = x.copy()
    summed = norm.window_sum(x, size)
    for j in range(channels):
        assert np.array_equal(summed[:, j], sum(x[:, i] for i in nearest(j, size, channels)))
    assert np.array_equal(x, before), "the numbers that it was given have changed"


@pytest.mark.parametrize("name", NORMS)
def test_every_channel_is_divided_by_what_the_nearest_ones_give(name: str) -> None:
    x = drawn(1)
    y = norm.response_norm(NORMS[name], x)
    expected = np.empty(x.shape)
    for at in positions(x):
        expected[at] = [defined(NORMS[name], x[at], i) for i in range(x.shape[1])]
    assert close(y, expected, 8 * 2.0**-53)


def test_a_number_worked_out_by_hand() -> None:
    """Squares 1, 4, 9; s is 1 + 3/3 times 5, 14 and 13; beta 1/2."""
    y = norm.response_norm(ResponseNorm(3, 3.0, 0.5, 1.0), np.array([[1.0, 2, 3]]).reshape(1, 3, 1))
    assert y.ravel() == pytest.approx([1 / math.sqrt(6), 2 / math.sqrt(15), 3 / math.sqrt(14)], rel=1e-15)


def test_alpha_is_divided_by_the_size_also_at_the_border() -> None:
    """All channels alike: the first and last have fewer neighbours, and the divisor stays the size."""
    y = norm.response_norm(ResponseNorm(3, 3.0, 1.0, 1.0), np.ones((1, 4, 1)))
    assert y.ravel() == pytest.approx([1 / 3, 1 / 4, 1 / 4, 1 / 3], rel=1e-15)


def test_without_alpha_only_k_is_left() -> None:
    x = drawn(2)
    assert close(norm.response_norm(ResponseNorm(5, 0.0, 0.5, 4.0), x), x / 2, 2.0**-52)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_inputs_are_normalised_in_float64(dtype: Any) -> None:
    x = drawn(3, scale=30).astype(dtype)
    signal = drawn(4).astype(dtype)
    wide = x.astype(np.float64), signal.astype(np.float64)
    assert np.array_equal(norm.response_norm(STRONG, x), norm.response_norm(STRONG, wide[0]))
    gradient = norm.response_norm_gradient(STRONG, signal, x)
    assert gradient.dtype == np.float64
    assert np.array_equal(gradient, norm.response_norm_gradient(STRONG, wide[1], wide[0]))


# ---- The gradient ----


def slopes(step: ResponseNorm, signal: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Central differences of the sum of ``signal * y``, at one position, in as wide arithmetic as there is."""
    signal, x = signal.astype(np.longdouble), x.astype(np.longdouble)
    h = np.longdouble(2.0**-18)

    def total(x: np.ndarray) -> Any:
        return sum(signal[i] * defined(step, x, i) for i in range(len(x)))

    shifts = np.eye(len(x), dtype=np.longdouble) * h
    return np.array([(total(x + shift) - total(x - shift)) / (2 * h) for shift in shifts], np.float64)


@pytest.mark.parametrize("name", NORMS)
def test_the_gradient_is_the_slope(name: str) -> None:
    signal, x = drawn(5), drawn(6) + 2 * np.sign(drawn(6))
    gradient = norm.response_norm_gradient(NORMS[name], signal, x)
    expected = np.empty(x.shape)
    for at in positions(x):
        expected[at] = slopes(NORMS[name], signal[at], x[at])
    assert close(gradient, expected, 1e-9)


def test_the_gradient_adds_the_neighbours_signals_where_their_denominators_are_theirs() -> None:
    """Channel 0 and 2 are no neighbours; what channel 0 gets from channel 1 carries the denominator of channel 1."""
    step, x = ResponseNorm(3, 3.0, 1.0, 1.0), np.array([1.0, 1, 5]).reshape(1, 3, 1)
    gradient = norm.response_norm_gradient(step, np.array([0.0, 1, 0]).reshape(1, 3, 1), x)
    s = 1 + 1 + 1 + 25
    assert gradient.ravel() == pytest.approx([-2 / s**2, 1 / s - 2 / s**2, -10 / s**2], rel=1e-14)


def test_magnitude_is_what_the_gradient_would_be_without_cancellation() -> None:
    signal, x = drawn(7), drawn(8)
    for step in NORMS.values():
        magnitude = norm.gradient_magnitude(step, signal, x)
        assert (magnitude >= np.abs(norm.response_norm_gradient(step, signal, x))).all()
        lone = np.zeros((1, 3, 1))
        lone[0, 1] = -2.0
        parts = norm.gradient_magnitude(step, lone, np.array([1.0, 3, 4]).reshape(1, 3, 1))
        flipped = norm.response_norm_gradient(step, lone, np.array([1.0, 3, -4]).reshape(1, 3, 1))
        if step.size > 1:
            assert parts[0, 0, 0] == pytest.approx(abs(flipped[0, 0, 0]), rel=1e-14)
            assert parts[0, 2, 0] == pytest.approx(abs(flipped[0, 2, 0]), rel=1e-14)


# ---- Honest implementations stay inside of the bound ----

POWERS: dict[str, Callable[[np.ndarray, Any], np.ndarray]] = {
    "power": lambda s, b: s**-b,
    "one over a power": lambda s, b: 1 / s**b,
    "exp of log": lambda s, b: np.exp(-b * np.log(s)),
    "exp2 of log2": lambda s, b: np.exp2(-b * np.log2(s)),
    "roots": lambda s, b: 1 / (np.sqrt(s) * np.sqrt(np.sqrt(s))) if b == 0.75 else s**-b,
    "reciprocal roots": lambda s, b: (1 / np.sqrt(s)) * np.sqrt(1 / np.sqrt(s)) if b == 0.75 else 1 / s**b,
}
ORDERS: dict[str, Callable[[list[int], np.random.Generator], list[int]]] = {
    "up": lambda near, _: near,
    "down": lambda near, _: near[::-1],
    "any": lambda near, rng: [near[i] for i in rng.permutation(len(near))],
}


def summed(x: np.ndarray, size: int, order: str, rng: np.random.Generator) -> np.ndarray:
    result = np.zeros_like(x)
    for j in range(x.shape[1]):
        for i in ORDERS[order](nearest(j, size, x.shape[1]), rng):
            result[:, j] += x[:, i]
    return result


def denominator(step: ResponseNorm, x: np.ndarray, order: str, scaling: str, rng: np.random.Generator) -> np.ndarray:
    of = x.dtype.type
    if scaling == "inside":
        scaled = x * np.sqrt(of(step.alpha) / of(step.size))
        return of(step.k) + summed(scaled * scaled, step.size, order, rng)
    total = summed(x * x, step.size, order, rng)
    if scaling == "mean":
        return of(step.k) + of(step.alpha) * (total / of(step.size))
    return of(step.k) + of(step.alpha) / of(step.size) * total


WAYS = list(itertools.product(POWERS, ORDERS, ("inside", "mean", "factor")))


def honest(step: ResponseNorm, x: np.ndarray, way: tuple[str, str, str], seed: int = 0) -> np.ndarray:
    power, order, scaling = way
    s = denominator(step, x, order, scaling, np.random.default_rng(seed))
    return x * POWERS[power](s, x.dtype.type(step.beta))


def honest_gradient(
    step: ResponseNorm, signal: np.ndarray, x: np.ndarray, way: tuple[str, str, str], seed: int = 0
) -> np.ndarray:
    """By the formula, or as a framework that differentiates x * s**-beta backwards, through y / s."""
    power, order, scaling = way
    rng, of = np.random.default_rng(seed), x.dtype.type
    s = denominator(step, x, order, scaling, rng)
    direct = signal * POWERS[power](s, of(step.beta))
    inner = signal * x * POWERS[power](s, of(step.beta)) / s if order == "up" else None
    if inner is None:
        inner = signal * x * POWERS[power](s, of(step.beta) + of(1))
    factor = of(2) * of(step.alpha) * of(step.beta) / of(step.size)
    return direct - factor * x * summed(inner, step.size, order, rng)


def used(step: ResponseNorm, fed: tuple[np.ndarray, ...], got: np.ndarray) -> Usage:
    """How much of the bound a result uses; for 16 bits with sums in 16 bits."""
    oracle_step = step if len(fed) == 1 else ResponseNormGradient(step)
    exact = oracle_of(oracle_step).exact(oracle_step, *fed)[0]
    roundings = oracle_of(oracle_step).roundings(oracle_step, *fed)
    assert roundings is not None
    assert roundings.own_format
    held_to = {np.dtype(np.float32): "float32", np.dtype(np.float16): "float16-sums"}[got.dtype]
    return usage(ARITHMETICS[held_to], got, exact, roundings.products, roundings.magnitude)


SCALES = {np.float32: (1e-3, 1.0, 30.0), np.float16: (0.1, 1.0, 5.0)}
RANGES = [
    *((name, np.float32) for name in NORMS),
    *((name, np.float16) for name in ("alexnet", "krizhevsky", "strong", "one channel")),
]
"""float16 only where no power of s leaves its range."""


@pytest.mark.parametrize(("name", "dtype"), RANGES)
def test_however_it_is_computed_it_stays_inside_of_the_bound(name: str, dtype: Any) -> None:
    """54 ways, and half a million results in all; at most 0.4 of the bound are used."""
    largest, spread = 0.0, 0.0
    for seed, (way, scale) in enumerate(itertools.product(WAYS, SCALES[dtype])):
        x = drawn(seed, scale, (1, 7, 40)).astype(dtype)
        found = used(NORMS[name], (x,), honest(NORMS[name], x, way, seed))
        largest, spread = max(largest, found.bound), max(spread, found.rms)
    assert 0.02 < largest < 1
    assert spread < 1


def test_a_power_by_exp_and_log_is_honest_where_the_logarithm_is_large() -> None:
    """ln s is about 17: the hard gate uses 0.4, the statistical one 1.2."""
    for seed in range(20):
        x = drawn(seed, 1e3, (1, 7, 40)).astype(np.float32)
        found = used(NORMS["wider than all"], (x,), honest(NORMS["wider than all"], x, ("exp of log", "up", "mean")))
        assert found.bound < 1
        assert found.rms < 1


@pytest.mark.parametrize(("name", "dtype"), RANGES)
def test_however_its_gradient_is_computed_it_stays_inside_of_the_bound(name: str, dtype: Any) -> None:
    largest, spread = 0.0, 0.0
    for seed, (way, scale) in enumerate(itertools.product(WAYS, SCALES[dtype])):
        signal, x = (drawn(*some, (1, 7, 40)).astype(dtype) for some in ((seed, 1.0), (10**6 + seed, scale)))
        found = used(NORMS[name], (signal, x), honest_gradient(NORMS[name], signal, x, way, seed))
        largest, spread = max(largest, found.bound), max(spread, found.rms)
    assert 0.01 < largest < 1
    assert spread < 1


def test_an_element_of_zero_has_no_room_for_error() -> None:
    x = drawn(9).astype(np.float32)
    x[:, 2] = 0
    got = honest(STRONG, x, WAYS[0])
    assert used(STRONG, (x,), got).legal
    got[0, 2, 0, 0] = 2.0**-100
    assert used(STRONG, (x,), got).bound == math.inf


# ---- Mistakes are far outside ----

WAY = ("power", "up", "factor")
Wrong = Callable[[ResponseNorm, np.ndarray], np.ndarray]


def moved(step: ResponseNorm, x: np.ndarray) -> np.ndarray:
    """Each channel is divided by what its neighbour should be."""
    shifted = np.roll(x, 1, axis=1)
    return x * (honest(step, shifted, WAY) / shifted)


def one_sided(step: ResponseNorm, x: np.ndarray) -> np.ndarray:
    """The window begins at the channel."""
    total = np.zeros_like(x)
    for j in range(x.shape[1]):
        total[:, j] = (x[:, j : j + step.size] ** 2).sum(axis=1)
    return x * (np.float32(step.k) + np.float32(step.alpha / step.size) * total) ** np.float32(-step.beta)


def over_positions(step: ResponseNorm, x: np.ndarray) -> np.ndarray:
    return honest(step, x.swapaxes(1, 2).copy(), WAY).swapaxes(1, 2)


WRONG: dict[str, Wrong] = {
    "alpha is not divided by the size": lambda step, x: honest(replace(step, alpha=step.alpha * step.size), x, WAY),
    "alpha is divided twice": lambda step, x: honest(replace(step, alpha=step.alpha / step.size), x, WAY),
    "the window is one channel off": moved,
    "the window begins at the channel": one_sided,
    "the window is two channels too wide": lambda step, x: honest(
        replace(step, size=step.size + 2, alpha=step.alpha * (step.size + 2) / step.size), x, WAY
    ),
    "k is left out": lambda step, x: honest(replace(step, k=step.k / 2), x, WAY),
    "beta is another": lambda step, x: honest(replace(step, beta=step.beta * 1.01), x, WAY),
    "it runs over positions": over_positions,
    "the channel itself is left out": lambda step, x: (
        x
        * (np.float32(step.k) + np.float32(step.alpha / step.size) * (norm.window_sum(x * x, step.size) - x * x))
        ** np.float32(-step.beta)
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
@pytest.mark.parametrize("name", ["alexnet", "krizhevsky", "strong"])
def test_a_wrong_normalisation_is_far_outside(mistake: str, name: str) -> None:
    x = drawn(10, 10.0, (1, 7, 40)).astype(np.float32)
    assert used(NORMS[name], (x,), honest(NORMS[name], x, WAY)).legal
    found = used(NORMS[name], (x,), WRONG[mistake](NORMS[name], x).astype(np.float32))
    assert found.bound > 30
    assert found.rms > 5


def gradient_with(
    step: ResponseNorm, signal: np.ndarray, x: np.ndarray, factor: float = 1.0, power: float = 1.0
) -> np.ndarray:
    """The gradient, whose mixed term has another factor or power."""
    s = denominator(step, x, "up", "factor", np.random.default_rng(0))
    inner = summed(signal * x * s ** np.float32(-step.beta - power), step.size, "up", np.random.default_rng(0))
    mixed = np.float32(factor * 2 * step.alpha * step.beta / step.size) * x * inner
    return signal * s ** np.float32(-step.beta) - mixed


def transposed(step: ResponseNorm, signal: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The Jacobian in place of its transpose: the denominator is that of the channel that is written."""
    s = denominator(step, x, "up", "factor", np.random.default_rng(0))
    inner = summed(signal * x, step.size, "up", np.random.default_rng(0)) * s ** np.float32(-step.beta - 1)
    return signal * s ** np.float32(-step.beta) - np.float32(2 * step.alpha * step.beta / step.size) * x * inner


WRONG_GRADIENTS: dict[str, Callable[[ResponseNorm, np.ndarray, np.ndarray], np.ndarray]] = {
    "the signal is normalised": lambda step, signal, x: honest(step, signal, WAY),
    "the signal is passed through": lambda step, signal, x: signal,
    "the mixed term is missing": lambda step, signal, x: gradient_with(step, signal, x, factor=0),
    "the factor 2 is missing": lambda step, signal, x: gradient_with(step, signal, x, factor=0.5),
    "the sign is the other": lambda step, signal, x: gradient_with(step, signal, x, factor=-1),
    "a power too few": lambda step, signal, x: gradient_with(step, signal, x, power=0),
    "it is transposed": transposed,
}


@pytest.mark.parametrize("mistake", WRONG_GRADIENTS)
def test_a_wrong_gradient_is_far_outside(mistake: str) -> None:
    signal, x = drawn(11, 1.0, (1, 7, 40)).astype(np.float32), drawn(12, 3.0, (1, 7, 40)).astype(np.float32)
    assert used(STRONG, (signal, x), gradient_with(STRONG, signal, x)).legal
    found = used(STRONG, (signal, x), WRONG_GRADIENTS[mistake](STRONG, signal, x).astype(np.float32))
    assert found.bound > 1000
    assert found.rms > 1000
