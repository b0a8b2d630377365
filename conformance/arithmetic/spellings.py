"""What each framework's padding parameters mean, resolved to ``(begin, end)`` on one axis.

For a convolution the pair is the zero padding at the two ends.  For a transposed convolution it is the crop: how many
rows of the full result, whose size is ``(i' - 1) s + k^``, are dropped at the beginning and at the end; a negative
number adds rows instead (of zeros, plus bias).  ``extent`` is always the dilated kernel size ``k^ = (k - 1) d + 1``.
"""

from __future__ import annotations

from typing import Literal

from conformance.arithmetic.axis import convolved_size, full_size

AutoPad = Literal["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]
Mode = Literal["same", "valid"]
Pair = tuple[int, int]
End = Literal["begin", "end"]


def convolution_same(size: int, extent: int, stride: int, larger_end: End = "end") -> Pair:
    """Padding of a ``same`` convolution, so that the output has ``ceil(i / s)`` elements.

    TensorFlow and Keras, and ONNX SAME_UPPER, put an odd row at the end; ONNX SAME_LOWER at the beginning.
    Source: tf.nn.convolution, "padding"; ONNX Conv, ``auto_pad``.
    """
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return halves(total, larger_end)


def transposed_same(small: int, large: int, extent: int, stride: int) -> Pair:
    """Crop of a TensorFlow or Keras ``same`` transposed convolution whose output size is known.

    It undoes the padding of the ``same`` convolution from ``large`` to ``small``: half of the excess, rounded down, at
    the beginning.  A kernel smaller than the stride leaves no excess; then rows are added at the end.
    """
    full = full_size(small, extent, stride)
    begin = max(full - large, 0) // 2
    return begin, full - begin - large


def keras_transposed_size(small: int, extent: int, stride: int, mode: Mode, output_padding: int | None) -> int:
    """Output size of ``keras.layers.Conv*DTranspose`` (Keras 3, ``compute_conv_transpose_output_shape``)."""
    if output_padding is None:
        return small * stride if mode == "same" else (small - 1) * stride + max(extent, stride)
    if mode == "same":
        return (small - 1) * stride + extent % 2 + output_padding
    return (small - 1) * stride + extent + output_padding


def keras_transposed(small: int, extent: int, stride: int, mode: Mode, output_padding: int | None) -> Pair:
    """Crop of ``keras.layers.Conv*DTranspose``.

    Note that with ``same`` an explicit output_padding moves the crop at the *beginning*, unlike PyTorch's.
    """
    large = keras_transposed_size(small, extent, stride, mode, output_padding)
    if mode == "valid":
        return 0, full_size(small, extent, stride) - large
    return transposed_same(small, large, extent, stride)


def explicit_transposed(padding: Pair, output_padding: int) -> Pair:
    """Crop of PyTorch's and ONNX's explicit padding: output_padding keeps further rows at the end."""
    return padding[0], padding[1] - output_padding


def output_padding_for_size(small: int, extent: int, stride: int, padding: Pair, output_size: int) -> int:
    """The output_padding that PyTorch's ``output_size`` asks for: how much larger than the smallest output."""
    return output_size - (full_size(small, extent, stride) - sum(padding))


def onnx_transposed_auto(small: int, extent: int, stride: int, output_padding: int, auto_pad: AutoPad) -> Pair:
    """Crop of ONNX ConvTranspose with ``auto_pad``: SAME_* makes the output ``i' * s`` (ConvTranspose-22)."""
    if auto_pad in ("NOTSET", "VALID"):
        return explicit_transposed((0, 0), output_padding)
    return onnx_transposed_shape(small, extent, stride, output_padding, small * stride, auto_pad)


def onnx_transposed_shape(
    small: int, extent: int, stride: int, output_padding: int, output_shape: int, auto_pad: AutoPad
) -> Pair:
    """Crop of ONNX ConvTranspose with ``output_shape`` (ConvTranspose-22, formula of ``total_padding``).

    ``total = s (i' - 1) + output_padding + k^ - output_shape``; SAME_UPPER crops ``floor(total / 2)`` at the beginning,
    all others the rest.  Where ``total`` is negative and odd the text does not say how the half rounds; the reference
    evaluator rounds down, and so does this.
    """
    total = full_size(small, extent, stride) + output_padding - output_shape
    begin, end = halves(total, larger_end(auto_pad))
    return explicit_transposed((begin, end), output_padding)


def convolution_size(size: int, extent: int, stride: int, padding: Pair) -> int:
    """Size of a convolution's output; not positive where the kernel does not fit."""
    return convolved_size(size, extent, stride, sum(padding))


def pooled_size(size: int, extent: int, stride: int, padding: Pair, ceil_mode: bool = False) -> int:
    """Number of pooling windows.  ``ceil_mode`` rounds up, but no window starts in the padding at the end.

    Source: torch.nn.MaxPool2d, ``ceil_mode``; ONNX MaxPool-22.  Not positive where no window fits.
    """
    if not ceil_mode:
        return convolution_size(size, extent, stride, padding)
    windows = convolved_ceil(size, extent, stride, padding)
    return windows - ((windows - 1) * stride >= size + padding[0])


def convolved_ceil(size: int, extent: int, stride: int, padding: Pair) -> int:
    """Number of windows, rounded up, those that start in the padding included."""
    return -((size + sum(padding) - extent) // -stride) + 1


def larger_end(auto_pad: AutoPad) -> End:
    """Where ONNX puts the odd row of a padding that it splits; without SAME_UPPER at the beginning."""
    return "end" if auto_pad == "SAME_UPPER" else "begin"


def halves(total: int, larger_end: End) -> Pair:
    """A number of rows split between the two ends; where it is odd, one end gets more."""
    small, large = total // 2, total - total // 2
    return (small, large) if larger_end == "end" else (large, small)
