"""YAML read into plain values, with the line of every key and item.

The file may come from a stranger: only scalars, lists and mappings are built, and aliases cannot multiply its size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from conformance.errors import Problem, SpecError

MAX_BYTES = 16 * 2**20
MAX_NODES = 2_000_000
MAX_DEPTH = 64

KeyPath = tuple[str | int, ...]
_SCALARS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str"))


class Document:
    """The values of a YAML file and where each of them stands."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.lines: dict[KeyPath, int] = {}
        self.value: Any = None
        self._check_depth(text)
        loader = yaml.CSafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                self.value = _Reader(self, loader).read(node, (), 0)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise self.error(line, "", f"not YAML: {error.problem}") from None
        except (yaml.YAMLError, RecursionError) as error:
            raise self.error(1, "", f"not YAML: {' '.join(str(error).split())}") from None
        finally:
            loader.dispose()

    def _check_depth(self, text: str) -> None:
        """Deep nesting overflows the stack of libyaml's composer, so it is looked for before."""
        depth = 0
        try:
            for event in yaml.parse(text, Loader=yaml.CSafeLoader):
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if depth > MAX_DEPTH:
                    raise self.error(event.start_mark.line + 1 if event.start_mark else 1, "", "nested too deeply")
        except yaml.YAMLError:
            return  # told when it is composed

    def line(self, path: KeyPath) -> int:
        """The line of a key or item, or of the closest thing around it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def error(self, line: int, key: str, message: str) -> SpecError:
        return SpecError([Problem(self.file, line, key, message)])


def read_document(path: Path, shown: str) -> Document:
    """Read a YAML file; ``shown`` is its name in messages.  Raises SpecError."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise SpecError([Problem(shown, 1, "", f"expected at most {MAX_BYTES} bytes")])
        return Document(shown, raw.decode("utf-8"))
    except OSError as error:
        raise SpecError([Problem(shown, 1, "", f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError([Problem(shown, line, "", "not UTF-8 text")]) from None


class _Reader:
    def __init__(self, document: Document, loader: yaml.CSafeLoader) -> None:
        self.document = document
        self.loader = loader
        self.nodes = 0

    def read(self, node: yaml.Node, path: KeyPath, depth: int) -> Any:
        line = node.start_mark.line + 1
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise self.document.error(line, dotted(path), "too large or nested too deeply (are aliases repeated?)")
        self.document.lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
        if node.tag not in _SCALARS:
            return node.value  # a date, say: its text is what was written
        try:
            return self.loader.construct_object(node)
        except (ValueError, LookupError, TypeError):
            raise self.document.error(line, dotted(path), f"not a value: {node.value!r:.60}") from None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self.read(key_node, (*path, "<key>"), depth + 1)
            if key == "<<":
                raise self.document.error(line, dotted(path), "merge keys are not supported; use the suite's defaults")
            if not isinstance(key, str):
                raise self.document.error(line, dotted(path), f"expected a name as key, got {key!r}; quote it")
            if key in values:
                raise self.document.error(line, dotted((*path, key)), "this key stands twice")
            self.document.lines[(*path, key)] = line
            values[key] = self.read(value_node, (*path, key), depth + 1)
        return values


def dotted(path: KeyPath) -> str:
    """``cases.sweep.stride[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
