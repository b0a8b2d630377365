"""The numbers of deconvnet.md: ``python docs/deconvnet_numbers.py [erased] [zfnet] [readings] [captum]``."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from conformance.dtypes import FORMATS
from conformance.oracle import pooling
from conformance.oracle.chains import draw_chain, walk
from conformance.spec import Deconvnet, MaxPool, load_cases
from conformance.spec.loader import OPS

MAPS, SIZE = 160, 13
POOLINGS = ((2, 2, 0), (3, 2, 0), (3, 2, 1), (3, 1, 1))
IMAGES = 12


def erased() -> None:
    """One activation of a pooled map kept, unpooled by assignment: how often is nothing left?"""
    import torch

    maps = np.maximum(np.random.default_rng(0).standard_normal((MAPS, 1, SIZE, SIZE)), 0).astype(np.float32)
    print(f"{MAPS} rectified maps of {SIZE}x{SIZE}, strongest activation kept, unpooled; nothing is left in")
    for kernel, stride, padding in POOLINGS:
        pool = _pool(kernel, stride, padding)
        values, switches = pooling.max_pool(pool.axes, maps)
        kept = _strongest(values)
        last, first = (pooling.unpool_assign(kept, switches, pool.large, first=first) for first in (False, True))
        arguments = (torch.from_numpy(kept), torch.from_numpy(switches), kernel, stride, padding, pool.large)
        theirs = torch.nn.functional.max_unpool2d(*arguments).numpy()
        counts = [int((~r.any(axis=(1, 2, 3))).sum()) for r in (theirs, last, first)]
        total = int((~pooling.unpool(kept, switches, pool.large).any(axis=(1, 2, 3))).sum())
        said = "torch max_unpool2d {}, last writer {}, first writer {}, sum {}".format(*counts, total)
        print(f"  pool {kernel}/{stride}, padding {padding}: {said}")


def _pool(kernel: int, stride: int, padding: int) -> MaxPool:
    keys = {"op": "max_pool", "input": [SIZE, SIZE], "kernel": kernel, "stride": stride, "padding": padding}
    pool = OPS["max_pool"].model_validate(keys).resolve({"id": "numbers/pool", "op": "max_pool", "batch": MAPS})
    assert isinstance(pool, MaxPool)
    return pool


def _strongest(maps: np.ndarray) -> np.ndarray:
    strongest = maps.reshape(len(maps), -1).argmax(axis=1)
    kept = np.zeros_like(maps)
    kept.reshape(len(maps), -1)[np.arange(len(maps)), strongest] = maps.max(axis=(1, 2, 3))
    return kept


def zfnet() -> None:
    """The strongest activation of every map of the last layer of an eighth-width ZFNet, down to pixels."""
    case = _case("eighth-ceil")
    lost, far, alive = 0, [], 0
    for seed in range(IMAGES):
        tensors, _ = draw_chain(case, "rounding", FORMATS[case.dtype], seed)
        for channel in range(case.layers[-1].output[1]):
            chosen = replace(case, isolate=replace(case.isolate, channel=channel))
            added = walk(chosen.stages, tensors)
            if not added["seed"].any():
                continue
            alive += 1
            assigned = walk(replace(chosen, overlap="assign").stages, tensors)["output"]
            lost += not assigned.any()
            far.append(np.linalg.norm(assigned - added["output"]) / np.linalg.norm(added["output"]))
    low, middle, high = np.quantile(far, [0, 0.5, 1])
    print(f"{case.id}: {alive} activations in {IMAGES} images of noise; by assignment {lost} pictures are all zero,")
    print(f"  distance from the sum, relative: {low:.2f} at least, {middle:.2f} in the middle, {high:.2f} at most")


def readings() -> None:
    """How far other readings of the paper are from the default one."""
    variants = (
        {"overlap": "assign"}, {"overlap": "mean"}, {"rectify": "mask"}, {"rectify": "both"}, {"rectify": "none"},
        {"bias_down": "below"}, {"lrn_down": "gradient"}, {"lrn_down": "forward"},
    )  # fmt: skip
    nets = {letter: _case(f"net-{letter}[isolate=unit,seed=activation]") for letter in "abcdef"}
    print("relative distance from the default reading, median of 20 draws, nets A to F")
    for variant in variants:
        cells = [f"{np.median([_distance(case, variant, seed) for seed in range(20)]):5.2f}" for case in nets.values()]
        print(f"  {next(iter(variant.items()))!s:28s} {' '.join(cells)}")


def _distance(case: Deconvnet, variant: dict[str, str], seed: int) -> float:
    tensors, values = draw_chain(case, "rounding", FORMATS[case.dtype], seed)
    other = walk(replace(case, **variant).stages, tensors)["output"]  # type: ignore[arg-type]
    return float(np.linalg.norm(other - values["output"]) / np.linalg.norm(values["output"]))


def captum() -> None:
    """Captum starts from 1, the paper from the activation; for one unit that is a factor."""
    from conformance.targets.captum_target import Captum

    target = Captum()
    print("captum times the activation against the definition, relative distance, float64")
    for name in ("a", "b", "c", "d", "f"):
        case = _case(f"net-{name}[isolate=unit,seed=one]")
        tensors, _ = draw_chain(case, "rounding", FORMATS["float32"], 0)
        wide = {key: tensor.astype(np.float64) for key, tensor in tensors.items()}
        paper = walk(replace(case, isolate=replace(case.isolate, seed="activation")).stages, wide)
        activation = paper["seed"].reshape(case.batch, -1).sum(axis=1).reshape(-1, 1, 1, 1)
        theirs = target.run(case, wide)["output"] * activation
        print(f"  net {name.upper()}: {np.linalg.norm(theirs - paper['output']) / np.linalg.norm(paper['output']):.1e}")


def _case(name: str) -> Deconvnet:
    (case,) = [case for case in load_cases(["zfnet"], "full") if case.id == f"zfnet/{name}"]
    assert isinstance(case, Deconvnet)
    return case


if __name__ == "__main__":
    parts = {"erased": erased, "zfnet": zfnet, "readings": readings, "captum": captum}
    for part in sys.argv[1:] or parts:
        parts[part]()
