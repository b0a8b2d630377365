"""Targets that are an exporter and a runtime: the file is made in one worker, kept, and run in another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from conformance.execution.pool import Answer, Pool, Task
from conformance.execution.specs import ExporterSpec, TargetSpec
from conformance.execution.transfer import unpack
from conformance.execution.worker import LOST
from conformance.outcome import Outcome
from exporters.base import parameters
from exporters.cache import Cache, key_of

APART = "+bias"


@dataclass(frozen=True, slots=True)
class _Export:
    """The tag of the task that makes the file of a key."""

    key: str


class LocalExecutor(Pool):
    """A pool of workers on this machine, whose targets may be an exporter followed by a runtime.

    Exporters start only if there is something to export.  A file is made once, however many runtimes wait for it.
    """

    def __init__(self, specs: Iterable[TargetSpec], *, jobs: int = 1, threads: int = 1, timeout: float = 60.0) -> None:
        self._specs = {spec.name: spec for spec in specs}
        exporters = {spec.exporter.name: spec.exporter for spec in self._specs.values() if spec.exporter is not None}
        self.exported = 0
        self._cache = Cache()
        self._waiting: dict[str, list[Task]] = {}
        self._retried: set[tuple[str, str]] = set()
        super().__init__([*self._specs.values(), *exporters.values()], jobs=jobs, threads=threads, timeout=timeout)

    def close(self) -> None:
        super().close()
        if self.exported:
            self._cache.prune()

    def submit(self, task: Task) -> None:
        """Queue a task.  One of an exporter and a runtime first gets its file, unless that is there already."""
        exporter = self._specs[task.target].exporter
        if exporter is None:
            super().submit(task)
            return
        key = key_of(task.case, parameters(unpack(task.payload)), exporter.identity)
        self._go_on(replace(task, model=key), exporter)

    def poll(self, timeout: float) -> list[Answer]:
        answers: list[Answer] = []
        for task, outcome in super().poll(timeout):
            if isinstance(task.tag, _Export):
                answers += self._exported(task.tag, outcome)
            elif task.model and LOST in outcome.message and self._first_loss(task):
                self._export(task, self._exporter(task))
            else:
                answers.append((task, outcome))
        return answers

    def describe(self, name: str, said: dict[str, str]) -> dict[str, str]:
        """What a target says of itself, with its exporter: a bias of its own in the graph is one in what runs it."""
        spec = self._specs.get(name)
        if spec is None or spec.exporter is None or "error" in said:
            return said
        versions = ", ".join(f"{package} {version}" for package, version in spec.exporter.versions.items())
        promised = said.get("arithmetic", "native").removesuffix(APART)
        apart = APART in spec.exporter.arithmetic + said.get("arithmetic", "")
        return said | {"exporter": versions, "arithmetic": promised + APART * apart}

    def _go_on(self, task: Task, exporter: ExporterSpec) -> None:
        entry = self._cache.find(task.model)
        if entry is None:
            self._export(task, exporter)
        elif entry.kind == "returned":
            super().submit(task)
        else:
            self.answer_later(task, Outcome(entry.kind, message=_by(exporter, entry.message)))  # type: ignore[arg-type]

    def _export(self, task: Task, exporter: ExporterSpec) -> None:
        waiting = self._waiting.setdefault(task.model, [])
        waiting.append(task)
        if len(waiting) == 1:
            self.exported += 1
            super().submit(Task(exporter.name, task.case, task.payload, _Export(task.model), task.model))

    def _exported(self, export: _Export, outcome: Outcome) -> Sequence[Answer]:
        answers: list[Answer] = []
        for task in self._waiting.pop(export.key):
            if outcome.kind == "returned":
                super().submit(task)
            else:
                answers.append((task, replace(outcome, message=_by(self._exporter(task), outcome.message))))
        return answers

    def _exporter(self, task: Task) -> ExporterSpec:
        exporter = self._specs[task.target].exporter
        assert exporter is not None
        return exporter

    def _first_loss(self, task: Task) -> bool:
        lost = (task.target, task.model)
        first = lost not in self._retried
        self._retried.add(lost)
        return first


def _by(exporter: TargetSpec, message: str) -> str:
    return f"{exporter.name}: {message}"
