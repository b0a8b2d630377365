"""What the cache of exported files saves, and how long the ONNX operators take attribute by attribute."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from rich.console import Console

EXPORTERS = ("torch-dynamo", "torch-script", "tf2onnx", "keras-export")
SUITES = ("dumoulin-visin", "deconvnets")
COMMAND = (sys.executable, "-m", "conformance", "run", "--failures", "0")


def second_run(console: Console) -> float:
    """Wall time of a first run of all exporters over that of a second, commands from start to end."""
    targets = ",".join(f"{exporter}:onnxruntime" for exporter in EXPORTERS)
    with tempfile.TemporaryDirectory() as cache:
        first, second = (_seconds([*SUITES, "--target", targets], XDG_CACHE_HOME=cache) for _ in range(2))
    console.print(
        f"exporters on {' and '.join(SUITES)}, first run / second run: {first / second:.1f} "
        f"({first:.1f} s / {second:.1f} s; at least 20 wanted)"
    )
    return first / second


def onnx_surface(console: Console) -> float:
    """Seconds of the suite of ONNX's attributes on onnxruntime and the reference evaluator."""
    with tempfile.TemporaryDirectory() as cache:
        seconds = _seconds(["onnx", "--target", "onnxruntime,onnx-reference"], XDG_CACHE_HOME=cache)
    console.print(f"suite onnx on onnxruntime and onnx-reference: {seconds:.1f} s (at most 60 wanted)")
    return seconds


def _seconds(arguments: list[str], **environment: str) -> float:
    began = time.perf_counter()
    subprocess.run([*COMMAND, *arguments], env=os.environ | environment, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - began
