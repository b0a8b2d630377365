"""One run: cases are posed, run on every target and judged, as a stream."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from conformance.deviations import Register, Stale, settle
from conformance.execution import LocalExecutor, Parcel, TargetSpec, Task
from conformance.execution.names import RESERVED as ORACLE
from conformance.machine import cpu_features, cpu_model
from conformance.outcome import Outcome
from conformance.problem import Problem, pose
from conformance.runs import Record
from conformance.spec import Case, case_digest
from conformance.verdict import Judgement, judge_published, judge_repeated
from conformance.version import VERSION

MAX_PROBLEMS = 64
MAX_BYTES = 400 * 2**20
BYTES_PER_ELEMENT = 24
IDLE_SECONDS = 1.0
SEED = 0
"""Of the numbers that are drawn; the same for all runs, so that runs can be compared."""

Keys = Collection[tuple[str, str, str]]


@dataclass(eq=False)
class _Posed:
    """A problem under way: its targets have not all answered.

    ``parcels`` hold the tensors of its parts, ``outcomes`` what each target has made of them so far, by number: all
    parts of the first run, then those of the next.
    """

    problem: Problem
    parcels: tuple[Parcel, ...]
    digest: str
    repeat: int = 1
    open: int = 0
    outcomes: dict[str, dict[int, Outcome]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict with what it was made from: ``outcomes`` of all parts, of one run after another."""

    record: Record
    problem: Problem
    promised: str = "native"
    outcomes: tuple[Outcome, ...] = ()


@dataclass(eq=False)
class _Stream:
    """What is under way, bounded in number and in bytes."""

    register: Register
    versions: dict[str, dict[str, str]]
    posed: set[_Posed] = field(default_factory=set)
    nbytes: int = 0
    descriptions: dict[str, dict[str, str]] = field(default_factory=dict)

    def full(self, case: Case) -> bool:
        """Whether another case has to wait; one alone may be as large as it likes."""
        coming = case.elements * BYTES_PER_ELEMENT
        return len(self.posed) > 0 and (len(self.posed) >= MAX_PROBLEMS or self.nbytes + coming > MAX_BYTES)

    def add(self, posed: _Posed) -> None:
        self.posed.add(posed)
        self.nbytes += posed.problem.nbytes

    def close(self, posed: _Posed) -> None:
        self.posed.remove(posed)
        self.nbytes -= posed.problem.nbytes
        for parcel in posed.parcels:
            parcel.close()


def run(
    cases: Iterable[Case], targets: Sequence[TargetSpec], executor: LocalExecutor, **options: Any
) -> Iterator[Record]:
    """The verdicts alone of `judged_run`, which takes the same ``options``."""
    return (judged.record for judged in judged_run(cases, targets, executor, **options))


def judged_run(
    cases: Iterable[Case],
    targets: Sequence[TargetSpec],
    executor: LocalExecutor,
    *,
    data: Collection[str] = (),
    seed: int = SEED,
    repeat: int = 1,
    done: Keys = (),
    only: Keys | None = None,
    register: Register | None = None,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[Judged]:
    """Run every case on every target and yield the verdicts as they come, each with what came back.

    ``data`` limits the kinds of data (all that a case asks for, if empty); ``done`` are verdicts that are there
    already, as keys of `Record` with the case's digest in place of its id (see `case_digest`); ``only`` are the keys of
    those that are wanted, if not all.  ``waiting`` is called
    about once a second while nothing comes.  ``repeat`` runs every problem so many times, to see whether the results
    are the same.  ``register`` holds the deviations that are documented.  A case that publishes its result is also
    judged on the oracle, under the target name ``oracle``.
    """
    versions = {spec.name: spec.versions for spec in targets}
    stream = _Stream(register or Register(), versions, descriptions=executor.descriptions)
    try:
        for case, kind in _wanted(cases, data):
            digest = case_digest(case)
            named = [spec.name for spec in targets if _concerns(spec, case)] + [ORACLE] * _publishes(case)
            wanted = [name for name in named if only is None or (case.id, name, kind) in only]
            open_targets = [name for name in wanted if name != ORACLE and (digest, name, kind) not in done]
            judge_oracle = ORACLE in wanted and (digest, ORACLE, kind) not in done
            if not open_targets and not judge_oracle:
                continue
            while stream.full(case):
                yield from _collect(executor, stream, IDLE_SECONDS, waiting)
            problem = pose(case, kind, seed)
            if judge_oracle:
                yield Judged(record_of(problem, ORACLE, judge_published(problem), 0.0, digest), problem)
            posed = _Posed(problem, tuple(Parcel(tensors) for _, tensors in problem.parts), digest, repeat)
            _submit(posed, open_targets, executor, stream)
            yield from _collect(executor, stream, 0.0)
        while stream.posed:
            yield from _collect(executor, stream, IDLE_SECONDS, waiting)
    finally:
        for posed in list(stream.posed):
            stream.close(posed)


def run_problem(
    problem: Problem, targets: Sequence[str], executor: LocalExecutor
) -> Iterator[tuple[str, list[Outcome]]]:
    """Run one problem on every target, and yield the outcomes of its parts as a target has done them all."""
    parcels = [Parcel(tensors) for _, tensors in problem.parts]
    outcomes: dict[str, dict[int, Outcome]] = {name: {} for name in targets}
    try:
        for part, ((case, _), parcel) in enumerate(zip(problem.parts, parcels, strict=True)):
            for name in targets:
                executor.submit(Task(name, _bare(case), parcel.payload, part))
        while outcomes:
            for task, outcome in executor.poll(IDLE_SECONDS):
                have = outcomes[task.target]
                have[task.tag] = outcome  # type: ignore[index]
                if len(have) == len(parcels):
                    yield task.target, [have[part] for part in range(len(parcels))]
                    del outcomes[task.target]
    finally:
        for parcel in parcels:
            parcel.close()


def _bare(case: Case) -> Case:
    """The case without the numbers that it brings along: workers get them as tensors."""
    return case if case.vectors is None else replace(case, vectors=None)


def cells(
    cases: Iterable[Case], targets: Sequence[TargetSpec], data: Collection[str] = ()
) -> Iterator[tuple[Case, str, str]]:
    """The verdicts that a run will have: case, kind of data and name of the target."""
    for case, kind in _wanted(cases, data):
        if _publishes(case):
            yield case, kind, ORACLE
        for spec in targets:
            if _concerns(spec, case):
                yield case, kind, spec.name


def stale(
    register: Register, cases: Iterable[Case], targets: Sequence[TargetSpec], shown: Collection[str]
) -> list[Stale]:
    """Deviations of these targets that none of the cases shows; ``shown`` are the ids of those that came."""
    versions = {spec.name: spec.versions for spec in targets}
    named = ((case, case_digest(case), kind, name) for case, kind, name in cells(cases, targets) if name != ORACLE)
    return register.stale(named, versions, shown)


def environment(targets: Sequence[TargetSpec], **options: Any) -> dict[str, Any]:
    """What a run is made with, as far as the parent knows; targets describe themselves when they have started."""
    versions = {name: version for spec in targets for name, version in spec.versions.items()}
    return {
        "conformance": VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": {"model": cpu_model(), "features": sorted(cpu_features())},
        "numpy": np.__version__,
        "targets": [spec.name for spec in targets],
        "versions": versions,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **options,
    }


def _wanted(cases: Iterable[Any], data: Collection[str]) -> Iterator[tuple[Any, str]]:
    for case in cases:
        for kind in case.data:
            if not data or kind in data:
                yield case, kind


def _concerns(spec: TargetSpec, case: Case) -> bool:
    """Whether a target has anything to say about an op."""
    return not spec.ops or case.op in spec.ops


def _publishes(case: Case) -> bool:
    """Whether a case says what must come out; such a case has no other data."""
    return case.vectors is not None and bool(case.vectors.expected)


def _submit(posed: _Posed, names: Sequence[str], executor: LocalExecutor, stream: _Stream) -> None:
    posed.open = len(names)
    posed.outcomes = {name: {} for name in names}
    stream.add(posed)
    parts = list(zip(posed.problem.parts, posed.parcels, strict=True)) * posed.repeat
    for number, ((case, _), parcel) in enumerate(parts):
        for name in names:
            executor.submit(Task(name, _bare(case), parcel.payload, (posed, number)))
    if not names:
        stream.close(posed)


def _collect(
    executor: LocalExecutor, stream: _Stream, timeout: float, waiting: Callable[[], None] = lambda: None
) -> Iterator[Judged]:
    """Judge what has come."""
    answers = executor.poll(timeout)
    if not answers:
        waiting()
    for task, outcome in answers:
        assert isinstance(task.tag, tuple)
        posed, number = task.tag
        outcomes = posed.outcomes[task.target]
        outcomes[number] = outcome
        if len(outcomes) < len(posed.parcels) * posed.repeat:
            continue
        yield _judged(posed, task.target, [outcomes[n] for n in range(len(outcomes))], stream)
        del posed.outcomes[task.target]
        posed.open -= 1
        if not posed.open:
            stream.close(posed)


def _judged(posed: _Posed, target: str, outcomes: Sequence[Outcome], stream: _Stream) -> Judged:
    said = stream.descriptions.get(target, {})
    promised = said.get("arithmetic", "native")
    parts = len(posed.parcels)
    runs = [outcomes[n : n + parts] for n in range(0, len(outcomes), parts)]
    judgement = judge_repeated(posed.problem, runs, promised)
    seconds = sum(outcome.seconds for outcome in outcomes) / posed.repeat
    predicted = stream.register.predicted(
        posed.problem.case, posed.digest, posed.problem.data, target, said | stream.versions.get(target, {})
    )
    settled = settle(judgement, predicted)
    record = record_of(posed.problem, target, settled.judgement, seconds, posed.digest)
    record = replace(record, known=settled.known, deviation=settled.deviation)
    return Judged(record, posed.problem, promised, tuple(outcomes))


def record_of(problem: Problem, target: str, judgement: Judgement, seconds: float = 0.0, digest: str = "") -> Record:
    """A judgement as it is kept."""
    return Record(
        case=problem.case.id,
        target=target,
        data=problem.data,
        verdict=judgement.verdict,
        known=False,
        arithmetic=judgement.arithmetic,
        max_abs_error=judgement.max_abs_error,
        bound_usage=judgement.bound_usage,
        rms_usage=judgement.rms_usage,
        diagnosis=judgement.diagnosis,
        message=judgement.message,
        seconds=seconds,
        digest=digest,
    )
