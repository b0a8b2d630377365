"""Targets that compile: TensorFlow by XLA, PyTorch by Inductor.  Every result against the oracle."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from conformance.errors import UnknownTarget
from conformance.execution import find_targets, known_targets, specs
from conformance.outcome import Outcome
from conformance.problem import pose
from conformance.spec import Case, load_suite
from conformance.targets.base import Unsupported
from conformance.verdict import Judgement, judge_parts

pytestmark = [  # what torch's compiler does itself
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

SUITE = """
suite: compiled
defaults: {batch: 2, in_channels: 2, out_channels: 3}
cases:
  conv: {op: conv, input: [6, 5], kernel: [3, 2], stride: [1, 2], padding: [1, 0], bias: true}
  conv-same: {op: conv, input: [5, 6], kernel: [3, 4], stride: [2, 3], padding: same}
  up: {op: conv_transpose, input: [3, 4], kernel: [4, 3], stride: [2, 1], padding: 1, output_padding: [1, 0]}
  up-same: {op: conv_transpose, input: [3, 4], kernel: [3, 4], stride: [2, 3], padding: same, bias: true}
  up-sized: {op: conv_transpose, input: [3, 4], kernel: 3, stride: 2, padding: 1, output_size: [6, 7]}
  up-crossed: {op: conv_transpose, input: [4, 3], kernel: [3, 4], padding: [[-1, 1], [1, -1]]}
  gradient-line: {op: conv_input_gradient, input: [7], kernel: 3, stride: 2}
  gradient: {op: conv_input_gradient, input: [6, 5], kernel: [3, 2], stride: [2, 3], padding: [1, 0]}
  pool: {op: max_pool, channels: 2, input: [7, 6], kernel: [3, 2], stride: [2, 1], padding: 1}
  pool-volume: {op: max_pool, channels: 2, input: [3, 4, 5], kernel: [2, 3, 2], stride: 1, padding: 1}
  pool-float64: {op: max_pool, input: [2, 2, 2], kernel: 2, dtype: float64}
  unpool: {op: max_unpool, channels: 2, input: [3, 4], kernel: 3, stride: 2, padding: 1, output_size: [6, 8]}
  block: {op: deconv_block, input: [3, 4], kernel: 3, stride: 2, padding: 1, pool: {kernel: 2}, rectify: both}
  folded: {op: conv_block, input: [5, 6], kernel: 3, pad: [[1, 0], [0, 2]], batch_norm: {epsilon: 0.25}}
  network:
    {op: deconvnet, input: [9, 8], data: [gradient], isolate: none,
     layers: [{conv: 3, kernel: 3}, relu, {conv: 2, kernel: 2}]}
  normed:
    {op: deconvnet, input: [6, 5], in_channels: 2, lrn_down: gradient, data: [rounding],
     layers: [{conv: 4, kernel: 3}, {lrn: 3, alpha: 0.5, beta: 0.75, k: 2.0}]}
"""
XLA = ("conv", "conv-same", "up", "up-same", "gradient-line", "gradient", "pool-volume", "unpool", "block", "folded")
INDUCTOR = ("up-sized", "gradient", "pool")
COMPILED = [("tensorflow-xla", case) for case in (*XLA, "network", "normed")]
COMPILED += [("torch-compile", case) for case in INDUCTOR]
DECLINED = {
    ("tensorflow-xla", "pool"): "XLA has no kernel of MaxPoolWithArgmax",
    ("tensorflow-xla", "pool-float64"): "tensorflow has no kernel for float64",
    ("tensorflow-xla", "up-crossed"): "tensorflow's explicit padding cannot be negative, as in ((-1, 1), (1, -1))",
    ("torch-compile", "conv-same"): "torch's padding='same' needs stride 1, not 3",
    ("torch-compile", "up-crossed"): "torch's transposed convolution cannot add 1 rows at the beginning",
    ("torch-compile", "normed"): "torch.compile, in one graph: using `torch.autograd.grad`",
}


def load(text: str) -> dict[str, Case]:
    """The cases of a suite, by name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "suite.yaml"
        path.write_text(text)
        return {case.id.partition("/")[2]: case for case in load_suite(path)}


def one(entry: str) -> Case:
    """The case that a flow mapping writes down."""
    return load(f"suite: one\ncases: {{case: {{{entry}}}}}")["case"]


CASES = load(SUITE)


@functools.cache
def target(name: str) -> Any:
    if name == "tensorflow-xla":
        pytest.importorskip("tensorflow", reason="tensorflow is not installed")
        from conformance.targets.tensorflow_xla import TensorFlowXla

        return TensorFlowXla()
    pytest.importorskip("torch", reason="torch is not installed")
    from conformance.targets.torch_compile import TorchCompile

    return TorchCompile()


def judged(name: str, case: Case, data: str) -> Judgement:
    """What the oracle says of a case on a target."""
    problem = pose(case, data)
    outcomes = [Outcome("returned", target(name).run(part, tensors)) for part, tensors in problem.parts]
    return judge_parts(problem, outcomes, target(name).arithmetic)


def reason(name: str, case: Case) -> str:
    """Why the target declines the case."""
    with pytest.raises(Unsupported) as caught:
        judged(name, case, case.data[0])
    return str(caught.value)


@pytest.mark.parametrize(("name", "case"), COMPILED)
def test_what_is_compiled_is_right(name: str, case: str) -> None:
    for data in CASES[case].data:
        right = ("exact",) if data == "exact" else ("exact", "within_bound")
        assert judged(name, CASES[case], data).verdict in right, data


@pytest.mark.parametrize(("name", "case"), DECLINED)
def test_what_cannot_be_said_or_compiled_is_declined(name: str, case: str) -> None:
    assert reason(name, CASES[case]).startswith(DECLINED[name, case])


def test_xla_compiles_the_whole_case(monkeypatch: pytest.MonkeyPatch) -> None:
    made = target("tensorflow-xla")
    import tensorflow as tf

    asked, function = [], tf.function
    monkeypatch.setattr(tf, "function", lambda f, **options: asked.append(options) or function(f, **options))
    for size in (5, 6):
        case = one(f"op: conv, input: [{size}], kernel: 2")
        assert all(judged(made.name.partition("@")[0], case, data).passed for data in ("exact", "rounding"))
    assert asked == [{"jit_compile": True, "autograph": False}] * 2, "once for a case, whatever its data"


def test_inductor_compiles_every_case_anew_and_once() -> None:
    target("torch-compile")
    import torch._dynamo.config
    from torch._dynamo.utils import counters

    counters.clear()
    with torch._dynamo.config.patch(recompile_limit=1):
        for size in (5, 6):
            case = one(f"op: conv_transpose, input: [{size}], kernel: 2, bias: true")
            assert all(judged("torch-compile", case, data).passed for data in ("exact", "rounding"))
            assert counters["stats"]["unique_graphs"] == 1
            counters.clear()


def test_inductor_leaves_no_process_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target("torch-compile")
    from torch._inductor import config

    assert config.compile_threads == 1
    before = psutil.Process().children()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    judged("torch-compile", one("op: conv_transpose, input: [7], kernel: 2"), "exact")
    with pytest.raises(Unsupported):
        judged("torch-compile", CASES["normed"], "rounding")
    assert psutil.Process().children() == before
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not list(tmp_path.glob("torch-compile-*"))


def test_a_second_try_at_what_failed_to_compile_is_a_try(monkeypatch: pytest.MonkeyPatch) -> None:
    case = one("op: conv, input: [8], kernel: 2")
    made = target("torch-compile")
    with monkeypatch.context() as patched:
        patched.setattr(made._torch, "compile", lambda *_, **__: lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            judged("torch-compile", case, "exact")
    assert judged("torch-compile", case, "exact").verdict == "exact"


def test_without_a_compiler_nothing_is_supported() -> None:
    made = target("torch-compile")
    from torch._inductor import config

    with config.patch({"cpp.cxx": (None, "/no/such/compiler")}):
        lost = type(made)()
    said = "torch.compile found no C++ compiler; name one in the environment variable CXX"
    assert lost.environment()["C++"] == said
    with pytest.raises(Unsupported) as caught:
        lost.run(CASES["conv"], {})
    assert str(caught.value) == said


def test_what_else_is_wrong_with_the_compiler_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    made = target("torch-compile")

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("another reason")

    monkeypatch.setattr(made._torch, "compile", broken)
    with pytest.raises(RuntimeError, match="another reason"):
        type(made)()


def test_a_lost_activation_is_seen() -> None:
    """torch 2.13's Inductor reads the mask of the strongest activation before it has set it."""
    made = target("torch-compile")
    if not made.environment()["torch"].startswith("2.13."):
        pytest.skip("known of torch 2.13")
    case = one("op: deconvnet, in_channels: 1, batch: 2, input: [2, 2], isolate: unit, layers: [{conv: 2, kernel: 1}]")
    judgement = judged("torch-compile", case, "exact")
    assert judgement.verdict == "deviates"
    assert judgement.diagnosis == "first wrong stage: seed"


@pytest.mark.parametrize("name", ["tensorflow-xla", "torch-compile"])
def test_they_run_only_when_they_are_named(name: str) -> None:
    spec = known_targets()[f"{name}@cpu"]
    assert spec.on_request
    assert spec not in find_targets([])


def test_without_torch_it_is_missing_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs, "version_of", lambda package: None)
    with pytest.raises(UnknownTarget) as caught:
        find_targets(["torch-compile"])
    assert str(caught.value) == "torch-compile: torch is not installed; pip install torch"


@pytest.mark.parametrize("name", ["tensorflow-xla", "torch-compile"])
def test_the_environment_says_that_it_is_compiled(name: str) -> None:
    said = target(name).environment()
    assert {"tensorflow-xla": "jit_compile", "torch-compile": "C++"}[name] in said
    assert all(isinstance(text, str) for item in said.items() for text in item)
    assert target(name).name == f"{name}@cpu"
