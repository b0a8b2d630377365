"""Local response normalisation across channels, its gradient, and how far honest results may be from them.

    s_j = k + alpha / size * sum of x_i**2,  i over the channels with |i - j| <= (size - 1) / 2
    y_j = x_j * s_j**-beta

Source: Krizhevsky, Sutskever and Hinton 2012, section 3.3; ONNX LRN-13 and torch.nn.LocalResponseNorm divide alpha by
size, and so does this.  Raising to a power rounds, in the oracle as everywhere, so there is no exact data.
"""

from __future__ import annotations

import numpy as np

from conformance.spec.steps import ResponseNorm


def window_sum(x: np.ndarray, size: int) -> np.ndarray:
    """Sum over the ``size`` nearest channels of ``(N, C, *spatial)``."""
    reach = size // 2
    result = x.copy()
    for shift in range(1, min(reach, x.shape[1] - 1) + 1):
        result[:, shift:] += x[:, :-shift]
        result[:, :-shift] += x[:, shift:]
    return result


def denominators(norm: ResponseNorm, x: np.ndarray) -> np.ndarray:
    """``s``."""
    return norm.k + norm.alpha / norm.size * window_sum(np.square(x), norm.size)


def response_norm(norm: ResponseNorm, x: np.ndarray) -> np.ndarray:
    """``y``, in float64."""
    wide = x.astype(np.float64)
    normed: np.ndarray = wide * denominators(norm, wide) ** -norm.beta
    return normed


def response_norm_gradient(norm: ResponseNorm, signal: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The gradient with respect to ``x`` of the sum of ``signal * y``, in float64."""
    direct, mixed = _terms(norm, signal.astype(np.float64), x.astype(np.float64))
    gradient: np.ndarray = direct - mixed
    return gradient


def gradient_magnitude(norm: ResponseNorm, signal: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The same with the absolute values of everything added up."""
    direct, mixed = _terms(norm, np.abs(signal.astype(np.float64)), np.abs(x.astype(np.float64)))
    magnitude: np.ndarray = direct + mixed
    return magnitude


def _terms(norm: ResponseNorm, signal: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    s = denominators(norm, x)
    inner = window_sum(signal * x * s ** (-norm.beta - 1), norm.size)
    return signal * s**-norm.beta, 2 * norm.alpha * norm.beta / norm.size * x * inner


def change_magnitude(norm: ResponseNorm, error: np.ndarray, x: np.ndarray) -> np.ndarray:
    """By how much ``y`` changes at most, to first order, where ``x`` changes by at most ``error``."""
    s, x = denominators(norm, x.astype(np.float64)), np.abs(x.astype(np.float64))
    inner = window_sum(error * x, norm.size)
    mixed: np.ndarray = 2 * norm.alpha * norm.beta / norm.size * x * s ** (-norm.beta - 1) * inner
    change: np.ndarray = error * s**-norm.beta + mixed
    return change


def roundings(norm: ResponseNorm, x: np.ndarray, power: float) -> np.ndarray:
    """How many unit roundoffs ``s**-power`` may be off, relative to itself, plus those of a few products around it.

    Squares, their sum, the factor and the addition of k come to ``size + 4`` in s, which the power multiplies.  A power
    by exp and log loses ``|power * ln s|`` unit roundoffs a few times, all at once and not as independent roundings, so
    that it is the square of it whose root the statistical gate takes.
    """
    s = denominators(norm, x.astype(np.float64))
    exponent = power * np.abs(np.log(s))
    lost: np.ndarray = power * (norm.size + 4) + 8 + 4 * exponent + 4 * np.square(exponent)
    return lost
