"""The 15 relationships of "A guide to convolution arithmetic for deep learning" (Dumoulin and Visin, arXiv:1603.07285).

Symbols are the paper's: ``i`` input size, ``k`` kernel size, ``s`` stride, ``p`` zero padding at each end, ``d``
dilation, ``o`` output size, and for transposed convolutions ``i_`` (the paper's i') and ``a`` (rows added at the
bottom and right).  Every function returns the output size in elements.  Relationships 1 to 7 and 15 speak of the direct
convolution, 8 to 14 of the transposed one; there ``k``, ``s`` and ``p`` are those of the convolution it transposes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass


def unit_strides(i: int, k: int) -> int:
    """Relationship 1 (section 2.1): no padding, unit strides; ``o = (i - k) + 1``."""
    return (i - k) + 1


def padding_unit_strides(i: int, k: int, p: int) -> int:
    """Relationship 2 (section 2.2): any padding, unit strides; ``o = (i - k) + 2p + 1``."""
    return (i - k) + 2 * p + 1


def half_padding(i: int) -> int:
    """Relationship 3 (section 2.2.1): odd ``k = 2n + 1``, unit strides, ``p = floor(k / 2)``; ``o = i``."""
    return i


def full_padding(i: int, k: int) -> int:
    """Relationship 4 (section 2.2.2): unit strides, ``p = k - 1``; ``o = i + (k - 1)``."""
    return i + (k - 1)


def strides(i: int, k: int, s: int) -> int:
    """Relationship 5 (section 2.3): no padding, any stride; ``o = floor((i - k) / s) + 1``."""
    return (i - k) // s + 1


def padding_strides(i: int, k: int, s: int, p: int) -> int:
    """Relationship 6 (section 2.4): any padding and stride; ``o = floor((i + 2p - k) / s) + 1``."""
    return (i + 2 * p - k) // s + 1


def pooling(i: int, k: int, s: int) -> int:
    """Relationship 7 (chapter 3): pooling, no padding; ``o = floor((i - k) / s) + 1``."""
    return (i - k) // s + 1


def transposed_unit_strides(i_: int, k: int) -> int:
    """Relationship 8 (section 4.2): transposes no padding, unit strides; ``o' = i' + (k - 1)``."""
    return i_ + (k - 1)


def transposed_padding_unit_strides(i_: int, k: int, p: int) -> int:
    """Relationship 9 (section 4.3): transposes any padding, unit strides; ``o' = i' + (k - 1) - 2p``."""
    return i_ + (k - 1) - 2 * p


def transposed_half_padding(i_: int) -> int:
    """Relationship 10 (section 4.3.1): transposes half padding; odd ``k``, ``p = floor(k / 2)``; ``o' = i'``."""
    return i_


def transposed_full_padding(i_: int, k: int) -> int:
    """Relationship 11 (section 4.3.2): transposes full padding, ``p = k - 1``; ``o' = i' - (k - 1)``."""
    return i_ - (k - 1)


def transposed_strides(i_: int, k: int, s: int) -> int:
    """Relationship 12 (section 4.4): transposes no padding, ``i - k`` a multiple of ``s``; ``o' = s (i' - 1) + k``."""
    return s * (i_ - 1) + k


def transposed_padding_strides(i_: int, k: int, s: int, p: int) -> int:
    """Relationship 13 (section 4.5): ``i + 2p - k`` a multiple of ``s``; ``o' = s (i' - 1) + k - 2p``."""
    return s * (i_ - 1) + k - 2 * p


def transposed_padding_strides_odd(i_: int, k: int, s: int, p: int, a: int) -> int:
    """Relationship 14 (section 4.5): ``a = (i + 2p - k) mod s``; ``o' = s (i' - 1) + a + k - 2p``.

    The ``a`` rows lie at the bottom and right edges; the paper's text said "top" until January 2018.
    """
    return s * (i_ - 1) + a + k - 2 * p


def dilation(i: int, k: int, s: int, p: int, d: int) -> int:
    """Relationship 15 (section 5.1): any dilation; ``o = floor((i + 2p - k - (k - 1)(d - 1)) / s) + 1``."""
    return (i + 2 * p - k - (k - 1) * (d - 1)) // s + 1


@dataclass(frozen=True, slots=True)
class Quantities:
    """The paper's quantities on one axis; ``i`` is what the operator is fed, also where the paper writes i'."""

    i: int
    k: int
    s: int = 1
    p: int = 0
    d: int = 1
    a: int = 0


_Condition = tuple[str, Callable[[Quantities], bool]]

_UNIT_STRIDE: _Condition = ("s = 1", lambda q: q.s == 1)
_NO_PADDING: _Condition = ("p = 0", lambda q: q.p == 0)
_NO_DILATION: _Condition = ("d = 1", lambda q: q.d == 1)
_NOTHING_ADDED: _Condition = ("a = 0", lambda q: q.a == 0)
_ODD_KERNEL: _Condition = ("k odd", lambda q: q.k % 2 == 1)
_HALF: _Condition = ("p = floor(k / 2)", lambda q: q.p == q.k // 2)
_FULL: _Condition = ("p = k - 1", lambda q: q.p == q.k - 1)
_A_BELOW_S: _Condition = ("0 <= a < s", lambda q: 0 <= q.a < q.s)


@dataclass(frozen=True, slots=True)
class Relationship:
    """A numbered relationship: its formula and the conditions under which the paper states it."""

    number: int
    formula: Callable[..., int]
    transposed: bool
    conditions: tuple[_Condition, ...]

    def output(self, quantities: Quantities) -> int:
        """The output size that the formula gives for these quantities."""
        names = inspect.signature(self.formula).parameters
        return self.formula(**{name: getattr(quantities, name.rstrip("_")) for name in names})


def _direct(number: int, formula: Callable[..., int], *conditions: _Condition) -> Relationship:
    undilated = () if formula is dilation else (_NO_DILATION,)
    return Relationship(number, formula, False, (*conditions, *undilated))


def _transposed(number: int, formula: Callable[..., int], *conditions: _Condition) -> Relationship:
    exact = () if formula is transposed_padding_strides_odd else (_NOTHING_ADDED,)
    return Relationship(number, formula, True, (*conditions, _NO_DILATION, *exact))


RELATIONSHIPS = {
    r.number: r
    for r in (
        _direct(1, unit_strides, _NO_PADDING, _UNIT_STRIDE),
        _direct(2, padding_unit_strides, _UNIT_STRIDE),
        _direct(3, half_padding, _ODD_KERNEL, _HALF, _UNIT_STRIDE),
        _direct(4, full_padding, _FULL, _UNIT_STRIDE),
        _direct(5, strides, _NO_PADDING),
        _direct(6, padding_strides),
        _direct(7, pooling, _NO_PADDING),
        _transposed(8, transposed_unit_strides, _NO_PADDING, _UNIT_STRIDE),
        _transposed(9, transposed_padding_unit_strides, _UNIT_STRIDE),
        _transposed(10, transposed_half_padding, _ODD_KERNEL, _HALF, _UNIT_STRIDE),
        _transposed(11, transposed_full_padding, _FULL, _UNIT_STRIDE),
        _transposed(12, transposed_strides, _NO_PADDING),
        _transposed(13, transposed_padding_strides),
        _transposed(14, transposed_padding_strides_odd, _A_BELOW_S),
        _direct(15, dilation),
    )
}


def check_relationship(number: int, transposed: bool, quantities: Quantities, output: int) -> None:
    """Check that an axis with these quantities and this output size is an instance of a relationship.

    Raises ValueError, naming the condition or the size that does not hold.
    """
    relationship = RELATIONSHIPS.get(number)
    if relationship is None:
        raise ValueError(f"expected a relationship of the guide, 1 to {max(RELATIONSHIPS)}, got {number}")
    if relationship.transposed != transposed:
        kind = "transposed" if relationship.transposed else "direct"
        raise ValueError(f"relationship {number} speaks of {kind} convolutions, this case is not one")
    for text, holds in relationship.conditions:
        if not holds(quantities):
            raise ValueError(f"relationship {number} requires {text}, got {_tell(quantities)}")
    if (stated := relationship.output(quantities)) != output:
        raise ValueError(f"relationship {number} gives output {stated}, the case has {output} ({_tell(quantities)})")


def _tell(q: Quantities) -> str:
    return f"i={q.i} k={q.k} s={q.s} p={q.p} d={q.d} a={q.a}"
