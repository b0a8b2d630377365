"""How long it takes to compare two runs, start of the program included."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console

from conformance.runs import Record, RunFile

VERDICTS = 50_000
TARGETS = 10
FAMILIES = 100
CHANGED = 0.02
WANTED = 3.0


def _records(growth: float, changed: float) -> Iterator[Record]:
    """A run of many verdicts: families of cases on several targets; a fraction of them fails."""
    rng = np.random.default_rng(0)
    errors, fails = rng.uniform(0.05, 0.3, VERDICTS), rng.uniform(0, 1, VERDICTS)
    for n in range(VERDICTS):
        case, target = divmod(n, TARGETS)
        failed = fails[n] < changed
        yield Record(
            case=f"suite-{case % 10}/family-{case % FAMILIES}[kernel={case},stride=2,padding=1,dilation=1]",
            target=f"target-{target}@cpu",
            data="rounding",
            verdict="deviates" if failed else "within_bound",
            known=False,
            arithmetic="float32",
            max_abs_error=float(errors[n]),
            bound_usage=float(errors[n]),
            rms_usage=float(errors[n] * growth),
            diagnosis="",
            message=f"at [0,{n}] got 1.5, expected 2.5" if failed else "",
            seconds=float(errors[n]) / 100,
            digest=f"{case:024x}",
        )


def _written(path: Path, growth: float = 1.0, changed: float = 0.0) -> Path:
    with RunFile.create(path) as store:
        store.note({"conformance": "0", "seed": 0, "finished": True})
        store._connection.execute("BEGIN")
        for record in _records(growth, changed):
            store.append(record)
        store._connection.execute("COMMIT")
    return path


def two_runs(console: Console) -> None:
    """Two runs that are the same, and two that differ in verdicts, errors and times: all of it told in every format."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old, same = _written(folder / "old.sqlite"), _written(folder / "same.sqlite")
        worse = _written(folder / "worse.sqlite", growth=2.0, changed=CHANGED)
        for what, new in (("the same", same), (f"{CHANGED:.0%} newly failing, errors doubled", worse)):
            told = ["--json", str(folder / "c.json"), "--markdown", str(folder / "c.md")]
            command = [sys.executable, "-m", "conformance", "compare", str(old), str(new), *told]
            seconds = min(_wall(command) for _ in range(3))
            console.print(
                f"compare, two runs of {VERDICTS:,} verdicts, {what}: {seconds:.2f} s (at most {WANTED} wanted)"
            )


def _wall(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False, env=os.environ | {"COLUMNS": "100"})
    return time.perf_counter() - began
