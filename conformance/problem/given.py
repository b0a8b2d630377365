"""Problems with numbers that somebody brings along, rather than numbers that are drawn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from conformance.dtypes import FORMATS, Format
from conformance.errors import BadInput
from conformance.oracle.chains import walk
from conformance.oracle.draws import ORACLE_PRECISION
from conformance.oracle.operators import OPERATORS, precision_needed
from conformance.problem.base import Problem, Tensors
from conformance.problem.chain import ChainProblem
from conformance.problem.linear import LinearProblem
from conformance.spec import PUBLISHED, Case, Chain, Convolution, is_index


def pose_given(case: Case, tensors: Mapping[str, np.ndarray]) -> Problem:
    """The problem of a case with these tensors, in the canonical layout (see `Case.tensor_shapes`).

    Where float64 may round their sums, the bounds allow for it; where even the case's dtype holds all sums, an honest
    target gives them bit for bit.  Raises BadInput where a tensor is missing, has another shape, or holds numbers that
    the case's dtype does not have.
    """
    fed = _checked(case, tensors)
    if isinstance(case, Chain):
        return ChainProblem(case, PUBLISHED, fed, walk(case.stages, fed))
    assert isinstance(case, Convolution)
    return _pose_linear(case, fed)


def _pose_linear(case: Convolution, tensors: Tensors) -> LinearProblem:
    operator, format = OPERATORS[case.op], FORMATS[case.dtype]
    magnitude = operator.magnitude(case, tensors)
    if float(magnitude.max(initial=0.0)) >= format.largest:
        raise BadInput(f"{case.id}: sums of these numbers may overflow {case.dtype}")
    needed = precision_needed(magnitude, _unit(tensors))
    return LinearProblem(
        case,
        "exact" if needed <= format.precision else PUBLISHED,
        tensors,
        operator.output(case, tensors),
        known_magnitude=magnitude,
        rounded_by_oracle=needed > ORACLE_PRECISION,
    )


def _unit(tensors: Tensors) -> float:
    """A power of two that all products and the bias are multiples of."""
    products = _unit_of(tensors["input"]) * _unit_of(tensors["weight"])
    return max(min(products, _unit_of(tensors["bias"])) if "bias" in tensors else products, 2.0**-1022)


def _unit_of(tensor: np.ndarray) -> float:
    """The largest power of two that all numbers are multiples of."""
    fraction, exponent = np.frexp(tensor[tensor != 0].astype(np.float64))
    if not fraction.size:
        return 1.0
    whole = np.abs(np.ldexp(fraction, 53)).astype(np.int64)
    _, lowest = np.frexp((whole & -whole).astype(np.float64))
    return float(np.ldexp(1.0, int((exponent - 53 + lowest - 1).min())))


def _checked(case: Case, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    shapes = case.tensor_shapes
    if tensors.keys() != shapes.keys():
        raise BadInput(f"{case.id}: expected the tensors {', '.join(shapes)}, got {', '.join(tensors) or 'none'}")
    return {name: _as_fed(case, name, shapes[name], tensor) for name, tensor in tensors.items()}


def _as_fed(case: Case, name: str, shape: tuple[int, ...], tensor: np.ndarray) -> np.ndarray:
    if tensor.shape != shape:
        raise BadInput(f"{case.id}: {name}: expected the shape {shape}, got {tensor.shape}")
    if is_index(name):
        if tensor.dtype.kind not in "iu":
            raise BadInput(f"{case.id}: {name}: expected integers, got {tensor.dtype}")
        return tensor.astype(np.int64)
    format: Format = FORMATS[case.dtype]
    with np.errstate(all="ignore"):
        fed = tensor.astype(format.dtype)
        same = bool(np.array_equal(fed.astype(np.float64), tensor.astype(np.float64)))
    if not np.isfinite(fed.astype(np.float64)).all():
        raise BadInput(f"{case.id}: {name}: expected finite numbers; the suites' edge data has the others")
    if not same:
        raise BadInput(f"{case.id}: {name}: holds numbers that {case.dtype} does not have; give those that were fed")
    return fed
