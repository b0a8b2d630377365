"""Run all measurements: ``python -m benchmarks [oracle] [harness] [memory] [zfnet] [exporters] [compare] [pytest]``."""

from __future__ import annotations

import sys

from rich.console import Console

from benchmarks import compare, exporters, harness, matrix, oracle, zfnet


def main() -> None:
    wanted = set(sys.argv[1:]) or {"oracle", "harness", "memory", "zfnet", "exporters", "compare", "pytest"}
    console = Console(highlight=False)
    if "oracle" in wanted:
        oracle.against_torch(console)
        oracle.against_reference(console)
    if "harness" in wanted:
        harness.overhead(console)
        harness.whole_run(console)
    if "memory" in wanted:
        harness.memory(console)
    if "zfnet" in wanted:
        zfnet.against_torch(console)
        zfnet.suite(console)
    if "exporters" in wanted:
        exporters.second_run(console)
        exporters.onnx_surface(console)
    if "compare" in wanted:
        compare.two_runs(console)
    if "pytest" in wanted:
        matrix.collecting(console)
        matrix.against_command(console)


if __name__ == "__main__":
    main()
