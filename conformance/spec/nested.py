"""Mappings inside a case, such as the layers of a network: read by a model, and told in a line where they are wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from conformance.spec.fields import KeyedError, show

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], value: Any, where: str, required: str) -> Model:
    """``value`` read by ``model``; ``where`` is its key in the case, ``required`` what to say of a key that is missing.

    Raises KeyedError for the first thing that is wrong.
    """
    if not isinstance(value, dict):
        raise KeyedError(where, f"expected a mapping with {', '.join(model.model_fields)}, got {show(value)}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors()
        detail = next((d for d in found if d["type"] == "extra_forbidden"), found[0])  # a key misspelt is missing too
        key = ".".join(map(str, detail["loc"][:1]))
        raise KeyedError(f"{where}.{key}", words(detail, model.model_fields, required)) from None


def words(detail: Mapping[str, Any], keys: Iterable[str], required: str, also: tuple[str, ...] = ()) -> str:
    """What pydantic found, in our words; ``keys`` are those that would be right, ``also`` those of another level."""
    if detail["type"] == "missing":
        return required
    if detail["type"] == "extra_forbidden":
        return f"unknown key{closest(str(detail['loc'][-1]), tuple(keys), also)}"
    if detail["type"] == "literal_error":
        return f"expected {detail['ctx']['expected'].lower()}, got {show(detail['input'])}"
    return str(detail["msg"])


def closest(key: str, keys: tuple[str, ...], also: tuple[str, ...] = ()) -> str:
    """What may have been meant, or what there is."""
    close = difflib.get_close_matches(key, (*keys, *also), n=1)
    return f"; did you mean {close[0]}?" if close else f"; expected one of {', '.join(keys)}"
