"""What an exporter is, and what it gives.

An exporter turns a case and its weights into an ONNX file, with the framework's own export and nothing of ours after
it.  It exports the very module or graph that the framework's target runs, and returns what the case returns, not every
stage, as a deployed model does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from conformance.spec import Case, Chain, is_parameter
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.chain import CHAINS

LARGEST_WEIGHTS = 2**30
"""Bytes of weights beyond which nothing is exported: a serialized ``ModelProto`` ends at 2 GiB."""


@dataclass(frozen=True, slots=True)
class Binding:
    """How a value of the graph carries a tensor of the case: its name there, and whether its channels come last."""

    name: str
    tensor: str
    channels_last: bool = False

    def outward(self, array: np.ndarray) -> np.ndarray:
        """A canonical tensor ``(N, C, *spatial)`` as the graph wants it."""
        return np.moveaxis(array, 1, -1) if self.channels_last else array

    def inward(self, array: np.ndarray) -> np.ndarray:
        """A value of the graph as a canonical tensor."""
        return np.moveaxis(array, -1, 1) if self.channels_last and array.ndim > 2 else array


@dataclass(frozen=True, slots=True)
class Exported:
    """An ONNX file, how it is fed, and what it gives.

    ``shapes`` are those that strict shape inference finds for the outputs, None where it leaves a size open;
    ``faults`` say what is wrong with the file itself.
    """

    model: bytes
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    shapes: tuple[tuple[int | None, ...] | None, ...] = ()
    faults: tuple[str, ...] = ()

    def feeds(self, tensors: Tensors) -> dict[str, np.ndarray]:
        """What the graph is fed, by its own names.  Inputs that an exporter has dropped are not fed."""
        return {b.name: np.ascontiguousarray(b.outward(tensors[b.tensor])) for b in self.inputs}

    def results(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The canonical tensors that the graph's outputs carry."""
        return {b.tensor: b.inward(np.asarray(v)) for b, v in zip(self.outputs, values, strict=True)}

    def misinferred(self, values: Sequence[np.ndarray]) -> list[str]:
        """Where shape inference and what came out contradict each other, in words."""
        said = zip(self.outputs, self.shapes, values, strict=False)
        return [
            f"shape inference says {_sizes(shape)} for {binding.name}, {_sizes(np.shape(value))} comes out"
            for binding, shape, value in said
            if shape is not None and not _agree(shape, np.shape(value))
        ]


class Exporter(Protocol):
    """A way from a framework to an ONNX file."""

    name: str
    """As in ``name:runtime@device``, e.g. ``torch-dynamo``."""

    arithmetic: str
    """``native``, or ``native+bias`` where the exported graph adds the bias by an operation of its own."""

    symbolic: bool
    """Whether batch and, where the op's geometry allows it, spatial sizes are left open in the file."""

    def environment(self) -> dict[str, str]:
        """Versions and settings that the file depends on."""
        ...

    def export(self, case: Case, tensors: Tensors) -> Exported:
        """The file for a case with these weights.

        ``tensors`` are all tensors of the case; those that are no parameters tell shapes only.  Raises Unsupported
        where the framework cannot say the case; any other exception counts as a failure of the exporter.
        """
        ...


def decline_other_routes(case: Case) -> None:
    """Raise Unsupported for an op that is another route to a case's result, as a deconvnet taken as one gradient.

    The file would be that of the case itself, and compared with itself.
    """
    if isinstance(case, Chain) and case.op not in CHAINS:
        raise Unsupported(f"{case.op} is another way to compute the same; the file would be the same")


def parameters(tensors: Tensors) -> dict[str, np.ndarray]:
    """The tensors that become part of the model."""
    return {name: array for name, array in tensors.items() if is_parameter(name)}


def fed(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors that the model is fed."""
    return {name: array for name, array in tensors.items() if not is_parameter(name)}


def _agree(inferred: Sequence[int | None], actual: Sequence[int]) -> bool:
    return len(inferred) == len(actual) and all(i is None or i == a for i, a in zip(inferred, actual, strict=True))


def _sizes(shape: Sequence[int | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "a scalar"


def graph_name(name: str) -> str:
    """The name of a tensor as one that the graphs of every framework may have."""
    return name.replace(".", "_")
