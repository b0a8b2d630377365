"""One run file for each environment, made by ``conformance run`` inside it, one after another."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from conformance.across.child import run_child
from conformance.across.environment import Probed, Recipe, last_reason, probe
from conformance.across.requirement import Wanted
from conformance.deviations import shipped_deviations
from conformance.errors import BadRunFile
from conformance.runs import RunFile
from conformance.spec import case_digest
from conformance.version import VERSION

NOTE = "across"
"""What a run file says of how its environment was made."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is run in every environment.

    ``targets`` are their names in run files, with what they are called on the command line; ``cases`` is a digest of
    all that suites and deviations say.
    """

    targets: Mapping[str, str]
    suites: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    profile: str = "quick"
    jobs: int = 1
    threads: int = 1
    timeout: float = 60.0
    cases: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """What a run file must have been made with to be gone on with."""
        made = {"conformance": VERSION, "threads": self.threads}
        return made | {"suites": list(self.suites), "data": list(self.data), "profile": self.profile}

    @property
    def arguments(self) -> list[str]:
        named = {"--profile": self.profile, "--jobs": self.jobs, "--threads": self.threads, "--timeout": self.timeout}
        options = [word for name, value in named.items() for word in (name, str(value))]
        options += [word for name in self.targets.values() for word in ("--target", name)]
        options += [word for kind in self.data for word in ("--data", kind)]
        return ["-m", "conformance", "run", *options, "--failures", "0"]


@dataclass(frozen=True, slots=True)
class Version:
    """What came of one environment: its run file, or the ``reason`` why there is none.

    ``mode`` is how it was made; ``versions`` are those of the packages that matter; ``remark`` is what else to know.
    """

    wanted: Wanted
    path: Path
    mode: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    remark: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        """For a heading: the version that ran of the first package asked for, or what was asked for."""
        first = canonicalize_name(self.wanted.requirements[0].name)
        found = dict(self.versions).get(first)
        return f"{first} {found}" if found and not self.reason else self.wanted.text

    @property
    def beside(self) -> str:
        """What else it ran with."""
        first = canonicalize_name(self.wanted.requirements[0].name)
        return ", ".join(f"{name} {version}" for name, version in self.versions if name != first)


def digest_of(cases: Sequence[Any]) -> str:
    """What all the cases say, in any order, and what is documented."""
    said = hashlib.sha256("".join(sorted(map(case_digest, cases))).encode())
    for path in shipped_deviations():
        said.update(path.read_bytes())
    return said.hexdigest()


def run_versions(
    jobs: Sequence[tuple[Wanted, Sequence[Recipe]]],
    settings: Settings,
    folder: Path,
    packages: Sequence[str],
    say: Callable[[str, str], None] = lambda *_: None,
) -> Iterator[Version]:
    """Make each environment and run the suites in it, unless its run file in ``folder`` is there and finished.

    ``packages`` are those whose versions are kept.  ``say`` is told which environment it is, and what is done.  Raises
    BadRunFile, before anything is run, if a run file there was made with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {wanted.text: folder / f"{wanted.slug}.sqlite" for wanted, _ in jobs}
    done = {text: _finished(path, text, settings) for text, path in paths.items()}
    for wanted, recipes in jobs:
        path = paths[wanted.text]
        if not done[wanted.text]:
            with tempfile.TemporaryDirectory(prefix="conformance-across-") as scratch:
                failed = _run(wanted, recipes, settings, path, Path(scratch), packages, say)
            if failed is not None:
                yield failed
                continue
        yield _read(wanted, path)


def _finished(path: Path, text: str, settings: Settings) -> bool:
    """Whether a run is there and needs nothing more.  Raises BadRunFile if it was made with other settings."""
    if not path.exists():
        return False
    with RunFile.open(path) as store:
        made = store.environment
    note = _noted(made)
    for name, value in {**settings.options, "requirement": text}.items():
        then = note.get(name, value) if name == "requirement" else made.get(name, value)
        if then != value:
            raise BadRunFile(f"{path}: made with {name} {_words(then)}, not {_words(value)}; choose another --out")
    same = note.get("cases") == settings.cases and set(settings.targets) <= set(made.get("targets", []))
    return bool(made.get("finished")) and same


def _noted(made: dict[str, Any]) -> dict[str, Any]:
    """What `_note` kept; empty if it had no time to."""
    note = made.get(NOTE)
    return note if isinstance(note, dict) and isinstance(note.get("versions"), dict) else {}


def _words(value: object) -> str:
    return " ".join(map(str, value)) or "(all)" if isinstance(value, list) else str(value)


def _run(
    wanted: Wanted,
    recipes: Sequence[Recipe],
    settings: Settings,
    path: Path,
    scratch: Path,
    packages: Sequence[str],
    say: Callable[[str, str], None],
) -> Version | None:
    """Run one environment; a Version is why it could not be done."""
    probed, tried = _choose(wanted, recipes, settings, scratch, say)
    log = path.with_suffix(".log")
    if probed is None:
        log.write_text("".join(f"{file.name}\n{file.read_text()}\n" for file in sorted(scratch.glob("*.log"))))
        return Version(wanted, path, reason=tried)
    say(wanted.text, f"running ({probed.recipe.mode})")
    going_on = ["--resume" if path.exists() else "--out", str(path)]
    arguments = [*settings.arguments, *going_on, *settings.suites]
    try:
        status = run_child(probed.recipe.command(scratch, *arguments), log)
    finally:
        _note(wanted, probed, tried, settings, path, packages)
    if status not in (0, 1):
        return Version(wanted, path, reason=f"the run ended with status {status}: {_last_line(log)}")
    return None


def _choose(
    wanted: Wanted,
    recipes: Sequence[Recipe],
    settings: Settings,
    scratch: Path,
    say: Callable[[str, str], None],
) -> tuple[Probed | None, str]:
    """The first recipe in which every target starts, or else one in which any does; and what was wrong before."""
    some: Probed | None = None
    told: dict[str, list[str]] = {}
    for recipe in recipes:
        say(wanted.text, f"making the environment ({recipe.mode})")
        probed = probe(wanted, recipe, tuple(settings.targets.values()), scratch)
        wrong = probed.reason or "; ".join(f"{name} {reason}" for name, reason in probed.errors.items())
        if not wrong:
            return probed, _told(told)
        told.setdefault(wrong, []).append(recipe.mode)
        if not probed.reason and len(probed.errors) < len(settings.targets):
            some = some or probed
    return some, _told(told)


def _told(wrong: Mapping[str, Sequence[str]]) -> str:
    """What was wrong, and with which environments."""
    return "; ".join(f"{' and '.join(modes)}: {reason}" for reason, modes in wrong.items())


def _note(wanted: Wanted, probed: Probed, remark: str, settings: Settings, path: Path, packages: Sequence[str]) -> None:
    """Keep how the environment was made; what the run itself found is there already."""
    if not path.exists():
        return
    names = dict.fromkeys([*sorted(wanted.packages), *packages, "numpy"])
    versions = {name: probed.versions[name] for name in names if name in probed.versions}
    said = {"requirement": wanted.text, "mode": probed.recipe.mode, "versions": versions, "remark": remark}
    with RunFile.resume(path) as store:
        store.note({NOTE: {**said, "cases": settings.cases}})


def _read(wanted: Wanted, path: Path) -> Version:
    with RunFile.open(path) as store:
        made = store.environment
    note = _noted(made)
    versions = tuple((str(name), str(version)) for name, version in note.get("versions", {}).items())
    ran = dict(versions) | {canonicalize_name(name): version for name, version in made.get("versions", {}).items()}
    reason = wanted.unmet(ran) if made.get("finished") else "the run did not come to its end"
    remark = str(note.get("remark", ""))
    return Version(wanted, path, str(note.get("mode", "")), versions, remark, reason)


def _last_line(log: Path) -> str:
    return last_reason(log.read_text(encoding="utf-8", errors="replace"))
