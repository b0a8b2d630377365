"""What the command line says, to whom, and with which exit status."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest

from conformance import cli
from conformance import run_command as bodies
from conformance.execution import TargetSpec, devices, registry
from conformance.runs import RunFile
from conformance.spec import DATA_KINDS, load_cases

TESTS = Path(__file__).parent
CONFORMANCE = (sys.executable, "-m", "conformance")
PLANTED = str(TESTS / "planted.py")
FRAMEWORKS = {"torch", "tensorflow", "keras", "jax", "onnx", "onnxruntime"}

SUITE = """
suite: small
defaults: {op: conv_transpose, input: [3], out_channels: 2}
cases:
  one: {kernel: 3}
  two: {kernel: 2, stride: 2}
  sweep: {matrix: {kernel: [2, 3], stride: [1, 2]}}
"""
PROBLEMS = 6 * 2

NEGATED = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from planted import Planted
def target():
    return Planted("negated")
"""
MUTE = """
from conformance.targets.base import Unsupported
class target:
    def run(self, case, tensors):
        raise Unsupported("has no transposed convolution")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of our own with a suite and targets in it; runs without --out go into its cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    texts = {"small.yaml": SUITE, "negated.py": NEGATED, "mute.py": MUTE}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``conformance ARGUMENTS`` in this process: exit status, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["conformance", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as leave:
            cli.main()
        out, err = capfd.readouterr()
        return int(leave.value.code or 0), out, err

    return run


Call = Callable[..., tuple[int, str, str]]


def apart(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """``conformance ARGUMENTS`` in a process of its own."""
    command = [*CONFORMANCE, *arguments]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=100, check=False)


def packed(text: str) -> str:
    """Without white space, so that lines may be broken anywhere."""
    return "".join(text.split())


# ---- Exit statuses ----


def test_0_where_everything_conforms(call: Call) -> None:
    code, out, err = call("run", "small.yaml", "--target", PLANTED, "--out", "run.sqlite")
    assert (code, err) == (0, "")
    assert re.search(rf"^small +{PROBLEMS}$", out, re.MULTILINE)
    assert "✗" not in out
    assert "failures" not in out
    assert out.endswith("Run file: run.sqlite\n")
    with RunFile.open(Path("run.sqlite")) as run:
        assert len(list(run.records())) == PROBLEMS


def test_0_where_the_target_cannot_say_it(call: Call) -> None:
    code, out, _ = call("run", "small.yaml", "--target", "mute.py")
    assert code == 0
    assert re.search("^small +·$", out, re.MULTILINE)
    assert re.search(rf"^not supported +{PROBLEMS}$", out, re.MULTILINE)


def test_1_where_something_is_wrong(call: Call) -> None:
    code, out, err = call("run", "small.yaml", "--target", f"{PLANTED},negated.py")
    assert (code, err) == (1, "")
    assert f"{PROBLEMS} failures of 1 kind\n" in out
    assert re.search(r"✗ deviates negated small/\S+ \((exact|rounding)\) and 11 more: at \[[\d,]+\] got", out)
    assert "planted small/" not in out
    assert re.search(rf"^small +{PROBLEMS} +{PROBLEMS} ✗$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "smal"], r"^smal: expected a suite \(.*asymmetric, .*\) or a YAML file\n$"),
        (["run", "no/such.yaml"], r"^no/such.yaml: expected a suite \(.*\) or a YAML file\n$"),
        (["run", "cache"], "^cache: expected a suite"),
        (["run", "small.yaml", "--target", "toch"], "^toch: no such target; did you mean torch. Expected"),
        (["run", "small.yaml", "--target", "no/such.py"], "^no/such.py: no such file\n$"),
        (["run", "small.yaml", "--target", "small.yaml"], "^small.yaml: no such target"),
        (["run", "small.yaml", "--data", "exactly"], "'--data': expected exact, rounding, edge, .*, got exactly"),
        (["run", "small.yaml", "--data", "exact,x"], "'--data': expected exact, .*, got x"),
        (["run", "small.yaml", "--jobs", "0"], "'--jobs': 0 is not in the range x>=1"),
        (["run", "small.yaml", "--timeout", "-1", "--target", PLANTED], "'--timeout'"),
        (["run", "small.yaml", "--timeout", "nan", "--target", PLANTED], "'--timeout'"),
        (["run", "small.yaml", "--out", "."], "'--out'.*is a directory"),
        (["run", "small.yaml", "--out", "small.yaml"], "^small.yaml: exists already; go on with --resume small.yaml"),
        (["run", "small.yaml", "--resume", "small.yaml"], "^small.yaml: not a run file, or damaged"),
        (["run", "small.yaml", "--resume", "none.sqlite"], "^none.sqlite: no such run file\n$"),
        (["run", "small.yaml", "--out", "a", "--resume", "b"], "^expected --out or --resume, not both\n$"),
        (["run", "--nonsense"], "No such option: --nonsense|No such option '--nonsense'"),
        (["cases", "smal"], "^smal: expected a suite"),
        (["show", "small/one"], r"^small/one: no such case"),
        (["show", "small/oen", "--suite", "small.yaml"], "^small/oen: no such case; did you mean small/one"),
        (["show", "asymmetric/plan"], "^asymmetric/plan: no such case; did you mean asymmetric/plane"),
        (["show", "asymmetric/plane", "--target", "toch"], "^toch: no such target"),
        (["show", "asymmetric/plane", "--run", "none.sqlite"], "^none.sqlite: no such run file\n$"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
    ids=" ".join,
)
def test_2_where_the_input_is_bad(call: Call, folder: Path, arguments: list[str], words: str) -> None:
    (folder / "cache").mkdir()
    code, out, err = call(*arguments)
    assert code == 2
    assert re.search(words, err), err
    assert "Traceback" not in err
    if arguments[0] == "run":
        assert out == ""
        assert not list(folder.rglob("*.sqlite*"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SUITE.replace("kernel: 2,", "kernel: two,"), "bad.yaml:6: cases.two.kernel: expected an integer >= 1"),
        (SUITE.replace("stride: 2}", "strid: 2}"), "bad.yaml:6: cases.two.strid: unknown key; did you mean stride?"),
        (SUITE.replace("conv_transpose", "deconv"), "bad.yaml:3: .*op: expected .*conv_transpose.*, got"),
        (SUITE.replace("[1, 2]", "[1, 0]"), r"bad.yaml:7: cases.sweep.stride: expected an integer >= 1.*, got 0"),
        (SUITE.replace("input: [3]", "input: []"), "bad.yaml:3: .*input: expected a list of 1 to 3 integers"),
        (SUITE + "  : [", "bad.yaml:8: not YAML: "),
        ("", "bad.yaml:1: expected a suite"),
        ("- 1", "bad.yaml:1: expected a suite"),
    ],
)
@pytest.mark.parametrize("command", ["run", "cases"])
def test_2_where_a_suite_is_bad_with_its_line_and_key(
    call: Call, folder: Path, command: str, text: str, words: str
) -> None:
    (folder / "bad.yaml").write_text(text)
    code, out, err = call(command, "bad.yaml")
    assert (code, out) == (2, "")
    assert re.search(f"^{words}", err, re.MULTILINE), err


def test_2_where_a_framework_is_missing_and_how_to_get_it(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = TargetSpec("lasagne@cpu", "lasagne", "lasagne:target", ("lasagne",))
    monkeypatch.setattr(registry, "BUILT_IN", (missing,))
    install = "pip install lasagne"
    assert call("run", "small.yaml", "--target", "lasagne") == (
        2,
        "",
        f"lasagne: lasagne is not installed; {install}\n",
    )
    code, out, err = call("run", "small.yaml")
    assert (code, out) == (2, "")
    assert err == f"no framework is installed; install at least one:\n  lasagne@cpu: {install}\n"


@pytest.mark.parametrize("where", ["no/such/folder/run.json", "small.yaml/run.json"])
def test_2_where_the_report_cannot_be_written_before_anything_is_run(call: Call, where: str) -> None:
    code, out, err = call("run", "small.yaml", "--target", PLANTED, "--json", where)
    assert (code, out) == (2, "")
    assert where in err
    assert "Traceback" not in err


def test_3_where_we_fail_ourselves(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> int:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(bodies, "run_command", fail)
    code, out, err = call("run", "small.yaml")
    assert (code, out) == (3, "")
    assert "ZeroDivisionError: ours" in err
    assert err.endswith("this is a failure of conformance itself; please report it\n")


# ---- Options of run ----


def test_targets_and_data_come_by_comma_or_repeated(call: Call) -> None:
    one = call("run", "small.yaml", "--target", f"{PLANTED},mute.py", "--data", "exact,edge-nan", "--out", "a.sqlite")
    many = ["--target", PLANTED, "--target", "mute.py", "--data", "exact", "--data", "edge-nan", "--out", "b.sqlite"]
    assert one[0] == call("run", "small.yaml", *many)[0] == 0
    with RunFile.open(Path("a.sqlite")) as a, RunFile.open(Path("b.sqlite")) as b:
        keys = [r.key for r in a.records()]
        assert keys == [r.key for r in b.records()]
        assert {key[1:] for key in keys} == {("planted", "exact"), ("mute", "exact")}


def test_edge_stands_for_all_kinds_of_edge_data(call: Call) -> None:
    call("run", "edge", "--target", "mute.py", "--data", "edge", "--out", "run.sqlite")
    with RunFile.open(Path("run.sqlite")) as run:
        kinds = {r.data for r in run.records()}
    assert kinds == {"edge-nan", "edge-inf", "edge-zero", "edge-subnormal", "edge-huge"}


def test_every_kind_of_data_can_be_asked_for() -> None:
    assert set(cli.DATA) == {*DATA_KINDS, "edge"}


def test_two_targets_of_one_name_are_not_taken_for_one(call: Call, folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "negated.py").write_text(MUTE)
    code, out, err = call("run", "small.yaml", "--target", "negated.py,other/negated.py")
    if code == 2:
        assert "negated" in err  # refused with a word of it
    else:
        assert re.search(rf"^failed +{PROBLEMS}$", out, re.MULTILINE)
        assert re.search(rf"^not supported +{PROBLEMS}$", out, re.MULTILINE)


def test_json_holds_what_the_run_file_holds(call: Call) -> None:
    options = ("--target", f"{PLANTED},negated.py,mute.py", "--out", "run.sqlite", "--json", "run.json")
    assert call("run", "small.yaml", *options)[0] == 1
    document = json.loads(Path("run.json").read_text())
    with RunFile.open(Path("run.sqlite")) as run:
        assert document == {
            "schema": 1,
            "environment": run.environment,
            "results": [r.as_json() for r in run.records()],
        }
    assert len(document["results"]) == 3 * PROBLEMS
    assert document["environment"]["settings"]["negated"] == {"mistake": "negated", "arithmetic": "native"}
    assert document["environment"]["suites"] == ["small.yaml"]


def test_a_run_without_out_goes_to_the_cache_which_keeps_the_last_twenty(call: Call, folder: Path) -> None:
    runs = folder / "cache" / "deconv-conformance" / "runs"
    runs.mkdir(parents=True)
    for n in range(30):
        (runs / f"20200101-0000{n:02d}-1.sqlite").write_text("")
    _, out, _ = call("run", "small.yaml", "--target", "mute.py", "--data", "exact")
    left = sorted(runs.glob("*.sqlite"))
    assert len(left) == 20
    assert [p.name for p in left[:-1]] == [f"20200101-0000{n:02d}-1.sqlite" for n in range(11, 30)]
    assert f"Run file: {left[-1]}" in out


def test_failures_are_listed_up_to_a_limit(call: Call, folder: Path) -> None:
    text = "class target:\n def run(self, case, tensors): raise ValueError('reason ' + chr(65 + case.axes[0].large))"
    (folder / "many.py").write_text(text)
    _, out, _ = call("run", "small.yaml", "--target", "many.py", "--failures", "1")
    kinds = int(re.search(r"12 failures of (\d) kinds?", out)[1])  # type: ignore[index]
    assert kinds > 1
    assert len(re.findall("^✗", out, re.MULTILINE)) == 1 + ("✗ wrong" in out)
    assert f"... and {kinds - 1} kinds more (--failures {kinds})" in out


# ---- Where the output goes ----


def test_where_nobody_watches_there_is_no_bar_and_no_escape_code(folder: Path) -> None:
    done = apart("run", "small.yaml", "--target", f"{PLANTED},negated.py", TERM="xterm-256color", COLORTERM="truecolor")
    assert done.returncode == 1
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout


def test_where_somebody_watches_there_is_a_bar(folder: Path) -> None:
    """Proves that the test above can fail."""
    ours, theirs = pty.openpty()
    command = [*CONFORMANCE, "run", "small.yaml", "--target", PLANTED]
    env = os.environ | {"TERM": "xterm-256color"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    out, _ = process.communicate(timeout=100)
    seen = b""
    with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as terminal:
        while piece := terminal.read(4096):
            seen += piece
    assert process.returncode == 0
    assert b"\x1b" in seen
    assert b"starting" in seen or b"judging" in seen
    assert "\x1b" not in out


def test_escape_codes_and_markup_of_a_target_do_not_reach_the_terminal(call: Call, folder: Path) -> None:
    words = "[bold]no[/bold] [/] [link=x] \x1b[31mred\x1b[0m \x1b]0;title\x07 \x08\x08"
    (folder / "loud.py").write_text(f"class target:\n def run(self, case, tensors): raise ValueError({words!r})")
    for arguments in (["run", "small.yaml"], ["show", "small/one", "--suite", "small.yaml"]):
        code, out, err = call(*arguments, "--target", "loud.py")
        assert (code, err) == (1, "")
        assert "[bold]no[/bold] [/] [link=x]" in out
        assert not set("\x1b\x07\x08") & set(out)


@pytest.mark.parametrize(
    ("columns", "suite", "target"),
    [
        (30, "small", "a_target"),
        (40, "dumoulin-visin", "keras-ops-tensorflow@cpu"),
        (80, "a-suite-with-quite-a-name", "keras-ops-tensorflow@cpu"),
        (300, "a-suite-with-rather-a-long-name", "a_target_with_rather_a_long_name"),
    ],
)
def test_the_output_is_complete_however_narrow(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch, columns: int, suite: str, target: str
) -> None:
    (folder / "long.yaml").write_text(SUITE.replace("suite: small", f"suite: {suite}"))
    (folder / f"{target}.py").write_text(NEGATED)
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = call("run", "long.yaml", "--target", f"{PLANTED},{target}.py,mute.py")
    assert code == 1
    assert "…" not in out
    for words in (
        suite,
        "planted",
        "mute",
        f"{PROBLEMS}✗",
        "·",
        f"notsupported{PROBLEMS}",
        f"✗ deviates {target} {suite}/",
    ):
        assert packed(words) in packed(out), words
    matrix = out.partition("failures of")[0]
    assert all(part in matrix for part in re.split("[-@]", target))


@pytest.mark.parametrize("arguments", [["cases"], ["run", "small.yaml", "--target", "negated.py"], ["--help"]])
def test_a_reader_that_leaves_early_is_no_reason_for_a_traceback(arguments: list[str]) -> None:
    command = " ".join((*CONFORMANCE, *arguments)) + " | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_failing_run_fails_even_if_nobody_reads_on(folder: Path) -> None:
    """``set -o pipefail`` in CI must not turn a red run green."""
    command = " ".join((*CONFORMANCE, "run", "small.yaml", "--target", "negated.py")) + " | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, timeout=100, check=False)
    assert done.returncode != 0


# ---- Other commands ----

COMMANDS = sorted(cli.commands.commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(call: Call, command: str) -> None:
    code, out, err = call(command, "--help")
    assert (code, err) == (0, "")
    assert re.match(rf"Usage: .*conformance {command} ", out)
    for option in cli.commands.commands[command].params:
        if option.opts[0].startswith("--"):
            assert option.opts[0] in out


def test_the_commands_are_told_by_help_and_without_arguments(call: Call) -> None:
    code, out, _ = call("--help")
    assert code == 0
    assert all(re.search(rf"^  {command} ", out, re.MULTILINE) for command in COMMANDS)
    assert call()[0] == 2
    assert call("--version") == (0, f"conformance, version {bodies.engine.VERSION}\n", "")


@pytest.fixture
def few_targets(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[SimpleNamespace]:
    """A registry with a target that works, one that cannot be loaded and one whose framework is missing."""
    (folder / "broken.py").write_text("raise ImportError('libcuda.so.1: cannot open shared object file')")
    specs = (
        TargetSpec("planted@cpu", "planted", PLANTED, ("numpy",)),
        TargetSpec("broken@cpu", "broken", str(folder / "broken.py"), ("numpy",)),
        TargetSpec("slow@cpu", "slow", PLANTED, ("numpy",), on_request=True),
        TargetSpec("lasagne@cpu", "lasagne", "lasagne:target", ("lasagne",)),
    )
    monkeypatch.setattr(devices, "available_providers", lambda: ())
    monkeypatch.setattr(registry, "BUILT_IN", specs)
    return SimpleNamespace(working=specs[0], broken=specs[1], missing=specs[2])


def test_targets_are_listed_with_what_is_wrong_with_them(call: Call, few_targets: SimpleNamespace) -> None:
    code, out, err = call("targets", "--settings")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines() if line and not line[0].isspace()}
    assert re.search(r"planted@cpu\s+numpy [\d.]+\s+native\s+mistake=correct", lines["planted@cpu"])
    assert re.search(r"lasagne@cpu\s+lasagne\s+pip install lasagne", lines["lasagne@cpu"])
    assert packed("libcuda.so.1: cannot open shared object file") in packed(out)
    assert "mistake=correct" not in call("targets")[1]


def test_targets_that_run_only_when_named_stand_apart(call: Call, few_targets: SimpleNamespace) -> None:
    out = call("targets")[1]
    here, named = out.index("planted@cpu"), out.index("when named")
    assert here < named < out.index("slow@cpu") < out.index("missing") < out.index("lasagne@cpu")
    run = call("run", "small.yaml", "--out", "all.sqlite")[1]
    assert "planted@cpu" in run
    assert "slow@cpu" not in run
    assert "slow@cpu" in call("run", "small.yaml", "--target", "slow", "--out", "named.sqlite")[1]


def test_exporters_are_listed_with_an_example(call: Call, few_targets: SimpleNamespace) -> None:
    pytest.importorskip("onnx")
    out = call("targets")[1]
    assert re.search(r"^onnx-graph +onnx ", out, re.MULTILINE)
    assert "as in torch-dynamo:onnxruntime@cpu" in out


def test_the_cache_is_shown_and_cleared(call: Call, folder: Path) -> None:
    pytest.importorskip("onnx")
    where = folder / "cache" / "deconv-conformance" / "exports"
    assert call("cache")[1].startswith(f"{where}: 0 exports, 0.0 MiB (at most 4,096 MiB")
    assert call("run", "small.yaml", "--target", "onnx-graph:onnx-reference", "--out", "a.sqlite")[0] == 0
    assert call("cache")[1].startswith(f"{where}: {PROBLEMS} exports, ")
    assert call("cache", "--clear")[1].startswith(f"{where}: 0 exports, 0.0 MiB")
    assert not list(where.glob("*/*/*"))


def test_results_are_compared_bit_by_bit_when_asked(call: Call) -> None:
    code, out, _ = call("run", "small.yaml", "--target", PLANTED, "--repeat", "2", "--out", "twice.sqlite")
    assert (code, "differs by run" in out) == (0, False)
    with RunFile.open(Path("twice.sqlite")) as run:
        assert run.environment["repeat"] == 2


def test_targets_are_listed_as_json(call: Call, few_targets: SimpleNamespace) -> None:
    code, out, err = call("targets", "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert said["planted@cpu"]["says"] == {"mistake": "correct", "arithmetic": "native"}
    assert said["broken@cpu"]["says"]["error"].startswith("cannot be loaded: ImportError: libcuda.so.1")
    assert said["lasagne@cpu"] == {"versions": {}, "missing": ["lasagne"], "says": {}}


def test_cases_are_listed_with_op_dtype_and_place(call: Call) -> None:
    code, out, err = call("cases", "small.yaml")
    assert code == 0
    assert out.splitlines() == [
        "small/one\tconv_transpose\tfloat32\tsmall.yaml:5",
        "small/two\tconv_transpose\tfloat32\tsmall.yaml:6",
        *(f"small/sweep[kernel={k},stride={s}]\tconv_transpose\tfloat32\tsmall.yaml:7" for k in (2, 3) for s in (1, 2)),
    ]
    assert err == "6 cases in 1 suites\n"


def test_shipped_cases_are_listed_without_naming_a_suite(call: Call) -> None:
    code, out, _ = call("cases")
    assert code == 0
    assert len(out.splitlines()) == len(load_cases())


def test_the_schema_of_suites_is_a_json_schema_that_knows_right_from_wrong(call: Call) -> None:
    import yaml

    code, out, err = call("cases", "--schema")
    assert (code, err) == (0, "")
    schema = json.loads(out)
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    validator(schema).validate(yaml.safe_load(SUITE))
    assert not validator(schema).is_valid(yaml.safe_load(SUITE.replace("suite:", "sweet:")))


def test_a_case_is_shown_with_its_sizes(call: Call) -> None:
    code, out, err = call("show", "asymmetric/plane")
    assert (code, err) == (0, "")
    assert out.startswith("asymmetric/plane\ncases/asymmetric.yaml:")
    for words in ("weight          2x3x3x4", "output          2x3x7x13", "full result 13, drop 1 at the beginning"):
        assert packed(words) in packed(out)


def test_a_case_of_a_matrix_is_shown_under_its_whole_name(call: Call) -> None:
    name = "small/sweep[kernel=3,stride=2]"
    code, out, _ = call("show", name, "--suite", "small.yaml")
    assert code == 0
    assert out.startswith(name + "\n")


def test_a_case_of_a_matrix_is_told_under_its_whole_name_where_it_fails(call: Call, folder: Path) -> None:
    (folder / "small.yaml").write_text(SUITE.replace("  one: {kernel: 3}\n  two: {kernel: 2, stride: 2}\n", ""))
    _, out, _ = call("run", "small.yaml", "--target", "negated.py")
    name = "small/sweep[kernel=2,stride=1]"
    assert f"✗ deviates negated {name} (exact)" in out
    assert f"See one: conformance show '{name}' --target negated" in out


def test_a_case_is_shown_with_the_elements_that_are_most_wrong(call: Call) -> None:
    code, out, err = call("show", "asymmetric/plane", "--target", "negated.py")
    assert (code, err) == (1, "")
    assert "negated on exact data: deviates (float32)" in out
    rows = re.findall(r"^\d+,\d+,\d+,\d+ +(\S+) +(\S+) +(\S+) ", out, re.MULTILINE)
    assert len(rows) == 2 * 8
    assert all(float(got) == pytest.approx(-float(expected), rel=1e-6) for got, expected, _ in rows)
    errors = [float(error) for *_, error in rows[:8]]
    assert errors == sorted(errors, reverse=True)
    assert "546 of 546 elements differ from the exact result" in out


def test_a_case_that_passes_is_shown_so(call: Call) -> None:
    code, out, err = call("show", "asymmetric/plane", "--target", PLANTED)
    assert (code, err) == (0, "")
    assert "planted on exact data: exact (float32)" in out
    assert "elements differ" not in out


def test_a_case_is_shown_with_what_the_last_run_or_a_named_one_made_of_it(call: Call) -> None:
    call("run", "small.yaml", "--target", "negated.py", "--out", "named.sqlite")
    call("run", "small.yaml", "--target", PLANTED)
    for options, words in (
        ([], r"planted\s+exact\s+exact"),
        (["--run", "named.sqlite"], r"negated\s+exact\s+deviates"),
    ):
        code, out, _ = call("show", "small/one", "--suite", "small.yaml", *options)
        assert code == 0
        assert re.search(words, out)


# ---- Imports ----

IMPORTED = """
import json, runpy, sys
before, sys.argv = sys.argv[1], ["conformance", *sys.argv[2:]]
for name in filter(None, before.split(",")):
    __import__(name)
try:
    runpy.run_module("conformance", run_name="__main__", alter_sys=True)
except SystemExit as leave:
    print(json.dumps([leave.code, sorted({name.partition(".")[0] for name in sys.modules})]), file=sys.stderr)
"""


def imported(*arguments: str, before: str = "") -> tuple[int, set[str]]:
    """Exit status of ``conformance ARGUMENTS``, and all that was imported into its process by then."""
    command = [sys.executable, "-c", IMPORTED, before, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    code, names = json.loads(done.stderr.splitlines()[-1])
    return code, set(names)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "small.yaml", "--target", "onnx-reference", "--target", "negated.py", "--json", "run.json"],
        ["show", "small/one", "--suite", "small.yaml", "--target", "onnx-reference"],
        ["cases"],
    ],
    ids=["run", "show", "cases"],
)
def test_the_parent_imports_no_framework(arguments: list[str]) -> None:
    code, names = imported(*arguments)
    assert code in (0, 1)
    assert "numpy" in names
    assert names & FRAMEWORKS == set()


def test_a_framework_in_the_parent_would_be_seen() -> None:
    """Proves that the test above can fail."""
    _, names = imported("cases", "small.yaml", before="onnx")
    assert names & FRAMEWORKS == {"onnx"}


def test_the_worker_of_a_framework_does_import_it(folder: Path) -> None:
    """And that the frameworks are where they are looked for."""
    names = "', '".join(sorted(FRAMEWORKS))
    say = f"raise ValueError(sorted({{'{names}'}} & set(sys.modules)))"
    target = f"import onnx, sys\nclass target:\n def run(self, case, tensors): {say}"
    (folder / "telling.py").write_text(target)
    done = apart("run", "small.yaml", "--target", "telling.py")
    assert "ValueError: ['onnx']" in done.stdout


def test_help_imports_nothing_slow() -> None:
    code, names = imported("--help")
    assert code == 0
    assert names & ({"numpy", "rich", "yaml", "pydantic", "scipy"} | FRAMEWORKS) == set()


def test_rooms_import_only_from_floors_below() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run(
        [linter, "--no-cache"], cwd=TESTS.parent, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", done.stdout)


def test_the_shipped_suites_are_where_it_says(call: Call) -> None:
    code, out, _ = call("cases", "--where")
    assert code == 0
    assert {path.stem for path in Path(out.strip()).glob("*.yaml")} >= {"sweep", "zfnet"}
