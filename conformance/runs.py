"""The run file: one SQLite file with every verdict of a run and the environment it was made in.

A verdict is committed when it arrives, so that a run that is killed loses at most those under way, and can go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from conformance.errors import BadRunFile
from conformance.text import printable
from conformance.verdict import VERDICTS

APPLICATION = 0x64636E76  # "dcnv"
VERSION = 2
"""Of the file.  Version 1 had no column ``deviation``: it is read, and completed when a run goes on with it."""
SCHEMA = 1
KEPT_RUNS = 20


@dataclass(frozen=True, slots=True)
class Record:
    """One verdict, as contract and JSON output have it.

    ``digest`` identifies what the case said.  ``deviation`` is the documented deviation that predicts a verdict: one
    that came as predicted is ``known``, one that did not come is ``fixed``.
    """

    case: str
    target: str
    data: str
    verdict: str
    known: bool
    arithmetic: str
    max_abs_error: float | None
    bound_usage: float | None
    rms_usage: float | None
    diagnosis: str
    message: str
    seconds: float
    digest: str = ""
    deviation: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.case, self.target, self.data

    @property
    def values(self) -> tuple[Any, ...]:
        """The values of its fields, in their order."""
        return _VALUES(self)

    def as_json(self) -> dict[str, Any]:
        """The record without its digest; numbers that JSON cannot say are text."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "digest"}
        return {k: str(v) if isinstance(v, float) and v - v != 0 else v for k, v in values.items()}


_UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
_COLUMNS = [f.name for f in fields(Record)]
_VALUES: Callable[[Record], tuple[Any, ...]] = attrgetter(*_COLUMNS)
_STORED = {"str": "'text'", "bool": "'integer'", "float": "'real'", "float | None": "'real', 'null'"}
_KINDS = {f.name: _STORED[str(f.type)] for f in fields(Record)}
"""What SQLite calls the values of a column."""
_CREATE = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE verdicts (
    "case" TEXT NOT NULL, target TEXT NOT NULL, data TEXT NOT NULL, verdict TEXT NOT NULL, known INTEGER NOT NULL,
    arithmetic TEXT NOT NULL, max_abs_error REAL, bound_usage REAL, rms_usage REAL, diagnosis TEXT NOT NULL,
    message TEXT NOT NULL, seconds REAL NOT NULL, digest TEXT NOT NULL, deviation TEXT NOT NULL DEFAULT '',
    PRIMARY KEY ("case", target, data)
) WITHOUT ROWID;
"""
_UPGRADE = f"""
BEGIN; ALTER TABLE verdicts ADD COLUMN deviation TEXT NOT NULL DEFAULT ''; PRAGMA user_version = {VERSION}; COMMIT;
"""


class RunFile:
    """An open run file.  Use `create` for a new run, `open` to read one that exists, `resume` to go on with it."""

    def __init__(self, path: Path, connection: sqlite3.Connection, version: int = VERSION) -> None:
        self.path = path
        self._connection = connection
        self._version = version
        self._columns = _names() if version >= VERSION else _names().replace("[deviation]", "'' AS deviation")

    @classmethod
    def create(cls, path: Path) -> RunFile:
        """A new run file.  Raises BadRunFile if the file exists or cannot be made."""
        if os.path.lexists(path):
            raise BadRunFile(f"{path}: exists already; go on with --resume {path}, or choose another name")
        try:
            if not path.parent.exists():
                path.parent.mkdir(parents=True)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except OSError as error:
            raise BadRunFile(f"{path}: cannot be written: {error.strerror}") from None
        run = cls(path, _connect(path))
        run._connection.executescript(
            f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; {_CREATE}"
        )
        return run

    @classmethod
    def open(cls, path: Path) -> RunFile:
        """A run file that exists, to be read.

        Raises BadRunFile if it is not one, is damaged, or is newer than this program.
        """
        if not path.is_file():
            raise BadRunFile(f"{path}: no such run file")
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if application != APPLICATION:
                raise BadRunFile(f"{path}: not a run file of this program")
            if version > VERSION:
                raise BadRunFile(f"{path}: written by a newer version (format {version}, this program reads {VERSION})")
            problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise BadRunFile(f"{path}: damaged: {' '.join(problem.split())[:200]}")
            run = cls(path, connection, version)
            run._check_contents()
        except _UNREADABLE as error:
            connection.close()
            raise BadRunFile(f"{path}: not a run file, or damaged: {error}") from None
        except BadRunFile:
            connection.close()
            raise
        return run

    def _check_contents(self) -> None:
        """Raise BadRunFile where a column does not hold what it should; the file may come from anybody."""
        for name, kind in _KINDS.items():
            column = "''" if name == "deviation" and self._version < VERSION else f"[{name}]"
            wrong = f"SELECT typeof({column}) FROM verdicts WHERE typeof({column}) NOT IN ({kind}) LIMIT 1"
            if (found := self._connection.execute(wrong).fetchone()) is not None:
                raise BadRunFile(f"{self.path}: damaged: a {name} is {found[0]}")
        for (verdict,) in self._connection.execute("SELECT DISTINCT verdict FROM verdicts"):
            if verdict not in VERDICTS:
                raise BadRunFile(f"{self.path}: an unknown verdict, {printable(verdict)[:40]}")
        _ = self.environment

    @classmethod
    def resume(cls, path: Path) -> RunFile:
        """A run file that exists, to go on with.  Raises BadRunFile as `open` does, and if it cannot be written."""
        with cls.open(path) as run:
            version = run._version
        connection = _connect(path)
        try:
            if version < VERSION:
                connection.executescript(_UPGRADE)
        except sqlite3.Error as error:
            connection.close()
            raise BadRunFile(f"{path}: cannot be written: {error}") from None
        return cls(path, connection)

    def __enter__(self) -> RunFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Fold the journal into the file, so that it can be copied as it is."""
        with contextlib.suppress(sqlite3.OperationalError):  # somebody else is reading it: the journal stays beside it
            self._connection.execute("PRAGMA journal_mode = DELETE")
        self._connection.close()

    def append(self, record: Record) -> None:
        """Keep a verdict; a later one for the same case, target and data replaces it."""
        marks = ", ".join("?" * len(_COLUMNS))
        self._connection.execute(f"INSERT OR REPLACE INTO verdicts ({_names()}) VALUES ({marks})", record.values)

    def records(self) -> Iterator[Record]:
        """All verdicts, by case, target and data.  Raises BadRunFile where the file turns out to be damaged."""
        try:
            for row in self._connection.execute(f"SELECT {self._columns} FROM verdicts"):
                values = dict(zip(_COLUMNS, row, strict=True))
                yield Record(**values | {"known": bool(values["known"])})
        except _UNREADABLE as error:
            raise BadRunFile(f"{self.path}: damaged: {error}") from None

    def note(self, environment: Mapping[str, Any]) -> None:
        """Keep what the run was made with; keys that are there already are replaced."""
        rows = [(key, json.dumps(value, sort_keys=True)) for key, value in environment.items()]
        self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)

    @property
    def environment(self) -> dict[str, Any]:
        """What the run was made with."""
        rows = self._connection.execute("SELECT key, value FROM meta")
        try:
            return {key: json.loads(value) for key, value in rows}
        except (ValueError, TypeError, RecursionError) as error:
            raise BadRunFile(f"{self.path}: damaged: meta: {error}") from None

    def write_json(self, path: Path) -> None:
        """Write the run as JSON: ``{"schema": 1, "environment": {...}, "results": [record, ...]}``."""
        with path.open("w", encoding="utf-8") as out:
            out.write(f'{{"schema": {SCHEMA}, "environment": {json.dumps(self.environment, indent=1)}, "results": [')
            for n, record in enumerate(self.records()):
                out.write(("," if n else "") + "\n" + json.dumps(record.as_json()))
            out.write("\n]}\n")


def _names() -> str:
    """The columns, in brackets: SQLite takes an unknown name in double quotes for a text."""
    return ", ".join(f"[{name}]" for name in _COLUMNS)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    with contextlib.suppress(sqlite3.DatabaseError):  # not a database, or read-only: whoever reads it next says so
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def last_run() -> Path | None:
    """The newest run file in the cache."""
    return max(_folder().glob("*.sqlite"), default=None)


def new_run_path() -> Path:
    """A fresh name in the cache; the oldest runs there are removed."""
    for old in sorted(_folder().glob("*.sqlite"))[: -KEPT_RUNS + 1]:
        old.unlink(missing_ok=True)
    return _folder() / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.sqlite"


def _folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "deconv-conformance" / "runs"
