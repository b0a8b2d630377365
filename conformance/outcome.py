"""What came back from a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Kind = Literal["returned", "unsupported", "error", "crash", "timeout"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Tensors, or why there are none.  ``seconds`` is the time that the target itself took.

    ``faults`` say what is wrong beside the tensors, such as a model file that is not valid; ``file`` is the path of
    the exported file that was run.
    """

    kind: Kind
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    message: str = ""
    seconds: float = 0.0
    faults: tuple[str, ...] = ()
    file: str = ""
