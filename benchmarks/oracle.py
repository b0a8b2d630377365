"""The oracle's C.T y against torch in float64 and against the ONNX reference evaluator, on the architectures."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks.timing import best, geometric_mean
from conformance.arithmetic import Axis
from conformance.oracle.convolution import transposed_convolve
from conformance.spec import Convolution, load_cases
from conformance.targets.onnx_graph import one_node_model

REFERENCE_PRODUCTS = 200_000
MAX_WEIGHTS = 60_000_000


def against_torch(console: Console) -> float:
    """Geometric mean of oracle time / torch float64 time, both with all cores."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    ratios = []
    for case in track(_layers(), "torch float64", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        y, w = _numbers(case, np.float64)
        function = getattr(torch.nn.functional, f"conv_transpose{case.rank}d")
        ty, tw = torch.from_numpy(y), torch.from_numpy(w)
        padding = [axis.begin for axis in case.axes]
        added = [max(axis.begin - axis.end, 0) for axis in case.axes]

        def peer() -> object:
            return function(ty, tw, None, case.stride, padding, added, case.groups, case.dilation)  # noqa: B023

        if tuple(peer().shape) != case.result_shapes["output"]:  # type: ignore[attr-defined]
            continue  # torch cannot say this crop
        ours = best(lambda: transposed_convolve(case.axes, y, w, case.groups))  # noqa: B023
        ratios.append(ours / best(peer))
    mean = geometric_mean(ratios)
    console.print(f"oracle / torch float64, {len(ratios)} layers: {mean:.2f} (geometric mean; at most 1 wanted)")
    return mean


def against_reference(console: Console) -> float:
    """Geometric mean of reference evaluator time / oracle time, layers scaled until the evaluator can finish."""
    from onnx.reference import ReferenceEvaluator

    ratios = []
    for layer in track(_layers(), "onnx reference", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        case = _scaled(layer)
        if case.groups > 1:
            continue  # the evaluator raises on most groups
        y, w = _numbers(case, np.float32)
        evaluator = ReferenceEvaluator(one_node_model(case, {"weight": w}))
        peer = best(lambda: evaluator.run(None, {"input": y}), tries=2)  # noqa: B023
        ours = best(lambda: transposed_convolve(case.axes, y, w, case.groups))  # noqa: B023
        ratios.append(peer / ours)
    mean = geometric_mean(ratios)
    console.print(f"onnx ReferenceEvaluator / oracle, {len(ratios)} scaled layers: {mean:.0f} (at least 100 wanted)")
    return mean


def _layers() -> list[Convolution]:
    cases = [case for case in load_cases(["architectures"]) if isinstance(case, Convolution)]
    return [case for case in cases if np.prod(case.weight_shape) <= MAX_WEIGHTS]


def _numbers(case: Convolution, dtype: type[np.generic]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(case.tensor_shapes[name]).astype(dtype) for name in ("input", "weight"))  # type: ignore[return-value]


def _scaled(case: Convolution) -> Convolution:
    """The same layer with fewer channels and positions, its kernel and stride kept."""
    plain = replace(case, bias=False, dtype="float32", padding=case.crop, output_padding=None, output_size=None)
    while plain.products > REFERENCE_PRODUCTS and (
        max(plain.in_channels, plain.out_channels) > plain.groups or max(plain.small) > 2
    ):
        if max(plain.in_channels, plain.out_channels) > plain.groups:
            halved = {k: max(getattr(plain, k) // 2 // case.groups, 1) * case.groups for k in _CHANNELS}
            plain = replace(plain, **halved)
        else:
            plain = replace(plain, axes=tuple(_shorter(axis) for axis in plain.axes))
    return replace(plain, padding=plain.crop)


def _shorter(axis: Axis) -> Axis:
    small = max(axis.small // 2, 1)
    return replace(axis, small=small, large=axis.large - (axis.small - small) * axis.stride)


_CHANNELS = ("in_channels", "out_channels")
