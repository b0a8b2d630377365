"""A user's weights: ``.safetensors``, ``.npz`` or ``.onnx``, for the convolutions of a case.

A file may name them as the case names its layers (``conv1.weight``, ``conv1.bias``).  Otherwise they are taken in order
(``features.0.weight``, ``features.3.weight`` ...): ONNX has the order of its graph, a ``.npz`` that of its members, and
for safetensors, which keep none, names are put in order with the numbers in them counted.  What follows the last
convolution of the case is not looked at.  Files are strangers': nothing is unpickled, and no more than 1 GiB is read.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from conformance.dtypes import FORMATS, round_once
from conformance.errors import BadInput
from conformance.execution import LocalExecutor, Parcel, TargetSpec, Task
from conformance.spec import Convolution, Deconvnet
from conformance.spec.deconvnet import Layer
from conformance.spec.fields import KeyedError
from conformance.spec.vectors import MAX_BYTES, read_npz
from conformance.text import printable

Arrays = dict[str, np.ndarray]

FLOATS: dict[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}
"""Types of safetensors that a weight may have."""
ONNX = TargetSpec("onnx-weights", "onnx-weights", "conformance.targets.onnx_weights:OnnxWeights", ("onnx",))
ONNX_SECONDS = 120.0


def read_weights(path: Path, case: Deconvnet) -> Arrays:
    """Weights and biases of every convolution of the case, by the case's names, in its dtype.  Raises BadInput."""
    arrays = _read(path, case)
    weights: Arrays = {}
    shapes = case.tensor_shapes
    for layer, name in _matched(path, case, arrays):
        weight, bias = f"{layer.name}.weight", f"{layer.name}.bias"
        _check(path, layer.name, "weight", shapes[weight], arrays[name], name)
        weights[weight] = arrays[name]
        bias_name = f"{name.removesuffix('weight')}bias"
        if bias in shapes:
            weights[bias] = arrays.get(bias_name, np.zeros(shapes[bias]))
            _check(path, layer.name, "bias", shapes[bias], weights[bias], bias_name)
        elif np.any(arrays.get(bias_name, np.zeros(1))):
            raise BadInput(f"{path}: {layer.name}: expected no bias, as the case has none, got {printable(bias_name)}")
    return {name: _in_format(path, case, name, array) for name, array in weights.items()}


def _read(path: Path, case: Deconvnet) -> Arrays:
    """All arrays of a file, by name, in the file's order."""
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz}
    suffix = path.suffix.lower()
    if suffix not in (*readers, ".onnx"):
        raise BadInput(f"{path}: expected weights as .safetensors, .npz or .onnx")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    if size > MAX_BYTES:
        raise BadInput(f"{path}: expected at most {MAX_BYTES:,} bytes, got {size:,}")
    return _read_onnx(path, case) if suffix == ".onnx" else readers[suffix](path)


def _read_npz(path: Path) -> Arrays:
    whole = path.resolve()
    try:
        return read_npz(whole.parent, whole.name)
    except KeyedError as error:
        raise BadInput(printable(f"{path.parent / str(error)}")) from None


def _read_safetensors(path: Path) -> Arrays:
    from safetensors import SafetensorError, deserialize

    try:
        found = dict(deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    except (SafetensorError, OSError) as error:
        raise BadInput(printable(f"{path}: cannot be read: {str(error)[:200]}")) from None
    names = sorted((name for name, tensor in found.items() if tensor["dtype"] in FLOATS), key=_counted)
    return {
        name: np.frombuffer(found[name]["data"], FLOATS[found[name]["dtype"]]).reshape(found[name]["shape"])
        for name in names
    }


def _counted(name: str) -> list[tuple[int, str]]:
    """So that ``features.10`` comes after ``features.3``."""
    parts = re.split(r"([0-9]+)", name)
    numbers = (part.lstrip("0") for part in parts[1::2])
    return [
        key for text, n in itertools.zip_longest(parts[::2], numbers) for key in ((-1, text), (len(n or ""), n or ""))
    ]


def _read_onnx(path: Path, case: Deconvnet) -> Arrays:
    """The weights of a model's convolutions, read by a worker: the parent imports no framework."""
    if ONNX.missing:
        raise BadInput(f"{path}: reading ONNX needs onnx; {ONNX.install}")
    parcel = Parcel({"model": np.fromfile(path, np.uint8)})
    try:
        with LocalExecutor([ONNX], timeout=ONNX_SECONDS) as executor:
            executor.submit(Task(ONNX.name, case, parcel.payload, None))
            while not (answers := executor.poll(1.0)):
                pass
    finally:
        parcel.close()
    outcome = answers[0][1]
    if outcome.kind != "returned":
        raise BadInput(printable(f"{path}: cannot be read: {outcome.message or outcome.kind}"))
    return dict(outcome.tensors)


def _matched(path: Path, case: Deconvnet, arrays: Arrays) -> list[tuple[Layer, str]]:
    """Each convolution of the case with the name of its weight in the file."""
    layers = [layer for layer in case.layers if isinstance(layer.step, Convolution)]
    if all(f"{layer.name}.weight" in arrays for layer in layers):
        return [(layer, f"{layer.name}.weight") for layer in layers]
    rank = len(case.layers[0].input)
    names = [name for name, array in arrays.items() if array.ndim == rank and _is_weight(name, arrays)]
    if len(names) < len(layers):
        counted = f"{len(layers)} convolution{'s' if len(layers) > 1 else ''}"
        raise BadInput(f"{path}: expected weights of {counted}, {rank} axes each, found {len(names)}")
    return list(zip(layers, names, strict=False))


def _is_weight(name: str, arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether a name says so; where none does, all arrays of the right rank are weights."""
    return name.endswith("weight") or not any(other.endswith("weight") for other in arrays)


def _check(path: Path, layer: str, what: str, shape: tuple[int, ...], array: np.ndarray, name: str) -> None:
    if array.shape != shape:
        expected, got = ("x".join(map(str, s)) for s in (shape, array.shape))
        raise BadInput(printable(f"{path}: {layer}: expected a {what} of shape {expected}, got {got} ({name})"))
    if array.dtype.kind not in "fiu" and array.dtype not in [f.dtype for f in FORMATS.values()]:
        raise BadInput(printable(f"{path}: {layer}: expected numbers, got {array.dtype} ({name})"))


def _in_format(path: Path, case: Deconvnet, name: str, array: np.ndarray) -> np.ndarray:
    """Rounded to the case's dtype, once."""
    narrow = round_once(array.astype(np.float64), FORMATS[case.dtype])
    if not np.isfinite(narrow.astype(np.float64)).all():
        raise BadInput(f"{path}: {name}: expected finite numbers that {case.dtype} can hold")
    return narrow
