"""One case, whole: what it says, what it means, and what targets made of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

import numpy as np
from rich.console import Console
from rich.table import Table

from conformance.arithmetic import Axis
from conformance.deviations import Prediction, settle
from conformance.oracle.bounds import arithmetic_for
from conformance.outcome import Outcome
from conformance.problem import ChainProblem, LinearProblem, Problem
from conformance.runs import Record
from conformance.spec import Case, Chain, Convolution, Pooling, Step
from conformance.text import printable
from conformance.verdict import judge_parts, judge_stages

WORST = 8
SAID = (
    "op",
    "dtype",
    "groups",
    "bias",
    "padding",
    "output_padding",
    "output_size",
    "auto_pad",
    "output_shape",
    "relationship",
    "onnx",
    "ceil_mode",
    "magnitude",
    "isolate",
    "overlap",
    "rectify",
    "lrn_down",
    "bias_down",
    "direction",
    "switches",
)
DIGITS = (9, 9, 3, 3, 6, 4)


def show_case(case: Case, console: Console) -> None:
    """The case in full: where it stands, its sizes, and per axis which rows are kept, or its stages."""
    console.print(case.id, style="bold", highlight=False)
    source = f"  {printable(case.source)}" if case.source else ""
    console.print(f"{case.location}{source}", style="dim", highlight=False)
    if case.notes:
        console.print(printable(case.notes), highlight=False)
    for key in SAID:
        if (value := getattr(case, key, None)) is not None:
            console.print(f"  {key:15s} {value}", highlight=False)
    for name, shape in (case.tensor_shapes | case.result_shapes).items():
        console.print(f"  {name:15s} {'x'.join(map(str, shape))}", highlight=False)
    if isinstance(case, Convolution):
        _show_axes(case, console)
    elif isinstance(case, Chain):
        _show_stages(case, console)


def _show_stages(case: Chain, console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("stage", "what it does", "reads", "gives"):
        table.add_column(heading)
    for stage in case.stages:
        table.add_row(*map(printable, (stage.name, _step(stage.step), ", ".join(stage.reads), ", ".join(stage.gives))))
    console.print(table)


def _step(step: Step) -> str:
    """A step in words."""
    if isinstance(step, Convolution | Pooling):
        source, result = (step.tensor_shapes["input"], step.result_shapes["output"])
        sizes = " to ".join("x".join(map(str, shape)) for shape in (source, result))
        return f"{step.op} {_window(step)}: {sizes}"
    said = ", ".join(f"{f.name} {getattr(step, f.name)}" for f in fields(step) if getattr(step, f.name) is not None)
    return f"{type(step).__name__} ({said})"


def _window(step: Convolution | Pooling) -> str:
    kernel, stride = ("x".join(map(str, sizes)) for sizes in (step.kernel, step.stride))
    return f"{kernel}, stride {stride}"


def _show_axes(case: Convolution, console: Console) -> None:
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
        verdict = f"{r.verdict} (known: {r.deviation})" if r.known else r.verdict
        table.add_row(*map(printable, (r.target, r.data, verdict, r.arithmetic, *numbers, said)))
    console.print(table)


def show_outcome(
    problem: Problem,
    target: str,
    outcomes: Sequence[Outcome],
    promised: str,
    predicted: Sequence[Prediction],
    console: Console,
) -> bool:
    """What came of a problem now: the verdict, and what is most wrong.

    ``predicted`` are the documented deviations of that cell.  Returns whether it fails otherwise than they say.
    """
    settled = settle(judge_parts(problem, outcomes, promised), predicted)
    judgement = settled.judgement
    known = f", known: {settled.deviation}" if settled.known else ""
    console.print(
        f"\n{target} on {problem.data} data: {judgement.verdict} ({judgement.arithmetic}{known})", style="bold"
    )
    for text in filter(None, (judgement.diagnosis, judgement.message)):
        console.print(f"  {text}", highlight=False)
    for file in dict.fromkeys(outcome.file for outcome in outcomes if outcome.file):
        console.print(f"  exported file: {file}", highlight=False, soft_wrap=True)
    if isinstance(problem, ChainProblem) and outcomes[0].kind == "returned":
        _show_judged_stages(problem, outcomes[0], promised, console)
    if isinstance(problem, LinearProblem) and not judgement.passed:
        _show_worst(problem, outcomes[0], promised, console)
    return judgement.failed and not settled.known


def _show_judged_stages(problem: ChainProblem, outcome: Outcome, promised: str, console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("stage", "verdict", "error introduced", "bound used", "message"):
        table.add_column(heading, overflow="fold")
    for name, judgement in judge_stages(problem, outcome, promised):
        numbers = ["" if v is None else f"{v:.3g}" for v in (judgement.max_abs_error, judgement.bound_usage)]
        said = "; ".join(filter(None, (judgement.diagnosis, judgement.message)))
        table.add_row(name, judgement.verdict, *numbers, printable(said))
    console.print(table)


def _show_worst(problem: LinearProblem, outcome: Outcome, promised: str, console: Console) -> None:
    """The elements that are most wrong."""
    actual = outcome.tensors.get("output")
    if actual is None or actual.shape != problem.exact.shape:
        return
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
