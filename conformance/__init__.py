"""deconv-conformance: does your framework compute the transposed convolution?

A convolution is a matrix, ``y = C x``; its transposed convolution is ``C.T y``.  This package writes C down from the
definition, runs frameworks on the same numbers and tells where they agree with it, bit for bit or within a proven
bound.  Start with ``conformance run`` on the command line, or with `assert_conforms` in a test of your own; docs/api.md
has the names that a program may use.
"""

from typing import TYPE_CHECKING, Any

from conformance.version import VERSION

if TYPE_CHECKING:
    from conformance.api import (
        BadInput,
        Case,
        Comparison,
        ConformanceError,
        Judgement,
        Outcome,
        Problem,
        Record,
        RunFile,
        assert_conforms,
        compare,
        conv_matrix,
        judge,
        load_cases,
        make_case,
        pose,
        pose_given,
        run,
    )

__version__ = VERSION

__all__ = [
    "BadInput",
    "Case",
    "Comparison",
    "ConformanceError",
    "Judgement",
    "Outcome",
    "Problem",
    "Record",
    "RunFile",
    "__version__",
    "assert_conforms",
    "compare",
    "conv_matrix",
    "judge",
    "load_cases",
    "make_case",
    "pose",
    "pose_given",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import what a name needs when it is used: the command line has to answer at once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from conformance import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
