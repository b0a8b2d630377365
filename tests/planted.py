"""A target written from the definition in plain NumPy, and the mistakes that can be planted in it.

``Planted()`` computes what it should; ``Planted(mistake="stride-axes-exchanged")`` makes one mistake of `MISTAKES`.  A
worker makes it from this very file, because it defines ``target``.  It shares no code with the oracle: there every tap
is a slice of a column matrix, here every tap says which large position it joins with which small one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np

from conformance.arithmetic import Axis
from conformance.spec import Convolution

Axes = tuple[Axis, ...]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One convolution to be done: tensors in the dtype in which sums are made, results to be cast to ``dtype``."""

    op: str
    axes: Axes
    groups: int
    x: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    dtype: np.dtype[Any]
    added: tuple[int, ...]
    """``output_padding`` of each axis; 0 where there is none."""

    @property
    def channels(self) -> int:
        return self.weight.shape[0] if self.op == "conv" else self.weight.shape[1] * self.groups

    @property
    def spatial(self) -> tuple[int, ...]:
        return tuple(a.small if self.op == "conv" else a.large for a in self.axes)


# ---- The definition ----


def joined(axis: Axis) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each tap, the large positions ``j = m s - b + t d`` that exist and the small positions m that they join."""
    for t in range(axis.kernel):
        m = np.arange(axis.small)
        j = m * axis.stride - axis.begin + t * axis.dilation
        exists = (j >= 0) & (j < axis.large)
        yield j[exists], m[exists]


def taps(axes: Axes) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...], tuple[Any, ...]]]:
    """Each tap, and as indices of the spatial axes the large and the small positions that it joins."""
    per_axis = [list(joined(axis)) for axis in axes]
    for tap in np.ndindex(*(axis.kernel for axis in axes)):
        large, small = zip(*(pairs[t] for pairs, t in zip(per_axis, tap, strict=True)), strict=True)
        yield tap, (..., *np.ix_(*large)), (..., *np.ix_(*small))


def compute(work: Work) -> np.ndarray:
    """y[k, m] = sum of x[c, j] w[k, c, t], or transposed x[c, j] = sum of y[k, m] w[k, c, t], and the bias."""
    g, n, k = work.groups, work.x.shape[0], work.weight.shape[0]
    x = work.x.reshape(n, g, -1, *work.x.shape[2:])
    weight = work.weight.reshape(g, k // g, *work.weight.shape[1:])
    result = np.zeros((n, g, work.channels // g, *work.spatial), x.dtype)
    for tap, large, small in taps(work.axes):
        w = weight[(..., *tap)]
        if work.op == "conv":
            result[small] += np.einsum("ngc...,gkc->ngk...", x[large], w)
        else:
            result[large] += np.einsum("ngk...,gkc->ngc...", x[small], w)
    return with_bias(work, result.reshape(n, work.channels, *work.spatial))


def with_bias(work: Work, result: np.ndarray) -> np.ndarray:
    return result if work.bias is None else result + work.bias.reshape(-1, *[1] * len(work.axes))


# ---- Mistakes ----


@dataclass(frozen=True)
class Mistake:
    """What goes wrong, and what has to come of it.

    ``verdicts`` are the failing verdicts that it may get, with the arithmetic that a ``reduced`` one has to name; the
    first of them has to come at least once.  ``where`` says in which cases it shows: ``values`` (any, and exact data
    tells), ``rounding`` (data that must be rounded tells more), ``formats`` (cases of other dtypes), ``edge``.
    """

    verdicts: tuple[str, ...]
    where: str = "values"
    before: Callable[[Work], Work] = lambda work: work
    instead: Callable[[Work], Any] = compute
    after: Callable[[Work, np.ndarray], Any] = lambda _, result: result


MISTAKES: dict[str, Mistake] = {}
DEVIATES = ("deviates",)


def planted(stage: str, *verdicts: str, where: str = "values") -> Callable[[Any], Any]:
    """Put a function into `MISTAKES` under its name, dashes for underscores."""

    def keep(function: Any) -> Any:
        MISTAKES[function.__name__.replace("_", "-")] = Mistake(verdicts or DEVIATES, where, **{stage: function})
        return function

    return keep


def exchanged(axes: Axes, *names: str) -> Axes:
    """The last two axes, each with the other's values of some attributes."""
    if len(axes) < 2:
        return axes
    *rest, a, b = axes
    return (*rest, replace(a, **{n: getattr(b, n) for n in names}), replace(b, **{n: getattr(a, n) for n in names}))


def each(work: Work, change: Callable[[Axis], Axis]) -> Work:
    return replace(work, axes=tuple(map(change, work.axes)))


def grouped(work: Work) -> np.ndarray:
    """The weight as (groups, small channels of a group, large channels of a group, *kernel)."""
    return work.weight.reshape(work.groups, -1, *work.weight.shape[1:])


# Kernels


@planted("before")
def kernel_turned(work: Work) -> Work:
    return replace(work, weight=np.flip(work.weight, tuple(range(2, work.weight.ndim))))


@planted("before")
def kernel_turned_on_the_last_axis(work: Work) -> Work:
    return replace(work, weight=np.flip(work.weight, -1))


@planted("before")
def kernel_axes_exchanged(work: Work) -> Work:
    square = work.weight.ndim > 3 and work.weight.shape[-1] == work.weight.shape[-2]
    return replace(work, weight=work.weight.swapaxes(-1, -2) if square else work.weight)


@planted("before")
def kernel_read_in_the_order_of_another_layout(work: Work) -> Work:
    channels_last = np.moveaxis(work.weight, (0, 1), (-1, -2))
    return replace(work, weight=np.ascontiguousarray(channels_last).reshape(work.weight.shape))


@planted("before")
def last_tap_dropped(work: Work) -> Work:
    weight = work.weight.copy()
    weight[(..., *[-1] * len(work.axes))] = 0
    return replace(work, weight=weight)


@planted("before")
def convolution_for_its_transpose(work: Work) -> Work:
    ones = all(a.stride == 1 and a.large == a.small and a.begin == a.end for a in work.axes)
    if not ones or work.groups > 1 or work.weight.shape[0] != work.weight.shape[1]:
        return work
    return replace(work, op="conv" if work.op != "conv" else "conv_transpose")


# Channels, groups and batch


@planted("before")
def channel_axes_exchanged(work: Work) -> Work:
    w = grouped(work)
    return replace(work, weight=(w.swapaxes(1, 2) if w.shape[1] == w.shape[2] else w).reshape(work.weight.shape))


@planted("before")
def channel_axes_exchanged_over_all_groups(work: Work) -> Work:
    if work.groups == 1 or work.weight.shape[0] != work.weight.shape[1] * work.groups:
        return work
    return replace(work, weight=work.weight.swapaxes(0, 1).reshape(work.weight.shape))


@planted("before")
def input_channels_reversed(work: Work) -> Work:
    return replace(work, x=work.x[:, ::-1])


@planted("after")
def output_groups_interleaved(work: Work, result: np.ndarray) -> np.ndarray:
    n, c = result.shape[:2]
    return result.reshape(n, work.groups, c // work.groups, -1).swapaxes(1, 2).reshape(result.shape)


@planted("before")
def input_groups_interleaved(work: Work) -> Work:
    n, c = work.x.shape[:2]
    x = work.x.reshape(n, c // work.groups, work.groups, -1).swapaxes(1, 2).reshape(work.x.shape)
    return replace(work, x=x)


@planted("before")
def first_group_for_all(work: Work) -> Work:
    return replace(work, weight=np.concatenate([grouped(work)[0]] * work.groups))


@planted("after")
def first_image_for_all(_: Work, result: np.ndarray) -> np.ndarray:
    return np.repeat(result[:1], len(result), axis=0)


@planted("before")
def channels_last_read_as_channels_first(work: Work) -> Work:
    return replace(work, x=np.ascontiguousarray(np.moveaxis(work.x, 1, -1)).reshape(work.x.shape))


@planted("before")
def spatial_axes_exchanged_of_input(work: Work) -> Work:
    square = work.x.ndim > 3 and work.x.shape[-1] == work.x.shape[-2]
    return replace(work, x=work.x.swapaxes(-1, -2) if square else work.x)


# Bias


@planted("before")
def bias_dropped(work: Work) -> Work:
    return replace(work, bias=None)


@planted("before")
def bias_doubled(work: Work) -> Work:
    return replace(work, bias=None if work.bias is None else work.bias * 2)


@planted("before")
def bias_of_the_next_channel(work: Work) -> Work:
    return replace(work, bias=None if work.bias is None else np.roll(work.bias, 1))


@planted("instead")
def bias_only_where_a_kernel_reaches(work: Work) -> np.ndarray:
    ones = replace(work, x=np.ones_like(work.x), weight=np.ones_like(work.weight), bias=None)
    reached = compute(ones) != 0
    return np.where(reached, compute(work), compute(replace(work, bias=None)))


@planted("instead")
def bias_with_every_tap(work: Work) -> np.ndarray:
    total = compute(replace(work, bias=None))
    return total if work.bias is None else total + work.bias.reshape(-1, *[1] * len(work.axes)) * work.weight[0, 0].size


# Strides, dilations and paddings


@planted("before")
def all_parameters_of_the_other_axis(work: Work) -> Work:
    return replace(work, axes=exchanged(work.axes, "stride", "dilation", "begin"))


@planted("before")
def stride_of_the_other_axis(work: Work) -> Work:
    return replace(work, axes=exchanged(work.axes, "stride"))


@planted("before")
def dilation_of_the_other_axis(work: Work) -> Work:
    return replace(work, axes=exchanged(work.axes, "dilation"))


@planted("before")
def padding_of_the_other_axis(work: Work) -> Work:
    return replace(work, axes=exchanged(work.axes, "begin"))


@planted("before")
def stride_and_dilation_exchanged(work: Work) -> Work:
    return each(work, lambda a: replace(a, stride=a.dilation, dilation=a.stride))


@planted("before")
def dilation_ignored(work: Work) -> Work:
    return each(work, lambda a: replace(a, dilation=1))


@planted("before")
def stride_ignored(work: Work) -> Work:
    return each(work, lambda a: replace(a, stride=1))


@planted("before")
def padding_ignored(work: Work) -> Work:
    return each(work, lambda a: replace(a, begin=0))


@planted("before")
def padding_times_dilation(work: Work) -> Work:
    return each(work, lambda a: replace(a, begin=a.begin * a.dilation))


@planted("before")
def sides_of_padding_exchanged(work: Work) -> Work:
    return work if work.op == "conv" else each(work, lambda a: replace(a, begin=a.end))


@planted("before")
def output_padding_at_the_beginning(work: Work) -> Work:
    axes = (replace(a, begin=a.begin - p) for a, p in zip(work.axes, work.added, strict=True))
    return replace(work, axes=tuple(axes))


@planted("after")
def output_padding_appended_as_zeros(work: Work, result: np.ndarray) -> np.ndarray:
    for n, added in enumerate(work.added):
        result[(..., slice(result.shape[2 + n] - added, None), *[slice(None)] * (len(work.added) - 1 - n))] = 0
    return result


@planted("before")
def shifted_by_one_pixel(work: Work) -> Work:
    *rest, last = work.axes
    return replace(work, axes=(*rest, replace(last, begin=last.begin + 1)))


# Sums


@planted("instead")
def overlaps_overwritten(work: Work) -> np.ndarray:
    if work.op == "conv" or work.groups > 1:
        return compute(work)
    result = np.zeros((len(work.x), work.channels, *work.spatial), work.x.dtype)
    for tap, large, small in taps(work.axes):
        result[large] = np.einsum("nk...,kc->nc...", work.x[small], work.weight[(..., *tap)])
    return with_bias(work, result)


@planted("after")
def last_row_not_computed(_: Work, result: np.ndarray) -> np.ndarray:
    result[..., -1] = 0
    return result


@planted("after")
def last_channel_not_computed(_: Work, result: np.ndarray) -> np.ndarray:
    result[:, -1] = 0
    return result


@planted("after")
def rectified(_: Work, result: np.ndarray) -> np.ndarray:
    return np.maximum(result, 0)


@planted("after")
def negated(_: Work, result: np.ndarray) -> np.ndarray:
    return -result


@planted("after")
def one_element_off_by_a_thousandth(_: Work, result: np.ndarray) -> np.ndarray:
    at = np.abs(result).argmax()
    result.reshape(-1)[at] *= np.float32(1.001)
    return result


@planted("after")
def one_element_not_a_number(_: Work, result: np.ndarray) -> np.ndarray:
    result.reshape(-1)[-1] = np.nan
    return result


@planted("after")
def one_element_infinite(_: Work, result: np.ndarray) -> np.ndarray:
    result.reshape(-1)[-1] = np.inf
    return result


@planted("after")
def uninitialised(work: Work, result: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(zlib.crc32(work.x.tobytes())).bytes(result.size * work.dtype.itemsize)
    return np.frombuffer(noise, work.dtype).reshape(result.shape)


@planted("after")
def zeros(_: Work, result: np.ndarray) -> np.ndarray:
    return np.zeros_like(result)


# Arithmetic


def cut(x: np.ndarray, bits: int) -> np.ndarray:
    """float32 with the last bits of its significand cut off."""
    unit = 1 << (24 - bits)
    return (x.view(np.uint32) // unit * unit).view(np.float32)


def round_to(x: np.ndarray, bits: int, ties: str) -> np.ndarray:
    """float32 rounded to fewer significant bits; ``ties`` to even (IEEE 754) or away (PTX ``cvt.rna.tf32.f32``)."""
    fraction, exponent = np.frexp(x)
    scaled = np.ldexp(fraction.astype(np.float64), bits)
    whole = np.rint(scaled) if ties == "even" else np.trunc(scaled + np.copysign(0.5, scaled))
    return np.ldexp(whole, exponent - bits).astype(np.float32)


def through(x: np.ndarray, dtype: Any) -> np.ndarray:
    return x.astype(dtype).astype(x.dtype)


def operands(work: Work, change: Callable[[np.ndarray], np.ndarray]) -> Work:
    return replace(work, x=change(work.x), weight=change(work.weight)) if work.dtype == np.float32 else work


@planted("before", "reduced to tf32", where="rounding")
def operands_rounded_to_tf32(work: Work) -> Work:
    return operands(work, lambda x: round_to(x, 11, ties="even"))


@planted("before", "reduced to tf32", where="rounding")
def operands_rounded_to_tf32_ties_away(work: Work) -> Work:
    return operands(work, lambda x: round_to(x, 11, ties="away"))


@planted("before", "reduced to tf32", where="rounding")
def operands_cut_to_tf32(work: Work) -> Work:
    return operands(work, lambda x: cut(x, 11))


@planted("before", "reduced to tf32", where="rounding")
def input_rounded_to_tf32(work: Work) -> Work:
    return replace(work, x=operands(work, lambda x: round_to(x, 11, ties="even")).x)


# float16 has the bits of tf32, so that only exponents tell them apart; what overflows is no reduction any more
@planted("before", "reduced to tf32", "reduced to float16-operands", "deviates", where="rounding")
def weights_kept_in_float16(work: Work) -> Work:
    return replace(work, weight=operands(work, lambda x: through(x, np.float16)).weight)


@planted("before", "reduced to bfloat16-operands", where="rounding")
def operands_rounded_to_bfloat16(work: Work) -> Work:
    return operands(work, lambda x: through(x, ml_dtypes.bfloat16))


@planted("before", "reduced to bfloat16-operands", where="rounding")
def weights_cut_to_bfloat16(work: Work) -> Work:
    return replace(work, weight=operands(work, lambda x: cut(x, 8)).weight)


@planted("before", "reduced to float32", where="formats")
def float32_for_float64(work: Work) -> Work:
    if work.dtype != np.float64:
        return work
    bias = None if work.bias is None else work.bias.astype(np.float32)
    return replace(work, x=work.x.astype(np.float32), weight=work.weight.astype(np.float32), bias=bias)


@planted("before", "reduced to bfloat16-operands", where="formats")
def bfloat16_for_float16(work: Work) -> Work:
    if work.dtype != np.float16:
        return work
    return replace(work, x=through(work.x, ml_dtypes.bfloat16), weight=through(work.weight, ml_dtypes.bfloat16))


def _sums_in_16_bits(work: Work, dtype: Any) -> np.ndarray:
    """Every product and every partial sum rounded, channel by channel."""
    if work.dtype != dtype or work.op == "conv" or work.groups > 1:
        return compute(work)
    result = np.zeros((len(work.x), work.channels, *work.spatial), dtype)
    for tap, large, small in taps(work.axes):
        for k in range(work.weight.shape[0]):
            product = work.x[:, k : k + 1][small].astype(np.float32) * np.expand_dims(
                work.weight[k][(..., *tap)].astype(np.float32), tuple(range(1, len(work.axes) + 1))
            )
            result[large] = (result[large].astype(np.float32) + product.astype(dtype).astype(np.float32)).astype(dtype)
    return with_bias(work, result.astype(np.float32)).astype(dtype)


@planted("instead", "reduced to float16-sums", where="formats")
def sums_in_float16(work: Work) -> np.ndarray:
    return _sums_in_16_bits(work, np.float16)


@planted("instead", "reduced to bfloat16-sums", where="formats")
def sums_in_bfloat16(work: Work) -> np.ndarray:
    return _sums_in_16_bits(work, ml_dtypes.bfloat16)


@planted("instead", "reduced to winograd-like", where="rounding")
def transformed_by_fourier(work: Work) -> np.ndarray:
    """C.T through the convolution theorem in float32: right, but each element rounds as the largest does."""
    if work.op == "conv" or work.groups > 1 or work.dtype != np.float32:
        return compute(work)
    import scipy.fft

    axes, dims = work.axes, tuple(range(2, work.x.ndim))
    spread = np.zeros((*work.x.shape[:2], *((a.small - 1) * a.stride + 1 for a in axes)), np.float32)
    spread[(..., *(slice(None, None, a.stride) for a in axes))] = work.x
    dilated = np.zeros((*work.weight.shape[:2], *(a.extent for a in axes)), np.float32)
    dilated[(..., *(slice(None, None, a.dilation) for a in axes))] = work.weight
    size = [a.full for a in axes]
    x, w = scipy.fft.rfftn(spread, size, dims), scipy.fft.rfftn(dilated, size, dims)
    full = scipy.fft.irfftn(np.einsum("nk...,kc...->nc...", x, w), size, dims)
    result = np.zeros((len(x), work.channels, *work.spatial), np.float32)
    for at in np.ndindex(*work.spatial):
        source = tuple(i + a.begin for i, a in zip(at, axes, strict=True))
        if all(0 <= i < n for i, n in zip(source, size, strict=True)):
            result[(..., *at)] = full[(..., *source)]
    return with_bias(work, result)


@planted("after", "reduced to flush-to-zero", where="edge")
def subnormal_results_flushed(work: Work, result: np.ndarray) -> np.ndarray:
    return np.where(np.abs(result) < ml_dtypes.finfo(work.dtype).smallest_normal, np.zeros((), result.dtype), result)


@planted("after", where="edge")
def not_a_number_replaced_by_zero(_: Work, result: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(result), np.zeros((), result.dtype), result)


@planted("after", where="edge")
def infinity_replaced_by_the_largest(work: Work, result: np.ndarray) -> np.ndarray:
    largest = float(ml_dtypes.finfo(work.dtype).max)
    return np.clip(result, -largest, largest)


@planted("before", where="edge")
def dilated_by_inserting_zeros(work: Work) -> Work:
    kernel = tuple(a.extent for a in work.axes)
    weight = np.zeros((*work.weight.shape[:2], *kernel), work.weight.dtype)
    weight[(..., *(slice(None, None, a.dilation) for a in work.axes))] = work.weight
    return replace(each(work, lambda a: replace(a, kernel=a.extent, dilation=1)), weight=weight)


# What is handed back


class Returned(np.ndarray):
    """An array that is handed back as it is, not cast to the dtype of the case."""

    def __new__(cls, array: np.ndarray) -> Any:
        return array.view(cls)


@planted("after", "wrong_dtype")
def float64_handed_back(_: Work, result: np.ndarray) -> Returned:
    return Returned(result.astype(np.float64))


@planted("after", "wrong_dtype")
def bits_handed_back(work: Work, result: np.ndarray) -> Returned:
    return Returned(result.astype(work.dtype).view(f"u{work.dtype.itemsize}"))


@planted("after", "wrong_shape")
def one_row_more(_: Work, result: np.ndarray) -> Returned:
    return Returned(np.concatenate([result, result[..., -1:]], axis=-1))


@planted("after", "wrong_shape")
def batch_axis_dropped(_: Work, result: np.ndarray) -> Returned:
    return Returned(result[0])


@planted("after", "wrong_shape")
def nothing_computed(_: Work, result: np.ndarray) -> Returned:
    return Returned(result[:0])


@planted("after", "wrong_shape", "deviates")  # where all sizes are the same, only values tell
def channels_last_handed_back(_: Work, result: np.ndarray) -> np.ndarray:
    return np.moveaxis(result, 1, -1)


@planted("after")
def previous_case_handed_back(_: Work, result: np.ndarray) -> np.ndarray:
    return result  # see Planted.run: what was computed last is handed back whenever its shape fits


class Planted:
    """The definition as a target, with one mistake or none."""

    def __init__(self, mistake: str = "", arithmetic: str = "native") -> None:
        self.name = mistake or "correct"
        self.arithmetic = arithmetic
        self.mistake = MISTAKES[mistake] if mistake else Mistake(())
        self.last: np.ndarray | None = None

    def environment(self) -> dict[str, str]:
        return {"mistake": self.name}

    def run(self, case: Convolution, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):
            work = self.mistake.before(_work(case, tensors))
            result = self.mistake.after(work, self.mistake.instead(work))
            output = result.view(np.ndarray) if isinstance(result, Returned) else result.astype(work.dtype)
        last, self.last = self.last, output
        if self.name == "previous-case-handed-back" and last is not None and last.shape == output.shape:
            output = last
        return {"output": output}


def _work(case: Convolution, tensors: Mapping[str, np.ndarray]) -> Work:
    dtype = tensors["input"].dtype
    sums = np.float64 if dtype == np.float64 else np.float32
    x, weight, bias = (tensors[n].astype(sums) if n in tensors else None for n in ("input", "weight", "bias"))
    assert x is not None
    assert weight is not None
    return Work(
        op=case.op,
        axes=case.axes,
        groups=case.groups,
        x=x,
        weight=weight,
        bias=bias,
        dtype=dtype,
        added=case.output_padding or (0,) * case.rank,
    )


target = Planted
