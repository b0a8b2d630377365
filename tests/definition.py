"""What several tests need: a case made in one line, and the products of an element straight from the definition."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from conformance.spec import Convolution
from conformance.spec.loader import OPS, data_kinds

Index = tuple[int, ...]


def make(id: str = "t/case", op: str = "conv_transpose", **keys: Any) -> Convolution:
    """The case that these keys would make in a YAML file."""
    entry = OPS[op].model_validate({"op": op, **keys})
    common = {"id": id, "op": op, "dtype": entry.dtype, "batch": entry.batch, "data": data_kinds(entry)}
    case = entry.resolve(common)
    assert isinstance(case, Convolution)
    return case


def products_reaching(case: Convolution, element: Index) -> Iterator[tuple[Index, Index]]:
    """The products that make an element, as indices into input and weight: straight from the definition."""
    n, channel, *position = element
    small_in_group, large_in_group = case.small_channels // case.groups, case.large_channels // case.groups
    for tap in itertools.product(*map(range, case.kernel)):
        other = []
        for axis, at, t in zip(case.axes, position, tap, strict=True):
            if case.transposed:
                m, rest = divmod(at + axis.begin - t * axis.dilation, axis.stride)
                if rest == 0 and 0 <= m < axis.small:
                    other.append(m)
            else:
                j = at * axis.stride - axis.begin + t * axis.dilation
                if 0 <= j < axis.large:
                    other.append(j)
        if len(other) == case.rank:
            for k in range(small_in_group if case.transposed else large_in_group):
                if case.transposed:
                    small = channel // large_in_group * small_in_group + k
                    yield (n, small, *other), (small, channel % large_in_group, *tap)
                else:
                    yield (n, channel // small_in_group * large_in_group + k, *other), (channel, k, *tap)
