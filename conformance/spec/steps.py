"""Chains: ops that are made of several steps, each of which can be judged by itself.

A chain is a list of stages; a stage is a step with a name and the names of the tensors that it reads and gives.  The
tensors of the case and what earlier stages gave go by name, the last stage gives ``output``.  Targets walk the list
with their framework's operators and the oracle walks it with its own, so both speak of the same stages.

Steps are a `Convolution` (``conv`` or ``conv_transpose``), a `MaxPool`, a `MaxUnpool`, and the small ones defined here.
Shapes are ``(N, C, *spatial)`` unless a line says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, get_args

import numpy as np

from conformance.arithmetic import Axis
from conformance.arithmetic.spellings import Pair
from conformance.dtypes import Format, round_once
from conformance.spec.case import Case, Convolution, Shape

if TYPE_CHECKING:
    from conformance.spec.pooling import MaxPool, MaxUnpool

Rectification = Literal["signal", "mask", "both", "none"]
Isolation = Literal["unit", "channel", "none"]
Seed = Literal["activation", "one"]
Overlap = Literal["sum", "assign", "mean"]
NormDown = Literal["identity", "gradient", "forward"]
BiasDown = Literal["none", "below"]
Direction = Literal["reconstruct", "project"]
Switches = Literal["given", "pooled"]

RECTIFICATIONS: tuple[str, ...] = get_args(Rectification)
ISOLATIONS: tuple[str, ...] = get_args(Isolation)
SEEDS: tuple[str, ...] = get_args(Seed)
OVERLAPS: tuple[str, ...] = get_args(Overlap)
NORM_DOWNS: tuple[str, ...] = get_args(NormDown)
BIAS_DOWNS: tuple[str, ...] = get_args(BiasDown)
DIRECTIONS: tuple[str, ...] = get_args(Direction)
SWITCHES: tuple[str, ...] = get_args(Switches)


@dataclass(frozen=True, slots=True)
class Rectify:
    """``signal``: ``max(r, 0)`` of what is fed, which is the deconvnet's rectifier and the network's ReLU.

    The others read a second tensor, the activation ``a`` that the network's ReLU gave: ``mask`` is ``r`` where
    ``a > 0`` (the gradient), ``both`` is ``max(r, 0)`` where ``a > 0`` (guided backpropagation, arXiv:1412.6806).
    """

    by: Literal["signal", "mask", "both"] = "signal"


@dataclass(frozen=True, slots=True)
class ResponseNorm:
    """``x / (k + alpha / size * sum of x**2 over the size nearest channels)**beta`` (Krizhevsky et al. 2012, 3.3).

    ``size`` is odd.  ``alpha`` is divided by ``size``, as PyTorch and ONNX define it; TensorFlow's is not.
    """

    size: int
    alpha: float
    beta: float
    k: float


@dataclass(frozen=True, slots=True)
class ResponseNormGradient:
    """The gradient of a `ResponseNorm`: reads the signal, and what the normalisation was fed on the way up."""

    norm: ResponseNorm


@dataclass(frozen=True, slots=True)
class Isolate:
    """Keep one activation of each image (``unit``), one whole channel (``channel``) or all (``none``); zero the rest.

    ``channel`` None is the channel of the strongest activation, ``unit`` None the strongest position of the channel;
    of equal ones the first in C order.  ``seed`` says what is kept: the activation's value, or 1 in its place.
    """

    keep: Isolation = "unit"
    seed: Seed = "activation"
    channel: int | None = None
    unit: Shape | None = None


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same numbers in another shape (the whole shape, batch included), both in C order."""

    shape: Shape


@dataclass(frozen=True, slots=True)
class Take:
    """Pooling with switches that are given: the values that stand where the switches say.

    Reads values ``(N, C, *large)`` and indices ``(N, C, *small)``, flat within each plane; gives ``(N, C, *small)``.
    ``axes`` are those of the pooling.
    """

    axes: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Pad:
    """Rows of ``value`` added at ``(begin, end)`` of each spatial axis; where negative, rows are dropped."""

    ends: tuple[Pair, ...]
    value: float = 0.0

    def size(self, size: Shape) -> Shape:
        """The spatial size of what it makes of that size."""
        return tuple(n + begin + end for n, (begin, end) in zip(size, self.ends, strict=True))


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """``scale (x - mean) / sqrt(variance + epsilon) + shift`` per channel, as in inference (arXiv:1502.03167).

    Reads ``x``, then ``scale``, ``shift``, ``mean`` and ``variance``, one number per channel each.  ``epsilon`` is a
    number that float32 holds, as ONNX's attribute does, so that it is the same one in every framework and format.
    """

    epsilon: float

    def roots(self, format: Format) -> tuple[int, ...]:
        """Each ``k`` for which the format holds a variance > 0 with ``variance + epsilon = 4**k`` exactly."""
        return tuple(k for k in range(-10, 4) if _holds(Fraction(4) ** k - Fraction(self.epsilon), format))


@dataclass(frozen=True, slots=True)
class NormedConvolution:
    """A convolution and the normalisation of what it gives, as the one step that they may be folded into.

    Reads what both read, without what goes from one to the other.  No target is asked for it.
    """

    convolution: Convolution
    norm: BatchNorm


def _holds(number: Fraction, format: Format) -> bool:
    """Whether it is a positive number of the format."""
    return number > 0 and Fraction(float(round_once(np.array(float(number)), format))) == number


Step: TypeAlias = (
    "Convolution | MaxPool | MaxUnpool | Rectify | ResponseNorm | ResponseNormGradient | Isolate | Reshape | Take"
    " | Pad | BatchNorm | NormedConvolution"
)


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of a chain: its name in reports, and the names of the tensors that it reads and gives."""

    name: str
    step: Step
    reads: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain(Case):
    """An op that is a list of stages.  What the last one gives is the result.

    ``tells_stages`` says whether targets return what every stage gives.  Where they do not, a runtime may compute
    several stages in one, which it cannot where someone looks at what is between them.
    """

    tells_stages: ClassVar[bool] = True

    @property
    def stages(self) -> tuple[Stage, ...]:
        raise NotImplementedError

    @property
    def merged(self) -> tuple[Stage, ...]:
        """The stages, those as one whose errors cannot be told apart in the result."""
        return self.stages

    @property
    def told(self) -> tuple[str, ...]:
        """The names of what a target returns."""
        if not self.tells_stages:
            return tuple(self.result_shapes)
        return tuple(name for stage in self.stages for name in stage.gives)

    @property
    def products(self) -> int:
        return sum(step.products for step in self.steps if isinstance(step, Case))

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(stage.step for stage in self.stages)

    @property
    def elements(self) -> int:
        """Tensors of the case, and what the larger steps read and give."""
        inside = sum(
            math.prod(shape)
            for step in self.steps
            if isinstance(step, Case)
            for name, shape in (step.tensor_shapes | step.result_shapes).items()
            if name not in ("weight", "bias")
        )
        return inside + sum(map(math.prod, self.tensor_shapes.values()))


def index_limit(case: Case, name: str) -> int:
    """Number of places that the switches of that name may point to; 0 where nothing reads them."""
    for stage in case.stages if isinstance(case, Chain) else ():
        axes = getattr(stage.step, "axes", None)
        if name in stage.reads[1:] and axes is not None and not isinstance(stage.step, Convolution):
            return math.prod(axis.large for axis in axes)
    return 0
