"""All that a page shows, put together."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from conformance.dtypes import FORMATS, round_once
from conformance.execution import LocalExecutor, TargetSpec
from conformance.explain.activations import Activation, choose
from conformance.explain.projections import Projection, Projector
from conformance.explain.readings import Reading, read_otherwise
from conformance.explain.scene import Scene
from conformance.oracle.chains import walk
from conformance.spec import Deconvnet
from conformance.version import VERSION


@dataclass(frozen=True)
class Row:
    """An activation, the oracle's projection ``(C, H, W)``, each target's, and the oracle's under other policies."""

    activation: Activation
    exact: np.ndarray = field(repr=False)
    projections: Mapping[str, Projection]
    readings: tuple[Reading, ...]


@dataclass(frozen=True)
class Explanation:
    """A deconvnet, an image and what each of its strongest activations looks like projected to pixels.

    ``weights`` says where the weights come from, ``refused`` why targets are not shown, ``versions`` what it was made
    with.
    """

    case: Deconvnet
    scene: Scene
    weights: str
    rows: tuple[Row, ...]
    refused: Mapping[str, str]
    versions: Mapping[str, str]

    @property
    def targets(self) -> list[str]:
        """The targets that are shown, in the order that was asked for."""
        return [name for name in self.rows[0].projections if name not in self.refused]

    @property
    def failed(self) -> bool:
        return any(projection.judgement.failed for row in self.rows for projection in row.projections.values())


def explain(
    case: Deconvnet,
    scene: Scene,
    weights: Mapping[str, np.ndarray],
    said: str,
    specs: Sequence[TargetSpec],
    executor: LocalExecutor,
    *,
    channels: Sequence[int] = (),
    count: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Explanation:
    """Project the strongest activations of an image on every target.

    ``case`` is one of `network.explainable`; ``said`` says where the weights come from.  Raises BadInput for a channel
    that is not there.
    """
    tensors = {name: round_once(t, FORMATS[case.dtype]) for name, t in ({"input": scene.tensor} | {**weights}).items()}
    progress("the oracle: on the way up")
    up = walk(case.way_up, tensors)
    projector = Projector(tensors, up, executor)
    activations = choose(case, up[case.layers[-1].name][0], channels, count)
    problems = [projector.exact(activation) for activation in activations]
    readings = []
    for activation, problem in zip(activations, problems, strict=True):
        progress(f"the oracle: {_name(activation)} under other policies")
        readings.append(tuple(read_otherwise(activation.case, tensors, up, problem.exact[0])))
    rows = []
    names = [spec.name for spec in specs]
    for activation, problem, others in zip(activations, problems, readings, strict=True):
        waiting = executor.starting
        progress(f"starting {', '.join(waiting)}" if waiting else f"targets: {_name(activation)}")
        found = dict(projector.project(problem, names))
        rows.append(Row(activation, problem.exact[0], {name: found[name] for name in names}, others))
    return Explanation(case, scene, said, tuple(rows), _refused(rows), _versions(specs))


def _name(activation: Activation) -> str:
    return "everything" if activation.channel is None else f"channel {activation.channel}"


def _refused(rows: Sequence[Row]) -> dict[str, str]:
    """Targets that cannot say the case, with their reasons."""
    reasons: dict[str, str] = {}
    for name in rows[0].projections:
        judgements = [row.projections[name].judgement for row in rows]
        if all(judgement.verdict == "unsupported" for judgement in judgements):
            reasons[name] = judgements[0].message
    return reasons


def _versions(specs: Sequence[TargetSpec]) -> dict[str, str]:
    made_with = {
        "deconv-conformance": VERSION,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
    }
    return made_with | {name: version for spec in specs for name, version in spec.versions.items()}


def same_bits(explanation: Explanation) -> list[tuple[str, ...]]:
    """The targets that are shown, those together that gave the same bits and verdicts for every activation."""
    groups: dict[object, list[str]] = {}
    for name in explanation.targets:
        projections = [row.projections[name] for row in explanation.rows]
        key = tuple(
            (p.judgement.verdict, p.judgement.message, None if p.signal is None else p.signal.tobytes())
            for p in projections
        )
        groups.setdefault(key if any(part[2] for part in key) else name, []).append(name)
    return [tuple(names) for names in groups.values()]
