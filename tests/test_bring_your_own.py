"""A stranger's target through real suites: every way that docs/bring-your-own.md shows, by the page's own examples."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from definition import make

from conformance import cli, engine
from conformance.errors import UnknownTarget
from conformance.execution import LocalExecutor, Parcel, find_targets, worker
from conformance.outcome import Outcome
from conformance.problem import pose
from conformance.runs import Record
from conformance.spec import load_cases
from conformance.verdict import judge

onnx = pytest.importorskip("onnx", reason="the page's examples run ONNX models")
pytest.importorskip("onnxruntime", reason="the page's examples run ONNX models")

from conformance.targets.onnx_backend import OnnxBackend, find_backend  # noqa: E402
from conformance.targets.onnx_graph import one_node_model  # noqa: E402

PAGE = Path(__file__).parent.parent / "docs" / "bring-your-own.md"
PASSED = {"exact", "within_bound"}
quietly = pytest.mark.filterwarnings("ignore:onnx.version is deprecated:DeprecationWarning")  # onnxruntime's import

SUITE = """
suite: small
defaults: {op: conv_transpose, input: [3, 4], kernel: [3, 2], in_channels: 2, out_channels: 3, batch: 2}
cases:
  plain: {}
  strided: {stride: [1, 2], padding: [1, 0], bias: true}
  direct: {op: conv, stride: [2, 1]}
"""
ONE = "suite: one\ncases: {case: {op: conv_transpose, input: [3], kernel: 2, data: exact}}"

EXECUTE = """
import numpy as np
from onnx.reference import ReferenceEvaluator

def execute(model, inputs):
    names = [value.name for value in model.graph.input]
    return tuple(ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True))))
"""


# ---- The page ----


def blocks(page: Path) -> list[list[str]]:
    """Indented blocks, without the indentation."""
    found = re.findall(r"(?:(?<=\n\n)(?:    .*\n|\n)+)", page.read_text())
    texts = [re.sub("^    ", "", block, flags=re.MULTILINE).strip("\n") for block in found]
    return [text.split("\n") for text in texts if text]


FILES = {name[2:]: "\n".join(lines) for name, *lines in blocks(PAGE) if name.startswith("# ")}
COMMANDS = [line for lines in blocks(PAGE) if lines[0].startswith("conformance ") for line in lines]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's files in it, and its package as if it were installed."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text + "\n")
    points = tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]["conformance.targets"]
    installed = tmp_path / "my_package-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (installed / "entry_points.txt").write_text("\n".join(["[conformance.targets]", *lines]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


Call = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """A command line in this process: exit status, stdout and stderr."""

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", line.split())
        capfd.readouterr()
        with pytest.raises(SystemExit) as leave:
            cli.main()
        out, err = capfd.readouterr()
        return int(leave.value.code or 0), out, err

    return run


def test_the_page_shows_every_way() -> None:
    assert set(FILES) == {"my_runtime.py", "my_onnx.py", "my_backend.py", "pyproject.toml"}
    assert len(COMMANDS) == 7
    assert all(sum(map(bool, text.split("\n"))) <= 15 for text in FILES.values())


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_page_runs_and_finds_nothing_wrong(line: str, call: Call) -> None:
    code, out, err = call(line)
    assert (code, err) == (0, "")
    assert "cannot be loaded" not in out
    if " run " in line:
        assert int(re.findall(r"^bit for bit +(\d+)$", out, re.MULTILINE)[0]) >= 20
    else:
        assert re.search(r"within the bound|bit for bit|exact", out)


@pytest.mark.usefixtures("folder")
def test_an_installed_package_is_listed_and_runs_by_default() -> None:
    assert "my-runtime" in {spec.name for spec in find_targets([])}


# ---- Strangers through real suites ----


def judged(target: str, *suites: str | Path, data: tuple[str, ...] = (), timeout: float = 60.0) -> list[Record]:
    """The verdicts on one target, those that it does not support left out."""
    (spec,) = find_targets([target])
    cases = load_cases([str(suite) for suite in suites], "quick")
    with LocalExecutor([spec], timeout=timeout) as executor:
        records = list(engine.run(cases, [spec], executor, data=data))
    assert records
    return [record for record in records if record.verdict != "unsupported"]


def stranger(folder: Path, text: str, name: str = "stranger.py") -> str:
    """A backend in a file, as the name of a target."""
    (folder / name).write_text(EXECUTE + text)
    return f"onnx-backend={folder / name}"


HONEST = "def run_model(model, inputs, device): return execute(model, inputs)"


def test_a_backend_conforms_as_its_library_does() -> None:
    backend, library = (
        judged(target, "deconvnets", data=("exact",)) for target in ("onnx-backend=onnxruntime.backend", "onnxruntime")
    )
    assert {record.case: record.verdict for record in backend} == {record.case: record.verdict for record in library}
    assert len(backend) > 50


def test_a_backend_of_one_function_conforms(tmp_path: Path) -> None:
    records = judged(stranger(tmp_path, HONEST), "dumoulin-visin")
    assert {record.verdict for record in records} <= PASSED
    assert len(records) == 100


FLIPPED = """
from onnx import numpy_helper

def run_model(model, inputs, device):
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 2:
            flipped = np.ascontiguousarray(np.flip(array, range(2, array.ndim)))
            tensor.CopyFrom(numpy_helper.from_array(flipped, tensor.name))
    return execute(model, inputs)
"""


def test_a_backend_that_turns_the_kernel_fails(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SUITE)
    verdicts = Counter(record.verdict for record in judged(stranger(tmp_path, FLIPPED), tmp_path / "small.yaml"))
    assert verdicts == {"deviates": 6}


def test_a_backend_in_float16_is_judged_stage_by_stage(tmp_path: Path) -> None:
    """onnxruntime computes a float16 graph in float32; a stage of its own gets what the one before it returned."""
    layers = "[{conv: 16, kernel: 3}, {conv: 16, kernel: 3}]"
    case = f"{{op: deconvnet, dtype: float16, in_channels: 8, input: [8, 8], layers: {layers}, data: rounding}}"
    (tmp_path / "half.yaml").write_text(f"suite: half\ncases: {{net: {case}}}")
    (record,) = judged("onnx-backend=onnxruntime.backend", tmp_path / "half.yaml")
    assert record.verdict in PASSED


RUNTIME = """
import onnx

class target:
    name = "plain"

    def run(self, case, tensors):
        raise AssertionError("behind an exporter it is not asked")

    def run_model(self, model, feeds):
        proto = onnx.load_model_from_string(model)
        return execute(proto, [feeds[value.name] for value in proto.graph.input])
"""


def test_a_target_with_run_model_is_a_runtime_behind_an_exporter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "small.yaml").write_text(SUITE)
    (tmp_path / "plain.py").write_text(EXECUTE + RUNTIME)
    records = judged(f"onnx-graph:{tmp_path / 'plain.py'}", tmp_path / "small.yaml")
    assert len(records) == 6
    assert {record.verdict for record in records} <= PASSED


# ---- What a backend may do wrong ----

MISBEHAVIOUR = {
    "def run_model(model, inputs, device): raise OSError('no room')": ("error", "OSError: no room (stranger.py:8)"),
    "def run_model(model, inputs, device): return execute(model, inputs) * 2": ("error", "has 1 outputs, the backend"),
    "def run_model(model, inputs, device): return execute(model, inputs)[0]": ("error", "the backend returned ndarray"),
    "def run_model(model, inputs, device): raise NotImplementedError('no such op')": ("unsupported", "no such op"),
    "def is_compatible(model, device): return False\n" + HONEST: ("unsupported", "is_compatible says that it is not"),
    "import unittest\ndef prepare(model, device): raise unittest.SkipTest": ("unsupported", "SkipTest"),
    "class BackendIsNotSupposedToImplementIt(Exception): pass\n"
    "def prepare(model, device): raise BackendIsNotSupposedToImplementIt('no 1-D')": ("unsupported", "no 1-D"),
    "import no_such_module": ("error", "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
    "nothing = 1": ("error", "stranger.py has no prepare and no run_model, of which an ONNX backend has one"),
    "def supports_device(device): return device == 'CUDA'\n" + HONEST: ("error", "does not support the device CPU"),
}
FATAL = {
    "import os\ndef run_model(model, inputs, device): os._exit(3)": ("crash", "status 3"),
    "import time\ndef run_model(model, inputs, device):\n if len(inputs[0][0, 0]) > 2: time.sleep(99)\n"
    " return execute(model, inputs)": ("timeout", "no answer within 2 s"),
}
RETURNED = {
    "def run_model(model, inputs, device): return [y.astype(float) for y in execute(model, inputs)]": "wrong_dtype",
    "def run_model(model, inputs, device): return [y[..., 1:] for y in execute(model, inputs)]": "wrong_shape",
    "def run_model(model, inputs, device): return [y.tolist() for y in execute(model, inputs)]": "wrong_dtype",
    HONEST: "exact",
}
CASE = make(op="conv_transpose", input=[3], kernel=2)


def outcome(folder: Path, text: str) -> tuple[Any, Outcome]:
    """A problem, and what a worker makes of it with a backend that says this."""
    (spec,) = find_targets([stranger(folder, text)])
    problem = pose(CASE, "exact")
    ((case, tensors),) = problem.parts
    parcel = Parcel(tensors)
    try:
        return problem, worker.run(worker.load(spec, 1), case, parcel.payload)
    finally:
        parcel.close()


@pytest.mark.parametrize("text", MISBEHAVIOUR)
def test_a_backend_that_fails_or_declines_is_told_in_a_line(tmp_path: Path, text: str) -> None:
    kind, words = MISBEHAVIOUR[text]
    _, told = outcome(tmp_path, text)
    assert (told.kind, words in told.message) == (kind, True), told.message
    assert "\n" not in told.message


@pytest.mark.parametrize("text", RETURNED)
def test_what_a_backend_returns_is_taken_as_it_is(tmp_path: Path, text: str) -> None:
    problem, told = outcome(tmp_path, text)
    assert judge(problem, told).verdict == RETURNED[text]


@pytest.mark.parametrize("text", FATAL)
def test_a_backend_that_dies_or_hangs_costs_its_own_verdict(tmp_path: Path, text: str) -> None:
    (tmp_path / "one.yaml").write_text(ONE)
    (record,) = judged(stranger(tmp_path, text), tmp_path / "one.yaml", timeout=2.0)
    assert record.verdict == FATAL[text][0]
    assert FATAL[text][1] in record.message


# ---- How a backend is called ----

RECORDING = """
said = []
def supports_device(device):
    said.append(device)
    return True
def is_compatible(model, device):
    said.append(device)
    return True
class Ready:
    def __init__(self, model): self.model = model
    def run(self, inputs):
        said.append([value.shape for value in inputs])
        return execute(self.model, inputs)
def prepare(model, device):
    said.append(device)
    if model.opset_import[0].version > 13: raise RuntimeError("newer than this backend")
    return Ready(model)
"""


def test_a_backend_is_fed_a_list_in_the_order_of_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recording.py").write_text(EXECUTE + RECORDING)
    monkeypatch.setattr(OnnxBackend, "largest_constants", 0)  # so that weights are fed too
    target = OnnxBackend(source=str(tmp_path / "recording.py"), device="CUDA:1")
    said = target._backend.said
    said.clear()
    shapes = {"weight": (2, 3, 4), "bias": (3,), "input": (1, 2, 5)}
    case = make(op="conv_transpose", input=[5], kernel=4, in_channels=2, out_channels=3, bias=True)
    target.run(case, {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    assert said == ["CUDA:1", "CUDA:1", [(1, 2, 5), (2, 3, 4), (3,)]]


def test_constants_that_are_listed_as_inputs_are_not_fed(tmp_path: Path) -> None:
    """As in models before version 4 of ONNX's format."""
    (tmp_path / "recording.py").write_text(EXECUTE + RECORDING)
    target = OnnxBackend(source=str(tmp_path / "recording.py"))
    model = one_node_model(make(op="conv", input=[3], kernel=2), {"weight": np.array([[[1, 10]]], np.float32)}, 13)
    model.graph.input.insert(0, onnx.helper.make_tensor_value_info("weight", onnx.TensorProto.FLOAT, [1, 1, 2]))
    with pytest.raises(ValueError, match="zip"):  # the evaluator of this backend asks for both
        target.run_model(model.SerializeToString(), {"input": np.ones((1, 1, 3), np.float32)})
    assert target._backend.said[-1] == [(1, 1, 3)]


def test_the_opset_is_the_newest_that_the_backend_runs(tmp_path: Path) -> None:
    for name, text, opset in (("old.py", RECORDING, 13), ("new.py", HONEST, 22)):
        (tmp_path / name).write_text(EXECUTE + text)
        assert OnnxBackend(source=str(tmp_path / name)).opset == opset


def test_a_model_is_made_ready_once(tmp_path: Path) -> None:
    (tmp_path / "recording.py").write_text(EXECUTE + RECORDING)
    target = OnnxBackend(source=str(tmp_path / "recording.py"))
    said = target._backend.said
    said.clear()
    case = make(op="conv", input=[5], kernel=4)
    for number in (1, 2):
        fed = {"input": np.full((1, 1, 5), number, np.float32), "weight": np.ones((1, 1, 4), np.float32)}
        assert target.run(case, fed)["output"].tolist() == [[[4 * number, 4 * number]]]
    assert said == ["CPU", "CPU", [(1, 1, 5)], [(1, 1, 5)]]


@quietly
def test_a_backend_says_what_it_promises(tmp_path: Path) -> None:
    (tmp_path / "promising.py").write_text(EXECUTE + HONEST + "\narithmetic = 'tf32'")
    assert OnnxBackend(source=str(tmp_path / "promising.py")).arithmetic == "tf32"
    assert OnnxBackend(source="onnxruntime.backend").arithmetic == "native"


@quietly
def test_what_is_named_backend_has_the_interface_if_the_module_has_not() -> None:
    whole = find_backend("onnxruntime.backend")
    part = find_backend("onnxruntime.backend.backend:OnnxRuntimeBackend")
    assert whole is importlib.import_module("onnxruntime.backend")
    assert part.__name__ == "OnnxRuntimeBackend"
    assert find_backend("onnxruntime") is whole  # which has a module of that name


# ---- Names ----


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("onnx-backend=", "onnx-backend=: expected a module or a file, as in onnx-backend=onnxruntime.backend"),
        ("onnx-backend=a b", "onnx-backend=a b: expected a module or a file"),
        ("onnx-backend=.relative", "onnx-backend=.relative: expected a module or a file"),
        ("onnx-backend=a:b:c", "onnx-backend=a:b:c: expected a module or a file"),
        ("onnx-backend=no_such.module", "onnx-backend=no_such.module: there is no module no_such"),
        ("onnx-backend=no/such.py", "no/such.py: no such file"),
        ("onnx-backend", "onnx-backend: no such target"),
    ],
)
def test_a_backend_that_cannot_be_found_is_bad_input(name: str, words: str) -> None:
    with pytest.raises(UnknownTarget) as caught:
        find_targets([name])
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_a_backend_is_looked_for_and_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loud_package.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    (spec,) = find_targets(["onnx-backend=loud_package.deep.module@cuda"])
    assert spec.name == "onnx-backend=loud_package.deep.module@cuda"
    assert dict(spec.options) == {"source": "loud_package.deep.module", "device": "CUDA", "name": spec.name}
    assert spec.versions["onnx"] == onnx.__version__
    with pytest.raises(SystemExit, match="imported"):
        importlib.import_module("loud_package")


def test_a_backend_stands_behind_an_exporter() -> None:
    (spec,) = find_targets(["onnx-graph:onnx-backend=onnxruntime.backend.backend:OnnxRuntimeBackend"])
    assert spec.exporter is not None
    assert dict(spec.options)["source"] == "onnxruntime.backend.backend:OnnxRuntimeBackend"


def test_files_of_the_same_name_are_two_targets(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "mine.py").write_text(HONEST)
    with pytest.raises(UnknownTarget, match=r"there is a target named onnx-backend=mine\.py already"):
        find_targets([f"onnx-backend={tmp_path}/{number}/mine.py" for number in (1, 2)])
