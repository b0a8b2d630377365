"""A chain whose stages run one by one, for runtimes that otherwise hand on what no stage returns.

A runtime that computes a whole float16 graph in float32 rounds only what leaves the graph: inside, a stage does not get
what the stage before it is said to have returned, and no judgement of that stage means anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from conformance.spec import Case, Chain, Stage
from conformance.targets.base import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class OneStage(Chain):
    """A stage of a chain by itself."""

    stage: Stage

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (self.stage,)


def stage_by_stage(case: Chain, tensors: Tensors, run: Callable[[Case, Tensors], Tensors]) -> Tensors:
    """What a chain tells, every stage being a case of its own for ``run``."""
    values = dict(tensors)
    for stage in case.stages:
        alone = OneStage(id=case.id, op=case.op, dtype=case.dtype, onnx=case.onnx, stage=stage)
        values |= run(alone, {name: values[name] for name in stage.reads})
    return {name: values[name] for name in case.told}
