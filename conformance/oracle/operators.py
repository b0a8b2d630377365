"""The ops as the oracle computes them: one entry of `OPERATORS` per op."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from conformance.oracle.convolution import convolve, taps_reaching, transposed_convolve
from conformance.oracle.draws import Layout
from conformance.spec.case import Convolution

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Linear:
    """An op linear in its input and in its weight, plus bias: its result, and what bounds the result's error."""

    function: Callable[..., np.ndarray]
    """`convolve` or `transposed_convolve`."""

    def apply(self, case: Convolution, x: np.ndarray, weight: np.ndarray, *, absolute: bool = False) -> np.ndarray:
        """The result without bias, in float64; exact if no sum needs more than 53 bits."""
        return self.function(case.axes, x, weight, case.groups, absolute=absolute)

    def roughly(self, case: Convolution, x: np.ndarray, weight: np.ndarray, *, absolute: bool = False) -> np.ndarray:
        """The result without bias, computed in float32: good enough for what is small beside something else."""
        rough = self.function(case.axes, x, weight, case.groups, absolute=absolute, dtype=np.float32)
        return rough.astype(np.float64)

    def output(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        """The result, bias included; float64, ``(N, channels, *spatial)``."""
        result = self.apply(case, tensors["input"], tensors["weight"])
        if "bias" in tensors:
            result += bias_of(case, tensors)
        return result

    def magnitude(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        """``A``: the sum of the absolute values of all products and the bias of each element."""
        result = self.apply(case, tensors["input"], tensors["weight"], absolute=True)
        if "bias" in tensors:
            result += np.abs(bias_of(case, tensors))
        return result

    def products(self, case: Convolution) -> np.ndarray:
        """``n``: the number of products that reach each element, plus one for a bias; broadcasts over the result."""
        channels = (case.small_channels if case.transposed else case.large_channels) // case.groups
        return taps_reaching(case.axes, case.transposed) * channels + int(case.bias)

    def layout(self, case: Convolution, phase: int) -> Layout:
        """What the draws have to know; ``phase`` says which channels begin with a wide input."""
        counts = taps_reaching(case.axes, case.transposed)
        channels = (case.small_channels if case.transposed else case.large_channels) // case.groups
        index = np.arange(channels * case.groups)
        turns = (index % channels if channels > 1 else index) + phase
        wide_input = turns % 2 == 0
        return Layout(
            shapes=case.tensor_shapes,
            wide={
                "input": wide_input.reshape(1, -1, *[1] * case.rank),
                "weight": _per_weight(case, np.logical_not(wide_input)),
            },
            products=int(counts.max(initial=0)) * channels,
        )


def bias_of(case: Convolution, tensors: Tensors) -> np.ndarray:
    """The bias so that it broadcasts against the result; -0, the neutral element of addition, where there is none."""
    bias = tensors.get("bias", np.array([-0.0]))
    return bias.astype(np.float64).reshape(-1, *[1] * case.rank)


def _per_weight(case: Convolution, per_channel: np.ndarray) -> np.ndarray:
    """Values per input channel, spread over a weight tensor ``(small channels, large channels / groups, *kernel)``."""
    rows, columns = case.weight_shape[:2]
    if case.transposed:
        values = per_channel.reshape(rows, 1)
    else:
        values = np.repeat(per_channel.reshape(case.groups, 1, columns), rows // case.groups, axis=1)
        values = values.reshape(rows, columns)
    return values.reshape(*values.shape, *[1] * case.rank)


OPERATORS = {
    "conv": Linear(convolve),
    "conv_transpose": Linear(transposed_convolve),
    "conv_input_gradient": Linear(transposed_convolve),
}


def precision_needed(magnitude: np.ndarray, unit: float) -> int:
    """Bits that the largest sum needs when all its terms are multiples of ``unit``."""
    largest = math.ceil(float(magnitude.max(initial=0.0)) / unit)
    return (largest - 1).bit_length() if largest else 0
