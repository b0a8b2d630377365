"""Chains: walking them exactly, and drawing tensors for them.

*Exact data* of a chain are integers so small that every partial sum of every stage is exact in the target's arithmetic;
what a chain computes then has to come out bit for bit, however long it is.  Weights are sparse where that is needed.
*Rounding data* look like a network: normally distributed inputs, weights scaled so that activations keep their size
(He et al., arXiv:1502.01852), small biases.  The oracle rounds on those too, in float64, and bounds allow for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.random import Generator

from conformance.dtypes import Format, round_once
from conformance.errors import OracleRounded
from conformance.oracle import batch_norm, pooling
from conformance.oracle.draws import generator
from conformance.oracle.steps import oracle_of
from conformance.spec import BatchNorm, Chain, Convolution, Deconvnet, MaxUnpool, Stage, Take, is_index
from conformance.spec.conv_block import NORM_TENSORS

Tensors = Mapping[str, np.ndarray]
Values = dict[str, np.ndarray]

TAPS = (10**9, 64, 32, 16, 12, 8, 6, 4, 3, 2, 1)
BITS = (10, 6, 4, 2)
LIVE_ATTEMPTS = 8


def walk(stages: Iterable[Stage], tensors: Tensors, known: Tensors = MappingProxyType({})) -> Values:
    """What every stage gives exactly, by name, beside what is ``known`` already: float64, indices int64."""
    values = dict(known)
    for stage in stages:
        if not all(name in values for name in stage.gives):
            given = oracle_of(stage.step).exact(stage.step, *_fed(stage, tensors, values))
            values |= zip(stage.gives, given, strict=True)
    return values


def _fed(stage: Stage, tensors: Tensors, values: Tensors) -> list[np.ndarray]:
    return [values[name] if name in values else tensors[name] for name in stage.reads]


def draw_chain(case: Chain, data: str, format: Format, seed: int) -> tuple[dict[str, np.ndarray], Values]:
    """Tensors of a chain in its dtype, and what every stage gives.

    The first draw is taken whose result is not all zeros: a rectifier may well stop everything.  Raises OracleRounded
    where no exact data was found.
    """
    if data in ("edge-nan", "edge-inf"):
        tensors = _draw(case, generator(case.id, data, seed), format, _edge_numbers(data))
        return tensors, walk(case.stages, tensors)
    return _draw_exact(case, format, seed) if data != "rounding" else _draw_rounding(case, format, seed)


def _draw_exact(case: Chain, format: Format, seed: int) -> tuple[dict[str, np.ndarray], Values]:
    """The fullest weights, and with them the widest inputs, with which every sum of the chain fits."""
    found = None
    for taps, bits in itertools.product(TAPS, BITS):
        if bits + _growth(case, taps) > format.precision:
            continue
        for turn in range(LIVE_ATTEMPTS):
            rng = generator(case.id, f"exact {taps} {bits} {turn}", seed)
            tensors = _draw(case, rng, format, _whole_numbers(case, format, bits, taps))
            values = _walk_exactly(case, tensors, 2**format.precision)
            if values is None:
                break
            if _alive(case, values):
                return tensors, values
            found = found or (tensors, values)
    if found is None:
        raise OracleRounded(f"{case.id}: no whole numbers found whose sums {format.name} can hold")
    return found


def _growth(case: Chain, taps: int) -> float:
    """Bits by which numbers typically grow along the chain: half those of the number of products of each sum."""
    products = (math.prod(step.weight_shape[1:]) for step in case.steps if isinstance(step, Convolution))
    return sum(math.log2(min(n, taps)) / 2 for n in products)


def _walk_exactly(case: Chain, tensors: Tensors, limit: int) -> Values | None:
    """What every stage gives, or None where some partial sum exceeds the limit."""
    if not case.tells_stages and _largest_sum(case, tensors) > limit:
        return None
    values: Values = {}
    for stage in case.stages:
        roundings = oracle_of(stage.step).roundings(stage.step, *_fed(stage, tensors, values))
        if roundings is not None and roundings.magnitude.max(initial=0.0) > limit:
            return None
        values = walk((stage,), tensors, values)
    return values


def _largest_sum(case: Chain, tensors: Tensors) -> float:
    """The largest that partial sums can become, however the stages are computed in one another.

    Every product of the whole chain counts with its absolute value, so that nothing cancels between stages.
    """
    values, largest = dict(tensors), 0.0
    for stage in case.stages:
        oracle, fed = oracle_of(stage.step), [values[name] for name in stage.reads]
        roundings = oracle.roundings(stage.step, *fed)
        result = np.abs(oracle.exact(stage.step, *fed)[0]) if roundings is None else roundings.magnitude
        values[stage.gives[0]] = result
        largest = max(largest, float(result.max(initial=0.0)))
    return largest


def _draw_rounding(case: Chain, format: Format, seed: int) -> tuple[dict[str, np.ndarray], Values]:
    for turn in range(LIVE_ATTEMPTS):
        tensors = _draw(case, generator(case.id, f"rounding {turn}", seed), format, _normal_numbers)
        values = walk(case.stages, tensors)
        if _alive(case, values):
            break
    return tensors, values


def _alive(case: Chain, values: Values) -> bool:
    """Whether something comes out for every image."""
    result = values["output"]
    if not isinstance(case, Deconvnet) or not result.size:
        return True
    return bool((result.reshape(result.shape[0], -1) != 0).any(axis=1).all())


Numbers = Callable[[str, "tuple[int, ...]", Generator], np.ndarray]


def _draw(case: Chain, rng: Generator, format: Format, numbers: Numbers) -> dict[str, np.ndarray]:
    shapes = case.tensor_shapes
    return {
        name: _switches(case, name, rng) if is_index(name) else round_once(numbers(name, shapes[name], rng), format)
        for name in shapes
    }


def _whole_numbers(case: Chain, format: Format, bits: int, taps: int) -> Numbers:
    """Inputs of so many bits; ``taps`` weights of each filter are not 0, but -2 to 2; small biases."""
    norms = {name: s.step for s in case.stages if isinstance(s.step, BatchNorm) for name in s.reads[1:]}

    def numbers(name: str, shape: tuple[int, ...], rng: Generator) -> np.ndarray:
        what = name.rpartition(".")[2]
        if name in norms:
            return batch_norm.whole_numbers(norms[name], what, shape[0], format, rng)
        if what == "weight":
            return _sparse(shape, taps, rng)
        limit = 2**bits if what in ("input", "maps", "activation") else 4
        return rng.integers(-limit, limit + 1, shape).astype(np.float64)

    return numbers


def _sparse(shape: tuple[int, ...], taps: int, rng: Generator) -> np.ndarray:
    size = math.prod(shape[1:])
    values: np.ndarray = rng.integers(1, 3 if size <= taps else 2, shape) * rng.choice([-1.0, 1.0], shape)
    if size <= taps:
        return values
    order = rng.random((shape[0], size)).argsort(axis=1).argsort(axis=1)
    return np.where(order.reshape(shape) < taps, values, 0.0)


def _normal_numbers(name: str, shape: tuple[int, ...], rng: Generator) -> np.ndarray:
    what = name.rpartition(".")[2]
    if what in NORM_TENSORS:
        return batch_norm.normal_numbers(what, shape[0], rng)
    scale = {"weight": math.sqrt(2 / max(math.prod(shape[1:]), 1)), "bias": 0.1}.get(what, 1.0)
    values: np.ndarray = rng.standard_normal(shape) * scale
    return values


def _edge_numbers(data: str) -> Numbers:
    def numbers(_: str, shape: tuple[int, ...], rng: Generator) -> np.ndarray:
        values = rng.integers(-9, 10, shape).astype(np.float64)
        special = [np.nan] if data == "edge-nan" else [np.inf, -np.inf, -np.inf]
        places = rng.random(shape) < (0.15 if data == "edge-nan" else 0.4)
        return np.where(places, rng.choice(special, shape), values)

    return numbers


def _switches(case: Chain, name: str, rng: Generator) -> np.ndarray:
    """Switches as a pooling could have recorded them: in every window any one of its elements."""
    axes = next(
        stage.step.axes for stage in case.stages if name in stage.reads and isinstance(stage.step, MaxUnpool | Take)
    )
    table, shape = pooling.windows(axes), case.tensor_shapes[name]
    keys = np.where(table >= 0, rng.random((math.prod(shape[:2]), *table.shape)), -1.0)
    chosen = np.take_along_axis(np.broadcast_to(table, keys.shape), keys.argmax(axis=2)[..., None], axis=2)
    return chosen.reshape(shape)
