"""``adaptive_deconv``: the case, and the model of how it is written in YAML.

An adaptive deconvolutional network (Zeiler, Taylor and Fergus, ICCV 2011) explains an image by feature maps:

    y = F1 U1 F2 U2 ... FL z = R z,        R.T = FL.T ... P2 F2.T P1 F1.T

Fl convolves feature maps with filters down to the layer below, U unpools through switches, P pools through the same
switches.  Pooling is three-dimensional: a window covers neighbouring positions and adjacent maps, and its switch is the
place of the largest absolute value.  With the switches held fixed, R is linear and R.T its adjoint.

Here Fl is a transposed convolution C.T, and Fl.T the convolution C.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from conformance.spec.case import Convolution, Shape
from conformance.spec.convolution import ConvEntry
from conformance.spec.deconvnet import transposed, unpooling
from conformance.spec.fields import (
    DirectionName,
    Entry,
    KeyedError,
    OverlapName,
    Padding,
    PerAxis,
    Positive,
    SpatialSize,
    Strict,
    SwitchesName,
    few_bits,
    per_axis,
)
from conformance.spec.layers import a_list, written_key
from conformance.spec.nested import validated
from conformance.spec.pooling import MaxPool, MaxPoolEntry
from conformance.spec.steps import Chain, Direction, Overlap, Reshape, Stage, Switches, Take


@dataclass(frozen=True, slots=True)
class AdaptiveLayer:
    """``filters`` is Fl.T, from the layer below to the maps; ``pool`` the pooling of the maps, None at the top.

    ``pool`` sees one channel of ``(maps, *spatial)``, so that its windows run over maps too.
    """

    name: str
    filters: Convolution
    pool: MaxPool | None

    @property
    def maps(self) -> Shape:
        return self.filters.small_shape

    @property
    def pooled(self) -> Shape:
        """Shape of what the layer above sees."""
        return self.maps if self.pool is None else (self.pool.batch, *self.pool.small)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveDeconv(Chain):
    """R (``reconstruct``: maps of the top layer to an image) or R.T (``project``: an image to maps of the top layer).

    Tensors: ``input``; ``<layer>.weight`` for each layer; and for each pooled layer either ``<layer>.indices``, its
    switches ``(N, 1, *pooled)``, flat within ``(maps, *spatial)`` (``switches: given``), or ``<layer>.maps``, whose
    pooling gives the switches (``switches: pooled``).
    """

    layers: tuple[AdaptiveLayer, ...]
    direction: Direction = "reconstruct"
    switches: Switches = "given"
    overlap: Overlap = "sum"

    @property
    def _pooled_layers(self) -> tuple[AdaptiveLayer, ...]:
        return tuple(layer for layer in self.layers if layer.pool is not None)

    @property
    def tensor_shapes(self) -> dict[str, Shape]:
        up = self.direction == "project"
        shapes = {"input": self.layers[0].filters.large_shape if up else self.layers[-1].maps}
        shapes |= {f"{layer.name}.weight": layer.filters.weight_shape for layer in self.layers}
        for layer in self._pooled_layers:
            assert layer.pool is not None
            given = self.switches == "given"
            shapes |= {f"{layer.name}.indices": layer.pool.small_shape} if given else {f"{layer.name}.maps": layer.maps}
        return shapes

    @property
    def result_shapes(self) -> dict[str, Shape]:
        up = self.direction == "project"
        return {"output": self.layers[-1].maps if up else self.layers[0].filters.large_shape}

    @property
    def stages(self) -> tuple[Stage, ...]:
        walk = self._project() if self.direction == "project" else self._reconstruct()
        *before, last = (*self._pool(), *walk)
        return (*before, Stage(last.name, last.step, last.reads, ("output",)))

    def _pool(self) -> Iterator[Stage]:
        """The switches, where they are to be found."""
        for layer in self._pooled_layers if self.switches == "pooled" else ():
            assert layer.pool is not None
            name, volume = f"{layer.name}.pool", f"{layer.name}.volume"
            yield Stage(volume, Reshape(layer.pool.large_shape), (f"{layer.name}.maps",), (volume,))
            yield Stage(name, layer.pool, (volume,), (name, f"{layer.name}.indices"))

    def _reconstruct(self) -> Iterator[Stage]:
        signal = "input"
        for layer in reversed(self.layers):
            if layer.pool is not None:
                folded, spread, name = (f"{layer.name}.{what}" for what in ("pooled", "spread", "unpool"))
                yield Stage(folded, Reshape(layer.pool.small_shape), (signal,), (folded,))
                unpool = unpooling(layer.pool, self.overlap)
                yield Stage(name, unpool, (folded, f"{layer.name}.indices"), (name,))
                yield Stage(spread, Reshape(layer.maps), (name,), (spread,))
                signal = spread
            name = f"{layer.name}.filter"
            yield Stage(name, transposed(layer.filters), (signal, f"{layer.name}.weight"), (name,))
            signal = name

    def _project(self) -> Iterator[Stage]:
        signal = "input"
        for layer in self.layers:
            name = f"{layer.name}.filter"
            yield Stage(name, layer.filters, (signal, f"{layer.name}.weight"), (name,))
            signal = name
            if layer.pool is not None:
                folded, spread, name = (f"{layer.name}.{what}" for what in ("unpooled", "pooled", "take"))
                yield Stage(folded, Reshape(layer.pool.large_shape), (signal,), (folded,))
                yield Stage(name, Take(layer.pool.axes), (folded, f"{layer.name}.indices"), (name,))
                yield Stage(spread, Reshape(layer.pooled), (name,), (spread,))
                signal = spread


class AdaptiveLayerKeys(Strict):
    """A layer: its number of feature maps, its filters, and the pooling above it (none at the top)."""

    maps: Positive
    kernel: PerAxis
    stride: PerAxis = 1
    padding: Padding = 0
    pool: SpatialSize | None = None
    pool_stride: SpatialSize | None = None


AdaptiveLayers = Annotated[tuple[Any, ...], a_list(AdaptiveLayerKeys.model_json_schema())]


class AdaptiveDeconvEntry(Entry):
    """``adaptive_deconv``.  ``input`` is the size of the image; layers are named layer1, layer2 ... from the image up.

    ``pool`` of a layer is the size of its windows: maps first, then each spatial axis (at most two of them).
    """

    kinds: ClassVar[tuple[str, ...]] = ("exact", "rounding", "adjoint", "linearity")

    op: Literal["adaptive_deconv"]
    in_channels: Positive = 1
    input: SpatialSize
    layers: AdaptiveLayers
    direction: DirectionName = "reconstruct"
    switches: SwitchesName = "given"
    overlap: OverlapName = "sum"

    def refused(self) -> dict[str, str]:
        refused = super().refused() | few_bits(self.dtype)
        if self.overlap != "sum":
            refused |= dict.fromkeys(("adjoint", "linearity"), f"they do not hold for {self.overlap}")
        return refused

    def resolve(self, common: dict[str, Any]) -> AdaptiveDeconv:
        if len(self.input) > 2:
            raise KeyedError("input", "expected one or two spatial axes: pooling takes the maps as one more")
        inner = {key: common[key] for key in ("dtype", "batch")}
        shape: Shape = (self.batch, self.in_channels, *self.input)
        layers: list[AdaptiveLayer] = []
        for n, written in enumerate(self.layers):
            keys = validated(AdaptiveLayerKeys, written, f"layers.{n}", "required for a layer")
            try:
                layer = _layer(f"layer{n + 1}", keys, inner | {"id": f"{common['id']}#layer{n + 1}"}, shape)
            except KeyedError as error:
                raise KeyedError(f"layers.{n}.{written_key('conv', error.key)}", str(error)) from None
            layers.append(layer)
            shape = layer.pooled
        if layers[-1].pool is not None:
            raise KeyedError(f"layers.{len(layers) - 1}.pool", "expected no pooling above the top layer")
        return AdaptiveDeconv(
            **common,
            layers=tuple(layers),
            direction=self.direction,
            switches=self.switches,
            overlap=self.overlap,
        )


def _layer(name: str, keys: AdaptiveLayerKeys, common: dict[str, Any], shape: Shape) -> AdaptiveLayer:
    written = {key: getattr(keys, key) for key in ("kernel", "stride", "padding")}
    entry = ConvEntry.model_construct(
        op="conv", in_channels=shape[1], out_channels=keys.maps, input=shape[2:], **written
    )
    filters = entry.resolve(common | {"op": "conv"})
    if keys.pool is None:
        if keys.pool_stride is not None:
            raise KeyedError("pool_stride", "expected pool beside it")
        return AdaptiveLayer(name, filters, None)
    volume = filters.small_shape[1:]
    window = per_axis("pool", keys.pool, len(volume))
    stride = window if keys.pool_stride is None else per_axis("pool_stride", keys.pool_stride, len(volume))
    pool = MaxPoolEntry.model_construct(
        op="max_pool", channels=1, input=volume, kernel=window, stride=stride, magnitude=True
    )
    try:
        resolved = pool.resolve(common | {"op": "max_pool", "id": f"{common['id']}.pool"})
    except KeyedError as error:
        raise KeyedError("pool", str(error)) from None
    return AdaptiveLayer(name, filters, resolved)
