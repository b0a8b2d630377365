"""``conformance compare``: its exit status, what it writes, and files that are no runs."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from compared import PASSES, deviates, family, made, refuses, written

from conformance import cli
from conformance.comparison import schema
from conformance.runs import VERSION, Record, RunFile

SCHEMA = Path(__file__).parent.parent / "docs" / "compare-schema.json"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """``conformance ARGUMENTS`` in this process, in a folder of its own: exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["conformance", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as leave:
            cli.main()
        out, err = capfd.readouterr()
        return int(leave.value.code or 0), out, err

    return command


def test_the_published_schema_is_the_one_that_the_program_prints(call: Call) -> None:
    code_, out, _ = call("compare", "--schema")
    assert code_ == 0
    assert json.loads(out) == schema() == json.loads(SCHEMA.read_text("utf-8"))


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ([PASSES], [PASSES], 0),
        ([PASSES], [deviates()], 1),
        ([PASSES], [deviates(known=True, deviation="d")], 0),
        ([deviates()], [PASSES], 0),
        ([deviates(known=True)], [made(verdict="fixed")], 0),
        ([PASSES], [refuses()], 0),
        ([PASSES], [made(verdict="ambiguous")], 0),
        ([made(verdict="error")], [deviates()], 1),
        ([deviates()], [made(verdict="error")], 0),
        ([PASSES], [made(arithmetic="tf32")], 1),
        ([PASSES], [PASSES, deviates(case="sweep/new")], 0),
        (family(40), family(40, rms_usage=0.6), 1),
        (family(40, rms_usage=0.6), family(40), 0),
        (family(40), family(40, seconds=9.0), 0),
    ],
)
def test_the_exit_status_is_1_where_something_became_worse(
    old: list[Record], new: list[Record], status: int, call: Call
) -> None:
    written(Path("old.sqlite"), old)
    written(Path("new.sqlite"), new)
    code_, out, err = call("compare", "old.sqlite", "new.sqlite", "--json", "c.json", "--markdown", "c.md")
    assert (code_, err) == (status, "")
    assert out.startswith("old.sqlite (")
    assert (json.loads(Path("c.json").read_text())["regressions"] > 0) == (status == 1)
    assert Path("c.md").read_text("utf-8").startswith("### ❌" if status else "### ✅")


def test_a_file_compared_with_itself_has_not_changed(call: Call) -> None:
    written(Path("run.sqlite"), [PASSES, deviates(case="sweep/b"), refuses(case="sweep/c")])
    code_, out, _ = call("compare", "run.sqlite", "run.sqlite")
    assert code_ == 0
    assert "nothing changed; 3 cells the same" in out


def test_the_files_stay_as_they_are(call: Call) -> None:
    paths = [written(Path("old.sqlite"), [PASSES]), written(Path("new.sqlite"), [deviates()])]
    before = [path.read_bytes() for path in paths]
    call("compare", "old.sqlite", "new.sqlite")
    assert [path.read_bytes() for path in paths] == before
    assert sorted(path.name for path in Path().iterdir()) == ["new.sqlite", "old.sqlite"]


def _newer(path: Path) -> None:
    written(path, [PASSES])
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()


def _truncated(path: Path) -> None:
    written(path, family(2000))
    path.write_bytes(path.read_bytes()[:20_000])


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE letters (a)")
    connection.close()


BAD = {
    "missing": (lambda path: None, "no such run file"),
    "text": (lambda path: path.write_text("dear aunt"), "not a run file"),
    "empty": (lambda path: path.write_bytes(b""), "not a run file"),
    "foreign": (_foreign, "not a run file of this program"),
    "truncated": (_truncated, "damaged"),
    "newer": (_newer, "written by a newer version"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("place", [0, 1])
def test_a_file_that_is_no_run_is_told_in_one_line(kind: str, place: int, call: Call) -> None:
    make, words = BAD[kind]
    make(Path("bad.sqlite"))
    written(Path("good.sqlite"), [PASSES])
    names = ["good.sqlite", "good.sqlite"]
    names[place] = "bad.sqlite"
    code_, out, err = call("compare", *names)
    assert (code_, out) == (2, "")
    assert err.startswith("bad.sqlite: ")
    assert words in err
    assert err.count("\n") == 1


def test_runs_with_nothing_in_common_are_bad_input_and_say_why(call: Call) -> None:
    written(Path("old.sqlite"), [PASSES])
    written(Path("new.sqlite"), [made(target="jax@cpu")])
    code_, out, err = call("compare", "old.sqlite", "new.sqlite")
    assert code_ == 2
    assert "torch@cpu gone: 1 cell in the old run only" in out
    assert err == "old.sqlite and new.sqlite: no verdict in common: nothing to compare\n"


def test_one_file_is_not_enough_and_what_cannot_be_written_is_told(call: Call) -> None:
    written(Path("run.sqlite"), [PASSES])
    assert call("compare", "run.sqlite")[0] == 2
    code_, _, err = call("compare", "run.sqlite", "run.sqlite", "--json", "no/such/folder.json")
    assert (code_, err) == (2, "no/such/folder.json: cannot be written: No such file or directory\n")


def test_a_run_file_of_the_first_version_can_be_compared(call: Call) -> None:
    written(Path("new.sqlite"), [deviates()])
    path = written(Path("old.sqlite"), [PASSES])
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE verdicts DROP COLUMN deviation")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    assert call("compare", "old.sqlite", "new.sqlite")[0] == 1


def test_comparing_needs_no_framework_and_no_statistics_package() -> None:
    code_ = "import sys, conformance.compare_command; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    out = subprocess.check_output([sys.executable, "-c", code_], text=True, timeout=60)
    assert "conformance" in out
    assert not {"torch", "tensorflow", "keras", "jax", "onnx", "onnxruntime", "scipy"} & set(
        json.loads(out.replace("'", '"'))
    )


def test_two_real_runs_of_the_same_thing_compare_as_the_same(call: Call) -> None:
    planted = Path(__file__).parent / "planted.py"
    for name in ("a.sqlite", "b.sqlite"):
        call("run", "dumoulin-visin", "--target", str(planted), "--out", name)
    code_, out, err = call("compare", "a.sqlite", "b.sqlite")
    assert (code_, err) == (0, "")
    assert "\nnothing changed; " in out
    with RunFile.open(Path("a.sqlite")) as store:
        count = sum(1 for _ in store.records())
    assert f"{count:,} cells the same\n" in out
