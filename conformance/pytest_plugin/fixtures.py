"""For tests of one's own: the problems of suites, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conformance.problem import Problem

FIXTURE = "conformance_problem"


@pytest.fixture
def conformance_problem(request: pytest.FixtureRequest) -> Problem:
    """A case with its tensors, and what they must give.

    ``@pytest.mark.conformance("sweep", op="conv_transpose", data="exact")`` chooses which: suites by name or path, and
    of their cases those of an op and a kind of data (or several, in a list).
    """
    from conformance.problem import pose

    case, data = request.param
    return pose(case, data)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if FIXTURE not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("conformance")
    if mark is None or not mark.args or mark.kwargs.keys() - {"op", "data"}:
        expected = '@pytest.mark.conformance("a-suite", op=..., data=...)'
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: {FIXTURE} expects {expected}")
    from conformance.errors import BadInput
    from conformance.spec import load_cases

    try:
        cases = load_cases(mark.args, metafunc.config.getoption("conformance_profile"))
    except BadInput as error:
        raise pytest.UsageError(str(error)) from None
    ops, kinds = (_several(mark.kwargs.get(key)) for key in ("op", "data"))
    chosen = [
        (case, kind) for case in cases if not ops or case.op in ops for kind in case.data if not kinds or kind in kinds
    ]
    metafunc.parametrize(FIXTURE, chosen, indirect=True, ids=[f"{case.id}-{kind}" for case, kind in chosen])


def _several(value: str | list[str] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)
