"""The tolerance: every honest sum keeps it, some honest sum uses nearly all of it, and little else fits in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.dtypes import FORMATS
from conformance.oracle import gates
from conformance.oracle.bounds import ARITHMETICS, COARSER_SUMS, Arithmetic, arithmetic_for, gamma
from conformance.oracle.gates import Usage, usage

EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True)

Pairs = Sequence[tuple[float, float]]
SINGLE = ARITHMETICS["float32"]


def bound_of(arithmetic: Arithmetic, products: Sequence[Fraction]) -> Fraction:
    a, exact = sum(map(abs, products)), abs(sum(products))
    return Fraction(float(arithmetic.bound(*(np.array([float(v)]) for v in (len(products), a, exact)))[0]))


def exactly(pairs: Pairs) -> list[Fraction]:
    return [Fraction(a) * Fraction(b) for a, b in pairs]


def single(number: Fraction) -> np.float32:
    """A fraction rounded once to float32.  Through float64 it would be twice: rounding to odd on the way mends that."""
    nearest = float(number)
    if Fraction(nearest) != number:
        towards_zero = math.nextafter(nearest, 0.0) if abs(Fraction(nearest)) > abs(number) else nearest
        odd = np.array(towards_zero).view(np.int64) | 1
        nearest = float(odd.view(np.float64))
    return np.float32(nearest)


@st.composite
def some_pairs(draw: st.DrawFn, spreads: tuple[int, ...] = (0, 4, 20)) -> Pairs:
    """Factors of float32, of like and of very unlike size."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, spread = draw(st.integers(1, 60)), draw(st.sampled_from(spreads))
    factors = rng.standard_normal((n, 2)) * 2.0 ** rng.integers(-spread, spread + 1, (n, 2))
    if draw(st.booleans()):
        factors = np.abs(factors)
    return [(float(a), float(b)) for a, b in factors.astype(np.float32)]


# ---- Honest sums keep the bound ----


def in_turn(pairs: Pairs) -> np.float32:
    total = np.float32(0)
    for a, b in pairs:
        total = total + np.float32(a) * np.float32(b)
    return total


def in_pairs(pairs: Pairs) -> np.float32:
    level = [np.float32(a) * np.float32(b) for a, b in pairs]
    while len(level) > 1:
        level = [level[n] + level[n + 1] if n + 1 < len(level) else level[n] for n in range(0, len(level), 2)]
    return level[0]


def in_four_lanes(pairs: Pairs) -> np.float32:
    lanes = [in_turn(pairs[lane::4]) for lane in range(4)]
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])


def fused(pairs: Pairs) -> np.float32:
    """Multiply and add with one rounding for both."""
    total = np.float32(0)
    for a, b in pairs:
        total = single(Fraction(a) * Fraction(b) + Fraction(float(total)))
    return total


def largest_first(pairs: Pairs) -> np.float32:
    return in_turn(sorted(pairs, key=lambda pair: -abs(pair[0] * pair[1])))


def worst_next(pairs: Pairs) -> np.float32:
    """The order of an adversary: always the addend that drives the error further up."""
    left, total, error = exactly(pairs), np.float32(0), Fraction(0)
    while left:
        after = [(single(Fraction(float(total)) + product), product) for product in left]
        errors = [error + Fraction(float(t)) - Fraction(float(total)) - product for t, product in after]
        worst = max(range(len(left)), key=lambda n: errors[n])
        total, error = after[worst][0], errors[worst]
        del left[worst]
    return total


@pytest.mark.parametrize("add_up", [in_turn, in_pairs, in_four_lanes, fused, largest_first, worst_next])
def test_every_order_of_float32_sums_keeps_the_bound(add_up: Callable[[Pairs], np.float32]) -> None:
    @given(some_pairs())
    @EXAMPLES
    def holds(pairs: Pairs) -> None:
        products = exactly(pairs)
        error = abs(Fraction(float(add_up(pairs))) - sum(products))
        assert error <= bound_of(SINGLE, products)

    holds()


@pytest.mark.parametrize("n", [2, 10, 100, 1000])
def test_the_bound_is_attained_so_it_cannot_be_lowered(n: int) -> None:
    """1, and then many numbers that are each a little too small to change it."""
    little = float(np.nextafter(np.float32(2.0**-24), np.float32(0)))
    pairs = [(1.0, 1.0)] + [(1.0, little)] * (n - 1)
    assert in_turn(pairs) == 1
    used = abs(1 - sum(exactly(pairs))) / bound_of(SINGLE, exactly(pairs))
    assert Fraction(n - 1, n) * Fraction(999, 1000) < used <= 1


def test_without_the_first_order_of_n_honest_sums_would_be_accused() -> None:
    """The bound of a pairwise sum, log2(n) u A, does not hold for a plain loop: the test above can fail."""
    n = 256
    pairs = [(1.0, 1.0)] + [(1.0, float(np.nextafter(np.float32(2.0**-24), np.float32(0))))] * (n - 1)
    products = exactly(pairs)
    error = abs(Fraction(float(in_turn(pairs))) - sum(products))
    assert error > Fraction(8 + 1, 2**24) * sum(products)
    assert abs(Fraction(float(in_pairs(pairs))) - sum(products)) < Fraction(8 + 1, 2**24) * sum(products)


@given(some_pairs(spreads=(0, 3)))
@EXAMPLES
def test_16_bit_results_of_float32_sums_keep_their_bound(pairs: Pairs) -> None:
    for name in ("float16", "bfloat16"):
        dtype = FORMATS[name].dtype
        narrow = [(float(dtype.type(a)), float(dtype.type(b))) for a, b in pairs]
        products = exactly(narrow)
        error = abs(Fraction(float(in_turn(narrow).astype(dtype))) - sum(products))
        assert error <= bound_of(ARITHMETICS[name], products)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_a_16_bit_result_on_the_wrong_side_breaks_it(name: str) -> None:
    step = Fraction(2, 2 ** FORMATS[name].precision)
    exact = 1 + step / 8
    assert abs(1 - exact) <= bound_of(ARITHMETICS[name], [exact])
    assert abs(1 + step - exact) > bound_of(ARITHMETICS[name], [exact])


@given(some_pairs(spreads=(0, 3)))
@EXAMPLES
def test_sums_rounded_to_16_bits_each_time_keep_the_bound_of_that_arithmetic(pairs: Pairs) -> None:
    for name in ("float16", "bfloat16"):
        dtype = FORMATS[name].dtype
        narrow = [(dtype.type(a), dtype.type(b)) for a, b in pairs]
        total = dtype.type(0)
        for a, b in narrow:
            total = total + a * b
        products = exactly([(float(a), float(b)) for a, b in narrow])
        error = abs(Fraction(float(total)) - sum(products))
        assert error <= bound_of(ARITHMETICS[COARSER_SUMS[name]], products)


def flushed(number: np.float32, tiny: float) -> np.float32:
    return np.float32(0) if abs(float(number)) < tiny else number


@given(some_pairs(spreads=(0,)), st.integers(-75, -60))
@EXAMPLES
def test_products_that_underflow_keep_the_bound_whether_flushed_or_not(pairs: Pairs, exponent: int) -> None:
    """Products about the smallest normal number: gradual underflow, and hardware that knows none."""
    small = [(math.ldexp(a, exponent), math.ldexp(b, exponent)) for a, b in pairs]
    products = exactly(small)
    total = flushing = np.float32(0)
    with np.errstate(under="ignore"):
        for a, b in small:
            total = total + np.float32(a) * np.float32(b)
            flushing = flushed(flushing + flushed(np.float32(a) * np.float32(b), 2.0**-126), 2.0**-126)
    for result in (total, flushing):
        assert abs(Fraction(float(result)) - sum(products)) <= bound_of(SINGLE, products)


def test_products_that_underflow_are_lost_entirely_where_subnormals_are_flushed() -> None:
    """Without an allowance for underflow the test above could not pass."""
    products = [Fraction(2) ** -127] * 10
    assert gamma(np.array([10.0]), 2.0**-24)[0] * float(sum(products)) < 2.0**-140
    assert sum(products) <= bound_of(SINGLE, products)


@given(some_pairs(spreads=(0,)), st.integers(-30, -14))
@EXAMPLES
def test_16_bit_results_that_underflow_keep_the_bound_whether_flushed_or_not(pairs: Pairs, exponent: int) -> None:
    """The sum is made in float32, where nothing underflows; only its result does, once."""
    narrow = [(float(np.float16(a)), 2.0**exponent) for a, _ in pairs]
    products = exactly(narrow)
    result = in_turn(narrow).astype(np.float16)
    for returned in (result, flushed(np.float32(result), FORMATS["float16"].tiny)):
        assert abs(Fraction(float(returned)) - sum(products)) <= bound_of(ARITHMETICS["float16"], products)


def with_bias_apart(pairs: Pairs, bias: float, name: str) -> tuple[float, Fraction, Fraction]:
    """A convolution that returns 16 bits, then an addition: the result, the exact one, and A."""
    dtype = FORMATS[name].dtype
    products = [*exactly(pairs), Fraction(bias)]
    return float(in_turn(pairs).astype(dtype) + dtype.type(bias)), sum(products), sum(map(abs, products))


def usage_with_bias(promised: str, name: str, pairs: Pairs, bias: float) -> float:
    result, exact, a = with_bias_apart(pairs, bias, name)
    arrays = [np.array([[float(v)]]) for v in (result, exact, a)]
    count, added = np.array([float(len(pairs) + 1)]), np.array([bias])
    return usage(arithmetic_for(promised, name), arrays[0], arrays[1], count, arrays[2], added).bound


@given(some_pairs(spreads=(0, 3)), st.integers(-12, 12), st.sampled_from(("float16", "bfloat16")))
@EXAMPLES
def test_a_bias_added_by_an_operation_of_its_own_may_be_promised(pairs: Pairs, bias: int, name: str) -> None:
    dtype = FORMATS[name].dtype
    narrow = [(float(dtype.type(a)), float(dtype.type(b))) for a, b in pairs]
    assert usage_with_bias("native+bias", name, narrow, bias / 4) <= 1


def test_a_bias_added_by_an_operation_of_its_own_rounds_once_more_than_the_native_promise() -> None:
    """12 + 1/64 - 12: the first rounding loses the 64th, and the second cannot bring it back."""
    pairs = [(12.0, 1.0), (1.0, 1 / 64)]
    assert usage_with_bias("native", "bfloat16", pairs, -12.0) > 1
    assert usage_with_bias("native+bias", "bfloat16", pairs, -12.0) <= 1


def tf32(number: float) -> float:
    mantissa, exponent = math.frexp(number)
    return math.ldexp(round(mantissa * 2**11), exponent - 11)


@given(some_pairs())
@EXAMPLES
def test_operands_rounded_to_tf32_keep_the_bound_of_tf32(pairs: Pairs) -> None:
    rounded = [(tf32(a), tf32(b)) for a, b in pairs]
    products = exactly(pairs)
    error = abs(Fraction(float(in_turn(rounded))) - sum(products))
    assert error <= bound_of(ARITHMETICS["tf32"], products)


def test_operands_rounded_to_tf32_break_the_bound_of_float32() -> None:
    pairs = [(1 + 2.0**-12, 1.0)] * 10
    error = abs(Fraction(float(in_turn([(tf32(a), tf32(b)) for a, b in pairs]))) - sum(exactly(pairs)))
    assert error > 100 * bound_of(SINGLE, exactly(pairs))


# ---- The constants ----


@given(st.integers(0, 2**23), st.sampled_from((11, 24, 53)))
@EXAMPLES
def test_gamma_is_that_of_higham(n: int, precision: int) -> None:
    u = Fraction(1, 2**precision)
    computed = float(gamma(np.array([float(n)]), float(u))[0])
    if n * u >= 1:
        assert computed == math.inf
    else:
        assert computed == pytest.approx(float(n * u / (1 - n * u)), rel=1e-12)


def test_nothing_can_be_promised_of_more_additions_than_the_unit_roundoff_allows() -> None:
    assert gamma(np.array([255.0, 256.0, 1e9]), 2.0**-8).tolist() == [255.0, math.inf, math.inf]


@pytest.mark.parametrize("name", ARITHMETICS)
def test_no_products_and_nothing_to_add_leave_no_room_for_error(name: str) -> None:
    zero = np.zeros(1)
    assert ARITHMETICS[name].bound(zero, zero, zero).tolist() == [0.0]


@pytest.mark.parametrize("name", ARITHMETICS)
def test_a_sum_of_zeros_must_be_exactly_zero(name: str) -> None:
    """DESIGN: ``A = 0`` demands exactly 0."""
    n, zero = np.array([18.0]), np.zeros(1)
    assert ARITHMETICS[name].bound(n, zero, zero).tolist() == [0.0]


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("float16", 577.0),
        ("bfloat16", 577.0),
        ("float32", 577.0),
    ],
)
def test_underflow_adds_nothing_noticeable_to_the_bound_of_ordinary_numbers(name: str, n: float) -> None:
    """Sums of numbers about 1: the derived bound, u_out |y| + (1 + u_out) gamma_n A, and no more than 1 % beside it."""
    u_out = 0.0 if name == "float32" else FORMATS[name].unit_roundoff
    a, exact = n, math.sqrt(n)
    derived = u_out * exact + (1 + u_out) * float(gamma(np.array([n]), 2.0**-24)[0]) * a
    computed = float(ARITHMETICS[name].bound(np.array([n]), np.array([a]), np.array([exact]))[0])
    assert derived <= computed <= 1.01 * derived


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_target_that_promises_nothing_special_is_held_to_its_type(dtype: str) -> None:
    assert arithmetic_for("native", dtype).name == dtype


@pytest.mark.parametrize(
    ("promised", "dtype", "held_to"),
    [
        ("tf32", "float32", "tf32"),
        ("tf32", "float64", "float64"),
        ("tf32", "float16", "float16"),
        ("float16-sums", "float16", "float16-sums"),
        ("float16-sums", "float32", "float32"),
        ("float32", "float64", "float64"),
        ("bfloat16-operands", "float32", "bfloat16-operands"),
    ],
)
def test_a_promise_holds_only_for_the_type_that_it_speaks_of(promised: str, dtype: str, held_to: str) -> None:
    assert arithmetic_for(promised, dtype).name == held_to


@pytest.mark.parametrize("promised", ["float8", "", "native+", "native+bia", "+bias", "native+bias+bias", "NATIVE"])
def test_an_arithmetic_that_does_not_exist_is_refused(promised: str) -> None:
    with pytest.raises(KeyError):
        arithmetic_for(promised, "float32")


# ---- Measuring ----


def measure(errors: np.ndarray, n: float = 4.0, a: float = 1.0) -> Usage:
    """Errors in units of ``u A sqrt(n)``, the size of independent roundings."""
    exact = np.zeros(errors.shape)
    unit = 2.0**-24 * a * math.sqrt(n)
    return usage(SINGLE, errors * unit, exact, np.full(errors.shape[1:], n), np.full(errors.shape, a))


def test_the_bound_is_used_up_by_the_worst_element_and_it_is_told_which() -> None:
    used = measure(np.array([[0.5, -1.5], [1.0, 0.0]]))
    assert used.bound == pytest.approx(1.5 * 2 / 4, rel=1e-6)
    assert used.worst == 1
    assert used.max_abs_error == 1.5 * 2.0**-23
    assert used.legal


def test_many_errors_as_large_as_the_bound_allows_fail_the_statistical_gate() -> None:
    assert measure(np.full((100, 100), 0.99)).legal
    too_many = measure(np.full((100, 100), 1.01), n=100)
    assert too_many.bound < 1 < too_many.rms
    assert not too_many.legal


@pytest.mark.parametrize("count", [1, 2, 8, 100, 10_000])
def test_few_elements_may_scatter_more_than_many(count: int) -> None:
    """At most sqrt(1 + 8 / m) for m elements."""
    limit = math.sqrt(1 + 8 / count)
    below, above = (measure(np.full((count, 1), limit * factor), n=1e4) for factor in (0.999, 1.001))
    assert below.rms == pytest.approx(0.999, rel=1e-4)
    assert below.legal
    assert not above.legal


def test_one_product_and_a_bias_are_legal_alone() -> None:
    """Two roundings to the same side: 1.41 in the unit of the statistical gate, for a single element."""
    x, bias = np.float32(1 + 2.0**-12), np.float32(2.0**-24 * 0.999)
    exact = float(Fraction(float(x)) ** 2 + Fraction(float(bias)))
    got = x * x + bias
    assert (exact - float(got)) / (2.0**-24 * math.sqrt(2) * exact) > 1.41
    assert usage(SINGLE, np.array([[got]]), np.array([[exact]]), np.array([2.0]), np.array([[exact]])).legal


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_uses_infinitely_much(wrong: float) -> None:
    used = usage(SINGLE, np.array([[0.0, wrong]]), np.zeros((1, 2)), np.ones(2), np.ones((1, 2)))
    assert (used.bound, used.max_abs_error, used.worst) == (math.inf, math.inf, 1)
    assert not used.legal


def test_where_nothing_is_added_anything_but_zero_uses_infinitely_much() -> None:
    zeros = np.zeros((1, 2))
    assert usage(SINGLE, zeros, zeros, np.zeros(2), zeros) == Usage(0.0, 0.0, 0.0, 0)
    used = usage(SINGLE, np.array([[0.0, 1e-45]], np.float32), zeros, np.zeros(2), zeros)
    assert (used.bound, used.worst) == (math.inf, 1)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_empty_result_uses_nothing(shape: tuple[int, int]) -> None:
    empty = np.zeros(shape)
    assert usage(SINGLE, empty, empty, np.ones(shape[1:]), empty) == Usage(0.0, 0.0, 0.0, 0)


@pytest.mark.parametrize("block", [1, 5, 7, 64])
def test_measuring_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    rng = np.random.default_rng(block)
    exact, n, a = rng.standard_normal((6, 2, 3)), rng.integers(1, 9, (2, 3)).astype(float), np.ones((6, 2, 3))
    actual = exact + rng.standard_normal(exact.shape) * 1e-7
    whole = usage(SINGLE, actual, exact, n, a)
    monkeypatch.setattr(gates, "BLOCK", block)
    parts = usage(SINGLE, actual, exact, n, a)
    assert (parts.bound, parts.max_abs_error, parts.worst) == (whole.bound, whole.max_abs_error, whole.worst)
    assert parts.rms == pytest.approx(whole.rms, rel=1e-12)


def test_a_reference_that_has_rounded_widens_the_bound_by_its_own() -> None:
    double = ARITHMETICS["float64"]
    exact, n, a = np.ones((1, 1)), np.array([10.0]), np.ones((1, 1))
    actual = exact + 15 * 2.0**-53
    assert not usage(double, actual, exact, n, a).bound <= 1
    assert usage(double, actual, exact, n, a, oracle_unit=2.0**-53).bound <= 1


def test_products_are_counted_per_element_not_per_kernel() -> None:
    """With stride 2 an element is reached by a quarter of the kernel: its bound is that much lower."""
    exact, a = np.zeros((1, 2)), np.ones((1, 2))
    error = np.array([[3.0, 3.0]]) * 2.0**-24
    assert usage(SINGLE, error, exact, np.array([9.0, 9.0]), a).bound <= 1
    assert usage(SINGLE, error, exact, np.array([2.0, 9.0]), a).bound > 1


def test_the_order_of_an_adversary_is_worse_than_any_other() -> None:
    """Else it would show nothing that the plain loop does not."""
    rng = np.random.default_rng(0)
    worse = 0
    for _ in range(20):
        pairs = [(float(a), float(b)) for a, b in rng.standard_normal((40, 2)).astype(np.float32)]
        exact = sum(exactly(pairs))
        errors = [abs(Fraction(float(add_up(pairs))) - exact) for add_up in (worst_next, in_turn, in_pairs, fused)]
        worse += errors[0] == max(errors)
    assert worse >= 18


def test_fused_sums_round_once() -> None:
    assert list(itertools.starmap(lambda a, b: float(single(Fraction(a) + Fraction(b))), [(1.0, 2.0**-24)])) == [1.0]
    above = Fraction(1) + Fraction(1, 2**24) + Fraction(1, 2**80)
    assert float(single(above)) == 1 + 2.0**-23
    assert float(np.float32(float(above))) == 1.0, "through float64 it would be rounded twice"
