"""Which targets are run, and which packages they need, whether these are installed here or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from packaging.utils import canonicalize_name

from conformance.across.requirement import Wanted
from conformance.errors import BadInput
from conformance.execution import TargetSpec, find_targets, known_targets
from conformance.execution.registry import EXPORTERS


def targets_for(names: Sequence[str], wanted: Sequence[Wanted]) -> dict[str, str]:
    """The targets that are named, or else all quick ones that need a package that is asked for.

    By their names in run files, with what they are called on the command line.  Raises BadInput.
    """
    if not names:
        found = [spec.name for spec in known_targets().values() if _concerned(spec, wanted)]
        if not found:
            asked = ", ".join(sorted(frozenset().union(*(one.packages for one in wanted))))
            raise BadInput(f"no target needs {asked}; name those to run with --target")
        return dict(zip(found, found, strict=True))
    return {_full_name(name): name for name in names}


def needed_by(targets: Iterable[str]) -> tuple[str, ...]:
    """The packages that targets need, as far as the registry knows."""
    parts = (part for name in targets for part in name.split(":"))
    specs = (spec for part in parts if (spec := _known(part)) is not None)
    return tuple(dict.fromkeys(package for spec in specs for package in spec.requires))


def _concerned(spec: TargetSpec, wanted: Sequence[Wanted]) -> bool:
    """Whether a target needs what is asked for, and nothing else that is not here."""
    asked = frozenset().union(*(one.packages for one in wanted))
    needs = {canonicalize_name(package) for package in spec.requires}
    to_come = frozenset[str]() if spec.device else asked  # a device is looked for with what is installed here
    absent = {canonicalize_name(package) for package in spec.missing} - to_come
    return bool(needs & asked) and not absent and not spec.on_request


def _full_name(name: str) -> str:
    """The name in run files; a target of ours need not be installed here, only in the environments to come."""
    parts = name.split(":")
    specs = [_known(part) for part in parts]
    if len(parts) > 2 or None in specs:
        return find_targets((name,))[0].name
    return ":".join(spec.name for spec in specs if spec is not None)


def _known(name: str) -> TargetSpec | None:
    known: dict[str, TargetSpec] = {**known_targets(), **{spec.name: spec for spec in EXPORTERS}}
    return known.get(name) or known.get(f"{name}@cpu")
