"""Where the text of ONNX can be read so that a case is no legal model, and a runtime may fail on it."""

from __future__ import annotations

from conformance.problem import ChainProblem, Problem
from conformance.spec import Convolution, MaxUnpool
from conformance.verdict.steps import in_inferred_sizes


def refusal(problem: Problem) -> str:
    """The reading under which a runtime of ONNX has to refuse the problem; empty where there is none.

    A case that is not about ONNX's own words never has one: what others may refuse their documentation says.
    """
    case = problem.case
    if isinstance(case, MaxUnpool) and case.output_shape is not None and isinstance(problem, ChainProblem):
        others = in_inferred_sizes(case, problem.tensors["input"], problem.tensors["indices"])
        return next((f"{name}, and have no place there" for name, other in others.items() if other is None), "")
    if case.onnx is None:
        return ""
    if case.onnx.pads is not None and getattr(case, "auto_pad", None) not in (None, "NOTSET"):
        return "pads cannot stand beside auto_pad"
    if isinstance(case, Convolution) and case.output_padding is not None:
        beyond = any(added >= axis.stride for axis, added in zip(case.axes, case.output_padding, strict=True))
        return "output_padding has to be below the stride, whatever the dilation" if beyond else ""
    return ""
