"""Max pooling where the text of ONNX leaves several results open: which of them a target has given."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from conformance.oracle.bounds import Arithmetic
from conformance.oracle.chains import walk
from conformance.outcome import Outcome
from conformance.problem import ChainProblem
from conformance.spec import MaxPool, PoolReading
from conformance.verdict.base import Judgement, read_as

Judge = Callable[[ChainProblem, Outcome, Arithmetic], Judgement]


def judge_pool_readings(judge: Judge, problem: ChainProblem, outcome: Outcome, arithmetic: Arithmetic) -> Judgement:
    """``ambiguous`` with the name of the reading that was taken; else what is wrong by the first that has the shape."""
    case, failed = problem.case, []
    assert isinstance(case, MaxPool)
    for reading in case.readings:
        meant = replace(case, axes=reading.axes, readings=())
        values = walk(meant.stages, problem.tensors)
        read = ChainProblem(meant, problem.data, problem.tensors, values)
        judgement = judge(read, _canonical(outcome, reading, case), arithmetic)
        if judgement.passed or judgement.verdict == "ambiguous":
            return read_as(judgement, reading.name)
        failed.append(judgement)
    return next((judgement for judgement in failed if judgement.verdict != "wrong_shape"), failed[0])


def _canonical(outcome: Outcome, reading: PoolReading, case: MaxPool) -> Outcome:
    """What was returned, without the windows that nothing is said of, and with indices flat in each plane."""
    size = tuple(axis.small for axis in reading.axes)
    padded = (*case.small_shape[:2], *(n + more for n, more in zip(size, reading.empty, strict=True)))
    cut: tuple[Any, ...] = (..., *(slice(n) for n in size))
    tensors = {name: a[cut] if np.shape(a) == padded else a for name, a in outcome.tensors.items()}
    indices = tensors.get("indices")
    if reading.order == "tensor" and indices is not None and indices.shape == case.small_shape:
        tensors["indices"] = _through_the_tensor(indices.astype(np.int64), case)
    return replace(outcome, tensors=tensors)


def _through_the_tensor(indices: np.ndarray, case: MaxPool) -> np.ndarray:
    """Indices that a target took for column-major in each plane, as if they were so through the whole tensor.

    What a target hands on is ``row`` of ``plane * size + column``; here the number is put together again and read anew.
    An index that then lies in another plane than its own becomes -1.
    """
    shape, size = case.large_shape, math.prod(case.large)
    own = np.arange(math.prod(shape[:2])).reshape(*shape[:2], *[1] * case.rank)
    planes, rows = np.divmod(indices + own * size, size)
    inside = (planes >= 0) & (planes < own.size)
    columns = np.ravel_multi_index(np.unravel_index(rows, case.large), case.large, order="F")
    images, channels, *position = np.unravel_index(np.where(inside, planes, 0) * size + columns, shape, order="F")
    read = np.ravel_multi_index(tuple(position), case.large)
    return np.where(inside & (images * shape[1] + channels == own), read, -1)
