"""``deconvnet``: the case, and the model of how it is written in YAML.

The deconvnet is that of Zeiler and Fergus (arXiv:1311.2901, section 2.1).  On the way up the network runs and its
poolings record their switches.  On the way down every layer is undone in turn: pooling by unpooling through its
switches, ReLU by the rectifier, a convolution by its transpose without bias.  Where the paper is silent a named policy
decides; the default is the paper's reading, or else the adjoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from conformance.spec.case import Case, Convolution, Shape
from conformance.spec.fields import (
    BiasDownName,
    ChannelChoice,
    Entry,
    IsolationName,
    KeyedError,
    Name,
    NormDownName,
    OverlapName,
    Positive,
    RectificationName,
    SeedName,
    SpatialSize,
    UnitChoice,
    few_bits,
)
from conformance.spec.layers import AnyLayer, ConvLayer, Layers, PoolLayer, kind_of, read_layer, written_key
from conformance.spec.pooling import MaxPool, MaxUnpool
from conformance.spec.steps import (
    BiasDown,
    Chain,
    Isolate,
    NormDown,
    Overlap,
    Rectification,
    Rectify,
    ResponseNorm,
    ResponseNormGradient,
    Stage,
    Step,
)

LayerStep = Convolution | MaxPool | Rectify | ResponseNorm


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the network; ``input`` and ``output`` are shapes ``(N, C, *spatial)``."""

    name: str
    step: LayerStep
    input: Shape
    output: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Deconvnet(Chain):
    """A network up to the layer whose activation is projected, and how to come down again.

    Tensors: ``input`` (the image), and ``<layer>.weight`` and ``<layer>.bias`` for every convolution.  Stages: one per
    layer with the layer's name, poolings giving ``<layer>.indices`` too; ``seed``; then ``down.<layer>``, the last
    layer first, each giving the signal at that layer's input.  The last gives ``output``, the projection to pixels.
    """

    layers: tuple[Layer, ...]
    isolate: Isolate
    overlap: Overlap = "sum"
    rectify: Rectification = "signal"
    lrn_down: NormDown = "identity"
    bias_down: BiasDown = "none"

    @property
    def tensor_shapes(self) -> dict[str, Shape]:
        shapes = {"input": self.layers[0].input}
        for layer in self.layers:
            if isinstance(layer.step, Convolution):
                named = {name: shape for name, shape in layer.step.tensor_shapes.items() if name != "input"}
                shapes |= {f"{layer.name}.{name}": shape for name, shape in named.items()}
        return shapes

    @property
    def result_shapes(self) -> dict[str, Shape]:
        return {"output": self.layers[0].input}

    @property
    def elements(self) -> int:
        """Tensors, and what is recorded on the way up and down."""
        return sum(map(math.prod, self.tensor_shapes.values())) + sum(
            math.prod(layer.input) + 2 * math.prod(layer.output) for layer in self.layers
        )

    @property
    def stages(self) -> tuple[Stage, ...]:
        return (*self.way_up, Stage("seed", self.isolate, (self.layers[-1].name,), ("seed",)), *self.way_down)

    @property
    def way_up(self) -> tuple[Stage, ...]:
        """The stages of the network, before the seed."""
        return tuple(self._up())

    @property
    def way_down(self) -> tuple[Stage, ...]:
        """The stages that lead from the seed to the image."""
        return tuple(self._down())

    def _up(self) -> Iterator[Stage]:
        x = "input"
        for layer in self.layers:
            reads: tuple[str, ...] = (x,)
            gives: tuple[str, ...] = (layer.name,)
            if isinstance(layer.step, Convolution):
                reads += tuple(f"{layer.name}.{name}" for name in layer.step.tensor_shapes if name != "input")
            elif isinstance(layer.step, MaxPool):
                gives += (f"{layer.name}.indices",)
            yield Stage(layer.name, layer.step, reads, gives)
            x = layer.name

    def _down(self) -> Iterator[Stage]:
        signal = "seed"
        before = ["input", *(layer.name for layer in self.layers)]
        last = next(n for n, layer in enumerate(self.layers) if _undone(self, layer))
        for n in reversed(range(len(self.layers))):
            layer = self.layers[n]
            if not _undone(self, layer):
                continue
            gives = "output" if n == last else f"down.{layer.name}"
            step, more = self._undo(n, before[n])
            yield Stage(f"down.{layer.name}", step, (signal, *more), (gives,))
            signal = gives

    def _undo(self, n: int, fed: str) -> tuple[Step, tuple[str, ...]]:
        """The step that undoes layer ``n``, and what it reads beside the signal; ``fed`` is what the layer read."""
        layer = self.layers[n]
        step = layer.step
        if isinstance(step, Convolution):
            bias = self._bias_below(n)
            return transposed(step, bias is not None), (f"{layer.name}.weight", *([bias] if bias else []))
        if isinstance(step, MaxPool):
            return unpooling(step, self.overlap), (f"{layer.name}.indices",)
        if isinstance(step, ResponseNorm):
            return (ResponseNormGradient(step), (fed,)) if self.lrn_down == "gradient" else (step, ())
        assert self.rectify != "none"
        return Rectify(self.rectify), (() if self.rectify == "signal" else (layer.name,))

    def _bias_below(self, n: int) -> str | None:
        """The bias of the next convolution below layer ``n``, where that is to be added."""
        if self.bias_down == "none":
            return None
        for layer in reversed(self.layers[:n]):
            if isinstance(layer.step, Convolution):
                return f"{layer.name}.bias" if layer.step.bias else None
        return None


def _undone(case: Deconvnet, layer: Layer) -> bool:
    """Whether a layer has a stage on the way down; those that are passed through have none."""
    if isinstance(layer.step, ResponseNorm):
        return case.lrn_down != "identity"
    return not isinstance(layer.step, Rectify) or case.rectify != "none"


def transposed(conv: Convolution, bias: bool = False) -> Convolution:
    """The transposed convolution that leads back to the size that a convolution started from."""
    said = isinstance(conv.padding, tuple) and conv.auto_pad is None
    pads = conv.padding if said else tuple((a.begin, max(a.end, 0)) for a in conv.axes)
    assert isinstance(pads, tuple)
    return replace(
        conv,
        id=f"{conv.id}.T",
        op="conv_transpose",
        in_channels=conv.out_channels,
        out_channels=conv.in_channels,
        bias=bias,
        padding=pads,
        auto_pad=None,
        readings=(),
        output_padding=tuple(pair[1] - axis.end for pair, axis in zip(pads, conv.axes, strict=True)),
    )


def unpooling(pool: MaxPool, overlap: Overlap) -> MaxUnpool:
    """The unpooling that leads back to the size that a pooling started from."""
    case = MaxUnpool(
        id=f"{pool.id}.T",
        op="max_unpool",
        dtype=pool.dtype,
        batch=pool.batch,
        channels=pool.channels,
        axes=pool.axes,
        padding=pool.padding,
        overlap=overlap,
    )
    return replace(case, output_size=pool.large) if case.inferred != pool.large else case


NAMES = {"conv": "conv", "max_pool": "pool", "lrn": "norm", "relu": "relu"}


class DeconvnetEntry(Entry):
    """``deconvnet``.  ``input`` is the size of the image, ``layer`` the last layer of the way up (all, if not given).

    A layer is named after what it is and the number of convolutions so far (conv1, relu1, pool1, norm1, conv2 ...),
    unless it gives a name.
    """

    kinds: ClassVar[tuple[str, ...]] = ("exact", "rounding", "gradient")

    op: Literal["deconvnet"]
    in_channels: Positive = 3
    input: SpatialSize
    layers: Layers
    layer: Name | None = None
    channel: ChannelChoice = None
    unit: UnitChoice = None
    isolate: IsolationName = "unit"
    seed: SeedName = "activation"
    overlap: OverlapName = "sum"
    rectify: RectificationName = "signal"
    lrn_down: NormDownName = "identity"
    bias_down: BiasDownName = "none"

    def resolve(self, common: dict[str, Any]) -> Deconvnet:
        layers = tuple(self._layers(common))
        if not any(isinstance(layer.step, Convolution) for layer in layers):
            raise KeyedError("layers", "expected at least one convolution")
        self._check_unit(layers[-1])
        return Deconvnet(
            **common,
            layers=layers,
            isolate=Isolate(self.isolate, self.seed, self.channel, self.unit),
            overlap=self.overlap,
            rectify=self.rectify,
            lrn_down=self.lrn_down,
            bias_down=self.bias_down,
        )

    def refused(self) -> dict[str, str]:
        refused = super().refused() | few_bits(self.dtype)
        if any(kind_of(layer) == "lrn" for layer in self.layers):
            refused |= dict.fromkeys(("exact", "gradient"), "local response normalisation rounds")
        if self.overlap != "sum" or self.bias_down != "none":
            refused["gradient"] = "a gradient adds what overlaps, and no bias"
        return refused

    def _layers(self, common: dict[str, Any]) -> Iterator[Layer]:
        """The layers, up to the chosen one."""
        inner = {key: common[key] for key in ("dtype", "batch")}
        shape: Shape = (self.batch, self.in_channels, *self.input)
        seen: list[str] = []
        convolutions = 0
        for n, written in enumerate(self.layers):
            kind, layer = read_layer(written, n)
            convolutions += kind == "conv"
            name = layer.name or f"{NAMES[kind]}{convolutions or ''}"
            if "." in name:
                raise KeyedError(f"layers.{n}", f"the name {name} has a dot, which tensors and stages have in theirs")
            if name in seen or name in ("input", "output", "seed", "down"):
                raise KeyedError(f"layers.{n}", f"the name {name} stands for two layers; give one a name of its own")
            seen.append(name)
            try:
                step = _step(layer, inner | {"id": f"{common['id']}#{name}"}, shape)
            except KeyedError as error:
                raise KeyedError(f"layers.{n}.{written_key(kind, error.key)}", str(error)) from None
            output = step.result_shapes["output"] if isinstance(step, Case) else shape
            yield Layer(name, step, shape, output)
            shape = output
            if name == self.layer:
                return
        if self.layer is not None:
            raise KeyedError("layer", f"expected one of {', '.join(seen)}, got {self.layer}")

    def _check_unit(self, last: Layer) -> None:
        channels, *size = last.output[1:]
        if self.channel is not None and self.channel >= channels:
            raise KeyedError("channel", f"expected less than the {channels} channels of {last.name}")
        if self.channel is not None and self.isolate == "none":
            raise KeyedError("channel", "expected none beside isolate: none")
        if self.unit is None:
            return
        if self.isolate != "unit":
            raise KeyedError("unit", f"expected none beside isolate: {self.isolate}")
        if len(self.unit) != len(size) or any(u >= s for u, s in zip(self.unit, size, strict=True)):
            raise KeyedError("unit", f"expected a position in {last.name}, whose size is {size}")


def _step(layer: AnyLayer, common: dict[str, Any], shape: Shape) -> LayerStep:
    """What a layer does with maps of that shape."""
    if isinstance(layer, ConvLayer | PoolLayer):
        entry = layer.entry(shape)
        return entry.resolve(common | {"op": entry.op})
    return layer.step()
