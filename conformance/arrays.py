"""Arrays of any library as NumPy's."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np


def as_numpy(array: Any) -> np.ndarray:
    """The same numbers in NumPy's memory, bfloat16 as ml_dtypes has it.

    Takes what NumPy takes (lists, arrays of JAX, whatever has ``__array__``), tensors of PyTorch on any device and with
    any history, of TensorFlow (``.numpy()``) and of CuPy (``.get()``).  Raises TypeError for anything else.
    """
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "detach"):
        return _from_torch(array.detach().cpu())
    for method in ("numpy", "get"):
        if callable(getattr(array, method, None)) and not isinstance(array, dict):
            array = getattr(array, method)()
            break
    converted = np.asarray(array)
    if converted.dtype.kind not in "fiubV":
        raise TypeError(f"expected an array of numbers, got {type(array).__name__}")
    return converted


def _from_torch(tensor: Any) -> np.ndarray:
    torch = sys.modules["torch"]
    if tensor.dtype == torch.bfloat16:
        numbers: np.ndarray = tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return numbers
    converted: np.ndarray = tensor.resolve_conj().resolve_neg().numpy()
    return converted
