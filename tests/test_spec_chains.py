"""Ops of several stages: how they are written, what sizes they have, which stages they are, and what is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.arithmetic.spellings import pooled_size
from conformance.errors import SpecError
from conformance.spec import (
    AdaptiveDeconv,
    Case,
    Chain,
    Convolution,
    DeconvBlock,
    Deconvnet,
    Isolate,
    MaxPool,
    MaxUnpool,
    Rectify,
    Reshape,
    ResponseNorm,
    ResponseNormGradient,
    Take,
    is_index,
    load_cases,
    load_suite,
    shipped_suites,
    suite_schema,
)

EXAMPLES = settings(max_examples=300, deadline=None, derandomize=True)
SUITES = ("pooling", "zfnet", "deconvnets", "adaptive")
CONV = "{conv: 4, kernel: 3}"

Load = Callable[[str], list[Any]]
Refuse = Callable[[str], str]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load a suite given as text; messages call it s.yaml."""

    def load(text: str) -> list[Any]:
        path = tmp_path / "s.yaml"
        path.write_text(dedent(text), encoding="utf-8")
        return list(load_suite(path, "s.yaml"))

    return load


@pytest.fixture
def refuse(load: Load) -> Refuse:
    """What the loader says of a suite that it refuses."""

    def refuse(text: str) -> str:
        with pytest.raises(SpecError) as refused:
            load(text)
        return str(refused.value)

    return refuse


def one(op: str, keys: str) -> str:
    """A suite of one case, on line 3."""
    return f"suite: s\ncases:\n  c: {{op: {op}, {keys}}}\n"


def net(*layers: str, keys: str = "", size: str = "[9, 9]", op: str = "deconvnet") -> str:
    """A network whose layers stand on lines 6, 7, 8 ..., and all that else is said on line 4."""
    more = f", {keys}" if keys else ""
    listed = ",\n".join(f"      {layer}" for layer in layers)
    return f"suite: s\ncases:\n  c:\n    {{op: {op}, input: {size}{more},\n     layers: [\n{listed}]}}\n"


def networks(case: Any) -> dict[str, tuple[int, ...]]:
    """Sizes that each layer gives."""
    return {layer.name: layer.output[1:] for layer in case.layers}


# ---- Sizes of pooling ----


def windows_by_the_rule(size: int, extent: int, stride: int, pads: tuple[int, int], ceil: bool) -> int:
    """torch.nn.MaxPool2d, word by word, window after window.

    Without ceil_mode a window lies inside the padded input.  With it a window may go off its end, if the one before
    left something out and if it starts in the padding at the beginning or in the input.
    """
    padded = pads[0] + size + pads[1]
    count = 0
    while True:
        start = count * stride
        fits = start + extent <= padded
        something_left = start - stride + extent < padded
        if not fits and not (ceil and something_left and start < pads[0] + size):
            return count
        count += 1


@given(
    size=st.integers(1, 20),
    kernel=st.integers(1, 5),
    dilation=st.integers(1, 3),
    stride=st.integers(1, 5),
    pads=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    ceil=st.booleans(),
)
@EXAMPLES
def test_the_number_of_windows_is_that_of_the_rule(
    size: int, kernel: int, dilation: int, stride: int, pads: tuple[int, int], ceil: bool
) -> None:
    extent = (kernel - 1) * dilation + 1
    if max(pads) > extent // 2 or extent > size + sum(pads):
        return  # refused by PyTorch
    assert pooled_size(size, extent, stride, pads, ceil) == windows_by_the_rule(size, extent, stride, pads, ceil)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "ceil", "windows"),
    [
        (110, 3, 2, 0, True, 55), (110, 3, 2, 1, False, 55), (110, 3, 2, 0, False, 54), (110, 3, 2, 1, True, 56),
        (45, 2, 2, 0, True, 23), (45, 2, 2, 0, False, 22), (23, 2, 2, 0, True, 12), (13, 3, 2, 0, False, 6),
        (13, 3, 2, 0, True, 6), (13, 3, 2, 1, False, 7), (4, 2, 3, 1, True, 2), (2, 1, 2, 0, True, 1),
    ],
)  # fmt: skip
def test_rounding_the_number_of_windows(
    load: Load, size: int, kernel: int, stride: int, padding: int, ceil: bool, windows: int
) -> None:
    keys = f"input: [{size}], kernel: {kernel}, stride: {stride}, padding: {padding}, ceil_mode: {str(ceil).lower()}"
    (case,) = load(one("max_pool", keys))
    assert case.small == (windows,)


@pytest.mark.parametrize(
    ("keys", "begin", "small"),
    [
        ("padding: same", 0, 3),
        ("padding: same, kernel: 3", 1, 3),
        ("padding: same, kernel: 3, input: [6]", 0, 3),
        ("padding: valid", 0, 2),
        ("padding: [[1, 0]]", 1, 3),
        ("padding: [[0, 1]]", 0, 3),
        ("padding: [[0, 1]], input: [6]", 0, 3),
        ("kernel: 3, stride: 1, dilation: 2", 0, 1),
    ],
)
def test_every_spelling_of_a_pooling_resolves(load: Load, keys: str, begin: int, small: int) -> None:
    """Five inputs and kernel 2 with its stride, unless the spelling says otherwise."""
    text = f"suite: s\ndefaults: {{op: max_pool, input: [5], kernel: 2, stride: 2}}\ncases:\n  c: {{{keys}}}\n"
    (case,) = load(text)
    assert (case.axes[0].begin, case.small) == (begin, (small,))


def test_the_stride_of_a_pooling_is_its_kernel_where_it_is_not_given(load: Load) -> None:
    (pool,) = load(one("max_pool", "input: [9, 8], kernel: [3, 2]"))
    (unpool,) = load(one("max_unpool", "input: [3, 4], kernel: [3, 2]"))
    assert pool.stride == unpool.stride == (3, 2)
    assert (pool.small, unpool.large) == ((3, 4), (9, 8))


def test_pooling_gives_values_and_switches_and_unpooling_reads_them(load: Load) -> None:
    (pool,) = load(one("max_pool", "batch: 2, channels: 3, input: [5, 6], kernel: 2"))
    (unpool,) = load(one("max_unpool", "batch: 2, channels: 3, input: [2, 3], kernel: 2, output_size: [5, 6]"))
    assert pool.tensor_shapes == {"input": (2, 3, 5, 6)}
    assert pool.result_shapes == {"output": (2, 3, 2, 3), "indices": (2, 3, 2, 3)}
    assert unpool.tensor_shapes == {"input": (2, 3, 2, 3), "indices": (2, 3, 2, 3)}
    assert unpool.result_shapes == {"output": (2, 3, 5, 6)}
    assert [is_index(name) for name in pool.result_shapes] == [False, True]


@pytest.mark.parametrize(
    ("keys", "inferred", "large"),
    [
        ("kernel: 2", 8, 8),
        ("kernel: 2, output_size: 9", 8, 9),
        ("kernel: 2, output_size: 7", 8, 7),
        ("kernel: 3, stride: 2", 9, 9),
        ("kernel: 3, stride: 2, padding: 1", 7, 7),
        ("kernel: 3, stride: 2, padding: [[0, 1]], output_size: [9]", 8, 9),
    ],
)
def test_what_an_unpooling_infers_and_what_it_is_told(load: Load, keys: str, inferred: int, large: int) -> None:
    (case,) = load(one("max_unpool", f"input: [4], {keys}"))
    assert (case.inferred, case.large) == ((inferred,), (large,))


@pytest.mark.parametrize(
    ("keys", "overlapping"),
    [("kernel: 2", False), ("kernel: 2, stride: 3", False), ("kernel: 3, stride: 2", True),
     ("kernel: [2, 3], stride: 2", True), ("kernel: 2, stride: 1", True)],
)  # fmt: skip
def test_which_windows_overlap(load: Load, keys: str, overlapping: bool) -> None:
    (case,) = load(one("max_pool", f"input: [9, 9], {keys}"))
    assert case.overlapping == overlapping


# ---- ZFNet ----

ZFNET = """\
    suite: s
    cases:
      c:
        op: deconvnet
        input: [224, 224]
        layers:
          - {{conv: 96, kernel: 7, stride: 2, padding: {conv1}}}
          - relu
          - {{max_pool: 3, stride: 2, {pool1}}}
          - {{lrn: 5, alpha: 0.0001, beta: 0.75, k: 2}}
          - {{conv: 256, kernel: 5, stride: 2, padding: {conv2}}}
          - relu
          - {{max_pool: 3, stride: 2, {pool2}}}
          - {{lrn: 5, alpha: 0.0001, beta: 0.75, k: 2}}
          - {{conv: 384, kernel: 3, padding: 1}}
          - relu
          - {{conv: 384, kernel: 3, padding: 1}}
          - relu
          - {{conv: 256, kernel: 3, padding: 1}}
          - relu
          - {{max_pool: 3, stride: 2, padding: {pool5}}}
"""
UP = {"conv1": 1, "pool1": "ceil_mode: true", "conv2": 0, "pool2": "ceil_mode: true", "pool5": 0}
PADDED = UP | {"pool1": "padding: 1", "pool2": "padding: 1"}
PAPER = {"conv1": 110, "pool1": 55, "conv2": 26, "pool2": 13, "conv3": 13, "conv4": 13, "conv5": 13, "pool5": 6}


def zfnet(load: Load, **paddings: Any) -> Deconvnet:
    (case,) = load(ZFNET.format(**(UP | paddings)))
    return case  # type: ignore[no-any-return]


@pytest.mark.parametrize("paddings", [UP, PADDED], ids=["ceil", "pad"])
def test_zfnet_has_the_sizes_of_the_paper_in_two_paddings(load: Load, paddings: dict[str, Any]) -> None:
    sizes = networks(zfnet(load, **paddings))
    assert {name: sizes[name][1:] for name in PAPER} == {name: (size, size) for name, size in PAPER.items()}
    assert math.prod(sizes["pool5"]) == 9216  # what the first fully connected layer reads


@pytest.mark.parametrize(
    ("paddings", "layer", "size"),
    [
        ({"conv1": 0}, "conv1", 109),
        ({"conv1": "valid"}, "conv1", 109),
        ({"conv1": 2}, "conv1", 111),
        ({"conv1": 3}, "conv1", 112),
        ({"conv1": "same"}, "conv1", 112),
        ({"pool1": "padding: 0"}, "pool1", 54),
        ({"pool1": "padding: 1, ceil_mode: true"}, "pool1", 56),
        ({"pool1": "padding: same"}, "pool1", 55),
        ({"conv2": 1}, "conv2", 27),
        ({"conv2": 2}, "conv2", 28),
        ({"pool2": "padding: 0"}, "pool2", 12),
        ({"pool5": 1}, "pool5", 7),
    ],
)
def test_other_paddings_give_zfnet_other_sizes(load: Load, paddings: dict[str, Any], layer: str, size: int) -> None:
    assert networks(zfnet(load, **paddings))[layer][1:] == (size, size)


def test_zfnet_may_be_padded_at_one_side_only(load: Load) -> None:
    sizes = networks(zfnet(load, conv1=[[0, 1], [1, 0]], pool1="padding: [[0, 1], [0, 1]]"))
    assert (sizes["conv1"], sizes["pool1"]) == ((96, 110, 110), (96, 55, 55))


def test_the_convolutions_of_zfnet_have_as_many_weights_as_the_paper_s(load: Load) -> None:
    shapes = zfnet(load).tensor_shapes
    assert sum(math.prod(shape) for name, shape in shapes.items() if name != "input") == 3_726_464


def test_the_stages_of_zfnet_go_up_and_down_again(load: Load) -> None:
    case = zfnet(load)
    up = list(networks(case))
    assert up == [
        "conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2", "conv3", "relu3", "conv4", "relu4",
        "conv5", "relu5", "pool5",
    ]  # fmt: skip
    stages = [stage.name for stage in case.stages]
    passed = [name for name in reversed(up) if not name.startswith("norm")]
    assert stages == [*up, "seed", *(f"down.{name}" for name in passed)]
    assert [stage.gives for stage in case.stages][-2:] == [("down.relu1",), ("output",)]
    assert dict(case.tensor_shapes)["conv2.weight"] == (256, 96, 5, 5)


def test_the_way_down_leads_back_to_the_sizes_of_the_way_up(load: Load) -> None:
    steps = {stage.name: stage.step for stage in zfnet(load).stages}
    assert steps["down.conv1"].output_padding == (1, 1)  # type: ignore[union-attr]
    assert steps["down.conv2"].output_padding == (0, 0)  # type: ignore[union-attr]
    assert steps["down.pool1"].output_size == (110, 110)  # type: ignore[union-attr]
    assert steps["down.pool1"].inferred == (111, 111)  # type: ignore[union-attr]
    assert steps["down.pool2"].inferred == (27, 27)  # type: ignore[union-attr]
    assert steps["down.pool5"].output_size is None  # type: ignore[union-attr]
    padded = {stage.name: stage.step for stage in zfnet(load, **PADDED).stages}
    assert padded["down.pool1"].inferred == (109, 109)  # type: ignore[union-attr]
    assert padded["down.pool1"].output_size == (110, 110)  # type: ignore[union-attr]


# ---- Stages of a deconvnet, by its policies ----

SMALL = (CONV, "relu", "{max_pool: 2}", "{lrn: 3}", "{conv: 5, kernel: 2}", "relu")


def reads(case: Chain) -> dict[str, tuple[str, ...]]:
    return {stage.name: stage.reads for stage in case.stages}


def step_of(case: Chain, name: str) -> Any:
    return next(stage.step for stage in case.stages if stage.name == name)


def test_what_the_stages_of_a_deconvnet_read_and_give(load: Load) -> None:
    (case,) = load(net(*SMALL))
    assert reads(case) == {
        "conv1": ("input", "conv1.weight", "conv1.bias"),
        "relu1": ("conv1",),
        "pool1": ("relu1",),
        "norm1": ("pool1",),
        "conv2": ("norm1", "conv2.weight", "conv2.bias"),
        "relu2": ("conv2",),
        "seed": ("relu2",),
        "down.relu2": ("seed",),
        "down.conv2": ("down.relu2", "conv2.weight"),
        "down.pool1": ("down.conv2", "pool1.indices"),
        "down.relu1": ("down.pool1",),
        "down.conv1": ("down.relu1", "conv1.weight"),
    }
    assert [stage.gives for stage in case.stages if len(stage.gives) > 1] == [("pool1", "pool1.indices")]
    assert step_of(case, "seed") == Isolate("unit", "activation", None, None)
    assert (step_of(case, "down.relu1"), step_of(case, "relu1")) == (Rectify("signal"), Rectify("signal"))


@pytest.mark.parametrize("by", ["mask", "both"])
def test_a_rectifier_that_looks_at_the_activation_reads_it(load: Load, by: Any) -> None:
    (case,) = load(net(*SMALL, keys=f"rectify: {by}"))
    assert step_of(case, "down.relu1") == Rectify(by)
    assert reads(case)["down.relu1"] == ("down.pool1", "relu1")


def test_without_a_rectifier_the_way_down_has_no_such_stages(load: Load) -> None:
    (case,) = load(net(*SMALL, keys="rectify: none"))
    assert [name for name in reads(case) if "relu" in name] == ["relu1", "relu2"]
    assert reads(case)["down.conv2"] == ("seed", "conv2.weight")


def test_what_becomes_of_the_normalisation_on_the_way_down(load: Load) -> None:
    norm = ResponseNorm(3, 1e-4, 0.75, 1.0)
    (identity,), (gradient,), (forward,) = (
        load(net(*SMALL, keys=f"lrn_down: {policy}")) for policy in ("identity", "gradient", "forward")
    )
    assert "down.norm1" not in reads(identity)
    assert step_of(gradient, "down.norm1") == ResponseNormGradient(norm)
    assert reads(gradient)["down.norm1"] == ("down.conv2", "pool1")
    assert step_of(forward, "down.norm1") == norm
    assert reads(forward)["down.norm1"] == ("down.conv2",)


def test_the_bias_of_the_layer_below_is_added_where_there_is_one(load: Load) -> None:
    (case,) = load(net(*SMALL, keys="bias_down: below"))
    assert reads(case)["down.conv2"] == ("down.relu2", "conv2.weight", "conv1.bias")
    assert reads(case)["down.conv1"] == ("down.relu1", "conv1.weight")
    assert step_of(case, "down.conv2").tensor_shapes["bias"] == (4,)
    (without,) = load(net("{conv: 4, kernel: 3, bias: false}", "relu", CONV, keys="bias_down: below"))
    assert reads(without)["down.conv2"] == ("seed", "conv2.weight")


def test_a_network_stops_at_the_layer_that_is_projected(load: Load) -> None:
    (case,) = load(net(*SMALL, keys="layer: pool1"))
    assert list(networks(case)) == ["conv1", "relu1", "pool1"]
    assert "conv2.weight" not in case.tensor_shapes
    assert reads(case)["down.pool1"] == ("seed", "pool1.indices")


def test_layers_may_have_names_of_their_own(load: Load) -> None:
    (case,) = load(net("{conv: 4, kernel: 3, name: edges}", "{relu: true}", "{conv: 2, kernel: 1}", "relu"))
    assert list(networks(case)) == ["edges", "relu1", "conv2", "relu2"]
    assert list(case.tensor_shapes) == ["input", "edges.weight", "edges.bias", "conv2.weight", "conv2.bias"]


def test_which_unit_is_kept(load: Load) -> None:
    chosen = (CONV, "relu")
    (unit,) = load(net(*chosen, keys="channel: 3, unit: [6, 0], seed: one"))
    (strongest,) = load(net(*chosen, keys="channel: max, unit: max"))
    (channel,) = load(net(*chosen, keys="channel: 2, isolate: channel"))
    assert unit.isolate == Isolate("unit", "one", 3, (6, 0))
    assert strongest.isolate == Isolate("unit", "activation", None, None)
    assert channel.isolate == Isolate("channel", "activation", 2, None)


# ---- Blocks ----


def test_the_stages_of_a_block(load: Load) -> None:
    keys = "batch: 2, in_channels: 3, out_channels: 4, bias: true, input: [2, 3], kernel: 3, pool: {kernel: 2}"
    (signal,), (both,), (none,) = (
        load(one("deconv_block", f"{keys}, rectify: {rectify}")) for rectify in ("signal", "both", "none")
    )
    assert isinstance(signal, DeconvBlock)
    assert reads(signal) == {
        "unpool": ("input", "indices"),
        "rectify": ("unpool",),
        "filter": ("rectify", "weight", "bias"),
    }
    assert reads(both)["rectify"] == ("unpool", "activation")
    assert reads(none) == {"unpool": ("input", "indices"), "filter": ("unpool", "weight", "bias")}
    assert signal.tensor_shapes == {
        "input": (2, 3, 2, 3), "indices": (2, 3, 2, 3), "weight": (3, 4, 3, 3), "bias": (4,)
    }  # fmt: skip
    assert both.tensor_shapes["activation"] == (2, 3, 4, 6)
    assert signal.result_shapes == {"output": (2, 4, 6, 8)}
    assert signal.stages[-1].gives == ("output",)


# ---- Adaptive deconvolution ----

ADAPTIVE = ("{maps: 6, kernel: 3, pool: [3, 2, 2]}", "{maps: 4, kernel: 3}")


def adaptive(load: Load, keys: str = "", size: str = "[12, 10]") -> AdaptiveDeconv:
    (case,) = load(net(*ADAPTIVE, keys=keys, size=size, op="adaptive_deconv"))
    return case  # type: ignore[no-any-return]


def test_windows_of_adaptive_pooling_run_over_maps_too(load: Load) -> None:
    case = adaptive(load, "batch: 2")
    pool = case.layers[0].pool
    assert pool is not None
    assert (pool.large_shape, pool.kernel, pool.small_shape) == ((2, 1, 6, 10, 8), (3, 2, 2), (2, 1, 2, 5, 4))
    assert pool.magnitude
    assert case.layers[1].filters.weight_shape == (4, 2, 3, 3)
    assert case.tensor_shapes == {
        "input": (2, 4, 3, 2), "layer1.weight": (6, 1, 3, 3), "layer2.weight": (4, 2, 3, 3),
        "layer1.indices": (2, 1, 2, 5, 4),
    }  # fmt: skip
    assert case.result_shapes == {"output": (2, 1, 12, 10)}


def test_a_projection_reads_an_image_and_gives_maps(load: Load) -> None:
    case = adaptive(load, "direction: project, in_channels: 3, switches: pooled")
    assert case.tensor_shapes["input"] == (1, 3, 12, 10)
    assert case.tensor_shapes["layer1.maps"] == (1, 6, 10, 8)
    assert "layer1.indices" not in case.tensor_shapes
    assert case.result_shapes == {"output": (1, 4, 3, 2)}


def test_the_stages_of_a_reconstruction_and_a_projection(load: Load) -> None:
    down, up = adaptive(load), adaptive(load, "direction: project, switches: pooled")
    kinds = [(stage.name, type(stage.step)) for stage in down.stages]
    assert kinds == [
        ("layer2.filter", Convolution), ("layer1.pooled", Reshape), ("layer1.unpool", MaxUnpool),
        ("layer1.spread", Reshape), ("layer1.filter", Convolution),
    ]  # fmt: skip
    assert [(stage.name, type(stage.step)) for stage in up.stages] == [
        ("layer1.volume", Reshape), ("layer1.pool", MaxPool), ("layer1.filter", Convolution),
        ("layer1.unpooled", Reshape), ("layer1.take", Take), ("layer1.pooled", Reshape), ("layer2.filter", Convolution),
    ]  # fmt: skip
    assert [s.step.op for s in down.stages if isinstance(s.step, Convolution)] == ["conv_transpose"] * 2
    assert [s.step.op for s in up.stages if isinstance(s.step, Convolution)] == ["conv"] * 2


def test_pools_of_one_axis_have_two_sizes(load: Load) -> None:
    layers = ("{maps: 4, kernel: 3, pool: [2, 3], pool_stride: [1, 2]}", "{maps: 2, kernel: 2}")
    (case,) = load(net(*layers, size="[12]", op="adaptive_deconv"))
    assert case.layers[0].pool.small_shape == (1, 1, 3, 4)
    assert case.result_shapes == {"output": (1, 1, 12)}


# ---- All shipped chains ----


def chains() -> list[Chain]:
    return [case for case in load_cases(SUITES) if isinstance(case, Chain)]


def test_every_stage_reads_what_there_is_and_gives_names_of_its_own() -> None:
    for case in chains():
        there = set(case.tensor_shapes)
        for stage in case.stages:
            assert there.issuperset(stage.reads), (case.id, stage.name)
            assert there.isdisjoint(stage.gives), (case.id, stage.name)
            there |= set(stage.gives)
        assert case.stages[-1].gives[0] == "output"
        assert set(case.result_shapes) <= there


def test_every_stage_has_the_shapes_that_its_neighbours_have() -> None:
    for case in chains():
        shapes = dict(case.tensor_shapes)
        for stage in case.stages:
            fed = [shapes[name] for name in stage.reads]
            if isinstance(stage.step, Case):
                assert fed == list(stage.step.tensor_shapes.values()), (case.id, stage.name)
                given = list(stage.step.result_shapes.values())
            elif isinstance(stage.step, Reshape):
                assert math.prod(fed[0]) == math.prod(stage.step.shape), (case.id, stage.name)
                given = [stage.step.shape]
            else:
                given = [fed[1] if isinstance(stage.step, Take) else fed[0]]
                assert isinstance(stage.step, Take) or len(set(fed)) == 1, (case.id, stage.name)
            shapes |= zip(stage.gives, given, strict=True)
        assert {name: shapes[name] for name in case.result_shapes} == case.result_shapes


def test_every_layer_is_undone_to_the_size_that_it_read() -> None:
    for case in chains():
        for layer, stage in itertools.product(getattr(case, "layers", ()), case.stages):
            if isinstance(case, Deconvnet) and stage.name == f"down.{layer.name}" and isinstance(stage.step, Case):
                assert stage.step.result_shapes["output"] == layer.input, (case.id, stage.name)


# ---- What the suites are for ----


def quick(suite: str) -> list[Any]:
    return [case for case in load_cases([suite], "quick") if isinstance(case, Chain)]


def test_the_quick_profile_of_the_chains_is_small() -> None:
    chosen = [case for suite in SUITES for case in quick(suite)]
    assert len(chosen) < 720
    assert sum(case.products for case in chosen) < 260e6
    assert sum(case.products > 10e6 for case in chosen) <= 1


def test_pooling_reaches_the_corners() -> None:
    cases = quick("pooling")
    pools = [case for case in cases if isinstance(case, MaxPool)]
    unpools = [case for case in cases if isinstance(case, MaxUnpool)]
    for kind in (pools, unpools):
        assert {case.rank for case in kind} == {1, 2, 3}
        assert {case.dtype for case in kind} == {"float16", "bfloat16", "float32", "float64"}
        assert any(case.batch > 1 and case.channels > 1 for case in kind)
        assert {"edge-nan", "edge-inf"} <= {data for case in kind for data in case.data}
    assert {case.overlap for case in unpools} == {"sum", "assign", "mean"}
    assert any(case.output_size for case in unpools)
    assert any(case.large < case.inferred for case in unpools if case.rank == 1 or case.output_size)
    assert any(case.magnitude for case in pools)
    assert any(case.ceil_mode and any(a.end > 0 for a in case.axes) for case in pools)
    assert {case.padding for case in pools} >= {"same", "valid"}
    assert any(a.dilation > 1 for case in pools for a in case.axes)


@pytest.mark.parametrize("paddings", ["ceil", "pad"])
def test_every_block_of_zfnet_is_projected_at_full_size(paddings: str) -> None:
    start = f"zfnet/zfnet-{paddings}[layer="
    full = [case for case in load_cases(["zfnet"]) if case.id.startswith(start)]
    assert [case.id[len(start) : -1] for case in full] == [
        "relu1", "pool1", "relu2", "pool2", "relu3", "relu4", "relu5", "pool5"
    ]  # fmt: skip
    assert {case.result_shapes["output"] for case in full} == {(1, 3, 224, 224)}
    assert networks(full[-1])["pool5"] == (256, 6, 6)


def test_every_policy_of_a_deconvnet_has_cases() -> None:
    nets = [case for case in quick("zfnet") if isinstance(case, Deconvnet)]
    assert {case.overlap for case in nets} == {"sum", "assign", "mean"}
    assert {case.rectify for case in nets} == {"signal", "mask", "both", "none"}
    assert {case.lrn_down for case in nets} == {"identity", "gradient", "forward"}
    assert {case.bias_down for case in nets} == {"none", "below"}
    assert {(case.isolate.keep, case.isolate.seed) for case in nets} == set(
        itertools.product(("unit", "channel", "none"), ("activation", "one"))
    )
    for letter in "abcdef":
        small = [case for case in nets if case.id.startswith(f"zfnet/net-{letter}")]
        assert {case.isolate.keep for case in small} == {"unit", "channel", "none"}
        assert min(math.prod(case.layers[-1].output[2:]) for case in small) > 1
        assert max(case.batch for case in small) == 2 + (letter == "a")


def test_adaptive_networks_have_one_to_four_layers_both_ways() -> None:
    cases = [case for case in quick("adaptive") if isinstance(case, AdaptiveDeconv)]
    ways = {(len(case.layers), case.direction, case.switches) for case in cases}
    assert ways >= set(itertools.product((2, 3, 4), ("reconstruct", "project"), ("given", "pooled")))
    assert {(1, "reconstruct", "given"), (1, "project", "given")} <= ways
    pools = {layer.pool.kernel for case in cases for layer in case.layers if layer.pool is not None}
    assert {(2, 2, 2), (3, 2, 2), (2, 2)} <= pools
    assert any(layer.pool and layer.pool.overlapping for case in cases for layer in case.layers)
    assert {case.layers[0].filters.in_channels for case in cases} == {1, 3}


# ---- What is refused, with file, line and key ----


@pytest.mark.parametrize(
    ("layers", "keys", "said"),
    [
        (
            [CONV, "{conv: 4, kernel: 3, pading: 1}"],
            "",
            "7: cases.c.layers[1].pading: unknown key; did you mean padding?",
        ),
        (["{conv: 4}"], "", "6: cases.c.layers[0].kernel: required for a conv layer"),
        (["{conv: 0, kernel: 3}"], "", "6: cases.c.layers[0].conv: expected an integer >= 1, got 0"),
        (["{conv: 2, kernel: x}"], "", "6: cases.c.layers[0].kernel: expected an integer >= 1, or a list of integers "
         '>= 1, one per spatial axis, got "x"'),
        (["{conv: 2, kernel: [3, 3, 3]}"], "",
         "6: cases.c.layers[0].kernel: expected 2 values, one per axis of input, got 3"),
        ([CONV, CONV, CONV, CONV, CONV], "",
         "10: cases.c.layers[4].kernel: impossible shape: the output would be [-1, -1]"),
        ([CONV, "{max_pool: 9}"], "",
         "7: cases.c.layers[1].max_pool: impossible shape: no window fits on axis 0 (size 7, extent 9)"),
        ([CONV, "{max_pool: 2, padding: 2}"], "", "7: cases.c.layers[1].padding: expected an element in every window, "
         "one on axis 0 lies in the padding"),
        ([CONV, "{max_pool: 2, padding: -1}"], "",
         "7: cases.c.layers[1].padding: expected no negative padding, got [-1, -1] on axis 0"),
        ([CONV, "{max_pool: 2, padding: same, ceil_mode: true}"], "",
         "7: cases.c.layers[1].ceil_mode: expected no ceil_mode beside padding: same"),
        ([CONV, "{lrn: 4}"], "", "7: cases.c.layers[1].lrn: expected an odd number of channels, got 4"),
        ([CONV, "{lrn: 3, k: 0}"], "", "7: cases.c.layers[1].k: expected a number > 0, got 0"),
        ([CONV, "{lrn: 3, alpha: -1}"], "", "7: cases.c.layers[1].alpha: expected a number >= 0, got -1"),
        ([CONV, "{lrn: 3, beta: 1e-4}"], "", '7: cases.c.layers[1].beta: expected a number >= 0, got "1e-4"'),
        ([CONV, "relu", "relu"], "",
         "8: cases.c.layers[2]: the name relu1 stands for two layers; give one a name of its own"),
        (["{conv: 4, kernel: 3, name: x}", "{relu: true, name: x}"], "",
         "7: cases.c.layers[1]: the name x stands for two layers; give one a name of its own"),
        (["{conv: 4, kernel: 3, name: seed}"], "",
         "6: cases.c.layers[0]: the name seed stands for two layers; give one a name of its own"),
        (["{conv: 4, kernel: 3, name: a b}"], "",
         '6: cases.c.layers[0].name: expected a name of letters, digits and . _ + -, got "a b"'),
        (["relu"], "", "5: cases.c.layers: expected at least one convolution"),
        ([], "", "5: cases.c.layers: expected a list of 1 to 100 layers"),
        ([CONV], "layer: conv9", "4: cases.c.layer: expected one of conv1, got conv9"),
        ([CONV], "channel: 4", "4: cases.c.channel: expected less than the 4 channels of conv1"),
        ([CONV], "channel: strongest",
         '4: cases.c.channel: expected max or the number of a channel, got "strongest"'),
        ([CONV], "unit: [7, 0]", "4: cases.c.unit: expected a position in conv1, whose size is [7, 7]"),
        ([CONV], "unit: [3]", "4: cases.c.unit: expected a position in conv1, whose size is [7, 7]"),
        ([CONV], "unit: [-1, 3]",
         "4: cases.c.unit: expected max or a position, one integer per axis, got [-1, 3]"),
        ([CONV], "unit: [3, 3], isolate: channel", "4: cases.c.unit: expected none beside isolate: channel"),
        ([CONV], "isolate: maps", '4: cases.c.isolate: expected one of unit, channel, none, got "maps"'),
        ([CONV], "seed: 1", "4: cases.c.seed: expected one of activation, one, got 1"),
        ([CONV], "rectify: relu", '4: cases.c.rectify: expected one of signal, mask, both, none, got "relu"'),
        ([CONV], "overlap: max", '4: cases.c.overlap: expected one of sum, assign, mean, got "max"'),
        ([CONV], "lrn_down: none", '4: cases.c.lrn_down: expected one of identity, gradient, forward, got "none"'),
        ([CONV], "bias_down: true", "4: cases.c.bias_down: expected one of none, below, got true"),
        ([CONV], "overlap: assign, data: gradient",
         "4: cases.c.data: no gradient data: a gradient adds what overlaps, and no bias"),
        ([CONV, "{lrn: 3}"], "data: exact", "4: cases.c.data: no exact data: local response normalisation rounds"),
        ([CONV], "data: edge", "4: cases.c.data: deconvnet has no edge data"),
        ([CONV], "data: adjoint",
         "4: cases.c.data: expected one or a list of exact, rounding, gradient for deconvnet, got adjoint"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_network_is_told_in_a_line(refuse: Refuse, layers: list[str], keys: str, said: str) -> None:
    assert refuse(net(*layers, keys=keys)) == f"s.yaml:{said}"


def test_a_mistake_in_the_layers_of_a_suite_s_defaults_is_told_where_it_stands(refuse: Refuse) -> None:
    said = refuse(
        """\
        suite: s
        defaults:
          op: deconvnet
          layers:
            - {conv: 2, kernel: 3}
            - {conv: 2, kernel: 9}
        cases:
          c: {input: [5, 5]}
        """
    )
    assert said == "s.yaml:6: cases.c.layers[1].kernel: impossible shape: the output would be [-5, -5]"


@pytest.mark.parametrize(
    ("op", "keys", "said"),
    [
        ("max_pool", "input: [3], kernel: 4", "kernel: impossible shape: no window fits on axis 0 (size 3, extent 4)"),
        ("max_pool", "input: [3], kernel: 2, padding: 2",
         "padding: expected an element in every window, one on axis 0 lies in the padding"),
        ("max_pool", "input: [5, 5], kernel: 2, stride: 1, padding: [0, [3, 0]]",
         "padding: expected an element in every window, one on axis 1 lies in the padding"),
        ("max_pool", "input: [3], kernel: 2, padding: -1",
         "padding: expected no negative padding, got [-1, -1] on axis 0"),
        ("max_pool", "input: [5], kernel: 2, output: [3]", "output: expected [2] by pooling arithmetic, got [3]"),
        ("max_pool", "input: [5], kernel: 2, padding: same, ceil_mode: true",
         "ceil_mode: expected no ceil_mode beside padding: same"),
        ("max_pool", "input: [5], kernel: 2, ceil_mode: 1", "ceil_mode: expected true or false, got 1"),
        ("max_pool", "input: [5], kernel: 2, in_channels: 3", "in_channels: unknown key; did you mean channels?"),
        ("max_pool", "input: [5], kernel: 2, data: gradient",
         "data: expected one or a list of exact, rounding, edge-nan, edge-inf, adjoint for max_pool, got gradient"),
        ("max_pool", "input: [5], kernel: 2, data: edge-zero",
         "data: expected one or a list of exact, rounding, edge-nan, edge-inf, adjoint for max_pool, got edge-zero"),
        ("max_unpool", "input: [5], kernel: 2, output_size: 12", "output_size: expected 9 to 11 on axis 0, got 12"),
        ("max_unpool", "input: [5], kernel: 2, output_size: 8", "output_size: expected 9 to 11 on axis 0, got 8"),
        ("max_unpool", "input: [2, 3], kernel: 3, stride: [1, 2], output_size: [4, 9]",
         "output_size: expected 6 to 8 on axis 1, got 9"),
        ("max_unpool", "input: [5], kernel: 2, output_size: [9, 9]",
         "output_size: expected 1 values, one per axis of input, got 2"),
        ("max_unpool", "input: [5], kernel: 2, padding: same", "padding: expected numbers, got same"),
        ("max_unpool", "input: [5], kernel: 2, padding: 5",
         "padding: impossible shape: the output would be 0 on axis 0"),
        ("max_unpool", "input: [5], kernel: 2, overlap: mean, data: adjoint",
         "data: no adjoint data: they do not hold for mean"),
        ("deconv_block", "input: [3, 3], kernel: 3", "pool: required for op deconv_block"),
        ("deconv_block", "input: [3, 3], pool: {kernel: 2, output_size: 9}, kernel: 3",
         "pool.output_size: expected 5 to 7 on axis 0, got 9"),
        ("deconv_block", "input: [3, 3], pool: {kernel: 2, padding: same}, kernel: 3",
         "pool.padding: expected numbers, got same"),
        ("deconv_block", "input: [3, 3], pool: {kernel: 2}, kernel: 3, output: [9, 9]",
         "output: expected [8, 8] by convolution arithmetic, got [9, 9]"),
        ("deconv_block", "input: [3, 3], pool: {kernel: 2}, kernel: 1, stride: 2, auto_pad: SAME_UPPER",
         "auto_pad: expected a spelling of the size that can be read one way only"),
        ("deconv_block", "input: [3, 3], pool: {kernel: 2}, kernel: 3, data: adjoint",
         "data: expected one or a list of exact, rounding for deconv_block, got adjoint"),
    ],
)  # fmt: skip
def test_a_mistake_in_pooling_and_blocks_is_told_in_a_line(refuse: Refuse, op: str, keys: str, said: str) -> None:
    assert refuse(one(op, keys)) == f"s.yaml:3: cases.c.{said}"


@pytest.mark.parametrize(
    ("layers", "keys", "said"),
    [
        (["{maps: 4, kernel: 3, pool: [2, 2, 2]}"], "",
         "6: cases.c.layers[0].pool: expected no pooling above the top layer"),
        (["{maps: 4, kernel: 3, pool: [5, 2, 2]}", "{maps: 3, kernel: 3}"], "",
         "6: cases.c.layers[0].pool: impossible shape: no window fits on axis 0 (size 4, extent 5)"),
        ([CONV.replace("conv", "maps"), "{maps: 4, kernel: 3, pool_stride: [1, 2, 2]}"], "",
         "7: cases.c.layers[1].pool_stride: expected pool beside it"),
        (["{maps: 4, kernel: [3, 3, 3]}"], "",
         "6: cases.c.layers[0].kernel: expected 2 values, one per axis of input, got 3"),
        ([*ADAPTIVE], "direction: up", '4: cases.c.direction: expected one of reconstruct, project, got "up"'),
        ([*ADAPTIVE], "switches: found", '4: cases.c.switches: expected one of given, pooled, got "found"'),
        ([*ADAPTIVE], "overlap: assign, data: adjoint",
         "4: cases.c.data: no adjoint data: they do not hold for assign"),
        ([*ADAPTIVE], "dtype: float16, data: linearity",
         "4: cases.c.data: no linearity data: float16 cannot hold the sums"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_adaptive_network_is_told_in_a_line(
    refuse: Refuse, layers: list[str], keys: str, said: str
) -> None:
    assert refuse(net(*layers, keys=keys, size="[12, 12]", op="adaptive_deconv")) == f"s.yaml:{said}"


def test_an_adaptive_network_has_one_or_two_spatial_axes(refuse: Refuse) -> None:
    said = refuse(net(*ADAPTIVE, size="[9, 9, 9]", op="adaptive_deconv"))
    assert said == "s.yaml:4: cases.c.input: expected one or two spatial axes: pooling takes the maps as one more"


@pytest.mark.parametrize(
    ("keys", "op", "kinds"),
    [
        ("input: [5], kernel: 2, data: edge", "max_pool", ("edge-nan", "edge-inf")),
        ("input: [5], kernel: 2, data: edge", "max_unpool", ("edge-nan", "edge-inf")),
        ("input: [5], kernel: 2, dtype: float64", "max_pool", ("exact",)),
        ("input: [5], kernel: 2, dtype: bfloat16", "max_pool", ("exact", "rounding")),
        ("input: [5], kernel: 2, overlap: assign, data: [exact, adjoint]", "max_unpool", ("exact",)),
        ("input: [5], pool: {kernel: 2}, kernel: 2, dtype: float16", "deconv_block", ("rounding",)),
    ],
)
def test_kinds_of_data_of_pooling_and_blocks(load: Load, keys: str, op: str, kinds: tuple[str, ...]) -> None:
    (case,) = load(one(op, keys))
    assert case.data == kinds


def test_a_normalisation_leaves_a_network_nothing_exact(load: Load) -> None:
    keys = "data: [exact, rounding, gradient]"
    (plain,), (normed,) = load(net(CONV, keys=keys)), load(net(CONV, "{lrn: 3}", keys=keys))
    assert plain.data == ("exact", "rounding", "gradient")
    assert normed.data == ("rounding",)


def test_switches_are_whole_numbers_inside_the_plane(load: Load, refuse: Refuse) -> None:
    text = (
        "suite: s\ncases:\n  c:\n    {{op: max_unpool, input: [2], kernel: 2,\n"
        "     tensors: {{input: [[[1, 2]]],\n      indices: [[{indices}]]}}}}\n"
    )
    (case,) = load(text.format(indices="[1, 3]"))
    assert case.vectors.tensors["indices"].dtype == np.int64
    for wrong in ("[1, 4]", "[-1, 2]", "[1, 2.5]"):
        said = refuse(text.format(indices=wrong))
        assert said == "s.yaml:6: cases.c.tensors.indices: expected integers from 0 to 3, flat within each plane"


# ---- Names, keys and places ----


@pytest.mark.parametrize("name", ["conv1.weight", "conv1.bias", "down.conv1", "pool1.indices"])
def test_a_layer_cannot_take_the_name_of_something_else(refuse: Refuse, name: str) -> None:
    said = refuse(net(CONV, "{max_pool: 2}", f"{{relu: true, name: {name}}}"))
    assert said.startswith(f"s.yaml:8: cases.c.layers[2]: the name {name} ")


def test_a_channel_has_no_place_where_all_maps_are_kept(refuse: Refuse) -> None:
    said = refuse(net(CONV, keys="channel: 1, isolate: none"))
    assert said == "s.yaml:4: cases.c.channel: expected none beside isolate: none"


def test_an_unpooling_has_no_negative_padding(refuse: Refuse) -> None:
    said = refuse(one("max_unpool", "input: [5], kernel: 2, padding: -1"))
    assert said == "s.yaml:3: cases.c.padding: expected no negative padding, got [-1, -1] on axis 0"


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("{conv: 4, kernel: 1, groups: 3}", "groups: expected"),
        ("{conv: 5, kernel: 1, groups: 2}", "conv: expected"),
    ],
)
def test_a_message_names_a_key_that_the_layer_has(refuse: Refuse, layer: str, said: str) -> None:
    assert refuse(net(CONV, layer)).startswith(f"s.yaml:7: cases.c.layers[1].{said}")


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("{maps: 4, kernle: 3}", "s.yaml:6: cases.c.layers[0].kernle: unknown key"),
        ("{maps: 4}", "s.yaml:6: cases.c.layers[0].kernel: required"),
        ("{maps: 0, kernel: 3}", "s.yaml:6: cases.c.layers[0].maps: expected an integer >= 1, got 0"),
        ("{maps: 4, kernel: 13}", "s.yaml:6: cases.c.layers[0].kernel: impossible shape"),
    ],
)
def test_a_mistake_inside_an_adaptive_layer_is_told_where_it_stands(refuse: Refuse, layer: str, said: str) -> None:
    assert refuse(net(layer, size="[9, 9]", op="adaptive_deconv")).startswith(said)


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ("{kernel: 2, dilation: 2}", "pool.dilation: unknown key"),
        ("{stride: 2}", "pool.kernel: required"),
        ("{kernel: zero}", "pool.kernel: expected an integer"),
        ("2", "pool: expected"),
    ],
)
def test_a_mistake_inside_a_block_s_pool_is_told_where_it_stands(refuse: Refuse, pool: str, said: str) -> None:
    text = one("deconv_block", f"input: [3, 3], kernel: 3, pool: {pool}")
    assert refuse(text).startswith(f"s.yaml:3: cases.c.{said}")


def test_an_unknown_kind_of_layer_is_told_on_its_line(refuse: Refuse) -> None:
    assert refuse(net(CONV, "tanh")).startswith("s.yaml:7: cases.c.layers[1]: expected")


def test_relu_is_there_or_not(refuse: Refuse) -> None:
    assert refuse(net(CONV, "{relu: false}")) == "s.yaml:7: cases.c.layers[1].relu: expected true, got false"


@pytest.mark.parametrize("suite", ["deconvnets", "adaptive"])
def test_the_schema_knows_blocks_and_adaptive_layers(suite: str) -> None:
    jsonschema.validate(yaml.safe_load(shipped_suites()[suite].read_text()), suite_schema())


def test_a_default_reaches_the_ops_that_know_it(load: Load, refuse: Refuse) -> None:
    text = "suite: s\ndefaults: {op: conv, bias: true, channels: 3}\ncases:\n  c: {input: [4], kernel: 2}\n"
    pool = "  p: {op: max_pool, input: [4], kernel: 2}\n"
    convolution, pooling = load(text + pool)
    assert convolution.bias
    assert pooling.channels == 3
    assert refuse(text) == "s.yaml:2: cases.c.channels: unknown key; did you mean in_channels?"
