"""The 15 relationships of Dumoulin and Visin, against sliding a kernel along a row of pixels and counting."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from conformance.arithmetic import RELATIONSHIPS, Axis, Quantities, check_relationship


@dataclass(frozen=True)
class Direct:
    """A direct convolution along one row of ``i`` pixels, with ``p`` zeros at both ends."""

    i: int
    k: int
    s: int
    p: int
    d: int

    @property
    def starts(self) -> list[int]:
        """Where in the padded row the kernel can be put down so that all its taps lie inside."""
        padded = self.i + 2 * self.p
        starts, at = [], 0
        while all(at + tap * self.d < padded for tap in range(self.k)):
            starts.append(at)
            at += self.s
        return starts

    @property
    def never_read(self) -> int:
        """Rows at the end of the padded row that lie beyond the last position of the kernel."""
        last_tap = self.starts[-1] + (self.k - 1) * self.d
        return self.i + 2 * self.p - 1 - last_tap


def full_transposed_size(i_: int, k: int, s: int, d: int = 1) -> int:
    """Rows that ``i_`` copies of the kernel cover when they are put down ``s`` apart, from the first to the last."""
    covered = {m * s + tap * d for m in range(i_) for tap in range(k)}
    return max(covered) + 1


def grid() -> Iterator[Direct]:
    for k, s, d, i in itertools.product(range(1, 8), range(1, 5), range(1, 4), range(1, 16)):
        for p in range(k):
            convolution = Direct(i, k, s, p, d)
            if convolution.starts:
                yield convolution


GRID = tuple(grid())

Condition = Callable[[Direct], bool]
STATED: dict[int, Condition] = {
    1: lambda c: c.s == 1 and c.p == 0 and c.d == 1,
    2: lambda c: c.s == 1 and c.d == 1,
    3: lambda c: c.s == 1 and c.k % 2 == 1 and c.p == (c.k - 1) // 2 and c.d == 1,
    4: lambda c: c.s == 1 and c.p == c.k - 1 and c.d == 1,
    5: lambda c: c.p == 0 and c.d == 1,
    6: lambda c: c.d == 1,
    7: lambda c: c.p == 0 and c.d == 1,
    8: lambda c: c.s == 1 and c.p == 0 and c.d == 1,
    9: lambda c: c.s == 1 and c.d == 1,
    10: lambda c: c.s == 1 and c.k % 2 == 1 and c.p == (c.k - 1) // 2 and c.d == 1,
    11: lambda c: c.s == 1 and c.p == c.k - 1 and c.d == 1,
    12: lambda c: c.p == 0 and c.d == 1 and c.never_read == 0,
    13: lambda c: c.d == 1 and c.never_read == 0,
    14: lambda c: c.d == 1,
    15: lambda c: True,
}
"""Which direct convolutions each relationship speaks of, or for 8 to 14 which ones it transposes."""

COUNTED = {1: 84, 2: 386, 3: 60, 4: 105, 5: 336, 6: 1544, 7: 336, 8: 84, 9: 386, 10: 60, 11: 105, 12: 182, 13: 819}
"""How many convolutions of the grid there are, counted once in torch, where each gave the stated shape."""

DIRECT = (1, 2, 3, 4, 5, 6, 7, 15)
TRANSPOSED = (8, 9, 10, 11, 12, 13, 14)


def instances(number: int) -> list[Direct]:
    return [convolution for convolution in GRID if STATED[number](convolution)]


def posed(number: int, c: Direct) -> tuple[Quantities, int]:
    """The quantities of an instance, and the output size that counting gives."""
    if number in TRANSPOSED:
        added = c.never_read if number == 14 else 0
        return Quantities(len(c.starts), c.k, c.s, c.p, c.d, added), c.i
    return Quantities(c.i, c.k, c.s, c.p, c.d), len(c.starts)


def test_the_guide_has_fifteen_relationships() -> None:
    assert sorted(RELATIONSHIPS) == list(range(1, 16))
    assert sorted((*DIRECT, *TRANSPOSED)) == list(range(1, 16))


def test_the_grid_is_the_one_that_was_counted_in_torch() -> None:
    assert {number: len(instances(number)) for number in COUNTED} == COUNTED
    assert len(instances(15)) == 3576


@pytest.mark.parametrize("number", DIRECT)
def test_a_direct_relationship_counts_the_positions_of_the_kernel(number: int) -> None:
    for convolution in instances(number):
        quantities, counted = posed(number, convolution)
        assert RELATIONSHIPS[number].output(quantities) == counted, convolution


@pytest.mark.parametrize("number", TRANSPOSED)
def test_a_transposed_relationship_gives_back_the_size_that_the_convolution_started_from(number: int) -> None:
    for convolution in instances(number):
        quantities, original = posed(number, convolution)
        assert RELATIONSHIPS[number].output(quantities) == original, convolution


@pytest.mark.parametrize("number", TRANSPOSED)
def test_a_transposed_relationship_is_what_the_kernels_cover_less_the_padding(number: int) -> None:
    for c in instances(number):
        quantities, _ = posed(number, c)
        covered = full_transposed_size(quantities.i, c.k, c.s)
        assert RELATIONSHIPS[number].output(quantities) == covered - 2 * c.p + quantities.a, c


def test_the_a_of_relationship_14_is_the_number_of_rows_that_the_convolution_never_reads() -> None:
    for c in instances(14):
        assert (c.i + 2 * c.p - c.k) % c.s == c.never_read, c


def test_without_a_relationship_14_is_too_small_where_rows_are_never_read() -> None:
    short = [c for c in instances(14) if c.never_read]
    assert short
    for c in short:
        without = Quantities(len(c.starts), c.k, c.s, c.p)
        assert RELATIONSHIPS[14].output(without) == c.i - c.never_read


def test_relationships_14_and_15_combine_with_the_dilated_kernel() -> None:
    """Not in the guide: replace k by k^ = k + (k - 1)(d - 1) in relationship 14."""
    dilated = [c for c in GRID if c.d > 1]
    assert len(dilated) == 2032
    for c in dilated:
        extent = c.k + (c.k - 1) * (c.d - 1)
        a = (c.i + 2 * c.p - extent) % c.s
        assert a == c.never_read
        assert RELATIONSHIPS[14].output(Quantities(len(c.starts), extent, c.s, c.p, a=a)) == c.i


def test_an_axis_has_the_sizes_that_counting_gives() -> None:
    for c in GRID:
        axis = Axis(large=c.i, small=len(c.starts), kernel=c.k, stride=c.s, dilation=c.d, begin=c.p)
        assert axis.full == full_transposed_size(axis.small, c.k, c.s, c.d)
        assert axis.extent == full_transposed_size(1, c.k, c.s, c.d)
        assert axis.end == c.p - c.never_read


def test_nothing_is_made_from_nothing() -> None:
    assert Axis(large=0, small=0, kernel=3, stride=2).full == 0


@pytest.mark.parametrize("number", sorted(RELATIONSHIPS))
def test_check_relationship_accepts_every_instance_and_no_other_size(number: int) -> None:
    for convolution in instances(number)[::3]:
        quantities, output = posed(number, convolution)
        check_relationship(number, number in TRANSPOSED, quantities, output)
        for wrong in (output - 1, output + 1):
            told = rf"^relationship {number} gives output {output}, the case has {wrong} "
            with pytest.raises(ValueError, match=told):
                check_relationship(number, number in TRANSPOSED, quantities, wrong)


@pytest.mark.parametrize("number", sorted(RELATIONSHIPS))
def test_check_relationship_accepts_exactly_the_convolutions_that_the_guide_speaks_of(number: int) -> None:
    for convolution in GRID[::2]:
        quantities, output = posed(number, convolution)
        if number in TRANSPOSED:
            quantities = replace(quantities, a=convolution.never_read)
        stated = STATED[number](convolution) and (number in (*DIRECT, 14) or convolution.never_read == 0)
        try:
            check_relationship(number, number in TRANSPOSED, quantities, output)
        except ValueError:
            assert not stated, convolution
        else:
            assert stated, convolution


REQUIRED = {
    1: ("p = 0", "s = 1", "d = 1"),
    2: ("s = 1", "d = 1"),
    3: ("k odd", "p = floor(k / 2)", "s = 1", "d = 1"),
    4: ("p = k - 1", "s = 1", "d = 1"),
    5: ("p = 0", "d = 1"),
    6: ("d = 1",),
    7: ("p = 0", "d = 1"),
    8: ("p = 0", "s = 1", "d = 1", "a = 0"),
    9: ("s = 1", "d = 1", "a = 0"),
    10: ("k odd", "p = floor(k / 2)", "s = 1", "d = 1", "a = 0"),
    11: ("p = k - 1", "s = 1", "d = 1", "a = 0"),
    12: ("p = 0", "d = 1", "a = 0"),
    13: ("d = 1", "a = 0"),
    14: ("0 <= a < s", "d = 1"),
    15: (),
}

VIOLATIONS = {
    "p = 0": {"p": 1},
    "s = 1": {"s": 2},
    "d = 1": {"d": 2},
    "a = 0": {"a": 1},
    "k odd": {"k": 4, "p": 2},
    "p = floor(k / 2)": {"p": 2},
    "p = k - 1": {"p": 1},
    "0 <= a < s": {"a": 1},
}


def an_instance(number: int) -> Quantities:
    """Five elements, kernel 3, unit strides, and the padding that the relationship speaks of."""
    padding = {3: 1, 10: 1, 4: 2, 11: 2}.get(number, 0)
    return Quantities(5, 3, p=padding)


@pytest.mark.parametrize("number", sorted(RELATIONSHIPS))
def test_the_conditions_are_those_of_the_guide(number: int) -> None:
    assert tuple(text for text, _ in RELATIONSHIPS[number].conditions) == REQUIRED[number]
    quantities = an_instance(number)
    check_relationship(number, number in TRANSPOSED, quantities, RELATIONSHIPS[number].output(quantities))


@pytest.mark.parametrize(
    ("number", "required"), [(number, text) for number, texts in REQUIRED.items() for text in texts]
)
def test_a_violated_condition_is_named(number: int, required: str) -> None:
    q = replace(an_instance(number), **VIOLATIONS[required])
    told = f"relationship {number} requires {required}, got i={q.i} k={q.k} s={q.s} p={q.p} d={q.d} a={q.a}"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        check_relationship(number, number in TRANSPOSED, q, RELATIONSHIPS[number].output(q))


def test_negative_rows_cannot_be_added() -> None:
    with pytest.raises(ValueError, match=r"^relationship 14 requires 0 <= a < s, got i=3 k=3 s=2 p=1 d=1 a=-1$"):
        check_relationship(14, True, Quantities(3, 3, s=2, p=1, a=-1), 4)


def test_a_relationship_of_the_other_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^relationship 8 speaks of transposed convolutions, this case is not one$"):
        check_relationship(8, False, Quantities(2, 3), 4)
    with pytest.raises(ValueError, match=r"^relationship 1 speaks of direct convolutions, this case is not one$"):
        check_relationship(1, True, Quantities(4, 3), 2)


@pytest.mark.parametrize("number", [0, 16, -1])
def test_a_number_that_the_guide_does_not_have_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=rf"^expected a relationship of the guide, 1 to 15, got {number}$"):
        check_relationship(number, False, Quantities(4, 3), 2)


def test_a_wrong_size_is_told_with_the_quantities() -> None:
    told = r"^relationship 6 gives output 3, the case has 4 \(i=5 k=3 s=2 p=1 d=1 a=0\)$"
    with pytest.raises(ValueError, match=told):
        check_relationship(6, False, Quantities(5, 3, 2, 1), 4)


@pytest.mark.parametrize("number", sorted(RELATIONSHIPS))
def test_the_docstring_of_a_formula_names_its_number(number: int) -> None:
    doc = RELATIONSHIPS[number].formula.__doc__ or ""
    assert re.match(rf"Relationship {number} \((section|chapter) [2-5][.\d]*\): ", doc)


@pytest.mark.parametrize("number", sorted(RELATIONSHIPS))
def test_the_formula_in_the_docstring_is_the_one_computed(number: int) -> None:
    doc = " ".join((RELATIONSHIPS[number].formula.__doc__ or "").split())
    written = re.findall(r"``o'? = ([^`]+)``", doc)[-1]
    expression = written.replace("i'", "i").replace("2p", "2 * p").replace("s (", "s * (").replace(")(", ") * (")
    code = compile(expression, "docstring", "eval")
    for convolution in instances(number):
        quantities, output = posed(number, convolution)
        names = {name: getattr(quantities, name) for name in "ikspda"}
        assert eval(code, {"floor": math.floor}, names) == output  # noqa: S307


def test_counting_finds_a_formula_that_is_off_by_one() -> None:
    """Should the formulas be wrong, the comparisons above can fail."""
    wrong = [c for c in instances(6) if (c.i + 2 * c.p - c.k + 1) // c.s + 1 != len(c.starts)]
    assert len(wrong) > 500
    forgets_dilation = [c for c in instances(15) if (c.i + 2 * c.p - c.k) // c.s + 1 != len(c.starts)]
    assert len(forgets_dilation) > 500
