"""``conv_block``: the case, and the model of how it is written in YAML.

Graphs that invite a runtime to fuse and to change layouts: batch normalisation folds into the weights before it, the
rectifier becomes the end of the convolution, explicit padding becomes the convolution's own, and two filters in a row
may stay in a blocked layout.  All of that changes roundings only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np

from conformance.arithmetic.spellings import Pair
from conformance.dtypes import FORMATS
from conformance.spec.case import Convolution, Shape
from conformance.spec.convolution import ConvEntry, ConvTransposeEntry
from conformance.spec.fields import (
    AutoPadName,
    Boolean,
    Entry,
    KeyedError,
    Padding,
    PerAxis,
    PerAxisOrZero,
    Positive,
    Real,
    Rows,
    SmallInteger,
    SpatialSize,
    Strict,
    Written,
    few_bits,
    pads_per_axis,
    show,
)
from conformance.spec.nested import validated
from conformance.spec.steps import BatchNorm, Chain, NormedConvolution, Pad, Rectify, Stage, Step

NORM_TENSORS = ("scale", "shift", "mean", "variance")
DEFAULT_EPSILON = 1e-5
_PREFIXES = ("", "then.")
_ONLY_TRANSPOSED = ("output_padding", "output_size", "output_shape")


@dataclass(frozen=True, slots=True)
class FilterBlock:
    """A filter and what stands around it: padding before it, batch normalisation and the rectifier after it."""

    filter: Convolution
    pad: Pad | None = None
    batch_norm: BatchNorm | None = None
    rectify: bool = False

    @property
    def parameters(self) -> dict[str, Shape]:
        """Shapes of what belongs to the model."""
        weights = {name: shape for name, shape in self.filter.tensor_shapes.items() if name != "input"}
        per_channel = dict.fromkeys(NORM_TENSORS if self.batch_norm else (), (self.filter.out_channels,))
        return weights | per_channel

    def steps(self, merged: bool) -> Iterator[tuple[str, Step, tuple[str, ...]]]:
        """Names, steps, and the parameters that they read beside what came before."""
        weights = tuple(name for name in self.parameters if name not in NORM_TENSORS)
        if self.pad is not None:
            yield "pad", self.pad, ()
        if self.batch_norm is None or not merged:
            yield "filter", self.filter, weights
        if self.batch_norm is not None:
            alone = "batch_norm", self.batch_norm, NORM_TENSORS
            both = "batch_norm", NormedConvolution(self.filter, self.batch_norm), (*weights, *NORM_TENSORS)
            yield both if merged else alone
        if self.rectify:
            yield "rectify", Rectify(), ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvBlock(Chain):
    """One filter or two in a row, each with padding, batch normalisation and a rectifier around it, or without.

    Tensors: ``input``, ``weight``, ``bias`` and, of the batch normalisation, ``scale``, ``shift``, ``mean`` and
    ``variance``; those of the second filter begin with ``then.``.  Stages: ``pad``, ``filter``, ``batch_norm`` and
    ``rectify``, and the same with ``then.``.  Targets return the result only.
    """

    tells_stages: ClassVar[bool] = False

    size: Shape
    blocks: tuple[FilterBlock, ...]

    @property
    def tensor_shapes(self) -> dict[str, Shape]:
        fed = {"input": (self.batch, self.blocks[0].filter.in_channels, *self.size)}
        return fed | {
            prefix + name: shape
            for prefix, block in zip(_PREFIXES, self.blocks, strict=False)
            for name, shape in block.parameters.items()
        }

    @property
    def result_shapes(self) -> dict[str, Shape]:
        return self.blocks[-1].filter.result_shapes

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self._stages(merged=False)

    @property
    def merged(self) -> tuple[Stage, ...]:
        """The same with each filter and its batch normalisation as one."""
        return self._stages(merged=True)

    def _stages(self, merged: bool) -> tuple[Stage, ...]:
        stages: list[Stage] = []
        for prefix, block in zip(_PREFIXES, self.blocks, strict=False):
            for name, step, parameters in block.steps(merged):
                signal = stages[-1].gives[0] if stages else "input"
                reads = (signal, *(prefix + parameter for parameter in parameters))
                stages.append(Stage(prefix + name, step, reads, (prefix + name,)))
        *before, last = stages
        return (*before, Stage(last.name, last.step, last.reads, ("output",)))


class NormKeys(Strict):
    """``batch_norm``, where it is not just ``true``."""

    epsilon: Real = DEFAULT_EPSILON


NormKey = Annotated[Any, Written(lambda value: value, {"anyOf": [{"type": "boolean"}, NormKeys.model_json_schema()]})]


class BlockKeys(Strict):
    """A filter, by the keys of ``conv`` or ``conv_transpose``, and what stands around it.

    ``pad`` is ``padding`` as a step of its own, rows of ``pad_value`` (negative: dropped) around what the filter is
    fed.  ``batch_norm`` is true or ``{epsilon: 1e-5}``.
    """

    filter: Literal["conv", "conv_transpose"] = "conv"
    out_channels: Positive = 1
    groups: Positive = 1
    bias: Boolean = False
    kernel: PerAxis
    stride: PerAxis = 1
    padding: Padding | None = None
    dilation: PerAxis = 1
    auto_pad: AutoPadName | None = None
    output_padding: PerAxisOrZero | None = None
    output_size: PerAxis | None = None
    output_shape: PerAxis | None = None
    pad: Rows | None = None
    pad_value: SmallInteger = 0
    batch_norm: NormKey = False
    rectify: Literal["signal", "none"] = "none"

    def norm(self) -> BatchNorm | None:
        """The batch normalisation, if there is one.  Raises KeyedError."""
        if isinstance(self.batch_norm, bool):
            return BatchNorm(_single(DEFAULT_EPSILON)) if self.batch_norm else None
        if not isinstance(self.batch_norm, dict):
            said = show(self.batch_norm)
            raise KeyedError("batch_norm", f"expected true, false or a mapping with epsilon, got {said}")
        keys = validated(NormKeys, self.batch_norm, "batch_norm", "required for batch_norm")
        if not np.finfo(np.float32).tiny <= keys.epsilon <= 1:
            said = show(keys.epsilon)
            raise KeyedError("batch_norm.epsilon", f"expected a number > 0, at most 1, that float32 holds, got {said}")
        return BatchNorm(_single(keys.epsilon))

    def block(self, common: dict[str, Any], channels: int, size: Shape) -> FilterBlock:
        """The block that is fed so many maps of that size.  Raises KeyedError."""
        pad = self._pad(size)
        filter = self._filter(common, channels, size if pad is None else pad.size(size))
        return FilterBlock(filter, pad, self.norm(), self.rectify == "signal")

    def _pad(self, size: Shape) -> Pad | None:
        if self.pad is None:
            if self.pad_value:
                raise KeyedError("pad_value", "expected pad beside it")
            return None
        ends = cast(tuple[Pair, ...], pads_per_axis(self.pad, len(size), "pad"))
        for n, (rows, (begin, end)) in enumerate(zip(size, ends, strict=True)):
            if rows + min(begin, 0) + min(end, 0) < 1:
                raise KeyedError("pad", f"expected to keep some of the {rows} rows of axis {n}, got {[begin, end]}")
        return Pad(ends, float(self.pad_value))

    def _filter(self, common: dict[str, Any], channels: int, size: Shape) -> Convolution:
        transposed = self.filter == "conv_transpose"
        for key in () if transposed else _ONLY_TRANSPOSED:
            if getattr(self, key) is not None:
                raise KeyedError(key, "expected filter: conv_transpose beside it")
        model = ConvTransposeEntry if transposed else ConvEntry
        shared = {key: getattr(self, key) for key in model.model_fields if key in type(self).model_fields}
        own = {"op": self.filter, "in_channels": channels, "input": size, "output": None}
        resolved = model.model_construct(**(shared | own)).resolve(common | {"op": self.filter})
        if resolved.readings:
            raise KeyedError("auto_pad", "expected a spelling of the size that can be read one way only")
        return resolved


ThenKey = Annotated[Any, Written(lambda value: value, BlockKeys.model_json_schema())]


class ConvBlockEntry(BlockKeys, Entry):
    """``conv_block``: pad, filter, batch normalisation, rectifier; ``then`` has the keys of a second filter.

    ``input`` is the size of what the block is fed, before it is padded; ``output`` that of the result.
    """

    kinds: ClassVar[tuple[str, ...]] = ("exact", "rounding")

    op: Literal["conv_block"]
    in_channels: Positive = 1
    input: SpatialSize
    then: ThenKey | None = None
    output: SpatialSize | None = None

    def refused(self) -> dict[str, str]:
        refused = super().refused() | few_bits(self.dtype)
        for keys in filter(None, (self, self._second())):
            norm = keys.norm()
            if norm is not None and not norm.roots(FORMATS[self.dtype]):
                said = f"no variance of {self.dtype} gives a power of 4 with epsilon {norm.epsilon:.9g}"
                refused.setdefault("exact", said)
        return refused

    def resolve(self, common: dict[str, Any]) -> ConvBlock:
        inner = {key: common[key] for key in ("dtype", "batch")}
        blocks = [self.block(inner | {"id": f"{common['id']}#filter"}, self.in_channels, self.input)]
        if (then := self._second()) is not None:
            fed = blocks[0].filter.result_shapes["output"]
            try:
                blocks.append(then.block(inner | {"id": f"{common['id']}#then.filter"}, fed[1], fed[2:]))
            except KeyedError as error:
                raise KeyedError(f"then.{_written(error.key)}", str(error)) from None
        case = ConvBlock(**common, size=self.input, blocks=tuple(blocks))
        actual = case.result_shapes["output"][2:]
        if self.output is not None and self.output != actual:
            raise KeyedError("output", f"expected {list(actual)} by convolution arithmetic, got {list(self.output)}")
        return case

    def _second(self) -> BlockKeys | None:
        if self.then is None:
            return None
        keys = validated(BlockKeys, self.then, "then", "required for then")
        try:
            keys.norm()
        except KeyedError as error:
            raise KeyedError(f"then.{error.key}", str(error)) from None
        return keys


def _written(key: str) -> str:
    """A key of an op as ``then`` writes it, which is told neither size nor maps."""
    return {"input": "kernel", "in_channels": "groups"}.get(key, key)


def _single(number: float) -> float:
    """The number of float32 that is nearest."""
    return float(np.float32(number))
