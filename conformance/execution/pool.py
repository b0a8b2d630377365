"""Worker processes: one or more per framework, started once, fed over pipes, replaced when they die.

Each worker has a pipe of its own and nothing is shared between workers, so that one that is killed at any moment, even
half-way through sending an answer, is seen as the end of its pipe and costs one outcome.  (Pools that share a queue and
its locks between workers were tried, pebble among them: a worker killed while it sends leaves them waiting for ever.)

The parent is a single thread that never waits for a worker that may wait for it: a worker is sent more than it is
working on only if that fits into the pipe's buffer.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

from conformance.execution import worker
from conformance.execution.registry import TargetSpec
from conformance.execution.transfer import Payload
from conformance.outcome import Outcome
from conformance.spec import Case
from conformance.targets.reasons import quiet

STARTUP_SECONDS = 300.0
STARTUP_TRIES = 2
PIPE_BYTES = 2**15  # half of Linux's pipe buffer
LOG_BYTES = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One case to be run on one target; ``tag`` is the caller's own."""

    target: str
    case: Case
    payload: Payload
    tag: object


Answer = tuple[Task, Outcome]
Packed = tuple[Task, memoryview]


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: connection.Connection
    since: float
    ready: bool = False
    sent: deque[Packed] = field(default_factory=deque)

    @property
    def room(self) -> int:
        """Bytes that can be sent without waiting; any number if it is idle and so reads at once."""
        if not self.ready:
            return 0
        return PIPE_BYTES - sum(len(data) for _, data in self.sent) if self.sent else 2**62


@dataclass(eq=False)
class _Group:
    """The targets of one framework and their workers."""

    specs: list[TargetSpec]
    waiting: deque[Packed] = field(default_factory=deque)
    workers: list[_Worker] = field(default_factory=list)
    failed_starts: int = 0
    broken: Outcome | None = None


class LocalExecutor:
    """Runs tasks in worker processes on this machine.

    ``jobs`` is the number of workers to aim for; every framework has at least one.  ``threads`` is how many threads a
    framework may use inside its worker.  ``timeout`` is in seconds per case.
    """

    def __init__(self, specs: Iterable[TargetSpec], *, jobs: int = 1, threads: int = 1, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self.threads = threads
        self.descriptions: dict[str, dict[str, str]] = {}
        self._context = multiprocessing.get_context("spawn")
        self._folder = tempfile.mkdtemp(prefix="conformance-")
        self._groups: dict[str, _Group] = {}
        for spec in specs:
            self._groups.setdefault(spec.framework, _Group([])).specs.append(spec)
        self._group_of = {spec.name: group for group in self._groups.values() for spec in group.specs}
        each = max(jobs // max(len(self._groups), 1), 1)
        for group in self._groups.values():
            for _ in range(each):
                self._start(group)

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        for group in self._groups.values():
            for w in group.workers:
                w.process.kill()
            for w in group.workers:
                w.process.join()
                w.pipe.close()
            group.workers.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def starting(self) -> list[str]:
        """Frameworks none of whose workers has answered yet."""
        return [name for name, g in self._groups.items() if not g.broken and not any(w.ready for w in g.workers)]

    def submit(self, task: Task) -> None:
        """Queue a task; `poll` returns its outcome later."""
        data = ForkingPickler.dumps((task.target, task.case, task.payload))
        group = self._group_of[task.target]
        group.waiting.append((task, memoryview(data)))
        self._feed(group)

    def poll(self, timeout: float) -> list[Answer]:
        """Outcomes that have come, waiting at most ``timeout`` seconds for the first."""
        answers: list[Answer] = []
        pipes = {w.pipe: (group, w) for group in self._groups.values() for w in group.workers}
        for pipe in connection.wait(list(pipes), timeout):
            answers += self._receive(*pipes[pipe])  # type: ignore[index]
        for group in self._groups.values():
            for w in list(group.workers):
                answers += self._check_deadline(group, w)
            answers += self._refuse(group)
            self._feed(group)
        return answers

    def _start(self, group: _Group) -> None:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, group.specs, self.threads, self._folder)
        process = self._context.Process(target=worker.serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        group.workers.append(_Worker(process, ours, time.monotonic()))

    def _feed(self, group: _Group) -> None:
        """Hand waiting tasks to workers that have room, the one with most room first."""
        while group.waiting and group.workers:
            free = max(group.workers, key=lambda w: w.room)
            task, data = group.waiting[0]
            if free.room < len(data):
                return
            if not free.sent:
                free.since = time.monotonic()
            group.waiting.popleft()
            free.sent.append((task, data))
            try:
                free.pipe.send_bytes(data)
            except OSError:
                return  # it is dead; its pipe's end tells so

    def _receive(self, group: _Group, w: _Worker) -> Sequence[Answer]:
        try:
            message = w.pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            return self._bury(group, w, "crash", "")
        w.since = time.monotonic()
        if not w.ready:
            w.ready = True
            group.failed_starts = 0
            self.descriptions.update(message)
            return ()
        task, _ = w.sent.popleft()
        return [(task, message)]

    def _check_deadline(self, group: _Group, w: _Worker) -> Sequence[Answer]:
        elapsed = time.monotonic() - w.since
        if not w.ready and elapsed > STARTUP_SECONDS:
            return self._bury(group, w, "timeout", f"no worker after {STARTUP_SECONDS:g} s; ")
        if w.sent and elapsed > self.timeout and not w.pipe.poll():
            return self._bury(group, w, "timeout", f"no answer within {self.timeout:g} s; ")
        return ()

    def _bury(self, group: _Group, w: _Worker, kind: str, why: str) -> Sequence[Answer]:
        """Replace a worker; the task it was at gets its outcome, those behind it go to another worker."""
        pid = w.process.pid
        if kind == "timeout":
            w.process.kill()
        w.process.join(5)
        if w.process.exitcode is None:
            w.process.kill()
            w.process.join()
        if kind == "crash":
            why = f"{_how(w.process.exitcode)}; "
        w.pipe.close()
        group.workers.remove(w)
        outcome = Outcome(kind, message=(why + self._last_words(pid)).removesuffix("; "))  # type: ignore[arg-type]
        if w.sent:
            task, _ = w.sent.popleft()
            answers = [(task, outcome)]
            group.waiting.extendleft(reversed(w.sent))
        else:
            answers = []
        if not w.ready:
            group.failed_starts += 1
        if group.failed_starts >= STARTUP_TRIES:
            group.broken = Outcome(outcome.kind, message=f"the worker did not start: {outcome.message}")
        else:
            self._start(group)
        return answers

    def _refuse(self, group: _Group) -> list[Answer]:
        """The answers to tasks of a framework whose workers do not start."""
        if group.broken is None or any(w.ready for w in group.workers):
            return []
        refused = [(task, group.broken) for task, _ in group.waiting]
        group.waiting.clear()
        return refused

    def _last_words(self, pid: int | None) -> str:
        """The last line that a worker printed during the case it died of."""
        path = Path(self._folder) / f"{pid}.log"
        try:
            with path.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(log.tell() - LOG_BYTES, 0))
                lines = log.read().decode("utf-8", "replace").split("\n")
            path.unlink()
        except OSError:
            return ""
        said = [words for line in lines if (words := quiet(line))]
        return said[-1][-300:] if said else ""


def _how(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        try:
            return f"died of {signal.Signals(-exitcode).name}"
        except ValueError:
            return f"died of signal {-exitcode}"
    return f"ended with status {exitcode}"
