"""Filters that are drawn, for those who bring no weights: they look like those of trained networks, and know nothing.

The first layer has oriented edges (Gabor functions) in grey and in opponent colours, and blobs of colour, as Zeiler and
Fergus show for theirs (arXiv:1311.2901, figure 2).  In deeper layers every filter joins a few maps at random, each at a
place of its own, and is inhibited by the others.  The same on every machine.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from conformance.spec import Convolution, Deconvnet

DRAWN = "a drawn filter bank: edges and colours first, then random"
JOINED = 8
"""How many maps below a deeper filter joins."""
OPPONENTS = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
"""Light and dark, red and green, yellow and blue."""


def drawn_weights(case: Deconvnet) -> dict[str, np.ndarray]:
    """Weights and biases of every convolution of a case, in float64."""
    weights = {}
    first = True
    for n, layer in enumerate(case.layers):
        if not isinstance(layer.step, Convolution):
            continue
        rng = np.random.default_rng((1311, 2901, n))
        shape = layer.step.weight_shape
        filters = _first_filters(shape, rng) if first else _deeper_filters(shape, rng)
        weights[f"{layer.name}.weight"] = filters
        if layer.step.bias:
            weights[f"{layer.name}.bias"] = 0.02 * rng.standard_normal(shape[0])
        first = False
    return weights


def _first_filters(shape: tuple[int, ...], rng: Generator) -> np.ndarray:
    """Three of four are edges, most of them grey; the fourth is a blob of one colour, weaker, lest flat areas win."""
    filters = [_blob(shape[1:], rng) if n % 4 == 3 else _edge(shape[1:], n, rng) for n in range(shape[0])]
    lengths = np.where(np.arange(shape[0]) % 4 == 3, 0.45, 1.0)
    return _normalised(np.stack(filters), lengths[:, None, None, None])


def _edge(shape: tuple[int, ...], n: int, rng: Generator) -> np.ndarray:
    """A Gabor function ``(channels, *kernel)``; angles go round by the golden ratio."""
    y, x = _grid(shape[1:])
    angle = math.pi * (n * 0.6180339887 % 1)
    along = x * math.cos(angle) + y * math.sin(angle)
    wave = np.cos(math.pi * rng.uniform(0.9, 2.2) * along + rng.choice([0.0, 0.5, 1.0, 1.5]) * math.pi)
    profile = wave * np.exp(-2.0 * (x**2 + y**2))
    colour = _colour(shape[0], 0 if n % 4 < 2 else int(rng.integers(1, 3)))
    return colour[:, None, None] * (profile - profile.mean())  # type: ignore[no-any-return]


def _blob(shape: tuple[int, ...], rng: Generator) -> np.ndarray:
    y, x = _grid(shape[1:])
    colour = _colour(shape[0], int(rng.integers(1, 3))) * rng.choice([-1.0, 1.0])
    return colour[:, None, None] * np.exp(-1.5 * (x**2 + y**2))  # type: ignore[no-any-return]


def _colour(channels: int, axis: int) -> np.ndarray:
    if channels == 3:
        opponent: np.ndarray = OPPONENTS[axis]
        return opponent
    stripes: np.ndarray = np.cos(np.pi * axis * np.arange(channels))
    return stripes


def _grid(kernel: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Positions in a kernel, from -1 to 1 on both axes."""
    y, x = np.meshgrid(*((np.arange(k) + 0.5) / k * 2 - 1 for k in kernel), indexing="ij")
    return y, x


def _deeper_filters(shape: tuple[int, ...], rng: Generator) -> np.ndarray:
    """Filters without mean, of a length with which activations about keep their size."""
    y, x = _grid(shape[2:])
    places = rng.uniform(-0.8, 0.8, (2, *shape[:2], 1, 1))
    spots = np.exp(-1.2 * ((y - places[0]) ** 2 + (x - places[1]) ** 2))
    rank = rng.random(shape[:2]).argsort(axis=1).argsort(axis=1)
    strength = np.where(rank < JOINED, rng.uniform(0.5, 1.0, shape[:2]), 0.0)
    filters = strength[..., None, None] * spots
    filters -= filters.mean(axis=(1, 2, 3), keepdims=True)
    return _normalised(filters + 1e-3 * rng.standard_normal(shape), np.array(0.65))


def _normalised(filters: np.ndarray, length: np.ndarray) -> np.ndarray:
    size = np.sqrt(np.square(filters).sum(axis=(1, 2, 3), keepdims=True))
    return filters * (length / np.maximum(size, 1e-12))  # type: ignore[no-any-return]
