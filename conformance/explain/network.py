"""The network of a case as it is explained: one image, up to one layer, and what of the image a unit sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from conformance.arithmetic import Axis
from conformance.errors import BadInput
from conformance.spec import Case, Convolution, Deconvnet, Pooling
from conformance.spec.deconvnet import Layer

Tensors = Mapping[str, np.ndarray]
Box = tuple[tuple[int, int], ...]
"""Per axis the first position and the one after the last."""


def explainable(case: Case, layer: str | None = None) -> Deconvnet:
    """The case for one image, up to ``layer``.  Raises BadInput where it is no deconvnet on images."""
    if not isinstance(case, Deconvnet):
        raise BadInput(f"{case.id}: expected a case of op deconvnet, got {case.op}")
    if (rank := len(case.layers[0].input) - 2) != 2:
        raise BadInput(f"{case.id}: expected images of two axes, got {rank}")
    layers = tuple(map(_for_one_image, _up_to(case, layer)))
    isolate = case.isolate if len(layers) == len(case.layers) else replace(case.isolate, channel=None, unit=None)
    return replace(case, batch=1, layers=layers, isolate=isolate, vectors=None)


def _up_to(case: Deconvnet, name: str | None) -> Sequence[Layer]:
    names = [layer.name for layer in case.layers]
    if name is None:
        return case.layers
    if name not in names:
        raise BadInput(f"--layer {name}: expected one of {', '.join(names)}")
    layers = case.layers[: names.index(name) + 1]
    if not any(isinstance(layer.step, Convolution) for layer in layers):
        raise BadInput(f"--layer {name}: expected a layer above the first convolution, or that itself")
    return layers


def _for_one_image(layer: Layer) -> Layer:
    step = replace(layer.step, batch=1) if isinstance(layer.step, Case) else layer.step
    return replace(layer, step=step, input=(1, *layer.input[1:]), output=(1, *layer.output[1:]))


def receptive_field(layers: Sequence[Layer], units: Box) -> Box:
    """The pixels that units of the last layer depend on, as the smallest box around them."""
    places = [set(range(*span)) for span in units]
    for layer in reversed(layers):
        if isinstance(layer.step, Convolution | Pooling):
            places = [_read(axis, small) for axis, small in zip(layer.step.axes, places, strict=True)]
    size = layers[0].input[2:]
    return tuple((min(seen), max(seen) + 1) if seen else (0, n) for seen, n in zip(places, size, strict=True))


def _read(axis: Axis, small: set[int]) -> set[int]:
    """The positions of the large side that those of the small side read."""
    taps = [t * axis.dilation - axis.begin for t in range(axis.kernel)]
    return {j for m in small for t in taps if 0 <= (j := m * axis.stride + t) < axis.large}
