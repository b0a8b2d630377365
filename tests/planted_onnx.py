"""A runtime of ONNX models written from the texts of the operators, in plain NumPy, and mistakes to plant in it.

``PlantedOnnx()`` computes what the text of the newest opset says; ``PlantedOnnx("pads-in-pairs")`` makes one mistake of
`MISTAKES`.  It is fed the graphs that every target of ONNX is fed, and reads nothing but those, so that it also finds
out whether a graph says what its case means.  It shares no code with the oracle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from conformance.targets.base import Tensors
from conformance.targets.onnx_target import OnnxTarget, Run

SAME_SIZE, NO_PADDING = "read:same-is-the-size-of-the-input", "read:valid-is-no-padding"
CONVOLUTIONS, POOLING, UNPOOLING = ("conv", "conv_transpose"), ("max_pool",), ("max_unpool",)

MISTAKES = {
    "kernel-shape-left-out-is-1": ("conv_transpose",),
    "strides-left-out-are-the-kernel": CONVOLUTIONS,
    "dilations-ignored": CONVOLUTIONS,
    "group-ignored-in-the-weight": CONVOLUTIONS,
    "pads-in-pairs": CONVOLUTIONS,
    "ends-before-beginnings": CONVOLUTIONS,
    "same-lower-as-upper": CONVOLUTIONS,
    "same-upper-as-lower": CONVOLUTIONS,
    "auto-pad-ignored": CONVOLUTIONS,
    "undilated-kernel-in-same": CONVOLUTIONS,
    "output-padding-dropped": ("conv_transpose",),
    "output-padding-at-the-beginning": ("conv_transpose",),
    "output-padding-appended-as-zeros": ("conv_transpose",),
    "output-padding-not-in-the-total": ("conv_transpose",),
    "output-padding-enlarges-same": ("conv_transpose",),
    "output-shape-split-at-the-other-end": ("conv_transpose",),
    "output-shape-always-split-as-notset": ("conv_transpose",),
    "output-shape-ignored": ("conv_transpose",),
    "output-shape-beside-pads-keeps-pads": ("conv_transpose",),
    "bias-dropped-in-groups": CONVOLUTIONS,
    "bias-of-the-first-group": CONVOLUTIONS,
    "fed-weights-taken-for-ones": CONVOLUTIONS,
    "overridable-weights-taken-for-zeros": CONVOLUTIONS,
    "an-empty-batch-is-one-image": CONVOLUTIONS,
    "pool:strides-left-out-are-the-kernel": POOLING,
    "pool:pads-in-pairs": POOLING,
    "pool:same-lower-as-upper": POOLING,
    "pool:same-rounds-down": POOLING,
    "pool:undilated-kernel-in-same": POOLING,
    "pool:dilations-ignored": POOLING,
    "pool:storage-order-ignored": POOLING,
    "pool:storage-order-1-always": POOLING,
    "pool:storage-order-1-transposes-the-indices": POOLING,
    "pool:storage-order-1-swaps-two-axes": POOLING,
    "pool:ceil-mode-ignored": POOLING,
    "pool:ceil-mode-always": POOLING,
    "pool:ceil-mode-keeps-windows-in-the-padding": POOLING,
    "pool:ceil-mode-with-valid": POOLING,
    "pool:indices-of-the-padded-plane": POOLING,
    "pool:indices-within-the-plane": POOLING,
    "pool:indices-without-the-image": POOLING,
    "pool:indices-from-the-output-width": POOLING,
    "pool:padding-is-zero": POOLING,
    "unpool:strides-left-out-are-the-kernel": UNPOOLING,
    "unpool:pads-ignored": UNPOOLING,
    "unpool:pads-in-pairs": UNPOOLING,
    "unpool:output-shape-ignored": UNPOOLING,
    "unpool:indices-within-the-plane": UNPOOLING,
    "unpool:to-the-corner-of-the-window": UNPOOLING,
}


READINGS = {
    "output-padding-at-the-beginning": ("transposed-output-padding[output_padding=1x2,padding=0,onnx=opset:1]",),
    "output-shape-split-at-the-other-end": (
        "transposed-output-shape-opset-1[output_shape=6x11,auto_pad=NOTSET,onnx=opset:1]",
        "transposed-output-shape-opset-1[output_shape=5x12,auto_pad=SAME_UPPER,onnx=opset:1]",
    ),
    "same-upper-as-lower": ("transposed-auto-pad-versions[auto_pad=SAME_UPPER,onnx=opset:1]",),
    "read:same-is-the-size-of-the-input": (
        "transposed-auto-pad-versions[auto_pad=SAME_LOWER,onnx=opset:1]",
        "conv-auto-pad[auto_pad=SAME_UPPER,kernel=4x2,stride=3x2,onnx=opset:1]",
    ),
    "read:no-negative-pads": ("transposed-auto-pad-kernel-below-stride[auto_pad=SAME_UPPER,kernel=2x1,onnx=opset:22]",),
    "read:half-towards-zero": (
        "transposed-output-shape-larger[output_shape=8x12,auto_pad=NOTSET,onnx=opset:22]",
        "transposed-auto-pad-kernel-below-stride[auto_pad=SAME_LOWER,kernel=2x1,onnx=opset:22]",
    ),
    "read:valid-is-no-padding": ("transposed-output-shape-valid[output_shape=6x11,auto_pad=VALID,onnx=opset:22]",),
    "auto-pad-ignored": (
        "transposed-auto-pad-beside-pads[auto_pad=SAME_UPPER,onnx=pads:1:0x0:2]",
        "conv-auto-pad-beside-pads[auto_pad=VALID,onnx=pads:1:0x0:2]",
        "pool-auto-pad-beside-pads[auto_pad=SAME_LOWER,onnx=pads:1:0x0:2]",
    ),
    "pool:strides-left-out-are-the-kernel": ("pool-strides-omitted[input=5x6,onnx=opset:8+omit:strides]",),
    "pool:ceil-mode-keeps-windows-in-the-padding": (
        "pool-ceil-window-in-the-padding[onnx=opset:12]",
        "pool-ceil-window-in-the-padding[onnx=opset:12+indices:false]",
        "pool-ceil-window-in-the-padding-volume[onnx=opset:12]",
    ),
    "read:pool-with-negative-pads": ("pool-auto-pad-negative[auto_pad=SAME_UPPER,onnx=opset:22]",),
    "read:column-major-through-the-tensor": (
        "pool-storage-order-planes[input=7,onnx=opset:22+storage_order:1]",
        "pool-storage-order-planes[input=5x7,onnx=opset:12+storage_order:1]",
        "pool-storage-order-planes[input=3x4x5,onnx=opset:22+storage_order:1]",
    ),
    "read:indices-in-the-inferred-size": (
        "unpool-output-shape-published[onnx=opset:22]",
        "unpool-output-shape-published-line[onnx=opset:22]",
        "unpool-output-shape-published-pads[onnx=opset:22]",
    ),
    "read:indices-in-the-inferred-size-without-pads": ("unpool-output-shape-published-pads[onnx=opset:22]",),
}
"""What is a mistake elsewhere, or none anywhere, and in these cases one of the readings of the text."""


@dataclass(frozen=True)
class Node:
    """A node with its attributes, what it reads and the opset; ``mistake`` is one that it makes, or none."""

    operator: str
    attributes: dict[str, Any]
    fed: Sequence[np.ndarray]
    opset: int
    mistake: str

    def wrong(self, mistake: str) -> bool:
        return self.mistake == mistake

    @property
    def rank(self) -> int:
        return self.fed[0].ndim - 2

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.fed[0].shape[2:]

    def says(self, name: str, default: Any) -> Any:
        return self.attributes.get(name, default)

    def pads(self, mistake: str) -> list[tuple[int, int]]:
        flat = self.says("pads", [0] * 2 * self.rank)
        if self.wrong(mistake):
            return list(zip(flat[::2], flat[1::2], strict=True))
        ends = (flat[self.rank :], flat[: self.rank]) if self.wrong("ends-before-beginnings") else None
        return list(zip(*(ends or (flat[: self.rank], flat[self.rank :])), strict=True))

    def split(self, total: int, lower: bool) -> tuple[int, int]:
        """A total padding in two, the larger half at the beginning if ``lower``."""
        half = math.trunc(total / 2) if self.wrong("read:half-towards-zero") else total // 2
        return (total - half, half) if lower else (half, total - half)


class PlantedOnnx(OnnxTarget):
    """What the texts say, or that with a mistake."""

    name = "planted-onnx@cpu"
    opset = 22

    def __init__(self, mistake: str = "") -> None:
        super().__init__()
        self.mistake = mistake

    def environment(self) -> dict[str, str]:
        return {}

    def prepare(self, model: bytes) -> Run:
        proto = onnx.load_model_from_string(model)
        onnx.checker.check_model(proto)

        def run(feeds: Tensors) -> list[np.ndarray]:
            inputs = {value.name for value in proto.graph.input}
            values = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
            if self.mistake == "overridable-weights-taken-for-zeros":
                values |= {n: np.zeros_like(v) for n, v in values.items() if n in inputs}
            values |= feeds
            if self.mistake == "fed-weights-taken-for-ones":
                values |= {n: np.ones_like(v) for n, v in feeds.items() if n == "weight"}
            for node in proto.graph.node:
                attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
                fed = [values[name] for name in node.input]
                made = Node(node.op_type, attributes, fed, proto.opset_import[0].version, self.mistake)
                values |= zip(node.output, OPERATORS[node.op_type](made), strict=False)
            return [np.asarray(values[output.name]) for output in proto.graph.output]

        return run


def auto_pad(node: Node) -> str:
    said = node.says("auto_pad", b"NOTSET").decode()
    if node.wrong("auto-pad-ignored"):
        return "NOTSET"
    if node.wrong("same-lower-as-upper") or node.wrong("pool:same-lower-as-upper"):
        return str(said.replace("LOWER", "UPPER"))
    return str(said.replace("UPPER", "LOWER")) if node.wrong("same-upper-as-lower") else said


def geometry(node: Node, transposed: bool) -> tuple[list[int], list[int], list[int], int]:
    """Kernel, strides, dilations and groups of a convolution."""
    kernel = list(node.says("kernel_shape", node.fed[1].shape[2:]))
    if node.wrong("kernel-shape-left-out-is-1") and "kernel_shape" not in node.attributes and transposed:
        kernel = [1] * node.rank
    default = kernel if node.wrong("strides-left-out-are-the-kernel") else [1] * node.rank
    dilations = node.says("dilations", [1] * node.rank)
    if node.wrong("dilations-ignored"):
        dilations = [1] * node.rank
    return kernel, list(node.says("strides", default)), list(dilations), node.says("group", 1)


def weights(node: Node, group: int) -> tuple[np.ndarray, np.ndarray]:
    """The weight as (group, small channels, large channels, *kernel), and the bias of every channel."""
    x, w = node.fed[0].astype(np.float64), node.fed[1].astype(np.float64)
    grouped = w.reshape(group, -1, *w.shape[1:])
    if node.wrong("group-ignored-in-the-weight"):
        grouped = np.concatenate([grouped[:1]] * group)
    transposed = node.operator == "ConvTranspose"
    channels = w.shape[1] * group if transposed else w.shape[0]
    bias = node.fed[2].astype(np.float64) if len(node.fed) > 2 else np.zeros(channels)
    if group > 1 and node.wrong("bias-dropped-in-groups"):
        bias = np.zeros(channels)
    if node.wrong("bias-of-the-first-group"):
        bias = np.tile(bias[: channels // group], group)
    assert x.shape[1] == group * (grouped.shape[1] if transposed else grouped.shape[2])
    return grouped, bias.reshape(1, -1, *[1] * node.rank)


def convolution(node: Node) -> list[np.ndarray]:
    kernel, strides, dilations, group = geometry(node, transposed=False)
    pads, word = node.pads("pads-in-pairs"), auto_pad(node)
    for n in range(node.rank):
        extent = (kernel[n] - 1) * (1 if node.wrong("undilated-kernel-in-same") else dilations[n]) + 1
        if word.startswith("SAME"):
            size = node.sizes[n] if node.wrong(SAME_SIZE) else math.ceil(node.sizes[n] / strides[n])
            total = (size - 1) * strides[n] + extent - node.sizes[n]
            pads[n] = node.split(max(total, 0), word == "SAME_LOWER")
        elif word == "VALID":
            pads[n] = (0, 0)
    w, bias = weights(node, group)
    x = np.pad(node.fed[0].astype(np.float64), [(0, 0), (0, 0), *pads])
    x = x.reshape(x.shape[0], group, w.shape[2], *x.shape[2:])
    padded = x.shape[3:]
    size = [(padded[n] - (kernel[n] - 1) * dilations[n] - 1) // strides[n] + 1 for n in range(node.rank)]
    y = np.zeros((x.shape[0], group, w.shape[1], *size))
    for tap in np.ndindex(*w.shape[3:]):
        starts = [t * d for t, d in zip(tap, dilations, strict=True)]
        at = (slice(b, b + (o - 1) * s + 1, s) for b, o, s in zip(starts, size, strides, strict=True))
        y += np.einsum("ngc...,gkc->ngk...", x[(..., *at)], w[(..., *tap)])
    return [finished(node, y, bias)]


def finished(node: Node, y: np.ndarray, bias: np.ndarray) -> np.ndarray:
    y = y.reshape(y.shape[0], y.shape[1] * y.shape[2], *y.shape[3:])
    if not y.shape[0] and node.wrong("an-empty-batch-is-one-image"):
        y = np.zeros((1, *y.shape[1:]))
    return (y + bias).astype(node.fed[0].dtype)


def transposed_convolution(node: Node) -> list[np.ndarray]:
    kernel, strides, dilations, group = geometry(node, transposed=True)
    added = list(node.says("output_padding", [0] * node.rank))
    if node.wrong("output-padding-dropped"):
        added = [0] * node.rank
    crops = [crop(node, n, kernel, strides, dilations, added[n]) for n in range(node.rank)]
    w, bias = weights(node, group)
    x = node.fed[0].astype(np.float64)
    x = x.reshape(x.shape[0], group, w.shape[1], *x.shape[2:])
    full = [(i - 1) * s + (k - 1) * d + 1 for i, s, k, d in zip(node.sizes, strides, kernel, dilations, strict=True)]
    size = [f - b - e for f, (b, e) in zip(full, crops, strict=True)]
    y = np.zeros((x.shape[0], group, w.shape[2], *size))
    for tap in np.ndindex(*kernel):
        rows = [
            np.arange(i) * s + t * d - b
            for i, s, t, d, (b, _) in zip(node.sizes, strides, tap, dilations, crops, strict=True)
        ]
        inside = [(r >= 0) & (r < o) for r, o in zip(rows, size, strict=True)]
        small = (..., *np.ix_(*map(np.flatnonzero, inside)))
        large = (..., *np.ix_(*(r[i] for r, i in zip(rows, inside, strict=True))))
        y[large] += np.einsum("ngk...,gkc->ngc...", x[small], w[(..., *tap)])
    result = finished(node, y, bias)
    if node.wrong("output-padding-appended-as-zeros"):
        result = result.copy()
        for n, more in enumerate(added):
            result[(slice(None),) * (n + 2) + (slice(result.shape[n + 2] - more, None),)] = 0
    return [result]


def crop(
    node: Node, n: int, kernel: list[int], strides: list[int], dilations: list[int], added: int
) -> tuple[int, int]:
    """What is cropped of the full result on an axis, output_padding counted; by the equations of ConvTranspose-22."""
    extent = (kernel[n] - 1) * (1 if node.wrong("undilated-kernel-in-same") else dilations[n]) + 1
    word, shape = auto_pad(node), node.says("output_shape", None)
    if node.wrong("output-shape-ignored"):
        shape = None
    keeps = node.wrong("output-shape-beside-pads-keeps-pads") and "pads" in node.attributes
    begin, end = (0, 0) if word == "VALID" else node.pads("pads-in-pairs")[n]
    if (shape is not None and not keeps) or word.startswith("SAME"):
        size = node.sizes[n] * (1 if node.wrong(SAME_SIZE) else strides[n]) if shape is None else shape[n]
        if shape is None and node.wrong("output-padding-enlarges-same"):
            size += added
        counted = 0 if node.wrong("output-padding-not-in-the-total") else added
        total = strides[n] * (node.sizes[n] - 1) + counted + extent - size
        lower = word != "SAME_UPPER"
        if shape is not None and node.wrong("output-shape-split-at-the-other-end"):
            lower = not lower
        if shape is not None and node.wrong("output-shape-always-split-as-notset"):
            lower = True
        begin, end = node.split(total, lower)
        if (total < 0 and node.wrong("read:no-negative-pads")) or (word == "VALID" and node.wrong(NO_PADDING)):
            begin = end = 0
        end += added - counted
    if keeps and shape is not None:
        end = strides[n] * (node.sizes[n] - 1) + added + extent - shape[n] - begin
    if node.wrong("output-padding-at-the-beginning"):
        return begin - added, end
    return begin, end - added


def max_pool(node: Node) -> list[np.ndarray]:
    x, kernel = node.fed[0], node.says("kernel_shape", None)
    default = kernel if node.wrong("pool:strides-left-out-are-the-kernel") else [1] * node.rank
    strides, dilations = node.says("strides", default), node.says("dilations", [1] * node.rank)
    if node.wrong("pool:dilations-ignored"):
        dilations = [1] * node.rank
    axes = [pooled(node, n, kernel[n], strides[n], dilations[n]) for n in range(node.rank)]
    size = [o for o, _ in axes]
    best = np.full((*x.shape[:2], *size), -np.inf)
    where = np.zeros((*x.shape[:2], *size, node.rank), np.int64)
    for tap in np.ndindex(*kernel):
        rows = [np.arange(o) * s - b + t * d for (o, b), s, t, d in zip(axes, strides, tap, dilations, strict=True)]
        inside = np.ones(size, bool)
        for n, row in enumerate(rows):
            inside &= ((row >= 0) & (row < node.sizes[n])).reshape([-1 if m == n else 1 for m in range(node.rank)])
        clipped = [np.clip(row, 0, i - 1) for row, i in zip(rows, node.sizes, strict=True)]
        outside = 0.0 if node.wrong("pool:padding-is-zero") else -np.inf
        seen = np.where(inside, x[(..., *np.ix_(*clipped))].astype(np.float64), outside)
        better = seen > best
        best = np.where(better, seen, best)
        places = np.stack(np.meshgrid(*rows, indexing="ij"), -1)
        where = np.where(better[..., None], places, where)
    values = best.astype(x.dtype)
    return [values, indices(node, where, axes)]


def pooled(node: Node, n: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """Number of windows on an axis and the padding before the first, by the equations of MaxPool-22."""
    i, word = node.sizes[n], auto_pad(node)
    extent = (kernel - 1) * dilation + 1
    ceil = node.wrong("pool:ceil-mode-always") or node.says("ceil_mode", 0)
    if node.wrong("pool:ceil-mode-ignored"):
        ceil = False
    if word.startswith("SAME"):
        o = i // stride if node.wrong("pool:same-rounds-down") else math.ceil(i / stride)
        measured = kernel if node.wrong("pool:undilated-kernel-in-same") else extent
        least = -measured if node.wrong("read:pool-with-negative-pads") else 0
        return o, node.split(max((o - 1) * stride + measured - i, least), word == "SAME_LOWER")[0]
    begin, end = (0, 0) if word == "VALID" else node.pads("pool:pads-in-pairs")[n]
    rest = i + begin + end - extent
    if word == "VALID" and not node.wrong("pool:ceil-mode-with-valid"):
        return rest // stride + 1, 0
    if not ceil:
        return rest // stride + 1, begin
    o = -(-rest // stride) + 1
    kept = node.wrong("pool:ceil-mode-keeps-windows-in-the-padding")
    return o - (not kept and (o - 1) * stride >= i + begin), begin


def indices(node: Node, where: np.ndarray, axes: list[tuple[int, int]]) -> np.ndarray:
    sizes = list(node.sizes)
    if node.wrong("pool:indices-of-the-padded-plane"):
        pads = node.pads("")
        where = where + np.array([b for b, _ in pads])
        sizes = [i + b + e for i, (b, e) in zip(sizes, pads, strict=True)]
    if node.wrong("pool:indices-from-the-output-width"):
        sizes[-1] = axes[-1][0]
    order = node.says("storage_order", 0)
    if node.wrong("pool:storage-order-ignored"):
        order = 0
    if node.wrong("pool:storage-order-1-always"):
        order = 1
    turned = order == 1 and node.wrong("pool:storage-order-1-transposes-the-indices")
    column_major = order == 1 and not turned
    axes_in_turn = list(range(node.rank))[:: -1 if column_major else 1]
    if column_major and node.wrong("pool:storage-order-1-swaps-two-axes"):
        axes_in_turn = [*range(node.rank - 2), node.rank - 1, node.rank - 2][-node.rank :]
    flat = np.zeros(where.shape[:-1], np.int64)
    for n in axes_in_turn:
        flat = flat * sizes[n] + where[..., n]
    images, channels = np.indices(where.shape[:2])
    plane = images * where.shape[1] + channels
    if node.wrong("pool:indices-within-the-plane"):
        plane = np.zeros_like(plane)
    if node.wrong("pool:indices-without-the-image"):
        plane = channels
    if order == 1 and node.wrong("read:column-major-through-the-tensor"):
        return flat * plane.size + (channels * len(where) + images).reshape(*plane.shape, *[1] * node.rank)
    flat = flat + plane.reshape(*plane.shape, *[1] * node.rank) * math.prod(sizes)
    return flat.transpose(0, 1, *range(flat.ndim - 1, 1, -1)) if turned else flat


def max_unpool(node: Node) -> list[np.ndarray]:
    x, places = node.fed[0], node.fed[1]
    kernel = node.says("kernel_shape", None)
    default = kernel if node.wrong("unpool:strides-left-out-are-the-kernel") else [1] * node.rank
    strides, pads = node.says("strides", default), node.pads("unpool:pads-in-pairs")
    if node.wrong("unpool:pads-ignored"):
        pads = [(0, 0)] * node.rank
    size = [(i - 1) * s + k - b - e for i, s, k, (b, e) in zip(node.sizes, strides, kernel, pads, strict=True)]
    if len(node.fed) > 2 and node.mistake.startswith("read:indices-in-the-inferred-size"):
        ignored = [b + e if node.mistake.endswith("without-pads") else 0 for b, e in pads]
        inner = (*x.shape[:2], *(n + p for n, p in zip(size, ignored, strict=True)))
        laid = np.zeros(math.prod(inner), x.dtype)
        laid[places.ravel()] = x.ravel()
        return [np.pad(laid.reshape(inner), [(0, n - m) for n, m in zip(node.fed[2].tolist(), inner, strict=True)])]
    if len(node.fed) > 2 and not node.wrong("unpool:output-shape-ignored"):
        size = [int(n) for n in node.fed[2][2:]]
    shape = (*x.shape[:2], *size)
    result, plane = np.zeros(math.prod(shape), x.dtype), math.prod(size)
    if node.wrong("unpool:indices-within-the-plane"):
        places = places % max(plane, 1)
    if node.wrong("unpool:to-the-corner-of-the-window"):
        corners = np.meshgrid(*(np.arange(i) * s for i, s in zip(node.sizes, strides, strict=True)), indexing="ij")
        flat = np.zeros(corners[0].shape, np.int64)
        for n, corner in enumerate(corners):
            flat = flat * size[n] + np.minimum(corner, size[n] - 1)
        planes = np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * node.rank)
        places = planes * plane + flat
    result[places.ravel() % max(result.size, 1)] = x.ravel()
    return [result.reshape(shape)]


OPERATORS = {
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "MaxPool": max_pool,
    "MaxUnpool": max_unpool,
    "Identity": lambda node: [node.fed[0]],
    "Add": lambda node: [node.fed[0] + node.fed[1]],
    "Sub": lambda node: [node.fed[0] - node.fed[1]],
    "Mul": lambda node: [node.fed[0] * node.fed[1]],
    "Div": lambda node: [node.fed[0] // node.fed[1]],
}
