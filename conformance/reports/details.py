"""One case, whole: what it says, what it means, and what targets made of it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from rich.console import Console
from rich.table import Table

from conformance.arithmetic import Axis
from conformance.oracle.bounds import arithmetic_for
from conformance.outcome import Outcome
from conformance.problem import Problem
from conformance.runs import Record
from conformance.spec import Convolution
from conformance.text import printable
from conformance.verdict import judge

WORST = 8
DIGITS = (9, 9, 3, 3, 6, 4)


def show_case(case: Convolution, console: Console) -> None:
    """The case in full: where it stands, its sizes, and per axis which rows are kept."""
    console.print(case.id, style="bold", highlight=False)
    source = f"  {printable(case.source)}" if case.source else ""
    console.print(f"{case.location}{source}", style="dim", highlight=False)
    if case.notes:
        console.print(printable(case.notes), highlight=False)
    said = {"op": case.op, "dtype": case.dtype, "groups": case.groups, "bias": case.bias}
    spelled = {
        key: value
        for key in ("padding", "output_padding", "output_size", "auto_pad", "output_shape", "relationship")
        if (value := getattr(case, key)) is not None
    }
    for key, value in (said | spelled).items():
        console.print(f"  {key:15s} {value}", highlight=False)
    for name, shape in (case.tensor_shapes | case.result_shapes).items():
        console.print(f"  {name:15s} {'x'.join(map(str, shape))}", highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("axis", "input", "kernel", "stride", "dilation", "begin", "end", "output", "in words"):
        table.add_column(heading)
    for n, axis in enumerate(case.axes):
        table.add_row(*map(str, _axis_row(n, axis, case.transposed)))
    console.print(table)


def _axis_row(n: int, axis: Axis, transposed: bool) -> tuple[object, ...]:
    source, result = (axis.small, axis.large) if transposed else (axis.large, axis.small)
    sizes = (n, source, axis.kernel, axis.stride, axis.dilation, axis.begin, axis.end, result)
    return (*sizes, _in_words(axis, transposed))


def _in_words(axis: Axis, transposed: bool) -> str:
    if not transposed:
        return f"{axis.begin} zeros before, every {axis.stride} positions a kernel of extent {axis.extent}"
    ends = ((axis.begin, "beginning"), (axis.end, "end"))
    kept = [f"{'drop' if n > 0 else 'add'} {abs(n)} at the {where}" for n, where in ends if n]
    return f"full result {axis.full}" + (", " + ", ".join(kept) if kept else "")


def show_records(records: Iterable[Record], console: Console) -> None:
    """What a run file has on a case."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("target", "data", "verdict", "arithmetic", "max error", "bound used", "message"):
        table.add_column(heading, overflow="fold")
    for r in records:
        numbers = ["" if v is None else f"{v:.3g}" for v in (r.max_abs_error, r.bound_usage)]
        said = f"{r.diagnosis}; {r.message}" if r.diagnosis and r.message else r.diagnosis or r.message
        table.add_row(*map(printable, (r.target, r.data, r.verdict, r.arithmetic, *numbers, said)))
    console.print(table)


def show_outcome(problem: Problem, target: str, outcome: Outcome, promised: str, console: Console) -> bool:
    """One outcome now: the verdict, and the elements that are most wrong.  Returns whether it fails."""
    judgement = judge(problem, outcome, promised)
    console.print(f"\n{target} on {problem.data} data: {judgement.verdict} ({judgement.arithmetic})", style="bold")
    for text in filter(None, (judgement.diagnosis, judgement.message)):
        console.print(f"  {text}", highlight=False)
    actual = outcome.tensors.get("output")
    if actual is None or actual.shape != problem.exact.shape or judgement.passed:
        return judgement.failed
    arithmetic = arithmetic_for(promised, problem.case.dtype)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("element", "got", "expected", "error", "bound", "products", "A"):
        table.add_column(heading, no_wrap=True)
    n = np.broadcast_to(problem.products, problem.exact.shape)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        error = np.abs(actual.astype(np.float64) - problem.exact)
        error[np.isnan(error)] = np.inf
        error[actual == problem.exact] = 0.0
        bound = arithmetic.bound(n, problem.magnitude, np.abs(problem.exact))
        used = np.where(error > 0, error / bound, 0.0)
        used[np.isnan(used)] = np.inf
    for index in np.argsort(-used, axis=None, kind="stable")[:WORST]:
        at = np.unravel_index(index, error.shape)
        place = ",".join(str(int(i)) for i in at)
        values = (float(v[at]) for v in (actual, problem.exact, error, bound, n, problem.magnitude))
        table.add_row(place, *(f"{v:.{digits}g}" for v, digits in zip(values, DIGITS, strict=True)))
    console.print(table)
    console.print(f"{int(np.count_nonzero(error))} of {error.size} elements differ from the exact result")
    return judgement.failed
