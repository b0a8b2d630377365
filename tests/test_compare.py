"""What happens to a cell between two runs, and what of it is a regression: planted changes, one at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compared import ENVIRONMENT, PASSES, between, deviates, family, made, refuses, run

from conformance.comparison import Counts, Moved, Run, compare
from conformance.comparison.strength import TYPICAL_ERROR, WORST_FIRST, severity, weaker
from conformance.comparison.transitions import TRANSITIONS, transition
from conformance.oracle.bounds import ARITHMETICS
from conformance.reports import terminal
from conformance.runs import Record
from conformance.verdict import FAILED, VERDICTS

CRASHES = made(verdict="crash", message="signal 11")
RAISES = made(verdict="error", message="RuntimeError: no kernel for 3 axes")
KNOWN = deviates(known=True, deviation="one-pixel")
SETTLED = made(verdict="fixed", deviation="one-pixel", message="documented to be deviates, and came out exact")
EXACT = made(verdict="exact", data="exact", rms_usage=0.0, max_abs_error=0.0)
ROUNDS = made(verdict="within_bound", data="exact")
TF32 = made(verdict="reduced", arithmetic="tf32", diagnosis="computed as with tf32")
AMBIGUOUS = made(verdict="ambiguous", diagnosis="read as: a")
UNSTABLE = made(verdict="nondeterministic", message="3 elements differ between runs")


@pytest.mark.parametrize(
    ("old", "new", "expected", "regression"),
    [
        (PASSES, deviates(), "newly_failing", True),
        (EXACT, deviates(data="exact"), "newly_failing", True),
        (refuses(), deviates(), "newly_failing", True),
        (AMBIGUOUS, RAISES, "newly_failing", True),
        (SETTLED, deviates(), "newly_failing", True),
        (KNOWN, deviates(), "newly_failing", True),
        (PASSES, TF32, "newly_failing", True),
        (PASSES, KNOWN, "newly_known", False),
        (deviates(), KNOWN, "newly_known", False),
        (KNOWN, deviates(known=True, deviation="another"), "newly_known", False),
        (RAISES, deviates(), "fails_worse", True),
        (CRASHES, deviates(), "fails_worse", True),
        (RAISES, CRASHES, "fails_worse", True),
        (TF32, made(verdict="reduced", arithmetic="bfloat16-operands"), "fails_worse", True),
        (deviates(), RAISES, "fails_differently", False),
        (deviates(diagnosis="one pixel off"), deviates(diagnosis="kernel flipped"), "fails_differently", False),
        (RAISES, made(verdict="error", message="ValueError: groups"), "fails_differently", False),
        (made(arithmetic="float32"), made(arithmetic="tf32"), "lost_arithmetic", True),
        (made(arithmetic="float64"), made(arithmetic="float32"), "lost_arithmetic", True),
        (made(arithmetic="tf32"), made(arithmetic="float32"), "gained_arithmetic", False),
        (EXACT, ROUNDS, "lost_arithmetic", True),
        (ROUNDS, EXACT, "gained_arithmetic", False),
        (PASSES, refuses(), "newly_unsupported", False),
        (deviates(), refuses(), "newly_unsupported", False),
        (refuses(), PASSES, "newly_supported", False),
        (PASSES, AMBIGUOUS, "newly_open", False),
        (PASSES, UNSTABLE, "newly_open", False),
        (deviates(), UNSTABLE, "newly_open", False),
        (AMBIGUOUS, made(verdict="ambiguous", diagnosis="read as: b"), "newly_open", False),
        (AMBIGUOUS, PASSES, "no_longer_open", False),
        (deviates(), PASSES, "fixed", False),
        (KNOWN, PASSES, "fixed", False),
        (KNOWN, SETTLED, "fixed", False),
        (PASSES, SETTLED, "fixed", False),
    ],
)
def test_every_change_has_a_name_and_counts_or_not(old: Record, new: Record, expected: str, regression: bool) -> None:
    found = between(old, new)
    assert [change.transition for change in found.changes] == [expected]
    assert found.changes[0].regression is regression
    assert (found.regressions > 0) is regression
    assert getattr(found.counts, expected) == 1
    assert (found.counts.compared, found.counts.unchanged) == (1, 0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (PASSES, made(seconds=0.0011)),
        (PASSES, made(max_abs_error=2e-7, bound_usage=0.5)),
        (made(verdict="exact"), PASSES),  # on data that has to be rounded, exact is luck
        (deviates(), deviates(message="at [0,3] got -1.5e-07, expected nan")),
        (RAISES, made(verdict="error", message="RuntimeError: no kernel for 2 axes")),
        (made(verdict="error", message="object at 0x7f01ab"), made(verdict="error", message="object at 0x7fffee")),
        (KNOWN, KNOWN),
        (SETTLED, SETTLED),
        (SETTLED, PASSES),
        (refuses(), refuses(message="no dilation")),
        (made(arithmetic="float32"), made(arithmetic="float32+bias")),
        (made(arithmetic="float32"), made(arithmetic="something of a stranger")),
        (UNSTABLE, made(verdict="nondeterministic", message="7 elements differ between runs")),
    ],
)
def test_what_does_not_matter_is_no_change(old: Record, new: Record) -> None:
    found = between(old, new)
    assert found.changes == ()
    assert found.counts == Counts(compared=1, unchanged=1)
    assert found.regressions == 0


def test_every_pair_of_verdicts_has_an_answer_and_no_pair_of_the_same_is_a_change() -> None:
    for old in VERDICTS:
        for new in VERDICTS:
            found = transition(made(verdict=old), made(verdict=new))
            assert found in (None, *TRANSITIONS)
            assert (found is None) or old != new


def test_a_target_that_begins_to_fail_is_a_regression_whatever_it_did_before_that_was_no_failure() -> None:
    failures = [verdict for verdict in FAILED if verdict != "fixed"]
    for old in VERDICTS:
        for new in failures:
            newly = transition(made(verdict=old), made(verdict=new)) == "newly_failing"
            assert newly == (old not in failures)


def test_wrong_values_without_a_word_are_silent_and_stand_first() -> None:
    names = ["sweep/a", "sweep/b", "sweep/c", "sweep/d"]
    old = [made(case=name) for name in names]
    new = [
        made(case="sweep/a", verdict="crash"),
        made(case="sweep/b", verdict="crash"),
        deviates(case="sweep/c"),
        made(case="sweep/d", verdict="unsupported"),
    ]
    found = compare(run(old), run(new))
    assert [(c.new, c.count, c.silent) for c in found.changes] == [
        ("deviates", 1, True),
        ("crash", 2, False),
        ("unsupported", 1, False),
    ]
    assert (found.counts.newly_failing, found.counts.silent, found.regressions) == (3, 1, 3)


def test_among_the_same_the_worse_and_then_the_more_frequent_comes_first() -> None:
    verdicts = {"a": "error", "b": "error", "c": "timeout", "d": "crash", "e": "deviates"}
    old = [made(case=f"sweep/{name}") for name in verdicts]
    old += [replace(KNOWN, case=f"sweep/known-{n}") for n in range(9)]
    new = [made(case=f"sweep/{name}", verdict=verdict, message=verdict) for name, verdict in verdicts.items()]
    new += [deviates(case=f"sweep/known-{n}") for n in range(9)]
    new += [made(case="sweep/0", verdict="error", message="another")]
    old += [made(case="sweep/0")]
    assert [(change.new, change.count) for change in compare(run(old), run(new)).changes] == [
        ("deviates", 1),
        ("deviates", 9),
        ("crash", 1),
        ("timeout", 1),
        ("error", 2),
        ("error", 1),
    ]


def test_what_deviated_before_and_is_no_longer_documented_is_not_silent() -> None:
    found = between(KNOWN, deviates())
    assert (found.counts.newly_failing, found.counts.silent) == (1, 0)


def test_the_same_case_with_another_digest_is_not_compared() -> None:
    found = compare(run([PASSES, made(case="sweep/b")]), run([deviates(digest="e"), made(case="sweep/b")]))
    assert (found.counts.incomparable, found.counts.compared, found.regressions) == (1, 1, 0)
    assert [note.text for note in found.notes if note.about == "case"] == [
        "1 case says something else now and cannot be compared: sweep/line[kernel=3]"
    ]


def test_cells_of_one_run_only_are_told_by_suite_and_are_no_regression() -> None:
    old = [PASSES, made(case="zfnet/a"), made(case="zfnet/b")]
    new = [PASSES, deviates(case="fusion/a"), deviates(case="fusion/b", known=True), made(case="fusion/c")]
    found = compare(run(old), run(new))
    assert found.came == (Moved(target="torch@cpu", suite="fusion", whole_target=False, cells=3, failing=1),)
    assert found.gone == (Moved(target="torch@cpu", suite="zfnet", whole_target=False, cells=2, failing=0),)
    assert (found.counts.came, found.counts.gone, found.regressions) == (3, 2, 0)


def test_a_target_of_one_run_only_is_one_line() -> None:
    others = [*family(30, target="jax@cpu"), *family(5, "zfnet/a", target="jax@cpu")]
    found = compare(run([PASSES]), run([PASSES, *others]))
    assert found.came == (Moved(target="jax@cpu", suite="", whole_target=True, cells=35, failing=0),)


def test_counts_are_kept_by_target() -> None:
    other = {"target": "onnxruntime@cpu"}
    found = compare(run([PASSES, made(**other)]), run([deviates(), made(**other)]))
    assert found.targets["torch@cpu"] == Counts(compared=1, newly_failing=1, silent=1)
    assert found.targets["onnxruntime@cpu"] == Counts(compared=1, unchanged=1)


def test_a_kind_has_all_its_cells_and_the_shortest_as_its_example() -> None:
    old = [made(case=f"sweep/line[kernel={n}]") for n in (3, 10, 200)]
    new = [
        deviates(case=r.case, message=f"at [{n}] got {n}, expected 1", max_abs_error=n + 1.0) for n, r in enumerate(old)
    ]
    (change,) = compare(run(old), run(new)).changes
    assert change.count == 3
    assert [cell.case for cell in change.cells] == [record.case for record in old]
    assert (change.example.case, change.example.old_error, change.example.new_error) == (old[0].case, 1e-7, 1.0)


def test_other_reasons_and_other_targets_are_other_kinds() -> None:
    names = ["a", "b", "c", "d"]
    old = [made(case=f"sweep/{name}", target="t@cpu" if name == "d" else "torch@cpu") for name in names]
    said = {"a": "no groups", "b": "no groups", "c": "no dilation", "d": "no groups"}
    new = [refuses(case=r.case, target=r.target, message=said[r.case[-1]]) for r in old]
    assert sorted((c.target, c.reason, c.count) for c in compare(run(old), run(new)).changes) == [
        ("t@cpu", "no groups", 1),
        ("torch@cpu", "no dilation", 1),
        ("torch@cpu", "no groups", 2),
    ]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (made(arithmetic="float32"), made(arithmetic="tf32"), "float32 -> tf32"),
        (EXACT, ROUNDS, "rounds where nothing has to be rounded"),
        (ROUNDS, EXACT, "no longer rounds"),
        (TF32, made(verdict="reduced", arithmetic="bfloat16-operands"), "tf32 -> bfloat16-operands"),
        (TF32, replace(TF32, known=True, deviation="tf32"), "computed as with tf32"),
        (PASSES, TF32, "computed as with tf32"),
        (TF32, PASSES, "computed as with tf32"),
        (PASSES, RAISES, "RuntimeError: no kernel for axes"),
        (RAISES, PASSES, "RuntimeError: no kernel for axes"),
        (refuses(message="no groups"), PASSES, "no groups"),
        (PASSES, refuses(message="no groups"), "no groups"),
        (AMBIGUOUS, made(verdict="ambiguous", diagnosis="read as: b"), "read as: a -> read as: b"),
        (KNOWN, SETTLED, "documented to be deviates and came out exact"),
    ],
)
def test_a_kind_says_why(old: Record, new: Record, reason: str) -> None:
    (change,) = between(old, new).changes
    assert change.reason == reason


# ---- Which is worse, which is weaker ----


def test_severity_ranks_every_failure_as_the_terminal_does() -> None:
    assert {*WORST_FIRST, "fixed"} == set(FAILED)
    assert (*WORST_FIRST, "fixed") == terminal.WORST_FIRST
    assert [severity(verdict) for verdict in (*WORST_FIRST, "exact", "unsupported", "fixed")] == [
        *range(len(WORST_FIRST), 0, -1),
        0,
        0,
        0,
    ]


def test_arithmetics_are_ordered_by_their_unit_roundoff() -> None:
    ordered = sorted(TYPICAL_ERROR, key=lambda name: TYPICAL_ERROR[name])
    assert ordered[:3] == ["float64", "float32", "float16"]
    assert set(ordered) > set(ARITHMETICS)
    for strong, weak in (
        ("float64", "float32"),
        ("float32", "tf32"),
        ("tf32", "bfloat16-operands"),
        ("float16", "float16-sums"),
        ("bfloat16", "bfloat16-sums"),
        ("float32+bias", "tf32"),
        ("float32", "tf32+bias"),
        ("float32", "float16-operands"),
    ):
        assert weaker(weak, than=strong)
        assert not weaker(strong, than=weak)


def test_what_has_no_order_is_not_weaker() -> None:
    for one, other in (("float32", "winograd-like"), ("winograd-like", "float32"), ("tf32", "float16-operands")):
        assert not weaker(one, than=other)


# ---- What the runs were made with ----


def notes(**environment: object) -> dict[str, str]:
    found = compare(run([PASSES]), run([PASSES], **environment))
    return {note.about: note.text for note in found.notes}


def told(**environment: object) -> list[tuple[str, str, str]]:
    found = compare(run([PASSES]), run([PASSES], **environment))
    return [(d.what, d.old, d.new) for d in found.differences]


def test_two_runs_of_the_same_thing_have_no_differences_and_no_notes() -> None:
    assert told(started="later", seconds=17.0) == []
    assert notes(started="later") == {}


def test_versions_that_differ_are_told() -> None:
    versions = {"torch": "2.13.0", "keras": "3.15.1"}
    assert told(versions=versions) == [("torch", "2.12.0", "2.13.0"), ("keras", "none", "3.15.1")]
    assert told(conformance="0.2.0") == [("conformance", "0.1.0", "0.2.0")]


def test_settings_of_targets_that_differ_are_told_but_not_versions_again() -> None:
    settings = {"torch@cpu": {"oneDNN": "False", "torch": "2.13.0", "threads": "2"}, "jax@cpu": {"x": "y"}}
    assert told(settings=settings) == [("torch@cpu oneDNN", "True", "False")]


def test_another_processor_or_number_of_threads_makes_times_incomparable() -> None:
    assert notes(cpu={"model": "Xeon"}) == {"time": "times are not compared: cpu AMD EPYC -> Xeon"}
    assert notes(threads=2, jobs=1) == {"time": "times are not compared: threads 1 -> 2, jobs 2 -> 1"}
    assert told(cpu={"model": "AMD EPYC", "features": ["avx2", "avx512f"]}) == [("cpu features", "fma", "avx512f")]


def test_another_seed_or_tool_makes_errors_incomparable() -> None:
    assert "errors are not compared" in notes(seed=1)["seed"]
    assert "errors are not compared" in notes(conformance="0.2.0")["conformance"]


def test_a_run_that_does_not_say_its_seed_was_drawn_from_0() -> None:
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "seed"}
    assert compare(Run("a", environment, [PASSES]), run([PASSES])).notes == ()
    assert len(compare(Run("a", environment, [PASSES]), run([PASSES], seed=1)).notes) == 1


def test_what_a_run_does_not_say_is_no_difference() -> None:
    environment = {key: ENVIRONMENT[key] for key in ("conformance", "versions", "seed")}
    found = compare(Run("a", environment, [PASSES]), run([PASSES]))
    assert (found.notes, found.differences) == ((), ())
    assert compare(run([PASSES]), Run("a", environment, [PASSES])).notes == ()


def test_other_cases_are_told() -> None:
    assert notes(profile="full")["cases"] == "profile quick -> full: compared on the cells that both have"
    assert notes(suites=["sweep"])["cases"] == "suites all -> sweep: compared on the cells that both have"
    assert notes(data=["exact"])["cases"] == "data all -> exact: compared on the cells that both have"


def test_a_run_that_is_not_finished_is_told() -> None:
    assert notes(finished=False) == {"finished": "the new run is not finished: compared on its 1 verdict"}


def test_results_that_differ_by_run_show_only_with_repeat() -> None:
    assert "--repeat" in notes(repeat=3)["repeat"]


@pytest.mark.parametrize("value", [None, 3, "text", [1, [2]], {"a": {"b": 1}}, {"torch@cpu": 3}, True, 1e999])
def test_an_environment_may_hold_anything(value: object) -> None:
    odd = dict.fromkeys(ENVIRONMENT, value)
    compare(run([PASSES], **odd), run([PASSES]))
    compare(run([PASSES]), run([PASSES], **odd))
