"""What pytest is asked for."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

PROFILES = ("quick", "full")
LONG, SHORT = "--conformance-target", "--target"
AHEAD: pytest.StashKey[Any] = pytest.StashKey()
"""The engine of a session, see `ahead.Ahead`."""


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "conformance of transposed convolutions (suites in YAML)")
    group.addoption(
        LONG,
        action="append",
        default=[],
        dest="conformance_targets",
        metavar="T",
        help="a target by name, with an exporter before it (torch-dynamo:onnxruntime), or a Python file; by comma or "
        "repeated; all that are installed and quick, if none.  --target does too, unless it means something else here",
    )
    group.addoption(
        "--conformance-profile",
        choices=PROFILES,
        default="quick",
        help="quick leaves out cases with the tag full (default: quick)",
    )
    group.addoption("--conformance-out", metavar="RUN.sqlite", help="write the verdicts to this run file")
    group.addoption(
        "--conformance-deviations",
        action="append",
        default=[],
        metavar="F",
        help="deviations that you document: a YAML file or a folder; repeated",
    )
    group.addoption(
        "--conformance-threads",
        type=_positive,
        default=1,
        metavar="N",
        help="threads inside each framework (default: 1)",
    )
    group.addoption(
        "--conformance-timeout", type=_seconds, default=60.0, metavar="S", help="seconds for each case (default: 60)"
    )


def spell_out(parser: pytest.Parser, args: list[str]) -> None:
    """``--target`` in the arguments as ``--conformance-target``, unless it is an option of somebody else.

    It is not registered, since that would be an error in every project whose own tests have an option of that name.
    """
    if SHORT not in parser.parse_known_and_unknown_args([SHORT, "x"])[1]:
        return
    args[:] = [LONG if arg == SHORT else re.sub(f"^{SHORT}=", f"{LONG}=", arg) for arg in args]


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _seconds(text: str) -> float:
    if not 0 < (number := float(text)) < float("inf"):
        raise ValueError(text)
    return number


def targets_of(config: pytest.Config) -> list[str]:
    """The targets that are named, in order."""
    named = (part for value in config.getoption("conformance_targets") for part in value.split(",") if part)
    return list(dict.fromkeys(named))


def is_worker(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def is_grouped(config: pytest.Config) -> bool:
    """Whether all items of a framework come to this process, so that they may be run ahead together."""
    return not is_worker(config) or bool(config.workerinput.get("conformance_grouped"))  # type: ignore[attr-defined]


def jobs_of(config: pytest.Config) -> int:
    """Worker processes to aim for: the machine's cores, shared with the other workers of pytest-xdist."""
    others = config.workerinput["workercount"] if is_worker(config) else 1  # type: ignore[attr-defined]
    return max((os.cpu_count() or 1) // others, 1)
