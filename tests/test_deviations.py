"""A documented deviation excuses exactly the verdicts that it predicts, and is missed where they do not come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from packaging.specifiers import SpecifierSet

from conformance import cli, engine, make_case, pose
from conformance.deviations import Deviation, Register, Settled, load_deviations, settle, shipped_deviations
from conformance.deviations import register as register_of
from conformance.deviations.parameters import VOCABULARY, parameters
from conformance.deviations.predicate import BadPredicate, Predicate
from conformance.errors import BadInput, SpecError
from conformance.execution import known_targets
from conformance.runs import RunFile
from conformance.spec import Case, case_digest, load_cases
from conformance.verdict import FAILED, Judgement

FILE = """
    deviations: mine
    defaults:
      target: torch
      versions: {torch: ">=2.1,<3"}
      reference: "https://example.org/1"
      why: It is so.
    entries:
      grouped: {op: conv, where: groups > 1, verdict: deviates}
"""
RIGHT = Judgement("exact", "float32", 0.0, 0.0, 0.0)
WRONG = Judgement("deviates", "float32", 1.0, 9.0, 9.0, message="at [0] got 1, expected 2")
TORCH = {"torch": "2.13.0+cpu"}


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], list[Deviation]]:
    def load(text: str) -> list[Deviation]:
        path = tmp_path / "d.yaml"
        path.write_text(dedent(text))
        return load_deviations([path], shipped=False)

    return load


@pytest.fixture
def told(load: Callable[[str], list[Deviation]], tmp_path: Path) -> Callable[[str], list[str]]:
    """What is wrong with a file, without its path."""

    def told(text: str) -> list[str]:
        with pytest.raises(SpecError) as caught:
            load(text)
        return [line.removeprefix(f"{tmp_path}/") for line in str(caught.value).splitlines()]

    return told


@pytest.fixture
def case_of(tmp_path: Path) -> Callable[..., Case]:
    def case_of(**said: Any) -> Case:
        values = {"op": "conv", "input": [5, 6]} | ({} if "layers" in said else {"kernel": 2}) | said
        path = tmp_path / "s.yaml"
        path.write_text(yaml.safe_dump({"suite": "s", "cases": {"c": values}}))
        return load_cases([str(path)])[0]

    return case_of


def entry(**said: Any) -> Deviation:
    where = said.pop("where", None)
    fields: dict[str, Any] = {
        "id": "mine/one",
        "location": "d.yaml:3",
        "targets": ("torch",),
        "versions": (("torch", SpecifierSet(">=2.1,<3")),),
        "verdict": "deviates",
        "reading": "",
        "shows": "always",
        "reference": "r",
        "why": "w",
    }
    return Deviation(**fields | said, where=None if where is None else Predicate(where))


def predicted(
    deviation: Deviation,
    case: Case,
    data: str = "exact",
    target: str = "torch@cpu",
    versions: dict[str, str] | None = None,
    features: frozenset[str] = frozenset({"avx512f"}),
) -> list[bool]:
    """Whether the deviation predicts a cell; if so, whether it must show."""
    register = Register([deviation], features)
    found = register.predicted(case, case_digest(case), data, target, TORCH if versions is None else versions)
    return [must for _, must in found]


# ---- Which cells ----


def test_a_cell_is_predicted_by_target_version_and_parameters(case_of: Callable[..., Case]) -> None:
    one = entry(where="groups > 1")
    grouped, plain = case_of(groups=2, in_channels=2, out_channels=2), case_of()
    assert predicted(one, grouped) == [True]
    assert predicted(one, plain) == []
    assert predicted(one, grouped, target="torch-autograd@cpu") == []
    assert predicted(one, grouped, target="torch@cuda") == []
    assert predicted(one, grouped, versions={"torch": "3.0"}) == []
    assert predicted(one, grouped, versions={"torch": "2.0.1"}) == []
    assert predicted(one, grouped, versions={}) == []


@pytest.mark.parametrize(
    ("pattern", "target", "concerned"),
    [
        ("torch", "torch@cpu", True),
        ("torch@cpu", "torch@cpu", True),
        ("torch@*", "torch@cuda", True),
        ("torch-*", "torch-autograd@cpu", True),
        ("torch-*", "torch@cpu", False),
        ("*:onnxruntime", "tf2onnx:onnxruntime@cpu", True),
        ("onnxruntime", "tf2onnx:onnxruntime@cpu", False),
        ("my_runtime", "my_runtime", True),
        ("torch", "torchling@cpu", False),
    ],
)
def test_targets_are_named_as_on_the_command_line(pattern: str, target: str, concerned: bool) -> None:
    assert entry(targets=("other", pattern)).concerns(target, TORCH) is concerned


@pytest.mark.parametrize("version", ["2.14.0.dev20260101+cpu", "2.1", "2.13.0a0+git123"])
def test_builds_before_a_release_are_within_a_range(version: str) -> None:
    assert entry().concerns("torch@cpu", {"torch": version})


@pytest.mark.parametrize("version", ["unknown", "", "main"])
def test_what_is_no_version_is_in_no_range(version: str) -> None:
    assert not entry().concerns("torch@cpu", {"torch": version})


def test_every_package_must_be_in_its_range() -> None:
    both = entry(versions=(("keras", SpecifierSet("<3.15")), ("torch", SpecifierSet(">2"))))
    assert both.concerns("torch@cpu", {"keras": "3.14", "torch": "2.13"})
    assert not both.concerns("torch@cpu", {"keras": "3.15.1", "torch": "2.13"})


def test_ops_dtypes_and_data_narrow_a_deviation(case_of: Callable[..., Case]) -> None:
    one = entry(ops=("conv",), dtypes=("float16", "bfloat16"), data=("rounding",))
    half = case_of(dtype="float16")
    assert predicted(one, half, "rounding") == [True]
    assert predicted(one, half, "exact") == []
    assert predicted(one, case_of(), "rounding") == []
    assert predicted(one, case_of(op="conv_transpose", dtype="float16"), "rounding") == []


def test_the_kind_of_data_is_asked_for_each_time(case_of: Callable[..., Case]) -> None:
    register = Register([entry(data=("rounding",))], frozenset())
    case = case_of()
    kinds = ["rounding", "exact", "rounding"]
    found = [bool(register.predicted(case, case_digest(case), kind, "torch@cpu", TORCH)) for kind in kinds]
    assert found == [True, False, True]


def test_what_was_found_of_many_cases_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register_of, "REMEMBERED", 3)
    register = Register([entry(where="kernel[0] > 1")], frozenset())
    cases = [make_case(op="conv", input=[9], kernel=k, dilation=d) for k in (1, 2) for d in (1, 2, 3)]
    for _ in range(2):
        found = [bool(register.predicted(c, case_digest(c), "exact", "torch@cpu", TORCH)) for c in cases]
        assert found == [False] * 3 + [True] * 3
    assert len(register._asked) == 3


def test_a_deviation_of_some_processors_must_show_there_and_cannot_elsewhere(case_of: Callable[..., Case]) -> None:
    one, case = entry(cpu=("avx512f",)), case_of()
    assert predicted(one, case, features=frozenset({"avx512f", "avx2"})) == [True]
    assert predicted(one, case, features=frozenset({"avx2"})) == []
    assert predicted(one, case, features=frozenset()) == [False]


def test_a_deviation_may_be_of_processors_that_lack_something(case_of: Callable[..., Case]) -> None:
    one, case = entry(cpu=("avx2", "not avx512f")), case_of()
    assert predicted(one, case, features=frozenset({"avx2"})) == [True]
    assert predicted(one, case, features=frozenset({"avx2", "avx512f"})) == []
    assert predicted(one, case, features=frozenset({"asimd"})) == []
    assert predicted(one, case, features=frozenset()) == [False]


def test_one_that_shows_sometimes_need_not_show(case_of: Callable[..., Case]) -> None:
    assert predicted(entry(shows="sometimes"), case_of()) == [False]


# ---- What comes of it ----


def settled(judgement: Judgement, *deviations: tuple[Deviation, bool]) -> tuple[str, bool, str]:
    result = settle(judgement, deviations)
    return result.judgement.verdict, result.known, result.deviation


def test_the_predicted_verdict_is_known() -> None:
    assert settled(WRONG, (entry(), True)) == ("deviates", True, "mine/one")
    assert settled(WRONG, (entry(), False)) == ("deviates", True, "mine/one")


def test_without_a_prediction_nothing_changes() -> None:
    assert settle(WRONG, []) == Settled(WRONG)
    assert settle(RIGHT, []) == Settled(RIGHT)


def test_what_was_predicted_and_does_not_come_is_fixed() -> None:
    result = settle(RIGHT, [(entry(), True)])
    assert (result.judgement.verdict, result.known, result.deviation) == ("fixed", False, "mine/one")
    assert result.judgement.message == "documented to be deviates (d.yaml:3, mine/one), and came out exact"
    assert result.judgement.failed


def test_a_target_that_refuses_has_shown_nothing() -> None:
    refused = Judgement("unsupported", message="cannot say it")
    assert settle(refused, [(entry(), True)]) == Settled(refused)


@pytest.mark.parametrize("verdict", ["ambiguous", "nondeterministic"])
def test_a_neutral_verdict_is_not_the_predicted_one(verdict: str) -> None:
    result = settle(Judgement(verdict, message="cannot say it"), [(entry(), True)])
    assert result.judgement.verdict == "fixed"
    assert result.judgement.message.endswith(f"and came out {verdict}: cannot say it")


def test_what_shows_sometimes_is_not_missed() -> None:
    assert settle(RIGHT, [(entry(), False)]) == Settled(RIGHT)


def test_another_failure_than_the_predicted_one_is_news() -> None:
    crash = Judgement("crash", message="died of SIGSEGV")
    result = settle(crash, [(entry(), True)])
    assert (result.judgement.verdict, result.known, result.deviation) == ("crash", False, "")
    assert result.judgement.message == "died of SIGSEGV; documented to be deviates (d.yaml:3, mine/one)"
    assert settle(crash, [(entry(), False)]) == Settled(crash)


@pytest.mark.parametrize(
    ("judgement", "known"),
    [
        (Judgement("reduced", "float16-sums", diagnosis="partial sums rounded to float16"), True),
        (Judgement("reduced", "tf32", diagnosis="computed as with tf32"), False),
    ],
)
def test_the_reading_is_part_of_what_is_predicted(judgement: Judgement, known: bool) -> None:
    one = entry(verdict="reduced", reading="float16-sums")
    assert settle(judgement, [(one, True)]).known is known


@pytest.mark.parametrize("where", ["arithmetic", "diagnosis", "message"])
def test_the_reading_may_stand_in_any_word_of_a_verdict(where: str) -> None:
    judgement = replace(Judgement("error"), **{where: "ValueError: bad axis"})
    assert settle(judgement, [(entry(verdict="error", reading="bad axis"), True)]).known


def test_one_of_several_predictions_is_enough() -> None:
    other = entry(id="mine/two", verdict="error")
    assert settled(WRONG, (other, True), (entry(), True)) == ("deviates", True, "mine/one")
    assert settled(RIGHT, (entry(shows="sometimes"), False), (other, True)) == ("fixed", False, "mine/two")


# ---- What a whole run had no use for ----


def test_a_deviation_that_names_no_cell_or_shows_in_none_is_stale(case_of: Callable[..., Case]) -> None:
    case = case_of()
    shown, silent, unmet = entry(id="a"), entry(id="b", shows="sometimes"), entry(id="c", where="groups > 1")
    other = entry(id="d", targets=("keras-torch",))
    newer = entry(id="e", versions=(("torch", SpecifierSet(">=3")),))
    processor = entry(id="f", cpu=("amx_bf16",))
    register = Register([shown, silent, unmet, other, newer, processor], frozenset({"avx2"}))
    targets = [known_targets()["torch@cpu"]]
    stale = engine.stale(register, [case], targets, {"a"})
    assert [(found.deviation.id, found.cells) for found in stale] == [("b", 2), ("c", 0)]


def test_nothing_is_said_of_what_depends_on_a_processor_that_is_unknown(case_of: Callable[..., Case]) -> None:
    register = Register([entry(cpu=("amx_bf16",))], frozenset())
    assert engine.stale(register, [case_of()], [known_targets()["torch@cpu"]], set()) == []


# ---- Predicates ----


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("kernel == (2, 3) and stride[-1] > 1", True),
        ("any(k < s for k, s in zip(kernel, stride))", True),
        ("all(k < s for k, s in zip(kernel, stride))", False),
        ("any(s.kind == 'conv' and s.output[-1] == 2 for s in steps)", True),
        ("input[0] - output[0] == 1", True),
        ("begin == (0, 1)", True),
        ("suite == 's' and name.startswith('c')", True),
        ("bias or dtype == 'float16'", False),
        ("onnx is None", True),
        ("ceil_mode", False),
        ("kernel[2] > 0", False),
        ("rank == 2 and batch == 1", True),
        ("padding != 'same'", True),
    ],
)
def test_a_predicate_speaks_of_the_parameters_of_a_case(case_of: Callable[..., Case], text: str, holds: bool) -> None:
    case = case_of(kernel=[2, 3], stride=[1, 4], padding=[0, [1, 0]])
    assert Predicate(text).holds(parameters(case)) is holds


def test_the_stages_of_a_chain_are_steps(case_of: Callable[..., Case]) -> None:
    layers = [{"conv": 2, "kernel": 3}, "relu", {"max_pool": 2}]
    said = parameters(case_of(op="deconvnet", input=[12, 12], layers=layers, in_channels=1))
    kinds = {step["kind"] for step in said["steps"]}
    assert {"conv", "conv_transpose", "rectify", "max_pool", "max_unpool", "isolate"} <= kinds
    assert Predicate("any(s.kind == 'max_pool' and s.kernel == (2, 2) for s in steps)").holds(said)


def test_every_parameter_of_every_shipped_case_has_a_name_in_the_vocabulary() -> None:
    for case in load_cases():
        said = parameters(case)
        for names in (said, said["onnx"] or {}, *said["steps"]):
            assert names.keys() <= VOCABULARY, case.id


@pytest.mark.parametrize(
    "text",
    [
        "open('/etc/passwd')",
        "().__class__.__bases__",
        "kernel.__class__",
        "__import__('os')",
        "(lambda: 1)()",
        "9**9**9 > 1",
        "len('x' * 10**9) > 1",
        "groups.bit_length()()",
    ],
)
def test_a_predicate_cannot_do_anything_else(case_of: Callable[..., Case], text: str) -> None:
    with pytest.raises(BadPredicate):
        Predicate(text).holds(parameters(case_of()))


def test_a_predicate_that_fails_on_a_case_is_told_with_its_place(case_of: Callable[..., Case]) -> None:
    with pytest.raises(BadInput, match=r"^d\.yaml:3: where: fails on s/c: kernel > 1: "):
        predicted(entry(where="kernel > 1"), case_of())


# ---- Files ----


def test_a_file_says_what_the_entries_have_in_common(load: Callable[[str], list[Deviation]]) -> None:
    (one,) = load(FILE)
    assert (one.id, one.targets, one.ops, one.shows, one.verdict) == (
        "mine/grouped",
        ("torch",),
        ("conv",),
        "always",
        "deviates",
    )
    assert one.location.endswith("d.yaml:9")
    assert one.why == "It is so."
    assert one.where is not None
    assert one.where.text == "groups > 1"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("verdict: deviates", "verdict: exact", "d.yaml:9: entries.grouped.verdict: expected one of reduced, deviates"),
        ("verdict: deviates", "verdict: fixed", "d.yaml:9: entries.grouped.verdict: expected one of reduced, deviates"),
        (", verdict: deviates", "", "d.yaml:9: entries.grouped.verdict: required for a deviation"),
        ("where:", "were:", "d.yaml:9: entries.grouped.were: unknown key; did you mean where?"),
        ("groups > 1", "group > 1", "d.yaml:9: entries.grouped.where: unknown name group; did you mean groups?"),
        ("groups > 1", "groups >", "d.yaml:9: entries.grouped.where: expected an expression such as 'groups > 1': "),
        ("groups > 1", "[1]", "d.yaml:9: entries.grouped.where: expected an expression such as 'groups > 1'"),
        (">=2.1,<3", "about 2", "d.yaml:5: defaults.versions: expected packages with their ranges, such as"),
        ('{torch: ">=2.1,<3"}', "2.13", "d.yaml:5: defaults.versions: expected packages with their ranges, such as"),
        ("op: conv,", "op: cnv,", "d.yaml:9: entries.grouped.op: expected one or a list of conv, conv_transpose"),
        ("op: conv,", "op: conv, data: exakt,", "d.yaml:9: entries.grouped.data: expected one or a list of exact"),
        ("op: conv,", "op: conv, shows: never,", "d.yaml:9: entries.grouped.shows: expected one of always, sometimes"),
        ("why: It is so.", "why:", "d.yaml:7: defaults.why: expected text, got null"),
        ("deviations: mine", "deviation: mine", "d.yaml:2: expected a mapping with deviations, defaults, entries"),
        ("{op: conv,", "[op, conv,", "d.yaml:9: not YAML: "),
    ],
)
def test_a_mistake_is_told_with_its_place(told: Callable[[str], list[str]], old: str, new: str, line: str) -> None:
    assert old in FILE
    assert told(FILE.replace(old, new))[0].startswith(line)


def test_two_deviations_of_one_name_are_told(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(dedent(FILE))
    with pytest.raises(SpecError, match=r"b\.yaml:9: mine/grouped: is also in .*a\.yaml:9"):
        load_deviations([tmp_path], shipped=False)


def test_a_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected a YAML file of deviations, or a folder of them"):
        load_deviations([tmp_path / "none.yaml"])


# ---- Those that are shipped ----

SHIPPED = load_deviations()


def test_every_shipped_file_is_read() -> None:
    assert {path.stem for path in shipped_deviations()} == {one.id.partition("/")[0] for one in SHIPPED}
    assert all(one.verdict in FAILED for one in SHIPPED)


def test_every_shipped_deviation_names_a_case_that_is_run_by_default() -> None:
    cases = [(case, parameters(case)) for case in load_cases(profile="quick")]
    for one in SHIPPED:
        assert any(one.names(said, kind) for case, said in cases for kind in case.data), one.id


def test_every_shipped_deviation_is_of_targets_that_there_are() -> None:
    for one in SHIPPED:
        known = {name: dict.fromkeys(spec.requires, "999") for name, spec in known_targets().items()}
        loose = replace(one, versions=())
        assert any(loose.concerns(name, versions) for name, versions in known.items()), one.id


# ---- The command ----


def test_the_command_lists_deviations_and_counts_what_a_run_showed(tmp_path: Path) -> None:
    record = engine.record_of(pose(make_case(op="conv", input=[3], kernel=2)), "torch@cpu", WRONG)
    with RunFile.create(tmp_path / "run.sqlite") as run:
        run.append(replace(record, known=True, deviation="mine/grouped"))
    (tmp_path / "mine.yaml").write_text(dedent(FILE))
    options = ["--deviations", str(tmp_path / "mine.yaml"), "--run", str(tmp_path / "run.sqlite")]
    listed = CliRunner().invoke(cli.commands, ["deviations", *options])
    assert "mine/grouped  deviates  1 verdicts\n    torch; torch <3,>=2.1\n" in listed.stdout
    told = CliRunner().invoke(cli.commands, ["deviations", "mine", *options]).stdout
    for words in (
        "mine/grouped\n",
        "https://example.org/1\nIt is so.\n",
        "where      groups > 1\n",
        "last run   1 verdicts",
    ):
        assert words in told
    with pytest.raises(BadInput, match="no such deviation; did you mean mine/grouped"):
        CliRunner().invoke(cli.commands, ["deviations", "mine/groupd", *options], catch_exceptions=False)
