"""The run file keeps every verdict that was reached, however the run ended, and never takes a foreign file for one."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
from rich.console import Console

from conformance.errors import BadRunFile
from conformance.reports.details import show_records
from conformance.reports.terminal import Summary, show_failures, show_matrix
from conformance.runs import APPLICATION, VERSION, Record, RunFile
from conformance.verdict import VERDICTS

TESTS = Path(__file__).parent
CONFORMANCE = (sys.executable, "-m", "conformance")
CONTRACT = [
    "case",
    "target",
    "data",
    "verdict",
    "known",
    "arithmetic",
    "max_abs_error",
    "bound_usage",
    "rms_usage",
    "diagnosis",
    "message",
    "seconds",
    "deviation",
]
RECORD = Record(
    case="suite/name[kernel=3x4]",
    target="torch@cpu",
    data="rounding",
    verdict="reduced",
    known=False,
    arithmetic="tf32",
    max_abs_error=1.25e-3,
    bound_usage=7000.5,
    rms_usage=3.5,
    diagnosis="computed as with tf32",
    message='at [0,1] got 1 \N{SNOWMAN} "quoted", expected 2',
    seconds=0.125,
    digest="00ff",
)

TEXT = {"type": "string"}
NUMBER = {"anyOf": [{"type": "number"}, {"type": "null"}, {"enum": ["inf", "-inf", "nan"]}]}
RESULT = {
    "case": TEXT,
    "target": TEXT,
    "data": TEXT,
    "verdict": {"enum": list(VERDICTS)},
    "known": {"type": "boolean"},
    "arithmetic": TEXT,
    "max_abs_error": NUMBER,
    "bound_usage": NUMBER,
    "rms_usage": NUMBER,
    "diagnosis": TEXT,
    "message": TEXT,
    "seconds": {"type": "number", "minimum": 0},
    "deviation": TEXT,
}
RESULTS = {"type": "object", "required": CONTRACT, "additionalProperties": False, "properties": RESULT}
ENVIRONMENT = {"type": "object", "required": ["conformance", "python", "platform", "numpy", "versions"]}
SCHEMA = {
    "type": "object",
    "required": ["schema", "environment", "results"],
    "additionalProperties": False,
    "properties": {
        "schema": {"const": 1},
        "environment": ENVIRONMENT,
        "results": {"type": "array", "items": RESULTS},
    },
}


def some(count: int) -> list[Record]:
    return [replace(RECORD, case=f"suite/{n:05d}", seconds=n / 8) for n in range(count)]


def kept(path: Path) -> list[Record]:
    with RunFile.open(path) as run:
        return list(run.records())


def strict_json(text: str) -> Any:
    """JSON as the standard has it: Python's NaN and Infinity are refused."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.sqlite"


# ---- What is kept ----


def test_what_is_appended_can_be_read_again(path: Path) -> None:
    records = [
        RECORD,
        replace(RECORD, target="b", max_abs_error=None, bound_usage=None, rms_usage=None, diagnosis="", message=""),
        replace(RECORD, target="c", known=True, max_abs_error=math.inf, bound_usage=5e-324, rms_usage=1e308),
        replace(RECORD, data="edge-nan", message="two\nlines\x00and a nought, é, \N{GRINNING FACE}"),
    ]
    with RunFile.create(path) as run:
        for record in records:
            run.append(record)
        assert sorted(run.records(), key=str) == sorted(records, key=str)
    assert sorted(kept(path), key=str) == sorted(records, key=str)
    assert all(type(r.known) is bool for r in kept(path))


def test_records_come_by_case_target_and_data(path: Path) -> None:
    records = [replace(RECORD, case=c, target=t, data=d) for c in "ab" for t in "xy" for d in ("exact", "rounding")]
    with RunFile.create(path) as run:
        for record in reversed(records):
            run.append(record)
        assert list(run.records()) == records


def test_a_later_verdict_replaces_an_earlier_one(path: Path) -> None:
    with RunFile.create(path) as run:
        run.append(RECORD)
        run.append(replace(RECORD, verdict="exact", digest="1234"))
        assert [r.verdict for r in run.records()] == ["exact"]


def test_a_verdict_is_there_as_soon_as_it_is_appended(path: Path) -> None:
    with RunFile.create(path) as run:
        run.append(RECORD)
        assert kept(path) == [RECORD]


def test_nothing_but_the_file_itself_is_left_when_it_is_closed(path: Path) -> None:
    with RunFile.create(path) as run:
        for record in some(100):
            run.append(record)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    moved = path.rename(path.with_name("moved.sqlite"))
    assert kept(moved) == some(100)


def test_a_run_file_that_cannot_be_written_can_be_read(path: Path) -> None:
    with RunFile.create(path) as run:
        run.append(RECORD)
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        assert kept(path) == [RECORD]
    finally:
        path.parent.chmod(0o700)


def test_the_environment_is_kept_and_later_notes_replace_earlier_ones(path: Path) -> None:
    with RunFile.create(path) as run:
        run.note({"threads": 1, "versions": {"torch": "2.2"}, "started": "then", "suites": ["a", "b"]})
        run.note({"threads": 2, "seconds": 1.5})
    with RunFile.open(path) as run:
        assert run.environment == {
            "threads": 2,
            "versions": {"torch": "2.2"},
            "started": "then",
            "suites": ["a", "b"],
            "seconds": 1.5,
        }


# ---- JSON ----


def test_the_record_has_the_fields_of_the_contract() -> None:
    assert list(RECORD.as_json()) == CONTRACT
    assert [f.name for f in fields(Record)] == [*CONTRACT[:-1], "digest", "deviation"]


@pytest.mark.parametrize("number", [math.inf, -math.inf, 1e308, 5e-324, 0.0, None])
def test_whatever_was_measured_is_json(path: Path, tmp_path: Path, number: float | None) -> None:
    with RunFile.create(path) as run:
        run.append(replace(RECORD, max_abs_error=number, bound_usage=number, rms_usage=number))
        run.note({"conformance": "1", "python": "3", "platform": "p", "numpy": "2", "versions": {}})
        run.write_json(tmp_path / "run.json")
    document = strict_json((tmp_path / "run.json").read_text())
    jsonschema.validate(document, SCHEMA)
    (result,) = document["results"]
    assert result["max_abs_error"] is None if number is None else float(result["max_abs_error"]) == number


def test_not_a_number_is_json_too() -> None:
    said = strict_json(json.dumps(replace(RECORD, rms_usage=math.nan).as_json()))
    assert said["rms_usage"] == "nan"


def test_a_run_without_verdicts_is_json(path: Path, tmp_path: Path) -> None:
    with RunFile.create(path) as run:
        run.write_json(tmp_path / "run.json")
    assert strict_json((tmp_path / "run.json").read_text()) == {"schema": 1, "environment": {}, "results": []}


# ---- Files that are no run files ----


def refused(path: Path) -> str:
    with pytest.raises(BadRunFile) as caught:
        RunFile.open(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_a_file_that_exists_is_not_overwritten(path: Path) -> None:
    path.write_text("a letter to my aunt")
    with pytest.raises(BadRunFile, match=f"exists already; go on with --resume {path}, or choose another name"):
        RunFile.create(path)
    assert path.read_text() == "a letter to my aunt"


def test_a_run_file_that_exists_is_not_overwritten(path: Path) -> None:
    with RunFile.create(path) as run:
        run.append(RECORD)
    with pytest.raises(BadRunFile, match="exists already"):
        RunFile.create(path)
    assert kept(path) == [RECORD]


def test_a_link_that_leads_nowhere_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadRunFile, match="exists already"):
        RunFile.create(path)
    assert not (tmp_path / "elsewhere").exists()


def test_folders_are_made_for_a_new_run_file(tmp_path: Path) -> None:
    RunFile.create(tmp_path / "a" / "b" / "run.sqlite").close()
    assert kept(tmp_path / "a" / "b" / "run.sqlite") == []


def test_a_run_file_cannot_stand_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRunFile, match=r"run\.sqlite: cannot be written: Not a directory"):
        RunFile.create(tmp_path / "file" / "run.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_file_cannot_stand_where_nothing_may_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BadRunFile, match="cannot be written: Permission denied"):
        RunFile.create(tmp_path / "run.sqlite")


def test_what_is_not_there_is_no_run_file(path: Path) -> None:
    assert refused(path) == "no such run file"
    assert not path.exists()


def test_a_folder_is_no_run_file(tmp_path: Path) -> None:
    assert refused(tmp_path) == "no such run file"


@pytest.mark.parametrize("text", [b"a letter to my aunt", b"x" * 10_000, bytes(range(256)) * 100])
def test_a_text_is_no_run_file(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    assert refused(path) == "not a run file, or damaged: file is not a database"
    assert path.read_bytes() == text
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_empty_file_is_no_run_file(path: Path) -> None:
    path.write_bytes(b"")
    assert "not a run file" in refused(path)
    assert path.read_bytes() == b""


def test_the_database_of_somebody_else_is_no_run_file_and_stays_as_it_is(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.executescript("CREATE TABLE verdicts (a); INSERT INTO verdicts VALUES (1);")
    before = path.read_bytes()
    assert refused(path) == "not a run file of this program"
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def _sqlite(path: Path, statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(statements)


def test_a_run_file_of_a_newer_version_is_refused_and_stays_as_it_is(path: Path) -> None:
    with RunFile.create(path) as run:
        run.append(RECORD)
    _sqlite(path, f"PRAGMA user_version = {VERSION + 1}")
    before = path.read_bytes()
    expected = f"written by a newer version (format {VERSION + 1}, this program reads {VERSION})"
    assert refused(path) == expected
    assert path.read_bytes() == before


@pytest.mark.parametrize("table", ["verdicts", "meta"])
def test_a_run_file_without_a_table_is_refused(path: Path, table: str) -> None:
    RunFile.create(path).close()
    _sqlite(path, f"DROP TABLE {table}")
    assert refused(path) == f"not a run file, or damaged: no such table: {table}"


def test_a_run_file_without_a_column_is_refused(path: Path) -> None:
    RunFile.create(path).close()
    _sqlite(path, "ALTER TABLE verdicts DROP COLUMN message")
    assert "no such column: message" in refused(path)


def test_the_mark_of_a_run_file_alone_does_not_make_one(path: Path) -> None:
    _sqlite(path, f"PRAGMA application_id = {APPLICATION}; CREATE TABLE other (a)")
    assert "no such table" in refused(path)


def test_a_run_file_of_the_first_version_is_read_and_gone_on_with(path: Path) -> None:
    with RunFile.create(path) as run:
        run.append(RECORD)
    _sqlite(path, "ALTER TABLE verdicts DROP COLUMN deviation; PRAGMA user_version = 1")
    before = path.read_bytes()
    assert kept(path) == [RECORD]
    assert path.read_bytes() == before
    later = replace(RECORD, data="exact", verdict="fixed", deviation="torch/one")
    with RunFile.resume(path) as run:
        run.append(later)
    assert kept(path) == [later, RECORD]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("SET verdict = 'splendid'", "an unknown verdict, splendid"),
        ("SET verdict = char(27) || '[2J'", "an unknown verdict,  [2J"),
        ("SET message = x'ff'", "damaged: a message is blob"),
        ("SET [case] = CAST('a' AS BLOB)", "damaged: a case is blob"),
        ("SET seconds = 'long'", "damaged: a seconds is text"),
        ("SET known = 'yes'", "damaged: a known is text"),
        ("SET rms_usage = 'large'", "damaged: a rms_usage is text"),
    ],
)
def test_a_run_file_that_holds_something_else_is_refused(path: Path, change: str, told: str) -> None:
    with RunFile.create(path) as run:
        run.append(RECORD)
    _sqlite(path, f"UPDATE verdicts {change}")
    assert refused(path) == told


def test_an_environment_that_is_no_json_is_refused(path: Path) -> None:
    RunFile.create(path).close()
    _sqlite(path, "INSERT INTO meta VALUES ('versions', '{')")
    assert refused(path).startswith("damaged: meta: ")


def test_reading_leaves_the_file_as_it_is(path: Path) -> None:
    with RunFile.create(path) as run:
        run.append(RECORD)
    before = path.read_bytes()
    with RunFile.open(path) as run, pytest.raises(sqlite3.OperationalError, match="readonly"):
        run.append(RECORD)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("fraction", [0.02, 0.2, 0.5, 0.75, 0.99])
def test_a_truncated_run_file_is_refused(path: Path, fraction: float) -> None:
    with RunFile.create(path) as run:
        for record in some(500):
            run.append(record)
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * fraction))
    assert "damaged" in refused(path)


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_run_file_is_refused_or_read_without_a_traceback(path: Path, seed: int) -> None:
    with RunFile.create(path) as run:
        for record in some(500):
            run.append(record)
    noise = random.Random(seed)
    with path.open("r+b") as file:
        for _ in range(40):
            file.seek(noise.randrange(100, path.stat().st_size - 64))
            file.write(noise.randbytes(64))
    with contextlib.suppress(BadRunFile):
        kept(path)


# ---- Runs that are killed, and go on ----

SUITE = """
suite: runs
defaults: {op: conv_transpose, kernel: 3, out_channels: 2}
cases:
  small: {matrix: {input: [[3], [4], [5], [6], [7], [8]], stride: [1, 2, 3]}}
  large: {matrix: {input: [[60, 60], [70, 70], [80, 80], [90, 90]]}}
"""
CALLS = 2 * (6 * 3 + 4)

COUNTING = f"""
import os, sys, time
sys.path.insert(0, {str(TESTS)!r})
from planted import Planted

class target(Planted):
    def run(self, case, tensors):
        with open({{log!r}}, "a") as log:
            log.write(case.id + "\\n")
        time.sleep({{seconds}})
        if case.id == "runs/small[input=4,stride=2]":
            raise ValueError("as always")
        return super().run(case, tensors)
"""


class Folder:
    """A suite, a target that keeps count of its calls, and ``conformance run`` on them."""

    def __init__(self, path: Path, seconds: float = 0.0) -> None:
        self.path = path
        self.out = path / "run.sqlite"
        self.log = path / "calls"
        (path / "runs.yaml").write_text(SUITE)
        (path / "counting.py").write_text(COUNTING.format(log=str(self.log), seconds=seconds))

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [*CONFORMANCE, "run", "runs.yaml", "--target", "counting.py", "--jobs", "1", *options]
        env = os.environ | {"TMPDIR": str(self.path)}  # a run that is killed leaves its folder of logs there
        return subprocess.Popen(
            command, cwd=self.path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *options: str) -> tuple[int, str, str]:
        process = self.start(*options)
        out, err = process.communicate(timeout=100)
        return process.returncode, out, err

    @property
    def calls(self) -> Counter[str]:
        return Counter(self.log.read_text().split("\n")[:-1] if self.log.exists() else [])


def said(records: list[Record]) -> list[Record]:
    """Everything but the time that it took."""
    return [replace(r, seconds=0.0) for r in records]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = Folder(tmp_path_factory.mktemp("uninterrupted"))
    code, _, err = folder.run("--out", "run.sqlite", "--json", "run.json")
    assert code == 1, err
    jsonschema.validate(strict_json((folder.path / "run.json").read_text()), SCHEMA)
    return kept(folder.out)


def test_an_uninterrupted_run_has_every_verdict_once(uninterrupted: list[Record]) -> None:
    assert len(uninterrupted) == CALLS
    assert Counter(r.verdict for r in uninterrupted)["error"] == 2


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_that_is_killed_again_and_again_ends_with_all_its_verdicts(
    tmp_path: Path, uninterrupted: list[Record], seed: int
) -> None:
    """SIGKILL at random moments: while it starts, while it judges, while it writes."""
    folder, chance = Folder(tmp_path, seconds=0.01), random.Random(seed)
    kills = 0
    while kills < 20:
        resume = folder.out.exists() and folder.out.stat().st_size > 0
        process = folder.start("--resume" if resume else "--out", "run.sqlite")
        try:
            out, err = process.communicate(timeout=chance.uniform(0.3, 0.9) * (1 + kills / 5))
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        if folder.out.exists() and folder.out.stat().st_size == 0:
            folder.out.unlink()  # killed before it wrote anything
    assert process.returncode == 1, err
    assert "Run file: run.sqlite" in out
    assert kills > 0
    assert said(kept(folder.out)) == said(uninterrupted)


def test_a_resumed_run_does_only_what_is_left(tmp_path: Path, uninterrupted: list[Record]) -> None:
    folder = Folder(tmp_path, seconds=0.02)
    process = folder.start("--out", "run.sqlite")
    end = time.monotonic() + 60
    while folder.calls.total() < CALLS // 2 and time.monotonic() < end:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {r.key: r for r in kept(folder.out)}
    assert 0 < len(before) < CALLS
    _wait_for_quiet(folder)
    folder.log.unlink()
    code, _, err = folder.run("--resume", "run.sqlite")
    assert code == 1, err
    after = {r.key: r for r in kept(folder.out)}
    assert folder.calls.total() == CALLS - len(before)
    assert {key: after[key] for key in before} == before
    assert said(list(after.values())) == said(uninterrupted)


def _wait_for_quiet(folder: Folder) -> None:
    """Until the workers of a killed run are gone too."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if not any(p.info["cwd"] == str(folder.path) for p in psutil.process_iter(["cwd"])):
            return
        time.sleep(0.05)


def test_a_finished_run_that_is_resumed_does_nothing(tmp_path: Path, uninterrupted: list[Record]) -> None:
    folder = Folder(tmp_path)
    first = folder.run("--out", "run.sqlite")
    records, calls = kept(folder.out), folder.calls
    second = folder.run("--resume", "run.sqlite")
    assert first == second
    assert kept(folder.out) == records
    assert said(records) == said(uninterrupted)
    assert folder.calls == calls


def test_a_case_that_has_changed_is_judged_again_when_a_run_is_resumed(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.run("--out", "run.sqlite")
    before = {r.key: r for r in kept(folder.out)}
    folder.log.unlink()
    suite = folder.path / "runs.yaml"
    suite.write_text("# a comment moves every line\n" + SUITE.replace("large: {", "large: {stride: 2, notes: new, "))
    folder.run("--resume", "run.sqlite")
    after = {r.key: r for r in kept(folder.out)}
    assert after.keys() == before.keys()
    assert set(folder.calls) == {case for case, _, _ in after if case.startswith("runs/large")}
    assert folder.calls.total() == 2 * 4
    assert {key for key in after if after[key] != before[key]} == {key for key in after if "large" in key[0]}


def test_a_target_that_is_added_is_all_that_a_resumed_run_runs(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.run("--out", "run.sqlite")
    folder.log.unlink()
    (tmp_path / "second.py").write_text((tmp_path / "counting.py").read_text())
    folder.run("--resume", "run.sqlite", "--target", "second.py")
    assert folder.calls.total() == CALLS
    assert Counter(r.target for r in kept(folder.out)) == {"counting": CALLS, "second": CALLS}


def test_a_run_is_not_resumed_with_another_number_of_threads(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.run("--out", "run.sqlite")
    records = kept(folder.out)
    code, out, err = folder.run("--resume", "run.sqlite", "--threads", "2")
    assert (code, out) == (2, "")
    assert err == "run.sqlite: made with --threads 1, cannot go on with --threads 2\n"
    assert kept(folder.out) == records


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "run.sqlite: no such run file"),
        (b"text", "run.sqlite: not a run file, or damaged: file is not a database"),
        (b"", "run.sqlite: not a run file of this program"),
    ],
    ids=["missing", "text", "empty"],
)
def test_what_is_no_run_file_is_not_resumed(tmp_path: Path, content: bytes | None, words: str) -> None:
    folder = Folder(tmp_path)
    if content is not None:
        folder.out.write_bytes(content)
    assert folder.run("--resume", "run.sqlite") == (2, "", words + "\n")
    assert (folder.out.read_bytes() if folder.out.exists() else None) == content


def test_a_run_file_cannot_steer_the_terminal() -> None:
    record = replace(RECORD, verdict="deviates", target="\x1b[2Jmine", message="\x1b]0;title\x07wrong")
    console = Console(record=True, width=200, file=io.StringIO(), markup=False)
    summary = Summary([record])
    show_matrix(summary, {}, console)
    show_failures(summary, console, 10)
    show_records([record], console)
    told = console.export_text()
    assert "wrong" in told
    assert "\x1b" not in told
    assert "\x07" not in told
