"""What runs in a worker process: it makes its targets once, then runs one case after another."""

from __future__ import annotations

import ctypes
import importlib
import inspect
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from conformance.execution import channel
from conformance.execution.specs import TargetSpec
from conformance.execution.transfer import Payload, unpack
from conformance.outcome import Kind, Outcome
from conformance.spec import Case
from conformance.targets.base import Target, Tensors, Unsupported
from conformance.targets.python_file import module_from
from conformance.targets.reasons import quiet
from exporters.base import LARGEST_WEIGHTS, decline_other_routes, parameters
from exporters.cache import Cache, Entry

MAX_RESULT_BYTES = 4 * 2**30
MAX_MESSAGE = 500
LOST = "the exported file is lost or damaged"
PR_SET_PDEATHSIG = 1


def serve(end: socket.socket, specs: Sequence[TargetSpec], threads: int, folder: str) -> None:
    """The life of a worker: make the targets, say what they are, then answer one task after another.

    Everything that frameworks print goes to ``folder/<pid>.log``, which holds the current case's output only.
    """
    _die_with_parent()
    log = _redirect_output(Path(folder) / f"{os.getpid()}.log")
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    targets = {spec.name: load(spec, threads) for spec in specs}
    channel.send(end, {name: describe(target) for name, target in targets.items()})
    while True:
        try:
            name, case, payload, key = channel.receive(end)
        except (EOFError, OSError):
            return
        os.ftruncate(log, 0)
        outcome = run(targets[name], case, payload, key)
        channel.send(end, outcome)


def load(spec: TargetSpec, threads: int) -> Target | str:
    """The target that a spec describes, or why it cannot be had."""
    try:
        return make(spec, threads)
    except BaseException as error:
        return f"cannot be loaded: {describe_error(error)}"


def make(spec: TargetSpec, threads: int) -> Target:
    """The target that a spec describes: an object, or what a factory returns."""
    if spec.source.endswith(".py"):
        found = getattr(module_from(Path(spec.source)), "target", None)
        if found is None:
            raise AttributeError(f"{spec.source} defines no target")
    else:
        module, _, attribute = spec.source.partition(":")
        found = getattr(importlib.import_module(module), attribute or "target")
    if not callable(found):
        made = found
    elif "threads" in inspect.signature(found).parameters:
        made = found(threads=threads, **dict(spec.options))
    else:
        made = found(**dict(spec.options))
    if not callable(getattr(made, "run", None)) and not callable(getattr(made, "export", None)):
        raise TypeError(f"expected a target with a method run, got {type(made).__name__}")
    return made  # type: ignore[no-any-return]


def describe(target: Target | str) -> dict[str, str]:
    """What a target says of itself: its environment and its ``arithmetic``, or why it cannot be loaded (``error``)."""
    if isinstance(target, str):
        return {"error": target}
    try:
        said = target.environment() if hasattr(target, "environment") else {}
        arithmetic = str(getattr(target, "arithmetic", "native"))
        return {str(key): str(value) for key, value in said.items()} | {"arithmetic": arithmetic}
    except BaseException as error:
        return {"error": describe_error(error)}


def run(target: Any, case: Case, payload: Payload, key: str = "") -> Outcome:
    """Run one case on one target.  Whatever the target raises becomes an outcome.

    With a ``key``, an exporter makes and keeps the file of that key, and a runtime runs the case with it.
    """
    if isinstance(target, str):
        return Outcome("error", message=target)
    began = time.perf_counter()
    try:
        tensors = unpack(payload)
        if hasattr(target, "export"):
            return export(target, case, tensors, key)
        began = time.perf_counter()
        if key:
            return run_exported(target, tensors, key)
        returned = target.run(case, tensors)
        seconds = time.perf_counter() - began
        return Outcome("returned", _arrays(returned), seconds=seconds)
    except Unsupported as reason:
        return Outcome("unsupported", message=_short(str(reason)), seconds=time.perf_counter() - began)
    except BaseException as error:
        return Outcome("error", message=describe_error(error), seconds=time.perf_counter() - began)


def export(exporter: Any, case: Case, tensors: Tensors, key: str) -> Outcome:
    """Export a case into the cache, together with what is wrong with the file, or keep why it cannot be exported."""
    from exporters.check import checked

    began = time.perf_counter()
    try:
        if sum(array.nbytes for array in parameters(tensors).values()) > LARGEST_WEIGHTS:
            raise Unsupported("an ONNX file ends at 2 GiB, and more than 1 GiB of weights are not exported")
        decline_other_routes(case)
        exported = checked(exporter.export(case, tensors), symbolic=getattr(exporter, "symbolic", False))
        entry = Entry("returned", exported=exported)
    except Unsupported as reason:
        entry = Entry("unsupported", _short(str(reason)))
    except Exception as error:
        entry = Entry("error", describe_error(error))
    seconds = time.perf_counter() - began
    Cache().keep(key, replace(entry, seconds=seconds))
    kind: Kind = entry.kind  # type: ignore[assignment]
    return Outcome(kind, message=entry.message, seconds=seconds)


def run_exported(target: Any, tensors: Tensors, key: str) -> Outcome:
    """What a runtime makes of an exported file, and what is wrong with the file."""
    cache = Cache()
    entry = cache.find(key)
    if entry is None or entry.exported is None:
        raise LookupError(LOST)
    if not callable(getattr(target, "run_model", None)):
        raise Unsupported("it runs no ONNX files: it has no run_model(model, feeds)")
    exported = entry.exported
    feeds = exported.feeds(tensors)
    began = time.perf_counter()
    file = str(cache.path_of(exported))
    try:
        values = target.run_model(exported.model, feeds)
    except Exception as error:
        if not exported.faults:
            raise
        return Outcome("error", message=describe_error(error), faults=exported.faults, file=file)
    seconds = time.perf_counter() - began
    faults = (*exported.faults, *exported.misinferred(values))
    return Outcome("returned", _arrays(exported.results(values)), "", seconds, faults, file)


def _arrays(returned: Any) -> dict[str, np.ndarray]:
    """Check what a target returned: a mapping of names to numeric arrays of a size that can be brought back."""
    if not isinstance(returned, Mapping):
        raise TypeError(f"expected a mapping of names to arrays, the target returned {type(returned).__name__}")
    arrays = {str(name): np.asarray(value) for name, value in returned.items()}
    for name, array in arrays.items():
        if array.dtype.hasobject or array.dtype.kind in "USMm":
            raise TypeError(f"expected numbers, {name} holds {array.dtype}")
    if (size := sum(array.nbytes for array in arrays.values())) > MAX_RESULT_BYTES:
        raise MemoryError(f"the target returned {size:,} bytes")
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def describe_error(error: BaseException) -> str:
    """Type, first lines and place of an error, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    try:
        said = str(error)
    except Exception:
        said = "cannot say what is wrong"
    return f"{type(error).__name__}: {_short(said)}{place}"


def _short(text: str) -> str:
    line = quiet(text)
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 3] + "..."


def _redirect_output(path: Path) -> int:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    return log


def _die_with_parent() -> None:
    """End with the parent, however it ends and whatever this process is doing then."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()
    if sys.platform == "linux":  # also while a target holds the interpreter
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
