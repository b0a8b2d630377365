"""Where suites are found: shipped ones by name, anybody's by path."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from conformance.errors import BadInput, Problem, SpecError
from conformance.spec.case import Case
from conformance.spec.loader import load_suite

QUICK, FULL = "quick", "full"
PROFILES = (QUICK, FULL)


def shipped_folder() -> Path:
    """The folder of the shipped suites: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_cases"
    return installed if installed.is_dir() else package.parent / "cases"


def shipped_suites() -> dict[str, Path]:
    """Shipped suites by name."""
    return {path.stem: path for path in sorted(shipped_folder().glob("*.yaml"))}


def load_cases(names: Iterable[str] = (), profile: str = FULL) -> list[Case]:
    """The cases of suites given by name or path; of all shipped ones if none is given.

    The quick profile leaves out cases with the tag ``full``.  Raises SpecError with the problems of all files, and
    BadInput for a name that is neither a suite nor a file.
    """
    problems: list[Problem] = []
    cases: list[Case] = []
    for path, shown in map(_find, dict.fromkeys(names) or shipped_suites()):
        try:
            cases += load_suite(path, shown)
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    _check_unique(cases)
    return [case for case in cases if profile == FULL or FULL not in case.tags]


def _find(name: str) -> tuple[Path, str]:
    shipped = shipped_suites()
    if name in shipped:
        return shipped[name], f"cases/{shipped[name].name}"
    path = Path(name)
    if path.is_file():
        return path, name
    raise BadInput(f"{name}: expected a suite ({', '.join(shipped)}) or a YAML file")


def _check_unique(cases: list[Case]) -> None:
    seen: dict[str, Case] = {}
    for case in cases:
        other = seen.setdefault(case.id, case)
        if other is not case:
            raise BadInput(f"{case.location}: the case {case.id} is also in {other.location}")
