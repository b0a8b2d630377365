"""What a target is.

A target runs a case on a framework's own API, and emulates nothing: what the API cannot say is `Unsupported`.  Anything
with these four members is a target; nobody has to inherit from `OpTarget`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

from conformance.spec import Case, MaxPool, MaxUnpool

Tensors = Mapping[str, np.ndarray]
Function = Callable[..., Any]


class Unsupported(Exception):
    """The target's API cannot say this case; the text gives the reason."""


def decline_onnx_words(case: Case, framework: str) -> None:
    """Raise Unsupported for a case that is about words of ONNX which do not come down to sizes.

    ``auto_pad`` and ``output_shape`` of convolutions do; some frameworks can say them.
    """
    if case.onnx is not None:
        raise Unsupported(f"{framework}: `onnx` words are ONNX's own")
    if isinstance(case, MaxPool) and case.auto_pad is not None:
        raise Unsupported(f"{framework} has no auto_pad={case.auto_pad}")
    if isinstance(case, MaxUnpool) and case.output_shape is not None:
        raise Unsupported(f"{framework} has no output_shape of any size, as ONNX has")


class Target(Protocol):
    """Something under test."""

    name: str
    """``[exporter:]runtime[@device]``, e.g. ``torch@cpu``."""

    arithmetic: str
    """What it promises: ``native`` is float32 sums for float16, bfloat16 and float32, and float64 for float64.

    Other names are those of `conformance.oracle.bounds`, such as ``tf32``.  ``+bias`` after the name says that the bias
    is added by an operation of its own, which rounds a second time.
    """

    def environment(self) -> dict[str, str]:
        """Versions, device and settings that its results depend on."""
        ...

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        """Run a case on tensors in the canonical layout and return its outputs by name.

        Raises Unsupported where the API cannot say the case; any other exception counts as a failure of the target.
        """
        ...


class OpTarget:
    """A target with one method per op, named like the op: ``conv_transpose(case, tensors) -> np.ndarray``.

    The constructor gets the number of threads that the framework may use.  ``runs_onnx`` says that it runs models of
    ONNX, and so can say a case in ONNX's own words.
    """

    name: str
    runs_onnx: ClassVar[bool] = False
    arithmetic = "native"

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        if not self.runs_onnx:
            decline_onnx_words(case, self.name)
        return self.outputs(case, tensors)

    def compiled(self, case: Case, function: Function) -> Function:  # noqa: ARG002
        """What is called in place of a function on the framework's own tensors; here the function itself."""
        return function

    def outputs(self, case: Case, tensors: Tensors) -> Tensors:
        """What the method of the op gives.  Raises Unsupported where there is none."""
        method = getattr(self, case.op, None)
        if method is None:
            raise Unsupported(f"{self.name} has no {case.op}")
        return {"output": method(case, tensors)}
