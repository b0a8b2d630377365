"""Which sizes a symbolic export from TensorFlow or Keras leaves open.

The batch always is.  Spatial sizes are where the same arguments say the same geometry at every size: a convolution, its
transpose, and max pooling where the framework has an operator for its switches.  In chains they stay fixed.
"""

from __future__ import annotations

from conformance.spec import Case, Convolution, MaxPool
from conformance.spec.case import Shape, is_parameter

Open = tuple[int | None, ...]


def fed_shapes(case: Case, *, symbolic: bool, has_switches: bool) -> dict[str, Open]:
    """Shapes ``(N, *spatial, C)`` of what the model is fed, None for the sizes that are open.

    ``has_switches`` says that the framework has ``tf.nn.max_pool_with_argmax``.
    """
    shapes = {name: shape for name, shape in case.tensor_shapes.items() if not is_parameter(name)}
    opened = symbolic and _spatial(case, has_switches)
    return {name: _last(shape, batch=symbolic, spatial=opened) for name, shape in shapes.items()}


def _last(shape: Shape, *, batch: bool, spatial: bool) -> Open:
    count, channels, *size = shape
    return (None if batch else count, *(None if spatial else n for n in size), channels)


def _spatial(case: Case, has_switches: bool) -> bool:
    if isinstance(case, MaxPool):
        return has_switches and case.rank < 3 and max(case.dilation) == 1 and not case.magnitude
    return isinstance(case, Convolution) and case.op in ("conv", "conv_transpose")
