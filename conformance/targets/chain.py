"""Walking a chain with a framework's own operators.

A target that runs chains brings `Steps`: how it reads tensors, one method per kind of step, and how results come back.
What is handed from step to step is the framework's own (a tensor of PyTorch, the name of a value in an ONNX graph), so
that a chain stays inside the framework from its first step to its last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np

from conformance.spec import (
    BatchNorm,
    Case,
    Chain,
    Convolution,
    Isolate,
    MaxPool,
    MaxUnpool,
    Pad,
    Rectify,
    Reshape,
    ResponseNorm,
    ResponseNormGradient,
    Step,
    Take,
)
from conformance.targets.base import Function, OpTarget, Tensors

T = TypeVar("T")
CHAINS = ("max_pool", "max_unpool", "conv_block", "deconv_block", "deconvnet", "adaptive_deconv")


class Steps(Protocol[T]):
    """A framework's operators, one method per kind of step; what they mean is said in `conformance.spec.steps`.

    Inside, values may have the framework's own layout, and indices the framework's own convention: ``read`` makes them
    of canonical ones, and ``results`` canonical ones of them.  A method raises Unsupported for what the API cannot say.
    """

    def read(self, name: str, array: np.ndarray) -> T:
        """A tensor of the case: ``(N, C, *spatial)``, weights and indices as `conformance.spec` has them."""
        ...

    def results(self, values: Mapping[str, T]) -> Tensors:
        """What the stages gave, by name; indices as int64, flat in each plane."""
        ...

    def convolution(self, step: Convolution, x: T, weight: T, bias: T | None = None) -> T:
        """``conv`` or ``conv_transpose``, as ``step.op`` says."""
        ...

    def max_pool(self, step: MaxPool, x: T) -> tuple[T, ...]: ...

    def max_unpool(self, step: MaxUnpool, x: T, indices: T) -> T: ...

    def rectify(self, step: Rectify, x: T, activation: T | None = None) -> T: ...

    def response_norm(self, step: ResponseNorm, x: T) -> T: ...

    def response_norm_gradient(self, step: ResponseNormGradient, signal: T, x: T) -> T: ...

    def isolate(self, step: Isolate, x: T) -> T: ...

    def reshape(self, step: Reshape, x: T) -> T: ...

    def take(self, step: Take, x: T, indices: T) -> T: ...

    def pad(self, step: Pad, x: T) -> T: ...

    def batch_norm(self, step: BatchNorm, x: T, scale: T, shift: T, mean: T, variance: T) -> T: ...


class ChainTarget(OpTarget):
    """A target that walks chains by the `Steps` that it has for them; ops with a method of their own need none."""

    def outputs(self, case: Case, tensors: Tensors) -> Tensors:
        if case.op not in CHAINS or not isinstance(case, Chain) or hasattr(self, case.op):
            return super().outputs(case, tensors)
        return run_chain(case, tensors, self.steps(case), functools.partial(self.compiled, case))

    def steps(self, case: Chain) -> Steps[Any]:
        """The framework's operators for this case."""
        raise NotImplementedError


_METHODS: dict[type, str] = {
    Convolution: "convolution",
    MaxPool: "max_pool",
    MaxUnpool: "max_unpool",
    Rectify: "rectify",
    ResponseNorm: "response_norm",
    ResponseNormGradient: "response_norm_gradient",
    Isolate: "isolate",
    Reshape: "reshape",
    Take: "take",
    Pad: "pad",
    BatchNorm: "batch_norm",
}


def run_chain(
    case: Chain, tensors: Tensors, steps: Steps[T], compiled: Callable[[Function], Function] = lambda walk: walk
) -> Tensors:
    """Every stage of a chain, in order; what each gave, by name, as far as the chain has targets tell it."""

    def walk(read: Mapping[str, T]) -> dict[str, T]:
        values = follow(case, read, steps)
        return {name: values[name] for name in case.told}

    return steps.results(compiled(walk)({name: steps.read(name, array) for name, array in tensors.items()}))


def follow(case: Chain, values: Mapping[str, T], steps: Steps[T]) -> dict[str, T]:
    """What every stage makes of the framework's own values, by name, beside the values themselves."""
    known = dict(values)
    for stage in case.stages:
        result = _apply(steps, stage.step, [known[name] for name in stage.reads])
        known |= zip(stage.gives, result if isinstance(result, tuple) else (result,), strict=True)
    return known


def _apply(steps: Steps[T], step: Step, fed: list[T]) -> T | tuple[T, ...]:
    result: T | tuple[T, ...] = getattr(steps, _METHODS[type(step)])(step, *fed)
    return result
