"""What the harness costs over a bare loop that makes the same framework calls, and how fast the first answer comes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console

from conformance import engine
from conformance.execution import LocalExecutor, find_targets
from conformance.execution.worker import load, run
from conformance.outcome import Outcome
from conformance.problem import pose
from conformance.runs import RunFile
from conformance.spec import Convolution, load_cases

TARGETS = ("torch", "onnxruntime")
CASES = 2000
LOOP = "import sys; from benchmarks.harness import bare_loop; print(bare_loop())"
COMMAND = (sys.executable, "-m", "conformance")


def small_cases() -> list[Convolution]:
    """Small cases as the sweep has them, in float32."""
    cases = (case for case in load_cases(["sweep"]) if isinstance(case, Convolution))
    return list(itertools.islice((c for c in cases if c.dtype == "float32" and c.op == "conv_transpose"), CASES))


def bare_loop() -> float:
    """Seconds that the framework calls take in one process, imports and drawing of numbers excluded."""
    targets = [load(spec, threads=1) for spec in find_targets(TARGETS)]
    problems = [(case, dict(pose(case, kind).tensors)) for case in small_cases() for kind in case.data]
    for target in targets:
        run(target, *problems[0])  # type: ignore[arg-type]
    began = time.perf_counter()
    for case, tensors in problems:
        for target in targets:
            outcome: Outcome = run(target, case, tensors)  # type: ignore[arg-type]
            assert outcome.kind != "crash"
    return time.perf_counter() - began


def overhead(console: Console) -> float:
    """Wall time of a run over that of the bare loop, starting of workers excluded on both sides."""
    cases, specs = small_cases(), find_targets(TARGETS)
    bare = min(float(subprocess.check_output([sys.executable, "-c", LOOP], text=True)) for _ in range(3))
    walls = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder, LocalExecutor(specs, jobs=os.cpu_count() or 1) as executor:
            while executor.starting:
                executor.poll(1.0)
            with RunFile.create(Path(folder) / "run.sqlite") as store:
                began = time.perf_counter()
                for record in engine.run(cases, specs, executor):
                    store.append(record)
                walls.append(time.perf_counter() - began)
    ratio = min(walls) / bare
    console.print(
        f"run / bare loop, {len(cases)} cases, torch and onnxruntime, two kinds of data: {ratio:.2f} "
        f"({min(walls):.1f} s / {bare:.1f} s; at most 1.3 wanted)"
    )
    return ratio


def whole_run(console: Console) -> None:
    """A command from start to end: 2,000 cases on two frameworks, imports included; its first verdict; its help."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        out = Path(folder) / "run.sqlite"
        process = subprocess.Popen(
            [*COMMAND, "run", "sweep", "--target", ",".join(TARGETS), "--out", str(out)], stdout=subprocess.DEVNULL
        )
        first = _first_verdict(out, began)
        process.wait()
        seconds = time.perf_counter() - began
    began = time.perf_counter()
    subprocess.run([*COMMAND, "--help"], stdout=subprocess.DEVNULL, check=True)
    console.print(f"sweep, torch and onnxruntime, start to end: {seconds:.1f} s, first verdict after {first:.1f} s")
    console.print(f"conformance --help: {time.perf_counter() - began:.2f} s (at most 0.5 wanted)")


def _first_verdict(out: Path, began: float) -> float:
    import sqlite3

    while time.perf_counter() - began < 60:
        time.sleep(0.02)
        try:
            with sqlite3.connect(f"file:{out}?mode=ro", uri=True) as connection:
                if connection.execute("SELECT count(*) FROM verdicts").fetchone()[0]:
                    break
        except sqlite3.Error:
            continue
    return time.perf_counter() - began


def memory(console: Console) -> None:
    """Peak memory of the parent process over the architectures at full size."""
    command = [*COMMAND, "run", "architectures", "--profile", "full", "--target", ",".join(TARGETS)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak, parent = 0, psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peak = max(peak, parent.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.05)
    process.wait()
    console.print(f"parent's peak memory, architectures at full size: {peak / 1e9:.2f} GB (at most 1.5 wanted)")
