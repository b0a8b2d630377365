"""The same problem run several times: runs that differ, and runs that only sometimes fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conformance import engine
from conformance.execution import LocalExecutor, TargetSpec
from conformance.outcome import Outcome
from conformance.problem import Problem, pose
from conformance.runs import Record
from conformance.spec import Convolution, load_cases
from conformance.verdict import judge_repeated

SUITE = """
suite: repeated
cases:
  one: {op: conv_transpose, in_channels: 8, input: [5, 4], kernel: 3}
  equation: {op: conv_transpose, input: [5, 4], kernel: 3, data: [adjoint]}
"""
TARGET = """
import sys
sys.path.insert(0, {tests!r})
from planted import Planted
class target:
    name, arithmetic = "changing", "native"
    def __init__(self):
        self.count, self.inner = 0, Planted()
    def environment(self):
        return {{}}
    def run(self, case, tensors):
        self.count += 1
        y = self.inner.run(case, tensors)["output"]
        {change}
        return {{"output": y}}
"""


def cases(folder: Path) -> list[Convolution]:
    path = folder / "suite.yaml"
    path.write_text(SUITE)
    return load_cases([str(path)])  # type: ignore[return-value]


def run(folder: Path, change: str, repeat: int = 3) -> dict[tuple[str, str], Record]:
    path = folder / "changing.py"
    path.write_text(TARGET.format(tests=str(Path(__file__).parent), change=change))
    spec = TargetSpec("changing", "changing", str(path))
    with LocalExecutor([spec]) as executor:
        records = list(engine.run(cases(folder), [spec], executor, repeat=repeat))
    return {(record.case.partition("/")[2], record.data): record for record in records}


def test_what_stays_the_same_keeps_its_verdict(tmp_path: Path) -> None:
    records = run(tmp_path, "pass")
    assert {key: record.verdict for key, record in records.items()} == {
        ("one", "exact"): "exact",
        ("one", "rounding"): "within_bound",
        ("equation", "adjoint"): "exact",
    }


def test_every_part_of_a_problem_is_run_so_many_times(tmp_path: Path) -> None:
    changes = "open('count', 'w').write(str(self.count))"
    run(tmp_path, changes.replace("'count'", repr(str(tmp_path / "count"))), repeat=4)
    assert int((tmp_path / "count").read_text()) == 4 * (1 + 1 + 2)


def test_a_last_bit_that_changes_is_told_and_no_failure(tmp_path: Path) -> None:
    record = run(tmp_path, "y.flat[self.count % 5] *= 1 + 2.0**-23")[("one", "rounding")]
    assert record.verdict == "nondeterministic"
    assert record.message.startswith("2 elements differ between runs on the same input, by at most ")


def test_a_run_that_only_sometimes_fails_fails(tmp_path: Path) -> None:
    records = run(tmp_path, "y.flat[3] += 1e6 * (self.count == 2)")
    assert records["one", "exact"].verdict == "deviates"
    assert records["one", "exact"].message.endswith("; 1 of 3 runs")


def problem(folder: Path) -> Problem:
    return pose(cases(folder)[0], "rounding")


def returned(problem: Problem, **change: object) -> Outcome:
    output = problem.rounded.copy()  # type: ignore[attr-defined]
    return Outcome("returned", {"output": output, **change})  # type: ignore[dict-item]


def test_one_run_is_judged_as_ever(tmp_path: Path) -> None:
    p = problem(tmp_path)
    assert judge_repeated(p, [[returned(p)]]).verdict == "exact"


def test_zeros_of_either_sign_are_different_bits(tmp_path: Path) -> None:
    p = problem(tmp_path)
    first, other = returned(p), returned(p, more=np.zeros(3, np.float32))
    again = Outcome("returned", {**other.tensors, "more": -np.zeros(3, np.float32)})
    assert judge_repeated(p, [[other], [again]]).verdict == "nondeterministic"
    assert judge_repeated(p, [[first], [other]]).verdict == "exact"  # what only one of them returned is not compared


@pytest.mark.parametrize("kind", ["crash", "timeout", "error"])
def test_a_run_that_does_not_return_is_the_verdict(tmp_path: Path, kind: str) -> None:
    p = problem(tmp_path)
    judgement = judge_repeated(p, [[returned(p)], [Outcome(kind, message="why")]])  # type: ignore[arg-type]
    assert (judgement.verdict, judgement.message) == (kind, "why; 1 of 2 runs")


def test_what_is_refused_once_is_refused(tmp_path: Path) -> None:
    p = problem(tmp_path)
    refused = Outcome("unsupported", message="why")
    assert judge_repeated(p, [[refused], [refused]]).verdict == "unsupported"


def test_another_shape_in_another_run_is_a_failure(tmp_path: Path) -> None:
    p = problem(tmp_path)
    other = Outcome("returned", {"output": np.zeros((1, 1), np.float32)})
    assert judge_repeated(p, [[returned(p)], [other]]).verdict == "wrong_shape"
