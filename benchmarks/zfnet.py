"""ZFNet at full size: the oracle's way up and down for one activation against torch in float64, and the whole suite."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape

from benchmarks.timing import best, geometric_mean
from conformance.dtypes import FORMATS
from conformance.oracle.chains import draw_chain, walk
from conformance.runs import RunFile
from conformance.spec import Deconvnet, load_cases

FULL_SIZE = 500_000_000
"""Multiply-adds of a case that counts as full size, up and down together."""


def against_torch(console: Console) -> float:
    """Geometric mean of oracle time / torch float64 time for image to activation to pixels, both with all cores."""
    import torch

    from conformance.targets.chain import run_chain
    from conformance.targets.torch_targets import Torch

    target = Torch(threads=os.cpu_count() or 1)
    torch.set_num_threads(os.cpu_count() or 1)
    ratios = []
    for case in _full_size():
        tensors, _ = draw_chain(case, "rounding", FORMATS[case.dtype], 0)
        wide = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
        ours = best(lambda: walk(case.stages, wide))  # noqa: B023
        peer = best(lambda: run_chain(case, wide, target.steps(case)))  # noqa: B023
        ratios.append(ours / peer)
        console.print(f"  {escape(case.id)}: oracle {ours:.2f} s, torch {peer:.2f} s")
    mean = geometric_mean(ratios)
    console.print(f"oracle / torch float64, {len(ratios)} deconvnets: {mean:.2f} (at most 2 wanted)")
    return mean


def suite(console: Console) -> float:
    """Seconds of the zfnet suite in full on all installed targets, the start of the frameworks included."""
    command = [sys.executable, "-m", "conformance", "run", "zfnet", "--profile", "full", "--failures", "0"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.sqlite"
        began = time.perf_counter()
        subprocess.run([*command, "--out", str(out)], check=False, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        with RunFile.open(out) as run:
            records = list(run.records())
    counts = Counter(record.verdict for record in records).most_common()
    said = ", ".join(f"{number} {verdict}" for verdict, number in counts)
    console.print(f"suite zfnet in full, {len({r.target for r in records})} targets: {seconds:.0f} s (under 60 wanted)")
    console.print(f"  {said}")
    return seconds


def _full_size() -> list[Deconvnet]:
    cases = [case for case in load_cases(["zfnet"], "full") if isinstance(case, Deconvnet)]
    return [case for case in cases if case.products > FULL_SIZE]
