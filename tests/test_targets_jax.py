"""JAX as a target: every result against the oracle, and JAX's own conventions by numbers worked out by hand."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.dtypes import FORMATS
from conformance.engine import run_problem
from conformance.errors import UnknownTarget
from conformance.execution import LocalExecutor, find_targets, specs
from conformance.outcome import Outcome
from conformance.problem import pose
from conformance.spec import Case, load_suite
from conformance.targets import jax_target
from conformance.targets.base import Unsupported
from conformance.targets.jax_target import Jax, JaxDilated
from conformance.verdict import Judgement, judge_parts

pytest.importorskip("jax", reason="jax is not installed")

TARGETS = {
    "jax": Jax,
    "jax-jit": functools.partial(Jax, mode="jit"),
    "jax-dilated": JaxDilated,
}
everywhere = pytest.mark.parametrize("name", TARGETS)

CONVOLUTIONS = """
suite: jax
defaults: {batch: 2, in_channels: 2, out_channels: 3, bias: true, op: conv_transpose}
cases:
  conv-1d: {op: conv, input: [7], kernel: 3, stride: 2}
  conv-uneven: {op: conv, input: [4, 5], kernel: [3, 2], stride: [1, 2], padding: [[2, 0], [-1, 1]]}
  conv-3d: {op: conv, input: [3, 4, 5], kernel: [1, 2, 3], stride: [1, 1, 2]}
  conv-dilated-grouped:
    {op: conv, input: [5, 7], kernel: [2, 3], dilation: [3, 2], in_channels: 4, out_channels: 6, groups: 2}
  conv-same: {op: conv, input: [5, 6], kernel: [3, 4], stride: [2, 3], padding: same}
  conv-valid: {op: conv, input: [5, 6], kernel: [3, 4], stride: [2, 3], padding: valid}
  conv-same-upper: {op: conv, input: [5, 6], kernel: [2, 4], stride: [2, 1], auto_pad: SAME_UPPER}
  conv-same-lower: {op: conv, input: [5, 6], kernel: [2, 4], stride: [2, 1], auto_pad: SAME_LOWER}

  up-1d: {input: [4], kernel: 3, stride: 2}
  up-3d: {input: [2, 1, 3], kernel: [1, 2, 3], stride: [2, 1, 2]}
  up-cropped: {input: [4, 3], kernel: [3, 4], stride: [2, 3], padding: [[0, 2], [1, 0]]}
  up-output-padding: {input: [3, 4], kernel: [4, 3], stride: [2, 1], padding: 1, output_padding: [1, 0]}
  up-output-size: {input: [3, 4], kernel: 3, stride: 2, padding: 1, output_size: [6, 7]}
  up-widened: {input: [2, 2], kernel: 2, stride: [1, 3], padding: [[-1, 0], [-2, -3]]}
  up-beyond-the-kernel: {input: [6], kernel: 2, padding: 3}
  up-dilated: {input: [3, 4], kernel: [2, 3], stride: 2, dilation: [3, 2], padding: [[1, 2], [0, 3]]}
  up-grouped: {input: [3, 4], kernel: [2, 3], stride: 2, padding: 1, in_channels: 6, out_channels: 4, groups: 2}
  up-same: {input: [3, 4], kernel: [3, 4], stride: [2, 3], padding: same}
  up-same-kernel-below-stride: {input: [3, 2], kernel: [1, 2], stride: [2, 3], padding: same}
  up-same-dilated: {input: [5, 4], kernel: [3, 2], dilation: [2, 3], padding: same}
  up-valid: {input: [3, 2], kernel: [1, 4], stride: [2, 3], padding: valid}

  gradient-1d: {op: conv_input_gradient, bias: false, input: [7], kernel: 3, stride: 3, padding: [[2, 0]]}
  gradient-2d: {op: conv_input_gradient, bias: false, input: [6, 5], kernel: [3, 2], stride: [2, 3], padding: [1, 0]}
  gradient-3d: {op: conv_input_gradient, bias: false, input: [4, 3, 5], kernel: [2, 1, 3], stride: [2, 1, 1]}
  gradient-grouped:
    {op: conv_input_gradient, bias: false, input: [6, 5], kernel: 3, in_channels: 4, out_channels: 6, groups: 2}
  gradient-same: {op: conv_input_gradient, bias: false, input: [5, 6], kernel: [3, 4], stride: 2, padding: same}
"""

CHAINS = """
suite: jax
defaults: {batch: 2}
cases:
  pool-line: {op: max_pool, channels: 2, input: [9], kernel: 3, stride: 2, padding: 1}
  pool-plane: {op: max_pool, channels: 2, input: [7, 6], kernel: [3, 2], stride: [2, 1], padding: [[1, 0], [0, 1]]}
  pool-ceil: {op: max_pool, channels: 2, input: [6, 8], kernel: 3, stride: 2, ceil_mode: true}
  pool-same-dilated: {op: max_pool, channels: 2, input: [7, 8], kernel: 2, stride: 2, dilation: [1, 2], padding: same}
  pool-volume: {op: max_pool, channels: 2, input: [3, 4, 5], kernel: [2, 3, 2], stride: 1}
  pool-magnitude: {op: max_pool, channels: 2, input: [6, 7], kernel: 3, stride: 2, magnitude: true}
  unpool-sum: {op: max_unpool, channels: 2, input: [3, 4], kernel: 3, stride: 2, padding: 1, output_size: [6, 8]}
  unpool-mean: {op: max_unpool, channels: 2, input: [3, 4], kernel: 3, stride: 1, overlap: mean}
  unpool-plain: {op: max_unpool, channels: 2, input: [3, 4], kernel: 2, overlap: assign}
  block: {op: deconv_block, in_channels: 2, out_channels: 3, input: [3, 4], kernel: [3, 2], stride: [2, 1],
          padding: [[1, 0], [-1, 1]], pool: {kernel: 2}, rectify: both, bias: true}
  normed: {op: conv_block, in_channels: 2, out_channels: 3, input: [5, 6], kernel: 3, pad: [[1, 0], [-1, 2]],
           pad_value: 2, bias: true, batch_norm: {epsilon: 0.25}, rectify: signal}
  network:
    op: deconvnet
    in_channels: 2
    input: [13, 12]
    isolate: unit
    rectify: both
    layers:
      - {conv: 4, kernel: [3, 4], stride: 2, padding: 1}
      - relu
      - {max_pool: 3, stride: 2}
      - {lrn: 3, alpha: 0.5, beta: 0.75, k: 2.0}
      - {conv: 4, kernel: 2, padding: same}
      - relu
    matrix: {lrn_down: [identity, gradient]}
  network-summed:
    {op: deconvnet, in_channels: 2, input: [11, 10], isolate: channel, rectify: mask, data: [exact, gradient],
     layers: [{conv: 4, kernel: 3, stride: 2, padding: 1}, relu, {max_pool: 3, stride: 2}, {conv: 4, kernel: 2}, relu]}
  network-channel:
    {op: deconvnet, in_channels: 2, input: [12], isolate: channel, seed: one, rectify: none, bias_down: below,
     layers: [{conv: 3, kernel: 3}, relu, {max_pool: 3, stride: 2, ceil_mode: true}, {conv: 2, kernel: 2}]}
  network-chosen:
    {op: deconvnet, in_channels: 1, input: [7, 7], isolate: unit, channel: 1, unit: [0, 1], rectify: mask,
     layers: [{conv: 3, kernel: 3}, relu, {conv: 2, kernel: 2}, relu, {max_pool: 2}]}
  adaptive:
    {op: adaptive_deconv, in_channels: 2, input: [10, 9], direction: project, switches: pooled,
     layers: [{maps: 4, kernel: 3, pool: [2, 2, 2]}, {maps: 3, kernel: 2}]}
"""

UNSUPPORTED = {
    "jax": {"up-grouped": "jax.lax.conv_transpose has no groups, the case has 2"},
    "jax-dilated": {
        case: f"jax.lax.conv_general_dilated has no padding='{word}' beside lhs_dilation"
        for case, word in {
            "up-same": "SAME",
            "up-same-kernel-below-stride": "SAME",
            "up-same-dilated": "SAME",
            "up-valid": "VALID",
            "gradient-same": "SAME",
        }.items()
    },
}
UNSUPPORTED["jax-jit"] = UNSUPPORTED["jax"]


def load(text: str) -> dict[str, Case]:
    """The cases of a suite, by name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "suite.yaml"
        path.write_text(text)
        return {case.id.partition("/")[2]: case for case in load_suite(path)}


def one(entry: str) -> Case:
    """The case that a flow mapping writes down."""
    return load(f"suite: one\ncases: {{case: {{{entry}}}}}")["case"]


@functools.cache
def target(name: str) -> Any:
    return TARGETS[name]()


def judged(name: str, case: Case, data: str = "exact") -> Judgement:
    """What the oracle says of a case on a target."""
    problem = pose(case, data)
    outcomes = [Outcome("returned", target(name).run(part, tensors)) for part, tensors in problem.parts]
    return judge_parts(problem, outcomes, target(name).arithmetic)


def reason(name: str, case: Case) -> str:
    """Why the target declines the case."""
    with pytest.raises(Unsupported) as caught:
        judged(name, case)
    return str(caught.value)


CASES = load(CONVOLUTIONS)
NETWORKS = load(CHAINS)


TRANSPOSED = [case for case in CASES if not case.startswith("conv-")]
ASKED = [("jax", case) for case in CASES] + [("jax-dilated", case) for case in TRANSPOSED]
ASKED += [("jax-jit", case) for case in ("conv-uneven", "up-cropped", "up-grouped", "up-same", "gradient-2d")]


@pytest.mark.parametrize(("name", "case"), ASKED)
def test_every_result_is_exact_or_declined_with_the_reason(name: str, case: str) -> None:
    if case in UNSUPPORTED[name]:
        assert reason(name, CASES[case]) == UNSUPPORTED[name][case]
    else:
        assert judged(name, CASES[case]).verdict == "exact"


RIGHT = {"exact": ("exact",), "gradient": ("exact",), "rounding": ("within_bound",)}
"""Verdicts that a kind of data may have."""


def verdicts(name: str, case: Case) -> dict[str, str]:
    """What the oracle says, by kind of data."""
    return {data: judged(name, case, data).verdict for data in case.data if data != "rounding"} or {
        "rounding": judged(name, case, "rounding").verdict
    }


@pytest.mark.parametrize("case", NETWORKS)
def test_a_chain_in_one_program_is_right_at_every_stage(case: str) -> None:
    for data, verdict in verdicts("jax-jit", NETWORKS[case]).items():
        assert verdict in RIGHT[data], data


@pytest.mark.parametrize("case", ["pool-plane", "unpool-plain", "block", "normed"])
def test_a_chain_step_by_step_is_right_at_every_stage(case: str) -> None:
    for data, verdict in verdicts("jax", NETWORKS[case]).items():
        assert verdict in RIGHT[data], data


@pytest.mark.parametrize("lrn_down", ["identity", "gradient"])
def test_the_gradient_passes_a_normalisation_by_the_case_s_policy(lrn_down: str) -> None:
    """The chain itself is held against the oracle above; ``gradient`` data are not, for the normalisation rounds."""
    case = NETWORKS[f"network[lrn_down={lrn_down}]"]
    tensors = pose(case, "rounding").parts[0][1]
    projected = target("jax-jit").run(case, tensors)["output"]
    gradient = target("jax-jit").run(replace(case, op="deconvnet_gradient"), tensors)["output"]
    np.testing.assert_allclose(gradient, projected, 1e-4, 1e-5 * np.abs(projected).max())


@pytest.mark.parametrize(("overlap", "middle"), [("sum", {6}), ("assign", {1, 2, 3}), ("mean", {2})])
def test_what_meets_in_one_place(overlap: str, middle: set[int]) -> None:
    """Windows of three with stride one on five places; in the first channel all have the middle for their maximum."""
    case = one(f"op: max_unpool, channels: 2, input: [3], kernel: 3, stride: 1, overlap: {overlap}")
    tensors = {"input": np.array([[[1, 2, 3], [1, 2, 3]]], np.float32), "indices": np.array([[[2, 2, 2], [0, 1, 4]]])}
    first, second = target("jax-jit").run(case, tensors)["output"][0].tolist()
    assert first[2] in middle
    assert [*first[:2], *first[3:]] == [0] * 4
    assert second == [1, 2, 0, 0, 3]


def test_groups_in_a_chain_take_the_dilated_way() -> None:
    case = one("op: deconv_block, in_channels: 4, out_channels: 2, groups: 2, input: [3], kernel: 3, pool: {kernel: 2}")
    assert reason("jax", case) == "jax.lax.conv_transpose has no groups, the case has 2"
    assert judged("jax-dilated", case).verdict == "exact"


@pytest.mark.parametrize("name", ["jax", "jax-jit"])
@pytest.mark.parametrize("dtype", FORMATS)
def test_every_dtype_keeps_its_promise(name: str, dtype: str) -> None:
    """Sums in float32 or better, rounded once, and once more with the bias."""
    case = one(f"op: conv_transpose, in_channels: 8, input: [4, 5], kernel: 3, bias: true, dtype: {dtype}")
    assert judged(name, case).verdict in ("exact", "within_bound")
    assert judged(name, case, "rounding").verdict in ("within_bound", "exact" if dtype == "float64" else "")


def test_subnormal_numbers_are_taken_for_zero() -> None:
    """Documented in "JAX - The Sharp Bits" (jax-ml/jax#26668)."""
    judgement = judged("jax", one("op: conv, input: [4], kernel: 2, data: [edge-subnormal]"), "edge-subnormal")
    assert (judgement.verdict, judgement.arithmetic) == ("reduced", "flush-to-zero")


@pytest.mark.parametrize("spelling", ["auto_pad: SAME_LOWER", "auto_pad: VALID", "output_shape: [6]"])
def test_a_transposed_convolution_has_no_spelling_of_onnx(spelling: str) -> None:
    case = one(f"op: conv_transpose, input: [3], kernel: 3, stride: 2, {spelling}")
    assert {reason(name, case).split("=")[0].split(" that")[0] for name in TARGETS} <= {
        "jax has no auto_pad",
        "jax has no output_shape",
    }


def test_keras_has_an_output_padding_that_jax_has_not() -> None:
    """Without it Keras's SAME makes 6 rows of 3, as JAX does, with it (3 - 1) 2 + 3 mod 2 + o: 6 too where o = 1."""
    entry = "op: conv_transpose, input: [3], kernel: 3, stride: 2, padding: same, output_padding"
    assert judged("jax", one(f"{entry}: 1")).verdict == "exact"
    assert reason("jax", one(f"{entry}: 0")) == "jax.lax.conv_transpose has no output_padding beside padding='SAME'"


# ---- JAX's own conventions, which the target goes by ----


def transposed(padding: Any, **more: Any) -> list[float]:
    """1, 10 through the kernel 1, 2, 3 with stride 2: in full 1, 2, 3 + 10, 20, 30."""
    from jax import lax

    x = np.array([1, 10], np.float32).reshape(1, 2, 1)
    w = np.array([1, 2, 3], np.float32).reshape(3, 1, 1)
    return np.asarray(lax.conv_transpose(x, w, (2,), padding, **{"transpose_kernel": True} | more)).ravel().tolist()


def test_pairs_are_zeros_around_the_spread_input() -> None:
    assert transposed([(2, 2)]) == [1, 2, 13, 20, 30]
    assert transposed([(2, 1)]) == [1, 2, 13, 20]
    assert transposed([(1, 3)]) == [2, 13, 20, 30, 0]
    assert transposed([(-1, 2)]) == [20, 30], "the 1 is dropped before anything is computed"


def test_consistent_pairs_are_the_crop() -> None:
    pytest.importorskip("jax", "0.9", reason="use_consistent_padding is of late")
    assert transposed([(0, 1)], use_consistent_padding=True) == [1, 2, 13, 20]


def test_words_are_those_of_the_convolution_that_is_transposed() -> None:
    assert transposed("SAME") == [1, 2, 13, 20]
    assert transposed("VALID") == [1, 2, 13, 20, 30]


def test_without_transpose_kernel_it_is_no_transpose() -> None:
    assert transposed([(2, 2)], transpose_kernel=False) == [3, 2, 31, 20, 10]


# ---- The worker, the registry ----


def test_the_crash_of_xla_costs_one_verdict() -> None:
    """Kernel 2, stride 2, a row cropped at each end, and on another axis a kernel that is larger than its input."""
    jaxlib = pytest.importorskip("jaxlib")
    if jaxlib.__version__ != "0.10.2":
        pytest.skip(f"known of jaxlib 0.10.2, this is {jaxlib.__version__}")
    case = one("op: conv_transpose, input: [3, 1], kernel: [2, 3], stride: [2, 1], padding: 1")
    problem = pose(case, "exact")
    with LocalExecutor(find_targets(["jax"])) as executor:
        outcomes = next(run_problem(problem, ["jax@cpu"], executor))[1]
    assert outcomes[0].kind == "crash"
    assert "SIGABRT" in outcomes[0].message
    assert judge_parts(problem, outcomes, "native+bias").verdict == "crash"


def test_the_environment_names_what_results_depend_on() -> None:
    said = target("jax-jit").environment()
    assert said["x64"] == "True"
    assert said["mode"] == "jit"
    assert {"device", "jax", "jaxlib", "threads", "matmul precision", "XLA_FLAGS"} <= said.keys()
    assert all(isinstance(text, str) for item in said.items() for text in item)


def test_names_say_how_it_runs() -> None:
    assert [target(name).name for name in TARGETS] == ["jax@cpu", "jax-jit@cpu", "jax-dilated@cpu"]


def test_a_case_that_comes_again_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    jit, made = jax.jit, []
    monkeypatch.setattr(jax, "jit", lambda function: made.append(function) or jit(function))
    for size in (5, 6):
        assert judged("jax-jit", case := one(f"op: conv, input: [{size}], kernel: 2")).passed
        assert judged("jax-jit", case, "rounding").passed
    assert len(made) == 2


def test_what_was_compiled_is_dropped_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    dropped: list[int] = []
    monkeypatch.setattr(jax, "clear_caches", lambda: dropped.append(1))
    forget = jax_target.forgetful(jax)
    for _ in range(3 * jax_target.RUNS_REMEMBERED):
        forget()
    assert len(dropped) == 3


@everywhere
def test_they_run_only_when_they_are_named(name: str) -> None:
    assert f"{name}@cpu" not in [spec.name for spec in find_targets([])]
    assert [spec.name for spec in find_targets([name])] == [f"{name}@cpu"]


def test_without_jax_it_is_missing_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specs, "version_of", lambda package: None if package in ("jax", "jaxlib") else "1")
    with pytest.raises(UnknownTarget) as caught:
        find_targets(["jax-dilated"])
    assert str(caught.value) == "jax-dilated: jax, jaxlib is not installed; pip install jax jaxlib"
