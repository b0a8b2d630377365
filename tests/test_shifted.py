"""The right values in the wrong place are told as such, and nothing else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conformance import judge, make_case, pose, pose_given
from conformance.spec import Convolution
from conformance.verdict.shifted import shifted

SAID: dict[str, Any] = {"op": "conv_transpose", "kernel": 3, "stride": 2, "in_channels": 2, "out_channels": 2}


def moved(problem: Any, *steps: int) -> np.ndarray:
    """What a target gives that crops the full result so much later (or earlier)."""
    case: Convolution = problem.case
    said = SAID | {"input": list(case.small), "padding": [[max(s, 0), 0] for s in steps], "bias": case.bias}
    wider = make_case(**said | {"padding": 0, "output_padding": 0})
    full = pose_given(wider, problem.tensors).rounded  # type: ignore[attr-defined]
    kept = tuple(slice(a.begin + s, a.begin + s + a.large) for a, s in zip(case.axes, steps, strict=True))
    moved: np.ndarray = full[(..., *kept)]
    return moved


@pytest.mark.parametrize("data", ["exact", "rounding"])
@pytest.mark.parametrize(
    ("steps", "words"),
    [((1, 1), "by -1 on axis 0 and by -1 on axis 1"), ((0, -1), "by +1 on axis 1"), ((-1, 0), "by +1 on axis 0")],
)
def test_a_crop_that_begins_elsewhere_is_a_shift(data: str, steps: tuple[int, int], words: str) -> None:
    case = make_case(**SAID | {"input": [4, 5], "padding": 1, "bias": True})
    problem = pose(case, data)
    verdict = judge(problem, moved(problem, *steps))
    assert (verdict.verdict, verdict.diagnosis) == ("deviates", f"the right values, shifted {words}")


def test_the_smallest_shift_that_explains_a_result_is_told() -> None:
    row = np.array([[[1.0, 2, 3, 4, 1, 2, 3, 4, 1]]])
    found = shifted(np.concatenate([row[..., 1:], row[..., :1]], -1), row, np.zeros_like(row))
    assert found == "the right values, shifted by -1 on axis 0"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda y: y[..., ::-1],
        lambda y: y.swapaxes(-1, -2),
        lambda y: y + 1,
        lambda y: np.zeros_like(y),
        lambda y: np.full_like(y, np.nan),
        lambda y: np.concatenate([y[..., 1:], y[..., :1]], -1) + np.eye(y.shape[-1], dtype=y.dtype) * 5000,
    ],
)
def test_other_mistakes_are_no_shifts(wrong: Any) -> None:
    problem = pose(make_case(**SAID | {"input": [4, 4], "padding": 1}))
    verdict = judge(problem, np.ascontiguousarray(wrong(problem.rounded)))  # type: ignore[attr-defined]
    assert verdict.failed
    assert "shifted" not in verdict.diagnosis


def test_a_few_values_that_are_found_elsewhere_are_no_shift() -> None:
    exact = np.array([[[7.0, 8.0, 9.0]]])
    assert shifted(np.array([[[8.0, 9.0, 0.0]]]), exact, np.zeros_like(exact)) == ""
    constant = np.ones((1, 1, 50))
    assert shifted(np.append(constant[..., 1:], 2.0).reshape(1, 1, 50), constant, np.zeros_like(constant)) == ""
