"""Which arithmetic an accelerator really uses for float32, shown by a convolution whose result tells.

TF32 keeps 11 significant bits of each operand.  An operand of ``1 + 2**-12`` comes back from a convolution with a
kernel of one 1 as it is, or as 1 where operands are rounded first; and one of ``1 + 2**-9`` comes back as 1 where they
are rounded to bfloat16.  The sizes are those for which tensor cores are used.
"""

from __future__ import annotations

import numpy as np

from conformance.arithmetic import Axis
from conformance.spec import Convolution
from conformance.targets.base import Target, Unsupported

_CHANNELS, _SIZE = 64, 16
_AXIS = Axis(large=_SIZE, small=_SIZE, kernel=3, begin=1)


def float32_in_use(target: Target) -> str:
    """``float32``, ``tf32`` or ``bfloat16``; both, if ``conv`` and ``conv_transpose`` differ."""
    try:
        found = dict.fromkeys(_probe(target, op) for op in ("conv", "conv_transpose"))
    except Unsupported as reason:
        return f"unknown: {reason}"
    return " and ".join(found)


def _probe(target: Target, op: str) -> str:
    case = Convolution(
        id="probe/precision",
        op=op,
        batch=8,
        in_channels=_CHANNELS,
        out_channels=_CHANNELS,
        axes=(_AXIS, _AXIS),
        padding=((1, 1), (1, 1)),
    )
    weight = np.zeros(case.weight_shape, np.float32)
    weight[range(_CHANNELS), range(_CHANNELS), 1, 1] = 1
    kept = {}
    for bits in (12, 9):
        x = np.full(case.small_shape, 1 + 2.0**-bits, np.float32)
        y = np.asarray(target.run(case, {"input": x, "weight": weight})["output"], np.float64)
        kept[bits] = y == 1 + 2.0**-bits
    if kept[12].all():
        return "float32"
    return "tf32" if kept[9].all() else "bfloat16"
