"""Which sizes a symbolic export leaves open, and the example of another size that it is traced with.

The batch always is.  Spatial sizes are where the same arguments say the same geometry at every size: a convolution, its
transpose and max pooling whose padding is given in numbers, the same at both ends (or a word of PyTorch's).  In chains,
and where the case says a size itself (``output_size``, the gradient of a convolution), the spatial sizes stay fixed.
"""

from __future__ import annotations

from dataclasses import dataclass

from conformance.spec import Case, Convolution, MaxPool, is_parameter
from conformance.spec.case import Shape
from conformance.targets.torch_chain import pooling_pads

BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Sizes:
    """The shapes of the example's inputs, and for inputs and outputs the names of the axes that are left open."""

    example: dict[str, Shape]
    open: dict[str, dict[int, str]]


def fixed(case: Case) -> Sizes:
    """The sizes of the case, none of them open."""
    return Sizes(_shapes_fed(case), {})


def symbolic(case: Case) -> Sizes:
    """Open sizes, and an example one image larger; at least two, because exporters treat a size of one specially.

    Where the spatial sizes are open, the example is larger so that the output is larger too and every remainder is
    another one.
    """
    longer = _longer(case)
    shapes = {
        name: (max(shape[0] + 1, 2), *shape[1:2], *_add(shape[2:], longer)) for name, shape in _shapes_fed(case).items()
    }
    named = {name: _names(name, len(shape), longer) for name, shape in (_shapes_fed(case) | case.result_shapes).items()}
    return Sizes(shapes, named)


def _shapes_fed(case: Case) -> dict[str, Shape]:
    return {name: case.tensor_shapes[name] for name in case.tensor_shapes if not is_parameter(name)}


def _add(size: Shape, longer: Shape | None) -> Shape:
    return size if longer is None else tuple(n + more for n, more in zip(size, longer, strict=True))


def _names(name: str, rank: int, longer: Shape | None) -> dict[int, str]:
    spatial = range(2, rank) if longer is not None else ()
    return {0: BATCH} | {axis: f"{name}_{axis}" for axis in spatial}


def _longer(case: Case) -> Shape | None:
    """How much longer the example's input is on each spatial axis; None where those sizes are not open."""
    if isinstance(case, Convolution) and case.op == "conv_transpose":
        says_numbers = isinstance(case.padding, tuple) and case.output_size is None
        return tuple(2 for _ in case.axes) if says_numbers else None
    if isinstance(case, Convolution) and case.op == "conv":
        open_sizes = isinstance(case.padding, str) or _alike(case.padding)
    else:
        open_sizes = isinstance(case, MaxPool) and _alike(case.padding) and pooling_pads(case)
    return tuple(stride + 1 for stride in case.stride) if open_sizes else None  # type: ignore[attr-defined]


def _alike(pads: object) -> bool:
    """Whether the padding is given in numbers, the same at both ends."""
    return pads == "valid" or (isinstance(pads, tuple) and all(begin == end for begin, end in pads))
