"""How the layers of a network are written: a list of mappings, or of words where a layer needs no more."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic_core import PydanticCustomError

from conformance.spec.fields import Written, show

MAX_LAYERS = 100
KINDS = ("conv", "relu", "max_pool", "lrn")


def _layers(value: Any) -> tuple[tuple[str, dict[str, Any]], ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_LAYERS:
        raise PydanticCustomError("expected", f"expected a list of 1 to {MAX_LAYERS} layers")
    return tuple(_layer(item) for item in value)


def _layer(item: Any) -> tuple[str, dict[str, Any]]:
    keys = [key for key in KINDS if isinstance(item, dict) and key in item]
    if item == "relu":
        return "relu", {}
    if len(keys) != 1:
        raise PydanticCustomError(
            "expected",
            "expected layers with one of {kinds} each, got {value}",
            {"kinds": ", ".join(KINDS), "value": show(item)},
        )
    return keys[0], item


_ITEM = {
    "anyOf": [
        {"const": "relu"},
        {"type": "object", "anyOf": [{"required": [kind]} for kind in KINDS]},
    ]
}
Layers = Annotated[
    tuple[tuple[str, dict[str, Any]], ...],
    Written(_layers, {"type": "array", "items": _ITEM, "minItems": 1, "maxItems": MAX_LAYERS}),
]
