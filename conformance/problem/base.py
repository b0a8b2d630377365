"""What all problems have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from conformance.dtypes import FORMATS, Format
from conformance.spec import Case

Tensors = Mapping[str, np.ndarray]
Part = tuple[Case, Tensors]


@dataclass(frozen=True)
class Problem:
    """A case with numbers: ``tensors`` in the case's dtype, indices int64."""

    case: Case
    data: str
    tensors: Tensors = field(repr=False)

    @property
    def format(self) -> Format:
        return FORMATS[self.case.dtype]

    @property
    def parts(self) -> tuple[Part, ...]:
        """What a target has to run, most often one case."""
        return ((self.case, self.tensors),)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds on to, bounded from above."""
        return sum(tensor.nbytes for _, tensors in self.parts for tensor in tensors.values())
