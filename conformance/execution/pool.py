"""Worker processes: one or more per framework, started once, fed over sockets, replaced when they die.

Each worker has a socket of its own and nothing is shared between workers, so that one that is killed at any moment,
even half-way through sending an answer, is seen as the end of its messages and costs one outcome.  (Pools whose workers
share a queue and its locks were tried, pebble among them: a worker killed while it sends leaves the others waiting for
ever.)  The parent is a single thread and never waits for one worker in particular.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import selectors
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Self

from conformance.execution import worker
from conformance.execution.channel import Channel, pack
from conformance.execution.specs import TargetSpec
from conformance.execution.transfer import Payload
from conformance.outcome import Kind, Outcome
from conformance.spec import Case
from conformance.targets.reasons import quiet

STARTUP_SECONDS = 300.0
STARTUP_TRIES = 2
AHEAD_BYTES = 2**15
"""How much is sent to a worker beyond the task that it is at, so that it need not wait for the next."""
LOG_BYTES = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One case to be run on one target; ``tag`` is the caller's own.

    ``model`` is the key of an exported file that the target is to run the case with.
    """

    target: str
    case: Case
    payload: Payload
    tag: object
    model: str = ""


Answer = tuple[Task, Outcome]
Packed = tuple[Task, memoryview]


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    channel: Channel
    since: float
    ready: bool = False
    sent: deque[Packed] = field(default_factory=deque)

    @property
    def room(self) -> int:
        """Bytes that may be sent now; any number if it is idle."""
        if not self.ready:
            return 0
        return AHEAD_BYTES - sum(len(data) for _, data in self.sent) if self.sent else 2**62


@dataclass(eq=False)
class _Group:
    """The targets of one framework and their workers, as many as ``wanted``; a ``lazy`` one starts with its work."""

    specs: list[TargetSpec]
    lazy: bool = False
    wanted: int = 1
    waiting: deque[Packed] = field(default_factory=deque)
    workers: list[_Worker] = field(default_factory=list)
    failed_starts: int = 0
    broken: Outcome | None = None


class Pool:
    """Runs tasks in worker processes on this machine.

    ``jobs`` is the number of workers to aim for; every framework has at least one.  ``threads`` is how many threads a
    framework may use inside its worker.  ``timeout`` is in seconds per case.
    """

    def __init__(self, specs: Iterable[TargetSpec], *, jobs: int = 1, threads: int = 1, timeout: float = 60.0) -> None:
        self.timeout = timeout
        self.threads = threads
        self.descriptions: dict[str, dict[str, str]] = {}
        self._context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # starting it with the first worker would let Ctrl-C through to that one
        self._folder = tempfile.mkdtemp(prefix="conformance-")
        self._selector = selectors.DefaultSelector()
        self._known: list[Answer] = []
        self._groups: dict[str, _Group] = {}
        for spec in specs:
            group = self._groups.setdefault(spec.framework, _Group([], lazy=spec.lazy))
            group.specs.append(spec)
        self._group_of = {spec.name: group for group in self._groups.values() for spec in group.specs}
        try:
            for group in self._groups.values():
                alike = sum(other.lazy == group.lazy for other in self._groups.values())
                group.wanted = max(jobs // alike, 1)
                if not group.lazy:
                    self._start_all(group)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        workers = [w for group in self._groups.values() for w in group.workers]
        for w in workers:
            w.process.kill()
        for w in workers:
            w.process.join()
            w.channel.close()
        for group in self._groups.values():
            group.workers.clear()
        self._selector.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def starting(self) -> list[str]:
        """Frameworks none of whose workers has answered yet."""
        begun = {name: g for name, g in self._groups.items() if g.workers and not g.broken}
        return [name for name, g in begun.items() if not any(w.ready for w in g.workers)]

    def submit(self, task: Task) -> None:
        """Queue a task; `poll` returns its outcome later."""
        group = self._group_of[task.target]
        group.waiting.append((task, pack((task.target, task.case, task.payload, task.model))))
        if not group.workers and not group.broken:
            self._start_all(group)
        self._feed(group)

    def answer_later(self, task: Task, outcome: Outcome) -> None:
        """Let the next `poll` return an outcome that is known without any work."""
        self._known.append((task, outcome))

    def describe(self, name: str, said: dict[str, str]) -> dict[str, str]:  # noqa: ARG002
        """What is kept of what a target says of itself."""
        return said

    def poll(self, timeout: float) -> list[Answer]:
        """Outcomes that have come, waiting at most ``timeout`` seconds for the first."""
        answers, self._known = self._known, []
        for key, events in self._selector.select(0.0 if answers else timeout):
            group, w = key.data
            if events & selectors.EVENT_WRITE:
                w.channel.flush()
            if events & selectors.EVENT_READ:
                answers += self._receive(group, w)
        for group in self._groups.values():
            for w in list(group.workers):
                answers += self._check_deadline(group, w)
            answers += self._refuse(group)
            self._feed(group)
            for w in group.workers:
                self._watch(group, w)
        return answers

    def _start_all(self, group: _Group) -> None:
        for _ in range(group.wanted):
            self._start(group)

    def _start(self, group: _Group) -> None:
        ours, theirs = socket.socketpair()
        arguments = (theirs, group.specs, self.threads, self._folder)
        process = self._context.Process(target=worker.serve, args=arguments, daemon=True)
        with theirs, _without_interrupts():
            process.start()
        w = _Worker(process, Channel(ours), time.monotonic())
        group.workers.append(w)
        self._selector.register(w.channel, selectors.EVENT_READ, (group, w))

    def _watch(self, group: _Group, w: _Worker) -> None:
        """Ask to be told when a worker can take what it has not been sent yet."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if w.channel.unsent else 0)
        if self._selector.get_key(w.channel).events != events:
            self._selector.modify(w.channel, events, (group, w))

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
            free.channel.send(data)
            self._watch(group, free)

    def _receive(self, group: _Group, w: _Worker) -> Sequence[Answer]:
        try:
            messages = w.channel.receive()
        except (EOFError, pickle.UnpicklingError):
            return self._bury(group, w, "crash")
        answers = []
        for message in messages:
            w.since = time.monotonic()
            if w.ready:
                task, _ = w.sent.popleft()
                answers.append((task, message))
            else:
                self._welcome(group, w, message)
        return answers

    def _welcome(self, group: _Group, w: _Worker, descriptions: dict[str, dict[str, str]]) -> None:
        w.ready = True
        group.failed_starts = 0
        self.descriptions.update({name: self.describe(name, said) for name, said in descriptions.items()})

    def _check_deadline(self, group: _Group, w: _Worker) -> Sequence[Answer]:
        elapsed = time.monotonic() - w.since
        if not w.ready and elapsed > STARTUP_SECONDS:
            return self._bury(group, w, "timeout", f"no worker after {STARTUP_SECONDS:g} s")
        if w.sent and elapsed > self.timeout:
            return self._bury(group, w, "timeout", f"no answer within {self.timeout:g} s")
        if not w.process.is_alive():  # its children may keep the socket open
            return [*self._last_messages(w), *self._bury(group, w, "crash")]
        return ()

    def _last_messages(self, w: _Worker) -> Iterator[Answer]:
        """Answers that a worker sent before it died."""
        with contextlib.suppress(EOFError, pickle.UnpicklingError):
            for message in w.channel.receive() if w.ready else ():
                task, _ = w.sent.popleft()
                yield task, message

    def _bury(self, group: _Group, w: _Worker, kind: Kind, why: str = "") -> Sequence[Answer]:
        """Replace a worker; the task it was at gets its outcome, those behind it go to another worker."""
        self._selector.unregister(w.channel)
        w.channel.close()
        group.workers.remove(w)
        w.process.join(0 if kind == "timeout" else 1)
        w.process.kill()
        w.process.join()
        told = filter(None, (why or _how(w.process.exitcode), self._last_words(w.process.pid)))
        outcome = Outcome(kind, message="; ".join(told))
        answers: list[Answer] = []
        if w.sent:
            answers.append((w.sent.popleft()[0], outcome))
            group.waiting.extendleft(reversed(w.sent))
        group.failed_starts += not w.ready
        if group.failed_starts < STARTUP_TRIES:
            self._start(group)
        elif not group.workers:
            group.broken = Outcome(outcome.kind, message=f"the worker did not start: {outcome.message}")
        return answers

    def _refuse(self, group: _Group) -> list[Answer]:
        """The answers to tasks of a framework whose workers do not start."""
        if group.broken is None:
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


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start a process that Ctrl-C does not reach: it is for the parent to end its workers.

    The child inherits the signal mask.  The parent itself is interrupted afterwards: half-way, a child would be left
    without its instructions.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    pressed: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
        if pressed:
            signal.raise_signal(signal.SIGINT)


def _how(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        try:
            return f"died of {signal.Signals(-exitcode).name}"
        except ValueError:
            return f"died of signal {-exitcode}"
    return f"ended with status {exitcode}"
