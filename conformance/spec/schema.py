"""JSON Schema of a suite file, for editors that complete and check YAML while it is written."""

from __future__ import annotations

from typing import Any

from conformance.spec.loader import OPS
from conformance.spec.onnx_entry import OnnxEntry


def suite_schema() -> dict[str, Any]:
    """The schema, generated from the models that the loader uses.

    A case may leave to the suite's defaults whatever it likes, so no key of a case is required here.
    """
    ways: dict[str, list[Any]] = {}
    for model in OPS.values():
        for key, schema in model.model_json_schema()["properties"].items():
            described = {k: v for k, v in schema.items() if k not in ("default", "title")}
            if described not in ways.setdefault(key, []):
                ways[key].append(described)
    properties = {key: {"anyOf": found} if len(found) > 1 else found[0] for key, found in ways.items()}
    properties["op"] = {"enum": list(OPS)}
    properties["bias"] = {"type": "boolean"}
    properties["onnx"] = _without_titles(OnnxEntry.model_json_schema())
    values = {key: {"type": "array", "items": schema, "minItems": 1} for key, schema in properties.items()}
    entry = {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": properties
        | {
            "matrix": {"type": "object", "additionalProperties": False, "properties": values},
            "exclude": {
                "type": "array",
                "items": {"type": "object", "additionalProperties": False, "properties": properties},
            },
        },
    }
    name = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._+-]*$"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A suite of conformance cases",
        "type": "object",
        "required": ["suite", "cases"],
        "additionalProperties": False,
        "properties": {
            "suite": name,
            "source": {"type": "string"},
            "notes": {"type": "string"},
            "defaults": {"type": "object", "additionalProperties": False, "properties": properties},
            "cases": {"type": "object", "propertyNames": name, "additionalProperties": entry},
        },
    }


def _without_titles(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a mapping inside a case, without the names that the model has in Python."""
    values = {
        key: {k: v for k, v in value.items() if k not in ("default", "title")}
        for key, value in schema["properties"].items()
    }
    return {"type": "object", "additionalProperties": False, "properties": values}
