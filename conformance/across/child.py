"""A child process that writes to a log, and that ends when we are told to."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

LEAVE_SECONDS = 15.0
WAIT_SECONDS = 0.5


def run_child(command: Sequence[str], log: Path, waiting: Callable[[], None] = lambda: None) -> int:
    """Run a command, its output added to ``log``, and return its status.

    ``waiting`` is called about twice a second.  Whatever ends us (Ctrl-C first of all) ends the command and all that it
    has started, which get some seconds to put things away.
    """
    with log.open("ab") as out:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return child.wait(WAIT_SECONDS)
                waiting()
        finally:
            if child.poll() is None:
                _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to leave, and then make it."""
    os.killpg(child.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(LEAVE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
