"""The processor that a run is made on: which kernels a library takes depends on it."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first processor; nothing elsewhere."""
    try:
        first = _CPUINFO.read_text("utf-8", "replace").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def cpu_features() -> frozenset[str]:
    """Instruction sets by the names that Linux has for them (``avx512_bf16``, ``asimd``); empty where unknown."""
    said = _cpuinfo()
    return frozenset(said.get("flags", said.get("features", "")).split())


def cpu_model() -> str:
    """What the processor is sold as, or at least its architecture."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()
