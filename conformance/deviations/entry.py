"""One documented deviation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from conformance.deviations.predicate import Predicate

ALWAYS = "always"
SOMETIMES = "sometimes"
WITHOUT = "not "
Shows = Literal["always", "sometimes"]


@dataclass(frozen=True, slots=True, eq=False)
class Deviation:
    """Which cells of which versions deviate, how, and why.

    ``targets`` are names as on the command line, with ``*`` for anything; ``versions`` are ranges of the packages that
    have it, by PEP 440; ``cpu`` are instruction sets (by Linux's names) without which it does not show, or after
    ``not`` with which it does not.  ``ops``, ``dtypes`` and ``data`` are empty where any will do.  ``verdict`` is what
    it gives, and ``reading`` stands in the verdict's arithmetic, diagnosis or message.  One that shows ``always`` is
    wrong of every cell that its predicate names; one that shows ``sometimes`` depends on the numbers drawn, or on the
    machine.
    """

    id: str
    location: str
    targets: tuple[str, ...]
    versions: tuple[tuple[str, SpecifierSet], ...]
    verdict: str
    reading: str
    shows: Shows
    reference: str
    why: str
    cpu: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    where: Predicate | None = None

    def concerns(self, target: str, versions: Mapping[str, str]) -> bool:
        """Whether it is about a target of these versions of packages."""
        if not any(fnmatchcase(target, pattern) or fnmatchcase(target, f"{pattern}@cpu") for pattern in self.targets):
            return False
        return all(_within(versions.get(package), allowed) for package, allowed in self.versions)

    def strict_on(self, features: frozenset[str]) -> bool | None:
        """Whether its cells must deviate on a processor with these features; None where it cannot show at all.

        On a processor that nothing is known of, what depends on it may show.
        """
        missed = (name.startswith(WITHOUT) == (name.removeprefix(WITHOUT) in features) for name in self.cpu)
        if features and any(missed):
            return None
        return self.shows == ALWAYS and (not self.cpu or bool(features))

    def names(self, said: Mapping[str, Any], data: str) -> bool:
        """Whether its predicate names a case with these parameters, fed this kind of data.  Raises BadPredicate."""
        allowed = ((self.ops, said["op"]), (self.dtypes, said["dtype"]), (self.data, data))
        if any(wanted and found not in wanted for wanted, found in allowed):
            return False
        return self.where is None or self.where.holds(said)

    def explains(self, verdict: str, told: str) -> bool:
        """Whether this is the verdict that it predicts; ``told`` is arithmetic, diagnosis and message."""
        return verdict == self.verdict and self.reading in told


def _within(version: str | None, allowed: SpecifierSet) -> bool:
    try:
        return version is not None and allowed.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False
