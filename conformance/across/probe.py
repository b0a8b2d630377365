"""Runs inside an environment: which versions are there, and which targets can be had."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Sequence

from packaging.utils import canonicalize_name

from conformance.engine import run_problem
from conformance.execution import LocalExecutor, TargetSpec, find_targets
from conformance.problem import pose
from conformance.spec import load_cases

MARK = "conformance probe: "
"""Before the answer: frameworks print what they like."""
NUMPY_1 = "compiled using NumPy 1.x"
TRIED = "dumoulin-visin"
"""The suite whose first case is run: a module made for another NumPy may load, and die at the first array."""


def installed() -> dict[str, str]:
    """Versions of all distributions that can be imported, by normalised name; the first on the path counts."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version
        if name and version:
            found.setdefault(canonicalize_name(name), version)
    return found


def main(names: Sequence[str]) -> None:
    """Start the targets, each in a worker of its own, run one case, and print what came of it as JSON."""
    specs = find_targets(names)
    errors = _errors(specs)
    versions = {name: version for spec in specs for name, version in spec.versions.items()}
    print(MARK + json.dumps({"installed": installed(), "versions": versions, "errors": errors}))


def _errors(specs: Sequence[TargetSpec]) -> dict[str, str]:
    """Targets that cannot be loaded or die at once, and how."""
    problem = pose(load_cases((TRIED,), "quick")[0], "exact")
    with LocalExecutor(specs) as executor:
        outcomes = dict(run_problem(problem, [spec.name for spec in specs], executor))
        descriptions = executor.descriptions
    errors = {name: each.message for name, tried in outcomes.items() for each in tried if each.kind == "crash"}
    errors |= {name: said["error"] for name, said in descriptions.items() if "error" in said}
    return {spec.name: errors[spec.name] + _hint(spec.requires) for spec in specs if spec.name in errors}


def _hint(packages: Sequence[str]) -> str:
    """What NumPy says where a module was built for its first version; frameworks seldom pass it on."""
    for package in packages:
        script = f"import {package.replace('-', '_')}"
        done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
        if NUMPY_1 in done.stderr:
            return f" ({package} was built for NumPy 1: ask for numpy<2 too)"
    return ""


if __name__ == "__main__":
    main(sys.argv[1:])
