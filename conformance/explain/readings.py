"""The same activation under other policies, by the oracle: what implementations of the deconvnet differ in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from conformance.explain.network import Tensors
from conformance.oracle.chains import walk
from conformance.spec import Convolution, Deconvnet, MaxPool, Rectify, ResponseNorm
from conformance.spec.steps import BIAS_DOWNS, NORM_DOWNS, OVERLAPS, RECTIFICATIONS


@dataclass(frozen=True)
class Reading:
    """A projection, ``(C, H, W)``, under one policy that is not the case's own, or under its own (``policy`` empty).

    ``distance`` is how far it is from the case's own, relative to that; None where that is all zero.
    """

    policy: str
    value: str
    signal: np.ndarray = field(repr=False)
    distance: float | None = 0.0

    @property
    def empty(self) -> bool:
        return not self.signal.any()


def alternatives(case: Deconvnet) -> list[tuple[str, str]]:
    """The policies, with each other value, that may change something in this network."""
    values = {"overlap": OVERLAPS, "rectify": RECTIFICATIONS, "lrn_down": NORM_DOWNS, "bias_down": BIAS_DOWNS}
    return [
        (policy, value)
        for policy, known in values.items()
        if policy in concerned(case)
        for value in known
        if value != getattr(case, policy)
    ]


def concerned(case: Deconvnet) -> list[str]:
    """The policies that the network has layers for."""
    steps = [layer.step for layer in case.layers]
    biased = [step.bias for step in steps if isinstance(step, Convolution)]
    present = {
        "overlap": any(isinstance(step, MaxPool) and step.overlapping for step in steps),
        "rectify": any(isinstance(step, Rectify) for step in steps),
        "lrn_down": any(isinstance(step, ResponseNorm) for step in steps),
        "bias_down": any(biased[:-1]),
    }
    return [policy for policy, there in present.items() if there]


def read_otherwise(case: Deconvnet, tensors: Tensors, up: Tensors, own: np.ndarray) -> Iterator[Reading]:
    """The case's own projection, then those under each other policy, one changed at a time."""
    yield Reading("", "", own)
    for policy, value in alternatives(case):
        other: Deconvnet = replace(case, **{policy: value})  # type: ignore[arg-type]
        signal = walk(other.stages, tensors, up)["output"][0]
        yield Reading(policy, value, signal, _distance(signal, own))


def _distance(signal: np.ndarray, own: np.ndarray) -> float | None:
    size = float(np.linalg.norm(own))
    return float(np.linalg.norm(signal - own)) / size if size else None
