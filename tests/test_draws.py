"""Numbers that can be summed without rounding, checked with integers and fractions; and rounding once, done once."""

from __future__ import annotations

import hashlib
import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from definition import make, products_reaching
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.dtypes import FORMATS, round_once
from conformance.errors import OracleRounded
from conformance.oracle.draws import Drawn, draw_exact, generator
from conformance.oracle.operators import OPERATORS, precision_needed
from conformance.problem import Problem, pose
from conformance.problem import linear as problems
from conformance.spec import EDGE_KINDS, Convolution, Vectors

EXAMPLES = settings(max_examples=120, deadline=None, derandomize=True)

DTYPES = tuple(FORMATS)
Index = tuple[int, ...]


@st.composite
def cases(draw: st.DrawFn, dtypes: tuple[str, ...] = DTYPES) -> Convolution:
    op = draw(st.sampled_from(sorted(OPERATORS)))
    rank, groups = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    return make(
        f"t/{draw(st.integers(0, 10**6))}",
        op,
        dtype=draw(st.sampled_from(dtypes)),
        batch=draw(st.integers(1, 2)),
        in_channels=groups * draw(st.integers(1, 3)),
        out_channels=groups * draw(st.integers(1, 3)),
        groups=groups,
        bias=op != "conv_input_gradient" and draw(st.booleans()),
        input=[draw(st.integers(3, 5)) for _ in range(rank)],
        kernel=[draw(st.integers(1, 3)) for _ in range(rank)],
        stride=[draw(st.integers(1, 3)) for _ in range(rank)],
    )


def elements(problem: Problem, at_most: int = 40) -> list[Index]:
    every = list(np.ndindex(problem.exact.shape))
    return every[:: max(len(every) // at_most, 1)]


def terms(problem: Problem, element: Index) -> list[Fraction]:
    """What is summed for an element, as fractions."""
    x, w = problem.tensors["input"], problem.tensors["weight"]
    summed = [Fraction(float(x[i])) * Fraction(float(w[j])) for i, j in products_reaching(problem.case, element)]
    if "bias" in problem.tensors:
        summed.append(Fraction(float(problem.tensors["bias"][element[1]])))
    return summed


def significant_bits(number: float) -> int:
    """Of an integer: from the first 1 to the last."""
    integer = int(abs(number))
    return (integer // (integer & -integer)).bit_length() if integer else 0


# ---- Exact data ----


@given(cases())
@EXAMPLES
def test_no_sum_of_exact_data_needs_more_bits_than_the_format_has(case: Convolution) -> None:
    problem = pose(case, "exact")
    for element in elements(problem):
        summed = terms(problem, element)
        assert all(term.denominator == 1 for term in summed)
        assert sum(map(abs, summed)) <= 2**problem.format.precision
        assert Fraction(float(problem.exact[element])) == sum(summed)


@given(cases(("float32", "float64")))
@EXAMPLES
def test_in_every_product_one_factor_is_wide_and_the_other_narrow(case: Convolution) -> None:
    problem = pose(case, "exact")
    x, w = problem.tensors["input"], problem.tensors["weight"]
    at_least = {"float32": 12, "float64": 25}[case.dtype]
    for element in elements(problem):
        for i, j in products_reaching(case, element):
            narrow, wide = sorted((float(x[i]), float(w[j])), key=abs)
            assert abs(narrow) in (1, 2)
            assert significant_bits(wide) >= at_least
            assert int(wide) % 2 == 1


@given(cases(("float16", "bfloat16")))
@EXAMPLES
def test_exact_data_of_half_precision_has_narrow_factors_too(case: Convolution) -> None:
    problem = pose(case, "exact")
    x, w = problem.tensors["input"], problem.tensors["weight"]
    for element in elements(problem):
        for i, j in products_reaching(case, element):
            assert {abs(float(x[i])), abs(float(w[j]))} & {1.0, 2.0}
            assert max(abs(float(x[i])), abs(float(w[j]))) >= 2


@given(cases())
@EXAMPLES
def test_no_factor_is_zero_where_few_products_meet(case: Convolution) -> None:
    for tensor in pose(case, "exact").tensors.values():
        assert np.count_nonzero(tensor) == tensor.size


def round_to(bits: int, x: np.ndarray) -> np.ndarray:
    """To so many significant bits, to nearest even."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.rint(mantissa * 2.0**bits), exponent - bits)


def many_products(channels: int, dtype: str = "float32") -> Convolution:
    """A case in which exactly ``channels`` products meet."""
    return make("t/many", dtype=dtype, in_channels=channels, out_channels=2, input=[3], kernel=1)


@pytest.mark.parametrize("products", [1, 2, 3, 18, 100, 2047])
@pytest.mark.parametrize(("name", "bits"), [("tf32", 11), ("float16", 11), ("bfloat16", 8)])
def test_rounding_an_operand_changes_each_of_its_wide_numbers(products: int, name: str, bits: int) -> None:
    case = many_products(products)
    layout = OPERATORS[case.op].layout(case, phase=0)
    assert layout.products == products
    drawn = draw_exact(layout, FORMATS["float32"], generator(case.id, "exact", 0))
    wide_numbers = 0
    for factor, mask in layout.wide.items():
        tensor = drawn.tensors[factor]
        changed = round_to(bits, tensor) != tensor.astype(np.float64)
        assert np.array_equal(changed, np.broadcast_to(mask, tensor.shape))
        wide_numbers += int(changed.sum())
    assert wide_numbers > 0


@pytest.mark.parametrize("products", [2047, 2048, 4095])
def test_with_up_to_4095_products_a_wide_number_still_has_more_bits_than_tf32(products: int) -> None:
    tensors = pose(many_products(products), "exact").tensors
    widest = max(significant_bits(v) for t in tensors.values() for v in np.unique(t))
    assert widest == 12
    narrow = {abs(float(v)) for t in tensors.values() for v in np.unique(t) if significant_bits(v) < 12}
    assert narrow == ({1.0, 2.0} if products == 2047 else {1.0})


@pytest.mark.parametrize(("dtype", "products"), [("float32", 5000), ("float16", 1500), ("bfloat16", 200)])
def test_where_too_many_products_meet_some_narrow_factors_are_zero(dtype: str, products: int) -> None:
    case = many_products(products, dtype)
    problem = pose(case, "exact")
    values = [float(v) for t in problem.tensors.values() for v in t.ravel()]
    zeros = sum(v == 0 for v in values)
    assert 0 < zeros < len(values) / 2 + 1, "narrow factors only, and they are half of all"
    for element in elements(problem, 3):
        summed = terms(problem, element)
        assert len(summed) == products
        assert 0 < sum(map(abs, summed)) <= 2**problem.format.precision


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_exact_data_exists_however_many_products_meet(dtype: str) -> None:
    problem = pose(many_products(60_000, dtype), "exact")
    assert 0 < problem.magnitude.max() <= 2**problem.format.precision


def test_channels_take_turns_and_cases_differ_in_which_factor_begins() -> None:
    begins_wide = set()
    for n in range(12):
        x = pose(make(f"t/{n}", in_channels=4, input=[3], kernel=2), "exact").tensors["input"]
        wide = [bool(np.all(np.abs(x[0, channel]) > 2)) for channel in range(4)]
        assert wide in ([True, False, True, False], [False, True, False, True])
        begins_wide.add(wide[0])
    assert begins_wide == {True, False}


def test_exact_data_is_drawn_again_with_fewer_products_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = []

    def too_large(*arguments: Any) -> Drawn:
        attempts.append(arguments[-1])
        drawn = draw_exact(*arguments)
        return Drawn({name: tensor * 4096 for name, tensor in drawn.tensors.items()}, 1.0, None)

    monkeypatch.setattr(problems, "draw_exact", too_large)
    with pytest.raises(OracleRounded, match=r"^t/case \(exact\): sums need \d+ bits, there are 24$"):
        pose(make(input=[3], kernel=2), "exact")
    assert attempts == list(range(problems.MAX_ATTEMPTS))


# ---- Rounding data ----


@given(cases(("float16", "bfloat16", "float32")))
@EXAMPLES
def test_the_oracle_does_not_round_rounding_data(case: Convolution) -> None:
    problem = pose(case, "rounding")
    for element in elements(problem):
        summed = terms(problem, element)
        assert Fraction(float(problem.exact[element])) == sum(summed)
        assert Fraction(float(problem.magnitude[element])) == sum(map(abs, summed))


@pytest.mark.parametrize("products", [2, 300])
def test_a_target_does_round_rounding_data(products: int) -> None:
    problem = pose(many_products(products), "rounding")
    rounded = 0
    for element in elements(problem):
        total = np.float32(0)
        for term in terms(problem, element):
            total = total + np.float32(float(term))
        rounded += float(total) != problem.exact[element]
    assert rounded >= len(elements(problem)) - 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("products", [1, 20, 3000])
def test_rounding_data_looks_like_normally_distributed_numbers_in_full_precision(dtype: str, products: int) -> None:
    x = pose(many_products(products, dtype) if products > 1 else make(dtype=dtype, input=[5000], kernel=1), "rounding")
    values = x.tensors["input"].astype(np.float64).ravel()
    assert np.all(np.abs(values) < 8)
    if values.size > 1000:
        assert abs(values.mean()) < 0.1
        assert abs(values.std() - 1) < 0.1
    most = max(significant_bits(v * 2.0**30) for v in values)
    assert most >= min(FORMATS[dtype].precision, 18) - 1


def test_rounding_data_never_has_to_be_rounded_to_its_format() -> None:
    for dtype, products in itertools.product(("float16", "bfloat16", "float32"), (1, 20, 3000)):
        precision = FORMATS[dtype].precision
        for tensor in pose(many_products(products, dtype), "rounding").tensors.values():
            grid = tensor.astype(np.float64) * 2.0 ** (precision - 3)
            assert np.array_equal(grid, np.rint(grid))
            assert np.abs(grid).max() < 2.0**precision


def test_numbers_that_float64_cannot_sum_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make("t/refused", input=[3], kernel=2, in_channels=2)
    pose(case, "rounding")
    monkeypatch.setattr(problems, "ORACLE_PRECISION", 40)
    with pytest.raises(OracleRounded, match=r"^t/refused \(rounding\): sums need (4[1-9]|5[0-3]) bits, there are 40$"):
        pose(case, "rounding")


def test_published_numbers_may_round_and_say_so() -> None:
    case = make(input=[1], kernel=1, in_channels=2)
    tensors = {"input": np.array([[[1e30], [1.0]]], np.float32), "weight": np.ones((2, 1, 1), np.float32)}
    published = Convolution(
        **{name: getattr(case, name) for name in case.__dataclass_fields__}
        | {
            "vectors": Vectors(tensors, {}),
            "data": ("published",),
        }
    )
    problem = pose(published, "published")
    assert problem.rounded_by_oracle
    assert not pose(case, "rounding").rounded_by_oracle
    with pytest.raises(ValueError, match=r"^t/case brings no numbers along$"):
        pose(case, "published")


@pytest.mark.parametrize(
    ("largest", "unit", "bits"),
    [(0.0, 1.0, 0), (1.0, 1.0, 0), (3.0, 1.0, 2), (4.0, 1.0, 2), (5.0, 1.0, 3), (1.0, 2.0**-9, 9)],
)
def test_bits_of_a_sum_are_counted_in_units(largest: float, unit: float, bits: int) -> None:
    assert precision_needed(np.array([[0.0, largest]]), unit) == bits


@pytest.mark.parametrize(("precision", "above"), [(8, 1), (11, 1), (24, 1), (53, 2)])
def test_a_sum_above_the_largest_needs_another_bit(precision: int, above: int) -> None:
    limit = 2.0**precision
    assert precision_needed(np.array([limit]), 1.0) == precision
    assert precision_needed(np.array([limit + above]), 1.0) == precision + 1


# ---- The same everywhere ----

PINNED_CASE: dict[str, Any] = {
    "id": "t/pinned",
    "input": [3, 4],
    "kernel": [3, 4],
    "stride": [2, 3],
    "padding": [0, 1],
    "output_padding": [0, 2],
    "in_channels": 2,
    "out_channels": 3,
    "bias": True,
    "batch": 2,
}

PINNED = {
    ("float16", "exact"): "b799e93486f4e919",
    ("float16", "rounding"): "511dae6d97cf4930",
    ("float16", "edge-nan"): "5993369d5a5de668",
    ("float16", "edge-inf"): "aed525928b451019",
    ("float16", "edge-zero"): "b66dbe6215f9350d",
    ("float16", "edge-subnormal"): "14182a27d28d7e08",
    ("float16", "edge-huge"): "0fdb923e54779f28",
    ("bfloat16", "exact"): "3e56718dba19c675",
    ("bfloat16", "rounding"): "f51812e5a1bb71b7",
    ("bfloat16", "edge-nan"): "5993369d5a5de668",
    ("bfloat16", "edge-inf"): "aed525928b451019",
    ("bfloat16", "edge-zero"): "b66dbe6215f9350d",
    ("bfloat16", "edge-subnormal"): "2e7394da7b9ab12b",
    ("bfloat16", "edge-huge"): "e0ba6c86916a9e1e",
    ("float32", "exact"): "f7580b3ca75e2a4f",
    ("float32", "rounding"): "be07af9e88815924",
    ("float32", "edge-nan"): "5993369d5a5de668",
    ("float32", "edge-inf"): "aed525928b451019",
    ("float32", "edge-zero"): "b66dbe6215f9350d",
    ("float32", "edge-subnormal"): "5c36638368c42557",
    ("float32", "edge-huge"): "e0ba6c86916a9e1e",
    ("float64", "exact"): "e2ce7dc73e36fb1c",
    ("float64", "edge-nan"): "5993369d5a5de668",
    ("float64", "edge-inf"): "aed525928b451019",
    ("float64", "edge-zero"): "b66dbe6215f9350d",
    ("float64", "edge-subnormal"): "91ea8e31bdb1a283",
    ("float64", "edge-huge"): "06af473bd173bca5",
}


def digest(problem: Problem) -> str:
    numbers = ((name, [float(v).hex() for v in t.ravel()]) for name, t in sorted(problem.tensors.items()))
    return hashlib.sha256(repr(list(numbers)).encode()).hexdigest()[:16]


@pytest.mark.parametrize(("dtype", "data"), sorted(PINNED))
def test_the_numbers_of_a_case_are_the_same_on_every_machine(dtype: str, data: str) -> None:
    """A run is comparable with an older one only as long as these digests stand."""
    assert digest(pose(make(dtype=dtype, **PINNED_CASE), data)) == PINNED[dtype, data]


def test_the_numbers_follow_from_id_data_and_seed_alone() -> None:
    case, renamed = make("t/a", input=[4], kernel=3), make("t/b", input=[4], kernel=3)
    assert digest(pose(case, "rounding", 7)) == digest(pose(case, "rounding", 7))
    others = [pose(case, "rounding", 8), pose(renamed, "rounding", 7), pose(case, "exact", 7)]
    assert len({digest(pose(case, "rounding", 7)), *map(digest, others)}) == 4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("data", ["exact", "rounding", *EDGE_KINDS])
def test_tensors_have_the_shapes_and_the_type_of_the_case(dtype: str, data: str) -> None:
    problem = pose(make(dtype=dtype, **PINNED_CASE), data)
    assert {name: t.shape for name, t in problem.tensors.items()} == problem.case.tensor_shapes
    assert {t.dtype for t in problem.tensors.values()} == {FORMATS[dtype].dtype}
    assert problem.exact.shape == problem.case.result_shapes["output"]
    assert problem.exact.dtype == np.float64


def test_a_large_tensor_is_drawn_in_pieces_of_the_same_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    from conformance.oracle import draws

    monkeypatch.setattr(draws, "BLOCK", 16)
    case = make("t/blocks", in_channels=6, out_channels=4, batch=5, input=[7], kernel=3)
    problem = pose(case, "exact")
    for element in elements(problem, 20):
        summed = terms(problem, element)
        assert sum(map(abs, summed)) <= 2**24
        assert Fraction(float(problem.exact[element])) == sum(summed)
    assert len({tuple(sample) for sample in problem.tensors["input"].reshape(5, -1).tolist()}) == 5


# ---- Rounding once ----


def nearest(number: Fraction, precision: int, emin: int, emax: int) -> float:
    """IEEE 754-2019, section 4.3.1, on fractions: to nearest, ties to even, subnormal numbers, overflow."""
    if number == 0:
        return 0.0
    exponent = emin
    while abs(number) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (exponent - precision + 1)
    count, rest = divmod(abs(number), unit)
    if rest * 2 > unit or (rest * 2 == unit and count % 2 == 1):
        count += 1
    magnitude = math.inf if count * unit >= Fraction(2) ** (emax + 1) else float(count * unit)
    return math.copysign(magnitude, number)


SHAPES = {"float16": (11, -14, 15), "bfloat16": (8, -126, 127), "float32": (24, -126, 127)}


@st.composite
def hard_to_round(draw: st.DrawFn, dtype: str) -> float:
    """Halfway between two numbers of the format, exactly or off by the least that float64 can say."""
    precision, emin, emax = SHAPES[dtype]
    exponent = draw(st.integers(emin - precision - 2, emax + 1))
    halfway = (2 * draw(st.integers(0, 2**precision)) + 1) * 2.0 ** (exponent - precision)
    off = draw(st.sampled_from((0, 1, -1)))
    bump = draw(st.sampled_from((2.0**-52, 2.0**-40, 2.0**-26, 2.0**-20)))
    return math.copysign(halfway * (1 + off * bump), draw(st.sampled_from((1, -1))))


@pytest.mark.parametrize("dtype", SHAPES)
def test_rounding_once_is_what_ieee_754_says(dtype: str) -> None:
    @given(st.lists(st.one_of(hard_to_round(dtype), st.floats(allow_nan=False, allow_infinity=False)), max_size=40))
    @EXAMPLES
    def holds(numbers: list[float]) -> None:
        rounded = round_once(np.array(numbers), FORMATS[dtype]).astype(np.float64)
        expected = [nearest(Fraction(number), *SHAPES[dtype]) for number in numbers]
        assert rounded.tolist() == expected

    holds()


def test_bfloat16_is_not_rounded_twice() -> None:
    """1 + 2**-8 is halfway; the 2**-40 above it is lost on the way through float32, and halfway goes to even."""
    above_halfway = np.array([1 + 2.0**-8 + 2.0**-40])
    assert round_once(above_halfway, FORMATS["bfloat16"]).astype(float) == [1.0078125]
    assert round_once(-above_halfway, FORMATS["bfloat16"]).astype(float) == [-1.0078125]
    twice = above_halfway.astype(np.float32).astype(FORMATS["bfloat16"].dtype)
    assert twice.astype(float) == [1.0], "the trap exists"


def test_float16_is_not_rounded_twice() -> None:
    above_halfway = np.array([1 + 2.0**-11 + 2.0**-40])
    assert round_once(above_halfway, FORMATS["float16"]) == [np.float16(1 + 2.0**-10)]
    assert above_halfway.astype(np.float32).astype(np.float16) == [1.0], "the trap exists"


@pytest.mark.parametrize("dtype", DTYPES)
def test_overflow_rounds_to_infinity_and_specials_stay_what_they_are(dtype: str) -> None:
    special = np.array([math.inf, -math.inf, math.nan, 0.0, -0.0])
    rounded = round_once(special, FORMATS[dtype]).astype(np.float64)
    assert rounded[:2].tolist() == [math.inf, -math.inf]
    assert np.isnan(rounded[2])
    assert np.signbit(rounded[3:]).tolist() == [False, True]
    if dtype != "float64":
        largest = FORMATS[dtype].largest
        beyond = (
            largest
            + (largest - float(np.nextafter(FORMATS[dtype].dtype.type(largest), FORMATS[dtype].dtype.type(0)))) / 2
        )
        numbers = np.array([largest, np.nextafter(beyond, 0), beyond, -beyond])
        assert round_once(numbers, FORMATS[dtype]).astype(np.float64).tolist() == [
            largest,
            largest,
            math.inf,
            -math.inf,
        ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_does_not_touch_what_it_is_given(dtype: str) -> None:
    exact = np.array([1.1, math.nan, -math.inf, 5e-324])
    before = exact.tobytes()
    round_once(exact, FORMATS[dtype])
    assert exact.tobytes() == before


@pytest.mark.parametrize(
    ("dtype", "precision", "tiny", "subnormal", "largest"),
    [
        ("float16", 11, 2.0**-14, 2.0**-24, 65504.0),
        ("bfloat16", 8, 2.0**-126, 2.0**-133, 2.0**128 - 2.0**120),
        ("float32", 24, 2.0**-126, 2.0**-149, 2.0**128 - 2.0**104),
        ("float64", 53, 2.0**-1022, 2.0**-1074, 2.0**1023 * (2 - 2.0**-52)),
    ],
)
def test_the_formats_are_those_of_ieee_754_and_bfloat16(
    dtype: str, precision: int, tiny: float, subnormal: float, largest: float
) -> None:
    format = FORMATS[dtype]
    assert (format.precision, format.tiny, format.subnormal, format.largest) == (precision, tiny, subnormal, largest)
    assert format.unit_roundoff == 2.0**-precision
