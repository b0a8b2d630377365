"""JAX's convolutions, and what their arguments say of the geometry of a case.

Tensors are ``(N, *spatial, C)`` and kernels ``(*kernel, in, out)``: the layout that ``lax.conv_transpose`` has for its
default and that Flax uses.

`lax.conv_transpose` convolves its input, spread out by the stride, with the kernel, which it flips only with
``transpose_kernel=True``; only then is it C.T.  Its padding is a word, read as that of the convolution that it
transposes, or pairs.  Pairs are zeros around the spread input: ``k^ - 1 - begin`` and ``k^ - 1 - end`` give the case's
crop, and negative ones are taken as well.  (Releases since 0.8 read pairs as the convolution's padding if they are
asked to, by ``use_consistent_padding``.)  It has no groups; they take `lax.conv_general_dilated` with the input spread
by ``lhs_dilation``, and a kernel that its user flips.

Sources: jax.lax.conv_general_dilated, ``padding``, ``lhs_dilation`` and ``feature_group_count``;
jax.lax.conv_transpose, ``padding`` and ``transpose_kernel``, and _conv_transpose_padding in
jax/_src/lax/convolution.py for the sizes: ``i s`` by SAME, ``(i - 1) s + max(k^, s)`` by VALID.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conformance.arithmetic.spellings import keras_transposed
from conformance.spec import Convolution
from conformance.targets.base import Unsupported
from conformance.targets.channels_last import Ends
from conformance.targets.reasons import decline_onnx_spelling

Transposed = Callable[[Any, Convolution, Any, Any], Any]
"""A way to apply C.T: ``(jax, case, x, weight)`` to the result without bias."""

_WORDS = {"same": "SAME", "valid": "VALID", "SAME_UPPER": "SAME", "SAME_LOWER": "SAME_LOWER", "VALID": "VALID"}


def convolve(jax: Any, case: Convolution, x: Any, weight: Any) -> Any:
    """``lax.conv_general_dilated`` between the case's large and small sides."""
    return jax.lax.conv_general_dilated(
        x,
        weight,
        case.stride,
        padding(case),
        rhs_dilation=case.dilation,
        dimension_numbers=dimension_numbers(case.rank),
        feature_group_count=case.groups,
    )


def convolve_transposed(jax: Any, case: Convolution, x: Any, weight: Any) -> Any:
    """``lax.conv_transpose``; ``weight`` is the kernel of the convolution that it transposes."""
    said = _transposed_padding(case)
    if case.groups > 1:
        raise Unsupported(f"jax.lax.conv_transpose has no groups, the case has {case.groups}")
    return jax.lax.conv_transpose(
        x,
        weight,
        case.stride,
        said,
        rhs_dilation=case.dilation,
        dimension_numbers=dimension_numbers(case.rank),
        transpose_kernel=True,
    )


def convolve_dilated(jax: Any, case: Convolution, x: Any, weight: Any) -> Any:
    """``lax.conv_general_dilated`` with ``lhs_dilation`` and the kernel of the equivalent direct convolution."""
    decline_onnx_spelling(case, "jax")
    if isinstance(case.padding, str):
        raise Unsupported(f"jax.lax.conv_general_dilated has no padding='{case.padding.upper()}' beside lhs_dilation")
    return jax.lax.conv_general_dilated(
        x,
        _flipped(jax, case, weight),
        (1,) * case.rank,
        _around(case),
        lhs_dilation=case.stride,
        rhs_dilation=case.dilation,
        dimension_numbers=dimension_numbers(case.rank),
        feature_group_count=case.groups,
    )


def gradient(jax: Any, case: Convolution, signal: Any, weight: Any) -> Any:
    """The gradient of the convolution with respect to its input, by ``jax.vjp``."""
    x = jax.numpy.zeros((case.batch, *case.large, case.large_channels), weight.dtype)
    _, back = jax.vjp(lambda large: convolve(jax, case, large, weight), x)
    return back(signal)[0]


def dimension_numbers(rank: int) -> tuple[str, str, str]:
    """The layout of input, kernel and output, as ``lax.conv_transpose`` has it by default."""
    spatial = "HWD"[:rank]
    return f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"


def padding(case: Convolution) -> str | Ends:
    """``padding`` of the convolution between the case's large and small sides.

    JAX has the words of TensorFlow and, for convolutions, those of ONNX's ``auto_pad``.
    """
    if case.auto_pad in _WORDS:
        return _WORDS[case.auto_pad]
    return _WORDS[case.padding] if isinstance(case.padding, str) else list(case.padding)


def _transposed_padding(case: Convolution) -> str | Ends:
    decline_onnx_spelling(case, "jax")
    if not isinstance(case.padding, str):
        return _around(case)
    word = case.padding
    if case.crop != tuple(keras_transposed(a.small, a.extent, a.stride, word, None) for a in case.axes):
        raise Unsupported(f"jax.lax.conv_transpose has no output_padding beside padding='{word.upper()}'")
    return word.upper()


def _around(case: Convolution) -> Ends:
    """Zeros around the spread input of the equivalent direct convolution; negative: rows dropped."""
    return [(axis.extent - 1 - axis.begin, axis.extent - 1 - axis.end) for axis in case.axes]


def _flipped(jax: Any, case: Convolution, weight: Any) -> Any:
    """``(*kernel, large / groups, small)`` to ``(*kernel, small / groups, large)``, the kernel flipped."""
    numpy = jax.numpy
    per_group = weight.reshape(*weight.shape[:-1], case.groups, -1)
    swapped = numpy.swapaxes(per_group, -3, -1).reshape(*case.kernel, -1, case.large_channels)
    return numpy.flip(swapped, tuple(range(case.rank)))
