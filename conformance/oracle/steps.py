"""The steps of chains as the oracle computes them: one entry of `STEPS` per kind of step.

Each says what the step gives exactly, which roundings an honest implementation may make in it, and how an error in what
it is fed is passed on.  The last makes a bound for a whole chain: a convolution passes an error e on as |C| e, its
transpose as |C|.T e, the rectifier as at most e (it is 1-Lipschitz), unpooling puts it where it puts the value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from conformance.oracle import batch_norm, pooling
from conformance.oracle import response_norm as norm
from conformance.oracle.operators import OPERATORS
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

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True, slots=True)
class Roundings:
    """``products`` additions and multiplications round in an element, whose terms add up to ``magnitude`` in size.

    ``own_format`` says that partial results are stored in the tensor's dtype, as where an operator adds in place.
    ``stored`` counts what else is rounded to that dtype, the same in many elements, such as weights that were folded.
    """

    products: np.ndarray
    magnitude: np.ndarray
    own_format: bool = True
    stored: int = 0


class StepOracle(Protocol):
    """A kind of step.  Arrays are in canonical layout; results are float64, indices int64."""

    def exact(self, step: Any, *fed: np.ndarray) -> Arrays:
        """What the step gives."""
        ...

    def roundings(self, step: Any, *fed: np.ndarray) -> Roundings | None:
        """What may round in it; None where it only moves and picks numbers."""
        ...

    def passed_on(self, step: Any, error: np.ndarray, *fed: np.ndarray, squared: bool = False) -> np.ndarray:
        """The largest error of the result if the first tensor is off by ``error``, as far as the others are right.

        ``squared``: errors are variances of independent errors.
        """
        ...


class _Convolution:
    def exact(self, step: Convolution, *fed: np.ndarray) -> Arrays:
        return (OPERATORS[step.op].output(step, _named(fed)),)

    def roundings(self, step: Convolution, *fed: np.ndarray) -> Roundings:
        operator = OPERATORS[step.op]
        return Roundings(operator.products(step), operator.magnitude(step, _named(fed)), own_format=False)

    def passed_on(self, step: Convolution, error: np.ndarray, *fed: np.ndarray, squared: bool = False) -> np.ndarray:
        weight = fed[1].astype(np.float64)
        return OPERATORS[step.op].apply(step, error, np.square(weight) if squared else np.abs(weight))


def _named(fed: Arrays) -> dict[str, np.ndarray]:
    return dict(zip(("input", "weight", "bias"), fed, strict=False))


class _MovesNumbers:
    """Steps whose results are numbers that they were fed, in other places."""

    def roundings(self, step: Any, *fed: np.ndarray) -> Roundings | None:  # noqa: ARG002
        return None


class _MaxPool(_MovesNumbers):
    def exact(self, step: MaxPool, *fed: np.ndarray) -> Arrays:
        values, switches = pooling.max_pool(step.axes, fed[0], step.magnitude)
        return (values.astype(np.float64), switches) if step.tells_switches else (values.astype(np.float64),)

    def passed_on(self, step: MaxPool, error: np.ndarray, *fed: np.ndarray, squared: bool = False) -> np.ndarray:  # noqa: ARG002
        return pooling.max_pool(step.axes, error)[0]


class _MaxUnpool:
    def exact(self, step: MaxUnpool, *fed: np.ndarray) -> Arrays:
        values, switches = fed
        if step.overlap == "assign":
            return (pooling.unpool_assign(values, switches, step.large),)
        total = pooling.unpool(values, switches, step.large)
        if step.overlap == "mean":
            total /= np.maximum(pooling.writers(switches, step.large), 1.0)
        return (total,)

    def roundings(self, step: MaxUnpool, *fed: np.ndarray) -> Roundings | None:
        """``count - 1`` additions, and a division for the mean; where one value arrives nothing rounds."""
        values, switches = fed
        count = pooling.writers(switches, step.large)
        if step.overlap == "assign" or count.max(initial=0.0) <= 1:
            return None
        size = pooling.unpool(np.abs(values.astype(np.float64)), switches, step.large)
        if step.overlap == "mean":
            return Roundings(np.where(count > 1, count, 0.0), size / np.maximum(count, 1.0))
        return Roundings(np.maximum(count - 1, 0.0), size)

    def passed_on(self, step: MaxUnpool, error: np.ndarray, *fed: np.ndarray, squared: bool = False) -> np.ndarray:
        total = pooling.unpool(error, fed[1], step.large)
        if step.overlap == "mean":
            count = np.maximum(pooling.writers(fed[1], step.large), 1.0)
            total /= np.square(count) if squared else count
        return total


class _Rectify(_MovesNumbers):
    def exact(self, step: Rectify, *fed: np.ndarray) -> Arrays:
        signal = fed[0].astype(np.float64)
        if step.by != "mask":
            signal = np.maximum(signal, 0.0)
        return (signal if step.by == "signal" else np.where(fed[1] > 0, signal, 0.0),)

    def passed_on(self, step: Rectify, error: np.ndarray, *fed: np.ndarray, squared: bool = False) -> np.ndarray:
        """At most the error; nothing where the signal stays negative or the activation blocks it."""
        if step.by != "signal":
            error = np.where(fed[1] > 0, error, 0.0)
        return error if squared or step.by == "mask" else np.minimum(error, np.maximum(fed[0] + error, 0.0))


class _ResponseNorm:
    def exact(self, step: ResponseNorm, *fed: np.ndarray) -> Arrays:
        return (norm.response_norm(step, fed[0]),)

    def roundings(self, step: ResponseNorm, *fed: np.ndarray) -> Roundings:
        return Roundings(norm.roundings(step, fed[0], step.beta), np.abs(norm.response_norm(step, fed[0])))

    def passed_on(self, step: ResponseNorm, error: np.ndarray, *fed: np.ndarray, squared: bool = False) -> np.ndarray:
        largest = norm.change_magnitude(step, np.sqrt(error) if squared else error, fed[0])
        return np.square(largest) if squared else largest


class _ResponseNormGradient:
    def exact(self, step: ResponseNormGradient, *fed: np.ndarray) -> Arrays:
        return (norm.response_norm_gradient(step.norm, *fed),)

    def roundings(self, step: ResponseNormGradient, *fed: np.ndarray) -> Roundings:
        lost = norm.roundings(step.norm, fed[1], step.norm.beta + 1) + step.norm.size + 8
        widest = norm.window_sum(lost, step.norm.size)  # terms of neighbouring channels carry their own
        return Roundings(widest, norm.gradient_magnitude(step.norm, *fed))

    def passed_on(
        self, step: ResponseNormGradient, error: np.ndarray, *fed: np.ndarray, squared: bool = False
    ) -> np.ndarray:
        largest = norm.gradient_magnitude(step.norm, np.sqrt(error) if squared else error, fed[1])
        return np.square(largest) if squared else largest


class _Isolate(_MovesNumbers):
    def exact(self, step: Isolate, *fed: np.ndarray) -> Arrays:
        kept = isolated(step, fed[0])
        return (np.where(kept, 1.0 if step.seed == "one" else fed[0].astype(np.float64), 0.0),)

    def passed_on(self, step: Isolate, error: np.ndarray, *fed: np.ndarray, squared: bool = False) -> np.ndarray:  # noqa: ARG002
        return np.where(isolated(step, fed[0]), error, 0.0) if step.seed == "activation" else np.zeros(error.shape)


def isolated(step: Isolate, x: np.ndarray) -> np.ndarray:
    """Which elements are kept, as booleans of x's shape."""
    if step.keep == "none":
        return np.ones(x.shape, bool)
    kept = np.zeros(x.shape, bool)
    for image, maps in enumerate(x):
        channel = step.channel
        if channel is None:
            channel = int(maps.reshape(maps.shape[0], -1).max(axis=1).argmax())
        if step.keep == "channel":
            kept[image, channel] = True
        else:
            unit = step.unit if step.unit is not None else np.unravel_index(maps[channel].argmax(), maps.shape[1:])
            kept[(image, channel, *unit)] = True
    return kept


class _Reshape(_MovesNumbers):
    def exact(self, step: Reshape, *fed: np.ndarray) -> Arrays:
        return (fed[0].astype(np.float64).reshape(step.shape),)

    def passed_on(self, step: Reshape, error: np.ndarray, *fed: np.ndarray, squared: bool = False) -> np.ndarray:  # noqa: ARG002
        return error.reshape(step.shape)


class _Take(_MovesNumbers):
    def exact(self, step: Take, *fed: np.ndarray) -> Arrays:  # noqa: ARG002
        return (pooling.take(fed[0].astype(np.float64), fed[1]),)

    def passed_on(self, step: Take, error: np.ndarray, *fed: np.ndarray, squared: bool = False) -> np.ndarray:  # noqa: ARG002
        return pooling.take(error, fed[1])


class _Pad(_MovesNumbers):
    def exact(self, step: Pad, *fed: np.ndarray) -> Arrays:
        return (_padded(step, fed[0].astype(np.float64), step.value),)

    def passed_on(self, step: Pad, error: np.ndarray, *fed: np.ndarray, squared: bool = False) -> np.ndarray:  # noqa: ARG002
        return _padded(step, error, 0.0)


def _padded(step: Pad, x: np.ndarray, value: float) -> np.ndarray:
    kept = (slice(max(-b, 0), n - max(-e, 0)) for n, (b, e) in zip(x.shape[2:], step.ends, strict=True))
    added = [(max(begin, 0), max(end, 0)) for begin, end in step.ends]
    return np.pad(x[(slice(None), slice(None), *kept)], [(0, 0), (0, 0), *added], constant_values=value)


class _BatchNorm:
    def exact(self, step: BatchNorm, *fed: np.ndarray) -> Arrays:
        return (batch_norm.batch_norm(step, fed[0].astype(np.float64), *fed[1:]),)

    def roundings(self, step: BatchNorm, *fed: np.ndarray) -> Roundings:
        magnitude = batch_norm.magnitude(step, np.abs(fed[0].astype(np.float64)), *fed[1:])
        return Roundings(np.array(batch_norm.TERMS), magnitude, stored=batch_norm.RATE)

    def passed_on(self, step: BatchNorm, error: np.ndarray, *fed: np.ndarray, squared: bool = False) -> np.ndarray:
        return batch_norm.passed_on(step, error, *fed[1:], squared=squared)


class _NormedConvolution:
    def exact(self, step: NormedConvolution, *fed: np.ndarray) -> Arrays:
        filtered, parameters = _halves(step, fed)
        (z,) = _CONVOLUTION.exact(step.convolution, *filtered)
        return (batch_norm.batch_norm(step.norm, z, *parameters),)

    def roundings(self, step: NormedConvolution, *fed: np.ndarray) -> Roundings:
        filtered, parameters = _halves(step, fed)
        sums = _CONVOLUTION.roundings(step.convolution, *filtered)
        magnitude = batch_norm.magnitude(step.norm, sums.magnitude, *parameters)
        return Roundings(sums.products + 1, magnitude, own_format=False, stored=batch_norm.STORED)

    def passed_on(
        self, step: NormedConvolution, error: np.ndarray, *fed: np.ndarray, squared: bool = False
    ) -> np.ndarray:
        filtered, parameters = _halves(step, fed)
        passed = _CONVOLUTION.passed_on(step.convolution, error, *filtered, squared=squared)
        return batch_norm.passed_on(step.norm, passed, *parameters, squared=squared)


def _halves(step: NormedConvolution, fed: Arrays) -> tuple[Arrays, Arrays]:
    """What the convolution reads, and what the normalisation reads beside its result."""
    count = len(step.convolution.tensor_shapes)
    return fed[:count], fed[count:]


_CONVOLUTION = _Convolution()
STEPS: dict[type, StepOracle] = {
    Convolution: _CONVOLUTION,
    MaxPool: _MaxPool(),
    MaxUnpool: _MaxUnpool(),
    Rectify: _Rectify(),
    ResponseNorm: _ResponseNorm(),
    ResponseNormGradient: _ResponseNormGradient(),
    Isolate: _Isolate(),
    Reshape: _Reshape(),
    Take: _Take(),
    Pad: _Pad(),
    BatchNorm: _BatchNorm(),
    NormedConvolution: _NormedConvolution(),
}


def oracle_of(step: Step) -> StepOracle:
    """The oracle of a step."""
    return STEPS[type(step)]
