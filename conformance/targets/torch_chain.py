"""PyTorch's operators for the steps of a chain, on tensors of PyTorch from the first step to the last.

Its switches are canonical as they come: ``max_pool*d`` counts flat within each plane, and of equal maxima the first
wins.  What its pooling cannot pad (unequal ends, more than half of the kernel) is padded with -inf first, as its users
do; the switches then count in the padded plane and are brought back.

Sources: torch.nn.MaxPool2d (padding is the same at both ends, at most half of the kernel, dilated or not),
torch.nn.MaxUnpool2d (assigns; which of several writers of a place wins is not said; output_size must be less than a
stride from the size that follows from the windows), torch.nn.LocalResponseNorm (alpha is divided by size).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from conformance.arithmetic.spellings import pooled_size
from conformance.spec import (
    BatchNorm,
    Convolution,
    Isolate,
    MaxPool,
    MaxUnpool,
    Pad,
    Rectify,
    Reshape,
    ResponseNorm,
    ResponseNormGradient,
    Take,
)
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.torch_convolution import around, convolve, convolve_transposed, says_padding


class TorchSteps:
    """One method per kind of step; ``tensor`` and ``array`` bring a NumPy array in and out."""

    def __init__(self, torch: Any, tensor: Callable[[np.ndarray], Any], array: Callable[[Any], np.ndarray]) -> None:
        self._torch = torch
        self._functional = torch.nn.functional
        self._tensor = tensor
        self._array = array

    def read(self, name: str, array: np.ndarray) -> Any:  # noqa: ARG002
        return self._tensor(array)

    def results(self, values: Mapping[str, Any]) -> Tensors:
        return {name: self._array(value) for name, value in values.items()}

    def convolution(self, step: Convolution, x: Any, weight: Any, bias: Any = None) -> Any:
        if step.op == "conv_transpose":
            return convolve_transposed(self._torch, step, x, weight, bias)
        if says_padding(step):
            return convolve(self._torch, step, x, weight, bias)
        padded = self._functional.pad(x, around(step.axes))
        operator = getattr(self._functional, f"conv{step.rank}d")
        return operator(padded, weight, bias, step.stride, 0, step.dilation, step.groups)

    def max_pool(self, step: MaxPool, x: Any) -> tuple[Any, Any]:
        if not step.magnitude:
            return self._pooled(step, x)
        _, indices = self._pooled(step, x.abs())
        return _taken(x, indices), indices

    def _pooled(self, step: MaxPool, x: Any) -> tuple[Any, Any]:
        operator = getattr(self._functional, f"max_pool{step.rank}d")
        if pooling_pads(step):
            pads = tuple(axis.begin for axis in step.axes)
            values, indices = operator(
                x, step.kernel, step.stride, pads, step.dilation, step.ceil_mode, return_indices=True
            )
            return values, indices
        padded = self._functional.pad(x, around(step.axes), value=-math.inf)
        values, indices = operator(padded, step.kernel, step.stride, 0, step.dilation, return_indices=True)
        return values, self._in_plane(step, indices)

    def _in_plane(self, step: MaxPool, indices: Any) -> Any:
        """Switches of the padded plane as switches of the plane itself."""
        flat = self._torch.zeros_like(indices)
        for place, axis in zip(
            self._torch.unravel_index(indices, [axis.full for axis in step.axes]), step.axes, strict=True
        ):
            place = place - axis.begin
            # In a window of nothing but -inf the padding comes first; what is meant is the first element.
            flat = flat * axis.large + self._torch.where(place < 0, place % axis.dilation, place)
        return flat

    def max_unpool(self, step: MaxUnpool, x: Any, indices: Any) -> Any:
        if step.overlap == "assign":
            return self._assigned(step, x, indices)
        planes = x.new_zeros((*x.shape[:2], math.prod(step.large)))
        places, values = indices.flatten(2), x.flatten(2)
        if step.overlap == "sum":
            planes.scatter_add_(2, places, values)
        else:
            planes.scatter_reduce_(2, places, values, "mean", include_self=False)
        return planes.reshape((*x.shape[:2], *step.large))

    def _assigned(self, step: MaxUnpool, x: Any, indices: Any) -> Any:
        operator = getattr(self._functional, f"max_unpool{step.rank}d")
        pads = tuple(axis.begin for axis in step.axes)
        return operator(x, indices, step.kernel, step.stride, pads, _output_size(step))

    def rectify(self, step: Rectify, x: Any, activation: Any = None) -> Any:
        signal = x if step.by == "mask" else self._functional.relu(x)
        return signal if step.by == "signal" else self._torch.where(activation > 0, signal, 0)

    def response_norm(self, step: ResponseNorm, x: Any) -> Any:
        return self._functional.local_response_norm(x, step.size, step.alpha, step.beta, step.k)

    def response_norm_gradient(self, step: ResponseNormGradient, signal: Any, x: Any) -> Any:
        fed = x.detach().requires_grad_()
        return self._torch.autograd.grad(self.response_norm(step.norm, fed), fed, signal)[0]

    def isolate(self, step: Isolate, x: Any) -> Any:
        values = self._torch.ones_like(x) if step.seed == "one" else x
        if step.keep == "none":
            return values
        planes = x.flatten(2)
        image = self._torch.arange(x.shape[0], device=x.device)
        channel = self._channel(step, planes)
        kept = self._torch.zeros_like(planes, dtype=self._torch.bool)
        if step.keep == "channel":
            kept[image, channel] = True
        else:
            kept[image, channel, self._unit(step, x, planes[image, channel])] = True
        return self._torch.where(kept.reshape(x.shape), values, 0)

    def _channel(self, step: Isolate, planes: Any) -> Any:
        """The channel to keep, per image.  ``argmax`` gives the first of equal maxima."""
        if step.channel is None:
            return planes.flatten(1).argmax(1) // planes.shape[2]
        return self._torch.full((planes.shape[0],), step.channel, device=planes.device)

    def _unit(self, step: Isolate, x: Any, plane: Any) -> Any:
        """The place to keep within the channel's plane, per image."""
        if step.unit is None:
            return plane.argmax(1)
        place = int(np.ravel_multi_index(step.unit, x.shape[2:]))
        return self._torch.full((plane.shape[0],), place, device=plane.device)

    def reshape(self, step: Reshape, x: Any) -> Any:
        return x.reshape((x.shape[0], *step.shape[1:]))

    def take(self, step: Take, x: Any, indices: Any) -> Any:  # noqa: ARG002
        return _taken(x, indices)

    def pad(self, step: Pad, x: Any) -> Any:
        return self._functional.pad(x, [rows for ends in reversed(step.ends) for rows in ends], value=step.value)

    def batch_norm(self, step: BatchNorm, x: Any, scale: Any, shift: Any, mean: Any, variance: Any) -> Any:
        return self._functional.batch_norm(x, mean, variance, scale, shift, training=False, eps=step.epsilon)


def _taken(x: Any, indices: Any) -> Any:
    """The values of each plane that stand where the switches say."""
    return x.flatten(2).gather(2, indices.flatten(2)).reshape(indices.shape)


def pooling_pads(step: MaxPool) -> bool:
    """Whether the pooling's own padding, with the one number per axis that it takes, gives these windows."""
    return all(
        axis.begin <= axis.kernel // 2
        and pooled_size(axis.large, axis.extent, axis.stride, (axis.begin, axis.begin), step.ceil_mode) == axis.small
        for axis in step.axes
    )


def _output_size(step: MaxUnpool) -> list[int] | None:
    """``output_size`` where the case names one, or where the unpooling by itself would come to another size."""
    inferred = [(a.small - 1) * a.stride + a.kernel - 2 * a.begin for a in step.axes]
    if step.output_size is None and inferred == list(step.large):
        return None
    for size, axis in zip(inferred, step.axes, strict=True):
        if not size - axis.stride < axis.large < size + axis.stride:
            raise Unsupported(
                f"torch's unpooling gives sizes less than stride {axis.stride} from {size}, not {axis.large}"
            )
    return list(step.large)
