"""``deconv_block``: the case, and the model of how it is written in YAML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from conformance.spec.case import Convolution, Shape
from conformance.spec.convolution import ConvTransposeEntry
from conformance.spec.fields import (
    KeyedError,
    OverlapName,
    Padding,
    PerAxis,
    RectificationName,
    Strict,
    Written,
    few_bits,
)
from conformance.spec.nested import validated
from conformance.spec.pooling import MaxUnpool, unpool
from conformance.spec.steps import Chain, Rectification, Rectify, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class DeconvBlock(Chain):
    """One block of a deconvnet: unpool through switches that are given, rectify, filter with C.T.

    Tensors: ``input`` and ``indices`` (the pooled maps and their switches), ``weight`` and ``bias`` of the transposed
    convolution, and ``activation`` where the rectifier reads it.  Stages: ``unpool``, ``rectify``, ``filter``.
    """

    unpool: MaxUnpool
    rectify: Rectification
    filter: Convolution

    @property
    def tensor_shapes(self) -> dict[str, Shape]:
        weights = {name: shape for name, shape in self.filter.tensor_shapes.items() if name != "input"}
        read = {"activation": self.unpool.large_shape} if self.rectify in ("mask", "both") else {}
        return self.unpool.tensor_shapes | weights | read

    @property
    def result_shapes(self) -> dict[str, Shape]:
        return self.filter.result_shapes

    @property
    def stages(self) -> tuple[Stage, ...]:
        weights = tuple(name for name in self.filter.tensor_shapes if name != "input")
        first = Stage("unpool", self.unpool, ("input", "indices"), ("unpool",))
        if self.rectify == "none":
            return (first, Stage("filter", self.filter, ("unpool", *weights), ("output",)))
        more = () if self.rectify == "signal" else ("activation",)
        return (
            first,
            Stage("rectify", Rectify(self.rectify), ("unpool", *more), ("rectify",)),
            Stage("filter", self.filter, ("rectify", *weights), ("output",)),
        )


class UnpoolKeys(Strict):
    """``pool``: the pooling that a block undoes."""

    kernel: PerAxis
    stride: PerAxis | None = None
    padding: Padding | None = None
    output_size: PerAxis | None = None


BlockPool = Annotated[Any, Written(lambda value: value, UnpoolKeys.model_json_schema())]


class DeconvBlockEntry(ConvTransposeEntry):
    """``deconv_block``: the keys of ``conv_transpose``, ``pool`` with those of ``max_unpool``, and the policies.

    ``input`` is the size of the pooled maps; the transposed convolution is fed what unpooling makes of them.
    """

    kinds: ClassVar[tuple[str, ...]] = ("exact", "rounding")

    op: Literal["deconv_block"]  # type: ignore[assignment]
    pool: BlockPool
    overlap: OverlapName = "sum"
    rectify: RectificationName = "signal"

    def refused(self) -> dict[str, str]:
        return super().refused() | few_bits(self.dtype)

    def resolve(self, common: dict[str, Any]) -> DeconvBlock:  # type: ignore[override]
        inner = {key: common[key] for key in ("dtype", "batch")}
        keys = validated(UnpoolKeys, self.pool, "pool", "required for pool")
        written = (keys.kernel, keys.stride, keys.padding, self.overlap, keys.output_size)
        try:
            undone = unpool(
                inner | {"id": f"{common['id']}#unpool", "op": "max_unpool"}, self.in_channels, self.input, *written
            )
        except KeyedError as error:
            raise KeyedError(f"pool.{error.key}", str(error)) from None
        shared = {key: getattr(self, key) for key in ConvTransposeEntry.model_fields if key not in ("op", "input")}
        entry = ConvTransposeEntry.model_construct(op="conv_transpose", input=undone.large, **shared)
        filter = entry.resolve(inner | {"id": f"{common['id']}#filter", "op": "conv_transpose"})
        if filter.readings:
            raise KeyedError("auto_pad", "expected a spelling of the size that can be read one way only")
        return DeconvBlock(**common, unpool=undone, rectify=self.rectify, filter=filter)
