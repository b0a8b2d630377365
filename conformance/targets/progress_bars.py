"""Progress bars that libraries make and nobody sees."""

from __future__ import annotations

import contextlib
import importlib
import threading


def keep_locks_in_process() -> None:
    """Have tqdm, where it is there, lock threads and not processes.

    By itself it makes a semaphore of the system, which a worker that is killed leaves behind.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("tqdm").tqdm.set_lock(threading.RLock())
