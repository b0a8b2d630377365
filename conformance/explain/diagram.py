"""The network as a row of layers: what each does on the way up, and what undoes it on the way down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from conformance.explain.words import TIMES
from conformance.spec import Convolution, Deconvnet, MaxPool, ResponseNorm
from conformance.spec.deconvnet import Layer


def layers_of(case: Deconvnet) -> list[dict[str, Any]]:
    """The image and the layers: what they do up and down, their sizes, and how large they are drawn."""
    height = max(case.layers[0].input[2:])
    rows = [_drawn("image", "input", "", "", case.layers[0].input, height)]
    rows += (_drawn(layer.name, *_undoing(case, layer), layer.output, height) for layer in case.layers)
    return rows


def _drawn(name: str, kind: str, up: str, down: str, shape: tuple[int, ...], height: int) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "up": up,
        "down": down,
        "channels": shape[1],
        "size": f" {TIMES} ".join(map(str, shape[2:])),
        "height": round(8 + 88 * math.sqrt(max(shape[2:]) / height)),
        "width": round(5 + 4.5 * math.log2(shape[1] + 1)),
    }


def _undoing(case: Deconvnet, layer: Layer) -> tuple[str, str, str]:
    """The kind of a layer, what it does on the way up, and what undoes it."""
    step = layer.step
    if isinstance(step, Convolution):
        return "conv", _window(step), "filter, Cᵀ" + (" + bias" if case.bias_down == "below" else "")
    if isinstance(step, MaxPool):
        return "pool", f"max of {_window(step)}", f"unpool, {case.overlap}"
    if isinstance(step, ResponseNorm):
        down: Mapping[str, str] = {
            "identity": "passed through",
            "gradient": "its gradient",
            "forward": "normalise again",
        }
        return "norm", f"normalise over {step.size}", down[case.lrn_down]
    return "relu", "max(x, 0)", "passed through" if case.rectify == "none" else f"rectify, {case.rectify}"


def _window(step: Convolution | MaxPool) -> str:
    stride = "" if set(step.stride) == {1} else f", stride {TIMES.join(map(str, dict.fromkeys(step.stride)))}"
    return TIMES.join(map(str, step.kernel)) + stride
