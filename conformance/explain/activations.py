"""Which activations are projected: the strongest of the strongest channels, or those of channels that are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from conformance.errors import BadInput
from conformance.explain.network import Box, receptive_field
from conformance.spec import Deconvnet
from conformance.spec.case import Shape

DEFAULT_COUNT = 9


@dataclass(frozen=True)
class Activation:
    """What is kept at the top before the way down, and what of the image it depends on.

    ``case`` isolates it.  ``channel`` is None where all channels are kept; ``unit`` is the position kept, or the
    strongest one where more is kept.  ``value`` stands there.  ``map`` is the channel ``(H, W)``, or the strongest of
    all channels.  ``field`` is a box of pixels.
    """

    case: Deconvnet
    channel: int | None
    unit: Shape
    value: float
    map: np.ndarray = field(repr=False)
    field: Box


def choose(
    case: Deconvnet, maps: np.ndarray, channels: Sequence[int] = (), count: int | None = None
) -> list[Activation]:
    """The activations of the top layer's ``maps``, ``(C, H, W)``, the strongest first; named channels as named.

    A case that keeps everything has one, a case that names its channel that one unless ``count`` or ``channels`` ask
    for others.  Raises BadInput for a channel that is not there.
    """
    top = case.layers[-1].name
    for channel in channels:
        if not 0 <= channel < len(maps):
            raise BadInput(f"--channels {channel}: expected 0 to {len(maps) - 1}, {top} has {len(maps)} channels")
    if case.isolate.keep == "none":
        return [_everything(case, maps)]
    if not channels and count is None and case.isolate.channel is not None:
        channels = [case.isolate.channel]
    if channels:
        return [_of_channel(case, maps, channel) for channel in channels]
    activations = [_of_channel(case, maps, channel) for channel in range(len(maps))]
    alive = [activation for activation in activations if activation.value > 0] or activations
    return sorted(alive, key=lambda activation: -activation.value)[: count or DEFAULT_COUNT]


def _of_channel(case: Deconvnet, maps: np.ndarray, channel: int) -> Activation:
    chosen = maps[channel]
    strongest = tuple(int(n) for n in np.unravel_index(chosen.argmax(), chosen.shape))
    if case.isolate.keep == "channel":
        kept, unit = _around(_started(case, chosen)), strongest
        isolate = replace(case.isolate, channel=channel)
    else:
        unit = case.isolate.unit or strongest
        kept = tuple((n, n + 1) for n in unit)
        isolate = replace(case.isolate, channel=channel, unit=unit)
    seen = receptive_field(case.layers, kept)
    return Activation(replace(case, isolate=isolate), channel, unit, float(chosen[unit]), chosen, seen)


def _everything(case: Deconvnet, maps: np.ndarray) -> Activation:
    strongest = maps.max(axis=0)
    unit = tuple(int(n) for n in np.unravel_index(strongest.argmax(), strongest.shape))
    seen = receptive_field(case.layers, _around(_started(case, maps).max(axis=0)))
    return Activation(case, None, unit, float(strongest[unit]), strongest, seen)


def _started(case: Deconvnet, maps: np.ndarray) -> np.ndarray:
    """Where the way down starts from something, if all of the maps is kept."""
    return np.ones(maps.shape, bool) if case.isolate.seed == "one" else maps != 0


def _around(places: np.ndarray) -> Box:
    """The smallest box around all places; around the whole map where there is none."""
    spans = [np.flatnonzero(places.any(axis=1 - axis)) for axis in range(2)]
    return tuple((int(s[0]), int(s[-1]) + 1) if s.size else (0, n) for s, n in zip(spans, places.shape, strict=True))
