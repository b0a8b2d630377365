"""What a maintainer needs to know of one failing verdict, as plain text: what, where, by how much, how to repeat it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from conformance.engine import Judged
from conformance.problem import ChainProblem, LinearProblem, Problem
from conformance.spec import Case, Convolution, Pooling, shipped_suites
from conformance.text import printable

AROUND = 2
"""Neighbours that are shown on either side of the worst element, on the last two axes."""


def failure_text(judged: Judged, target: str = "") -> str:
    """The failure in lines; ``target`` is how the target is named on the command line, if it can be repeated there."""
    record, problem = judged.record, judged.problem
    said = [text for text in (record.diagnosis, record.message) if text]
    lines = [f"{record.verdict}: {'; '.join(said)}"]
    place = f"  ({problem.case.location})" if problem.case.location else ""
    lines.append(f"  {record.case} on {record.target}, {record.data} data{place}")
    lines.append(f"  {in_short(problem.case)}")
    lines += [f"  {text}" for text in filter(None, (_gates(judged), _files(judged)))]
    lines += _neighbourhood(judged)
    lines += [f"  repeat it: {repeat_command(problem.case, target)}"] if target else []
    return "\n".join(map(printable, lines))


def in_short(case: Case) -> str:
    """A case in a line: what goes in and out, and how."""
    shapes = case.tensor_shapes.get("input"), case.result_shapes.get("output")
    sizes = " to ".join("x".join(map(str, shape)) for shape in shapes if shape is not None)
    said = f"{case.op} {case.dtype} {sizes}"
    if isinstance(case, Convolution | Pooling):
        window = (("kernel", case.kernel), ("stride", case.stride), ("dilation", case.dilation))
        said += "".join(f", {name} {'x'.join(map(str, sizes))}" for name, sizes in window)
        said += ", crop " + " ".join(f"{axis.begin}:{axis.end}" for axis in case.axes)
    if isinstance(case, Convolution):
        said += f", groups {case.groups}" * (case.groups > 1) + ", bias" * case.bias
    return said


def repeat_command(case: Case, target: str) -> str:
    """The command that runs a case again and shows the elements that are most wrong."""
    path = Path(case.location.rpartition(":")[0])
    shipped = case.suite in shipped_suites() and path.name == shipped_suites()[case.suite].name
    words = ["conformance", "show", case.id, *([] if shipped else ["--suite", str(path)]), "--target", target]
    return " ".join(map(shlex.quote, words))


def _gates(judged: Judged) -> str:
    record, told = judged.record, []
    if record.max_abs_error is not None and math.isfinite(record.max_abs_error):
        told.append(f"largest error {record.max_abs_error:.3g}")
    for name, used in (("bound", record.bound_usage), ("mean-square gate", record.rms_usage)):
        if used is not None and math.isfinite(used):
            told.append(f"{used:.3g} of the {name}")
    held_to = judged.promised.replace("native", judged.problem.case.dtype)
    return ", ".join(told) + (f" of {held_to}" if told else "")


def _files(judged: Judged) -> str:
    files = dict.fromkeys(outcome.file for outcome in judged.outcomes if outcome.file)
    return f"exported file: {', '.join(files)}" if files else ""


def _neighbourhood(judged: Judged) -> Iterator[str]:
    """What was expected and what came around the element that is most wrong."""
    pair = _compared(judged.problem, judged)
    if pair is None:
        return
    name, expected, actual = pair
    error = _error(expected, actual)
    worst = np.unravel_index(int(error.argmax()), error.shape)
    window = tuple(
        slice(max(int(i) - AROUND, 0), int(i) + AROUND + 1) if axis >= error.ndim - 2 else int(i)
        for axis, i in enumerate(worst)
    )
    different = int(np.count_nonzero(error))
    place = ",".join(str(int(i)) for i in worst)
    yield f"  {name}: {different} of {error.size} elements differ, most at [{place}]; around it"
    tables = [_numbers(np.atleast_2d(array[window])) for array in (expected, actual)]
    width = max(len(row) for row in tables[0]) + 4
    yield f"    {'expected':{width}s}actual"
    for left, right in zip(*tables, strict=True):
        yield f"    {left:{width}s}{right}".rstrip()


def _compared(problem: Problem, judged: Judged) -> tuple[str, np.ndarray, np.ndarray] | None:
    """The tensor that is wrong: its name, what it should be and what came; None where there is no such pair."""
    returned = judged.outcomes[0].tensors if judged.outcomes else {}
    for name, expected in _expected(problem, judged):
        actual = returned.get(name)
        if actual is None or actual.shape != expected.shape or not actual.size:
            continue
        pair = expected.astype(np.float64), actual.astype(np.float64)
        if _error(*pair).any():
            return name, *pair
    return None


def _expected(problem: Problem, judged: Judged) -> Iterator[tuple[str, np.ndarray]]:
    """What should have come, by name, what is likely to be wrong first."""
    if isinstance(problem, LinearProblem):
        yield "output", problem.rounded
    elif isinstance(problem, ChainProblem):
        wrong = judged.record.diagnosis.removeprefix("first wrong stage: ").partition(";")[0]
        rounded = ["output"] if problem.data == "rounding" else []  # then all stages differ a little
        for name in dict.fromkeys((wrong, *rounded, *problem.case.told)):
            if name in problem.values:
                yield name, problem.values[name]


def _error(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(actual - expected))
    error[np.isnan(error)] = np.inf
    return error


def _numbers(rows: np.ndarray) -> list[str]:
    texts = [[f"{value:.7g}" for value in row] for row in rows]
    width = max(len(text) for row in texts for text in row)
    return [" ".join(f"{text:>{width}s}" for text in row) for row in texts]
