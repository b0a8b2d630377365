"""How the layers of a network are written: a list of mappings, or of words where a layer needs no more."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic_core import PydanticCustomError

from conformance.spec.case import Shape
from conformance.spec.convolution import ConvEntry
from conformance.spec.fields import (
    Boolean,
    KeyedError,
    Name,
    Padding,
    PerAxis,
    Positive,
    Real,
    Strict,
    Written,
    show,
)
from conformance.spec.nested import validated
from conformance.spec.pooling import MaxPoolEntry
from conformance.spec.steps import Rectify, ResponseNorm

MAX_LAYERS = 100


class ReluLayer(Strict):
    """``relu``."""

    relu: Literal[True] = True
    name: Name | None = None

    def step(self) -> Rectify:
        return Rectify()


class ConvLayer(Strict):
    """``conv: <number of filters>``."""

    conv: Positive
    kernel: PerAxis
    stride: PerAxis = 1
    padding: Padding = 0
    dilation: PerAxis = 1
    groups: Positive = 1
    bias: Boolean = True
    name: Name | None = None

    def entry(self, shape: Shape) -> ConvEntry:
        return ConvEntry.model_construct(
            op="conv",
            in_channels=shape[1],
            out_channels=self.conv,
            input=shape[2:],
            **{key: getattr(self, key) for key in ("kernel", "stride", "padding", "dilation", "groups", "bias")},
        )


class PoolLayer(Strict):
    """``max_pool: <kernel>``."""

    max_pool: PerAxis
    stride: PerAxis | None = None
    padding: Padding = 0
    dilation: PerAxis = 1
    ceil_mode: Boolean = False
    name: Name | None = None

    def entry(self, shape: Shape) -> MaxPoolEntry:
        return MaxPoolEntry.model_construct(
            op="max_pool",
            channels=shape[1],
            input=shape[2:],
            kernel=self.max_pool,
            **{key: getattr(self, key) for key in ("stride", "padding", "dilation", "ceil_mode")},
        )


class NormLayer(Strict):
    """``lrn: <number of channels>``, local response normalisation with PyTorch's defaults."""

    lrn: Positive
    alpha: Real = 1e-4
    beta: Real = 0.75
    k: Real = 1.0
    name: Name | None = None

    def step(self) -> ResponseNorm:
        if self.lrn % 2 == 0:
            raise KeyedError("lrn", f"expected an odd number of channels, got {self.lrn}")
        if self.k == 0:
            raise KeyedError("k", "expected a number > 0, got 0")
        return ResponseNorm(self.lrn, self.alpha, self.beta, self.k)


AnyLayer = ReluLayer | ConvLayer | PoolLayer | NormLayer
LAYERS: dict[str, type[AnyLayer]] = {"conv": ConvLayer, "relu": ReluLayer, "max_pool": PoolLayer, "lrn": NormLayer}


def kind_of(written: Any) -> str | None:
    """The kind of a layer as it is written; None where it is none, or more than one."""
    if isinstance(written, str):
        return written if written == "relu" else None
    kinds = [kind for kind in LAYERS if isinstance(written, dict) and kind in written]
    return kinds[0] if len(kinds) == 1 else None


def read_layer(written: Any, n: int) -> tuple[str, AnyLayer]:
    """Kind and keys of layer ``n``.  Raises KeyedError."""
    where = f"layers.{n}"
    kind = kind_of(written)
    if kind is None:
        raise KeyedError(where, f"expected a layer with one of {', '.join(LAYERS)}, got {show(written)}")
    values = {} if isinstance(written, str) else written
    return kind, validated(LAYERS[kind], values, where, f"required for a {kind} layer")


def written_key(kind: str, key: str) -> str:
    """A key of an op as a layer writes it."""
    own = {"input": "kernel", "in_channels": "groups", "out_channels": "conv"}
    if kind == "max_pool":
        own = {"input": "max_pool", "kernel": "max_pool"}
    return own.get(key, key)


def a_list(schema: dict[str, Any]) -> Written:
    """A list of layers, each as it is written; ``schema`` is that of one."""

    def parse(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_LAYERS:
            raise PydanticCustomError("expected", f"expected a list of 1 to {MAX_LAYERS} layers")
        return tuple(value)

    return Written(parse, {"type": "array", "items": schema, "minItems": 1, "maxItems": MAX_LAYERS})


_LAYER: dict[str, Any] = {
    "anyOf": [{"const": "relu"}, *({**model.model_json_schema(), "required": [k]} for k, model in LAYERS.items())]
}
Layers = Annotated[tuple[Any, ...], a_list(_LAYER)]
