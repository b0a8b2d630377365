"""TensorFlow's convolutions, and what their arguments say of the geometry of a case.

Tensors are ``(N, *spatial, C)`` and kernels ``(*kernel, large channels / groups, small channels)``.

A transposed convolution is told its output size (``output_shape``), and ``padding`` says which convolution it
transposes: the gradient of ``tf.nn.conv*d`` from that size to the size of its input.  So one rule serves all three ops.
Sources: tf.nn.convolution, section "padding"; tf.nn.conv2d_transpose, ``output_shape`` and ``padding``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conformance.spec import Convolution
from conformance.targets.base import Unsupported
from conformance.targets.channels_last import word_for
from conformance.targets.reasons import decline_onnx_spelling

Pads = list[list[int]]
Operator = Callable[[Any, Convolution, Any, Any, "str | Pads"], Any]
"""``(tf, case, x, weight, padding)`` to the result without bias."""

NO_GROUPS = "tensorflow's 3-D convolutions have no groups, the case has {}"


def convolve(tf: Any, case: Convolution, x: Any, weight: Any, padding: str | Pads) -> Any:
    """``tf.nn.conv*d``."""
    operator = getattr(tf.nn, f"conv{case.rank}d")
    return operator(x, weight, with_ends(case.stride), padding, dilations=with_ends(case.dilation))


def convolve_transposed(tf: Any, case: Convolution, x: Any, weight: Any, padding: str | Pads) -> Any:
    """``tf.nn.conv*d_transpose``."""
    operator, size = getattr(tf.nn, f"conv{case.rank}d_transpose"), large_shape(tf, case, x)
    return operator(x, weight, size, with_ends(case.stride), padding, dilations=with_ends(case.dilation))


def gradient(tf: Any, case: Convolution, signal: Any, weight: Any, padding: str | Pads) -> Any:
    """The operators that differentiate a convolution by its input.

    In one dimension TensorFlow has the gradient, but no operator of its own for it.
    """
    if case.rank == 1:
        return _taped(tf, case, signal, weight, padding)
    arguments = {
        "input_sizes": large_shape(tf, case, signal),
        "filter": weight,
        "out_backprop": signal,
        "strides": with_ends(case.stride),
        "dilations": with_ends(case.dilation),
    }
    if case.rank == 3:
        return tf.raw_ops.Conv3DBackpropInputV2(padding=padding, **arguments)
    word = padding if isinstance(padding, str) else "EXPLICIT"
    pads = [] if isinstance(padding, str) else [pad for pair in padding for pad in pair]
    return tf.raw_ops.Conv2DBackpropInput(padding=word, explicit_paddings=pads, **arguments)


OPERATORS: dict[str, Operator] = {
    "conv": convolve,
    "conv_transpose": convolve_transposed,
    "conv_input_gradient": gradient,
}


def padding(case: Convolution) -> str | Pads:
    """``padding`` as the case spells it, or else what says its geometry: VALID, SAME, or numbers in two dimensions."""
    decline_onnx_spelling(case, "tensorflow")
    if case.rank == 3 and case.groups > 1:
        raise Unsupported(NO_GROUPS.format(case.groups))
    if word := word_for(case.axes, case.padding):
        return word.upper()
    if isinstance(case.padding, str):
        raise Unsupported(f"tensorflow's padding='{case.padding.upper()}' does not join {case.small} and {case.large}")
    return _explicit(case)


def explicit_pads(case: Convolution) -> Pads | None:
    """The padding in numbers, as two-dimensional convolutions take it; None where these are not for TensorFlow."""
    if case.rank != 2 or any(axis.begin < 0 or -axis.end >= axis.stride for axis in case.axes):
        return None
    return [[0, 0], *([a.begin, max(a.end, 0)] for a in case.axes), [0, 0]]


def with_ends(values: tuple[int, ...]) -> list[int]:
    """Strides or dilations of all axes, those of batch and channels being 1."""
    return [1, *values, 1]


def large_shape(tf: Any, case: Convolution, x: Any, full: bool = False) -> list[Any]:
    """The size of what a transposed convolution makes of ``x``, or the ``full`` one, from which nothing is cropped.

    Sizes that ``x`` leaves open are computed from the size that comes, with the rows that the case adds or crops.
    """
    sizes = [axis.full if full else axis.large for axis in case.axes]
    known = [case.batch, *sizes, case.large_channels]
    for n, axis in enumerate(case.axes, start=1):
        if x.shape[n] is None:
            known[n] = (tf.shape(x)[n] - axis.small) * axis.stride + known[n]
    return known if x.shape[0] is not None else [tf.shape(x)[0], *known[1:]]


def _explicit(case: Convolution) -> Pads:
    if case.rank != 2:
        raise Unsupported(f"tensorflow's {case.rank}-D convolutions pad by SAME or VALID only, not by {case.crop}")
    if (pads := explicit_pads(case)) is None:
        raise Unsupported(f"tensorflow's explicit padding cannot be negative, as in {case.crop}")
    return pads


def _taped(tf: Any, case: Convolution, signal: Any, weight: Any, padding: str | Pads) -> Any:
    x = tf.zeros(large_shape(tf, case, signal), weight.dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.nn.conv1d(x, weight, with_ends(case.stride), padding, dilations=with_ends(case.dilation))
    return tape.gradient(y, x, output_gradients=signal)
