"""Chains walked by plain NumPy loops that add up in any order: honest, unless a mistake is planted in a stage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from conformance.dtypes import FORMATS
from conformance.outcome import Outcome
from conformance.spec import (
    BatchNorm,
    Chain,
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
    Take,
    is_index,
)
from conformance.spec.loader import OPS, data_kinds

Arrays = tuple[np.ndarray, ...]
Mistake = Callable[[Any, list[np.ndarray], Arrays], Arrays]
"""What a stage gives instead: its step, what it was fed, and what it should give, in the case's dtype."""


BLOCK: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 2,
    "bias": True,
    "batch": 2,
    "input": [3, 4],
    "pool": {"kernel": 3, "stride": 2},
    "kernel": 3,
}
ADAPTIVE: dict[str, Any] = {
    "batch": 2,
    "in_channels": 3,
    "input": [11, 10],
    "layers": [{"maps": 5, "kernel": 3, "pool": [2, 3, 3], "pool_stride": [1, 2, 2]}, {"maps": 3, "kernel": 2}],
}


def make_case(op: str, id: str = "t/case", **keys: Any) -> Any:
    """The case that these keys would make in a YAML file."""
    entry = OPS[op].model_validate({"op": op, **keys})
    common = {"id": id, "op": op, "dtype": entry.dtype, "batch": entry.batch, "data": data_kinds(entry)}
    return entry.resolve(common)


RELU = {"relu": True}
NETS: dict[str, dict[str, Any]] = {
    "A": {"input": [8, 7], "layers": [{"conv": 3, "kernel": 3}, RELU, {"conv": 2, "kernel": [3, 2]}, RELU]},
    "B": {
        "input": [8, 10],
        "layers": [{"conv": 3, "kernel": 3}, RELU, {"max_pool": 2}, {"conv": 2, "kernel": 2}, RELU],
    },
    "C": {
        "input": [13, 11],
        "layers": [{"conv": 3, "kernel": 3}, RELU, {"max_pool": 3, "stride": 2}, {"conv": 2, "kernel": 2}, RELU],
    },
    "D": {"input": [13, 11], "layers": [{"conv": 3, "kernel": 3}, RELU, {"max_pool": 2}]},
    "E": {
        "input": [25, 23],
        "layers": [
            {"conv": 4, "kernel": 7, "stride": 2, "padding": 1},
            RELU,
            {"max_pool": 3, "stride": 2, "padding": 1},
            {"lrn": 3, "alpha": 0.5, "beta": 0.75, "k": 2},
            {"conv": 3, "kernel": 5, "stride": 2, "padding": 1},
            RELU,
        ],
    },
    "F": {
        "input": [12, 13],
        "layers": [
            {"conv": 3, "kernel": 3, "padding": 1},
            RELU,
            {"conv": 2, "kernel": 2, "dilation": 2},
            RELU,
            {"max_pool": 3, "stride": 2},
            {"conv": 2, "kernel": 2, "groups": 2},
            RELU,
        ],
    },
}
"""A without pooling, B with pooling, C where windows overlap, D a size that pooling does not divide, E with response
normalisation, F several convolutions below the pooling."""


def net(name: str, id: str = "t/net", **keys: Any) -> Any:
    return make_case("deconvnet", id, **{"batch": 2, "in_channels": 2, **NETS[name], **keys})


def walked(
    case: Chain,
    tensors: Mapping[str, np.ndarray],
    seed: int = 0,
    sums: Any = None,
    wrong: Mapping[str, Mistake] = {},
    merged: bool = False,
) -> dict[str, np.ndarray]:
    """What every stage gives.  ``sums`` is the dtype of sums, the order of which follows from the seed.

    ``merged``: what may be folded into one is.
    """
    dtype = FORMATS[case.dtype].dtype
    sums = np.dtype(sums or (np.float64 if case.dtype == "float64" else np.float32))
    rng = np.random.default_rng(seed)
    values: dict[str, np.ndarray] = dict(tensors)
    with np.errstate(all="ignore"):
        stages = case.merged if merged else case.stages
        for stage in stages:
            fed = [values[name] for name in stage.reads]
            wide = [array if array.dtype == np.int64 else array.astype(sums) for array in fed]
            stored = (dtype,) if isinstance(stage.step, NormedConvolution) else ()
            given = STEPS[type(stage.step)](stage.step, rng, *stored, *wide)
            given = given if isinstance(given, tuple) else (given,)
            given = tuple(
                array.astype(np.int64 if is_index(n) else dtype) for n, array in zip(stage.gives, given, strict=True)
            )
            if stage.name in wrong:
                given = wrong[stage.name](stage.step, fed, given)
            values |= zip(stage.gives, given, strict=True)
    return {name: values[name] for stage in stages for name in stage.gives}


def returned(tensors: Mapping[str, Any]) -> Outcome:
    return Outcome("returned", dict(tensors))


def joined(axis: Any, tap: int) -> tuple[list[int], list[int]]:
    """Positions of the small and of the large side that a tap joins."""
    pairs = [(m, m * axis.stride - axis.begin + tap * axis.dilation) for m in range(axis.small)]
    inside = [(m, j) for m, j in pairs if 0 <= j < axis.large]
    return [m for m, _ in inside], [j for _, j in inside]


def grid(positions: Any) -> Arrays:
    return np.ix_(*(np.array(one, np.int64) for one in positions))


def convolution(
    step: Convolution, rng: np.random.Generator, x: np.ndarray, w: np.ndarray, bias: np.ndarray | None = None
) -> np.ndarray:
    """One tap and one map of the input after the other."""
    to = step.large if step.transposed else step.small
    g, images = step.groups, x.shape[0]
    fed = x.reshape(images, g, x.shape[1] // g, *x.shape[2:])
    weight = w.reshape(g, -1, *w.shape[1:])
    if not step.transposed:
        weight = weight.swapaxes(1, 2)  # from here on (groups, read maps, written maps, *kernel)
    result = np.zeros((images, g, weight.shape[2], *to), x.dtype)
    add = np.zeros(1, x.dtype) if bias is None else bias.reshape(g, -1, *[1] * len(to))
    if bias_first := bool(rng.integers(2)):
        result = result + add
    work = list(itertools.product(range(weight.shape[1]), *map(range, step.kernel)))
    for n in rng.permutation(len(work)):
        read, *tap = work[n]
        small, large = zip(*itertools.starmap(joined, zip(step.axes, tap, strict=True)), strict=True)
        source, target = (small, large) if step.transposed else (large, small)
        values = fed[:, :, read][(..., *grid(source))]
        factors = weight[(slice(None), read, slice(None), *tap)].reshape(g, -1, *[1] * len(to))
        result[(..., *grid(target))] += values[:, :, None] * factors
    result = result if bias_first else result + add
    return result.reshape(images, math.prod(result.shape[1:3]), *to)


def max_pool(step: MaxPool, _: np.random.Generator, x: np.ndarray) -> Arrays:
    """One element of all windows after the other; a later one wins if it is larger, or the first NaN."""
    keys = np.abs(x) if step.magnitude else x
    best = np.full((*x.shape[:2], *step.small), -np.inf, x.dtype)
    values, switches = best.copy(), np.full(best.shape, -1)
    for tap in itertools.product(*map(range, step.kernel)):
        small, large = zip(*itertools.starmap(joined, zip(step.axes, tap, strict=True)), strict=True)
        to, source = (..., *grid(small)), (..., *grid(large))
        there = np.ravel_multi_index(grid(large), step.large)
        wins = (keys[source] > best[to]) | (np.isnan(keys[source]) & ~np.isnan(best[to])) | (switches[to] < 0)
        values[to] = np.where(wins, x[source], values[to])
        switches[to] = np.where(wins, there, switches[to])
        best[to] = np.where(wins, keys[source], best[to])
    return values, switches


def max_unpool(step: MaxUnpool, rng: np.random.Generator, y: np.ndarray, switches: np.ndarray) -> np.ndarray:
    values, places = (array.reshape(math.prod(y.shape[:2]), -1 if y.size else 0) for array in (y, switches))
    result = np.zeros((values.shape[0], math.prod(step.large)), y.dtype)
    count = np.zeros(result.shape, y.dtype)
    planes = np.arange(values.shape[0])
    order = range(values.shape[1]) if step.overlap == "assign" else rng.permutation(values.shape[1])
    for n in order:
        if step.overlap == "assign":
            result[planes, places[:, n]] = values[:, n]
        else:
            result[planes, places[:, n]] += values[:, n]
        count[planes, places[:, n]] += 1
    if step.overlap == "mean":
        most = np.maximum(count, 1)
        result = result / most if rng.integers(2) else result * (1 / most)
    return result.reshape(*y.shape[:2], *step.large)


def rectify(step: Rectify, _: np.random.Generator, r: np.ndarray, *activation: np.ndarray) -> np.ndarray:
    signal = r if step.by == "mask" else np.maximum(r, 0)
    return signal * (activation[0] > 0) if activation else signal


def nearest(x: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Sums over the nearest channels, from either end."""
    result = np.zeros_like(x)
    for j in range(x.shape[1]):
        near = [i for i in range(x.shape[1]) if abs(i - j) <= size // 2]
        for i in near[:: int(rng.choice([1, -1]))]:
            result[:, j] += x[:, i]
    return result


def power(s: np.ndarray, by: float, rng: np.random.Generator) -> np.ndarray:
    exponent = s.dtype.type(-by)
    return s**exponent if rng.integers(2) else np.exp(exponent * np.log(s))


def denominators(step: ResponseNorm, rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    return x.dtype.type(step.k) + x.dtype.type(step.alpha / step.size) * nearest(x * x, step.size, rng)


def response_norm(step: ResponseNorm, rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    return x * power(denominators(step, rng, x), step.beta, rng)


def response_norm_gradient(
    step: ResponseNormGradient, rng: np.random.Generator, signal: np.ndarray, x: np.ndarray
) -> np.ndarray:
    norm = step.norm
    s = denominators(norm, rng, x)
    inner = nearest(signal * x * power(s, norm.beta + 1, rng), norm.size, rng)
    return signal * power(s, norm.beta, rng) - x.dtype.type(2 * norm.alpha * norm.beta / norm.size) * x * inner


def isolate(step: Isolate, _: np.random.Generator, x: np.ndarray) -> np.ndarray:
    result = np.zeros_like(x)
    for image, maps in enumerate(x):
        strongest = np.unravel_index(maps.argmax(), maps.shape)
        channel = int(strongest[0]) if step.channel is None else step.channel
        unit = step.unit or np.unravel_index(maps[channel].argmax(), maps.shape[1:])
        kept = {"none": (), "channel": (channel,), "unit": (channel, *unit)}[step.keep]
        result[(image, *kept)] = maps[kept] if step.seed == "activation" else 1
    return result


def reshape(step: Reshape, _: np.random.Generator, x: np.ndarray) -> np.ndarray:
    return x.reshape(step.shape)


def take(_: Take, __: np.random.Generator, x: np.ndarray, switches: np.ndarray) -> np.ndarray:
    result = np.zeros(switches.shape, x.dtype)
    for at in np.ndindex(switches.shape):
        result[at] = x[at[:2]].flat[switches[at]]
    return result


def pad(step: Pad, _: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Row by row."""
    for axis, (begin, end) in enumerate(step.ends, 2):
        rows = list(np.moveaxis(x, axis, 0))
        blank = np.full_like(rows[0], step.value)
        rows = [blank] * begin + rows[max(-begin, 0) : len(rows) + min(end, 0)] + [blank] * end
        x = np.stack(rows, axis)
    return x


def rate(step: BatchNorm, rng: np.random.Generator, scale: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Scale over root in one of the ways in which it is computed, the last with a root that is 2 ulps off."""
    under = variance + variance.dtype.type(step.epsilon)
    way = int(rng.integers(4))
    if way < 2:
        root = np.sqrt(under)
        return scale / root if way else scale * (1 / root)
    reciprocal = (1 / np.sqrt(under.astype(np.float64))).astype(under.dtype)
    if way == 3:  # as approximations are; they give powers of 2 for powers of 4
        exact, twice = np.frexp(reciprocal)[0] == 0.5, np.nextafter(reciprocal, np.inf)
        reciprocal = np.where(exact, reciprocal, np.nextafter(twice, np.inf))
    return scale * reciprocal


def batch_norm(
    step: BatchNorm, rng: np.random.Generator, z: np.ndarray, scale: Any, shift: Any, mean: Any, variance: Any
) -> np.ndarray:
    """In one of three orders."""
    r = rate(step, rng, scale, variance)
    way = int(rng.integers(3))
    r, shift, mean = (array.reshape(-1, *[1] * (z.ndim - 2)) for array in (r, shift, mean))
    if way == 0:
        return (z - mean) * r + shift
    return z * r + (shift - mean * r) if way == 1 else z * r - mean * r + shift


def normed_convolution(
    step: NormedConvolution, rng: np.random.Generator, stored: Any, x: np.ndarray, w: np.ndarray, *more: np.ndarray
) -> np.ndarray:
    """Weights multiplied once and for all, and stored; the bias folded too, or what it makes added afterwards."""
    filters = step.convolution
    bias = more[0] if filters.bias else np.zeros_like(more[0])
    scale, shift, mean, variance = more[-4:]
    r = rate(step.norm, rng, scale, variance)
    each = r.reshape(-1, *[1] * (w.ndim - 1))
    if filters.transposed:
        each = np.repeat(r.reshape(filters.groups, 1, -1), filters.in_channels // filters.groups, axis=1)
        each = each.reshape(*w.shape[:2], *[1] * (w.ndim - 2))
    folded = (w * each).astype(stored).astype(w.dtype)
    last = ((bias - mean) * r + shift if rng.integers(2) else bias * r + (shift - mean * r)).astype(stored)
    if rng.integers(2):
        return convolution(filters, rng, x, folded, last.astype(w.dtype))
    return convolution(filters, rng, x, folded) + last.astype(w.dtype).reshape(-1, *[1] * (w.ndim - 2))


STEPS: dict[type, Callable[..., Any]] = {
    Convolution: convolution,
    MaxPool: max_pool,
    MaxUnpool: max_unpool,
    Rectify: rectify,
    ResponseNorm: response_norm,
    ResponseNormGradient: response_norm_gradient,
    Isolate: isolate,
    Reshape: reshape,
    Take: take,
    Pad: pad,
    BatchNorm: batch_norm,
    NormedConvolution: normed_convolution,
}
