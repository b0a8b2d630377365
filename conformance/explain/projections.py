"""Projections to pixels: by the oracle, and by targets in their workers, judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from conformance.engine import run_problem
from conformance.execution import LocalExecutor, TargetSpec
from conformance.explain.activations import Activation
from conformance.explain.network import Tensors
from conformance.oracle.chains import walk
from conformance.outcome import Outcome
from conformance.problem import ChainProblem
from conformance.spec import MaxUnpool
from conformance.verdict import Judgement, judge_parts


@dataclass(frozen=True)
class Projection:
    """What a target made of an activation.

    ``signal`` is ``(C, H, W)`` in float64, ``difference`` the same minus the oracle's; None where nothing of the right
    shape came back.  ``moved`` counts switches on the signal's way that are not the oracle's: rounding may move the
    maximum of a window, and a verdict follows the target's own choice.
    """

    judgement: Judgement
    signal: np.ndarray | None = field(default=None, repr=False)
    difference: np.ndarray | None = field(default=None, repr=False)
    moved: int = 0

    @property
    def largest(self) -> float:
        """The largest absolute difference from the oracle; infinite where something is not finite."""
        if self.difference is None or not self.difference.size:
            return 0.0
        largest = float(np.abs(self.difference).max())
        return largest if np.isfinite(largest) else np.inf


def of_every_library(specs: Sequence[TargetSpec]) -> list[TargetSpec]:
    """The first target of each library that is under test."""
    first: dict[str, TargetSpec] = {}
    for spec in specs:
        first.setdefault(spec.requires[0] if spec.requires else spec.name, spec)
    return list(first.values())


class Projector:
    """Projects one activation after the other through the same network.

    ``up`` is what the oracle recorded on the way up.  What was judged there is judged once for all activations.
    """

    def __init__(self, tensors: Tensors, up: Tensors, executor: LocalExecutor) -> None:
        self._tensors, self._up, self._executor = tensors, up, executor
        self._judged: dict[object, Judgement] = {}

    def exact(self, activation: Activation) -> ChainProblem:
        """The problem of an activation; its ``exact`` is the oracle's projection."""
        values = walk(activation.case.stages, self._tensors, self._up)
        return ChainProblem(activation.case, "rounding", self._tensors, values, dict(self._judged))

    def project(self, problem: ChainProblem, targets: Sequence[str]) -> Iterator[tuple[str, Projection]]:
        """Every target's projection, as they come."""
        for name, (outcome,) in run_problem(problem, targets, self._executor):
            promised = self._executor.descriptions.get(name, {}).get("arithmetic", "native")
            judgement = judge_parts(problem, (outcome,), promised)
            yield name, as_projection(problem, outcome, judgement)
        names = {stage.name for stage in problem.case.stages if stage.name in self._up}
        self._judged |= {k: j for k, j in problem.judged.items() if isinstance(k, tuple) and k[0] in names}


def as_projection(problem: ChainProblem, outcome: Outcome, judgement: Judgement) -> Projection:
    """What came back, beside the oracle's."""
    signal = outcome.tensors.get("output")
    if signal is None or signal.shape != problem.exact.shape:
        return Projection(judgement)
    wide = signal[0].astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = wide - problem.exact[0]
    return Projection(judgement, wide, difference, _moved(problem, outcome))


def _moved(problem: ChainProblem, outcome: Outcome) -> int:
    """Switches that differ from the oracle's where the oracle's signal passes."""
    count = 0
    for stage in problem.case.stages:
        if isinstance(stage.step, MaxUnpool):
            signal, switches = (problem.values[name] for name in stage.reads)
            taken = outcome.tensors.get(stage.reads[1])
            if taken is not None and taken.shape == switches.shape:
                count += int(np.count_nonzero((taken != switches) & (signal != 0)))
    return count
