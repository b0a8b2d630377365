"""What all versions made of the same cases, side by side."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from conformance.across.runner import Settings, Version
from conformance.comparison import Comparison, Run, compare
from conformance.comparison.transitions import SILENT, reason
from conformance.runs import Record, RunFile
from conformance.verdict import FAILED

KINDS = (
    ("bit for bit", ("exact",)),
    ("within the bound", ("within_bound",)),
    ("wrong values, silently", ("deviates",)),
    ("wrong shape or type", ("wrong_shape", "wrong_dtype")),
    ("crash or timeout", ("crash", "timeout")),
    ("error", ("error",)),
    ("invalid model", ("invalid_model",)),
    ("weaker arithmetic", ("reduced",)),
    ("predicted, did not come", ("fixed",)),
    ("differs by run", ("nondeterministic",)),
    ("open in the spec", ("ambiguous",)),
    ("not supported", ("unsupported",)),
)
"""The rows of the table: what they are called, and the verdicts that they count."""
FAILURES = "failures"
DOCUMENTED = "of the failures, documented"
_NUMBER = re.compile(r"[+-]?\d")
_RANK = {verdict: rank for rank, (_, verdicts) in enumerate(KINDS) for verdict in verdicts}


@dataclass(frozen=True, slots=True)
class Group:
    """Failures of one target that read alike: how many in each version, and the shortest one that fails last."""

    example: Record
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        return max(self.counts)


@dataclass(frozen=True, slots=True)
class News:
    """Cells whose values are wrong without a word in these versions (by number), and not in the others that ran."""

    versions: tuple[int, ...]
    targets: tuple[str, ...]
    cells: int
    example: Record


@dataclass(frozen=True, slots=True)
class Table:
    """``counts`` hold, for each version and target, verdicts by kind (of KINDS), and how many FAILURES, how many of
    them DOCUMENTED.  ``changes`` hold two versions each, by number, and what changed from one to the other.
    """

    versions: tuple[Version, ...]
    targets: tuple[str, ...]
    counts: Mapping[tuple[int, str], Counter[str]]
    groups: tuple[Group, ...]
    news: tuple[News, ...]
    changes: tuple[tuple[int, int, Comparison], ...]
    settings: Settings
    conformance: str = ""
    python: str = ""

    @property
    def ran(self) -> tuple[int, ...]:
        """The versions that have a run, by number."""
        return tuple(n for n, version in enumerate(self.versions) if not version.reason)

    def rows(self, target: str) -> list[tuple[str, tuple[int | None, ...]]]:
        """Kinds that occur, each with one count per version; None where a version did not run."""
        names = [*(kind for kind, _ in KINDS), DOCUMENTED]
        ran = set(self.ran)
        found = [(name, [self.counts[n, target][name] for n in range(len(self.versions))]) for name in names]
        return [
            (name, tuple(number if n in ran else None for n, number in enumerate(numbers)))
            for name, numbers in found
            if any(numbers)
        ]

    @property
    def regressions(self) -> int:
        """Cells of a later version that are worse than in the one before it."""
        return sum(comparison.regressions for _, _, comparison in self.changes)

    @property
    def status(self) -> int:
        """Of the command: 2 if nothing ran, 1 if the last version fails or one is worse than the one before, else 0."""
        return 2 if not self.ran else int(self.newest_fails or self.regressions > 0)

    @property
    def newest_fails(self) -> bool:
        """Whether the last version that ran has failures that no documented deviation predicts."""
        return bool(self.ran) and any(
            self.counts[self.ran[-1], target][FAILURES] > self.counts[self.ran[-1], target][DOCUMENTED]
            for target in self.targets
        )


@dataclass
class _Gathered:
    """What is counted while run files are read."""

    counts: dict[tuple[int, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    groups: dict[tuple[str, ...], Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    examples: dict[tuple[str, ...], tuple[int, Record]] = field(default_factory=dict)
    silent: dict[tuple[str, str, str], list[tuple[int, Record]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, number: int, record: Record) -> None:
        cell = self.counts[number, record.target]
        cell[KINDS[_RANK[record.verdict]][0]] += 1
        if record.verdict not in FAILED:
            return
        if record.verdict == SILENT:
            self.silent[record.key].append((number, record))
        cell[FAILURES] += 1
        cell[DOCUMENTED] += record.known
        key = (record.target, record.verdict, record.deviation * record.known, _alike(record))
        self.groups[key][number] += 1
        have = self.examples.get(key)
        if have is None or have[0] < number or len(record.case) < len(have[1].case):
            self.examples[key] = (number, record)


def make_table(versions: Iterable[Version], settings: Settings) -> Table:
    """Read the run files, count, and compare each version that ran with the one before it that did."""
    versions = tuple(versions)
    gathered, made = _Gathered(), {}
    for number, version in enumerate(versions):
        if version.reason:
            continue
        with RunFile.open(version.path) as store:
            made = store.environment
            wanted = set(settings.targets)
            for record in store.records():
                if record.target in wanted:
                    gathered.add(number, record)
    groups = [
        Group(gathered.examples[key][1], tuple(counts[n] for n in range(len(versions))))
        for key, counts in gathered.groups.items()
    ]
    targets = tuple(target for target in settings.targets if any(name == target for _, name in gathered.counts))
    ordered = tuple(sorted(groups, key=_worst_first))
    said = {name: str(made.get(name, "")) for name in ("conformance", "python")}
    news, changes = _news(versions, gathered), tuple(_changes(versions))
    return Table(versions, targets, gathered.counts, ordered, news, changes, settings, **said)


def _news(versions: tuple[Version, ...], gathered: _Gathered) -> tuple[News, ...]:
    """Silent wrong values that not every version has, those of a kind together, most cells first."""
    everywhere = sum(not version.reason for version in versions)
    alike: dict[tuple[tuple[int, ...], str], list[Record]] = defaultdict(list)
    for found in gathered.silent.values():
        if len(found) < everywhere:
            last = found[-1][1]
            alike[tuple(number for number, _ in found), _alike(last)].append(last)
    news = (
        News(numbers, tuple(sorted({record.target for record in records})), len(records), min(records, key=_size))
        for (numbers, _), records in alike.items()
    )
    return tuple(sorted(news, key=lambda one: (-one.cells, one.example.key)))


def _alike(record: Record) -> str:
    """What failures of a kind share: their words up to the first number, be they shifted by one or by two."""
    return _NUMBER.split(reason(record), maxsplit=1)[0]


def _size(record: Record) -> tuple[int, tuple[str, str, str]]:
    """Cases with short names are the simple ones."""
    return len(record.case), record.key


def _changes(versions: tuple[Version, ...]) -> Iterable[tuple[int, int, Comparison]]:
    """The comparison of every version that ran with the next one, by number."""
    ran = [number for number, version in enumerate(versions) if not version.reason]
    before: Run | None = None
    for place, number in enumerate(ran):
        run = Run.read(versions[number].path)
        if before is not None:
            yield ran[place - 1], number, compare(before, run)
        before = run


def _worst_first(group: Group) -> tuple[Any, ...]:
    """Silent wrong values first, of these what is not documented; then what concerns most cells."""
    return _RANK[group.example.verdict], group.example.known, -group.total, group.example.target, group.example.case


def as_json(table: Table) -> dict[str, Any]:
    """The table as JSON has it."""
    return {
        "name": "conformance-across",
        "schema": 1,
        "conformance": table.conformance,
        "python": table.python,
        "profile": table.settings.profile,
        "suites": list(table.settings.suites),
        "data": list(table.settings.data),
        "regressions": table.regressions,
        "versions": [_version(version) for version in table.versions],
        "targets": {target: dict(table.rows(target)) for target in table.targets},
        "failures": [{"counts": list(group.counts), "example": group.example.as_json()} for group in table.groups],
        "changes": [
            {"old": old, "new": new, "comparison": comparison.model_dump(mode="json", by_alias=True)}
            for old, new, comparison in table.changes
        ],
    }


def _version(version: Version) -> dict[str, Any]:
    return {
        "requirement": version.wanted.text,
        "name": version.name,
        "mode": version.mode,
        "versions": dict(version.versions),
        "run_file": str(version.path),
        "remark": version.remark,
        "reason": version.reason,
    }
