"""The stages of a chain, one after the other, each judged on what the target itself fed to it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from conformance.oracle import pooling
from conformance.oracle.bounds import Arithmetic
from conformance.oracle.steps import oracle_of
from conformance.problem import ChainProblem
from conformance.spec import Convolution, MaxPool, Stage, is_index
from conformance.verdict.base import Judgement, check_array
from conformance.verdict.steps import Expected, judge_step, near_known
from conformance.verdict.whole import judge_whole

Values = Mapping[str, np.ndarray]


@dataclass
class Stages:
    """The judgements so far, by the name of the stage's first tensor."""

    problem: ChainProblem
    returned: Values
    arithmetic: Arithmetic
    judged: dict[str, Judgement] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)
    """Tensors that no stage can be judged on: of another shape, or switches that may point anywhere."""
    followable: set[str] = field(default_factory=set)
    """Tensors found right, and so is all that they were made of, back to the image."""

    def judge(self, stage: Stage) -> Judgement | None:
        """The judgement of a stage; None where the target did not return what it takes."""
        given = [name for name in stage.gives if name in self.returned]
        for name in given:
            dtype = np.dtype(np.int64) if is_index(name) else self.problem.format.dtype
            if (wrong := check_array(self.returned[name], name, self.problem.values[name].shape, dtype)) is not None:
                self.unusable.update(stage.gives)
                return wrong
        if isinstance(stage.step, MaxPool) and (wrong := self._outside_windows(stage, stage.step)) is not None:
            return wrong
        sources = [self._source(name) for name in stage.reads]
        fed = [source for source in sources if source is not None]
        if stage.gives[0] not in given or len(fed) < len(sources):
            self.unusable.update(filter(is_index, stage.gives))  # switches that nobody has looked at
            return None
        key = (stage.name, self.arithmetic.name, self.arithmetic.bias_apart, *map(self._bits, (*stage.reads, *given)))
        if key not in self.problem.judged:
            self.problem.judged[key] = self._judge(stage, fed, [self.returned[name] for name in given])
        judgement: Judgement = self.problem.judged[key]
        self.judged[stage.gives[0]] = judgement
        if judgement.failed:
            self.unusable.update(filter(is_index, stage.gives))
        elif all(name in self.problem.tensors or name in self.followable for name in stage.reads):
            self.followable.update(given)
        return judgement

    def _outside_windows(self, stage: Stage, step: MaxPool) -> Judgement | None:
        """What is wrong with switches whatever was pooled: one that names no element of its window."""
        if not step.tells_switches:
            return None
        switches = self.returned.get(stage.gives[1])
        if switches is None or (inside := pooling.inside_window(step.axes, switches)).all():
            return None
        self.unusable.update(stage.gives)
        n = int(inside.argmin())
        expected = int(self.problem.values[stage.gives[1]].flat[n])
        place = ",".join(str(int(i)) for i in np.unravel_index(n, switches.shape))
        said = f"at [{place}] the switch {int(switches.flat[n])} is no element of its window; expected {expected}"
        return Judgement("deviates", "", math.inf, math.inf, math.inf, message=said)

    def _source(self, name: str) -> np.ndarray | None:
        """What a stage was fed under a name: a tensor of the case, or what the target returned."""
        if name in self.problem.tensors:
            return self.problem.tensors[name]
        source = None if name in self.unusable else self.returned.get(name)
        return source if source is None or np.isfinite(source.astype(np.float64)).all() else None

    def _judge(self, stage: Stage, fed: list[np.ndarray], got: list[np.ndarray]) -> Judgement:
        strict, dtype = self.problem.nothing_rounds, self.problem.case.dtype
        return judge_step(stage.step, fed, got, self._expected(stage, fed), dtype, self.arithmetic, strict)

    def _bits(self, name: str) -> bytes:
        """What identifies a tensor; those of the case are the same for all targets."""
        if name in self.problem.tensors:
            return name.encode()
        if name not in self.digests:
            array = np.ascontiguousarray(self.returned[name])
            self.digests[name] = hashlib.blake2b(
                array.view(np.uint8).data if array.size else b"", digest_size=16
            ).digest()
        return self.digests[name]

    def whole(self) -> Judgement:
        """The judgement of the whole, for what the target returned."""
        key: tuple[object, ...] = ("whole", self.arithmetic.name, self.arithmetic.bias_apart, *self.judged)
        key += tuple((name, self._bits(name)) for name in self.known)
        if key not in self.problem.judged:
            self.problem.judged[key] = judge_whole(self.problem, self.returned, self.trusted, self.arithmetic)
        judgement: Judgement = self.problem.judged[key]
        return judgement

    def _expected(self, stage: Stage, fed: list[np.ndarray]) -> Expected:
        """What the stage gives for what it was fed: known already where that is what the problem has."""
        problem = self.problem
        own = [problem.tensors[name] if name in problem.tensors else problem.values[name] for name in stage.reads]
        known = tuple(problem.values[name] for name in stage.gives)
        if all(a is b or np.array_equal(a, b) for a, b in zip(fed, own, strict=True)):
            return Expected(known)
        if isinstance(stage.step, Convolution) and problem.case.dtype != "float64":
            near = near_known(stage.step, fed, own, known[0], lambda: self._magnitude(stage, own))
            if near is not None:
                return Expected((near[0],), near[1])
        return Expected(oracle_of(stage.step).exact(stage.step, *fed))

    def _magnitude(self, stage: Stage, own: list[np.ndarray]) -> np.ndarray:
        """A of a convolution on what the problem has, computed once for all targets."""
        key = ("magnitude", stage.name)
        if key not in self.problem.judged:
            self.problem.judged[key] = oracle_of(stage.step).roundings(stage.step, *own).magnitude  # type: ignore[union-attr]
        magnitude: np.ndarray = self.problem.judged[key]
        return magnitude

    @property
    def trusted(self) -> set[str]:
        """The stages of which all that they give was returned and found right, and all that led to it."""
        return {stage.name for stage in self.problem.case.stages if self.followable.issuperset(stage.gives)}

    @property
    def known(self) -> list[str]:
        """Those of the returned tensors that the chain has a name for."""
        return [name for name in self.returned if name in self.problem.values]

    @property
    def complete(self) -> bool:
        return all(stage.gives[0] in self.judged for stage in self.problem.case.stages)

    def summary(self, whole: Judgement) -> Judgement:
        """The verdict on a chain whose stages are all right."""
        if whole.failed:
            alone = "every stage is right on what it was said to be fed, but the result is not theirs"
            return replace(whole, diagnosis=alone) if self.complete else whole
        unclear = [j for j in (*self.judged.values(), whole) if j.verdict == "ambiguous"]
        usages = [j.bound_usage for j in (*self.judged.values(), whole) if j.bound_usage is not None]
        spreads = [j.rms_usage for j in (*self.judged.values(), whole) if j.rms_usage is not None]
        exact = all(j.verdict == "exact" for j in (*self.judged.values(), whole))
        return Judgement(
            "ambiguous" if unclear else "exact" if exact else "within_bound",
            "",
            whole.max_abs_error,
            max(usages, default=None),
            max(spreads, default=None),
            diagnosis=unclear[0].diagnosis if unclear else "",
        )
