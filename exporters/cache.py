"""Exported files, kept so that nothing is exported twice.

A file is found by what went into it: configuration, weights, exporter, versions, and the source of this program's own
exporting code.  Models are stored under the digest of their content, which is checked whenever one is read.  Everything
is written to a temporary name and moved into place, so that a second writer or a killed one does no harm.  The files
used last stay when the cache outgrows its size.

What an exporter declined or failed to export is kept too.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conformance import version
from conformance.spec import Case, configuration_digest
from exporters.base import Binding, Exported

SIZE = 4 * 2**30
"""Bytes that the cache may hold, unless ``CONFORMANCE_CACHE_BYTES`` says otherwise."""

FORMAT = 1
_LARGEST_ENTRY = 2**20


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of an export: a file, or why there is none (``unsupported`` or ``error``, with the reason)."""

    kind: str
    message: str = ""
    exported: Exported | None = None
    seconds: float = 0.0


class Cache:
    """A folder of exported files.  Any number of processes may use it at once."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        self._entries, self._models = self.folder / "entries", self.folder / "models"

    def find(self, key: str) -> Entry | None:
        """The entry of a key; None where there is none, or where it is damaged."""
        try:
            path = self._entry(key)
            if path.stat().st_size > _LARGEST_ENTRY:
                return None
            said = json.loads(path.read_text("utf-8"))
            if said["format"] != FORMAT or said["key"] != key:
                return None
            os.utime(path)
            if said["kind"] != "returned":
                return Entry(str(said["kind"]), str(said["message"]), None, float(said["seconds"]))
            return Entry("returned", "", self._exported(said), float(said["seconds"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def has(self, key: str) -> bool:
        """Whether there is an entry of that key, whole or not."""
        return self._entry(key).is_file()

    def path_of(self, exported: Exported) -> Path:
        """Where the file lies, for those who want to open it."""
        return self._model(hashlib.sha256(exported.model).hexdigest())

    def keep(self, key: str, entry: Entry) -> None:
        """Store an entry.  A cache that cannot be written is no cache, and no error."""
        said: dict[str, Any] = {
            "format": FORMAT,
            "key": key,
            "kind": entry.kind,
            "message": entry.message,
            "seconds": entry.seconds,
        }
        with contextlib.suppress(OSError):
            if entry.exported is not None:
                said |= asdict(entry.exported) | {"model": self._keep_model(entry.exported.model)}
            self._write(self._entry(key), json.dumps(said).encode())

    def clear(self) -> None:
        """Remove every entry and every model."""
        for folder in (self._entries, self._models):
            shutil.rmtree(folder, ignore_errors=True)

    def prune(self, limit: int | None = None) -> None:
        """Remove what was used longest ago until at most ``limit`` bytes are left."""
        limit = limit_of_cache() if limit is None else limit
        files = sorted(self._files(), key=lambda found: found[1].st_mtime, reverse=True)
        size = 0
        for path, status in files:
            size += status.st_size
            if size > limit:
                path.unlink(missing_ok=True)

    def usage(self) -> tuple[int, int]:
        """Number of entries, and bytes of all files together."""
        files = list(self._files())
        return sum(path.suffix == ".json" for path, _ in files), sum(status.st_size for _, status in files)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder in (self._entries, self._models):
            for path in folder.glob("*/*"):
                with contextlib.suppress(OSError):
                    yield path, path.stat()

    def _exported(self, said: Mapping[str, Any]) -> Exported:
        path = self._model(str(said["model"]))
        model = path.read_bytes()
        if hashlib.sha256(model).hexdigest() != said["model"]:
            path.unlink(missing_ok=True)
            raise ValueError("damaged")
        os.utime(path)
        return Exported(
            model,
            tuple(Binding(**b) for b in said["inputs"]),
            tuple(Binding(**b) for b in said["outputs"]),
            tuple(None if shape is None else tuple(shape) for shape in said["shapes"]),
            tuple(map(str, said["faults"])),
        )

    def _keep_model(self, model: bytes) -> str:
        digest = hashlib.sha256(model).hexdigest()
        if not (path := self._model(digest)).exists():
            self._write(path, model)
        return digest

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix="writing-")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(content)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _entry(self, key: str) -> Path:
        return self._entries / key[:2] / f"{_hexadecimal(key)}.json"

    def _model(self, digest: str) -> Path:
        return self._models / digest[:2] / f"{_hexadecimal(digest)}.onnx"


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/deconv-conformance/exports``."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "deconv-conformance" / "exports"


def key_of(case: Case, weights: Mapping[str, np.ndarray], exporter: Mapping[str, str]) -> str:
    """What identifies an export; ``exporter`` holds its name, options and versions."""
    digest = hashlib.sha256(json.dumps([configuration_digest(case), sorted(exporter.items()), _source()]).encode())
    for name, array in sorted(weights.items()):
        digest.update(f"{name}:{array.dtype.name}:{array.shape};".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


@functools.cache
def _source() -> str:
    """The digest of all code that makes graphs."""
    digest = hashlib.sha256()
    package = Path(version.__file__).parent
    for folder in (package / "spec", package / "targets", Path(__file__).parent):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def limit_of_cache() -> int:
    """Bytes that the cache may hold."""
    told = os.environ.get("CONFORMANCE_CACHE_BYTES", "")
    return int(told) if told.isascii() and told.isdigit() else SIZE


def _hexadecimal(text: str) -> str:
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"expected a digest, got {text[:80]}")
    return text
