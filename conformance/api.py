"""What a program of one's own may use; `conformance` has these names.

from conformance import assert_conforms, make_case, pose

case = make_case(op="conv_transpose", input=[8, 8], kernel=4, stride=2, padding=1)
x, weight = pose(case).tensors.values()
assert_conforms(my_conv_transpose(x, weight, stride=2, padding=1), case, {"input": x, "weight": weight})
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conformance import engine
from conformance.arrays import as_numpy
from conformance.comparison import Comparison, Run
from conformance.comparison import compare as compare_runs
from conformance.deviations import Register, load_deviations
from conformance.engine import Judged
from conformance.errors import BadInput, ConformanceError
from conformance.execution import LocalExecutor, find_targets
from conformance.oracle import convolution
from conformance.outcome import Outcome
from conformance.problem import Problem, pose, pose_given
from conformance.reports.failure import failure_text
from conformance.runs import Record, RunFile
from conformance.spec import Case, Convolution, load_cases, make_case
from conformance.verdict import Judgement
from conformance.verdict import judge as judge_outcome

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = [
    "BadInput",
    "Case",
    "Comparison",
    "ConformanceError",
    "Judgement",
    "Outcome",
    "Problem",
    "Record",
    "RunFile",
    "assert_conforms",
    "compare",
    "conv_matrix",
    "judge",
    "load_cases",
    "make_case",
    "pose",
    "pose_given",
    "run",
]

YOURS = "your result"


def judge(problem: Problem, actual: Any, arithmetic: str = "native") -> Judgement:
    """The verdict on a result: an array of any library, a mapping of names to arrays, or an `Outcome`.

    ``arithmetic`` is what is promised: ``native`` (that of the case's dtype), ``tf32``, ``float16-sums`` ... with
    ``+bias`` if a bias is added by an operation of its own.
    """
    return judge_outcome(problem, _outcome(actual), arithmetic)


def assert_conforms(
    actual: Any, case: Case | Mapping[str, Any], tensors: Mapping[str, Any], arithmetic: str = "native"
) -> Judgement:
    """Check a result of your own against the oracle.  Raises AssertionError with what is wrong, where, and by how much.

    ``actual`` is an array of any library, or for ops of several stages a mapping of names to arrays.  ``case`` is a
    case, or what `make_case` takes.  ``tensors`` are the numbers that you fed (``input``, ``weight``, ``bias`` ...), of
    any library, in PyTorch's layouts.  Where the case's dtype holds all sums of your numbers, the result must be right
    bit for bit; otherwise within the bound of ``arithmetic`` (see `judge`).  A result that one reading of an open
    specification gives is right.  Raises BadInput where case and numbers do not fit together.
    """
    fed = {name: as_numpy(tensor) for name, tensor in tensors.items()}
    problem = pose_given(case if isinstance(case, Case) else make_case(**case), fed)
    outcome = _outcome(actual)
    judgement = judge_outcome(problem, outcome, arithmetic)
    if judgement.failed:
        record = engine.record_of(problem, YOURS, judgement)
        record = replace(record, data="exact" if problem.data == "exact" else "your")
        raise AssertionError(failure_text(Judged(record, problem, arithmetic, (outcome,))))
    return judgement


def _outcome(actual: Any) -> Outcome:
    if isinstance(actual, Outcome):
        return actual
    named = actual if isinstance(actual, Mapping) else {"output": actual}
    return Outcome("returned", {name: as_numpy(array) for name, array in named.items()})


def run(
    cases: Iterable[Case],
    targets: Iterable[str] = (),
    *,
    data: Collection[str] = (),
    jobs: int | None = None,
    threads: int = 1,
    timeout: float = 60.0,
    deviations: Iterable[Path] = (),
) -> Iterator[Record]:
    """Run cases on targets, in processes of their own, and yield a record for each verdict as it comes.

    ``targets`` are names as on the command line, all that are installed and quick if there is none.  ``data`` limits
    the kinds of data, ``jobs`` is how many workers to aim for (the machine's cores, if not told), ``threads`` are those
    inside each framework, ``timeout`` is in seconds a case.  ``deviations`` are files that you document your own in.
    Raises BadInput for a target that there is not.
    """
    specs = find_targets(targets)
    register = Register(load_deviations(deviations))
    workers = jobs or os.cpu_count() or 1
    with LocalExecutor(specs, jobs=workers, threads=threads, timeout=timeout) as executor:
        yield from engine.run(cases, specs, executor, data=data, register=register)


def compare(old: str | Path, new: str | Path) -> Comparison:
    """What changed from one run file to another, cell by cell.  Raises BadRunFile for what is none."""
    return compare_runs(Run.read(Path(old)), Run.read(Path(new)))


def conv_matrix(case: Case, weight: np.ndarray) -> csr_array:
    """The matrix C of a convolution, such that the convolution is ``C @ x.ravel()`` for one image, without bias.

    A transposed convolution is ``C.T @ y.ravel()``.  ``weight`` has the shape that the case says.  The matrix is
    sparse, ``.toarray()`` shows it.  Raises BadInput for an op that is not one convolution.
    """
    if not isinstance(case, Convolution):
        raise BadInput(f"{case.id}: expected a convolution, got {case.op}")
    if weight.shape != case.weight_shape:
        raise BadInput(f"{case.id}: weight: expected the shape {case.weight_shape}, got {weight.shape}")
    return convolution.conv_matrix(case.axes, weight, case.groups)
