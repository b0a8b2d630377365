"""What pytest costs over the command line on the same cases, and how fast it collects them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

TARGETS = ("--target", "torch,onnxruntime")
CASES = Path(__file__).parent.parent / "cases"
PYTEST = (sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "-p", "no:cacheprovider")
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "conformance.pytest_plugin"}
"""Without the plugins of others, which differ from place to place."""
COMMAND = (sys.executable, "-m", "conformance")
ROUNDS = 3


def against_command(console: Console) -> None:
    """Wall time of pytest over that of ``conformance run``, from start to end, one after the other in turn."""
    for what, suite, path in (("sweep", ["sweep"], CASES / "sweep.yaml"), ("all suites", [], CASES)):
        walls: dict[str, list[float]] = {"run": [], "pytest": []}
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                run = (*COMMAND, "run", *suite, *TARGETS, "--out", f"{folder}/a.sqlite")
                walls["run"].append(_wall(run))
                walls["pytest"].append(_wall((*PYTEST, str(path), *TARGETS, "--conformance-out", f"{folder}/b.sqlite")))
        run_seconds, pytest_seconds = min(walls["run"]), min(walls["pytest"])
        console.print(
            f"pytest / run, {what}, torch and onnxruntime, {ROUNDS} rounds in turn: {pytest_seconds / run_seconds:.2f} "
            f"({pytest_seconds:.1f} s / {run_seconds:.1f} s; at most 1.3 wanted)"
        )


def collecting(console: Console) -> None:
    """Items that pytest collects in a second, all shipped suites on all installed targets."""
    command = (*PYTEST, str(CASES), "--collect-only")
    counted = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | ALONE)
    found = re.search(r"(\d+) tests collected in ([\d.]+)s", counted.stdout)
    assert found is not None
    items, seconds = int(found[1]), float(found[2])
    console.print(f"collecting: {items:,} items in {seconds:.1f} s, {items / seconds:,.0f} a second (10,000 wanted)")


def _wall(command: tuple[str, ...]) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, env=os.environ | ALONE
    )
    assert done.returncode in (0, 1), command
    return time.perf_counter() - began
