"""What a target is.

A target runs a case on a framework's own API, and emulates nothing: what the API cannot say is `Unsupported`.  Anything
with these four members is a target; nobody has to inherit from `OpTarget`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from conformance.spec import Case

Tensors = Mapping[str, np.ndarray]


class Unsupported(Exception):
    """The target's API cannot say this case; the text gives the reason."""


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

    The constructor gets the number of threads that the framework may use.
    """

    name: str
    arithmetic = "native"

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        method = getattr(self, case.op, None)
        if method is None:
            raise Unsupported(f"{self.name} has no {case.op}")
        return {"output": method(case, tensors)}
