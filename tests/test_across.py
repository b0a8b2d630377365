"""``conformance across`` end to end: real environments by uv, with a framework of a few lines as wheels of our own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from conformance import across_command, cli
from conformance.across.child import run_child
from conformance.errors import BadInput
from conformance.runs import RunFile

pytest.importorskip("uv", reason="uv makes the environments")

SUITE = """
suite: small
defaults: {op: conv_transpose, input: [4], kernel: 3, data: exact}
cases:
  plain: {}
  strided: {stride: 2}
  same: {stride: 2, padding: [[0, 1]]}
"""
TOY = """
import numpy as np

def upsample(x, weight, stride):
    full = np.zeros((len(x), weight.shape[1], (x.shape[2] - 1) * stride + weight.shape[2]), np.float32)
    for m in range(x.shape[2]):
        full[..., m * stride : m * stride + weight.shape[2]] += np.tensordot(x[..., m], weight, 1)
    return full

def crop(full, begin, large):
    return full[..., begin + {shift} : begin + {shift} + large]
"""
TARGET = """
import toy
from conformance.targets.base import OpTarget

class Toy(OpTarget):
    name = "toy-cpu"

    def conv_transpose(self, case, tensors):
        (axis,) = case.axes
        full = toy.upsample(tensors["input"], tensors["weight"], axis.stride)
        return toy.crop(full, axis.begin, axis.large)

target = Toy
"""


def wheel(folder: Path, version: str, source: str, name: str = "toy") -> None:
    """A wheel of one module, made by hand."""
    about = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in (*files, f"{about}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)


def crops(shift: str) -> str:
    return TOY.replace("{shift}", shift)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in; versions 1.0 and 1.1 of the framework crop one element late where they crop at the end."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    late = "(full.shape[-1] > large)"
    for version, source in {
        "1.0": crops(late),
        "1.1": crops(late),
        "2.0": crops("0"),
        "3.0": "raise ImportError('made for another Python')",
        "4.0": crops("0") + "\nimport os\nos.kill(os.getpid(), 11)\n",
    }.items():
        wheel(wheels, version, source)
    (tmp_path / "small.yaml").write_text(SUITE)
    (tmp_path / "toy_target.py").write_text(TARGET)
    for name, value in {"UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(wheels)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The status of ``conformance across``."""
    words = ["conformance", "across", *arguments, "--suite", "small.yaml", "--target", "toy_target.py", "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as leave:
        cli.main()
    return int(leave.value.code or 0)


# ---- The whole of it ----


def test_a_shift_that_one_release_mends_is_in_the_table_and_in_what_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--out", "runs", "--json", "t.json", "--markdown", "t.md"]
    status = command("toy==1.0", "toy == 2.*", "toy==3.0", "toy==9.9", *files, monkeypatch=monkeypatch)
    told = capsys.readouterr()
    assert status == 0, told  # what is wrong in 1.0 is right in the last version that ran
    table = json.loads(Path("t.json").read_text())
    assert [version["name"] for version in table["versions"]] == ["toy 1.0", "toy 2.0", "toy==3.0", "toy==9.9"]
    rows = table["targets"]["toy_target"]
    assert rows == {"bit for bit": [2, 3, None, None], "wrong values, silently": [1, 0, None, None]}
    (failure,) = table["failures"]
    assert (failure["counts"], failure["example"]["case"]) == ([1, 0, 0, 0], "small/same")
    (change,) = table["changes"]
    assert (change["old"], change["new"], change["comparison"]["counts"]["fixed"]) == (0, 1, 1)
    assert "made for another Python" in table["versions"][2]["reason"]
    assert "overlay and isolated: Because there is no version of toy==9.9" in table["versions"][3]["reason"]  # uv's own
    for said in (told.out, Path("t.md").read_text()):
        assert not [part for part in ("toy 1.0 → toy 2.0", "small/same", "another Python") if part not in said]
    assert "Silently wrong values in toy 1.0, not in 2.0: 1 cell of toy_target" in told.out.replace("\n", " ")
    assert "conformance across toy==1.0 'toy == 2.*'" in Path("t.md").read_text()


def test_a_release_that_breaks_what_worked_gives_status_1(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("toy==2.0", "toy==1.0", monkeypatch=monkeypatch) == 1
    assert (folder / "across-toy" / "toy-1.0.sqlite").is_file()  # where they lie if nobody says


def test_what_is_done_is_kept_and_what_a_case_says_now_is_run_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("toy==2.0", monkeypatch=monkeypatch) == 0
    assert "running" in capsys.readouterr().err
    assert command("toy==2.0", monkeypatch=monkeypatch) == 0
    assert "running" not in capsys.readouterr().err
    (folder / "small.yaml").write_text(SUITE + "  wide: {kernel: 5}\n")
    assert command("toy==2.0", monkeypatch=monkeypatch) == 0
    assert "running" in capsys.readouterr().err
    with RunFile.open(folder / "across-toy" / "toy-2.0.sqlite") as store:
        assert len(list(store.records())) == 4
        assert store.environment["across"]["versions"]["toy"] == "2.0"
    assert command("toy==2.0", "--profile", "full", monkeypatch=monkeypatch) == 2
    assert "made with profile quick, not full" in capsys.readouterr().err


def test_a_framework_that_dies_at_once_is_told_and_nothing_that_ran_is_status_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("toy==4.0", "--overlay", monkeypatch=monkeypatch) == 2
    assert "died of SIGSEGV" in capsys.readouterr().out


# ---- Ends ----


def test_whatever_ends_us_ends_the_child_and_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def stop() -> None:
        if pid.exists():
            raise KeyboardInterrupt

    script = f"sleep 60 & echo $! > {pid}.new && mv {pid}.new {pid}; wait"
    with pytest.raises(KeyboardInterrupt):
        run_child(["sh", "-c", script], tmp_path / "log", stop)
    deadline = time.monotonic() + 5
    while alive(int(pid.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(pid.read_text()))


def test_a_terminated_command_says_how_to_go_on_and_goes_on(folder: Path) -> None:
    words = ["toy==2.0", "--suite", "small.yaml", "--target", "toy_target.py", "--jobs", "1"]
    (folder / "toy_target.py").write_text("import time\ntime.sleep(30)\n" + TARGET)
    child = subprocess.Popen([sys.executable, "-m", "conformance", "across", *words], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    assert "making" in child.stderr.readline()
    time.sleep(1.0)
    child.send_signal(signal.SIGTERM)
    assert "go on with the same command" in child.communicate(timeout=30)[1]
    assert child.returncode == 130


def test_without_uv_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(BadInput, match="pip install uv"):
        across_command.find_uv()


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
