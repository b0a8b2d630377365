"""A predicate over the parameters of a case, such as ``any(k < s for k, s in zip(kernel, stride))``.

It is an expression of Python's, evaluated by simpleeval, which knows no imports, no assignments and no attributes but
those of the parameters, and bounds powers and lengths: the file may come from a stranger.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from simpleeval import (
    AttributeDoesNotExist,
    EvalWithCompoundTypes,
    InvalidExpression,
    NameNotDefined,
)

FUNCTIONS = {"abs": abs, "all": all, "any": any, "len": len, "max": max, "min": min, "sum": sum, "zip": zip}
LONGEST = 500


class BadPredicate(ValueError):
    """An expression that cannot be read, or that fails on a case; the text says why."""


class Predicate:
    """An expression that is true or false of a case.  Raises BadPredicate if it is none."""

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        if len(self.text) > LONGEST:
            raise BadPredicate(f"expected at most {LONGEST} characters")
        self._evaluator = EvalWithCompoundTypes(functions=FUNCTIONS)
        try:
            self._parsed = self._evaluator.parse(self.text)
        except (SyntaxError, InvalidExpression, ValueError, RecursionError) as error:
            raise BadPredicate(f"expected an expression such as 'groups > 1': {_words(error)}") from None
        if not isinstance(self._parsed, ast.expr | ast.Expr):
            raise BadPredicate("expected an expression such as 'groups > 1'")

    @property
    def names(self) -> set[str]:
        """The names that it speaks of, without those of functions and of its own loops."""
        nodes = list(ast.walk(self._parsed))
        bound = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        read = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        return (read - bound - FUNCTIONS.keys()) | {n.attr for n in nodes if isinstance(n, ast.Attribute)}

    def holds(self, parameters: Mapping[str, Any]) -> bool:
        """Whether it is true; a case that lacks a parameter which it asks for is not what it speaks of."""
        self._evaluator.names = parameters
        try:
            return bool(self._evaluator.eval(self.text, previously_parsed=self._parsed))
        except (NameNotDefined, AttributeDoesNotExist, KeyError, IndexError):
            return False
        except (InvalidExpression, TypeError, ValueError, ArithmeticError, RecursionError, MemoryError) as error:
            raise BadPredicate(f"{self.text}: {_words(error)}") from None


def _words(error: Exception) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(text.split())[:200]


def unknown(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Those names that no case has, in order."""
    return sorted(set(names) - set(known))
