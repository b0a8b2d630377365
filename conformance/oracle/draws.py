"""Numbers that the oracle can add up without rounding.

Everything is drawn as integers on a grid.  The sum of products that makes an output element is then an integer on the
product grid, and as long as the sum of their absolute values stays below ``2**p``, every partial sum in every order is
exact in arithmetic with ``p`` significant bits.

*Exact data* holds this for the target's own arithmetic, so an honest target has nothing to round.  In every product one
factor is wide and the other narrow (1 or 2).  The wide ones are odd and have as many significant bits as fit, at least
12 for float32 where the number of products allows it, so that a target that rounds its operands to TF32 or float16
(11 bits) or bfloat16 (8 bits) changes every single one of them.  Channels take turns in which factor is wide.

*Rounding data* looks like what networks compute with, normally distributed numbers, and holds the condition for
float64 only: the oracle does not round, the target does.

*Edge data* is in ``edges``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import SFC64, Generator

from conformance.dtypes import Format
from conformance.spec.case import Shape

ORACLE_PRECISION = 53
WANTED_BITS = {"float32": 12, "float64": 25, "float16": 2, "bfloat16": 2}
NORMAL_RANGE_BITS = 3  # a normal number beyond 8 standard deviations is cut off there

BLOCK = 2**20  # elements drawn at once


@dataclass(frozen=True, slots=True)
class Drawn:
    """Tensors in the format asked for; products and biases are multiples of ``unit``.

    ``bound`` limits A where that follows from how the numbers were drawn.
    """

    tensors: Mapping[str, np.ndarray]
    unit: float
    bound: float | None


@dataclass(frozen=True, slots=True)
class Layout:
    """What the draws have to know of a bilinear op.

    ``wide`` gives for each factor (``input``, ``weight``) a boolean mask that broadcasts against it: where it is wide
    if the other factor is narrow there.  ``products`` is the largest number of products that reach one element.
    """

    shapes: Mapping[str, Shape]
    wide: Mapping[str, np.ndarray]
    products: int


def generator(case_id: str, data: str, seed: int) -> Generator:
    """The random generator of a problem: the same on every machine, in every run."""
    digest = hashlib.blake2b(f"{case_id}\n{data}\n{seed}".encode(), digest_size=16).digest()
    return Generator(SFC64(int.from_bytes(digest, "little")))


def draw_exact(layout: Layout, format: Format, rng: Generator, attempt: int = 0) -> Drawn:
    """Exact data.  ``bound`` is set where A is below it by construction, and None where A has to be looked at.

    Where too many products reach an element, some narrow factors are 0; each further ``attempt`` keeps half of them.
    """
    spare = format.precision - _bits_of(layout.products + 1)
    wanted = WANTED_BITS[format.name]
    bits, narrow_bits = (spare - 1, 1) if spare - 1 >= wanted else (max(spare, wanted), 0)
    keep = 1.0 if spare >= bits + narrow_bits else 2.0 ** (spare - bits - 1 - attempt)

    def factor(name: str) -> np.ndarray:
        def block(shape: Shape, wide: np.ndarray) -> np.ndarray:
            narrow = _narrow(rng, shape, narrow_bits)
            if keep < 1.0:
                narrow *= rng.random(shape) < keep
            return np.where(wide, _wide(rng, shape, bits), narrow)

        return _blockwise(layout.shapes[name], layout.wide[name], format, block)

    tensors = {name: factor(name) for name in layout.shapes if name != "bias"}
    if "bias" in layout.shapes:
        tensors["bias"] = _wide(rng, layout.shapes["bias"], min(bits, max(spare, 1))).astype(format.dtype)
    return Drawn(tensors, 1.0, 2.0**format.precision if keep == 1.0 else None)


def draw_rounding(layout: Layout, format: Format, rng: Generator) -> Drawn:
    """Rounding data: normal numbers on a grid fine enough to make targets round, coarse enough for float64."""
    bits = min(format.precision, (ORACLE_PRECISION - _bits_of(layout.products + 1)) // 2)
    scale = 2.0 ** (bits - NORMAL_RANGE_BITS)
    limit = 2.0**bits - 1

    def block(shape: Shape, _: np.ndarray) -> np.ndarray:
        normal = rng.standard_normal(shape)
        normal *= scale
        np.clip(np.rint(normal, out=normal), -limit, limit, out=normal)
        normal /= scale
        return normal

    anywhere = np.ones((1,), bool)
    tensors = {name: _blockwise(shape, anywhere, format, block) for name, shape in layout.shapes.items()}
    return Drawn(tensors, scale**-2, None)


def _blockwise(
    shape: Shape, mask: np.ndarray, format: Format, block: Callable[[Shape, np.ndarray], np.ndarray]
) -> np.ndarray:
    """A tensor drawn a few rows at a time, so that float64 intermediates stay small beside it."""
    size = math.prod(shape)
    if size <= BLOCK:
        return block(shape, mask).astype(format.dtype)
    tensor = np.empty(shape, format.dtype)
    mask = np.broadcast_to(mask, shape)
    step = max(BLOCK // (size // shape[0]), 1)
    for first in range(0, shape[0], step):
        rows = slice(first, first + step)
        tensor[rows] = block(tensor[rows].shape, mask[rows])
    return tensor


def _bits_of(count: int) -> int:
    """Bits by which a sum of ``count`` numbers can exceed the largest of them."""
    return math.ceil(math.log2(count))


def _wide(rng: Generator, shape: Shape, bits: int) -> np.ndarray:
    """Odd integers of exactly ``bits`` significant bits, either sign."""
    r = rng.integers(0, 2 ** (bits + 1), shape)
    return _signed((r >> 1) | 1 | (1 << (bits - 1)), r)


def _narrow(rng: Generator, shape: Shape, bits: int) -> np.ndarray:
    """Powers of two from 1 to ``2**bits``, either sign: never 0, so that no tap is without effect."""
    r = rng.integers(0, 2 * (bits + 1), shape)
    return _signed(1 << (r >> 1), r)


def _signed(magnitude: np.ndarray, r: np.ndarray) -> np.ndarray:
    return np.where(r & 1, -magnitude, magnitude).astype(np.float64)
