"""How uv makes an environment, and whether what is asked for can be had in it.

An *overlay* lies on the environment that we run in: what is asked for is put before it, its dependencies as they are
here, so that nothing else changes.  An environment *of its own* holds what is asked for, this program, and the packages
that the targets need as they are here; the dependencies are what uv makes of it.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from conformance.across.child import run_child
from conformance.across.probe import MARK, installed
from conformance.across.requirement import Wanted
from conformance.errors import BadInput
from conformance.text import printable

OVERLAY, ISOLATED, AUTO = "overlay", "isolated", "auto"
DISTRIBUTION = "deconv-conformance"
LONGEST_REASON = 300
CAUSES = ("cause: ", "╰─▶ ")
"""What uv, new and old, writes before the reason why requirements cannot be met."""
REPORT_IT = "this is a failure of conformance itself; please report it"
"""The last line of a command of ours that failed; the reason is the line before."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What uv is told: the lines of a file of requirements, and of one of constraints."""

    mode: str
    python: str
    requirements: tuple[str, ...]
    constraints: tuple[str, ...] = ()

    def command(self, folder: Path, *arguments: str) -> list[str]:
        """The command that runs Python with these arguments in the environment; its files are written to ``folder``."""
        pins, wanted = folder / "constraints.txt", folder / "requirements.txt"
        pins.write_text("".join(f"{line}\n" for line in self.constraints))
        wanted.write_text("".join(f"{line}\n" for line in ("-c constraints.txt", *self.requirements)))
        how = ["--isolated"] if self.mode == ISOLATED else []
        start = [find_uv(), "run", "--no-project", *how, "--color", "never", "--no-progress", "--python", self.python]
        return [*start, "--with-requirements", str(wanted), "python", "-P", *arguments]


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of a recipe: versions of all distributions, targets that cannot be had, or why nothing can be."""

    recipe: Recipe
    versions: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    reason: str = ""


def find_uv() -> str:
    """The path of uv.  Raises BadInput with the command that installs it."""
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        if (found := shutil.which("uv")) is None:
            raise BadInput("uv makes the environments, and it is not installed: pip install uv") from None
        return found


def recipes(wanted: Wanted, mode: str, packages: Sequence[str], python: str | None = None) -> tuple[Recipe, ...]:
    """The recipes to try, in order; ``packages`` are those that the targets need.

    An overlay cannot replace onnxruntime by onnxruntime-gpu: both would be there.
    """
    here = {name: version for name, version in installed().items() if _is_version(version)}
    asked = tuple(map(str, wanted.requirements))
    kept = {name: version for name, version in here.items() if name not in wanted.packages and name != DISTRIBUTION}
    overlay = Recipe(OVERLAY, sys.executable, asked, tuple(_pins(kept)))
    if mode == OVERLAY:
        return (overlay,)
    needed = {name: here[name] for name in _distributions(packages, here) if name in kept}
    isolated = Recipe(ISOLATED, python or sys.executable, (*asked, this_project(), *_pins(needed)))
    other_variant = any(name not in here and name.endswith(("-gpu", "-cpu")) for name in wanted.packages)
    return (isolated,) if mode == ISOLATED or python or other_variant else (overlay, isolated)


def _pins(versions: dict[str, str]) -> Iterable[str]:
    """Versions as they are; a local label is left out, since an index seldom has it."""
    return (f"{name}=={Version(version).public}" for name, version in sorted(versions.items()))


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _distributions(packages: Iterable[str], here: dict[str, str]) -> list[str]:
    """The installed distributions of packages: tensorflow-cpu for tensorflow, if that is the one that is there."""
    names = [canonicalize_name(package) for package in packages]
    return [next((n for n in (name, f"{name}-gpu", f"{name}-cpu") if n in here), name) for name in names]


def this_project() -> str:
    """A line for a file of requirements that installs this program as it is installed here."""
    distribution = importlib.metadata.distribution(DISTRIBUTION)
    said = json.loads(distribution.read_text("direct_url.json") or "{}")
    if "dir_info" in said:
        return f"-e {said['url']}"
    if "vcs_info" in said:
        return f"{DISTRIBUTION} @ {said['vcs_info']['vcs']}+{said['url']}@{said['vcs_info']['commit_id']}"
    return f"{DISTRIBUTION} @ {said['url']}" if "url" in said else f"{DISTRIBUTION}=={distribution.version}"


def probe(wanted: Wanted, recipe: Recipe, targets: Sequence[str], folder: Path) -> Probed:
    """Make the environment and start the targets in it; a log stays in ``folder``."""
    log = folder / f"probe-{recipe.mode}.log"
    log.unlink(missing_ok=True)
    run_child(recipe.command(folder, "-m", "conformance.across.probe", *targets), log)
    said = log.read_text(encoding="utf-8", errors="replace")
    answer = next((line.removeprefix(MARK) for line in said.splitlines() if line.startswith(MARK)), None)
    if answer is None:
        return Probed(recipe, reason=last_reason(said))
    told = json.loads(answer)
    versions = told["installed"] | {canonicalize_name(name): version for name, version in told["versions"].items()}
    return Probed(recipe, told["installed"], told["errors"], wanted.unmet(versions))


def last_reason(output: str) -> str:
    """Why a command failed, in one line: uv's cause, or the last line of a traceback."""
    lines = [" ".join(printable(line).split()) for line in output.splitlines()]
    first = next((n for n, line in enumerate(lines) if line.startswith(CAUSES)), len(lines))
    cause = " ".join(takewhile(lambda line: not line.startswith("hint"), lines[first:]))
    cause = cause.removeprefix(CAUSES[0]).removeprefix(CAUSES[1])
    words = [line for line in lines if line and line != REPORT_IT]
    return (cause.strip() or (words[-1] if words else "no reason was given"))[:LONGEST_REASON]
