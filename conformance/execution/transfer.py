"""Tensors on their way to a worker.

Small tensors travel through the pipe.  Large ones are put once into memory that has no name in any file system, and
workers map it: so a problem of half a gigabyte is not copied for every target, and nothing is left behind, however
anybody dies.  Each worker sees its own copy-on-write version, so that no target can spoil another's input.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

LARGE = 2**20


@dataclass(frozen=True, slots=True)
class Mapped:
    """A tensor in memory that a process shares under ``path``."""

    path: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]

    def open(self) -> np.ndarray:
        raw = np.memmap(self.path, np.uint8, mode="c")
        return np.asarray(raw).view(self.dtype).reshape(self.shape)


Payload = dict[str, "np.ndarray | Mapped"]


class Parcel:
    """Tensors packed for sending; to be closed when no worker needs them any more."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self._files: list[int] = []
        self.payload: Payload = {name: self._pack(tensor) for name, tensor in tensors.items()}

    def _pack(self, tensor: np.ndarray) -> np.ndarray | Mapped:
        if tensor.nbytes < LARGE or not hasattr(os, "memfd_create"):
            return tensor
        file = os.memfd_create("tensor")
        self._files.append(file)
        left = np.ascontiguousarray(tensor).view(np.uint8).reshape(-1).data
        while left:
            left = left[os.write(file, left) :]
        return Mapped(f"/proc/{os.getpid()}/fd/{file}", tensor.dtype, tensor.shape)

    def close(self) -> None:
        for file in self._files:
            with contextlib.suppress(OSError):
                os.close(file)
        self._files.clear()


def unpack(payload: Payload) -> dict[str, np.ndarray]:
    """The tensors of a payload, in a worker."""
    return {name: value.open() if isinstance(value, Mapped) else value for name, value in payload.items()}
