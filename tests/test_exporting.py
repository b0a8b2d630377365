"""Exporter and runtime, each in its own worker, and the cache between them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance import engine
from conformance.errors import UnknownTarget
from conformance.execution import LocalExecutor, TargetSpec, find_targets, known_targets
from conformance.execution.specs import ExporterSpec
from conformance.execution.worker import LOST
from conformance.runs import Record
from conformance.spec import Convolution, load_cases
from exporters.base import Binding, Exported, parameters
from exporters.cache import Cache, Entry, key_of

pytest.importorskip("onnx")
TESTS = Path(__file__).parent
PLANTED = str(TESTS / "planted_exporters.py")
SUITE = """
suite: exported
defaults: {op: conv_transpose, in_channels: 3, input: [5, 4], bias: true, data: exact}
cases:
  plain: {kernel: 3}
  strided: {kernel: [2, 3], stride: 2}
"""
EXPORTED = Exported(b"model", (Binding("x", "input", True),), (Binding("y", "output"),), ((1, None),), ("a fault",))
KEY = "0" * 64


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Cache()


@pytest.fixture
def cases(tmp_path: Path) -> list[Convolution]:
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE)
    return load_cases([str(path)])  # type: ignore[return-value]


def composite(how: str = "right", runtime: str = "onnx-reference@cpu", **change: Any) -> TargetSpec:
    exporter = ExporterSpec(f"planted-{how}", "planted exporters", PLANTED, ("onnx",), (("how", how),), **change)
    spec = known_targets()[runtime]
    return replace(spec, name=f"{exporter.name}:{spec.name}", exporter=exporter)


def judged(cases: Sequence[Convolution], *specs: TargetSpec, **options: Any) -> tuple[list[Record], int]:
    """The verdicts, and how many files were exported for them."""
    with LocalExecutor(specs, **options) as executor:
        records = list(engine.run(cases, specs, executor))
        return sorted(records, key=lambda record: record.key), executor.exported


# ---- A run ----


def test_an_exporter_and_a_runtime_compute_what_the_oracle_does(cases: list[Convolution]) -> None:
    records, exported = judged(cases, composite(), *find_targets(["onnx-graph:onnx-reference"]))
    assert {record.verdict for record in records} == {"exact"}
    assert {record.target for record in records} == {
        "planted-right:onnx-reference@cpu",
        "onnx-graph:onnx-reference@cpu",
    }
    assert exported == 4


def test_a_second_run_exports_nothing_and_starts_no_exporter(cases: list[Convolution]) -> None:
    first, exported = judged(cases, composite())
    assert exported == 2
    with LocalExecutor([composite()]) as executor:
        second = list(engine.run(cases, [composite()], executor))
        assert executor.exported == 0
        assert "planted exporters" not in executor.starting
        assert "planted-right" not in executor.descriptions
    assert {record.verdict for record in (*first, *second)} == {"exact"}


def test_other_weights_and_other_data_are_other_files(cases: list[Convolution]) -> None:
    both = [replace(case, data=("exact", "rounding")) for case in cases]
    assert judged(both, composite())[1] == 4
    assert judged([replace(cases[0], bias=False)], composite())[1] == 1


def test_a_file_is_made_once_for_all_the_runtimes_that_wait_for_it(cases: list[Convolution]) -> None:
    pytest.importorskip("onnxruntime")
    one = composite()
    other = composite(runtime="onnxruntime@cpu")
    records, exported = judged(cases, one, other)
    assert ([record.verdict for record in records], exported) == (["exact"] * 4, 2)


def test_a_case_that_differs_in_name_only_is_the_same_file(cases: list[Convolution]) -> None:
    weights = {"weight": np.ones((3, 1, 3, 3), np.float32)}
    twin = replace(cases[0], id="exported/twin", notes="the same", tags=("full",))
    assert key_of(cases[0], weights, {"name": "x"}) == key_of(twin, weights, {"name": "x"})


def test_chains_that_differ_in_name_only_are_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "chains.yaml"
    path.write_text(
        "suite: chains\n"
        "defaults: {op: deconvnet, input: [6, 6], layers: [{conv: 2, kernel: 3}, relu, {max_pool: 2}]}\n"
        "cases: {one: {}, other: {}, third: {in_channels: 2}}\n"
    )
    one, other, third = load_cases([str(path)])
    assert key_of(one, {}, {}) == key_of(other, {}, {}) != key_of(third, {}, {})


@pytest.mark.parametrize("change", ["case", "weights", "dtype", "exporter", "version"])
def test_what_goes_into_a_file_is_in_its_key(cases: list[Convolution], change: str) -> None:
    case, weights, exporter = cases[0], {"weight": np.ones((3, 1, 3, 3), np.float32)}, {"name": "a", "torch": "2.13"}
    before = key_of(case, weights, exporter)
    if change == "case":
        case = cases[1]
    elif change == "weights":
        weights["weight"][0, 0, 0, 0] = -1
    elif change == "dtype":
        weights["weight"] = weights["weight"].view(np.int32)
    elif change == "exporter":
        exporter["name"] = "b"
    else:
        exporter["torch"] = "2.14"
    assert key_of(case, weights, exporter) != before


# ---- What goes wrong ----


@pytest.mark.parametrize(
    ("how", "verdict", "message"),
    [
        ("aborts", "crash", "planted-aborts: died of SIGABRT"),
        ("raises", "error", "planted-raises: RuntimeError: no such operator in any opset"),
        ("declines", "unsupported", "planted-declines: it cannot say groups"),
        ("flips", "deviates", "at ["),
        ("no model", "error", "planted-no model: DecodeError"),
        ("says a wrong size", "invalid_model", "onnx.checker: "),
        ("claims to be symbolic", "invalid_model", "the sizes were asked to be symbolic, and the file fixes them"),
        ("names an unknown operator", "invalid_model", "onnx.checker: No Op registered for Deconvolution"),
        ("renames its output", "invalid_model", "the file has no output output"),
    ],
)
def test_what_an_exporter_does_wrong_is_told(cases: list[Convolution], how: str, verdict: str, message: str) -> None:
    records, _ = judged(cases[:1], composite(how))
    assert [record.verdict for record in records] == [verdict]
    assert message in records[0].message


def test_a_gradient_is_not_exported_as_the_deconvnet_that_it_should_equal(tmp_path: Path) -> None:
    path = tmp_path / "gradient.yaml"
    path.write_text(
        "suite: gradient\n"
        "cases: {net: {op: deconvnet, input: [6], layers: [{conv: 2, kernel: 3}, relu], data: gradient}}\n"
    )
    records, _ = judged(load_cases([str(path)]), composite())  # type: ignore[arg-type]
    assert [record.verdict for record in records] == ["unsupported"]
    assert "is another way to compute the same" in records[0].message


def test_an_exporter_that_hangs_is_a_timeout(cases: list[Convolution]) -> None:
    records, _ = judged(cases[:1], composite("hangs"), timeout=1.0)
    assert [(record.verdict, record.message) for record in records] == [
        ("timeout", "planted-hangs: no answer within 1 s")
    ]


@pytest.mark.parametrize("how", ["raises", "declines"])
def test_what_could_not_be_exported_is_remembered(cases: list[Convolution], how: str) -> None:
    first, exported = judged(cases, composite(how))
    second, again = judged(cases, composite(how))
    assert (exported, again) == (2, 0)
    assert [(r.verdict, r.message) for r in first] == [(r.verdict, r.message) for r in second]


def test_a_crash_is_not_remembered(cases: list[Convolution]) -> None:
    assert [judged(cases[:1], composite("aborts"))[1] for _ in range(2)] == [1, 1]


def test_numbers_that_are_right_do_not_hide_that_a_file_is_not_valid(cases: list[Convolution]) -> None:
    (record, *_), _ = judged(cases[:1], composite("renames its output"))
    assert (record.verdict, record.max_abs_error) == ("invalid_model", 0.0)


def test_a_shape_that_does_not_come_out_is_told() -> None:
    exported = replace(EXPORTED, shapes=((2, None, 7),))
    assert exported.misinferred([np.zeros((2, 9, 7))]) == []
    assert exported.misinferred([np.zeros((2, 9, 6))]) == [
        "shape inference says 2x?x7 for y, 2x9x6 comes out",
    ]
    assert exported.misinferred([np.zeros((2, 9))]) == ["shape inference says 2x?x7 for y, 2x9 comes out"]
    assert replace(exported, shapes=(None,)).misinferred([np.zeros(3)]) == []


def test_a_target_that_runs_no_files_says_so(cases: list[Convolution], tmp_path: Path) -> None:
    mute = tmp_path / "mute.py"
    mute.write_text("class target:\n    def run(self, case, tensors): return {}\n")
    records, _ = judged(cases[:1], *find_targets([f"onnx-graph:{mute}"]))
    assert (records[0].verdict, records[0].message) == (
        "unsupported",
        "it runs no ONNX files: it has no run_model(model, feeds)",
    )


def test_a_strangers_runtime_runs_what_an_exporter_makes(cases: list[Convolution], tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import onnx.reference\n"
        "class target:\n"
        "    def run(self, case, tensors): raise NotImplementedError\n"
        "    def run_model(self, model, feeds):\n"
        "        return onnx.reference.ReferenceEvaluator(model).run(None, feeds)\n"
    )
    records, _ = judged(cases, *find_targets([f"onnx-graph:{mine}"]))
    assert [record.verdict for record in records] == ["exact", "exact"]


def test_a_bias_that_the_graph_adds_apart_is_promised_so(cases: list[Convolution]) -> None:
    spec = composite(arithmetic="native+bias")
    with LocalExecutor([spec]) as executor:
        list(engine.run(cases[:1], [spec], executor))
        said = executor.descriptions[spec.name]
    assert said["arithmetic"] == "native+bias"
    assert said["exporter"].startswith("onnx ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onnx-graph:", "onnx-graph:: expected a runtime after the colon"),
        ("onnx-graph:lasagne", "lasagne: no such target"),
        ("onnx-graph:onnx-graph:onnx-reference", "expected one exporter and a runtime"),
        ("lasagne:onnx-reference", "lasagne:onnx-reference: no such target"),
        ("nowhere.py:onnx-reference", "nowhere.py: no such file"),
    ],
)
def test_a_name_that_is_none_is_told(name: str, message: str) -> None:
    with pytest.raises(UnknownTarget, match=message):
        find_targets([name])


def test_an_exporter_of_ones_own_is_a_file(cases: list[Convolution]) -> None:
    (spec,) = find_targets([f"{PLANTED}:onnx-reference"])
    assert spec.name == "planted_exporters:onnx-reference@cpu"
    assert [record.verdict for record in judged(cases, spec)[0]] == ["exact", "exact"]


# ---- The cache ----


def test_what_is_kept_is_found(cache: Cache) -> None:
    cache.keep(KEY, Entry("returned", "", EXPORTED, 1.5))
    assert cache.find(KEY) == Entry("returned", "", EXPORTED, 1.5)
    cache.keep("1" * 64, Entry("unsupported", "why"))
    assert cache.find("1" * 64) == Entry("unsupported", "why")
    assert cache.find("2" * 64) is None


@pytest.mark.parametrize(
    "damage", ["other bytes", "cut off", "gone", "entry cut off", "entry of another", "entry huge"]
)
def test_what_is_damaged_is_not_found(cache: Cache, damage: str) -> None:
    cache.keep(KEY, Entry("returned", "", EXPORTED))
    (model,) = cache.folder.glob("models/*/*.onnx")
    (entry,) = cache.folder.glob("entries/*/*.json")
    if damage == "other bytes":
        model.write_bytes(b"maxim")
    elif damage == "cut off":
        model.write_bytes(b"mod")
    elif damage == "gone":
        model.unlink()
    elif damage == "entry cut off":
        entry.write_text(entry.read_text()[:40])
    elif damage == "entry of another":
        entry.write_text(entry.read_text().replace(KEY, "1" * 64))
    else:
        entry.write_text(entry.read_text() + " " * 2**20)
    assert cache.find(KEY) is None


def test_a_file_that_is_lost_between_two_workers_is_made_again(
    cases: list[Convolution], cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = composite()
    judged(cases[:1], spec)
    (model,) = cache.folder.glob("models/*/*.onnx")
    found = Cache.find

    def lose(self: Cache, key: str) -> Entry | None:
        entry = found(self, key)
        model.write_bytes(b"spoilt")
        return entry

    monkeypatch.setattr(Cache, "find", lose)  # of the parent only: the worker that runs the file finds it spoilt
    records, exported = judged(cases[:1], spec)
    assert ([record.verdict for record in records], exported) == (["exact"], 1)
    assert LOST not in records[0].message


def test_an_entry_may_not_lead_out_of_the_cache(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a digest"):
        cache.keep("../../" + "0" * 58, Entry("unsupported", "why"))
    cache.keep(KEY, Entry("returned", "", EXPORTED))
    (entry,) = cache.folder.glob("entries/*/*.json")
    digest = next(cache.folder.glob("models/*/*.onnx")).stem
    entry.write_text(entry.read_text().replace(digest, "../../../../etc/passwd"))
    assert cache.find(KEY) is None


WRITER = """
import sys
from exporters.base import Binding, Exported
from exporters.cache import Cache, Entry
for n in range(200):
    key = f"{n % 5:064x}"
    Cache().keep(key, Entry("returned", "", Exported(bytes([n % 5]) * 100_000, (Binding("x", "input"),), ())))
    found = Cache().find(key)
    assert found is not None and found.exported.model == bytes([n % 5]) * 100_000, n
"""


def test_two_writers_do_not_disturb_each_other() -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER], cwd=TESTS.parent) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]


def test_a_writer_that_is_killed_leaves_nothing_that_is_found(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        cache.keep(KEY, Entry("returned", "", EXPORTED))
    assert cache.find(KEY) is None
    assert cache.usage() == (0, 0)


def test_what_was_used_last_stays_when_the_cache_is_full(cache: Cache) -> None:
    for n in range(4):
        exported = replace(EXPORTED, model=bytes([n]) * 1000)
        cache.keep(f"{n:064x}", Entry("returned", "", exported))
        for path in cache.folder.glob("*/*/*"):
            os.utime(path, (1000 + n, 1000 + n)) if path.stat().st_mtime > 10**6 else None
    assert cache.find(f"{0:064x}") is not None  # and so it was used last
    cache.prune(3500)
    assert [n for n in range(4) if cache.find(f"{n:064x}") is not None] == [0, 3]
    assert cache.usage()[1] <= 3500


def test_the_cache_has_a_limit(cache: Cache, monkeypatch: pytest.MonkeyPatch, cases: list[Convolution]) -> None:
    monkeypatch.setenv("CONFORMANCE_CACHE_BYTES", "1")
    judged(cases, composite())
    assert cache.usage() == (0, 0)


def test_a_cache_that_is_cleared_is_empty(cache: Cache) -> None:
    cache.keep(KEY, Entry("returned", "", EXPORTED))
    cache.clear()
    assert (cache.find(KEY), cache.usage()) == (None, (0, 0))
    cache.clear()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = Cache(tmp_path / "file")
    cache.keep(KEY, Entry("returned", "", EXPORTED))
    assert cache.find(KEY) is None


# ---- Names and layouts ----


def test_bindings_bring_the_channels_where_the_graph_has_them() -> None:
    x, indices = np.zeros((2, 3, 4, 5), np.float32), np.zeros((2, 3, 1, 1), np.int64)
    exported = Exported(b"", (Binding("x", "input", True), Binding("i", "indices")), (Binding("y", "output", True),))
    feeds = exported.feeds({"input": x, "indices": indices, "weight": x})
    assert {name: array.shape for name, array in feeds.items()} == {"x": (2, 4, 5, 3), "i": (2, 3, 1, 1)}
    assert exported.results([np.zeros((2, 8, 9, 3))])["output"].shape == (2, 3, 8, 9)


def test_what_belongs_to_the_model_is_told_from_what_it_is_fed() -> None:
    names = ("input", "weight", "bias", "conv1.weight", "conv1.bias", "indices", "activation", "conv1.indices")
    tensors = {name: np.zeros(1) for name in names}
    assert set(parameters(tensors)) == {"weight", "bias", "conv1.weight", "conv1.bias"}
