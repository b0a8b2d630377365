"""Tables that ``torch.onnx.export`` builds anew in every call although they are always the same: three quarters of it.

They depend on the installed versions only: the translations of all operators (which onnxscript parses from source),
the decompositions of those that have none, and the list of composite operators.  Where a release has no such function,
or calls it in another way, it is left alone.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

_FUNCTIONS = (
    ("torch.onnx._internal.exporter._registration", "ONNXRegistry", "from_torchlib"),
    ("torch.onnx._internal.exporter._decomp", "", "create_onnx_friendly_decomposition_table"),
    ("torch.export.exported_program", "", "_collect_all_valid_cia_ops"),
)


@contextlib.contextmanager
def built_once() -> Iterator[None]:
    """Inside, each table is built by the first call that needs it, and handed out again to all later ones."""
    with contextlib.ExitStack() as stack:
        for holder, name, function in _remembered():
            stack.callback(setattr, holder, name, vars(holder)[name])
            setattr(holder, name, function)
        yield


@functools.cache
def _remembered() -> tuple[tuple[Any, str, Any], ...]:
    found = []
    for module, owner, name in _FUNCTIONS:
        with contextlib.suppress(ImportError, AttributeError):
            holder: Any = importlib.import_module(module)
            holder = getattr(holder, owner) if owner else holder
            function = _remembering(getattr(holder, name))
            found.append((holder, name, staticmethod(function) if owner else function))
    return tuple(found)


def _remembering(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which returns what it has returned for equal arguments (sets by their members)."""
    known: dict[object, Any] = {}

    def remembering(*args: Any, **named: Any) -> Any:
        key = tuple(frozenset(a) if isinstance(a, set) else a for a in args), tuple(sorted(named.items()))
        if key not in known:
            known[key] = function(*args, **named)
        return known[key]

    return remembering
