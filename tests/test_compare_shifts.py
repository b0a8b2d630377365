"""Errors and times are told to have changed only where the change is both real and large."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from compared import ENVIRONMENT, PASSES, family, made, run

from conformance.comparison import Comparison, Run, compare
from conformance.comparison.shifts import LARGE_ERROR, LARGE_TIME, SMALL, signed_rank
from conformance.runs import Record

COUNT = 60
HONEST = 0.15
"""A fraction of the gate that libraries really use."""


def errors(values: np.ndarray, name: str = "sweep/line", **changes: object) -> list[Record]:
    return [made(case=f"{name}[kernel={n}]", rms_usage=float(v), **changes) for n, v in enumerate(values)]


def drawn(seed: int, count: int = COUNT) -> np.ndarray:
    """Errors of the same kernels in some order of summation."""
    noise: np.ndarray = HONEST * np.exp(np.random.default_rng(seed).normal(0, 0.3, count))
    return noise


def grown(old: list[Record], new: list[Record], **environment: object) -> Comparison:
    return compare(run(old), run(new, **environment))


# ---- The test itself ----


@pytest.mark.parametrize("seed", range(20))
def test_signed_rank_is_the_wilcoxon_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    d = np.round(rng.normal(rng.uniform(-1, 1), 1, rng.integers(10, 80)), int(rng.integers(0, 3)))
    expected = scipy.stats.wilcoxon(d, zero_method="wilcox", correction=False, method="approx").pvalue
    assert signed_rank(d) == pytest.approx(expected, rel=1e-9)


def test_signed_rank_of_nothing_is_chance() -> None:
    assert signed_rank(np.array([])) == 1
    assert signed_rank(np.zeros(30)) == 1


# ---- Errors ----


def test_another_order_of_summation_is_silent() -> None:
    for seed in range(10):
        found = grown(errors(drawn(seed)), errors(drawn(seed + 100)))
        assert found.errors == ()
        assert found.regressions == 0


def test_a_growth_that_is_real_but_small_is_silent_and_one_that_is_large_is_told() -> None:
    below, above = LARGE_ERROR * 0.95, LARGE_ERROR * 1.15
    values = drawn(1, 1000)
    assert grown(errors(values), errors(values * below)).errors == ()
    (shift,) = grown(errors(values), errors(values * above)).errors
    assert (shift.target, shift.arithmetic, shift.group, shift.cells) == ("torch@cpu", "float32", "", 1000)
    assert shift.ratio == pytest.approx(above, rel=0.05)
    assert shift.new / shift.old == pytest.approx(above)
    assert shift.p < 1e-50
    assert shift.regression


def test_a_growth_that_is_large_but_may_be_chance_is_silent() -> None:
    rng = np.random.default_rng(2)
    old = drawn(2, 24)
    new = old * np.where(rng.permutation(24) < 14, 8.0, 0.3)
    assert np.exp(np.log((new + SMALL) / (old + SMALL)).mean()) > LARGE_ERROR
    assert grown(errors(old), errors(new)).errors == ()


def test_nine_cells_are_too_few_and_thirty_are_enough() -> None:
    assert grown(errors(drawn(1, 9)), errors(drawn(1, 9) * 5)).errors == ()
    assert len(grown(errors(drawn(1, 30)), errors(drawn(1, 30) * 5)).errors) == 1


def test_a_growth_counts_for_the_exit_status_once() -> None:
    found = grown(errors(drawn(1)), errors(drawn(1) * 3))
    assert (len(found.errors), found.regressions) == (1, 1)


def test_errors_that_were_none_at_all_grow() -> None:
    (shift,) = grown(errors(np.zeros(COUNT)), errors(drawn(1))).errors
    assert shift.regression
    assert (shift.old, shift.cells) == (0, COUNT)
    assert np.isfinite(shift.ratio)


def test_operands_rounded_to_tf32_show_where_no_more_was_promised() -> None:
    rng = np.random.default_rng(3)
    honest = errors(rng.uniform(1e-5, 2e-5, COUNT), arithmetic="tf32")
    (shift,) = grown(honest, errors(rng.uniform(0.05, 0.2, COUNT), arithmetic="tf32")).errors
    assert shift.regression
    assert shift.ratio > 5


def test_errors_of_a_hundredth_of_the_gate_are_luck() -> None:
    tiny = np.full(200, 1e-4)
    assert grown(errors(tiny), errors(tiny * 20)).errors == ()


def test_errors_that_shrink_are_told_and_are_no_regression() -> None:
    found = grown(errors(drawn(1) * 3), errors(drawn(1)))
    assert [shift.regression for shift in found.errors] == [False]
    assert found.errors[0].ratio < 1 / LARGE_ERROR
    assert found.regressions == 0


def test_growth_in_one_family_is_found_among_many_that_stay() -> None:
    still = [r for n in range(20) for r in errors(drawn(n), f"sweep/stays-{n}")]
    old, new = errors(drawn(50), "sweep/grows"), errors(drawn(50) * 4, "sweep/grows")
    (shift,) = grown([*still, *old], [*still, *new]).errors
    assert (shift.group, shift.cells) == ("sweep/grows", COUNT)


def test_growth_of_a_suite_or_a_target_is_told_once_and_names_the_worst_family() -> None:
    calm, wild = errors(drawn(1), "sweep/calm"), errors(drawn(2), "sweep/wild")
    more = [*errors(drawn(1) * 2, "sweep/calm"), *errors(drawn(2) * 6, "sweep/wild")]
    (shift,) = grown([*calm, *wild], more).errors
    assert (shift.group, shift.worst, shift.cells) == ("", "sweep/wild", 2 * COUNT)
    others = [r for n in range(9) for r in errors(drawn(n), f"zfnet/net-{n}")]
    (shift,) = grown([*calm, *wild, *others], [*more, *others]).errors
    assert (shift.group, shift.worst, shift.cells) == ("sweep", "sweep/wild", 2 * COUNT)


def test_growth_does_not_hide_in_a_group_that_shrank() -> None:
    old = [*errors(drawn(1, 500) * 5, "sweep/better"), *errors(drawn(2), "sweep/worse")]
    new = [*errors(drawn(1, 500), "sweep/better"), *errors(drawn(2) * 5, "sweep/worse")]
    found = grown(old, new)
    assert [(shift.group, shift.regression) for shift in found.errors] == [("sweep/worse", True), ("", False)]


def test_arithmetics_and_targets_are_looked_at_apart() -> None:
    still = errors(drawn(1), "sweep/a")
    half = [errors(drawn(2) * k, "sweep/b", arithmetic="float16", target="jax@cpu") for k in (1, 4)]
    (shift,) = grown([*still, *half[0]], [*still, *half[1]]).errors
    assert (shift.target, shift.arithmetic) == ("jax@cpu", "float16")


@pytest.mark.parametrize("environment", [{"seed": 1}, {"conformance": "0.2.0"}])
def test_errors_of_other_numbers_or_another_judge_are_not_compared(environment: dict[str, object]) -> None:
    found = grown(errors(drawn(1)), errors(drawn(1) * 9), **environment)
    assert (found.errors, found.regressions) == ((), 0)
    assert "errors are not compared" in found.notes[0].text


def test_errors_of_a_case_that_says_something_else_are_not_compared() -> None:
    found = grown(errors(drawn(1)), errors(drawn(1) * 9, digest="e"))
    assert (found.errors, found.counts.incomparable) == ((), COUNT)


def test_errors_are_compared_only_where_both_runs_conform() -> None:
    failing = errors(drawn(1) * 9, verdict="reduced")
    assert grown(failing, failing).errors == ()
    assert grown(errors(drawn(1)), failing).errors == ()
    assert grown(failing, errors(drawn(1))).errors == ()


def test_errors_of_another_arithmetic_are_told_as_that_and_not_twice() -> None:
    found = grown(errors(drawn(1)), errors(drawn(1) * 9, arithmetic="tf32"))
    assert (found.errors, found.regressions, found.counts.lost_arithmetic) == ((), COUNT, COUNT)


def test_groups_that_are_too_small_to_test_cost_the_others_nothing() -> None:
    still = [r for n in range(400) for r in errors(drawn(n, 6), f"sweep/stays-{n}")]
    old, new = errors(drawn(500, 16), "sweep/grows"), errors(drawn(500, 16) * 4, "sweep/grows")
    assert [shift.group for shift in grown([*still, *old], [*still, *new]).errors] == ["sweep/grows"]


def test_of_errors_that_shrank_the_family_that_shrank_most_is_named() -> None:
    old = [*errors(drawn(1) * 2, "sweep/calm"), *errors(drawn(2) * 6, "sweep/wild")]
    new = [*errors(drawn(1), "sweep/calm"), *errors(drawn(2), "sweep/wild")]
    assert [shift.worst for shift in grown(old, new).errors] == ["sweep/wild"]


@pytest.mark.parametrize("odd", [np.inf, np.nan, -1.0])
def test_errors_that_are_no_numbers_are_left_out(odd: float) -> None:
    found = grown(errors(np.full(COUNT, odd)), errors(drawn(1)))
    assert all(np.isfinite(shift.ratio) for shift in found.errors)


# ---- Times ----


def timed(seconds: float, noise: float = 0.5, seed: int = 0, **changes: object) -> list[Record]:
    rng = np.random.default_rng(seed)
    return [
        made(case=f"sweep/line[kernel={n}]", seconds=float(seconds * np.exp(rng.normal(0, noise))), **changes)
        for n in range(200)
    ]


def test_noise_and_load_are_silent_and_a_target_that_takes_much_longer_is_told_but_never_a_regression() -> None:
    assert grown(timed(1e-3, seed=1), timed(1e-3, seed=2)).times == ()
    assert grown(timed(1e-3, seed=1), timed(1.5e-3, seed=2)).times == ()
    found = grown(timed(1e-3, seed=1), timed(LARGE_TIME * 1.3e-3, seed=2))
    (shift,) = found.times
    assert (shift.target, shift.cells, found.regressions) == ("torch@cpu", 200, 0)
    assert shift.ratio == pytest.approx(LARGE_TIME * 1.3, rel=0.2)
    assert shift.old == pytest.approx(1e-3, rel=0.2)


def test_a_target_that_takes_less_long_is_told_too() -> None:
    (shift,) = grown(timed(3e-3, seed=1), timed(1e-3, seed=2)).times
    assert shift.ratio < 0.5


def test_among_several_targets_the_load_of_the_machine_is_taken_out() -> None:
    names = ["a@cpu", "b@cpu", "c@cpu", "d@cpu"]
    old = [r for n, t in enumerate(names) for r in timed(1e-3, seed=n, target=t)]
    all_slower = [r for n, t in enumerate(names) for r in timed(4e-3, seed=n + 9, target=t)]
    found = grown(old, all_slower)
    assert found.times == ()
    assert found.machine_time == pytest.approx(4, rel=0.2)
    one_more = [*all_slower[:-200], *timed(8e-3, seed=20, target="d@cpu")]
    (shift,) = grown(old, one_more).times
    assert (shift.target, shift.ratio) == ("d@cpu", pytest.approx(2, rel=0.2))


def test_times_of_other_machines_are_not_compared() -> None:
    slow = timed(9e-3, seed=2)
    assert grown(timed(1e-3), slow, threads=4).times == ()
    assert grown(timed(1e-3), slow, cpu={"model": "Xeon"}).times == ()
    assert compare(Run("old", ENVIRONMENT | {"jobs": 8}, timed(1e-3)), run(slow)).times == ()
    assert len(grown(timed(1e-3), slow).times) == 1


def test_times_count_only_where_both_runs_conform() -> None:
    assert grown(timed(1e-3), timed(9e-3, verdict="error")).times == ()
    assert grown(family(30, seconds=0.0), family(30, seconds=1.0)).times == ()


def test_two_runs_of_the_same_thing_have_not_changed() -> None:
    records = [PASSES, *errors(drawn(1), "zfnet/a"), *family(40, verdict="exact", rms_usage=0.0)]
    found = compare(run(records), run(records))
    assert (found.changes, found.errors, found.times, found.regressions) == ((), (), (), 0)
    assert found.counts.unchanged == len({record.key for record in records})
