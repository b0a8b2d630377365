"""Every mistake of the catalogue is found, and named for what it is; the definition itself passes everywhere."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from conformance import engine
from conformance.execution import LocalExecutor, TargetSpec
from conformance.runs import Record
from conformance.spec import Case, load_cases
from conformance.verdict import FAILED, PASSED

PLANTED = Path(__file__).with_name("planted.py")
FORMATS = """
suite: formats
defaults: {op: conv_transpose, batch: 2, in_channels: 4, out_channels: 3, bias: true, input: [5, 6]}
cases:
  strided: {kernel: [3, 4], stride: [2, 1], matrix: {dtype: [float16, bfloat16, float32, float64]}}
  dilated: {kernel: [4, 3], dilation: [1, 2], matrix: {dtype: [float16, bfloat16, float32, float64]}}
"""
NAMED_RIGHT = 0.98
"""What a wrong value is called depends on its size, so a small one may now and then look like rounding."""


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("planted", PLANTED)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["planted"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


planted = _load()
BY_PLACE = {
    where: [n for n, m in planted.MISTAKES.items() if m.where == where]
    for where in ("values", "rounding", "formats", "edge")
}


def target(mistake: str = "") -> TargetSpec:
    """The planted target; all of them share one worker process."""
    options = (("mistake", mistake),) if mistake else ()
    return TargetSpec(mistake or "correct", "planted", str(PLANTED), options=options)


def judged(cases: Iterable[Case], specs: list[TargetSpec], data: tuple[str, ...] = ()) -> list[Record]:
    with LocalExecutor(specs) as executor:
        return list(engine.run(cases, specs, executor, data=data))


def said(record: Record) -> str:
    return f"reduced to {record.arithmetic}" if record.verdict == "reduced" else record.verdict


class Catalogue:
    """One run per place where mistakes show, and what the runs warned of."""

    def __init__(self, folder: Path) -> None:
        formats = folder / "formats.yaml"
        formats.write_text(FORMATS)
        self.found: dict[str, Counter[str]] = {}
        runs: dict[str, tuple[str, tuple[str, ...]]] = {
            "values": ("asymmetric", ("exact",)),
            "rounding": ("asymmetric", ("exact", "rounding")),
            "formats": (str(formats), ()),
            "edge": ("edge", ()),
        }
        with warnings.catch_warnings(record=True) as self.warnings:
            warnings.simplefilter("always")
            for where, (suite, data) in runs.items():
                for record in judged(load_cases([suite]), list(map(target, BY_PLACE[where])), data):
                    self.found.setdefault(record.target, Counter())[said(record)] += 1


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return Catalogue(tmp_path_factory.mktemp("planted"))


@pytest.mark.parametrize("mistake", planted.MISTAKES)
def test_every_mistake_is_found_and_named(catalogue: Catalogue, mistake: str) -> None:
    failures = Counter({v: n for v, n in catalogue.found[mistake].items() if v not in PASSED})
    expected = planted.MISTAKES[mistake].verdicts
    assert failures[expected[0]] > 0
    assert set(failures) - {"reduced to winograd-like"} <= set(expected)
    assert sum(failures[v] for v in expected) >= NAMED_RIGHT * failures.total()


def test_judging_garbage_warns_of_nothing(catalogue: Catalogue) -> None:
    assert {f"{Path(w.filename).name}:{w.lineno}: {w.message}" for w in catalogue.warnings} == set()


def test_most_cases_see_a_mistake_that_no_shape_betrays(catalogue: Catalogue) -> None:
    turned = catalogue.found["kernel-turned"]
    assert turned["deviates"] > 0.9 * turned.total()


@pytest.mark.parametrize("suite", ["asymmetric", "edge", "dumoulin-visin", "spellings", "published"])
def test_the_definition_passes_in_every_case(suite: str) -> None:
    """Where the specification is open, it is one of the readings; nowhere else."""
    cases: dict[str, Any] = {case.id: case for case in load_cases([suite])}
    records = [r for r in judged(cases.values(), [target()]) if r.target == "correct"]
    assert len(records) > 50
    for record in records:
        assert record.verdict in (("ambiguous",) if cases[record.case].readings else PASSED), record


def test_the_definition_passes_in_every_format(tmp_path: Path) -> None:
    suite = tmp_path / "formats.yaml"
    suite.write_text(FORMATS)
    records = judged(load_cases([str(suite)]), [target()])
    assert {r.verdict for r in records} == {"exact", "within_bound"}
    assert len(records) == 2 * (4 + 3)  # float64 has no rounding data


def test_exact_data_leaves_the_definition_nothing_to_round() -> None:
    records = judged(load_cases(["asymmetric"]), [target()], ("exact",))
    assert {r.verdict for r in records} == {"exact"}


def test_one_mistake_costs_the_others_nothing() -> None:
    """A target that garbles everything it returns shares its worker with one that does not."""
    cases = load_cases(["asymmetric"])[:20]
    records = judged(cases, [target(), target("uninitialised"), target("previous-case-handed-back")])
    assert {r.verdict for r in records if r.target == "correct"} == {"exact", "within_bound"}
    assert {r.verdict for r in records if r.target == "uninitialised"} <= set(FAILED)
