"""Every known mistake in pooling, unpooling and deconvnets is found by the shipped cases; the definition passes.

Everything runs in this process: what is judged here is the cases and the judge, not the workers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import planted_chains
import pytest
from planted_chains import MISTAKES, Planted

from conformance.outcome import Outcome
from conformance.problem import Problem, pose
from conformance.spec import PUBLISHED, Case, Chain, MaxUnpool, load_cases
from conformance.verdict import PASSED, Judgement, judge_parts, judge_published

SUITES = ("pooling", "zfnet", "deconvnets", "adaptive", "fusion")
SMALL = 200_000
"""Products of the cases that every mistake runs through."""
LARGER = (  # net E, which alone has a normalisation
    "zfnet/net-e[isolate=unit,seed=activation]",
    "zfnet/net-e[isolate=channel,seed=one]",
    "zfnet/net-e-gradient[isolate=none,seed=activation]",
    "zfnet/net-e-forward[isolate=unit]",
)
MODES = pytest.mark.parametrize("opaque", [False, True], ids=["stages", "opaque"])
Returned = tuple[dict[str, np.ndarray], ...]
Failure = tuple[Problem, Judgement]


@cache
def cases() -> tuple[Case, ...]:
    return tuple(load_cases(SUITES, "quick"))


def small() -> list[Case]:
    return [case for case in cases() if case.products <= SMALL or case.id in LARGER]


@cache
def posed(ops: tuple[str, ...]) -> tuple[Problem, ...]:
    """The problems that a mistake in these ops runs through."""
    return tuple(problem_of(case, data) for case in small() if case.op in ops for data in telling(case))


def telling(case: Case) -> list[str]:
    """Kinds of data; those that must be rounded only where there are no others."""
    return [kind for kind in case.data if kind != "rounding" or "exact" not in case.data]


@cache
def problem_of(case: Case, data: str) -> Problem:
    return pose(case, data)


def run(target: Planted, problem: Problem) -> Returned:
    return tuple(target.run(case, tensors) for case, tensors in problem.parts)


@cache
def definition(case: Case, data: str, opaque: bool) -> Returned:
    return run(Planted(opaque=opaque), problem_of(case, data))


def judged(problem: Problem, returned: Returned) -> Judgement:
    return judge_parts(problem, [Outcome("returned", tensors) for tensors in returned])


@cache
def found(mistake: str, opaque: bool) -> tuple[Failure, ...]:
    """The problems in which a mistake fails, each with its judgement."""
    return tuple(_found(Planted(mistake, opaque), posed(MISTAKES[mistake].ops)))


def _found(target: Planted, problems: tuple[Problem, ...]) -> Iterator[Failure]:
    for problem in problems:
        returned = run(target, problem)
        if same(returned, definition(problem.case, problem.data, target.opaque)):
            continue  # it does not concern this case, which passes
        if (judgement := judged(problem, returned)).failed:
            yield problem, judgement


def same(a: Returned, b: Returned) -> bool:
    return all(
        x.keys() == y.keys() and all(np.array_equal(x[n], y[n], equal_nan=True) for n in x)
        for x, y in zip(a, b, strict=True)
    )


def leaves_the_choice(case: Case) -> bool:
    """Whether several values may be assigned to one place, so that more than one result is right."""
    return isinstance(case, Chain) and any(isinstance(s, MaxUnpool) and s.overlap == "assign" for s in case.steps)


# ---- The definition ----


@MODES
def test_the_definition_passes_in_every_small_case(opaque: bool) -> None:
    assert len(small()) > 500
    for case in small():
        for data in case.data:
            verdict = judged(problem_of(case, data), definition(case, data, opaque)).verdict
            allowed = (*PASSED, "ambiguous") if leaves_the_choice(case) else PASSED
            assert verdict in allowed, (case.id, data, verdict)


@pytest.mark.parametrize("suite", ["zfnet", "deconvnets"])
def test_the_definition_passes_in_the_largest_cases(suite: str) -> None:
    largest = sorted((c for c in cases() if c.suite == suite), key=lambda case: case.products)[-3:]
    for case in largest:
        problem = pose(case, "rounding")
        assert judged(problem, run(Planted(), problem)).verdict in PASSED


def test_exact_data_leaves_the_definition_nothing_to_round() -> None:
    for problem in posed(("max_pool", "deconvnet", "deconv_block", "adaptive_deconv")):
        means = any(getattr(step, "overlap", "") in ("assign", "mean") for step in problem.case.steps)  # type: ignore[attr-defined]
        if problem.data == "exact" and not means:
            assert judged(problem, definition(problem.case, "exact", False)).verdict == "exact", problem.case.id


def test_published_numbers_are_what_the_definition_gives() -> None:
    published = [case for case in cases() if case.vectors is not None]
    assert len(published) > 25
    for case in published:
        assert case.vectors is not None
        assert judge_published(problem_of(case, PUBLISHED)).verdict == "exact", case.id
        (given,) = definition(case, PUBLISHED, False)
        for name, expected in case.vectors.expected.items():
            np.testing.assert_array_equal(given[name], expected, err_msg=case.id)


# ---- The mistakes ----


@MODES
@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_found(mistake: str, opaque: bool, record_property: Callable[[str, object], None]) -> None:
    expected = MISTAKES[mistake]
    failures = found(mistake, opaque)
    verdicts = Counter(judgement.verdict for _, judgement in failures)
    record_property("cases", len({problem.case.id for problem, _ in failures}))
    assert verdicts[expected.verdicts[0]] > 0
    assert set(verdicts) <= set(expected.verdicts)


@pytest.mark.parametrize("mistake", [name for name, mistake in MISTAKES.items() if mistake.stage])
def test_the_first_wrong_stage_is_named(mistake: str) -> None:
    expected = MISTAKES[mistake]
    named = [stage_of(judgement) for _, judgement in found(mistake, False)]
    stages = {stage for stage in named if stage}
    assert stages or expected.ops == ("max_pool",)
    assert all(re.fullmatch(expected.stage, stage) for stage in stages), stages


def stage_of(judgement: Judgement) -> str:
    told = re.match(r"first wrong stage: ([^;]*)", judgement.diagnosis)
    return told.group(1) if told else ""


# ---- Which of the six small nets sees which mistake ----

NETS = {net: f"zfnet/net-{net}[" for net in "abcdef"}
SEEN = {
    "masked-by-the-activation": "abcdef",
    "not-rectified": "abcdef",
    "absolute-values-for-the-rectifier": "abcdef",
    "multiplied-by-the-activation": "abcdef",
    "overlaps-assigned": "cef",
    "overlaps-averaged": "cef",
    "unpooled-to-the-nearest": "bcdef",
    "unpooled-to-the-corner": "bcdef",
    "unpooled-to-all-equal-maxima": "bcdef",
    "unpooled-to-the-size-of-the-windows": "def",
    "indices-read-through-all-planes": "bcdef",
    "all-images-unpooled-into-the-first": "bcdef",
    "bias-of-the-layer-below-added": "abcdef",
    "initial-bias-left": "abcdef",
    "normalised-once-more": "e",
    "normalisation-differentiated": "e",
    "kernel-not-turned": "abcdef",
    "whole-channel-kept": "abcdef",
    "all-maps-kept": "abcdef",
    "one-in-place-of-the-activation": "abcdef",
    "weakest-kept": "abcdef",
    "strongest-of-the-batch-kept": "abcdef",
}


@MODES
@pytest.mark.parametrize("mistake", SEEN)
def test_a_small_net_sees_what_it_is_there_for(mistake: str, opaque: bool) -> None:
    failing = {problem.case.id for problem, _ in found(mistake, opaque)}
    assert "".join(net for net, start in NETS.items() if any(map(starts(start), failing))) == SEEN[mistake]


def starts(start: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(start)


# ---- Properties, which need no oracle ----


@pytest.mark.parametrize(
    ("data", "mistake"),
    [
        ("gradient", "guided"),
        ("gradient", "masked-by-the-activation"),
        ("gradient", "not-rectified"),
        ("gradient", "overlaps-assigned"),
        ("gradient", "unpooled-to-the-nearest"),
        ("gradient", "unpooled-to-the-size-of-the-windows"),
        ("gradient", "kernel-not-turned"),
        ("gradient", "bias-of-the-layer-below-added"),
        ("adjoint", "overlaps-assigned"),
        ("adjoint", "kernel-not-turned"),
        ("adjoint", "filters-of-their-own-upwards"),
        ("adjoint", "switches-found-anew-upwards"),
        ("adjoint", "unpooled-to-the-corner"),
        ("linearity", "switches-found-anew-upwards"),
        ("linearity", "overlaps-averaged"),
    ],
)
def test_a_property_finds_a_mistake_by_itself(data: str, mistake: str) -> None:
    verdicts = {judgement.verdict for problem, judgement in found(mistake, True) if problem.data == data}
    assert verdicts == {"deviates"}


# ---- The list itself ----


def test_every_mistake_of_the_list_is_planted() -> None:
    deconvnet = {"M20", "M21", "M22", "M23", "M22b", "M24", "M26", "M26b", "M31", "M30", "M19d", "M40", "M38", "M38b"}
    unpooling = {"M27", "M28", "M29", "M30", "M31", "M32", "M59", "M60", "M61"}
    planted = {mistake.number for mistake in MISTAKES.values()}
    assert deconvnet | unpooling | {"M01d", "SEED", "M62"} <= planted


def test_a_worker_finds_the_target_under_its_name() -> None:
    assert planted_chains.target is Planted
