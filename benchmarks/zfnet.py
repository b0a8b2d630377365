"""ZFNet at full size: the oracle's way up and down for one activation against torch in float64, and the whole suite."""

from __future__ import annotations

import os
import time
from collections import Counter

import numpy as np
from rich.console import Console
from rich.markup import escape

from benchmarks.timing import best, geometric_mean
from conformance import engine
from conformance.dtypes import FORMATS
from conformance.execution import LocalExecutor, find_targets
from conformance.oracle.chains import draw_chain, walk
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
        ours = best(lambda: walk(case, wide))  # noqa: B023
        peer = best(lambda: run_chain(case, wide, target.steps(case)))  # noqa: B023
        ratios.append(ours / peer)
        console.print(f"  {escape(case.id)}: oracle {ours:.2f} s, torch {peer:.2f} s")
    mean = geometric_mean(ratios)
    console.print(f"oracle / torch float64, {len(ratios)} deconvnets: {mean:.2f} (at most 2 wanted)")
    return mean


def suite(console: Console) -> float:
    """Seconds of ``conformance run zfnet --profile full`` on all installed targets, the frameworks' start included."""
    cases, targets = load_cases(["zfnet"], "full"), find_targets([])
    began = time.perf_counter()
    with LocalExecutor(targets, jobs=os.cpu_count() or 1, threads=1, timeout=60.0) as executor:
        counts = Counter(record.verdict for record in engine.run(cases, targets, executor))
    seconds = time.perf_counter() - began
    said = ", ".join(f"{number} {verdict}" for verdict, number in counts.most_common())
    console.print(f"suite zfnet in full on {len(targets)} targets: {seconds:.0f} s (under 60 wanted); {said}")
    return seconds


def _full_size() -> list[Deconvnet]:
    cases = [case for case in load_cases(["zfnet"], "full") if isinstance(case, Deconvnet)]
    return [case for case in cases if case.products > FULL_SIZE]
