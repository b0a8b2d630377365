"""A run as it is compared: its cells by key, and the environment it was made in, whatever that holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from conformance.runs import Record, RunFile
from conformance.text import printable

Key = tuple[str, str, str]
"""Case, target and data."""
MOST_NAMES = 200
LONGEST_NAME = 120


class Run:
    """A run that was read.  ``name`` is how it is called in reports; ``cells`` holds its verdicts."""

    def __init__(self, name: str, environment: Mapping[str, Any], records: Iterable[Record]) -> None:
        self.name = said(name)
        self.environment = environment
        self.cells: Mapping[Key, Record] = {record.key: record for record in records}

    @classmethod
    def of(cls, store: RunFile) -> Run:
        """All of a run file, which may be closed afterwards.  Raises BadRunFile where it turns out to be damaged."""
        return cls(str(store.path), store.environment, store.records())

    @classmethod
    def read(cls, path: Path) -> Run:
        """Raises BadRunFile as `RunFile.open` does."""
        with RunFile.open(path) as store:
            return cls.of(store)

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that it has verdicts of, in their order."""
        return tuple(dict.fromkeys(target for _, target, _ in self.cells))

    def text(self, key: str) -> str:
        """What the environment says, in words; empty where it says nothing."""
        value = self.environment.get(key)
        if isinstance(value, list):
            return ", ".join(sorted(said(part) for part in value[:MOST_NAMES]))
        return said(value) if isinstance(value, str | int | float) else ""

    def texts(self, key: str) -> dict[str, str]:
        """A mapping of the environment, such as the versions of packages."""
        return texts(self.environment.get(key))

    @property
    def seed(self) -> str:
        """Files that do not say it were drawn from 0."""
        return self.text("seed") or "0"

    @property
    def finished(self) -> bool | None:
        """None where the file does not say."""
        value = self.environment.get("finished")
        return value if isinstance(value, bool) else None

    @property
    def cpu(self) -> str:
        return self.texts("cpu").get("model", "")

    @property
    def cpu_features(self) -> frozenset[str]:
        cpu = self.environment.get("cpu")
        features = cpu.get("features") if isinstance(cpu, Mapping) else None
        return frozenset(map(said, features)) if isinstance(features, list) else frozenset()


def texts(value: object) -> dict[str, str]:
    """A mapping as text to text; empty if it is none."""
    pairs = list(value.items())[:MOST_NAMES] if isinstance(value, Mapping) else []
    return {said(key): said(part) for key, part in pairs if isinstance(part, str | int | float)}


def said(value: object) -> str:
    """Text that may come from anybody, on one line and not too long."""
    return printable(str(value)[:LONGEST_NAME])
