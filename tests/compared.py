"""Runs made by hand, to be compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from conformance.comparison import Comparison, Run, compare
from conformance.runs import Record, RunFile

PASSES = Record(
    case="sweep/line[kernel=3]",
    target="torch@cpu",
    data="rounding",
    verdict="within_bound",
    known=False,
    arithmetic="float32",
    max_abs_error=1e-7,
    bound_usage=0.3,
    rms_usage=0.15,
    diagnosis="",
    message="",
    seconds=0.001,
    digest="d",
)
ENVIRONMENT: dict[str, Any] = {
    "conformance": "0.1.0",
    "python": "3.11.7",
    "platform": "Linux",
    "machine": "x86_64",
    "cpu": {"model": "AMD EPYC", "features": ["avx2", "fma"]},
    "versions": {"torch": "2.12.0"},
    "settings": {"torch@cpu": {"oneDNN": "True", "torch": "2.12.0", "threads": "1"}},
    "profile": "quick",
    "suites": [],
    "data": [],
    "seed": 0,
    "threads": 1,
    "jobs": 2,
    "finished": True,
}


def made(**changes: Any) -> Record:
    """A verdict like `PASSES`, but for these."""
    return replace(PASSES, **changes)


def deviates(**changes: Any) -> Record:
    return made(**{"verdict": "deviates", "message": "at [0,1] got 2, expected 1", "max_abs_error": 1.0} | changes)


def refuses(**changes: Any) -> Record:
    told = {"verdict": "unsupported", "message": "no groups", "max_abs_error": None, "rms_usage": None}
    return made(**told | changes)


def run(records: Iterable[Record], name: str = "run.sqlite", **environment: Any) -> Run:
    return Run(name, ENVIRONMENT | environment, records)


def between(old: Record, new: Record) -> Comparison:
    """The comparison of two runs of one cell."""
    return compare(run([old]), run([new]))


def family(count: int, name: str = "sweep/line", **changes: Any) -> list[Record]:
    return [made(**{"case": f"{name}[kernel={n}]"} | changes) for n in range(count)]


def written(path: Path, records: Iterable[Record], **environment: Any) -> Path:
    """A run file."""
    with RunFile.create(path) as store:
        store.note(ENVIRONMENT | environment)
        for record in records:
            store.append(record)
    return path
