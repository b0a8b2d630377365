"""Equations that hold between several runs of the same target, so that not even a wrong oracle could hide a mistake.

adjoint     < C x, y > = < x, C.T y >, and likewise for pooling and unpooling through the same switches, and for R and
            R.T of an adaptive deconvolutional network
linearity   f(x1 + x2) = f(x1) + f(x2)
gradient    the deconvnet equals the gradient of the network whose ReLU passes back what its rectifier lets through
            (Simonyan et al., arXiv:1312.6034, section 4; Springenberg et al., arXiv:1412.6806, section 3)

The numbers are whole and small, so that both sides are exact whatever the order of summation: they must be equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from conformance.dtypes import FORMATS
from conformance.errors import OracleRounded
from conformance.oracle import pooling
from conformance.oracle.chains import draw_chain, walk
from conformance.oracle.draws import generator
from conformance.oracle.operators import OPERATORS
from conformance.problem.base import Part, Problem, Tensors
from conformance.spec import AdaptiveDeconv, Case, Chain, Convolution, Deconvnet, MaxPool, MaxUnpool
from conformance.spec.deconvnet import transposed, unpooling

Outputs = Sequence[Mapping[str, np.ndarray]]
Sides = Callable[[Outputs], tuple[np.ndarray, np.ndarray]]
LIMITS = (1024, 256, 64, 16, 4, 2, 1)


@dataclass(frozen=True)
class PropertyProblem(Problem):
    """An equation between runs: ``sides`` makes both sides of it of what the ``runs`` gave."""

    runs: tuple[Part, ...]
    equation: str
    sides: Sides

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.runs

    @cached_property
    def vanishes(self) -> bool:
        """Whether nothing but zeros is right, as where no kernel reaches what is asked for."""
        return not any(_exact(case, tensors).any() for case, tensors in self.runs)


def _exact(case: Case, tensors: Tensors) -> np.ndarray:
    if isinstance(case, Convolution):
        return OPERATORS[case.op].output(case, tensors)
    assert isinstance(case, Chain)
    return walk(case.stages, tensors)["output"]


def pose_property(case: Case, data: str, seed: int = 0) -> PropertyProblem:
    """The parts to run and the equation between their results."""
    if data == "gradient":
        return _gradient(case, seed)
    rng = generator(case.id, data, seed)
    return _adjoint(case, rng, seed) if data == "adjoint" else _linearity(case, rng, seed)


def _gradient(case: Case, seed: int) -> PropertyProblem:
    assert isinstance(case, Deconvnet)
    tensors, _ = draw_chain(case, "exact", FORMATS[case.dtype], seed)
    parts: tuple[Part, ...] = ((case, tensors), (replace(case, op="deconvnet_gradient"), tensors))
    equation = "deconvnet = gradient with the rectified signal"
    return PropertyProblem(case, "gradient", tensors, parts, equation, _both_outputs)


def _both_outputs(outputs: Outputs) -> tuple[np.ndarray, np.ndarray]:
    return outputs[0]["output"], outputs[1]["output"]


def _adjoint(case: Case, rng: Any, seed: int) -> PropertyProblem:
    if isinstance(case, Convolution):
        parts = _convolution_pair(case, rng)
        equation = "<C x, y> = <x, C.T y>"
    elif isinstance(case, MaxPool | MaxUnpool):
        parts = _pooling_pair(case, rng)
        equation = "<P x, y> = <x, U y>"
    else:
        assert isinstance(case, AdaptiveDeconv)
        parts = _adaptive_pair(case, rng, seed)
        equation = "<R z, x> = <z, R.T x>"

    def sides(outputs: Outputs) -> tuple[np.ndarray, np.ndarray]:
        (_, first), (_, second) = parts
        return _inner(outputs[0]["output"], second["input"]), _inner(first["input"], outputs[1]["output"])

    return PropertyProblem(case, "adjoint", parts[0][1], parts, equation, sides)


def _inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The inner product; exact in whole numbers below 2**62, and in float64 for what is not whole."""
    wide = a.astype(np.float64), b.astype(np.float64)
    if all(np.isfinite(w).all() and (w == np.rint(w)).all() and np.abs(w).max(initial=0.0) < 2.0**40 for w in wide):
        whole = [w.astype(np.int64).astype(object).ravel() for w in wide]
        return np.array([sum(whole[0] * whole[1])], dtype=object)
    return np.array([float(np.sum(wide[0] * wide[1]))], dtype=object)


def _convolution_pair(case: Convolution, rng: Any) -> tuple[Part, Part]:
    """C as a convolution, C.T as the case says it."""
    forward = case if case.op == "conv" else _as_convolution(case)
    forward = replace(forward, bias=False, vectors=None)
    backward = transposed(forward) if case.op == "conv" else replace(case, bias=False, vectors=None)
    for limit in LIMITS:
        weight = _whole(rng, forward.weight_shape, min(limit, 4), case)
        x, y = _whole(rng, forward.large_shape, limit, case), _whole(rng, forward.small_shape, limit, case)
        first, second = {"input": x, "weight": weight}, {"input": y, "weight": weight}
        sums = [OPERATORS[c.op].magnitude(c, t) for c, t in ((forward, first), (backward, second))]
        if max(float(s.max(initial=0.0)) for s in sums) <= 2 ** FORMATS[case.dtype].precision:
            return (forward, first), (backward, second)
    raise OracleRounded(f"{case.id}: no whole numbers found whose sums {case.dtype} can hold")


def _as_convolution(case: Convolution) -> Convolution:
    """The convolution whose transpose a case is, padded explicitly."""
    channels = {"in_channels": case.large_channels, "out_channels": case.small_channels}
    plain = {"padding": tuple((a.begin, max(a.end, 0)) for a in case.axes), "readings": ()}
    spelled = dict.fromkeys(("output_padding", "output_size", "auto_pad", "output_shape"))
    return replace(case, id=f"{case.id}.T", op="conv", **channels, **plain, **spelled)  # type: ignore[arg-type]


def _pooling_pair(case: MaxPool | MaxUnpool, rng: Any) -> tuple[Part, Part]:
    """Max pooling of x, and unpooling of y through the switches that x has by definition."""
    pool = case if isinstance(case, MaxPool) else _as_pooling(case)
    undo = case if isinstance(case, MaxUnpool) else unpooling(pool, "sum")
    x = _whole(rng, pool.large_shape, 100, case)
    _, switches = pooling.max_pool(pool.axes, x.astype(np.float64), pool.magnitude)
    meeting = int(pooling.writers(switches, pool.large).max(initial=1.0))
    y = _whole(rng, pool.small_shape, min(8, max(2 ** FORMATS[case.dtype].precision // meeting, 1)), case)
    return (pool, {"input": x}), (undo, {"input": y, "indices": switches})


def _as_pooling(case: MaxUnpool) -> MaxPool:
    """The pooling that an unpooling undoes."""
    return MaxPool(
        id=f"{case.id}.T",
        op="max_pool",
        dtype=case.dtype,
        batch=case.batch,
        channels=case.channels,
        axes=case.axes,
        padding=case.padding,
        ceil_mode=any(size > inferred for size, inferred in zip(case.inferred, case.large, strict=True)),
    )


def _adaptive_pair(case: AdaptiveDeconv, rng: Any, seed: int) -> tuple[Part, Part]:
    up, down = replace(case, direction="project"), replace(case, direction="reconstruct")
    tensors, _ = draw_chain(down, "exact", FORMATS[case.dtype], seed)
    image = _whole(rng, up.tensor_shapes["input"], 2, case)
    return (down, tensors), (up, {**tensors, "input": image})


def _linearity(case: Case, rng: Any, seed: int) -> PropertyProblem:
    if isinstance(case, Convolution):
        (forward, first), (backward, second) = _convolution_pair(case, rng)
        plain, tensors = (forward, first) if case.op == "conv" else (backward, second)
    else:
        tensors, _ = draw_chain(case, "exact", FORMATS[case.dtype], seed)  # type: ignore[arg-type]
        plain = case
    addends = _addends(tensors["input"], rng)
    parts = tuple((plain, {**tensors, "input": x}) for x in addends)
    return PropertyProblem(case, "linearity", tensors, parts, "f(x1 + x2) = f(x1) + f(x2)", _sum_of_parts)


def _addends(x: np.ndarray, rng: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A sum and its two addends, whole numbers of opposite signs and none larger than x."""
    first = x.astype(np.float64)
    second = -np.trunc(first * rng.random(x.shape))
    return tuple(part.astype(x.dtype) for part in (first + second, first, second))  # type: ignore[return-value]


def _sum_of_parts(outputs: Outputs) -> tuple[np.ndarray, np.ndarray]:
    whole, first, second = (output["output"].astype(np.float64) for output in outputs)
    return whole, first + second


def _whole(rng: Any, shape: tuple[int, ...], limit: int, case: Case) -> np.ndarray:
    """Whole numbers up to ``limit``, either sign, none of them 0, no larger than the format can hold."""
    limit = min(limit, 2 ** FORMATS[case.dtype].precision)
    values: np.ndarray = rng.integers(1, limit + 1, shape) * rng.choice([-1.0, 1.0], shape)
    return values.astype(FORMATS[case.dtype].dtype)
