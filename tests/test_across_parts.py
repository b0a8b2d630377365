"""What ``conformance across`` is made of: what is asked for, how uv is told, what the tables say."""

from __future__ import annotations

import importlib.metadata
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version as Number
from rich.console import Console

from conformance.across import (
    AUTO,
    ISOLATED,
    OVERLAY,
    Settings,
    Table,
    Version,
    make_table,
    needs,
    parse_wanted,
    recipes,
    runner,
)
from conformance.across import environment as made
from conformance.across.needs import needed_by, targets_for
from conformance.across.probe import MARK, installed
from conformance.across.table import as_json
from conformance.errors import BadInput, BadRunFile
from conformance.execution import TargetSpec
from conformance.reports.across import show_across
from conformance.reports.across_markdown import across_page
from conformance.runs import Record, RunFile

OURS = "this is a failure of conformance itself; please report it"

# ---- What is asked for ----


@pytest.mark.parametrize(
    ("text", "said", "slug"),
    [
        ("keras==3.12.0", ["keras==3.12.0"], "keras-3.12.0"),
        ("  keras == 3.12.* ", ["keras==3.12.*"], "keras-3.12.x"),
        ("onnxruntime==1.17.* numpy<2", ["onnxruntime==1.17.*", "numpy<2"], "onnxruntime-1.17.x+numpy-below-2"),
        ("torch >= 2.2, < 3", ["torch<3,>=2.2"], "torch-from-2.2-below-3"),
        ("tensorflow[and-cuda]==2.21", ["tensorflow[and-cuda]==2.21"], None),
        ("toy @ file:///tmp/toy-1.0-py3-none-any.whl", ["toy@ file:///tmp/toy-1.0-py3-none-any.whl"], None),
    ],
)
def test_an_argument_is_one_environment_of_one_or_several_requirements(
    text: str, said: list[str], slug: str | None
) -> None:
    (wanted,) = parse_wanted([text])
    assert [Requirement(one) for one in said] == list(wanted.requirements)
    assert slug in (None, wanted.slug)
    assert "/" not in wanted.slug
    assert len(wanted.slug) < 120


def test_different_requirements_have_files_of_different_names() -> None:
    texts = ["a==2", "a<=2", "a<2", "a>2", "a>=2", "a!=2", "a~=2.0", "a==2.*", "a==2 b", "a", "a[b]==2", "a[c]==2"]
    assert len({wanted.slug for wanted in parse_wanted(texts)}) == len(texts)


def test_a_wheel_that_was_built_again_is_another_one(tmp_path: Path) -> None:
    path = tmp_path / "to y-1.0-py3-none-any.whl"
    slugs = set()
    for contents in (b"one", b"two"):
        path.write_bytes(contents)
        slugs.add(parse_wanted([f"toy @ {path.as_uri()}"])[0].slug)
    assert len(slugs) == 2


@pytest.mark.parametrize("text", ["", " ", "-e .", "--index-url=http://x", "keras=3.12", "../wheel.whl"])
def test_nonsense_gets_one_line_that_says_what_was_expected(text: str) -> None:
    with pytest.raises(BadInput, match=r"expected a requirement such as keras==3\.12\.\*") as error:
        parse_wanted([text])
    assert "\n" not in str(error.value)


def test_the_same_version_twice_is_refused() -> None:
    with pytest.raises(BadInput, match="asked for twice"):
        parse_wanted(["keras==3.12", "keras == 3.12"])


def test_a_version_that_is_not_what_was_asked_for_is_told() -> None:
    (wanted,) = parse_wanted(["onnxruntime==1.17.* numpy<2"])
    assert wanted.unmet({"onnxruntime": "1.17.3", "numpy": "1.26.4"}) == ""
    assert wanted.unmet({"onnxruntime": "1.17.3", "numpy": "2.0.0"}) == "numpy<2 was asked for, 2.0.0 is there"
    assert wanted.unmet({"numpy": "1.26.4"}) == "onnxruntime==1.17.* was asked for, nothing is there"
    (nightly,) = parse_wanted(["keras>=3.15"])
    assert nightly.unmet({"keras": "3.16.0.dev1"}) == ""


# ---- How uv is told ----


def test_an_overlay_replaces_what_is_asked_for_and_nothing_else() -> None:
    (wanted,) = parse_wanted(["scipy==1.12.* Pydantic<3"])
    (overlay,) = recipes(wanted, OVERLAY, ["numpy"])
    assert overlay.requirements == ("scipy==1.12.*", "Pydantic<3")
    pinned = {requirement.name: requirement for requirement in map(Requirement, overlay.constraints)}
    here = {canonicalize_name(d.metadata["Name"]) for d in importlib.metadata.distributions()}
    assert {"numpy", "click", "rich"} <= set(pinned) <= here - {"scipy", "pydantic", "deconv-conformance"}
    public = Number(importlib.metadata.version("numpy")).public
    assert str(pinned["numpy"].specifier) == f"=={public}"


def test_an_environment_of_its_own_has_what_targets_need_as_it_is_here_and_this_program() -> None:
    (wanted,) = parse_wanted(["scipy==1.12.*"])
    (isolated,) = recipes(wanted, ISOLATED, ["numpy", "scipy", "not-here"])
    asked, project, *pins = isolated.requirements
    assert asked == "scipy==1.12.*"
    assert project == made.this_project()
    assert pins == [f"numpy=={importlib.metadata.version('numpy')}"]
    assert isolated.constraints == ()


def test_an_overlay_is_tried_first_unless_it_cannot_be() -> None:
    (wanted, other_variant) = parse_wanted(["scipy", "numpy-gpu==1.20"])
    assert [recipe.mode for recipe in recipes(wanted, AUTO, [])] == [OVERLAY, ISOLATED]
    assert [recipe.mode for recipe in recipes(other_variant, AUTO, [])] == [ISOLATED]  # numpy would still be there
    (isolated,) = recipes(wanted, AUTO, [], python="3.12")
    assert (isolated.mode, isolated.python) == (ISOLATED, "3.12")


def test_what_uv_is_told_is_in_files_and_nothing_can_be_taken_for_an_option(tmp_path: Path) -> None:
    pytest.importorskip("uv", reason="uv makes the environments")
    recipe = made.Recipe(ISOLATED, "3.11", ("a==1",), ("b==2",))
    words = recipe.command(tmp_path, "-m", "conformance")
    assert words[words.index("--with-requirements") + 1 :][1:] == ["python", "-P", "-m", "conformance"]
    assert {"--isolated", "--no-project"} <= set(words)
    assert (tmp_path / "requirements.txt").read_text() == "-c constraints.txt\na==1\n"
    assert (tmp_path / "constraints.txt").read_text() == "b==2\n"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"url": "file:///src", "dir_info": {"editable": True}}, "-e file:///src"),
        ({"url": "file:///src", "dir_info": {}}, "-e file:///src"),
        ({"url": "https://x/y.whl", "archive_info": {}}, "deconv-conformance @ https://x/y.whl"),
        (
            {"url": "https://x/y", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "deconv-conformance @ git+https://x/y@abc",
        ),
        (None, "deconv-conformance==0.5"),
    ],
)
def test_this_program_is_installed_there_as_it_is_here(
    said: dict[str, object] | None, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        version = "0.5"

        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if said is None else json.dumps(said)

    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Installed())
    assert made.this_project() == line


def test_of_a_package_that_is_there_twice_the_first_on_the_path_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "click-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: Click\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed()["click"] == "0.1"


def test_an_environment_with_another_version_than_was_asked_for_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where onnxruntime-gpu is laid over onnxruntime, a target would report, and perhaps use, the one below."""
    (wanted,) = parse_wanted(["onnxruntime==1.20.*"])

    def answer(_: object, log: Path) -> int:
        said = {"installed": {"onnxruntime": "1.20.1"}, "versions": {"onnxruntime": "1.31.1"}, "errors": {}}
        log.write_text(f"noise\n{MARK}{json.dumps(said)}\n")
        return 0

    monkeypatch.setattr(made, "find_uv", lambda: "uv")
    monkeypatch.setattr(made, "run_child", answer)
    probed = made.probe(wanted, made.Recipe(OVERLAY, "3.11", ()), ["t"], tmp_path)
    assert probed.reason == "onnxruntime==1.20.* was asked for, 1.31.1 is there"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("error: No\n  cause: Because only a<=1 is\n    available.\nhint: x\n", "Because only a<=1 is available."),
        (
            f"Traceback:\n  x\nImportError: no\x1b[31m luck\n{OURS}\n",
            None,
        ),
        ("\n", "no reason was given"),
    ],
)
def test_a_failure_is_told_in_one_line(output: str, reason: str | None) -> None:
    assert made.last_reason(output) == (reason or "ImportError: no [31m luck")


# ---- Which targets ----


def test_targets_that_need_what_is_asked_for_are_run_if_none_is_named() -> None:
    pytest.importorskip("onnxruntime")
    assert set(targets_for([], parse_wanted(["onnxruntime==1.20"]))) == {"onnxruntime@cpu"}
    assert set(targets_for([], parse_wanted(["onnxruntime-gpu==1.20"]))) == {"onnxruntime@cpu"}
    with pytest.raises(BadInput, match="no target needs somepackage"):
        targets_for([], parse_wanted(["somepackage==1"]))


def test_of_these_only_what_can_run_there(monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [
        TargetSpec("plain", "f", "m:t", ("toy", "numpy")),
        TargetSpec("more", "f", "m:t", ("toy", "not-here")),
        TargetSpec("none", "f", "m:t", ("numpy",)),
        TargetSpec("asked", "f", "m:t", ("toy",), on_request=True),
        TargetSpec("device", "f", "m:t", ("toy",), device="cuda"),
    ]
    monkeypatch.setattr(needs, "known_targets", lambda: {spec.name: spec for spec in specs})
    assert list(targets_for([], parse_wanted(["toy==1"]))) == ["plain"]


def test_a_target_need_not_be_installed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from conformance.execution import specs

    monkeypatch.setattr(specs, "version_of", lambda _: None)
    named = targets_for(["keras-torch", "torch-dynamo:onnxruntime"], parse_wanted(["keras==3.10"]))
    assert list(named) == ["keras-torch@cpu", "torch-dynamo:onnxruntime@cpu"]
    assert needed_by(named) == ("keras", "torch", "onnx", "onnxscript", "onnx_ir", "onnxruntime")
    with pytest.raises(BadInput, match="did you mean"):
        targets_for(["onnxruntim"], parse_wanted(["keras==3.10"]))


# ---- What the tables say ----


def record(case: str, verdict: str, **said: object) -> Record:
    empty = Record(case, "t@cpu", "exact", verdict, False, "native", 3.5, 1.0, 1.0, "", "", 0.1, f"digest of {case}")
    return replace(empty, **said)  # type: ignore[arg-type]


def version(folder: Path, number: str, *records: Record, reason: str = "") -> Version:
    (wanted,) = parse_wanted([f"keras=={number}"])
    path = folder / f"{number}.sqlite"
    if not reason:
        with RunFile.create(path) as store:
            for one in records:
                store.append(one)
            store.note({"conformance": "0.1", "finished": True})
    return Version(wanted, path, "overlay", (("keras", number), ("numpy", "2.0")), reason=reason)


SHIFT = "shifted by one element along axis 2"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """A shift that was always there and is mended, and an error that came."""
    shifted, right = record("s/a", "deviates", diagnosis=SHIFT), record("s/a", "exact")
    old = [shifted, record("s/b", "exact"), record("s/c", "unsupported", message="no groups"), record("s/d", "exact")]
    new = [right, record("s/b", "error", message="ValueError: 7 | <b>no</b> @me"), *old[2:]]
    new[-1] = record("s/d", "reduced", known=True, deviation="keras/tf32", arithmetic="tf32")
    versions = [
        version(tmp_path, "3.10", *old),
        version(tmp_path, "3.11", reason="no\x1b[2Jsolution `x`"),
        version(tmp_path, "3.12", *old),
        version(tmp_path, "3.15", *new),
    ]
    return make_table(versions, Settings({"t@cpu": "t"}))


def shown(table: Table, limit: int = 20) -> str:
    out = io.StringIO()
    show_across(table, Console(file=out, width=110, highlight=False, markup=False), limit)
    return out.getvalue()


def test_kinds_are_counted_for_each_version(table: Table) -> None:
    assert dict(table.rows("t@cpu")) == {
        "bit for bit": (2, None, 2, 1),
        "wrong values, silently": (1, None, 1, 0),
        "error": (0, None, 0, 1),
        "weaker arithmetic": (0, None, 0, 1),
        "not supported": (1, None, 1, 1),
        "of the failures, documented": (0, None, 0, 1),
    }
    assert [(group.example.case, group.counts) for group in table.groups] == [
        ("s/a", (1, 0, 1, 0)),
        ("s/b", (0, 0, 0, 1)),
        ("s/d", (0, 0, 0, 1)),
    ]


def test_each_version_that_ran_is_compared_with_the_one_before_it_that_did(table: Table) -> None:
    assert [(old, new) for old, new, _ in table.changes] == [(0, 2), (2, 3)]
    counts = table.changes[1][2].counts
    assert (counts.fixed, counts.newly_failing, counts.newly_known) == (1, 1, 1)
    assert (table.changes[0][2].counts.unchanged, table.regressions) == (4, 1)


def test_the_last_version_fails_unless_all_its_failures_are_documented(table: Table, tmp_path: Path) -> None:
    assert table.newest_fails
    known = version(tmp_path, "4.0", record("s/a", "deviates", known=True, deviation="keras/shift"))
    assert not make_table([known], table.settings).newest_fails
    assert not make_table([], table.settings).newest_fails


def test_the_terminal_names_the_shift_in_words_on_the_first_screen(table: Table) -> None:
    said = shown(table)
    (line,) = [line for line in said.splitlines() if line.startswith("✗ Silently")]
    assert line.startswith("✗ Silently wrong values in keras 3.10, 3.12, not in 3.15: 1 cell of t@cpu, as s/a")
    assert SHIFT in " ".join(said[:900].split())
    assert "✗ keras==3.11: not run: no [2Jsolution" in said
    assert "keras 3.12 → keras 3.15: 1 newly failing, 1 newly known, 1 fixed" in said
    assert "keras 3.10 → keras 3.12: nothing changed" in said
    assert "... and 2 kinds more (--failures 3)" in shown(table, limit=1)


def test_versions_in_a_row_are_named_by_the_first_and_the_last(tmp_path: Path) -> None:
    wrong, right = record("s/a", "deviates"), record("s/a", "exact")
    said = [wrong, wrong, wrong, right, wrong, right, right]
    versions = [version(tmp_path, f"3.{n}", one) for n, one in enumerate(said)]
    shown_ = shown(make_table(versions, Settings({"t@cpu": "t"})))
    assert "wrong values in keras 3.0 to 3.2, 3.4, not in 3.3, 3.5, 3.6: 1 cell of t@cpu" in shown_


def test_the_page_lets_no_text_from_a_run_file_become_markup(table: Table) -> None:
    page = across_page(table, ["x", "across", "keras==3.10", "a|`b"])
    assert SHIFT in page
    assert not [part for part in ("\x1b", "<b>", "@me") if part in page]
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {6}
    assert "\n    conformance across keras==3.10 'a|`b'\n" in page
    assert "| wrong values, silently | 1 | - | 1 | · |" in page


def test_a_bar_in_the_name_of_a_case_ends_no_cell(tmp_path: Path) -> None:
    table = make_table([version(tmp_path, "3.1", record("s/a|b", "deviates"))], Settings({"t@cpu": "t"}))
    (row,) = [line for line in across_page(table).splitlines() if "s/a" in line and line.startswith("|")]
    assert row.replace("\\|", "").count("|") == 3


def test_json_holds_the_table_and_the_comparisons(table: Table) -> None:
    said = json.loads(json.dumps(as_json(table)))
    assert (said["name"], said["schema"], said["regressions"]) == ("conformance-across", 1, 1)
    assert said["targets"]["t@cpu"]["error"] == [0, None, 0, 1]
    assert [version["name"] for version in said["versions"]] == [
        "keras 3.10",
        "keras==3.11",
        "keras 3.12",
        "keras 3.15",
    ]
    assert said["changes"][1]["comparison"]["counts"]["fixed"] == 1


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(("cases", "ran"), [("these", "3.10.0"), ("others", "3.10.0"), ("these", "3.12.0")])
def test_a_run_that_is_finished_and_about_the_same_cases_is_not_run_again(
    finished: bool, cases: str, ran: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wanted,) = parse_wanted(["keras==3.10.*"])
    settings = Settings({"t@cpu": "t"}, cases="these")
    with RunFile.create(tmp_path / f"{wanted.slug}.sqlite") as store:
        store.note({**settings.options, "finished": finished, "targets": ["t@cpu"]})
        store.note({runner.NOTE: {"requirement": wanted.text, "cases": cases, "versions": {"keras": ran}}})
    ran_again: list[str] = []
    monkeypatch.setattr(runner, "_run", lambda wanted, *_: ran_again.append(wanted.text))
    (version,) = runner.run_versions([(wanted, ())], settings, tmp_path, ())
    assert bool(ran_again) is not (finished and cases == "these")
    if not finished:
        assert version.reason == "the run did not come to its end"
    else:
        assert version.reason == ("" if ran == "3.10.0" else "keras==3.10.* was asked for, 3.12.0 is there")


def test_a_run_that_ends_badly_is_told_by_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (wanted,) = parse_wanted(["keras==3.10.*"])
    recipe = made.Recipe(OVERLAY, "3.11", ())

    def run_child(_: object, log: Path) -> int:
        log.write_text(f"something\nsuites.yaml:3: wrong\n{OURS}\n")
        return 3

    monkeypatch.setattr(made, "find_uv", lambda: "uv")
    monkeypatch.setattr(runner, "probe", lambda *_: made.Probed(recipe))
    monkeypatch.setattr(runner, "run_child", run_child)
    (version,) = runner.run_versions([(wanted, (recipe,))], Settings({"t@cpu": "t"}), tmp_path, ())
    assert version.reason == "the run ended with status 3: suites.yaml:3: wrong"
    assert version.name == "keras==3.10.*"


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        (["deviates", "exact"], 0),
        (["exact", "deviates", "exact"], 1),  # one is worse than the one before it
        (["deviates", "deviates"], 1),  # the last one fails
        (["unsupported", "exact"], 0),
        ([], 2),
    ],
)
def test_the_status_says_whether_the_last_one_conforms_and_none_is_worse(
    verdicts: list[str], status: int, tmp_path: Path
) -> None:
    versions = [version(tmp_path, f"3.{n}", record("s/a", verdict)) for n, verdict in enumerate(verdicts)]
    unrun = version(tmp_path, "9", reason="not there")
    assert make_table([*versions, unrun], Settings({"t@cpu": "t"})).status == status


def test_what_every_version_gets_wrong_is_no_news(tmp_path: Path) -> None:
    versions = [version(tmp_path, f"3.{n}", record("s/a", "deviates")) for n in range(2)]
    table = make_table(versions, Settings({"t@cpu": "t"}))
    assert (table.news, len(table.groups)) == ((), 1)


def test_each_version_is_compared_with_the_one_before_and_not_with_the_first(tmp_path: Path) -> None:
    said = [record("s/a", verdict) for verdict in ("deviates", "exact", "deviates")]
    table = make_table([version(tmp_path, f"3.{n}", one) for n, one in enumerate(said)], Settings({"t@cpu": "t"}))
    assert [(each.counts.fixed, each.counts.newly_failing) for _, _, each in table.changes] == [(1, 0), (0, 1)]


def test_what_is_documented_is_told_apart_from_what_is_not(tmp_path: Path) -> None:
    known = record("s/a", "deviates", known=True, deviation="keras/shift", message="at [1] got 2")
    new = record("s/b", "deviates", message="at [3] got 4")
    table = make_table([version(tmp_path, "3.1", known, new)], Settings({"t@cpu": "t"}))
    assert [group.example.case for group in table.groups] == ["s/b", "s/a"]


def test_other_targets_of_a_run_file_are_left_out(tmp_path: Path) -> None:
    failing = [record("s/a", "deviates"), record("s/a", "deviates", target="other@cpu")]
    table = make_table([version(tmp_path, "3.1", *failing)], Settings({"t@cpu": "t"}))
    assert (table.targets, len(table.groups)) == (("t@cpu",), 1)


def test_a_file_that_is_no_run_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (wanted,) = parse_wanted(["keras==3.10"])
    (tmp_path / "keras-3.10.sqlite").write_text("not a run")
    with pytest.raises(BadRunFile):
        list(runner.run_versions([(wanted, ())], Settings({}), tmp_path, ()))
