"""The suite `onnx` against a runtime written from the texts of the operators, and against that with one mistake."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("onnx", reason="graphs of ONNX are made with onnx")

from conformance.outcome import Outcome
from conformance.problem import Problem, pose
from conformance.spec import Convolution, load_cases
from conformance.verdict import Judgement, judge


def _load() -> ModuleType:
    path = Path(__file__).with_name("planted_onnx.py")
    spec = importlib.util.spec_from_file_location("planted_onnx", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["planted_onnx"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


planted = _load()
SEEN = ("deviates", "wrong_shape")
"""An error would say that the planted runtime has another mistake than it was given."""


def judged(problems: Iterable[Problem], mistake: str = "") -> Iterator[tuple[Any, Judgement]]:
    target = planted.PlantedOnnx(mistake)
    for problem in problems:
        try:
            outcome = Outcome("returned", dict(target.run(problem.case, problem.tensors)))
        except (ValueError, IndexError, TypeError, AssertionError) as error:
            outcome = Outcome("error", message=f"{type(error).__name__}: {error}")
        yield problem.case, judge(problem, outcome)


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return [pose(case, case.data[0]) for case in load_cases(["onnx"])]


def first_reading(case: Any) -> str:
    """The name of the reading that is ours; empty where there is no doubt."""
    readings = getattr(case, "readings", ())
    if not readings:
        return ""
    return str(readings[0][0] if isinstance(case, Convolution) else readings[0].name)


def test_the_texts_pass_in_every_case_and_where_they_are_open_as_the_first_reading(problems: list[Problem]) -> None:
    said: Counter[str] = Counter()
    for case, judgement in judged(problems):
        contested = case.op == "max_unpool" and case.output_shape is not None
        if reading := first_reading(case):
            assert judgement.verdict == "ambiguous", (case.id, judgement)
            assert judgement.diagnosis.endswith(f"read as: {reading}"), (case.id, judgement)
        else:
            assert judgement.verdict in (("exact", "ambiguous") if contested else ("exact",)), (case.id, judgement)
        said[judgement.verdict] += 1
    assert said["exact"] > 600
    assert said["ambiguous"] > 80


@pytest.mark.parametrize("mistake", planted.MISTAKES)
def test_a_mistake_with_the_words_of_onnx_is_seen(problems: list[Problem], mistake: str) -> None:
    concerned = [problem for problem in problems if problem.case.op in planted.MISTAKES[mistake]]
    assert any(judgement.verdict in SEEN for _, judgement in judged(concerned, mistake))


OPEN = [(behaviour, case) for behaviour, cases in planted.READINGS.items() for case in cases]


@pytest.mark.parametrize(("behaviour", "case"), OPEN)
def test_where_the_text_is_open_every_other_reading_is_named_too(
    problems: list[Problem], behaviour: str, case: str
) -> None:
    (problem,) = [p for p in problems if p.case.id == f"onnx/{case}"]
    (_, judgement), (_, ours) = (*judged([problem], behaviour), *judged([problem]))
    assert (judgement.verdict, ours.verdict) == ("ambiguous", "ambiguous"), judgement
    assert judgement.diagnosis != ours.diagnosis
