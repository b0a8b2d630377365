"""What identifies a case, whatever file and line it stands in."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import fields

import numpy as np

from conformance.spec.case import Case

_ABOUT = ("location", "notes", "source", "tags", "vectors", "data")


def case_digest(case: Case) -> str:
    """Identifies what a case says, with its name and the numbers that it brings along."""
    digest = _hashed(case, _ABOUT)
    if case.vectors is not None:
        for _, tensor in sorted((case.vectors.tensors | case.vectors.expected).items()):  # type: ignore[operator]
            digest.update(np.ascontiguousarray(tensor).view(np.uint8).data)
        digest.update(repr(case.vectors.decimals).encode())
    return digest.hexdigest()


def configuration_digest(case: Case) -> str:
    """Identifies the configuration alone: two cases that differ in name only have the same."""
    return _hashed(case, (*_ABOUT, "id"), unnamed=True).hexdigest()


def _hashed(case: Case, ignored: Collection[str], *, unnamed: bool = False) -> hashlib.blake2b:
    said = {f.name: getattr(case, f.name) for f in fields(case) if f.name not in ignored}
    text = repr(sorted(said.items()))
    if unnamed:  # the parts of a chain are named after it
        text = text.replace(case.id, "")
    return hashlib.blake2b(text.encode(), digest_size=12)
