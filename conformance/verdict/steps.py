"""One step of a chain, judged on what the target itself fed to it.

A convolution is judged as it is anywhere else.  Steps that only move or pick numbers have to give them bit for bit; but
where the specification leaves open which number is picked (equal maxima, a NaN in the window, several values assigned
to one place) each choice is allowed, and is named.  Other steps have their roundings counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from conformance.dtypes import FORMATS, round_once
from conformance.oracle import pooling
from conformance.oracle.bounds import ARITHMETICS, COARSER_SUMS, Arithmetic, storing
from conformance.oracle.gates import usage
from conformance.oracle.operators import OPERATORS
from conformance.oracle.steps import oracle_of
from conformance.outcome import Outcome
from conformance.problem import LinearProblem
from conformance.spec import Convolution, MaxPool, MaxUnpool, Step
from conformance.verdict.base import Judgement, read_as, worst
from conformance.verdict.linear import judge_linear

Arrays = Sequence[np.ndarray]

NEAR = 2.0**-10
"""How much what a convolution is fed may differ from what is known, relative to the largest element."""

ROOM = 2.01
"""Twice ``|C| |d|``, and one per cent for float32 in which it is computed."""

TIE = "of equal maxima not the first is the switch"
NAN_PASSED_OVER = "a NaN in the window is passed over"
NAN_MIXED = "a NaN wins in some windows and is passed over in others"


@dataclass(frozen=True)
class Expected:
    """What a step should give for what it was fed; ``magnitude`` is the A of a convolution where it is known."""

    tensors: Arrays
    magnitude: np.ndarray | None = None


def judge_step(
    step: Step, fed: Arrays, got: Arrays, wanted: Expected, dtype: str, arithmetic: Arithmetic, strict: bool
) -> Judgement:
    """The verdict on what a step gave; ``strict`` says that nothing may round, because all sums are exact."""
    expected = wanted.tensors
    if isinstance(step, Convolution):
        tensors = dict(zip(("input", "weight", "bias"), fed, strict=False))
        data = "exact" if strict else "rounding"
        problem = LinearProblem(
            step, data, tensors, expected[0], known_magnitude=wanted.magnitude, rounded_by_oracle=not strict
        )
        return judge_linear(problem, Outcome("returned", {"output": got[0]}), arithmetic)
    if isinstance(step, MaxPool):
        return _judge_pool(step, fed[0], got, expected, dtype)
    if isinstance(step, MaxUnpool) and step.overlap == "assign":
        return _judge_assignment(step, fed, got[0], expected[0], dtype)
    return _judge_plain(step, fed, got[0], expected[0], dtype, strict)


def near_known(
    step: Convolution,
    fed: Arrays,
    known: Arrays,
    result: np.ndarray,
    magnitude: Callable[[], np.ndarray],
) -> tuple[np.ndarray, np.ndarray] | None:
    """Result and A of a convolution that is fed nearly what it is known for; None where it is not near enough.

    A convolution is linear: with ``x = known + d`` it gives ``result + C d``.  For a small d float32 is good enough to
    compute ``C d``: its error is at most ``gamma_n(2^-24) |C| |d|``, which adding ``|C| |d|`` to A makes room for, and
    A itself grows by at most as much.  Where nothing reaches an element A stays 0, which demands exactly 0.
    """
    d = fed[0].astype(np.float64) - known[0].astype(np.float64)
    if not float(np.abs(d).max(initial=0.0)) <= NEAR * float(np.abs(known[0]).max(initial=0.0)):
        return None
    operator = OPERATORS[step.op]
    growth = ROOM * operator.roughly(step, d, fed[1], absolute=True)
    return result + operator.roughly(step, d, fed[1]), magnitude() + growth


def _judge_plain(step: Step, fed: Arrays, got: np.ndarray, expected: np.ndarray, dtype: str, strict: bool) -> Judgement:
    rounded = round_once(expected, FORMATS[dtype])
    wrong = ~same(got, rounded)
    if not wrong.any():
        return Judgement("exact", "", 0.0, 0.0, 0.0)
    roundings = oracle_of(step).roundings(step, *fed)
    special = ~np.isfinite(expected)
    if roundings is None or (strict and not special.any()):
        return _wrong(got, rounded)
    rounds = (roundings.products > 0) & (roundings.magnitude > 0) & ~special
    if (wrong & ~rounds).any():
        return _wrong(got, rounded, wrong & ~rounds)
    held_to = storing(ARITHMETICS[COARSER_SUMS.get(dtype, dtype) if roundings.own_format else dtype], roundings.stored)
    products = np.broadcast_to(roundings.products, expected.shape)[rounds]
    unit = FORMATS["float64"].unit_roundoff
    used = usage(held_to, got[rounds], expected[rounds], products, roundings.magnitude[rounds], oracle_unit=unit)
    message = "" if used.legal else worst(got, expected, int(np.flatnonzero(rounds)[used.worst]))
    verdict = "within_bound" if used.legal else "deviates"
    return Judgement(verdict, "", used.max_abs_error, used.bound, used.rms, message=message)


def _judge_pool(step: MaxPool, x: np.ndarray, got: Arrays, expected: Arrays, dtype: str) -> Judgement:
    values, picked = expected[0], got[1] if len(got) > 1 else None
    if same(got[0], round_once(values, FORMATS[dtype])).all() and (
        picked is None or np.array_equal(picked, expected[1])
    ):
        return Judgement("exact", "", 0.0, 0.0, 0.0)
    keys = np.abs(x) if step.magnitude else x
    open_windows = np.isnan(values) & ~pooling.only_nan(step.axes, x)
    if picked is None:
        found = np.abs(got[0]) if step.magnitude else got[0]
        maximal = same(found, pooling.window_maxima(step.axes, keys)) & pooling.holds(step.axes, x, got[0])
        return _picked(got[0], values, maximal, open_windows, None)
    named = pooling.take(x, picked)
    if not (consistent := same(got[0], named)).all():
        n = int(consistent.argmin())
        said = f"but the switch {int(picked.flat[n])} names {float(named.flat[n]):.9g}"
        return Judgement("deviates", message=f"{worst(got[0], values, n)}, {said}")
    chosen = np.abs(named) if step.magnitude else named
    maximal = same(chosen, pooling.window_maxima(step.axes, keys))
    return _picked(got[0], values, maximal, open_windows, picked != expected[1])


def _picked(
    got: np.ndarray,
    expected: np.ndarray,
    maximal: np.ndarray,
    open_windows: np.ndarray,
    other_switch: np.ndarray | None,
) -> Judgement:
    """The verdict where every value is an element of its window.

    ``maximal`` says where it is the largest number; ``open_windows`` hold a NaN beside numbers.
    """
    is_nan = np.isnan(got.astype(np.float64))
    wrong = ~(maximal | (is_nan & np.isnan(expected)))
    if wrong.any():
        return _wrong(got, expected, wrong)
    passed_over = open_windows & ~is_nan
    if passed_over.any() and (passed_over != open_windows).any():
        message = worst(got, expected, int(passed_over.argmax()))
        return Judgement("deviates", diagnosis=NAN_MIXED, message=message)
    if passed_over.any():
        return _open(NAN_PASSED_OVER)
    if other_switch is not None and (other_switch & ~np.isnan(expected)).any():
        return _open(TIE)
    return Judgement("exact", "", 0.0, 0.0, 0.0)


def _judge_assignment(step: MaxUnpool, fed: Arrays, got: np.ndarray, expected: np.ndarray, dtype: str) -> Judgement:
    values, switches = fed
    allowed = pooling.written_by_one(got, values, switches)
    if not allowed.all():
        for name, other in in_inferred_sizes(step, values, switches).items():
            if other is not None and same(got, other).all():
                return _open(name)
        return _wrong(got, round_once(expected, FORMATS[dtype]), ~allowed)
    others = in_inferred_sizes(step, values, switches).values() if step.output_shape is not None else ()
    if any(other is None or not same(got, other).all() for other in others):
        return _open("switches count in the size that is asked for")
    if not pooling.contested(values, switches, step.large).any():
        return Judgement("exact", "", 0.0, 0.0, 0.0)
    readings = {"the last": expected, "the first": pooling.unpool_assign(values, switches, step.large, first=True)}
    who = next((name for name, reading in readings.items() if same(got, reading).all()), "any one")
    return _open(f"several values are assigned to one place, and {who} of them stays")


def in_inferred_sizes(step: MaxUnpool, values: np.ndarray, switches: np.ndarray) -> dict[str, np.ndarray | None]:
    """What ONNX's own MaxUnpool makes of an ``output_shape`` (onnx/onnx#2398): unpooled to the inferred size, and
    laid into the larger one.  That "pads values are ignored" then leaves open whether the inferred size has them.
    None where a reading has no place for a switch.
    """
    if step.output_size is None and step.output_shape is None:
        return {}
    counted = "switches count in the size that follows from the windows, not in the one asked for"
    sizes = {counted: step.inferred, f"{counted}, and that is without pads": step.unpadded}
    return {name: _laid_out(step, values, switches, size) for name, size in sizes.items()}


def _laid_out(step: MaxUnpool, values: np.ndarray, switches: np.ndarray, inner: tuple[int, ...]) -> np.ndarray | None:
    """Unpooled to an inner size, in which places count through the whole tensor, and laid into the larger one."""
    beyond = [(0, size - own) for own, size in zip(inner, step.large, strict=True)]
    planes = math.prod(values.shape[:2])
    own = np.arange(planes).reshape(*values.shape[:2], *[1] * step.rank)
    places = switches + own * math.prod(step.large)
    if min(beyond)[1] < 0 or places.max(initial=0) >= planes * math.prod(inner):
        return None
    everything = (1, 1, values.size)
    flat = pooling.unpool_assign(values.reshape(everything), places.reshape(everything), (planes * math.prod(inner),))
    return np.pad(flat.reshape(*values.shape[:2], *inner), [(0, 0), (0, 0), *beyond])


def _open(reading: str) -> Judgement:
    return read_as(Judgement("exact", "", 0.0, 0.0, 0.0), reading)


def _wrong(got: np.ndarray, expected: np.ndarray, where: np.ndarray | None = None) -> Judgement:
    """Numbers that are not the ones that were to be moved."""
    wrong = ~same(got, expected) if where is None else where
    error = np.where(wrong, np.abs(got.astype(np.float64) - expected.astype(np.float64)), 0.0)
    error[np.isnan(error)] = math.inf
    message = f"{worst(got, expected, int(error.argmax()))}; {int(wrong.sum())} of {wrong.size} elements"
    return Judgement("deviates", "", float(error.max()), math.inf, math.inf, message=message)


def same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Equal numbers; a NaN equals a NaN, zeros of either sign are equal."""
    wide = a.astype(np.float64), b.astype(np.float64)
    equal: np.ndarray = (wide[0] == wide[1]) | (np.isnan(wide[0]) & np.isnan(wide[1]))
    return equal


def told(judgement: Judgement, stage: str) -> Judgement:
    """The same, saying at which stage."""
    diagnosis = f"; {judgement.diagnosis}" if judgement.diagnosis else ""
    return replace(judgement, diagnosis=f"first wrong stage: {stage}{diagnosis}")
