"""What TensorFlow and Keras share: channels come last, padding is said in words, and switches are places in windows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from conformance.arithmetic import Axis
from conformance.arithmetic.axis import convolved_size
from conformance.arithmetic.spellings import Mode, convolution_same
from conformance.spec import Pooling

Ends = list[tuple[int, int]]
"""Rows at the beginning and at the end of each spatial axis."""


def channels_last(array: np.ndarray) -> np.ndarray:
    """``(N, C, *spatial)`` to ``(N, *spatial, C)``."""
    return np.moveaxis(array, 1, -1)


def channels_second(array: np.ndarray) -> np.ndarray:
    """``(N, *spatial, C)`` to ``(N, C, *spatial)``."""
    return np.moveaxis(array, -1, 1)


def spatial_first(weight: np.ndarray) -> np.ndarray:
    """``(small channels, large channels / groups, *kernel)`` to the same, the kernel first and the rest reversed."""
    return np.moveaxis(weight, (0, 1), (-1, -2))


def from_canonical(name: str, array: np.ndarray) -> np.ndarray:
    """A tensor of a case, told by the last part of its name, in the layout of both frameworks."""
    if array.ndim == 1:  # one number per channel
        return array
    return spatial_first(array) if name.rpartition(".")[2] == "weight" else channels_last(array)


def word_gives(mode: Mode, axis: Axis) -> bool:
    """Whether a convolution with this padding leads from ``large`` to ``small``, with the same beginning."""
    if mode == "valid":
        return axis.begin == 0 and convolved_size(axis.large, axis.extent, axis.stride, 0) == axis.small
    begin, _ = convolution_same(axis.large, axis.extent, axis.stride)
    return axis.begin == begin and axis.small == -(-axis.large // axis.stride)


def word_for(axes: Iterable[Axis], spelled: object) -> Mode | None:
    """The padding that gives these axes: the word as it is spelled, else the first that does, or None."""
    modes: tuple[Mode, ...] = ("valid", "same")
    allowed = [mode for mode in modes if spelled == mode or not isinstance(spelled, str)]
    return next((mode for mode in allowed if all(word_gives(mode, axis) for axis in axes)), None)


def pool_ends(step: Pooling) -> Ends:
    """Padding that lets every window begin and end inside; ``ceil_mode`` needs some at the end."""
    return [(axis.begin, max(axis.end, 0)) for axis in step.axes]


def windows(step: Pooling) -> np.ndarray:
    """The places that each window sees, ``(windows, taps)``: flat in the plane, windows and taps in C order.

    A tap in the padding stands for the first place that the window really sees, so that padding never wins and the
    first of equal maxima stays the first.
    """
    places = np.zeros((1, 1), np.int64)
    inside = np.ones((1, 1), bool)
    for axis in step.axes:
        at = np.arange(axis.small)[:, None] * axis.stride - axis.begin + np.arange(axis.kernel) * axis.dilation
        places = _crossed(places * axis.large, at, np.add)
        inside = _crossed(inside, (at >= 0) & (at < axis.large), np.logical_and)
    first = np.take_along_axis(places, inside.argmax(axis=1)[:, None], axis=1)
    return np.where(inside, places, first)


def _crossed(before: np.ndarray, axis: np.ndarray, join: np.ufunc) -> np.ndarray:
    """``(windows, taps)`` of some axes and of one more, joined to those of all."""
    joined: np.ndarray = join(before[:, None, :, None], axis[None, :, None, :])
    return joined.reshape(before.shape[0] * axis.shape[0], -1)
