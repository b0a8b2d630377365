"""Suites are test files: the engine's verdicts, called what pytest calls such things."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from textwrap import dedent

import pytest

from conformance.pytest_plugin.grouping import target_of
from conformance.pytest_plugin.sniff import is_suite
from conformance.runs import Record, RunFile
from conformance.spec import DATA_KINDS

pytest_plugins = ["pytester"]
TESTS = Path(__file__).parent
CASES = TESTS.parent / "cases"

SUITE = """suite: small
defaults: {op: conv_transpose, input: [3, 4], kernel: [3, 2]}
cases:
  plain: {tags: [figure, two-words]}
  strided: {stride: [1, 2], in_channels: 2, out_channels: 2, groups: 2}
  grid:
    matrix: {stride: [2, 3], kernel: [2, [2, 3]]}
  large: {tags: full}
"""
CELLS = 12
"""Six quick cases with two kinds of data."""

RUNTIME = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from planted import Planted
from conformance.targets.base import Unsupported

class Mine(Planted):
    name = "mine"

    def environment(self):
        return {{"mine": "1.5"}}

    def run(self, case, tensors):
        given = super().run(case, tensors)
        BODY
        return given

target = Mine
"""
DEVIATION = """deviations: mine
entries:
  grouped:
    target: my_runtime
    versions: {mine: ">=1"}
    where: groups > 1
    verdict: deviates
    reference: "https://example.org/7"
    why: It adds one.
"""


def runtime(pytester: pytest.Pytester, body: str = "pass", name: str = "my_runtime") -> str:
    return str(pytester.makepyfile(**{name: RUNTIME.replace("BODY", body)}))


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Path:
    return pytester.makefile(".yaml", small=SUITE)


def records(path: Path) -> dict[tuple[str, str, str], Record]:
    with RunFile.open(path) as run:
        return {record.key: record for record in run.records()}


def names(result: pytest.RunResult) -> list[str]:
    """The items that were collected (-q --collect-only)."""
    return [line for line in result.outlines if "::" in line]


# ---- What is collected ----


def test_a_suite_has_an_item_for_each_case_target_and_kind_of_data(pytester: pytest.Pytester, suite: Path) -> None:
    runtime(pytester)
    result = pytester.runpytest("small.yaml", "--target", "my_runtime.py", "--collect-only", "-q")
    assert names(result) == [
        f"small.yaml::{case}[my_runtime-{kind}]"
        for case in ("plain", "strided", *(f"grid[stride={s},kernel={k}]" for s in (2, 3) for k in ("2", "2x3")))
        for kind in ("exact", "rounding")
    ]


def test_the_full_profile_has_the_cases_with_that_tag_too(pytester: pytest.Pytester, suite: Path) -> None:
    runtime(pytester)
    options = ("--target", "my_runtime.py", "--collect-only", "-q")
    full = names(pytester.runpytest("small.yaml", *options, "--conformance-profile", "full"))
    assert len(full) == CELLS + 2
    assert "small.yaml::large[my_runtime-exact]" in full


def test_items_are_chosen_by_name_word_and_tag(pytester: pytest.Pytester, suite: Path) -> None:
    runtime(pytester)

    def chosen(*options: str) -> int:
        return len(names(pytester.runpytest("--target", "my_runtime.py", "--collect-only", "-q", *options)))

    assert chosen("small.yaml::plain[my_runtime-exact]") == 1
    assert chosen("small.yaml::grid[stride=2,kernel=2x3][my_runtime-rounding]") == 1
    assert chosen("small.yaml::plain") == 2
    assert chosen("small.yaml", "-k", "rounding and not grid") == 2
    assert chosen("small.yaml", "-k", "conv_transpose and small and float32") == CELLS
    assert chosen("small.yaml", "-m", "figure") == 2
    assert chosen("small.yaml", "-m", "two-words", "--strict-markers") == 2
    assert chosen("small.yaml", "-m", "not figure") == CELLS - 2


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (SUITE, True),
        ("suite: s\ncases:\n  a:\n    op: conv\n", True),
        ('{"suite": "s", "cases": {"a": {"op": "conv"}}}', True),
        ("cases: {a: {op: conv}}\nsuite: s", True),
        ("suite: s\ncases: {a: {matrix: {op: [conv]}}}", True),
        ("suite: s\ndefaults: {op: conv}\ncases: {a: {}}", True),
        ("suite: s\ncases: {a: {op: conv}}\nrest: [", True),
        ("suite: login\ncases: [{op: press, on: button}]", False),
        ("suite: login\ncases: {first: {url: /}}", False),
        ("suite: {op: conv}\ncases: {a: {}}", False),
        ("name: suite\non: cases\njobs: {op: conv}", False),
        ("a: {suite: s, cases: {a: {op: conv}}}", False),
        ("deviations: suite\nentries: {cases: {op: conv}}", False),
        ("suite: s\ncases: {a: {b: {op: conv}}}", False),
        ("- suite: s\n- cases: {a: {op: conv}}", False),
        ("suite: s\ncases: {a: {notes: op}}", False),
        ("suite cases \x00", False),
        ("", False),
    ],
)
def test_a_yaml_file_is_a_suite_by_what_it_says(tmp_path: Path, text: str, is_one: bool) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert is_suite(path) is is_one


@pytest.mark.parametrize("text", ["suite: s\ncases: {a: {}}", "suite: s\ncases: [", "cases: {a: 1}"])
def test_a_file_that_is_asked_for_is_a_suite_if_it_tries_to_be(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert not is_suite(path)
    assert is_suite(path, asked_for=True)


def test_every_shipped_suite_is_one_and_no_other_file() -> None:
    found = {path.relative_to(CASES).as_posix() for path in CASES.rglob("*.yaml") if is_suite(path)}
    assert found == {path.name for path in CASES.glob("*.yaml")}


def test_other_yaml_files_are_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makefile(".yaml", compose="services: {a: {image: b}}", login="suite: login\ncases: {first: {url: /}}")
    pytester.makepyfile("def test_mine(): pass")
    pytester.runpytest().assert_outcomes(passed=1)


def test_a_suite_with_a_mistake_is_an_error_with_its_line(pytester: pytest.Pytester) -> None:
    pytester.makefile(".yaml", bad=SUITE.replace("stride: [1, 2]", "stride: [1, 0]"))
    result = pytester.runpytest("--target", runtime(pytester))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["bad.yaml:5: cases.strided.stride: expected an integer >= 1*"])
    assert "Traceback" not in str(result.stdout)


def test_two_suites_with_the_same_cases_are_an_error(pytester: pytest.Pytester) -> None:
    pytester.makefile(".yaml", a=SUITE, b=SUITE)
    result = pytester.runpytest("--target", runtime(pytester))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["b.yaml:4: the case small/plain is also in a.yaml:4"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--target", "torhc"), "ERROR: torhc: no such target; did you mean torch*"),
        (("--target", "none.py"), "ERROR: none.py: no such file"),
        (
            ("--target", "my_runtime.py", "--conformance-deviations", "d"),
            "ERROR: d: expected a YAML file of deviations*",
        ),
        (("--conformance-timeout", "0"), "*argument --conformance-timeout: invalid*"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_run(
    pytester: pytest.Pytester, suite: Path, options: tuple[str, ...], told: str
) -> None:
    runtime(pytester)
    result = pytester.runpytest("small.yaml", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([told])


def test_another_plugin_may_have_an_option_target(pytester: pytest.Pytester, suite: Path) -> None:
    runtime(pytester)
    pytester.makepyfile(deploy="def pytest_addoption(parser): parser.addoption('--target')")
    options = ("-p", "deploy", "--target", "production", "--conformance-target", "my_runtime.py")
    result = pytester.runpytest_subprocess("small.yaml", *options, "--collect-only", "-q")
    assert len(names(result)) == CELLS


def test_the_plugin_imports_next_to_nothing() -> None:
    heavy = "('numpy', 'pydantic', 'yaml', 'sqlite3', 'conformance.spec')"
    script = f"import sys, conformance.pytest_plugin; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run((sys.executable, "-c", script), capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- What a verdict is to pytest ----


def test_right_results_pass(pytester: pytest.Pytester, suite: Path) -> None:
    result = pytester.runpytest("small.yaml", "--target", runtime(pytester))
    result.assert_outcomes(passed=CELLS)
    result.stdout.fnmatch_lines([f"{CELLS} verdicts: * bit for bit, * within the bound"])


def test_a_failure_says_all_that_a_maintainer_needs(pytester: pytest.Pytester, suite: Path) -> None:
    body = "if case.groups > 1: given['output'][0, 1, 2, 3] += 2e7"
    result = pytester.runpytest("small.yaml", "--target", runtime(pytester, body), "-k", "exact")
    result.assert_outcomes(passed=5, failed=1, deselected=6)
    text = str(result.stdout)
    result.stdout.fnmatch_lines(
        [
            "deviates: at ?0,1,2,3? got *, expected *",
            "  small/strided on my_runtime, exact data  (small.yaml:5)",
            "  conv_transpose float32 1x2x3x4 to 1x2x5x8, kernel 3x2, stride 1x2, dilation 1x1, crop 0:0 0:0, groups 2",
            "  largest error 2e+07, * of the bound, * of the mean-square gate of float32",
            "  output: 1 of 80 elements differ, most at ?0,1,2,3?; around it",
            "    expected * actual",
            f"  repeat it: conformance show small/strided --suite small.yaml --target {pytester.path}/my_runtime.py",
        ]
    )
    table = text[text.index("expected  ") :].splitlines()[1:6]
    rows = [[float(number) for number in row.split()] for row in table]
    assert [len(row) for row in rows] == [10] * 5
    different = [left != right for row in rows for left, right in zip(row[:5], row[5:], strict=True)]
    assert [n for n, differs in enumerate(different) if differs] == [12]
    assert "Traceback" not in text


def test_the_command_that_a_failure_names_repeats_it(pytester: pytest.Pytester, suite: Path) -> None:
    runtime(pytester, "given['output'] = given['output'] + 2e7")
    item = "small.yaml::grid[stride=3,kernel=2x3][my_runtime-exact]"
    result = pytester.runpytest(item, "--target", "my_runtime.py")
    command = re.search(r"repeat it: conformance (show .*)", str(result.stdout))
    assert command is not None
    again = pytester.run("bash", "-c", f"{sys.executable} -m conformance {command[1]}")
    assert again.ret == 1
    again.stdout.fnmatch_lines(["my_runtime on exact data: deviates *"])


def test_what_a_target_cannot_do_is_skipped_with_the_reason(pytester: pytest.Pytester, suite: Path) -> None:
    body = "if case.groups > 1: raise Unsupported('no groups here')"
    result = pytester.runpytest("small.yaml", "--target", runtime(pytester, body), "-rs")
    result.assert_outcomes(passed=CELLS - 2, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED * my_runtime: no groups here"])


def test_a_framework_that_is_missing_is_skipped_with_the_command_that_installs_it(
    pytester: pytest.Pytester, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conformance.execution import specs

    monkeypatch.setattr(specs, "version_of", lambda package: None)
    runtime(pytester)
    result = pytester.runpytest("small.yaml", "--target", "my_runtime.py,torch", "-rs")
    result.assert_outcomes(passed=CELLS, skipped=CELLS)
    result.stdout.fnmatch_lines(["SKIPPED * torch is not installed; pip install torch"])


def test_a_crash_fails_one_item_and_the_others_go_on(pytester: pytest.Pytester, suite: Path) -> None:
    body = "if case.stride == (3, 3): import os; os.abort()"
    result = pytester.runpytest("small.yaml", "--target", runtime(pytester, body))
    result.assert_outcomes(passed=CELLS - 4, failed=4)
    result.stdout.fnmatch_lines(["crash: died of SIGABRT*"])


def test_a_hang_fails_one_item(pytester: pytest.Pytester, suite: Path) -> None:
    body = "if case.groups > 1: import time; time.sleep(60)"
    result = pytester.runpytest("small.yaml", "--target", runtime(pytester, body), "--conformance-timeout", "1")
    result.assert_outcomes(passed=CELLS - 2, failed=2)
    result.stdout.fnmatch_lines(["timeout: no answer within 1 s"])


def test_ambiguous_results_pass_with_a_note(pytester: pytest.Pytester) -> None:
    pytester.makefile(
        ".yaml",
        open="suite: open\ncases: {odd: {op: conv_transpose, input: [3], kernel: 1, stride: 3, auto_pad: SAME_UPPER}}",
    )
    pytest.importorskip("onnxruntime")
    result = pytester.runpytest("open.yaml", "--target", "onnxruntime", "-rP")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*the specification is open here*", "2 verdicts: 2 open in the spec"])


# ---- Documented deviations ----


def test_a_documented_deviation_is_an_expected_failure(pytester: pytest.Pytester, suite: Path) -> None:
    pytester.makefile(".yaml", known=DEVIATION)
    body = "if case.groups > 1: given['output'] += 2e7"
    options = ("small.yaml", "--target", runtime(pytester, body), "--conformance-deviations", "known.yaml")
    result = pytester.runpytest(*options, "-rx")
    result.assert_outcomes(passed=CELLS - 2, xfailed=2)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["XFAIL small.yaml::strided?my_runtime-exact? - mine/grouped: deviates"])
    assert pytester.runpytest(*options, "--runxfail").parseoutcomes()["failed"] == 2


def test_a_deviation_that_does_not_come_is_a_failure(pytester: pytest.Pytester, suite: Path) -> None:
    pytester.makefile(".yaml", known=DEVIATION)
    options = ("small.yaml", "--target", runtime(pytester), "--conformance-deviations", "known.yaml")
    result = pytester.runpytest(*options)
    result.assert_outcomes(passed=CELLS - 2, failed=2)
    result.stdout.fnmatch_lines(["*documented to be deviates (known.yaml:3, mine/grouped), and came out exact*"])


def test_another_failure_than_the_documented_one_is_a_failure(pytester: pytest.Pytester, suite: Path) -> None:
    pytester.makefile(".yaml", known=DEVIATION)
    body = "if case.groups > 1: raise ValueError('broken')"
    options = ("small.yaml", "--target", runtime(pytester, body), "--conformance-deviations", "known.yaml")
    pytester.runpytest(*options).assert_outcomes(passed=CELLS - 2, failed=2)


# ---- pytest's own ways ----


def test_the_first_failure_may_end_the_session(pytester: pytest.Pytester, suite: Path) -> None:
    runtime(pytester, "if case.groups > 1: given['output'] += 2e7")
    result = pytester.runpytest("small.yaml", "--target", "my_runtime.py", "-x", "--conformance-out", "run.sqlite")
    result.assert_outcomes(passed=2, failed=1)
    with RunFile.open(pytester.path / "run.sqlite") as run:
        assert len(list(run.records())) == 3
        assert run.environment["finished"] is False


def test_the_last_failures_may_be_run_again(pytester: pytest.Pytester, suite: Path) -> None:
    runtime(pytester, "if case.groups > 1: given['output'] += 2e7")
    pytester.runpytest("small.yaml", "--target", "my_runtime.py").assert_outcomes(passed=CELLS - 2, failed=2)
    runtime(pytester)
    pytester.runpytest("small.yaml", "--target", "my_runtime.py", "--lf").assert_outcomes(passed=2)


def test_suites_stand_beside_ordinary_tests(pytester: pytest.Pytester) -> None:
    """Fixtures of modules and folders before and after a suite are set up and torn down as ever."""
    log = pytester.path / "log"
    module = f"""
        import pytest
        @pytest.fixture(scope="module", autouse=True)
        def logged():
            yield
            with open({str(log)!r}, "a") as log:
                log.write(__name__ + " ")
        def test_one(): pass
        def test_two(): pass
    """
    for place in ("a", "c"):
        pytester.mkdir(place).joinpath(f"test_{place}.py").write_text(dedent(module))
    pytester.mkdir("b").joinpath("small.yaml").write_text(SUITE)
    result = pytester.runpytest("--target", runtime(pytester), "--strict-markers", "-W", "error")
    result.assert_outcomes(passed=CELLS + 4)
    assert log.read_text().split() == ["test_a", "test_c"]


def test_junit_has_every_verdict_with_its_numbers(pytester: pytest.Pytester, suite: Path) -> None:
    body = "if case.groups > 1: given['output'] += 2e7\n        if case.stride == (3, 3): raise Unsupported('no')"
    pytester.runpytest("small.yaml", "--target", runtime(pytester, body), "--junitxml", "junit.xml")
    root = ET.parse(pytester.path / "junit.xml").getroot()
    (counted,) = root.iter("testsuite")
    said = {key: counted.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert said == {"tests": str(CELLS), "failures": "2", "errors": "0", "skipped": "4"}
    tests = {test.get("name"): test for test in root.iter("testcase")}
    failed = tests["strided[my_runtime-exact]"]
    properties = {p.get("name"): p.get("value") for p in failed.iter("property")}
    assert properties["verdict"] == "deviates"
    assert float(properties["bound_usage"] or 0) > 1
    assert "repeat it: conformance show" in "".join(failed.find("failure").itertext())  # type: ignore[union-attr]


def test_the_run_file_is_that_of_the_command_line(pytester: pytest.Pytester, suite: Path) -> None:
    runtime(pytester, "if case.groups > 1: given['output'] += 2e7")
    pytester.runpytest("small.yaml", "--target", "my_runtime.py", "--conformance-out", "a.sqlite")
    command = ("run", "small.yaml", "--target", "my_runtime.py", "--out", "b.sqlite")
    subprocess.run((sys.executable, "-m", "conformance", *command), cwd=pytester.path, capture_output=True, check=False)
    a, b = records(pytester.path / "a.sqlite"), records(pytester.path / "b.sqlite")
    assert a.keys() == b.keys()
    for key, record in a.items():
        assert record.values[:-3] == b[key].values[:-3], key  # but for the seconds
        assert record.digest == b[key].digest
    with RunFile.open(pytester.path / "a.sqlite") as run:
        environment = run.environment
    assert environment["targets"] == ["my_runtime"]
    assert environment["settings"]["my_runtime"]["mine"] == "1.5"
    assert environment["finished"] is True
    assert environment["profile"] == "quick"


def test_a_run_file_that_exists_is_not_overwritten(pytester: pytest.Pytester, suite: Path) -> None:
    (pytester.path / "run.sqlite").write_text("mine")
    result = pytester.runpytest("small.yaml", "--target", runtime(pytester), "--conformance-out", "run.sqlite")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --conformance-out: */run.sqlite: exists already"])
    assert (pytester.path / "run.sqlite").read_text() == "mine"


def test_a_session_that_runs_nothing_leaves_no_run_file(pytester: pytest.Pytester) -> None:
    pytester.makefile(".yaml", bad=SUITE.replace("stride: [1, 2]", "stride: [1, 0]"))
    options = ("bad.yaml", "--target", runtime(pytester), "--conformance-out", "run.sqlite")
    pytester.runpytest(*options).assert_outcomes(errors=1)
    assert not (pytester.path / "run.sqlite").exists()
    pytester.makefile(".yaml", bad=SUITE)
    pytester.runpytest(*options, "--collect-only")
    pytester.runpytest(*options).assert_outcomes(passed=CELLS)


# ---- pytest-xdist ----


@pytest.mark.parametrize("kind", DATA_KINDS)
def test_the_target_is_read_from_the_name_of_an_item(kind: str) -> None:
    assert target_of(f"cases/x.yaml::a[kernel=3x4][torch-nn-grad@cpu-{kind}]") == "torch-nn-grad@cpu"
    assert target_of(f"tests/test_x.py::test_a-{kind}") == ""
    assert target_of("tests/test_x.py::test_a[b]") == ""


def test_each_framework_starts_once_however_many_workers_there_are(pytester: pytest.Pytester, suite: Path) -> None:
    for name in ("one", "two", "three"):
        body = f"open({str(pytester.path / 'pids')!r}, 'a').write(f'{name} {{__import__(\"os\").getpid()}}\\n')"
        runtime(pytester, body, name)
    options = ("small.yaml", "--target", "one.py,two.py,three.py", "-n", "2", "--conformance-out", "run.sqlite")
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=3 * CELLS)
    started = set((pytester.path / "pids").read_text().splitlines())
    assert sorted(line.split()[0] for line in started) == ["one", "three", "two"]
    assert len(records(pytester.path / "run.sqlite")) == 3 * CELLS
    with RunFile.open(pytester.path / "run.sqlite") as run:
        assert run.environment["settings"]["two"]["mine"] == "1.5"
        assert run.environment["finished"] is True


@pytest.mark.parametrize("dist", ["worksteal", "each"])
def test_any_other_distribution_gives_the_same_verdicts(pytester: pytest.Pytester, suite: Path, dist: str) -> None:
    pids = f"open({str(pytester.path / 'pids')!r}, 'a').write(f'{{__import__(\"os\").getpid()}}\\n')"
    runtime(pytester, f"{pids}\n        if case.groups > 1: given['output'] += 2e7")
    options = ("small.yaml", "--target", "my_runtime.py", "-k", "exact", "-n", "2", "--dist", dist)
    count = 2 if dist == "each" else 1
    result = pytester.runpytest_subprocess(*options)
    result.assert_outcomes(passed=5 * count, failed=count)
    assert len(set((pytester.path / "pids").read_text().split())) <= 2


def test_ordinary_tests_are_distributed_as_ever(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.parametrize('n', range(20))\ndef test_a(n, worker_id): pass")
    result = pytester.runpytest_subprocess("-n", "2", "-v")
    result.assert_outcomes(passed=20)
    result.stdout.fnmatch_lines(["*scheduling tests via LoadScheduling*"])


@pytest.mark.timeout(300)
def test_two_workers_give_the_verdicts_of_the_command_line_over_the_whole_quick_profile(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    run = (sys.executable, "-m", "conformance", "run", "--target", "torch,onnxruntime", "--out", str(tmp_path / "a"))
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    options = ("--target", "torch,onnxruntime", "-n", "2", "--conformance-out", str(tmp_path / "b"), "-q")
    matrix = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", str(CASES), *options)
    done = subprocess.run(matrix, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    a, b = records(tmp_path / "a"), records(tmp_path / "b")
    assert len(a) > 10_000
    assert a.keys() == b.keys()
    different = {k: (a[k].verdict, b[k].verdict) for k in a if a[k].verdict != b[k].verdict or a[k].known != b[k].known}
    assert different == {}


# ---- Fixtures ----


def test_the_problems_of_a_suite_go_to_a_test_of_ones_own(pytester: pytest.Pytester, suite: Path) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.conformance("small.yaml", op="conv_transpose", data="exact")
        def test_mine(conformance_problem):
            case = conformance_problem.case
            assert conformance_problem.data == "exact"
            assert conformance_problem.tensors["input"].shape[2:] == (3, 4)
            assert conformance_problem.exact.shape == case.result_shapes["output"]
        """
    )
    result = pytester.runpytest("--strict-markers", "-v", "-k", "test_mine")
    result.assert_outcomes(passed=6, deselected=result.parseoutcomes().get("deselected", 0))
    result.stdout.fnmatch_lines(["*::test_mine?small/grid?stride=2,kernel=2x3?-exact? PASSED*"])


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        ("", "*test_mine: conformance_problem expects @pytest.mark.conformance*"),
        ('@pytest.mark.conformance("none.yaml")', "*none.yaml: expected a suite (*"),
        ('@pytest.mark.conformance("small.yaml", ops="conv")', "*conformance_problem expects*"),
    ],
)
def test_a_test_that_does_not_say_which_problems_is_told_how(
    pytester: pytest.Pytester, suite: Path, mark: str, told: str
) -> None:
    pytester.makepyfile(f"import pytest\n{mark}\ndef test_mine(conformance_problem): pass")
    result = pytester.runpytest("-k", "test_mine")
    assert result.ret != 0
    result.stdout.fnmatch_lines([told])
