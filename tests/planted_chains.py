"""Chains written from the definition in plain NumPy, and the mistakes that can be planted in them.

``Planted()`` computes what it should, stage by stage; ``Planted(mistake="unpooled-to-the-nearest")`` makes one mistake
of `MISTAKES` in every stage that it concerns.  It returns what every stage gave, or with ``opaque=True`` only the
result.  A worker makes it from this very file, because it defines ``target``.  It shares no code with the oracle: there
a window is a row of a table, here every tap of a window is compared in its turn.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from conformance.arithmetic import Axis
from conformance.spec import (
    BatchNorm,
    Case,
    Chain,
    Convolution,
    Deconvnet,
    Isolate,
    MaxPool,
    MaxUnpool,
    Pad,
    Rectify,
    Reshape,
    ResponseNorm,
    ResponseNormGradient,
    Stage,
    Step,
    Take,
    is_index,
)

Axes = Sequence[Axis]
Arrays = tuple[np.ndarray, ...]


# ---- The definition: one function per kind of step, on arrays in the dtype in which sums are made ----


def taps(axes: Axes) -> Iterator[tuple[tuple[int, ...], Arrays, Arrays]]:
    """Each tap, and per axis the large positions that it reaches and whether they exist, one for each small one."""
    for tap in np.ndindex(*(axis.kernel for axis in axes)):
        reached = [np.arange(a.small) * a.stride - a.begin + t * a.dilation for a, t in zip(axes, tap, strict=True)]
        yield tap, tuple(reached), tuple((j >= 0) & (j < a.large) for j, a in zip(reached, axes, strict=True))


@functools.lru_cache(maxsize=256)
def joins(axes: tuple[Axis, ...]) -> tuple[tuple[tuple[int, ...], tuple[Any, ...], tuple[Any, ...]], ...]:
    """Each tap, and as indices of the spatial axes the large and the small positions that it joins."""
    return tuple(
        (
            tap,
            (..., *np.ix_(*(j[e] for j, e in zip(reached, exist, strict=True)))),
            (..., *np.ix_(*map(np.flatnonzero, exist))),
        )
        for tap, reached, exist in taps(axes)
    )


def flat(axes: Axes, positions: Arrays) -> np.ndarray:
    """Flat positions in the large plane, one for each combination."""
    result = np.zeros((), np.int64)
    for axis, position in zip(axes, positions, strict=True):
        result = result[..., None] * axis.large + position
    return result


def every(conditions: Arrays) -> np.ndarray:
    result = np.ones((), bool)
    for condition in conditions:
        result = result[..., None] & condition
    return result


def planes(x: np.ndarray) -> np.ndarray:
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))


def convolution(step: Convolution, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """y[k, m] = sum of x[c, j] w[k, c, t], or transposed x[c, j] = sum of y[k, m] w[k, c, t], and the bias."""
    n, g = x.shape[0], step.groups
    fed = x.reshape(n, g, x.shape[1] // g, *x.shape[2:])
    kernel = weight.reshape(g, -1, *weight.shape[1:])
    to = step.large if step.transposed else step.small
    result = np.zeros((n, g, step.out_channels // g, *to), x.dtype)
    for tap, large, small in joins(step.axes):
        w = kernel[(..., *tap)]
        read, written = (small, large) if step.transposed else (large, small)
        values = fed[read]
        summed = (w.swapaxes(1, 2) if step.transposed else w) @ values.reshape(
            *values.shape[:3], math.prod(values.shape[3:])
        )
        result[written] += summed.reshape(*summed.shape[:3], *values.shape[3:])
    result = result.reshape(n, step.out_channels, *to)
    return result if bias is None else result + bias.reshape(-1, *[1] * len(to))


def max_pool(step: MaxPool, x: np.ndarray, larger: Callable[..., np.ndarray] | None = None) -> Arrays:
    """The maximum of each window and where it stands; the first of equal ones, and a NaN before any number.

    ``larger(new, best)`` says whether an element takes the place of the best one so far.
    """
    values = planes(x)
    keys = np.abs(values) if step.magnitude else values
    best = np.zeros((*x.shape[:2], math.prod(step.small)), x.dtype)
    indices = np.full(best.shape, -1)
    for _, reached, exist in taps(step.axes):
        inside = every(exist).ravel()
        at = np.where(inside, flat(step.axes, reached).ravel(), 0)
        new = keys[..., at]
        wins = inside & ((indices < 0) | (larger or is_larger)(new, best))
        best, indices = np.where(wins, new, best), np.where(wins, at, indices)
    small = (*x.shape[:2], *step.small)
    return np.take_along_axis(values, np.maximum(indices, 0), axis=2).reshape(small), indices.reshape(small)


def is_larger(new: np.ndarray, best: np.ndarray) -> np.ndarray:
    return (new > best) | (np.isnan(new) & ~np.isnan(best))


def max_unpool(step: MaxUnpool, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Every value back to its place; what meets there is added, averaged, or the last in C order stays."""
    return scattered(x, indices, step.large, step.overlap)


def scattered(x: np.ndarray, indices: np.ndarray, large: Sequence[int], overlap: str) -> np.ndarray:
    result = np.zeros((*x.shape[:2], math.prod(large)), x.dtype)
    where = (*np.ogrid[: x.shape[0], : x.shape[1]], slice(None))
    at = (*np.broadcast_arrays(where[0][..., None], where[1][..., None], planes(indices)),)
    if overlap == "assign":
        result[at] = planes(x)
    elif overlap == "largest":
        result[at] = -np.inf
        np.maximum.at(result, at, planes(x))
    else:
        np.add.at(result, at, planes(x))
    if overlap == "mean":
        count = np.zeros(result.shape, x.dtype)
        np.add.at(count, at, np.ones((), x.dtype))
        result = np.where(count > 1, result / np.maximum(count, 1), result)
    return result.reshape(*x.shape[:2], *large)


def rectify(step: Rectify, x: np.ndarray, activation: np.ndarray | None = None) -> np.ndarray:
    signal = x if step.by == "mask" else np.maximum(x, 0)
    return signal if activation is None else np.where(activation > 0, signal, np.zeros((), x.dtype))


def over_channels(norm: ResponseNorm, x: np.ndarray) -> np.ndarray:
    """Sum over the nearest channels."""
    reach, channels = norm.size // 2, x.shape[1]
    return np.stack([x[:, max(c - reach, 0) : c + reach + 1].sum(axis=1) for c in range(channels)], axis=1)


def response_norm(step: ResponseNorm, x: np.ndarray) -> np.ndarray:
    s = step.k + step.alpha / step.size * over_channels(step, x * x)
    return x * s ** x.dtype.type(-step.beta)


def response_norm_gradient(step: ResponseNormGradient, signal: np.ndarray, x: np.ndarray) -> np.ndarray:
    norm = step.norm
    s = norm.k + norm.alpha / norm.size * over_channels(norm, x * x)
    mixed = over_channels(norm, signal * x * s ** x.dtype.type(-norm.beta - 1))
    return signal * s ** x.dtype.type(-norm.beta) - x.dtype.type(2 * norm.alpha * norm.beta / norm.size) * x * mixed


def isolate(
    step: Isolate, x: np.ndarray, ranks: Callable[[np.ndarray], np.ndarray] = lambda maps: maps.max(axis=1)
) -> np.ndarray:
    """Zero all but one element, one channel or nothing of each image; ``ranks`` says how strong each map is."""
    kept = np.zeros(x.shape, bool)
    for image, maps in enumerate(x):
        channel = int(ranks(planes(maps[None])[0]).argmax()) if step.channel is None else step.channel
        if step.keep == "none":
            kept[image] = True
        elif step.keep == "channel":
            kept[image, channel] = True
        else:
            kept[(image, channel, *(step.unit or np.unravel_index(maps[channel].argmax(), maps.shape[1:])))] = True
    return np.where(kept, x if step.seed == "activation" else np.ones((), x.dtype), np.zeros((), x.dtype))


def reshape(step: Reshape, x: np.ndarray) -> np.ndarray:
    return x.reshape(step.shape)


def take(_: Take, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    return np.take_along_axis(planes(x), planes(indices), axis=2).reshape(indices.shape)


def pad(step: Pad, x: np.ndarray) -> np.ndarray:
    """Every place of the result asks for the element that stands there, if there is one."""
    for axis, (begin, end) in enumerate(step.ends, 2):
        size = x.shape[axis]
        at = np.arange(-begin, size + end)
        there = ((at >= 0) & (at < size)).reshape(-1, *[1] * (x.ndim - axis - 1))
        x = np.where(there, np.take(x, np.clip(at, 0, size - 1), axis), x.dtype.type(step.value))
    return x


def batch_norm(
    step: BatchNorm, z: np.ndarray, scale: np.ndarray, shift: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    deviation = np.sqrt(variance + z.dtype.type(step.epsilon))
    return per_channel(z, scale) * ((z - per_channel(z, mean)) / per_channel(z, deviation)) + per_channel(z, shift)


def per_channel(z: np.ndarray, values: np.ndarray) -> np.ndarray:
    """One number per channel so that it broadcasts against z."""
    return values.reshape(-1, *[1] * (z.ndim - 2))


DEFINITION: dict[type, Callable[..., Any]] = {
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
}


def defined(step: Step, *fed: np.ndarray) -> Any:
    """What a step gives by definition."""
    return DEFINITION[type(step)](step, *fed)


# ---- The walk ----


@dataclass
class Walk:
    """A case on its way: tensors and what the stages so far gave, in the case's dtype."""

    case: Chain
    dtype: np.dtype[Any]
    values: dict[str, np.ndarray]
    given: list[str] = field(default_factory=list)

    def wide(self, name: str) -> np.ndarray:
        """A value in the dtype in which sums are made: float32 for 16 bits."""
        value = self.values[name]
        return value if is_index(name) or self.dtype == np.float64 else value.astype(np.float32)

    def keep(self, stage: Stage, result: Any) -> None:
        for name, value in zip(stage.gives, result if isinstance(result, tuple) else (result,), strict=True):
            self.values[name] = value.astype(np.int64 if is_index(name) else self.dtype)
            self.given.append(name)

    def layer(self, name: str) -> int:
        """The number of the layer that a stage of the way down undoes; -1 where it undoes none."""
        names = [layer.name for layer in self.layers]
        return names.index(name[5:]) if name.startswith("down.") else -1

    @property
    def layers(self) -> tuple[Any, ...]:
        return self.case.layers if isinstance(self.case, Deconvnet) else ()

    def passed_over(self, stage: Stage) -> Iterator[tuple[ResponseNorm, np.ndarray]]:
        """The normalisations between the stage before and this one that the way down leaves out, with their inputs."""
        names = ["input", *(layer.name for layer in self.layers)]
        for n in range(self.layer(stage.name) + 1, len(self.layers)):
            step = self.layers[n].step
            if self.layer(stage.name) < 0 or not isinstance(step, ResponseNorm) or self.case.lrn_down != "identity":  # type: ignore[attr-defined]
                return
            yield step, self.wide(names[n])


# ---- Mistakes ----

Wrong = Callable[[Walk, Stage, list[np.ndarray]], Any]
POOLING = ("max_pool", "max_unpool")
UNPOOLING = ("max_unpool", "deconv_block", "deconvnet", "adaptive_deconv")
DECONVNET = ("deconvnet",)


@dataclass(frozen=True)
class Mistake:
    """What goes wrong, under its number in the list of known mistakes, in which ops, and what has to come of it.

    ``wrong`` gives what a stage gives instead, or None where the mistake does not concern it.  ``stage`` is a pattern:
    the stage that has to be named as the first wrong one.  ``verdicts`` are those that it may get; the first has to
    come.
    """

    number: str
    ops: tuple[str, ...]
    stage: str
    verdicts: tuple[str, ...]
    wrong: Wrong


MISTAKES: dict[str, Mistake] = {}


def planted(number: str, ops: Sequence[str], stage: str, *verdicts: str) -> Callable[[Wrong], Wrong]:
    """Put a function into `MISTAKES` under its name, dashes for underscores."""

    def keep(function: Wrong) -> Wrong:
        name = function.__name__.replace("_", "-")
        MISTAKES[name] = Mistake(number, tuple(ops), stage, verdicts or ("deviates",), function)
        return function

    return keep


def activation_of(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> np.ndarray | None:
    """What the network's ReLU gave where this stage undoes it."""
    if len(fed) > 1:
        return fed[1]
    layer = walk.layer(stage.name)
    return None if layer < 0 else walk.wide(walk.layers[layer].name)


def comes_down(walk: Walk, stage: Stage) -> bool:
    """Whether a stage undoes something."""
    return walk.layer(stage.name) >= 0 or not isinstance(walk.case, Deconvnet)


# The rectifier on the way down

RECTIFIER = r"down\.relu\d*|rectify"
RECTIFYING = ("deconvnet", "deconv_block")


def undoes_relu(walk: Walk, stage: Stage) -> bool:
    return isinstance(stage.step, Rectify) and comes_down(walk, stage)


@planted("M20", RECTIFYING, RECTIFIER)
def masked_by_the_activation(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """The plain gradient."""
    activation = activation_of(walk, stage, fed) if undoes_relu(walk, stage) else None
    return None if activation is None else np.where(activation > 0, fed[0], np.zeros((), fed[0].dtype))


@planted("M21", DECONVNET, RECTIFIER)
def guided(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    activation = activation_of(walk, stage, fed) if undoes_relu(walk, stage) else None
    return None if activation is None else rectify(Rectify("both"), fed[0], activation)


@planted("M22", RECTIFYING, RECTIFIER)
def not_rectified(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    return fed[0] if undoes_relu(walk, stage) else None


@planted("M22b", RECTIFYING, RECTIFIER)
def absolute_values_for_the_rectifier(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    return np.abs(fed[0]) if undoes_relu(walk, stage) else None


@planted("M23", RECTIFYING, RECTIFIER)
def multiplied_by_the_activation(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    activation = activation_of(walk, stage, fed) if undoes_relu(walk, stage) else None
    return None if activation is None else np.maximum(fed[0], 0) * activation


# Unpooling

UNPOOL = r"down\.pool\d*|unpool|layer\d\.unpool"


def with_overlap(stage: Stage, fed: list[np.ndarray], overlap: str) -> Any:
    if not isinstance(stage.step, MaxUnpool) or stage.step.overlap == overlap:
        return None
    return scattered(fed[0], fed[1], stage.step.large, overlap)


@planted("M24", UNPOOLING, UNPOOL)
def overlaps_assigned(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    return with_overlap(stage, fed, "assign")


@planted("M59", UNPOOLING, UNPOOL)
def overlaps_averaged(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    return with_overlap(stage, fed, "mean")


@planted("M59", UNPOOLING, UNPOOL)
def overlaps_added(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    return with_overlap(stage, fed, "sum")


@planted("M59", UNPOOLING, UNPOOL)
def largest_of_overlaps(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    return with_overlap(stage, fed, "largest")


@planted("M26", UNPOOLING, UNPOOL)
def unpooled_to_the_nearest(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """No switches: every value is repeated."""
    if not isinstance(stage.step, MaxUnpool):
        return None
    nearest = (np.arange(a.large) * a.small // a.large for a in stage.step.axes)
    return fed[0][(..., *np.ix_(*nearest))]


@planted("M26b", UNPOOLING, UNPOOL)
def unpooled_to_the_corner(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """No switches: every value to the first place of its window."""
    step = stage.step
    if not isinstance(step, MaxUnpool):
        return None
    first = (np.clip(np.arange(a.small) * a.stride - a.begin, 0, a.large - 1) for a in step.axes)
    indices = np.broadcast_to(flat(step.axes, tuple(first)), fed[0].shape)
    return scattered(fed[0], indices, step.large, step.overlap)


@planted("M31", DECONVNET, UNPOOL)
def unpooled_to_all_equal_maxima(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """No switches: every element that equals the maximum of its window."""
    step, layer = stage.step, walk.layer(stage.name)
    if not isinstance(step, MaxUnpool) or layer < 0:
        return None
    x = walk.wide(walk.layers[layer - 1].name)
    pooled = walk.wide(walk.layers[layer].name)
    result = np.zeros(x.shape, x.dtype)
    for _, large, small in joins(step.axes):
        result[large] += np.where(x[large] == pooled[small], fed[0][small], np.zeros((), x.dtype))
    return result


@planted("M30", UNPOOLING, UNPOOL)
def unpooled_to_the_size_of_the_windows(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """Indices count in the plane that follows from the windows, which is then padded or cropped."""
    step = stage.step
    if not isinstance(step, MaxUnpool):
        return None
    pads = step.padding if isinstance(step.padding, tuple) else ((0, 0),) * step.rank
    size = tuple((a.small - 1) * a.stride + a.extent - sum(p) for a, p in zip(step.axes, pads, strict=True))
    if size == step.large:
        return None
    inside = fed[1] < math.prod(size)  # the others raise an error in PyTorch
    values = np.where(inside, fed[0], np.zeros((), fed[0].dtype))
    plane = scattered(values, np.where(inside, fed[1], 0), size, "sum")
    result = np.zeros((*plane.shape[:2], *step.large), plane.dtype)
    common = (..., *(slice(min(a, b)) for a, b in zip(size, step.large, strict=True)))
    result[common] = plane[common]
    return result


@planted("M27", UNPOOLING, UNPOOL)
def indices_read_through_all_planes(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """As ONNX counts, so that every value lands in the first plane."""
    if not isinstance(stage.step, MaxUnpool) or fed[0].shape[0] * fed[0].shape[1] < 2:
        return None
    joined = [a.reshape(1, 1, -1) for a in fed]
    plane = scattered(joined[0], joined[1], stage.step.large, stage.step.overlap)
    result = np.zeros((*fed[0].shape[:2], *stage.step.large), plane.dtype)
    result[:1, :1] = plane
    return result


@planted("M28", UNPOOLING, UNPOOL)
def indices_read_as_channels_last(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """As TensorFlow counts, positions before channels, each image for itself."""
    if not isinstance(stage.step, MaxUnpool) or fed[0].shape[1] < 2:
        return None
    n, channels = fed[0].shape[:2]
    joined = [a.reshape(n, 1, -1) for a in fed]
    image = scattered(joined[0], joined[1], (math.prod(stage.step.large), channels), stage.step.overlap)
    return image[:, 0].swapaxes(1, 2).reshape(n, channels, *stage.step.large)


@planted("M29", UNPOOLING, UNPOOL)
def all_images_unpooled_into_the_first(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    if not isinstance(stage.step, MaxUnpool) or fed[0].shape[0] < 2:
        return None
    joined = [a.swapaxes(0, 1).reshape(1, a.shape[1], -1) for a in fed]
    result = np.zeros((*fed[0].shape[:2], *stage.step.large), fed[0].dtype)
    result[:1] = scattered(joined[0], joined[1], stage.step.large, stage.step.overlap)
    return result


# Pooling

POOL = r"pool\d*|layer\d\.pool"


@planted("M27", ("max_pool",), "")
def indices_counted_through_all_planes(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    if not isinstance(stage.step, MaxPool):
        return None
    values, indices = defined(stage.step, fed[0])
    plane = np.arange(math.prod(indices.shape[:2])).reshape(*indices.shape[:2], *[1] * stage.step.rank)
    return values, indices + plane * math.prod(stage.step.large)


@planted("M28", ("max_pool",), "")
def indices_counted_channels_last(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    if not isinstance(stage.step, MaxPool):
        return None
    values, indices = defined(stage.step, fed[0])
    channels = indices.shape[1]
    return values, indices * channels + np.arange(channels).reshape(1, -1, *[1] * stage.step.rank)


@planted("M32", ("max_pool", "deconvnet"), POOL)
def pooled_with_zeros_around(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """Where nothing of a window is above zero its padding wins; the switch is moved back into the plane."""
    step = stage.step
    if not isinstance(step, MaxPool) or step.magnitude:
        return None
    values, indices = defined(step, fed[0])
    for _, reached, exist in taps(step.axes):
        wins = ~every(exist) & (values < 0)
        at = flat(step.axes, tuple(np.clip(j, 0, a.large - 1) for j, a in zip(reached, step.axes, strict=True)))
        values, indices = np.where(wins, np.zeros((), values.dtype), values), np.where(wins, at, indices)
    return values, indices


@planted("M60", ("max_pool",), "")
def not_a_number_kept_only_where_it_comes_first(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    return max_pool(stage.step, fed[0], np.greater) if isinstance(stage.step, MaxPool) else None


def windows_of_another_number(step: MaxPool, x: np.ndarray, count: Callable[[Axis, tuple[int, int]], int]) -> Any:
    if isinstance(step.padding, str):
        return None
    axes = tuple(replace(a, small=count(a, pair)) for a, pair in zip(step.axes, step.padding, strict=True))
    return None if axes == step.axes or min(a.small for a in axes) < 1 else defined(replace(step, axes=axes), x)


@planted("M61", ("max_pool",), "", "wrong_shape")
def windows_rounded_up_for_down(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """Caffe for PyTorch."""

    def up(axis: Axis, pair: tuple[int, int]) -> int:
        count = -((axis.large + sum(pair) - axis.extent) // -axis.stride) + 1
        return count - ((count - 1) * axis.stride >= axis.large + pair[0])

    step = stage.step
    return windows_of_another_number(step, fed[0], up) if isinstance(step, MaxPool) and not step.ceil_mode else None


@planted("M61", ("max_pool",), "", "wrong_shape")
def windows_rounded_down_for_up(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    def down(axis: Axis, pair: tuple[int, int]) -> int:
        return (axis.large + sum(pair) - axis.extent) // axis.stride + 1

    step = stage.step
    return windows_of_another_number(step, fed[0], down) if isinstance(step, MaxPool) and step.ceil_mode else None


@planted("M61", ("max_pool",), "", "wrong_shape")
def window_behind_the_end_kept(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    def up(axis: Axis, pair: tuple[int, int]) -> int:
        return -((axis.large + sum(pair) - axis.extent) // -axis.stride) + 1

    step = stage.step
    return windows_of_another_number(step, fed[0], up) if isinstance(step, MaxPool) and step.ceil_mode else None


@planted("", ("max_pool", "adaptive_deconv"), POOL)
def signed_maxima_for_the_largest_magnitudes(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    if not isinstance(stage.step, MaxPool) or not stage.step.magnitude:
        return None
    return defined(replace(stage.step, magnitude=False), fed[0])


@planted("", ("max_pool", "adaptive_deconv"), POOL)
def magnitudes_without_their_sign(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    if not isinstance(stage.step, MaxPool) or not stage.step.magnitude:
        return None
    return defined(stage.step, np.abs(fed[0]))


# Filters on the way down

FILTER = r"down\.conv\d*|filter|layer\d\.filter"


def transposes(walk: Walk, stage: Stage) -> bool:
    return isinstance(stage.step, Convolution) and stage.step.transposed


@planted("M01d", ("deconvnet", "deconv_block", "adaptive_deconv"), FILTER)
def kernel_not_turned(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    if not transposes(walk, stage):
        return None
    return defined(stage.step, fed[0], np.flip(fed[1], tuple(range(2, fed[1].ndim))), *fed[2:])


@planted("M19d", DECONVNET, FILTER, "deviates", "reduced")  # small beside large sums a bias looks like rounding
def bias_of_the_layer_below_added(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    if not transposes(walk, stage) or len(fed) > 2:
        return None
    below = [x.name for x in walk.layers[: walk.layer(stage.name)] if isinstance(x.step, Convolution) and x.step.bias]
    return defined(stage.step, *fed, walk.wide(f"{below[-1]}.bias")) if below else None


@planted("M40", DECONVNET, FILTER, "deviates", "reduced")
def initial_bias_left(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """What a transposed convolution is made with, if nobody sets it to zero."""
    if not transposes(walk, stage) or len(fed) > 2:
        return None
    assert isinstance(stage.step, Convolution)
    bias = 0.1 * np.cos(np.arange(stage.step.out_channels) + 1)
    return defined(stage.step, *fed, bias.astype(fed[0].dtype))


@planted("", ("adaptive_deconv",), FILTER)
def filters_of_their_own_upwards(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """F.T with other weights than F: the two are not tied."""
    if not isinstance(stage.step, Convolution) or stage.step.transposed:
        return None
    return defined(stage.step, fed[0], np.roll(fed[1], 1, axis=0))


@planted("", ("adaptive_deconv",), r"layer\d\.take")
def switches_found_anew_upwards(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    if not isinstance(stage.step, Take):
        return None
    layer = next(x for x in walk.case.layers if stage.name.startswith(f"{x.name}."))  # type: ignore[attr-defined]
    return defined(layer.pool, fed[0])[0]


# Contrast normalisation on the way down

NORM = r"down\.(norm|pool|relu|conv)\d*"


@planted("M38", DECONVNET, NORM)
def normalised_once_more(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    step = stage.step
    if isinstance(step, ResponseNormGradient):
        return response_norm(step.norm, fed[0])
    signal = fed[0]
    for norm, _ in reversed(list(walk.passed_over(stage))):
        signal = response_norm(norm, signal)
    return None if signal is fed[0] else defined(step, signal, *fed[1:])


@planted("M38b", DECONVNET, NORM)
def normalisation_differentiated(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    step, layer = stage.step, walk.layer(stage.name)
    if isinstance(step, ResponseNorm) and layer >= 0:
        x = walk.wide(walk.layers[layer - 1].name)
        return response_norm_gradient(ResponseNormGradient(step), fed[0], x)
    signal = fed[0]
    for norm, x in reversed(list(walk.passed_over(stage))):
        signal = response_norm_gradient(ResponseNormGradient(norm), signal, x)
    return None if signal is fed[0] else defined(step, signal, *fed[1:])


@planted("M38", DECONVNET, r"down\.norm\d*")
def normalisation_passed_over(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    if walk.layer(stage.name) < 0 or not isinstance(stage.step, ResponseNorm | ResponseNormGradient):
        return None
    return fed[0]


# What is kept

SEED = r"seed"


def kept(stage: Stage, x: np.ndarray, **changes: Any) -> Any:
    step = stage.step
    if not isinstance(step, Isolate) or all(getattr(step, key) == value for key, value in changes.items()):
        return None
    return isolate(replace(step, **changes), x)


@planted("SEED", DECONVNET, SEED)
def whole_channel_kept(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    return kept(stage, fed[0], keep="channel") if getattr(stage.step, "keep", "") == "unit" else None


@planted("SEED", DECONVNET, SEED)
def all_maps_kept(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    return kept(stage, fed[0], keep="none")


@planted("SEED", DECONVNET, SEED)
def one_in_place_of_the_activation(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    return kept(stage, fed[0], seed="one")


@planted("SEED", DECONVNET, SEED)
def channels_ranked_by_their_sums(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    return isolate(stage.step, fed[0], lambda maps: maps.sum(axis=1)) if isinstance(stage.step, Isolate) else None


@planted("SEED", DECONVNET, SEED)
def channels_ranked_by_magnitude(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    return isolate(stage.step, fed[0], lambda maps: abs(maps).max(axis=1)) if isinstance(stage.step, Isolate) else None


@planted("M62", DECONVNET, SEED)
def weakest_kept(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """argmin for argmax."""
    if not isinstance(stage.step, Isolate):
        return None
    step = stage.step
    found = isolate(replace(step, seed="one"), -fed[0])
    return np.where(found == 1, fed[0] if step.seed == "activation" else found, np.zeros((), fed[0].dtype))


@planted("M62", DECONVNET, SEED)
def strongest_of_all_maps_kept(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    return kept(stage, fed[0], channel=None)


@planted("M62", DECONVNET, SEED)
def strongest_of_the_batch_kept(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """The other images come out empty."""
    if not isinstance(stage.step, Isolate) or stage.step.keep == "none":
        return None
    first = np.zeros(fed[0].shape[0], bool)
    first[fed[0].reshape(len(first), -1).max(axis=1).argmax()] = True
    seeds = isolate(stage.step, fed[0])
    return np.where(first.reshape(-1, *[1] * (seeds.ndim - 1)), seeds, np.zeros((), seeds.dtype))


# What is fused with a filter

FUSED = ("conv_block",)
NORMED, FILTERED, PADDED = (rf"(then\.)?{name}" for name in ("batch_norm", "filter", "pad"))


def parameter(walk: Walk, stage: Stage, name: str) -> np.ndarray | None:
    """A parameter of the block that a stage belongs to, if it has one of that name."""
    whole = "then." * stage.name.startswith("then.") + name
    return walk.wide(whole) if whole in walk.values else None


def stage_before(walk: Walk, stage: Stage) -> Stage | None:
    n = walk.case.stages.index(stage)
    return walk.case.stages[n - 1] if n else None


def normed(stage: Stage, z: np.ndarray, r: np.ndarray, mean: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return per_channel(z, r) * (z - per_channel(z, mean)) + per_channel(z, shift)


def rate(stage: Stage, fed: list[np.ndarray]) -> np.ndarray:
    """Scale over root."""
    return fed[1] / np.sqrt(fed[4] + fed[4].dtype.type(stage.step.epsilon))  # type: ignore[union-attr]


@planted("", FUSED, NORMED, "deviates", "reduced")
def epsilon_forgotten(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    if not isinstance(stage.step, BatchNorm):
        return None
    return normed(stage, fed[0], fed[1] / np.sqrt(fed[4]), fed[3], fed[2])


@planted("", FUSED, NORMED, "deviates", "reduced")
def epsilon_beside_the_root(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    if not isinstance(stage.step, BatchNorm):
        return None
    return normed(stage, fed[0], fed[1] / (np.sqrt(fed[4]) + np.float32(stage.step.epsilon)), fed[3], fed[2])


@planted("", FUSED, NORMED)
def variance_for_the_deviation(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    if not isinstance(stage.step, BatchNorm):
        return None
    return normed(stage, fed[0], fed[1] / (fed[4] + np.float32(stage.step.epsilon)), fed[3], fed[2])


@planted("", FUSED, NORMED, "deviates", "reduced")
def mean_not_subtracted(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    if not isinstance(stage.step, BatchNorm):
        return None
    return normed(stage, fed[0], rate(stage, fed), 0 * fed[3], fed[2])


@planted("M19", FUSED, NORMED, "deviates", "reduced")
def bias_lost_in_folding(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """The folded bias is made of mean and shift alone."""
    bias = parameter(walk, stage, "bias")
    if not isinstance(stage.step, BatchNorm) or bias is None:
        return None
    return normed(stage, fed[0], rate(stage, fed), fed[3] + bias, fed[2])


@planted("M19", FUSED, NORMED)
def no_bias_made_in_folding(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """Where there was no bias, none is made for mean and shift."""
    if not isinstance(stage.step, BatchNorm) or parameter(walk, stage, "bias") is not None:
        return None
    return per_channel(fed[0], rate(stage, fed)) * fed[0]


@planted("", FUSED, NORMED, "deviates", "reduced")
def bias_not_scaled_in_folding(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    bias = parameter(walk, stage, "bias")
    if not isinstance(stage.step, BatchNorm) or bias is None:
        return None
    r = rate(stage, fed)
    return normed(stage, fed[0] - per_channel(fed[0], bias), r, fed[3], fed[2] + bias)


def folded(walk: Walk, stage: Stage, fed: list[np.ndarray], each: Callable[..., np.ndarray]) -> Any:
    """What the filter gives with weights that are multiplied by ``each(step, weight, r)``, and the rest right."""
    before = stage_before(walk, stage)
    if not isinstance(stage.step, BatchNorm) or before is None or not isinstance(before.step, Convolution):
        return None
    weight, r = parameter(walk, stage, "weight"), rate(stage, fed)
    assert weight is not None
    factors = each(before.step, weight, r)
    y = convolution(
        before.step, walk.wide(before.reads[0]), weight * factors.reshape(*factors.shape, *[1] * before.step.rank)
    )
    bias = parameter(walk, stage, "bias")
    bias = 0 * fed[3] if bias is None else bias
    return y + per_channel(y, (bias - fed[3]) * r + fed[2])


@planted("", FUSED, NORMED)
def folded_along_the_other_axis(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """As for the other kind of filter: along the channels that are read."""

    def each(step: Convolution, weight: np.ndarray, r: np.ndarray) -> np.ndarray:
        rows, columns = weight.shape[:2]
        return np.resize(r, rows)[:, None] if step.transposed else np.resize(r, columns)[None]

    return folded(walk, stage, fed, each)


@planted("M04", FUSED, NORMED)
def first_group_folded_into_all(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    def each(step: Convolution, weight: np.ndarray, r: np.ndarray) -> np.ndarray:
        return r[None, : weight.shape[1]] if step.transposed else np.resize(r[: len(r) // step.groups], len(r))[:, None]

    return folded(walk, stage, fed, each)


@planted("M05", FUSED, NORMED)
def groups_interleaved_in_folding(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    def each(step: Convolution, weight: np.ndarray, r: np.ndarray) -> np.ndarray:
        mixed = r.reshape(-1, step.groups).T  # (groups, written maps of each)
        if not step.transposed:
            return mixed.reshape(-1, 1)
        return np.repeat(mixed, weight.shape[0] // step.groups, axis=0)

    return folded(walk, stage, fed, each)


@planted("", FUSED, NORMED, "deviates", "reduced")
def rectified_before_the_normalisation(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    after = walk.case.stages[walk.case.stages.index(stage) + 1 :]
    if not isinstance(stage.step, BatchNorm) or not after or not isinstance(after[0].step, Rectify):
        return None
    return defined(stage.step, np.maximum(fed[0], 0), *fed[1:])


@planted("M22", FUSED, r"(then\.)?rectify")
def rectifier_lost_in_fusion(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    return fed[0] if isinstance(stage.step, Rectify) else None


@planted("", FUSED, FILTERED)
def shift_folded_through_the_padding(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """The normalisation is folded into the filter after it, as if that were padded with shifts and not with zeros."""
    before = stage_before(walk, stage)
    if before is None or not isinstance(before.step, BatchNorm) or not isinstance(stage.step, Convolution):
        return None
    _, scale, shift, mean, variance = (walk.wide(name) for name in before.reads)
    constant = shift - rate(before, [fed[0], scale, shift, mean, variance]) * mean
    everywhere = replace(stage.step, axes=tuple(Axis(a.extent, 1, a.kernel, 1, a.dilation) for a in stage.step.axes))
    ones = np.ones((1, len(constant), *(axis.large for axis in everywhere.axes)), fed[0].dtype)
    added = convolution(everywhere, ones * per_channel(ones, constant), fed[1])
    return defined(stage.step, fed[0] - per_channel(fed[0], constant), *fed[1:]) + added


def folded_padding(walk: Walk, stage: Stage, fed: list[np.ndarray], moved: Callable[[Axis, int], int]) -> Any:
    """The filter of what was not padded, its own ``begin`` and ``end`` changed by ``moved(axis, rows)``."""
    before, step = stage_before(walk, stage), stage.step
    if before is None or not isinstance(before.step, Pad) or not isinstance(step, Convolution):
        return None
    x, axes = walk.wide(before.reads[0]), []
    for size, axis, (b, e) in zip(x.shape[2:], step.axes, before.step.ends, strict=True):
        begin, end = axis.begin + moved(axis, b), axis.end + moved(axis, e)
        if step.transposed:
            bare = replace(axis, small=size, begin=begin)
            axes.append(replace(bare, large=bare.full - begin - end))
        else:
            axes.append(replace(axis, large=size, begin=begin))
    return convolution(replace(step, axes=tuple(axes)), x, *fed[1:])


def takes_nothing_away(walk: Walk, stage: Stage) -> bool:
    before = stage_before(walk, stage)
    return before is not None and isinstance(before.step, Pad) and min(map(min, before.step.ends)) >= 0


@planted("", FUSED, FILTERED)
def crop_folded_into_the_padding(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """Rows that are dropped and rows of zeros that are added come to nothing."""
    if takes_nothing_away(walk, stage) or getattr(stage.step, "transposed", True):
        return None
    return folded_padding(walk, stage, fed, lambda axis, rows: rows)


@planted("", FUSED, FILTERED, "deviates", "reduced")
def any_value_folded_into_the_padding(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """As if it were zero."""
    if not takes_nothing_away(walk, stage) or getattr(stage.step, "transposed", True):
        return None
    return folded_padding(walk, stage, fed, lambda axis, rows: rows)


@planted("M09", FUSED, FILTERED, "wrong_shape")
def padding_folded_into_the_crop(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """As if the padding of a transposed convolution added rows."""
    if not getattr(stage.step, "transposed", False) or min(axis.large for axis in stage.step.axes) < 5:  # type: ignore[union-attr]
        return None
    return folded_padding(walk, stage, fed, lambda axis, rows: rows)


@planted("", FUSED, FILTERED, "wrong_shape")
def padding_folded_without_its_stride(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """A row before a transposed convolution is taken for one row of its crop."""
    if not getattr(stage.step, "transposed", False):
        return None
    return folded_padding(walk, stage, fed, lambda axis, rows: -rows)


@planted("", FUSED, PADDED)
def ends_of_the_padding_exchanged(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    if not isinstance(stage.step, Pad):
        return None
    return pad(replace(stage.step, ends=tuple((end, begin) for begin, end in stage.step.ends)), fed[0])


@planted("M32", FUSED, PADDED)
def padded_with_zeros(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    return pad(replace(stage.step, value=0.0), fed[0]) if isinstance(stage.step, Pad) else None


@planted("", FUSED, FILTERED)
def blocks_of_channels_exchanged(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """The blocks of 8 channels come out in another order."""
    if not isinstance(stage.step, Convolution) or stage.step.out_channels <= 8:
        return None
    return np.roll(defined(stage.step, *fed), 8, axis=1)


# Anywhere


@planted("", ("deconvnet", "deconv_block", "adaptive_deconv"), r"(?!seed).*")
def first_image_for_all(walk: Walk, stage: Stage, fed: list[np.ndarray]) -> Any:
    """A network that runs one image and repeats the projection."""
    last = stage == walk.case.stages[-1]
    return np.repeat(defined(stage.step, *fed)[:1], walk.case.batch, axis=0) if last else None


class Planted:
    """The definition as a target, with one mistake or none; ``opaque`` returns results only, no stages."""

    arithmetic = "native"

    def __init__(self, mistake: str = "", opaque: bool = False) -> None:
        self.name = mistake or "correct"
        self.mistake = MISTAKES[mistake] if mistake else None
        self.opaque = opaque

    def environment(self) -> dict[str, str]:
        return {"mistake": self.name, "opaque": str(self.opaque)}

    def run(self, case: Case, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert isinstance(case, Chain)
        walk = Walk(case, np.dtype(next(t.dtype for n, t in tensors.items() if not is_index(n))), dict(tensors))
        gradient = case.op == "deconvnet_gradient"
        with np.errstate(all="ignore"):
            for stage in case.stages:
                fed = [walk.wide(name) for name in stage.reads]
                wrong = self.mistake is not None and not gradient and fed[0].size > 0
                result = self.mistake.wrong(walk, stage, fed) if wrong else None  # type: ignore[union-attr]
                walk.keep(stage, defined(stage.step, *fed) if result is None else result)
        returned = case.result_shapes if self.opaque or gradient else dict.fromkeys(walk.given)
        return {name: walk.values[name] for name in returned}


target = Planted
