"""Did ONNX Runtime compute where it was told to?

What a provider has no kernel for it quietly gives to the processor, and everything if the provider does not start.  Its
profile says where each node ran.
"""

from __future__ import annotations

import json
from pathlib import Path

COMPUTING = (
    "Conv",
    "ConvTranspose",
    "FusedConv",
    "MaxPool",
    "MaxUnpool",
    "ScatterElements",
    "ScatterND",
    "BatchNormalization",
    "LRN",
    "Relu",
)
"""Operators that a case is about; where sizes and indices are computed does not matter."""


def computed_elsewhere(profile: Path, provider: str) -> dict[str, str]:
    """Operators of a profile that are a case's own and ran on another provider, with that provider."""
    events = json.loads(profile.read_text("utf-8"))
    nodes = [event.get("args", {}) for event in events if event.get("cat") == "Node"]
    ran = {str(node.get("op_name")): str(node.get("provider")) for node in nodes if node.get("provider")}
    return {name: where for name, where in ran.items() if name in COMPUTING and where != provider}
