"""Text from strangers, made safe to print."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with everything that would steer a terminal replaced by blanks; newlines and tabs too."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
