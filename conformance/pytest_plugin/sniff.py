"""Whether a YAML file is a suite: there are many YAML files in the world, and most of them are something else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

MAX_BYTES = 16 * 2**20
MOST_FOLDERS = 2000
_NOT_SEARCHED = ("node_modules", "build", "dist", "__pycache__")
_HAS_SUITES: pytest.StashKey[bool] = pytest.StashKey()


def is_suite(path: Path, asked_for: bool = False) -> bool:
    """Whether it has a name under ``suite`` and a mapping under ``cases``, one of which names its ``op``.

    A file that was ``asked_for`` by name is taken for a suite if it has one of the two, so that what is wrong with it
    is told.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            return False
        text = path.read_bytes()
    except OSError:
        return False
    if b"suite" not in text and b"cases" not in text:
        return False
    found: dict[tuple[str, ...], Any] = {}
    try:
        for key, value in _keys(text):
            found[key] = value
            if _is_suite(found):
                return True
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        pass
    return asked_for and not found.keys().isdisjoint({("suite",), ("cases",)})


def _is_suite(found: dict[tuple[str, ...], Any]) -> bool:
    named = isinstance(found.get(("suite",)), yaml.ScalarEvent)
    return named and isinstance(found.get(("cases",)), yaml.MappingStartEvent) and any(map(_names_op, found))


def _names_op(key: tuple[str, ...]) -> bool:
    match key:
        case ("defaults", "op") | ("cases", _, "op") | ("cases", _, "matrix", "op"):
            return True
        case _:
            return False


def _keys(text: bytes) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The keys of the file down to those of a case's grid, as paths, with the event that begins their value."""
    path: list[Any] = []  # per open mapping: the key whose value is read, or None where a key comes next
    skip = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            if skip:
                skip -= 1
            else:
                path.pop()
            if not skip and path:
                path[-1] = None
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        if skip:
            skip += isinstance(event, yaml.CollectionStartEvent)
            continue
        is_key = bool(path) and path[-1] is None
        if is_key and isinstance(event, yaml.ScalarEvent):
            path[-1] = event.value
            continue
        if path and not is_key:
            yield tuple(map(str, path)), event
        if isinstance(event, yaml.MappingStartEvent) and not is_key and len(path) < 4:
            path.append(None)
        elif isinstance(event, yaml.CollectionStartEvent):
            skip = 1
        elif path:
            path[-1] = None


def has_suites(config: pytest.Config) -> bool:
    """Whether a session will collect a suite, as far as the first folders below its arguments tell."""
    if _HAS_SUITES not in config.stash:
        arguments = [Path(config.invocation_params.dir, argument.partition("::")[0]) for argument in config.args]
        config.stash[_HAS_SUITES] = any(is_suite(path) for argument in arguments for path in _yaml_files(argument))
    return config.stash[_HAS_SUITES]


def _yaml_files(argument: Path) -> Iterator[Path]:
    if argument.is_file():
        yield from [argument] if argument.suffix in (".yaml", ".yml") else []
        return
    for folder, folders, files in islice(os.walk(argument), MOST_FOLDERS):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _NOT_SEARCHED]
        folders[:] = [name for name in folders if not Path(folder, name, "pyvenv.cfg").exists()]
        yield from (Path(folder, name) for name in files if name.endswith((".yaml", ".yml")))
