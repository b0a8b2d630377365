"""The convolution as a matrix C, written down from its definition, and two ways to apply it.

Tap ``t`` joins position ``m`` of the small side with position ``j = m s - begin + t d`` of the large side (`Axis`), so

    C[(k, m), (c, j)] = w[k, c, t]            for every tap with 0 <= j < large, c counted within the group of k

and a convolution is ``C x``, its transposed convolution ``C.T y`` (Dumoulin and Visin, arXiv:1603.07285, section
4.1).  `conv_matrix` is that matrix.  `convolve` and `transposed_convolve` apply it without forming it: ``im2col``
copies what each tap reads, ``col2im`` is its transpose and adds, and one matrix product does the arithmetic.  Both use
the same list of taps, and the tests prove all three equal.

All arithmetic is in float64.  On data whose products and sums float64 represents (see ``draws``), nothing rounds.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from conformance.arithmetic import Axis

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Axes = Sequence[Axis]
Index = tuple[Any, ...]

BLOCK = 2**20  # elements of the column matrix that are worked on at once: 8 MiB, so that they stay in the cache


@functools.lru_cache(maxsize=4096)
def taps(axis: Axis) -> tuple[tuple[int, slice, slice], ...]:
    """For every tap that exists: its number, the positions of the small side and those of the large side it joins."""
    found = []
    for t in range(axis.kernel):
        shift = t * axis.dilation - axis.begin
        first = max(-(shift // axis.stride), 0)
        last = min((axis.large - 1 - shift) // axis.stride, axis.small - 1)
        if first <= last:
            start = first * axis.stride + shift
            stop = last * axis.stride + shift + 1
            found.append((t, slice(first, last + 1), slice(start, stop, axis.stride)))
    return tuple(found)


def _all_taps(axes: Axes) -> Iterator[tuple[Index, Index, Index]]:
    for combination in itertools.product(*map(taps, axes)):
        numbers, small, large = zip(*combination, strict=True)
        yield numbers, small, large


def conv_matrix(axes: Axes, weight: np.ndarray, groups: int = 1) -> csr_array:
    """The matrix C as a sparse array; ``.toarray()`` shows it.

    Rows run over ``(small channel, *small position)``, columns over ``(large channel, *large position)``, both in C
    order.  ``weight`` has shape ``(small channels, large channels / groups, *kernel)``.
    """
    from scipy.sparse import coo_array

    k, c = weight.shape[0], weight.shape[1]
    small = np.arange(math.prod(a.small for a in axes)).reshape([a.small for a in axes])
    large = np.arange(math.prod(a.large for a in axes)).reshape([a.large for a in axes])
    kc = np.repeat(np.arange(k), c)
    cc = np.tile(np.arange(c), k) + kc // (k // groups) * c
    rows, columns, values = [], [], []
    for numbers, m, j in _all_taps(axes):
        rows.append(np.add.outer(kc * small.size, small[m].ravel()).ravel())
        columns.append(np.add.outer(cc * large.size, large[j].ravel()).ravel())
        values.append(np.repeat(weight[(..., *numbers)].ravel(), small[m].size))
    if not rows:
        return coo_array((k * small.size, c * groups * large.size)).tocsr()
    shape = (k * small.size, c * groups * large.size)
    entries = np.concatenate(values).astype(np.float64)
    return coo_array((entries, (np.concatenate(rows), np.concatenate(columns))), shape=shape).tocsr()


def convolve(
    axes: Axes,
    x: np.ndarray,
    weight: np.ndarray,
    groups: int = 1,
    *,
    absolute: bool = False,
    dtype: type[np.floating[Any]] = np.float64,
) -> np.ndarray:
    """``C x`` for each image: ``(N, large channels, *large)`` to ``(N, small channels, *small)``.

    ``absolute`` takes the absolute values of x and C instead.  ``dtype`` is that of the arithmetic and of the result.
    """
    n, k, c = x.shape[0], weight.shape[0], weight.shape[1]
    small = tuple(a.small for a in axes)
    y = np.zeros((n, groups, k // groups, math.prod(small)), dtype)
    x = x.reshape(n, groups, c, *x.shape[2:])
    for first in range(0, c, step := _channels_at_once(weight, groups * math.prod(small))):
        block = slice(first, first + step)
        w = _wide(weight[:, block], absolute, dtype).reshape(groups, k // groups, -1)
        for image in range(n):
            y[image] += _product(w, im2col(axes, _wide(x[image, :, block], absolute, dtype)))
    return y.reshape(n, k, *small)


def transposed_convolve(
    axes: Axes,
    y: np.ndarray,
    weight: np.ndarray,
    groups: int = 1,
    *,
    absolute: bool = False,
    dtype: type[np.floating[Any]] = np.float64,
) -> np.ndarray:
    """``C.T y`` for each image: ``(N, small channels, *small)`` to ``(N, large channels, *large)``.

    ``absolute`` takes the absolute values of y and C instead.  ``dtype`` is that of the arithmetic and of the result.
    """
    axes, y = _occupied(axes, y)
    n, k, c = y.shape[0], weight.shape[0], weight.shape[1]
    kernel, small, large = weight.shape[2:], y.shape[2:], tuple(a.large for a in axes)
    x = np.zeros((n, groups, c, *large), dtype)
    y = _wide(y, absolute, dtype).reshape(n, groups, k // groups, math.prod(small))
    for first in range(0, c, step := _channels_at_once(weight, groups * math.prod(small))):
        block = slice(first, first + step)
        w = _wide(weight[:, block], absolute, dtype).reshape(groups, k // groups, -1).swapaxes(1, 2)
        columns = np.empty((groups, w.shape[1], y.shape[-1]), dtype)
        for image in range(n):
            _product(w, y[image], columns)
            col2im(axes, columns.reshape(groups, -1, *kernel, *small), x[image, :, block])
    return x.reshape(n, c * groups, *large)


def _occupied(axes: Axes, y: np.ndarray) -> tuple[Axes, np.ndarray]:
    """The part of y that is not zero, and the axes for it: a projected activation occupies a corner of its map."""
    kept = []
    for n, axis in enumerate(axes):
        others = tuple(i for i in range(y.ndim) if i != n + 2)
        places = np.flatnonzero((y != 0).any(axis=others))
        first, last = (int(places[0]), int(places[-1])) if places.size else (0, 0)
        y = y[(slice(None),) * (n + 2) + (slice(first, last + 1),)]
        kept.append(replace(axis, small=y.shape[n + 2], begin=axis.begin - first * axis.stride))
    return tuple(kept), y


def _product(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """``a @ b``.  BLAS kernels set floating-point flags in lanes that they do not use, which NumPy would warn of."""
    with np.errstate(all="ignore"):
        return np.matmul(a, b, out=out)


def _channels_at_once(weight: np.ndarray, positions: int) -> int:
    """How many large channels make a block of columns, and of weights."""
    elements: int = math.prod(weight.shape[2:]) * max(positions, weight.shape[0], 1)
    return max(BLOCK // elements, 1)


def _wide(tensor: np.ndarray, absolute: bool, dtype: type[np.floating[Any]] = np.float64) -> np.ndarray:
    wide = tensor.astype(dtype, copy=absolute)
    return np.abs(wide, out=wide) if absolute else wide


def im2col(axes: Axes, x: np.ndarray) -> np.ndarray:
    """What every tap reads: ``(groups, c, *large)`` to ``(groups, c * taps, small positions)``; 0 outside."""
    kernel, small = [a.kernel for a in axes], [a.small for a in axes]
    columns = np.zeros((*x.shape[:2], *kernel, *small), x.dtype)
    for numbers, m, j in _all_taps(axes):
        columns[(slice(None), slice(None), *numbers, *m)] = x[(..., *j)]
    return columns.reshape(x.shape[0], x.shape[1] * math.prod(kernel), math.prod(small))


def col2im(axes: Axes, columns: np.ndarray, x: np.ndarray) -> None:
    """Add every tap's contribution to where it goes; the transpose of `im2col`.

    ``columns`` has shape ``(groups, c, *kernel, *small)``; ``x``, ``(groups, c, *large)``, is added to.
    """
    for numbers, m, j in _all_taps(axes):
        x[(..., *j)] += columns[(slice(None), slice(None), *numbers, *m)]


@functools.lru_cache(maxsize=4096)
def taps_reaching(axes: tuple[Axis, ...], transposed: bool) -> np.ndarray:
    """How many taps reach each output position: the number of non-zeros in a row of C, or of C.T, for one channel.

    Shape ``(*large)`` if ``transposed``, else ``(*small)``; float64.
    """
    counts = np.ones(())
    for axis in axes:
        count = np.zeros(axis.large if transposed else axis.small)
        for _, m, j in taps(axis):
            count[j if transposed else m] += 1
        counts = np.multiply.outer(counts, count)
    counts.flags.writeable = False
    return counts
