"""PyTorch's convolutions, and what their arguments can say of the geometry of a case.

Sources: torch.nn.functional.conv2d (padding is the same at both ends; ``same`` needs stride 1),
torch.nn.ConvTranspose2d (padding is the same at both ends, output_padding adds rows at the end and must be smaller than
stride or dilation; output_size is an argument of the module's call).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conformance.arithmetic import Axis
from conformance.spec import Convolution
from conformance.targets.base import Unsupported
from conformance.targets.reasons import decline_onnx_spelling, symmetric_padding


def convolve(torch: Any, case: Convolution, x: Any, weight: Any, bias: Any = None) -> Any:
    """``conv*d`` between the case's large and small sides."""
    operator = getattr(torch.nn.functional, f"conv{case.rank}d")
    return operator(x, weight, bias, case.stride, padding(case), case.dilation, case.groups)


def convolve_transposed(torch: Any, case: Convolution, x: Any, weight: Any, bias: Any = None) -> Any:
    """``conv_transpose*d``; for a case that names its ``output_size``, the module (Dynamo can make none)."""
    pads, output_padding = _transposed_padding(case)
    if case.output_size is not None and not torch.compiler.is_dynamo_compiling():
        return _sized(torch, case, pads, x, weight, bias)
    operator = getattr(torch.nn.functional, f"conv_transpose{case.rank}d")
    return operator(x, weight, bias, case.stride, pads, output_padding, case.groups, case.dilation)


def padding(case: Convolution) -> str | tuple[int, ...]:
    """The ``padding`` argument of the convolution between the case's large and small sides."""
    decline_onnx_spelling(case, "torch")
    if case.padding == "same" and max(case.stride) > 1:
        raise Unsupported(f"torch's padding='same' needs stride 1, not {max(case.stride)}")
    return case.padding if isinstance(case.padding, str) else symmetric_padding(case, "torch")


def says_padding(case: Convolution) -> bool:
    """Whether the convolution's own ``padding`` can say the case's."""
    try:
        padding(case)
    except Unsupported:
        return False
    return True


def around(axes: Sequence[Axis]) -> list[int]:
    """``F.pad``'s argument that leaves exactly the rows that the windows of these axes reach; negative: crops."""
    return [pad for axis in reversed(axes) for pad in (axis.begin, axis.end)]  # F.pad counts from the last axis


def decline_transposed_words(case: Convolution, who: str) -> None:
    """Raise Unsupported for a spelling of the size that PyTorch has not, ONNX's or TensorFlow's."""
    decline_onnx_spelling(case, who)
    decline_words(case, who)


def decline_words(case: Convolution, who: str) -> None:
    """Raise Unsupported for padding given as a word."""
    if isinstance(case.padding, str):
        raise Unsupported(f"{who} has no padding='{case.padding}'")


def _transposed_padding(case: Convolution) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """``padding`` and ``output_padding`` that give the case's crop."""
    decline_transposed_words(case, "torch's transposed convolution")
    for axis in case.axes:
        added = axis.begin - axis.end
        if axis.begin < 0:
            raise Unsupported(f"torch's transposed convolution cannot add {-axis.begin} rows at the beginning")
        if added < 0:
            raise Unsupported(f"torch's transposed convolution cannot crop {-added} rows more at the end")
        if added >= (limit := max(axis.stride, axis.dilation)):
            raise Unsupported(f"torch's output_padding must be less than max(stride, dilation) = {limit}, not {added}")
    return tuple(a.begin for a in case.axes), tuple(a.begin - a.end for a in case.axes)


def _sized(torch: Any, case: Convolution, pads: tuple[int, ...], x: Any, weight: Any, bias: Any) -> Any:
    """The module, because only its call takes an ``output_size``."""
    for axis, (begin, end) in zip(case.axes, case.crop, strict=True):
        if begin - end >= axis.stride:
            raise Unsupported(f"torch's output_size adds less than stride {axis.stride} rows, not {begin - end}")
    layer = getattr(torch.nn, f"ConvTranspose{case.rank}d")(
        case.in_channels,
        case.out_channels,
        case.kernel,
        stride=case.stride,
        padding=pads,
        groups=case.groups,
        bias=case.bias,
        dilation=case.dilation,
        device="meta",  # its own parameters are never needed
    )
    return with_parameters(torch, layer, weight, bias)(x, output_size=list(case.large))


def with_parameters(torch: Any, layer: Any, weight: Any, bias: Any) -> Any:
    """The module with these parameters in place of its own."""
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    return layer
