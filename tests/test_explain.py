"""``conformance explain``: what is projected, what is drawn, what is said."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from conformance import cli
from conformance.dtypes import FORMATS
from conformance.errors import BadInput
from conformance.execution import LocalExecutor, TargetSpec
from conformance.explain import pictures, weights, words
from conformance.explain.activations import choose
from conformance.explain.bank import drawn_weights
from conformance.explain.explanation import Explanation, explain
from conformance.explain.network import explainable, receptive_field
from conformance.explain.page import write_page
from conformance.explain.projections import Projection, Projector, as_projection, of_every_library
from conformance.explain.readings import alternatives, concerned, read_otherwise
from conformance.explain.scene import GREY_MEAN, GREY_SPREAD, MEAN, SPREAD, drawn_scene, read_scene
from conformance.oracle.chains import walk
from conformance.outcome import Outcome
from conformance.problem import ChainProblem
from conformance.spec import Deconvnet, load_suite
from conformance.spec.steps import ISOLATIONS, SEEDS
from conformance.verdict import Judgement

TESTS = Path(__file__).parent
CORRECT = TargetSpec("correct", "planted", str(TESTS / "planted_chains.py"))
FRAMEWORKS = {"torch", "captum", "tensorflow", "keras", "jax", "onnx", "onnxruntime"}

SUITE = """
suite: tiny
defaults: {op: deconvnet, batch: 2}
cases:
  net: &net
    input: [16, 18]
    layers:
      - {conv: 6, kernel: 3, padding: 1}
      - relu
      - {max_pool: 3, stride: 2}
      - {conv: 5, kernel: 3}
      - relu
  grey: {in_channels: 1, input: [9, 11], layers: [{conv: 4, kernel: 3, bias: false}, relu]}
  half: {input: [9, 11], dtype: float16, layers: [{conv: 4, kernel: 3}, relu]}
  pooled: {input: [11, 12], layers: [{conv: 4, kernel: 3}, relu, {max_pool: 3, stride: 1, padding: 1}]}
  channel: {input: [11, 12], layers: [{conv: 4, kernel: 3}, relu], isolate: channel}
  everything: {input: [11, 12], layers: [{conv: 4, kernel: 3}, relu], isolate: none}
  chosen: {input: [11, 12], layers: [{conv: 4, kernel: 3}, relu], channel: 2, unit: [1, 5]}
  normed: {input: [9, 9], layers: [{conv: 4, kernel: 3}, relu, {lrn: 3}, {conv: 3, kernel: 3}, relu]}
  line: {in_channels: 1, input: [9], layers: [{conv: 4, kernel: 3}, relu]}
  plain: {op: conv_transpose, input: [3, 3], kernel: 2}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of our own with the suite in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    (tmp_path / "tiny.yaml").write_text(SUITE)
    return tmp_path


def case(name: str, **changes: Any) -> Deconvnet:
    found = {c.id: c for c in load_suite(Path("tiny.yaml"))}[f"tiny/{name}"]
    assert isinstance(found, Deconvnet)
    return replace(explainable(found), **changes)


def tensors_of(network: Deconvnet) -> dict[str, np.ndarray]:
    drawn = {"input": drawn_scene(network.layers[0].input).tensor} | drawn_weights(network)
    return {name: tensor.astype(FORMATS[network.dtype].dtype) for name, tensor in drawn.items()}


def explained(network: Deconvnet, *specs: TargetSpec, **options: Any) -> Explanation:
    """The drawn picture and the drawn filters, on targets."""
    with LocalExecutor(specs, timeout=60) as executor:
        scene = drawn_scene(network.layers[0].input)
        return explain(network, scene, drawn_weights(network), "drawn", specs, executor, **options)


# ---- The network: one image, up to a layer ----


def test_a_case_of_several_images_is_explained_for_one() -> None:
    network = case("net")
    assert (network.batch, network.layers[0].input, network.layers[-1].output) == (1, (1, 3, 16, 18), (1, 5, 5, 6))
    assert {name: shape for name, shape in network.tensor_shapes.items() if name == "input"} == {
        "input": (1, 3, 16, 18)
    }
    tensors = tensors_of(network)
    assert {name: value.shape for name, value in walk(network.stages, tensors).items()}["output"] == (1, 3, 16, 18)


def test_a_layer_ends_the_network_there() -> None:
    found = {c.id: c for c in load_suite(Path("tiny.yaml"))}
    network = explainable(found["tiny/net"], "pool1")
    assert [layer.name for layer in network.layers] == ["conv1", "relu1", "pool1"]
    assert set(network.tensor_shapes) == {"input", "conv1.weight", "conv1.bias"}
    chosen = explainable(found["tiny/chosen"], "conv1")
    assert (chosen.isolate.channel, chosen.isolate.unit) == (None, None)
    assert explainable(found["tiny/chosen"], "relu1").isolate.unit == (1, 5)


@pytest.mark.parametrize(
    "layers",
    [
        "[{conv: 2, kernel: 3}]",
        "[{conv: 2, kernel: [3, 2], stride: [2, 1], padding: [[1, 0], [1, 1]]}, relu]",
        "[{conv: 2, kernel: 3, dilation: 2, padding: 1}, relu, {conv: 2, kernel: 2, stride: 2}]",
        "[{conv: 2, kernel: 3, padding: 1}, relu, {max_pool: 3, stride: 2, ceil_mode: true}, {conv: 2, kernel: 3}]",
        "[{conv: 2, kernel: 2}, {max_pool: 2, stride: 3}, {max_pool: 2, dilation: 2, stride: 1, padding: 1, name: p}]",
        "[{conv: 2, kernel: 3, padding: same, stride: 2}, relu, {max_pool: 2, padding: [[0, 1], [1, 0]]}]",
    ],
)
def test_a_receptive_field_is_made_of_the_pixels_that_matter(layers: str) -> None:
    """Every pixel is raised in its turn: with filters above 0 a unit that can see it answers."""
    Path("field.yaml").write_text(f"suite: f\ncases: {{net: {{op: deconvnet, input: [11, 12], layers: {layers}}}}}")
    network = explainable(load_suite(Path("field.yaml"))[0])
    rng = np.random.default_rng(7)
    tensors = {name: rng.uniform(0.5, 1.0, shape) for name, shape in network.tensor_shapes.items()}
    stages = network.stages[: len(network.layers)]
    top = network.layers[-1].name
    before = walk(stages, tensors, {})[top][0, 1]
    reached = np.zeros((11, 12, *before.shape), bool)
    for y, x in np.ndindex(11, 12):
        raised = tensors["input"].copy()
        raised[0, 0, y, x] += 1000.0
        reached[y, x] = walk(stages, tensors | {"input": raised}, {})[top][0, 1] != before
    for unit in np.ndindex(*before.shape):
        (rows, columns) = np.nonzero(reached[(..., *unit)])
        box = receptive_field(network.layers, tuple((n, n + 1) for n in unit))
        assert box == ((rows.min(), rows.max() + 1), (columns.min(), columns.max() + 1)), unit


def test_a_unit_that_reads_nothing_but_padding_is_shown_with_the_whole_image() -> None:
    layers = "[{conv: 2, kernel: 2, padding: [[0, 0], [2, 0]]}]"
    Path("field.yaml").write_text(f"suite: f\ncases: {{net: {{op: deconvnet, input: [11, 12], layers: {layers}}}}}")
    network = explainable(load_suite(Path("field.yaml"))[0])
    assert receptive_field(network.layers, ((3, 4), (0, 1))) == ((3, 5), (0, 12))


@pytest.mark.parametrize("keep", ISOLATIONS)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_projection_reaches_beyond_its_field(keep: str, seed: str) -> None:
    network = case("net")
    network = replace(network, isolate=replace(network.isolate, keep=keep, seed=seed))
    tensors = tensors_of(network)
    up = walk(network.way_up, tensors, {})
    for activation in choose(network, up["relu2"][0]):
        projection = walk(activation.case.stages, tensors, up)["output"][0]
        (top, bottom), (left, right) = activation.field
        inside = np.count_nonzero(projection[:, top:bottom, left:right])
        assert inside == np.count_nonzero(projection) > 0


def test_what_is_followed_from_the_way_up_is_what_the_oracle_walks() -> None:
    network = case("net")
    tensors = tensors_of(network)
    up = walk(network.way_up, tensors, {})
    activation = choose(network, up["relu2"][0])[1]
    whole = walk(activation.case.stages, tensors)
    for name, value in walk(activation.case.stages, tensors, up).items():
        np.testing.assert_array_equal(value, whole[name], strict=True)


# ---- Which activations ----


def test_the_strongest_channels_come_first_and_silent_ones_not_at_all() -> None:
    network = case("net")
    maps = np.zeros((5, 5, 6))
    maps[3, 1, 4], maps[0, 2, 2], maps[0, 0, 1] = 7.0, 9.0, 5.0
    found = choose(network, maps)
    assert [(a.channel, a.unit, a.value) for a in found] == [(0, (2, 2), 9.0), (3, (1, 4), 7.0)]
    assert [a.case.isolate.channel for a in found] == [0, 3]
    assert [a.case.isolate.unit for a in found] == [(2, 2), (1, 4)]
    assert [a.channel for a in choose(network, maps, count=1)] == [0]
    assert [a.channel for a in choose(network, maps, [4, 3])] == [4, 3]
    assert len(choose(network, np.zeros((5, 5, 6)))) == 5


def test_a_case_that_names_its_unit_keeps_it() -> None:
    maps = np.arange(4 * 9 * 10, dtype=float).reshape(4, 9, 10)
    (only,) = choose(case("chosen"), maps)
    assert (only.channel, only.unit, only.value) == (2, (1, 5), maps[2, 1, 5])
    assert [a.channel for a in choose(case("chosen"), maps, count=3)] == [3, 2, 1]


def test_a_channel_that_is_not_there() -> None:
    with pytest.raises(BadInput, match=r"^--channels 5: expected 0 to 4, relu2 has 5 channels$"):
        choose(case("net"), np.zeros((5, 5, 6)), [5])


# ---- The image ----


def test_a_picture_is_resized_to_cover_the_input_and_cropped_around_the_centre() -> None:
    picture = np.zeros((40, 120, 3), np.uint8)
    picture[:, 36:84] = (255, 0, 51)
    Image.fromarray(picture).save("wide.png")
    scene = read_scene(Path("wide.png"), (1, 3, 20, 20))
    assert scene.source == "wide.png"
    np.testing.assert_allclose(scene.pixels, np.broadcast_to((1.0, 0.0, 0.2), (20, 20, 3)), atol=0.02)
    expected = (np.array((1.0, 0.0, 0.2)) - MEAN) / SPREAD
    np.testing.assert_allclose(scene.tensor[0, :, 10, 10], expected, atol=1e-12)
    np.save("wide.npy", picture)
    np.testing.assert_array_equal(read_scene(Path("wide.npy"), (1, 3, 20, 20)).tensor, scene.tensor)


def test_a_picture_for_a_grey_network() -> None:
    Image.new("RGB", (9, 9), (51, 51, 51)).save("grey.jpg", quality=100)
    scene = read_scene(Path("grey.jpg"), (1, 1, 5, 7))
    np.testing.assert_allclose(scene.tensor, np.full((1, 1, 5, 7), (0.2 - GREY_MEAN) / GREY_SPREAD), atol=0.02)


def test_what_is_transparent_is_white_and_what_lies_on_its_side_is_put_upright() -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save("clear.png")
    assert read_scene(Path("clear.png"), (1, 3, 4, 4)).pixels.min() == 1.0
    side = Image.fromarray(np.repeat(np.arange(0, 160, 40, np.uint8)[:, None], 4, axis=1)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    side.save("side.png", exif=exif)
    rows = read_scene(Path("side.png"), (1, 3, 4, 4)).pixels[:, :, 0]
    assert (np.diff(rows, axis=0) == 0).all()
    assert (np.diff(rows, axis=1) < 0).all()


def test_sixteen_bits_become_eight() -> None:
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(deep).save("deep.png")
    shades = read_scene(Path("deep.png"), (1, 3, 8, 8)).pixels[..., 1]
    np.testing.assert_allclose(shades, deep / 65535, atol=1 / 255)


def test_an_array_of_numbers_is_fed_as_it_is() -> None:
    array = np.random.default_rng(0).standard_normal((2, 4, 5))
    np.save("raw.npy", array)
    scene = read_scene(Path("raw.npy"), (1, 2, 4, 5))
    np.testing.assert_array_equal(scene.tensor[0], array)
    assert scene.pixels.shape == (4, 5, 3)
    assert (scene.pixels.min(), scene.pixels.max()) == (0.0, 1.0)


@pytest.mark.parametrize("shape", [(1, 3, 40, 44), (1, 1, 7, 8), (1, 2, 9, 10), (1, 5, 1, 1)])
def test_the_drawn_picture_is_always_the_same(shape: tuple[int, ...]) -> None:
    scene = drawn_scene(shape)
    assert (scene.tensor.shape, scene.pixels.shape) == (shape, (*shape[2:], 3))
    assert 0 <= scene.pixels.min() <= scene.pixels.max() <= 1
    np.testing.assert_array_equal(scene.tensor, drawn_scene(shape).tensor)


# ---- Drawn filters ----


def test_drawn_filters_have_structure_and_wake_every_layer() -> None:
    network = case("net")
    drawn = drawn_weights(network)
    assert {name: array.shape for name, array in drawn.items()} | {"input": (1, 3, 16, 18)} == network.tensor_shapes
    again = drawn_weights(network)
    assert all(np.array_equal(array, again[name]) for name, array in drawn.items())
    first = drawn["conv1.weight"]
    np.testing.assert_allclose(first[[0, 1, 2, 4, 5]].sum(axis=(1, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(drawn["conv2.weight"].sum(axis=(1, 2, 3)), 0, atol=0.1)
    up = walk(network.way_up, tensors_of(network), {})
    assert all(up[name].max() > 0.1 for name in ("relu1", "relu2"))


# ---- Weights ----


def numbers_for(network: Deconvnet) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in network.tensor_shapes.items()
        if name != "input"
    }


def renamed(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As PyTorch's Sequential names them: the second convolution sorts before the first as text."""
    names = {"conv1": "features.3", "conv2": "features.10"}
    return {names[layer] + "." + part: a for (layer, part), a in ((n.split("."), a) for n, a in arrays.items())}


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file(arrays, path)
    else:
        save_onnx(path, arrays)


def save_onnx(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """A model whose convolutions stand in the order of the arrays."""
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    nodes = []
    for n, name in enumerate(name for name in arrays if name.endswith("weight")):
        bias = name.replace("weight", "bias")
        nodes.append(helper.make_node("Conv", [f"x{n}", name, *([bias] if bias in arrays else [])], [f"x{n + 1}"]))
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    ends = [helper.make_tensor_value_info(f"x{n}", onnx.TensorProto.FLOAT, None) for n in (0, len(nodes))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], stored)
    path.write_bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "onnx"])
@pytest.mark.parametrize("name", [lambda arrays: arrays, renamed], ids=["by name", "in order"])
def test_weights_come_back_as_they_were_saved(suffix: str, name: Callable[..., dict[str, np.ndarray]]) -> None:
    network, path = case("net"), Path(f"weights.{suffix}")
    numbers = numbers_for(network)
    classifier = {"last.weight": np.ones((7, 5), np.float32), "steps": np.array(3)}
    save(path, name(numbers) | (classifier if suffix != "onnx" else {}))
    found = weights.read_weights(path, network)
    assert list(found) == list(numbers)
    for key, array in numbers.items():
        np.testing.assert_array_equal(found[key], array, strict=True)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        ("npz", np.float16),
        ("npz", np.float64),
        ("safetensors", np.float16),
        ("safetensors", np.float64),
        ("safetensors", ml_dtypes.bfloat16),
    ],
)
def test_weights_of_another_type_are_rounded_once(suffix: str, dtype: type) -> None:
    network, path = case("half"), Path(f"weights.{suffix}")
    numbers = {name: array.astype(dtype) for name, array in numbers_for(network).items()}
    if dtype is ml_dtypes.bfloat16:
        save_bfloat16(path, numbers)
    else:
        save(path, numbers)
    for name, array in weights.read_weights(path, network).items():
        np.testing.assert_array_equal(array, numbers[name].astype(np.float64).astype(np.float16), strict=True)


def save_bfloat16(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """A safetensors file written from its specification: a length, a header in JSON, the bytes."""
    header, data = {}, b""
    for name, array in arrays.items():
        raw = array.tobytes()
        header[name] = {"dtype": "BF16", "shape": array.shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_names_are_put_in_order_with_their_numbers_counted() -> None:
    names = ["f.10.weight", "f.9.weight", "f.09.bias", "a.weight", "f.²", "9" * 5000, "f.1", "f"]
    ordered = ["9" * 5000, "a.weight", "f", "f.1", "f.09.bias", "f.9.weight", "f.10.weight", "f.²"]
    assert sorted(names, key=weights._counted) == ordered


def test_a_bias_that_the_file_does_not_have_is_zero() -> None:
    network = case("net")
    save(Path("w.npz"), {name: array for name, array in numbers_for(network).items() if "bias" not in name})
    found = weights.read_weights(Path("w.npz"), network)
    assert not found["conv1.bias"].any()
    assert found["conv1.bias"].dtype == np.float32


def edited(**changes: Any) -> dict[str, np.ndarray]:
    return {name: array for name, array in (numbers_for(case("net")) | changes).items() if array is not None}


WRONG: dict[str, tuple[str, Callable[[], Any], str]] = {
    "missing": ("no.npz", lambda: None, r"no\.npz: cannot be read: No such file or directory"),
    "pickle": ("w.pt", lambda: b"", r"w\.pt: expected weights as \.safetensors, \.npz or \.onnx"),
    "no archive": ("w.npz", lambda: b"no archive", r"w\.npz cannot be read: File is not a zip file"),
    "objects": ("w.npz", lambda: {"a": np.array([object()])}, r"w\.npz cannot be read: Object arrays cannot be .*"),
    "no header": ("w.safetensors", lambda: b"nothing", r"w\.safetensors: cannot be read: .*[Hh]eader.*"),
    "long header": ("w.safetensors", lambda: b"\xff" * 64, r"w\.safetensors: cannot be read: .*[Hh]eader.*"),
    "no model": ("w.onnx", lambda: b"\xff" * 64, r"w\.onnx: cannot be read: it is no ONNX model"),
    "no node": ("w.onnx", lambda: b"", r"w\.onnx: expected weights of 2 convolutions, 4 axes each, found 0"),
    "shape": (
        "w.npz",
        lambda: {"a.weight": np.zeros((6, 3, 3, 3)), "b.weight": np.zeros((5, 4, 3, 3))},
        r"w\.npz: conv2: expected a weight of shape 5x6x3x3, got 5x4x3x3 \(b\.weight\)",
    ),
    "few": (
        "w.npz",
        lambda: {"a.weight": np.zeros((3, 3, 3, 6))},
        r"w\.npz: expected weights of 2 convolutions, 4 axes each, found 1",
    ),
    "bias": (
        "w.npz",
        lambda: edited(**{"conv1.bias": np.zeros(5)}),
        r"w\.npz: conv1: expected a bias of shape 6, got 5 \(conv1\.bias\)",
    ),
    "nan": (
        "w.npz",
        lambda: edited(**{"conv1.bias": np.full(6, np.nan)}),
        r"w\.npz: conv1\.bias: expected finite numbers that float32 can hold",
    ),
    "huge": (
        "w.npz",
        lambda: edited(**{"conv1.bias": np.full(6, 1e300)}),
        r"w\.npz: conv1\.bias: expected finite numbers that float32 can hold",
    ),
    "complex": (
        "w.npz",
        lambda: edited(**{"conv1.bias": np.zeros(6, complex)}),
        r"w\.npz: conv1: expected numbers, got complex128 \(conv1\.bias\)",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_weights_that_cannot_be_used_are_told_in_one_line(what: str) -> None:
    name, content, said = WRONG[what]
    made = content()
    if name.endswith(".onnx"):
        pytest.importorskip("onnx")
    if isinstance(made, bytes):
        Path(name).write_bytes(made)
    elif made is not None:
        np.savez(name, **made)
    with pytest.raises(BadInput, match=f"^{said}$"):
        weights.read_weights(Path(name), case("net"))


def test_no_more_than_a_gigabyte_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MAX_BYTES", 1000)
    save(Path("w.npz"), numbers_for(case("net")))
    with pytest.raises(BadInput, match=r"^w\.npz: expected at most 1,000 bytes, got [\d,]+$"):
        weights.read_weights(Path("w.npz"), case("net"))


def test_a_bias_that_the_case_has_no_place_for() -> None:
    network = case("grey")
    save(Path("w.npz"), {"a.weight": np.ones((4, 1, 3, 3)), "a.bias": np.ones(4)})
    with pytest.raises(BadInput, match=r"^w\.npz: conv1: expected no bias, as the case has none, got a\.bias$"):
        weights.read_weights(Path("w.npz"), network)
    save(Path("w.npz"), {"a.weight": np.ones((4, 1, 3, 3)), "a.bias": np.zeros(4)})
    assert list(weights.read_weights(Path("w.npz"), network)) == ["conv1.weight"]


def test_a_model_whose_weights_are_computed_or_elsewhere() -> None:
    onnx = pytest.importorskip("onnx")
    save_onnx(Path("w.onnx"), renamed(numbers_for(case("net"))))
    model = onnx.load("w.onnx")
    del model.graph.initializer[2]
    Path("computed.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BadInput, match=r"expected a weight that the model stores, features\.10\.weight is computed$"):
        weights.read_weights(Path("computed.onnx"), case("net"))
    model = onnx.load("w.onnx")
    onnx.save_model(model, "outside.onnx", save_as_external_data=True, location="data.bin", size_threshold=0)
    with pytest.raises(BadInput, match=r"expected a weight inside the model, features\.3\.weight is in another file$"):
        weights.read_weights(Path("outside.onnx"), case("net"))


def test_a_model_that_keeps_weights_in_constants() -> None:
    onnx = pytest.importorskip("onnx")
    numbers = numbers_for(case("net"))
    save_onnx(Path("w.onnx"), numbers)
    model = onnx.load("w.onnx")
    stored = list(model.graph.initializer)
    del model.graph.initializer[:]
    constants = [onnx.helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in stored]
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*constants, *nodes])
    Path("w.onnx").write_bytes(model.SerializeToString())
    found = weights.read_weights(Path("w.onnx"), case("net"))
    assert all(np.array_equal(found[name], array) for name, array in numbers.items())


# ---- Other readings ----


def test_readings_are_what_a_case_with_that_policy_gives() -> None:
    network = case("normed")
    tensors = tensors_of(network)
    up = walk(network.way_up, tensors, {})
    activation = choose(network, up["relu2"][0])[0]
    own = walk(activation.case.stages, tensors)["output"][0]
    found = list(read_otherwise(activation.case, tensors, up, own))
    assert found[0].policy == ""
    told = [(reading.policy, reading.value) for reading in found[1:]]
    assert told == alternatives(network)
    assert [value for policy, value in told if policy == "lrn_down"] == ["gradient", "forward"]
    for reading in found[1:]:
        other = replace(activation.case, **{reading.policy: reading.value})
        np.testing.assert_array_equal(reading.signal, walk(other.stages, tensors)["output"][0])
        assert reading.distance == pytest.approx(np.linalg.norm(reading.signal - own) / np.linalg.norm(own))


def test_only_policies_that_the_network_has_layers_for_are_read() -> None:
    assert concerned(case("grey")) == ["rectify"]
    assert concerned(case("pooled")) == ["overlap", "rectify"]
    assert concerned(case("net")) == ["overlap", "rectify", "bias_down"]
    assert concerned(case("normed")) == ["rectify", "lrn_down", "bias_down"]


def test_every_policy_has_its_words() -> None:
    for name in ("net", "normed", "pooled"):
        network = case(name)
        for policy, value in alternatives(network):
            assert words.SHORT[policy, value]
        for policy, value in words.chosen(network).items():
            assert value in words.POLICIES[policy].answers


def test_assignment_over_dense_windows_erases_what_was_kept() -> None:
    found = explained(case("pooled"))
    erased = [r for row in found.rows for r in row.readings if (r.policy, r.value) == ("overlap", "assign")]
    assert len(erased) == 4
    assert all(reading.empty and reading.distance == 1.0 for reading in erased)
    page = read(write_page(found, ""))
    assert sum("overlap: assign: all zero" in alt for alt in page.alts) == 4
    assert "4 of 4 erased" in page.text
    assert page.text.count("all zero") == 4


# ---- Numbers and pictures ----


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (11.04, "11.0"),
        (138.4, "138"),
        (0.000123456, "0.000123"),
        (1.07e-05, "1.07 \N{MULTIPLICATION SIGN} 10⁻⁵"),
        (-2.5e12, "-2.50 \N{MULTIPLICATION SIGN} 10¹²"),
        (np.inf, "∞"),
        (np.nan, "not finite"),
    ],
)
def test_numbers_as_people_write_them(value: float, said: str) -> None:
    assert words.number(value) == said


def test_nothing_is_grey_in_a_projection_and_invisible_in_a_difference() -> None:
    signal = np.zeros((3, 2, 2))
    signal[:, 0, 0], signal[:, 1, 1], signal[0, 0, 1] = 5.0, -5.0, np.nan
    picture = pictures.projected(signal, 2.5)
    assert picture[1, 0].tolist() == [128, 128, 128]
    assert picture[0, 0].tolist() == [255, 255, 255]
    assert picture[1, 1].tolist() == [0, 0, 0]
    assert tuple(picture[0, 1]) == pictures.MAGENTA
    difference = np.array([[0.0, 1.0], [-0.5, np.inf]])
    shown = pictures.diverging(difference, 1.0)
    assert shown[0, 0, 3] == 0
    assert shown[0, 1].tolist() == [*pictures.ORANGE, 255]
    assert tuple(shown[1, 0, :3]) == pictures.BLUE
    assert 0 < shown[1, 0, 3] < 255
    assert shown[1, 1].tolist() == [*pictures.MAGENTA, 255]
    assert pictures.diverging(np.zeros((2, 2)), 0.0)[..., 3].max() == 0


def test_the_channel_that_differs_most_is_shown_with_its_sign() -> None:
    difference = np.array([[[1.0, 2.0]], [[-3.0, 0.0]], [[2.0, np.nan]]])
    np.testing.assert_array_equal(pictures.strongest_difference(difference), [[-3.0, np.nan]])


# ---- The page ----


class Reader(HTMLParser):
    """What a browser would find; checks that elements are closed in order."""

    VOID = ("meta", "img", "br", "rect", "link", "input", "hr")

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def alts(self) -> list[str]:
        return [str(image["alt"]) for image in self.all("img")]


def read(html: str) -> Reader:
    return Reader(html)


def decoded(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Explanation, str]]:
    here = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("shown"))
    Path("tiny.yaml").write_text(SUITE)
    other = replace(CORRECT, name="again", framework="again")
    found = explained(case("net"), CORRECT, other)
    yield found, write_page(found, "conformance explain <tiny/net> & more")
    os.chdir(here)


def test_the_page_needs_nothing_beside_it(shown: tuple[Explanation, str]) -> None:
    _, html = shown
    page = read(html)
    assert not page.all("script") + page.all("link") + page.all("iframe")
    assert re.findall(r"url\((?!data:)", html) == []
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in page.all("img"))
    assert [a["href"] for a in page.all("a")] == ["https://arxiv.org/abs/1311.2901"]
    assert {"color-scheme", "viewport"} <= {meta.get("name") for meta in page.all("meta")}
    assert "prefers-color-scheme: dark" in html


def test_every_picture_says_what_it_is(shown: tuple[Explanation, str]) -> None:
    page = read(shown[1])
    assert all(len(alt) > 10 for alt in page.alts)
    for n in range(5):
        assert f"the oracle's projection of channel {n}" in page.alts
        assert f"channel {n} projected by correct" in page.alts
        assert f"what channel {n} sees of the image" in page.alts


def test_the_boxes_are_the_receptive_fields(shown: tuple[Explanation, str]) -> None:
    """Those of units of 3x3 over a pooling of 3x3 with stride 2 over a padded 3x3: 9 pixels, cut at the edges."""
    found, html = shown
    drawn = {tuple(int(rect[key]) for key in ("x", "y", "width", "height")) for rect in read(html).all("rect")}
    expected = set()
    for row in found.rows:
        y, x = row.activation.unit
        left, top, right, bottom = max(2 * x - 1, 0), max(2 * y - 1, 0), min(2 * x + 8, 18), min(2 * y + 8, 16)
        expected.add((left, top, right - left, bottom - top))
    assert drawn == expected


def test_the_pictures_are_the_projections(shown: tuple[Explanation, str]) -> None:
    found, html = shown
    page = read(html)
    by_alt = {image["alt"]: image["src"] for image in page.all("img")}
    for row in found.rows:
        name = f"channel {row.activation.channel}"
        exact = pictures.cut(row.exact, row.activation.field)
        scale = pictures.scale_of(row.exact)
        picture = decoded(by_alt[f"the oracle's projection of {name}"])
        np.testing.assert_array_equal(picture, pictures.projected(exact, scale))
        np.testing.assert_allclose(
            np.clip(exact / scale, -1, 1), (picture.transpose(2, 0, 1) / 255 - 0.5) * 2, atol=2 / 255
        )
        seen = decoded(by_alt[f"what {name} sees of the image"])
        (top, bottom), (left, right) = row.activation.field
        np.testing.assert_array_equal(seen, pictures.photo(found.scene.pixels)[top:bottom, left:right])


def test_targets_that_give_the_same_bits_share_a_picture(shown: tuple[Explanation, str]) -> None:
    found, html = shown
    page = read(html)
    assert "correct, again" in page.text
    assert sum(alt.endswith("projected by again") for alt in page.alts) == 0
    assert page.text.count("5 of 5 conform") == 2
    assert not found.failed


def test_the_page_says_what_was_asked_and_with_what(shown: tuple[Explanation, str]) -> None:
    found, html = shown
    text = " ".join(read(html).text.split())
    assert "What relu2 sees, projected to pixels" in text
    assert "conformance explain <tiny/net> & more" in text
    assert "overlap: sum" in text
    assert "rectify: signal" in text
    assert f"NumPy {np.__version__}" in text
    for row in found.rows:
        assert words.number(row.activation.value) in text


def test_what_strangers_wrote_is_text_on_the_page() -> None:
    found = explained(case("grey"))
    hostile = "<script>alert(1)</script>"
    html = write_page(replace(found, weights=hostile, refused={"x": hostile}), hostile)
    assert hostile not in html
    assert read(html).text.count(hostile) == 3


def test_the_summary_of_a_target_that_is_wrong() -> None:
    Path("wrong.py").write_text(
        f"import sys\nsys.path.insert(0, {str(TESTS)!r})\nfrom planted_chains import Planted\n"
        "def target():\n    return Planted('not-rectified')\n"
    )
    wrong = TargetSpec("wrong", "wrong", str(Path("wrong.py").resolve()))
    found = explained(case("net"), CORRECT, wrong)
    assert found.failed
    first = found.rows[0].projections["wrong"]
    assert first.judgement.verdict == "deviates"
    assert first.largest > 1e-3
    text = read(write_page(found, "")).text
    assert "0 of 5 conform" in text
    assert "first wrong stage: down.relu1" in text


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ("raise Unsupported('has no pooling')", "unsupported"),
        ("raise ValueError('broken')", "error"),
        ("return {'output': tensors['input'][:, :1]}", "wrong_shape"),
        ("return {'output': tensors['input'] * float('nan')}", "deviates"),
    ],
)
def test_targets_that_give_nothing_to_show(body: str, verdict: str) -> None:
    Path("odd.py").write_text(
        "from conformance.targets.base import Unsupported\nclass target:\n"
        f"    def run(self, case, tensors):\n        {body}\n"
    )
    found = explained(case("net"), TargetSpec("odd", "odd", str(Path("odd.py").resolve())), count=1)
    assert found.rows[0].projections["odd"].judgement.verdict == verdict
    text = " ".join(read(write_page(found, "")).text.split())
    if verdict == "unsupported":
        assert "cannot say this case: odd (has no pooling)." in text
    else:
        assert "odd 0 of 1 conform" in text
        assert words.verdict_in_words(verdict) in text


def test_switches_that_rounding_moved_are_counted_where_the_signal_passes() -> None:
    network = case("net")
    tensors = tensors_of(network)
    up = walk(network.way_up, tensors, {})
    activation = choose(network, up["relu2"][0])[0]
    with LocalExecutor(()) as executor:
        problem = Projector(tensors, up, executor).exact(activation)
    signal, switches = problem.values["down.conv2"], problem.values["pool1.indices"]
    assert not signal.all()
    for places, moved in ((signal != 0, 1), (signal == 0, 0)):
        other = switches.copy()
        other.flat[np.flatnonzero(places)[0]] += 1
        returned = {"output": problem.exact.astype(np.float32), "pool1.indices": other}
        found = as_projection(problem, Outcome("returned", returned), Judgement("within_bound"))
        assert found.moved == moved
    text = read(write_page(with_projection(explained(network, CORRECT, count=1), replace(found, moved=1)), "")).text
    assert "1 switch moved" in text


def test_a_difference_is_the_target_minus_the_oracle() -> None:
    found = explained(case("grey"), CORRECT, count=1)
    (row,) = found.rows
    (top, _), (left, _) = row.activation.field
    assert abs(row.projections["correct"].difference).max() < 1e-6
    more, less = row.exact.copy(), row.exact.copy()
    more[0, top, left + 1] += 2.0
    less[0, top, left + 1] -= 2.0
    for signal, colour in ((more, pictures.ORANGE), (less, pictures.BLUE)):
        problem = ChainProblem(row.activation.case, "rounding", {}, {"output": row.exact[None]})
        projection = as_projection(problem, Outcome("returned", {"output": signal[None]}), Judgement("deviates"))
        assert projection.largest == 2.0
        page = read(write_page(with_projection(found, projection), ""))
        (shown,) = (image["src"] for image in page.all("img") if "minus the oracle" in str(image["alt"]))
        assert decoded(shown)[0, 1].tolist() == [*colour, 255]
        assert np.count_nonzero(decoded(shown)[..., 3]) == 1


def with_projection(found: Explanation, projection: Projection) -> Explanation:
    rows = tuple(replace(row, projections=dict.fromkeys(row.projections, projection)) for row in found.rows)
    return replace(found, rows=rows)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_figure(suffix: str, shown: tuple[Explanation, str]) -> None:
    pytest.importorskip("matplotlib")
    from conformance.explain.figure import write_figure

    path = Path(f"figure.{suffix}")
    write_figure(shown[0], path)
    data = path.read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix])
    if suffix == "png":
        assert np.asarray(Image.open(path)).std() > 10


# ---- The command ----


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``conformance explain ARGUMENTS`` in this process: exit status, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["conformance", "explain", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as leave:
            cli.main()
        out, err = capfd.readouterr()
        return int(leave.value.code or 0), out, err

    return run


Call = Callable[..., tuple[int, str, str]]
TINY = ("--suite", "tiny.yaml")
PLANTED = ("--target", str(TESTS / "planted_chains.py"))


def test_a_page_is_written_under_the_name_of_the_case(call: Call) -> None:
    code, out, err = call("tiny/net", *TINY, *PLANTED, "--top", "2")
    assert (code, err) == (0, "")
    assert out.endswith("Page: explain-tiny-net.html\n")
    assert re.search(r"^planted_chains +2 within_bound ", out, re.MULTILINE)
    html = Path("explain-tiny-net.html").read_text("utf-8")
    assert f"conformance explain tiny/net --suite tiny.yaml --target {TESTS}/planted_chains.py --top 2" in html


def test_all_that_can_be_asked_for(call: Call) -> None:
    save(Path("w.safetensors"), numbers_for(case("net")))
    Image.effect_noise((50, 40), 80).save("noise.png")
    options = ("--image", "noise.png", "--weights", "w.safetensors", "--layer", "pool1", "--channels", "5,0")
    code, _, err = call("tiny/net", *TINY, *PLANTED, *options, "--out", "page.html")
    assert (code, err) == (0, "")
    page = read(Path("page.html").read_text("utf-8"))
    assert "What pool1 sees" in page.text
    assert [alt for alt in page.alts if alt.startswith("the oracle's projection")] == [
        "the oracle's projection of channel 5",
        "the oracle's projection of channel 0",
    ]
    text = " ".join(page.text.split())
    assert "Image: noise.png, 18 × 16 pixels" in text  # noqa: RUF001
    assert "Weights: w.safetensors" in text


def test_torch_projects_within_its_bound(call: Call) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    code, out, _ = call("tiny/net", *TINY, "--target", "torch", "--out", "page.html")
    assert code == 0
    assert re.search(r"^torch@cpu +5 within_bound +\d", out, re.MULTILINE)
    text = " ".join(read(Path("page.html").read_text("utf-8")).text.split())
    assert "torch@cpu 5 of 5 conform" in text
    assert re.search(r"Δ at most \d\S+", text)
    assert re.search(r"0\.\d{4} of its bound", text)


def test_1_where_a_target_is_wrong(call: Call) -> None:
    Path("input.py").write_text(
        "class target:\n    def run(self, case, tensors):\n        return {'output': tensors['input']}\n"
    )
    code, out, _ = call("tiny/net", *TINY, "--target", "input.py", "--out", "page.html")
    assert code == 1
    assert re.search("^input +5 deviates ", out, re.MULTILINE)
    assert Path("page.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tiny/nte"], "tiny/nte: no such case; did you mean tiny/net"),
        (["tiny/plain"], r"tiny/plain: expected a case of op deconvnet, got conv_transpose\n"),
        (["tiny/line"], r"tiny/line: expected images of two axes, got 1\n"),
        (["tiny/net", "--layer", "fc6"], r"--layer fc6: expected one of conv1, relu1, pool1, conv2, relu2\n"),
        (["tiny/net", "--channels", "1,5"], r"--channels 5: expected 0 to 4, relu2 has 5 channels\n"),
        (["tiny/net", "--channels", "a"], "'--channels': expected numbers of channels, by comma or repeated, got a"),
        (["tiny/net", "--channels", "-1"], "'--channels': expected numbers of channels, by comma or repeated, got -1"),
        (["tiny/net", "--top", "0"], "'--top': 0 is not in the range"),
        (["tiny/net", "--top", "2", "--channels", "1"], r"expected --channels or --top, not both\n"),
        (["tiny/net", "--image", "no.png"], r"no\.png: cannot be read as an image: No such file or directory\n"),
        (["tiny/net", "--image", "tiny.yaml"], r"tiny\.yaml: cannot be read as an image: it is no PNG or JPEG.*\n"),
        (["tiny/net", "--image", "no.npy"], r"no\.npy: cannot be read: No such file or directory\n"),
        (["tiny/net", "--image", "zip.npy"], r"zip\.npy: expected one array, found an archive\n"),
        (["tiny/net", "--image", "huge.npy"], r"huge\.npy: cannot be read: Unable to allocate .*\n"),
        (["tiny/net", "--image", "half.png"], r"half\.png: cannot be read as an image: it is no PNG .*, or damaged\n"),
        (["tiny/net", "--image", "text.npy"], r"text\.npy: cannot be read: .*\n"),
        (["tiny/net", "--image", "flat.npy"], r"flat\.npy: expected shape 3x16x18, got 4\n"),
        (["tiny/net", "--image", "whole.npy"], r"whole\.npy: expected uint8 or floating-point numbers, got int64\n"),
        (["tiny/net", "--image", "nan.npy"], r"nan\.npy: expected finite numbers\n"),
        (["tiny/net", "--weights", "flat.npy"], r"flat\.npy: expected weights as \.safetensors, \.npz or \.onnx\n"),
        (["tiny/net", "--target", "toch"], "toch: no such target; did you mean torch"),
        (["tiny/net", "--out", "page.txt"], r"page\.txt: expected \.html, \.png, \.svg, \.pdf\n"),
        (["tiny/net", "--out", "no/page.html"], r"no/page\.html: cannot be written\n"),
    ],
)
def test_2_for_bad_input(call: Call, arguments: list[str], said: str) -> None:
    np.save("flat.npy", np.zeros(4))
    np.save("whole.npy", np.zeros((3, 16, 18), np.int64))
    np.save("nan.npy", np.full((3, 16, 18), np.nan))
    Path("text.npy").write_text("text")
    np.savez("zip.npz", np.zeros(4))
    Path("zip.npz").rename("zip.npy")
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
    Path("huge.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + header)
    Image.new("RGB", (40, 40), "red").save("half.png")
    Path("half.png").write_bytes(Path("half.png").read_bytes()[:60])
    target = [] if "--target" in arguments else PLANTED
    code, out, err = call(*arguments, *TINY, *target)
    assert (code, out) == (2, "")
    assert re.search(said if said.startswith("'") else f"^{said}", err), err
    assert "Traceback" not in err
    assert not list(Path().glob("explain-*"))


def test_a_picture_of_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    from conformance.explain import scene

    monkeypatch.setattr(scene, "MAX_PIXELS", 10)
    Image.new("L", (4, 4)).save("large.png")
    with pytest.raises(BadInput, match=r"^large\.png: expected at most 10 pixels, got 4x4$"):
        read_scene(Path("large.png"), (1, 3, 4, 4))


def test_the_parent_imports_no_framework_even_for_a_model() -> None:
    """Nor do the readers of weights and of pictures."""
    pytest.importorskip("onnx")
    save_onnx(Path("w.onnx"), numbers_for(case("net")))
    script = (
        "import sys\nfrom conformance import cli\n"
        f"sys.argv = ['conformance', 'explain', 'tiny/net', '--suite', 'tiny.yaml', '--weights', 'w.onnx',"
        f" '--top', '1', '--target', {str(TESTS / 'planted_chains.py')!r}]\n"
        "try:\n    cli.main()\nexcept SystemExit as leave:\n    print(leave.code)\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    Path("asking.py").write_text(f"if __name__ == '__main__':\n    {script.replace(chr(10), chr(10) + '    ')}")
    done = subprocess.run([sys.executable, "asking.py"], capture_output=True, text=True, timeout=100, check=False)
    status, names = done.stdout.splitlines()[-2:]
    assert status == "0", done.stderr
    assert "safetensors" not in names
    assert FRAMEWORKS & set(re.findall(r"\w+", names)) == set()


def test_one_target_of_every_library() -> None:
    specs = [TargetSpec(name, "f", "m:a", requires) for name, requires in (("a", ("x",)), ("b", ("x", "y")), ("c", ()))]
    assert [spec.name for spec in of_every_library(specs)] == ["a", "c"]
