"""All deviations that are documented, and which of them predict a cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from conformance.deviations.entry import Deviation
from conformance.deviations.parameters import parameters
from conformance.deviations.predicate import BadPredicate
from conformance.errors import BadInput
from conformance.machine import cpu_features
from conformance.spec import Case
from conformance.verdict import Judgement

FIXED = "fixed"
REMEMBERED = 256
Prediction = tuple[Deviation, bool]
"""A deviation that names a cell, and whether it must show there."""


@dataclass(frozen=True, slots=True)
class Settled:
    """A judgement in the light of what is documented: ``known`` where ``deviation`` predicts it."""

    judgement: Judgement
    known: bool = False
    deviation: str = ""


@dataclass(frozen=True, slots=True)
class Stale:
    """A deviation that a whole run had no use for: ``cells`` that it names, none of which deviates."""

    deviation: Deviation
    cells: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """The parameters of a case, and which deviations name it, by id and kind of data."""

    said: dict[str, Any]
    named: dict[tuple[str, str], bool] = field(default_factory=dict)


class Register:
    """The deviations that may show on this machine.

    ``features`` are those of its processor (see `machine.cpu_features`).
    """

    def __init__(self, deviations: Iterable[Deviation] = (), features: frozenset[str] | None = None) -> None:
        self._features = cpu_features() if features is None else features
        strict = ((deviation, deviation.strict_on(self._features)) for deviation in deviations)
        self._all: list[Prediction] = [(deviation, must) for deviation, must in strict if must is not None]
        self._of_target: dict[tuple[str, tuple[tuple[str, str], ...]], list[Prediction]] = {}
        self._asked: dict[str, _Asked] = {}

    def predicted(
        self, case: Case, digest: str, data: str, target: str, versions: Mapping[str, str]
    ) -> list[Prediction]:
        """The deviations that predict a cell, each with whether it must show.

        ``digest`` identifies the case.  Raises BadInput where a predicate fails on a case.
        """
        return [found for found in self._concerning(target, versions) if self._names(found[0], case, digest, data)]

    def stale(
        self,
        cells: Iterable[tuple[Case, str, str, str]],
        versions: Mapping[str, Mapping[str, str]],
        shown: Iterable[str],
    ) -> list[Stale]:
        """Deviations of the targets of a run that none of its cells shows, but for those of unknown processors.

        ``cells`` are case, digest, data and target; ``versions`` are those of every target; ``shown`` are the ids of
        deviations that came.
        """
        concerned = {d.id: d for target, have in versions.items() for d, _ in self._concerning(target, have)}
        count = {id: 0 for id, deviation in concerned.items() if not deviation.cpu or self._features}
        for case, digest, data, target in cells:
            for deviation, _ in self.predicted(case, digest, data, target, versions[target]):
                if deviation.id in count:
                    count[deviation.id] += 1
        came = set(shown)
        return [Stale(concerned[id], cells) for id, cells in sorted(count.items()) if id not in came]

    def _concerning(self, target: str, versions: Mapping[str, str]) -> list[Prediction]:
        key = (target, tuple(sorted(versions.items())))
        if key not in self._of_target:
            self._of_target[key] = [found for found in self._all if found[0].concerns(target, versions)]
        return self._of_target[key]

    def _names(self, deviation: Deviation, case: Case, digest: str, data: str) -> bool:
        asked = self._of_case(case, digest)
        key = (deviation.id, data if deviation.data else "")
        if key not in asked.named:
            try:
                asked.named[key] = deviation.names(asked.said, data)
            except BadPredicate as error:
                raise BadInput(f"{deviation.location}: where: fails on {case.id}: {error}") from None
        return asked.named[key]

    def _of_case(self, case: Case, digest: str) -> _Asked:
        """What was found of a case; of the last ones only, since targets come to a case at about the same time."""
        if digest not in self._asked:
            if len(self._asked) >= REMEMBERED:
                del self._asked[next(iter(self._asked))]
            self._asked[digest] = _Asked(parameters(case))
        return self._asked[digest]


def settle(judgement: Judgement, predicted: Sequence[Prediction]) -> Settled:
    """The judgement as it came, ``known`` if a deviation predicts it, or ``fixed`` if one must show and does not.

    A target that says it cannot do a case has shown nothing of what it does.
    """
    if not predicted:
        return Settled(judgement)
    told = "; ".join((judgement.arithmetic, judgement.diagnosis, judgement.message))
    for deviation, _ in predicted:
        if deviation.explains(judgement.verdict, told):
            return Settled(judgement, known=True, deviation=deviation.id)
    strict = next((deviation for deviation, must in predicted if must), None)
    if strict is None or judgement.verdict == "unsupported":
        return Settled(judgement)
    documented = f"documented to be {strict.verdict} ({strict.location}, {strict.id})"
    if judgement.failed:
        return Settled(replace(judgement, message=f"{judgement.message}; {documented}".removeprefix("; ")))
    came = f"{documented}, and came out {judgement.verdict}"
    message = f"{came}: {judgement.message}" if judgement.message else came
    return Settled(replace(judgement, verdict=FIXED, message=message), deviation=strict.id)
