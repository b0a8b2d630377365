"""Cases stream through: posed, run, judged and forgotten, each with the promise that its target made."""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from conformance import engine
from conformance.execution import LocalExecutor, TargetSpec, Task
from conformance.outcome import Outcome
from conformance.problem import pose
from conformance.runs import Record
from conformance.spec import EDGE_KINDS, Convolution, case_digest, load_cases

PLANTED = str(Path(__file__).with_name("planted.py"))

SUITE = """
suite: engine
defaults: {op: conv_transpose, in_channels: 3, input: [5, 4]}
cases:
  plain: {kernel: 3, bias: true}
  strided: {kernel: [2, 3], stride: 2}
  edgy: {kernel: 2, data: [exact, edge]}
  double: {kernel: 3, dtype: float64}
  half: {kernel: 3, dtype: float16}
"""
PUBLISHED = """
suite: published-here
cases:
  right:
    {op: conv_transpose, input: [2], kernel: 2, tensors: {input: [[[1, 2]]], weight: [[[3, 4]]]},
     expected: {output: [[[3, 10, 8]]]}}
  wrong:
    {op: conv_transpose, input: [2], kernel: 2, tensors: {input: [[[1, 2]]], weight: [[[3, 4]]]},
     expected: {output: [[[3, 10, 9]]]}}
  numbers-only:
    {op: conv_transpose, input: [2], kernel: 2, tensors: {input: [[[1, 2]]], weight: [[[3, 4]]]}}
"""


def load(folder: Path, text: str) -> list[Convolution]:
    path = folder / "suite.yaml"
    path.write_text(text)
    return load_cases([str(path)])  # type: ignore[return-value]


def target(name: str = "planted", **options: str) -> TargetSpec:
    return TargetSpec(name, "planted", PLANTED, options=tuple(options.items()))


def judged(cases: Sequence[Convolution], specs: Sequence[TargetSpec], *, jobs: int = 1, **options: Any) -> list[Record]:
    with LocalExecutor(specs, jobs=jobs) as executor:
        return list(engine.run(cases, specs, executor, **options))


def verdicts(records: Sequence[Record], name: str = "planted") -> dict[tuple[str, str], str]:
    return {(r.case.partition("/")[2], r.data): r.verdict for r in records if r.target == name}


# ---- How much is under way ----


class OneAtATime:
    """An executor of slow targets: it answers one task each time that it may be waited for."""

    def __init__(self) -> None:
        self.descriptions: dict[str, dict[str, str]] = {}
        self.held: deque[Task] = deque()
        self.problems: Counter[int] = Counter()
        self.most, self.most_bytes, self.submitted, self.asked = 0, 0, 0, 0
        self.open: dict[int, Any] = {}

    def submit(self, task: Task) -> None:
        self.submitted += 1
        self.held.append(task)
        posed, _ = task.tag
        self.problems[id(posed)] += 1
        self.open[id(posed)] = posed
        self.most = max(self.most, len(+self.problems))
        held = sum(posed.problem.nbytes for posed in self.open.values())
        if len(+self.problems) > 1:
            self.most_bytes = max(self.most_bytes, held)

    def poll(self, timeout: float) -> list[tuple[Task, Outcome]]:
        self.asked += 1
        if not self.held or not timeout:
            return []
        task = self.held.popleft()
        posed, _ = task.tag
        self.problems[id(posed)] -= 1
        if not self.problems[id(posed)]:
            del self.open[id(posed)]
        return [(task, Outcome("unsupported", message="never"))]


def many(case: Convolution, count: int) -> Iterator[Convolution]:
    """Cases that nobody keeps."""
    return (replace(case, id=f"engine/{n}") for n in range(count))


@pytest.mark.parametrize("limit", [1, 5])
@pytest.mark.parametrize("targets", [1, 3])
def test_no_more_problems_are_posed_than_may_be_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, targets: int
) -> None:
    monkeypatch.setattr(engine, "MAX_PROBLEMS", limit)
    posed: list[str] = []

    def counted(case: Convolution, *rest: Any) -> Any:
        posed.append(case.id)
        return pose(case, *rest)

    monkeypatch.setattr(engine, "pose", counted)
    executor, names = OneAtATime(), [target(f"t{n}") for n in range(targets)]
    (case, *_) = load(tmp_path, SUITE)
    done: Counter[str] = Counter()
    for record in engine.run(many(case, 20), names, executor):  # type: ignore[arg-type]
        done[f"{record.case} {record.data}"] += 1
        finished = sum(n == targets for n in done.values())
        assert len(posed) - finished <= limit
    assert executor.most == limit
    assert executor.submitted == 40 * targets == done.total()


def test_large_problems_wait_for_each_other_but_one_alone_may_be_as_large_as_it_likes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MAX_BYTES", 100_000)
    sizes = "[[10000], [500], [50], [700], [900], [30000], [30]]"
    text = f"suite: s\ncases: {{many: {{op: conv_transpose, kernel: 1, matrix: {{input: {sizes}}}}}}}"
    executor = OneAtATime()
    records = list(engine.run(load(tmp_path, text), [target()], executor))  # type: ignore[arg-type]
    assert len(records) == 14
    assert executor.most >= 4
    assert 0 < executor.most_bytes <= 100_000


def test_all_that_may_be_under_way_is_under_way(tmp_path: Path) -> None:
    """Otherwise workers would wait for the parent."""
    executor = OneAtATime()
    (case, *_) = load(tmp_path, SUITE)
    list(engine.run(many(case, 100), [target()], executor))  # type: ignore[arg-type]
    assert executor.most == engine.MAX_PROBLEMS


def test_somebody_is_told_while_nothing_comes(tmp_path: Path) -> None:
    class Deaf(OneAtATime):
        def poll(self, timeout: float) -> list[tuple[Task, Outcome]]:
            return [] if self.asked < 10 and not self.ask() else super().poll(timeout)

        def ask(self) -> bool:
            self.asked += 1
            return False

    told: list[int] = []
    (case, *_) = load(tmp_path, SUITE)
    records = list(engine.run([case], [target()], Deaf(), waiting=lambda: told.append(1)))  # type: ignore[arg-type]
    assert len(records) == 2
    assert len(told) > 3


def test_memory_does_not_grow_with_the_number_of_cases(tmp_path: Path) -> None:
    (case, *_) = load(tmp_path, SUITE)
    spec = target()

    def peaks(count: int, executor: LocalExecutor) -> tuple[int, int]:
        """Most that the parent held at once, and what the worker holds in the end; bytes."""
        tracemalloc.start()
        try:
            for _ in engine.run(many(case, count), [spec], executor):
                pass
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        (worker,) = (p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline()))
        return most, worker.memory_info().rss

    with LocalExecutor([spec]) as executor:
        peaks(50, executor)
        few, worker_after_few = peaks(150, executor)
        lots, worker_after_lots = peaks(1500, executor)
    assert lots < 1.5 * few + 200_000
    assert worker_after_lots < worker_after_few + 10 * 2**20


def test_no_file_stays_open_for_a_tensor_that_is_done_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_PROBLEMS", 2)
    text = "suite: s\ncases: {a: {op: conv_transpose, kernel: 1, input: [600, 600], data: exact}}"
    (case,) = load(tmp_path, text)
    executor, before = OneAtATime(), len(os.listdir("/proc/self/fd"))
    most = 0
    for _ in engine.run(many(case, 10), [target()], executor):  # type: ignore[arg-type]
        most = max(most, len(os.listdir("/proc/self/fd")) - before)
    assert 1 <= most <= 2
    assert len(os.listdir("/proc/self/fd")) == before


# ---- What is run ----


def test_every_case_meets_every_target_with_every_kind_of_data(tmp_path: Path) -> None:
    cases, specs = load(tmp_path, SUITE), [target("a"), target("b")]
    records = judged(cases, specs)
    wanted = {(case.id, name, kind) for case in cases for name in "ab" for kind in case.data}
    assert {r.key for r in records} == wanted
    assert len(records) == len(wanted) == len(list(engine.cells(cases, specs)))
    assert {r.verdict for r in records} == {"exact", "within_bound"}


@pytest.mark.parametrize("data", [("exact",), ("rounding",), ("edge-nan", "edge-inf"), EDGE_KINDS, ("published",)])
def test_only_the_kinds_of_data_that_are_asked_for_are_run(tmp_path: Path, data: tuple[str, ...]) -> None:
    cases, specs = load(tmp_path, SUITE), [target()]
    records = judged(cases, specs, data=data)
    assert {(r.case, r.data) for r in records} == {(c.id, kind) for c in cases for kind in c.data if kind in data}
    assert len(records) == len(list(engine.cells(cases, specs, data)))


def test_what_is_done_is_neither_posed_nor_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases, specs = [*load(tmp_path, SUITE), *load(tmp_path, PUBLISHED)], [target("a"), target("b")]
    records = judged(cases, specs)
    done = {(r.digest, r.target, r.data) for r in records}
    left = {r.key for r in records if r.case == "engine/plain" and r.target == "b"}
    executor = OneAtATime()
    again = engine.run(
        cases,
        specs,
        executor,  # type: ignore[arg-type]
        done=done - {(r.digest, r.target, r.data) for r in records if r.key in left},
    )
    assert {r.key for r in again} == left

    def refuse(*_: Any) -> None:
        raise AssertionError("posed")

    monkeypatch.setattr(engine, "pose", refuse)
    assert list(engine.run(cases, specs, executor, done=done)) == []  # type: ignore[arg-type]


def test_no_cases_and_no_targets_give_no_verdicts(tmp_path: Path) -> None:
    executor = OneAtATime()
    assert list(engine.run([], [target()], executor)) == []  # type: ignore[arg-type]
    assert list(engine.run(load(tmp_path, SUITE), [], executor)) == []  # type: ignore[arg-type]
    assert executor.submitted == 0


def test_verdicts_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    cases, specs = load(tmp_path, SUITE), [target("right"), target("wrong", mistake="operands-rounded-to-tf32")]

    def said(records: list[Record]) -> list[Record]:
        return sorted((replace(r, seconds=0.0) for r in records), key=lambda r: r.key)

    assert said(judged(cases, specs)) == said(judged(list(reversed(cases)), specs, jobs=3))


# ---- Published results ----


def test_the_oracle_is_judged_where_a_result_is_published(tmp_path: Path) -> None:
    cases, specs = load(tmp_path, PUBLISHED), [target(), target("negated", mistake="negated")]
    records = judged(cases, specs)
    assert verdicts(records, "oracle") == {("right", "published"): "exact", ("wrong", "published"): "deviates"}
    assert set(verdicts(records).values()) == {"exact"}
    assert set(verdicts(records, "negated").values()) == {"deviates"}
    assert len(list(engine.cells(cases, specs))) == len(records)


def test_the_oracle_reproduces_every_published_result() -> None:
    records = [*engine.run(load_cases(["published"]), [], OneAtATime())]  # type: ignore[arg-type, list-item]
    assert len(records) > 30
    assert {r.target for r in records} == {"oracle"}
    assert {r.verdict for r in records} <= {"exact", "within_bound"}


def test_the_oracle_is_not_judged_again_when_it_has_been(tmp_path: Path) -> None:
    cases = load(tmp_path, PUBLISHED)
    records = judged(cases, [target()])
    done = {(r.digest, r.target, r.data) for r in records if r.target == "oracle"}
    assert {r.target for r in judged(cases, [target()], done=done)} == {"planted"}


# ---- Promises ----


def test_a_target_is_held_to_what_it_promises(tmp_path: Path) -> None:
    tf32 = "operands-rounded-to-tf32"
    specs = [
        target("promises nothing", mistake=tf32),
        target("promises tf32", mistake=tf32, arithmetic="tf32"),
        target("promises bfloat16-operands", mistake=tf32, arithmetic="bfloat16-operands"),
        target("could do better", arithmetic="tf32"),
        target("is wrong all the same", mistake="kernel-turned", arithmetic="tf32"),
        target("is worse than that", mistake="operands-rounded-to-bfloat16", arithmetic="tf32"),
    ]
    records = [r for r in judged(load(tmp_path, SUITE), specs) if r.case in ("engine/plain", "engine/strided")]
    found = {s.name: {(r.data, r.verdict, r.arithmetic) for r in records if r.target == s.name} for s in specs}
    assert found["promises nothing"] == {("exact", "reduced", "tf32"), ("rounding", "reduced", "tf32")}
    assert found["promises tf32"] == {("exact", "within_bound", "tf32"), ("rounding", "within_bound", "tf32")}
    assert {verdict for _, verdict, _ in found["promises bfloat16-operands"]} == {"within_bound"}
    assert ("exact", "exact", "tf32") in found["could do better"]
    assert {verdict for _, verdict, _ in found["could do better"]} <= {"exact", "within_bound"}
    assert {verdict for _, verdict, _ in found["is wrong all the same"]} == {"deviates"}
    assert {(v, a) for _, v, a in found["is worse than that"]} == {("reduced", "bfloat16-operands")}


def test_a_promise_about_float32_holds_other_dtypes_to_their_own(tmp_path: Path) -> None:
    records = judged(load(tmp_path, SUITE), [target("a", mistake="float32-for-float64", arithmetic="tf32")])
    (double,) = (r for r in records if r.case == "engine/double")
    assert (double.verdict, double.arithmetic) == ("reduced", "float32")


@pytest.mark.parametrize("promise", ["exactly", "", "TF32", "None"])
def test_a_promise_that_means_nothing_is_an_error(tmp_path: Path, promise: str) -> None:
    records = judged(load(tmp_path, SUITE)[:1], [target(arithmetic=promise)])
    assert {r.verdict for r in records} == {"error"}
    assert all(r.message.startswith(f"the target promises {promise}; expected native or one of") for r in records)
    assert all("tf32" in r.message for r in records)


# ---- What identifies a case ----


def test_a_case_is_known_by_what_it_says_not_by_where_it_stands(tmp_path: Path) -> None:
    (case, *others) = load(tmp_path, SUITE)
    same = replace(case, location="elsewhere.yaml:99", notes="new", source="new", tags=("new",), data=("rounding",))
    assert case_digest(same) == case_digest(case)
    digests = {case_digest(c) for c in (case, *others)}
    for change in (
        {"id": "engine/other"},
        {"op": "conv_input_gradient"},
        {"dtype": "float16"},
        {"batch": 2},
        {"groups": 3},
        {"bias": False},
        {"padding": "same"},
        {"axes": (case.axes[0], replace(case.axes[1], begin=1))},
    ):
        digests.add(case_digest(replace(case, **change)))  # type: ignore[arg-type]
    assert len(digests) == len(others) + 1 + 8


def test_published_numbers_are_part_of_what_a_case_says(tmp_path: Path) -> None:
    right, *_ = load(tmp_path, PUBLISHED)
    digests = {case_digest(right)}
    for old, new in (("[[[1, 2]]]", "[[[1, 3]]]"), ("[[[3, 4]]]", "[[[4, 3]]]"), ("[3, 10, 8]", "[3, 8, 10]")):
        digests.add(case_digest(load(tmp_path, PUBLISHED.replace(old, new))[0]))
    assert len(digests) == 4
