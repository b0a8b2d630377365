"""A failure in words: the tensor that is wrong, around the element that is most wrong, and how to see it again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance import Outcome, judge, load_cases, make_case, pose
from conformance.engine import Judged, record_of
from conformance.problem import Problem
from conformance.reports.failure import failure_text, in_short, repeat_command


def told(problem: Problem, tensors: dict[str, Any], target: str = "") -> list[str]:
    outcome = Outcome("returned", tensors)
    return failure_text(
        Judged(record_of(problem, "mine", judge(problem, outcome)), problem, "native", (outcome,)), target
    ).splitlines()


def values(problem: Problem) -> dict[str, np.ndarray]:
    """What a target returns that is right."""
    kept = problem.values  # type: ignore[attr-defined]
    dtypes = {name: np.int64 if name.endswith("indices") else np.float32 for name in kept}
    return {name: array.astype(dtypes[name]) for name, array in kept.items()}


def test_a_wrong_switch_is_shown_among_its_neighbours() -> None:
    problem = pose(make_case(op="max_pool", input=[6, 6], kernel=2))
    returned = values(problem)
    returned["indices"][0, 0, 1, 2] = 0
    lines = told(problem, returned)
    assert lines[0].startswith("deviates: ")
    assert "  indices: 1 of 9 elements differ, most at [0,0,1,2]; around it" in lines


def test_in_a_chain_the_first_wrong_stage_is_shown() -> None:
    said = {"in_channels": 1, "layers": [{"conv": 2, "kernel": 3}, "relu", {"conv": 3, "kernel": 2}]}
    problem = pose(make_case(op="deconvnet", input=[6, 6], **said))
    returned = values(problem)
    returned["conv1"][0, 1, 2, 3] += 7
    lines = told(problem, returned)
    assert lines[0].startswith("deviates: first wrong stage: conv1")
    (shown,) = (line for line in lines if "elements differ" in line)
    assert shown.startswith("  conv1: 1 of 32 elements differ, most at [0,1,2,3]")


def test_what_did_not_come_back_is_told_without_a_table() -> None:
    problem = pose(make_case(op="conv", input=[4], kernel=2))
    outcome = Outcome("crash", message="died of SIGSEGV")
    judged = Judged(record_of(problem, "mine", judge(problem, outcome)), problem, "native", (outcome,))
    assert failure_text(judged).splitlines() == [
        "crash: died of SIGSEGV",
        "  yours/case on mine, exact data",
        "  conv float32 1x1x4 to 1x1x3, kernel 2, stride 1, dilation 1, crop 0:0",
    ]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_the_worst(wrong: float) -> None:
    problem = pose(make_case(op="conv", input=[3, 3], kernel=2))
    actual = problem.rounded.copy()  # type: ignore[attr-defined]
    actual[0, 0, 0, 1] += 5000
    actual[0, 0, 1, 0] = wrong
    assert any("most at [0,0,1,0]" in line for line in told(problem, {"output": actual}))


def test_nothing_that_a_target_says_reaches_the_terminal_as_it_is() -> None:
    problem = pose(make_case(op="conv", input=[4], kernel=2))
    outcome = Outcome("error", message="bad\x1b[2J thing")
    judged = Judged(record_of(problem, "mine", judge(problem, outcome)), problem, "native", (outcome,))
    assert "\x1b" not in failure_text(judged, "mine")


def test_a_shipped_case_is_named_and_another_is_found_by_its_file() -> None:
    case = next(case for case in load_cases(["sweep"]) if "[" in case.id)
    assert repeat_command(case, "torch") == f"conformance show '{case.id}' --target torch"
    assert in_short(case).startswith(f"{case.op} {case.dtype} ")
