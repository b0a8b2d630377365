"""Why a target declines a case: sentences that several targets share, and how a framework's own refusal is quoted."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from conformance.arithmetic.axis import convolved_size
from conformance.spec import Convolution, Deconvnet, MaxUnpool, ResponseNorm
from conformance.targets.base import Unsupported
from conformance.text import printable

_REFUSAL = re.compile(
    r"not implemented (for|yet)"  # torch: "x" not implemented for 'Half'; older reference evaluators: groups
    r"|do(es)? not yet support|not supported on CPU|currently only supports"  # TensorFlow's kernels
    r"|not supported in conjunction"  # tf.nn.convolution: strides with dilations
    r"|Could not find an implementation|Dilation not supported for AutoPadType"  # onnxruntime
    r"|official support for domain .* is till opset|Unsupported model IR version"  # its releases and newer opsets
    r"|can't be converted to MLDataType"  # and for arrays that it cannot be fed, of bfloat16
    r"|data type is not supported with"  # its ScatterElements in float16
    r"|No conversion rule found for|batch_size.get_length\(\) > 0"  # openvino: operators that it lacks; no images
    r"|can't convert np.ndarray of type"  # torch.from_numpy, for onnx2torch
    r"|only applies on 4D tensors"  # LRN of the reference evaluator
    r"|output_padding \(\d+\) may be too large for stride"  # its reading of "less than the stride/dilation dimension"
)
_NOISE = re.compile(
    r"\x1b\[\d*m|\{\{.*?\}\}\s*|\s*\[Op:.*"  # Keras's colours, TensorFlow's inner functions
    r"|\[ONNXRuntimeError\] : \d+ : \w+ : |Non-zero status code .*? Status Message: "
    r"|/onnxruntime_src/.*?(?=ONNX Runtime only|Unsupported model IR)"
)
_LONGEST = 160


@contextlib.contextmanager
def refusals(framework: str) -> Iterator[None]:
    """Turn an exception that says "I have no kernel for this" into Unsupported, and let all others pass."""
    try:
        yield
    except Unsupported:
        raise
    except Exception as error:
        if (reason := _refusal(error)) is None:
            raise
        raise Unsupported(f"{framework}: {reason}") from error


def quiet(text: str) -> str:
    """A framework's message without its colours and inner function names, on one line of printable characters."""
    return " ".join(printable(_NOISE.sub("", text)).split())


def _refusal(error: Exception) -> str | None:
    lines = str(error).splitlines() or [""]
    said = [line for line in lines if _REFUSAL.search(line)]
    if not said and type(error).__name__ == "UnimplementedError":  # TensorFlow's class for it
        said = lines
    return quiet(said[0])[:_LONGEST] if said else None


def decline_onnx_spelling(case: Convolution, framework: str) -> None:
    """Raise Unsupported for a case that is about ``auto_pad`` or ``output_shape``, which only ONNX has."""
    if case.auto_pad not in (None, "NOTSET"):
        raise Unsupported(f"{framework} has no auto_pad={case.auto_pad}")
    if case.output_shape is not None:
        raise Unsupported(f"{framework} has no output_shape that settles the padding, as ONNX has")


def symmetric_padding(case: Convolution, framework: str) -> tuple[int, ...]:
    """The zero padding, the same at both ends, of the convolution between the case's large and small sides.

    Where the last window ends before the padding does, an asymmetric pair is the same convolution as a symmetric one.
    Raises Unsupported where no symmetric padding gives these sizes.
    """
    for axis in case.axes:
        if axis.begin < 0 or convolved_size(axis.large, axis.extent, axis.stride, 2 * axis.begin) != axis.small:
            pair = f"{axis.begin} at the beginning and {axis.end} at the end"
            raise Unsupported(f"{framework}'s convolution cannot pad {pair}")
    return tuple(axis.begin for axis in case.axes)


def decline_beyond_gradient(case: Deconvnet) -> None:
    """Raise Unsupported where the way down does what no gradient of the way up does."""
    for step in (stage.step for stage in case.way_down):
        if isinstance(step, MaxUnpool) and step.overlapping and step.overlap != "sum":
            raise Unsupported(f"the gradient of overlapping pooling is unpooling with overlap: sum, not {step.overlap}")
        if isinstance(step, ResponseNorm):
            raise Unsupported("a gradient does not apply the response normalisation a second time")
        if isinstance(step, Convolution) and step.bias:
            raise Unsupported("a gradient has no bias")
