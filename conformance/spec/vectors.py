"""Numbers that a case brings along: nested lists in the YAML, or an ``.npz`` beside it."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from conformance.dtypes import FORMATS, Format, round_once
from conformance.spec.case import Case, Shape, Vectors, is_index
from conformance.spec.fields import KeyedError
from conformance.spec.steps import index_limit

MAX_BYTES = 2**30
MAX_DEPTH = 8
_INPUTS, _OUTPUTS = "tensors", "expected"


def attach_vectors(
    case: Case,
    tensors: Mapping[str, Any] | None,
    expected: Mapping[str, Any] | None,
    file: str | None,
    decimals: int | None,
    folder: Path,
) -> Vectors | None:
    """Read what an entry brings along and check it against the case's shapes.  Raises KeyedError."""
    if file is not None:
        if tensors is not None or expected is not None:
            raise KeyedError("vectors", "expected either vectors or tensors and expected, got both")
        tensors, expected = _split(read_npz(folder, file), case)
    if tensors is None:
        if expected is not None:
            raise KeyedError(_OUTPUTS, "expected tensors beside it")
        return None
    key = "vectors" if file is not None else ""
    inputs = {n: _input(case, n, v, key or f"{_INPUTS}.{n}") for n, v in tensors.items()}
    outputs = {n: _array(v, key or f"{_OUTPUTS}.{n}").astype(np.float64) for n, v in (expected or {}).items()}
    _check(inputs, case.tensor_shapes, key or _INPUTS, every=True)
    _check(outputs, case.result_shapes, key or _OUTPUTS, every=False)
    return Vectors(inputs, outputs, decimals)


def _input(case: Case, name: str, value: Any, key: str) -> np.ndarray:
    array = _array(value, key)
    return _indices(array, key, case, name) if is_index(name) else _in_format(array, FORMATS[case.dtype], key)


def _indices(array: np.ndarray, key: str, case: Case, name: str) -> np.ndarray:
    """Switches that stay in the plane that they are for.  Raises KeyedError."""
    limit = index_limit(case, name)
    wide = array.astype(np.float64)
    if not ((wide == np.rint(wide)) & (wide >= 0) & (wide < limit)).all():
        raise KeyedError(key, f"expected integers from 0 to {limit - 1}, flat within each plane")
    return array.astype(np.int64)


def read_npz(folder: Path, name: str) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file inside ``folder``; never unpickles and never reads more than 1 GiB."""
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve())
        with zipfile.ZipFile(path) if inside else contextlib.nullcontext() as archive:
            size = sum(member.file_size for member in archive.infolist()) if archive else 0
        if inside and size <= MAX_BYTES:
            with np.load(path, allow_pickle=False, max_header_size=10_000) as arrays:
                return {key: arrays[key] for key in arrays.files}
    except Exception as error:  # a stranger's archive can be wrong in any way
        raise KeyedError("vectors", f"{name} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not inside:
        raise KeyedError("vectors", f"expected a file beside the suite or below it, got {name}")
    raise KeyedError("vectors", f"expected at most {MAX_BYTES} bytes in {name}")


def _split(arrays: dict[str, np.ndarray], case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    results = case.result_shapes
    return (
        {name: a for name, a in arrays.items() if name not in results},
        {name: a for name, a in arrays.items() if name in results},
    )


def _array(value: Any, key: str) -> np.ndarray:
    """A nested list of numbers as float64; text such as ``0x1.8p-3``, ``nan`` or ``-inf`` is a number too."""
    try:
        array = value if isinstance(value, np.ndarray) else np.array(_numbers(value, 0), dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        raise KeyedError(key, "expected nested lists of numbers, all of the same length on each axis") from None
    if array.dtype.kind not in "fiub" and array.dtype not in [f.dtype for f in FORMATS.values()]:
        raise KeyedError(key, f"expected numbers, got {array.dtype}")
    return array


def _in_format(array: np.ndarray, format: Format, key: str) -> np.ndarray:
    """Round to the case's dtype, once.  Raises KeyedError where a finite number would become infinite."""
    wide = array.astype(np.float64)
    narrow = round_once(wide, format)
    if np.any(np.isfinite(wide) & ~np.isfinite(narrow.astype(np.float64))):
        raise KeyedError(key, f"expected numbers that {format.name} can hold, at most {format.largest:g}")
    return narrow


def _numbers(value: Any, depth: int) -> Any:
    if isinstance(value, list) and depth < MAX_DEPTH:
        return [_numbers(v, depth + 1) for v in value]
    if isinstance(value, str):
        return float.fromhex(value) if "0x" in value.lower() else float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(value)
    return value


def _check(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape], key: str, every: bool) -> None:
    for name, array in arrays.items():
        if name not in shapes:
            raise KeyedError(f"{key}.{name}", f"unknown tensor; expected {', '.join(shapes)}")
        if array.shape != shapes[name]:
            raise KeyedError(f"{key}.{name}", f"expected shape {list(shapes[name])}, got {list(array.shape)}")
    missing = [name for name in shapes if name not in arrays]
    if every and missing:
        raise KeyedError(key, f"expected also {', '.join(missing)}, {_sizes(shapes, missing)}")


def _sizes(shapes: Mapping[str, Shape], names: list[str]) -> str:
    return ", ".join(f"{math.prod(shapes[n])} numbers in shape {list(shapes[n])}" for n in names)
