"""The models of ``conv``, ``conv_transpose`` and ``conv_input_gradient`` as they are written in YAML."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from conformance.arithmetic import Axis, Quantities, check_relationship, onnx_readings
from conformance.arithmetic import spellings as spell
from conformance.arithmetic.axis import extent, full_size
from conformance.spec.case import DRAWN_KINDS, PROPERTIES, Convolution
from conformance.spec.fields import (
    AutoPadName,
    Boolean,
    Count,
    Entry,
    KeyedError,
    Padding,
    PerAxis,
    PerAxisOrZero,
    Positive,
    SpatialSize,
    pads_per_axis,
    per_axis,
)

Pair = tuple[int, int]
Pads = tuple[Pair, ...] | spell.Mode
Readings = tuple[tuple[str, tuple[Axis, ...]], ...]

AUTO_PAD_COUNTS = "auto_pad counts, and pads do not"
PADS_COUNT = "pads count, and auto_pad does not"


class ConvolutionEntry(Entry):
    """Keys that the three ops share.  ``input`` is the spatial size of what the op is fed."""

    kinds: ClassVar[tuple[str, ...]] = (*DRAWN_KINDS, "adjoint", "linearity")

    in_channels: Positive = 1
    out_channels: Positive = 1
    groups: Positive = 1
    bias: Boolean = False
    input: SpatialSize
    kernel: PerAxis
    stride: PerAxis = 1
    padding: Padding | None = None
    dilation: PerAxis = 1
    output: SpatialSize | None = None
    relationship: Count | None = None

    def resolve(self, common: dict[str, Any]) -> Convolution:
        for key in ("in_channels", "out_channels"):
            if (channels := getattr(self, key)) % self.groups:
                raise KeyedError(key, f"expected a multiple of groups={self.groups}, got {channels}")
        spelling = self.spelling()
        axes = tuple(self.axis(n, spelling) for n in range(self.rank))
        case = Convolution(
            **common,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            groups=self.groups,
            bias=self.bias,
            axes=axes,
            relationship=self.relationship,
            **spelling,
        )
        self._check_output(case)
        self._check_relationship(case)
        readings = self._readings(case)
        if readings and any(kind in PROPERTIES for kind in case.data):
            raise KeyedError("data", "expected no adjoint or linearity: this spelling can be read in several ways")
        return replace(case, readings=readings)

    def spelling(self) -> dict[str, Any]:
        """How the size is spelled: ``padding`` and its relatives, one value per axis."""
        return {"padding": self.pads()}

    def axis(self, n: int, spelling: dict[str, Any]) -> Axis:
        """The geometry of axis ``n``."""
        raise NotImplementedError

    def pairs(self, n: int, case: Convolution) -> dict[str, Pair]:  # noqa: ARG002
        """Paddings or crops of axis ``n`` by the names of readings, where the specification leaves it open."""
        return {}

    def explicit(self, n: int, case: Convolution, pads: Pair) -> Pair:  # noqa: ARG002
        """The padding or crop that explicit pads of axis ``n`` mean."""
        return pads

    def padded(self, axis: Axis, pair: Pair) -> Axis:
        """The same axis with other padding."""
        raise NotImplementedError

    def _readings(self, case: Convolution) -> Readings:
        """What the case may mean, the first being what it means to us; none where there is no doubt."""
        each = [
            {name: self.padded(axis, pair) for name, pair in self.pairs(n, case).items()}
            for n, axis in enumerate(case.axes)
        ]
        names = dict.fromkeys(name for readings in each for name in readings)
        found = [(name, tuple(r.get(name, axis) for r, axis in zip(each, case.axes, strict=True))) for name in names]
        if case.onnx is not None and case.onnx.pads is not None and case.output_shape is None:
            found = [*(found or [(AUTO_PAD_COUNTS, case.axes)]), (PADS_COUNT, self._beside(case, case.onnx.pads))]
        return tuple(found) if len({axes for _, axes in found}) > 1 else ()

    def _beside(self, case: Convolution, pads: tuple[Pair, ...]) -> tuple[Axis, ...]:
        """The axes if the pads that stand beside ``auto_pad`` are what counts."""
        axes = tuple(self.padded(axis, self.explicit(n, case, pads[n])) for n, axis in enumerate(case.axes))
        if min(min(axis.small, axis.large) for axis in axes) < 1:
            raise KeyedError("onnx.pads", "impossible shape: with these pads there would be no output")
        return axes

    @property
    def rank(self) -> int:
        return len(self.input)

    def per_axis(self, key: str) -> tuple[Any, ...]:
        """The value of ``key`` for each axis."""
        return per_axis(key, getattr(self, key), self.rank)

    def pads(self) -> Pads:
        """``padding`` as ``(begin, end)`` per axis, or the word."""
        return pads_per_axis(self.padding, self.rank)

    def sizes(self, n: int) -> tuple[int, int, int, int]:
        """Input size, kernel, stride and dilation of axis ``n``."""
        return (self.input[n], *(int(self.per_axis(key)[n]) for key in ("kernel", "stride", "dilation")))  # type: ignore[return-value]

    def _check_output(self, case: Convolution) -> None:
        actual = case.result_shapes["output"][2:]
        if min(actual) < 1:
            raise KeyedError("input", f"impossible shape: the output would be {list(actual)}")
        if self.output is not None and self.output != actual:
            raise KeyedError("output", f"expected {list(actual)} by convolution arithmetic, got {list(self.output)}")

    def _check_relationship(self, case: Convolution) -> None:
        if self.relationship is None:
            return
        pads = case.padding
        for n, axis in enumerate(case.axes):
            p = axis.begin
            added = axis.begin - axis.end if case.transposed else 0
            if isinstance(pads, tuple) and not case.transposed and pads[n][0] != pads[n][1]:
                raise KeyedError("relationship", "the guide's relationships need equal padding at both ends")
            size, output = (axis.small, axis.large) if case.transposed else (axis.large, axis.small)
            quantities = Quantities(size, axis.kernel, axis.stride, p, axis.dilation, added)
            try:
                check_relationship(self.relationship, case.transposed, quantities, output)
            except ValueError as error:
                raise KeyedError("relationship", f"axis {n}: {error}") from None


def _convolved(size: int, k: int, s: int, d: int, pads: Pads, n: int) -> tuple[int, Pair]:
    """Output size and padding of a convolution on axis ``n``."""
    ke = extent(k, d)
    if isinstance(pads, tuple):
        pair = pads[n]
    else:
        pair = spell.convolution_same(size, ke, s) if pads == "same" else (0, 0)
    return spell.convolution_size(size, ke, s, pair), pair


class ConvEntry(ConvolutionEntry):
    """``conv``: y = C x, a cross-correlation as all frameworks define it."""

    op: Literal["conv"]
    auto_pad: AutoPadName | None = None

    def spelling(self) -> dict[str, Any]:
        if self.auto_pad in (None, "NOTSET"):
            return {"padding": self.pads(), "auto_pad": self.auto_pad}
        if self.padding is not None:
            raise KeyedError("padding", f"expected no padding beside auto_pad: {self.auto_pad}")
        return {"padding": ((0, 0),) * self.rank, "auto_pad": self.auto_pad}

    def axis(self, n: int, spelling: dict[str, Any]) -> Axis:
        i, k, s, d = self.sizes(n)
        pads: Pads = spelling["padding"]
        if self.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            pair = spell.convolution_same(i, extent(k, d), s, "end" if self.auto_pad == "SAME_UPPER" else "begin")
            pads = (pair,) * self.rank
        o, (begin, _) = _convolved(i, k, s, d, pads, n)
        return Axis(large=i, small=o, kernel=k, stride=s, dilation=d, begin=begin)

    def pairs(self, n: int, case: Convolution) -> dict[str, Pair]:
        axis = case.axes[n]
        return onnx_readings.same_readings(axis.large, axis.extent, axis.stride, self.auto_pad or "NOTSET", case.opset)

    def padded(self, axis: Axis, pair: Pair) -> Axis:
        return replace(axis, begin=pair[0], small=spell.convolution_size(axis.large, axis.extent, axis.stride, pair))


class ConvInputGradientEntry(ConvolutionEntry):
    """``conv_input_gradient``: the gradient of a convolution with respect to its input, C.T applied to what comes back.

    ``input`` is the size of the convolution's own input, so that of the result.
    """

    op: Literal["conv_input_gradient"]
    bias: Literal[False] = False

    def axis(self, n: int, spelling: dict[str, Any]) -> Axis:
        i, k, s, d = self.sizes(n)
        o, (begin, _) = _convolved(i, k, s, d, spelling["padding"], n)
        if o < 1:
            raise KeyedError("input", f"impossible shape: the convolution has no output on axis {n}")
        return Axis(large=i, small=o, kernel=k, stride=s, dilation=d, begin=begin)


class ConvTransposeEntry(ConvolutionEntry):
    """``conv_transpose``: x' = C.T y.

    The size is spelled by ``padding`` with ``output_padding`` or ``output_size`` (PyTorch), by ``padding`` same or
    valid (Keras, TensorFlow), or by ``auto_pad`` or ``output_shape`` (ONNX).
    """

    op: Literal["conv_transpose"]
    output_padding: PerAxisOrZero | None = None
    output_size: PerAxis | None = None
    auto_pad: AutoPadName | None = None
    output_shape: PerAxis | None = None

    def spelling(self) -> dict[str, Any]:
        self._check_combination()
        spelling: dict[str, Any] = {"padding": self.pads(), "auto_pad": self.auto_pad}
        for key in ("output_padding", "output_size", "output_shape"):
            spelling[key] = None if getattr(self, key) is None else self.per_axis(key)
        return spelling

    def pairs(self, n: int, case: Convolution) -> dict[str, Pair]:
        axis = case.axes[n]
        added = case.output_padding[n] if case.output_padding else 0
        size, auto_pad = case.output_shape[n] if case.output_shape else None, self.auto_pad or "NOTSET"
        if size is None and auto_pad in ("NOTSET", "VALID"):
            pads = case.padding[n] if isinstance(case.padding, tuple) else (0, 0)
            return onnx_readings.added_readings(pads, added, case.opset)
        return onnx_readings.transposed_readings(
            axis.small, axis.extent, axis.stride, added, size, auto_pad, case.opset
        )

    def explicit(self, n: int, case: Convolution, pads: Pair) -> Pair:
        return spell.explicit_transposed(pads, case.output_padding[n] if case.output_padding else 0)

    def padded(self, axis: Axis, pair: Pair) -> Axis:
        return replace(axis, begin=pair[0], large=axis.full - sum(pair))

    def _check_combination(self) -> None:
        onnx = "output_shape" if self.output_shape else self.auto_pad and f"auto_pad: {self.auto_pad}"
        if onnx and self.padding is not None and not (self.auto_pad == "NOTSET" and not self.output_shape):
            raise KeyedError("padding", f"expected no padding beside {onnx}")
        if self.output_size is not None:
            for key in ("output_padding", "auto_pad", "output_shape"):
                if getattr(self, key) is not None:
                    raise KeyedError(key, "expected no other spelling of the size beside output_size")
            if isinstance(self.padding, str):
                raise KeyedError("padding", "expected numbers beside output_size")

    def axis(self, n: int, spelling: dict[str, Any]) -> Axis:
        i, k, s, d = self.sizes(n)
        begin, end = self._crop(n, i, extent(k, d), s, max(s, d), spelling)
        large = full_size(i, extent(k, d), s) - begin - end
        return Axis(large=large, small=i, kernel=k, stride=s, dilation=d, begin=begin)

    def _crop(self, n: int, i: int, ke: int, s: int, limit: int, spelling: dict[str, Any]) -> Pair:
        """The crop of axis ``n``; ``limit`` is what output_padding has to stay below."""
        pads: Pads = spelling["padding"]
        auto_pad: spell.AutoPad = self.auto_pad or "NOTSET"
        added: int | None = spelling["output_padding"] and spelling["output_padding"][n]
        if added is not None and added >= limit:
            raise KeyedError("output_padding", f"expected less than max(stride, dilation) = {limit}, got {added}")
        if spelling["output_shape"] is not None:
            return spell.onnx_transposed_shape(i, ke, s, added or 0, spelling["output_shape"][n], auto_pad)
        if auto_pad != "NOTSET":
            return spell.onnx_transposed_auto(i, ke, s, added or 0, auto_pad)
        if not isinstance(pads, tuple):
            return spell.keras_transposed(i, ke, s, pads, added)
        if spelling["output_size"] is not None:
            size = spelling["output_size"][n]
            added = spell.output_padding_for_size(i, ke, s, pads[n], size)
            if not 0 <= added < s:  # PyTorch's own rule, narrower than that of output_padding
                low = size - added
                raise KeyedError("output_size", f"expected {low} to {low + s - 1} on axis {n}, got {size}")
        return spell.explicit_transposed(pads[n], added or 0)
