"""What an outcome means, judged against the problem.

``linear``      convolutions: legal rounding, a weaker arithmetic than promised, or wrong
``shifted``     the right values in the wrong place
``steps``       one step of a chain, judged on what the target itself fed to it
``stages``      every stage of a chain
``whole``       the whole of it    ``walk``  with the errors that are passed on
``open_choices``  results that a choice which is open explains
``chain``       both together
``properties``  equations between several runs
``repeated``    the same problem, run several times
``pool_readings``  max pooling where the text of ONNX is open    ``refused``  what a runtime may refuse there
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from conformance.oracle.bounds import ARITHMETICS, Arithmetic, arithmetic_for
from conformance.outcome import Outcome
from conformance.problem import ChainProblem, LinearProblem, Problem, PropertyProblem
from conformance.verdict.base import FAILED, NEUTRAL, PASSED, VERDICTS, Judgement, read_as, with_faults
from conformance.verdict.chain import judge_chain, judge_published_chain, judge_stages
from conformance.verdict.linear import judge_linear, judge_published_linear
from conformance.verdict.properties import judge_property
from conformance.verdict.refused import refusal
from conformance.verdict.repeated import joined

__all__ = [
    "FAILED",
    "NEUTRAL",
    "PASSED",
    "VERDICTS",
    "Judgement",
    "judge",
    "judge_parts",
    "judge_published",
    "judge_repeated",
    "judge_stages",
]


def judge(problem: Problem, outcome: Outcome, promised: str = "native") -> Judgement:
    """The verdict on an outcome, for a target that promised an arithmetic (``native``: that of the case's dtype)."""
    return judge_parts(problem, (outcome,), promised)


def judge_parts(problem: Problem, outcomes: Sequence[Outcome], promised: str = "native") -> Judgement:
    """The verdict on the outcomes of all parts of a problem, in their order."""
    try:
        arithmetic = arithmetic_for(promised, problem.case.dtype)
    except KeyError:
        known = ", ".join(ARITHMETICS)
        return Judgement(
            "error", promised, message=f"the target promises {promised}; expected native or one of {known} (+bias)"
        )
    for outcome in outcomes:
        if outcome.kind != "returned":
            judgement = Judgement(outcome.kind, arithmetic.name, message=outcome.message)
            if outcome.faults:  # what refuses a file that is not valid is right
                told = "; ".join((*outcome.faults, outcome.message))
                return replace(judgement, verdict="invalid_model", message=told)
            reading = refusal(problem) if outcome.kind == "error" else ""
            return read_as(judgement, reading) if reading else judgement
    judgement = _judge_returned(problem, outcomes, arithmetic)
    judgement = judgement if judgement.arithmetic else replace(judgement, arithmetic=arithmetic.name)
    return with_faults(judgement, tuple(dict.fromkeys(fault for outcome in outcomes for fault in outcome.faults)))


def _judge_returned(problem: Problem, outcomes: Sequence[Outcome], arithmetic: Arithmetic) -> Judgement:
    with np.errstate(all="ignore"):  # targets return anything
        if isinstance(problem, PropertyProblem):
            return judge_property(problem, outcomes)
        if isinstance(problem, ChainProblem):
            return judge_chain(problem, outcomes[0], arithmetic)
        assert isinstance(problem, LinearProblem)
        return judge_linear(problem, outcomes[0], arithmetic)


def judge_repeated(problem: Problem, runs: Sequence[Sequence[Outcome]], promised: str = "native") -> Judgement:
    """The verdict on a problem that was run several times: that of the worst run, and whether they are the same."""
    judgements = [judge_parts(problem, outcomes, promised) for outcomes in runs]
    return judgements[0] if len(runs) == 1 else joined(judgements, runs)


def judge_published(problem: Problem) -> Judgement:
    """The verdict on the oracle itself, where a case publishes what must come out."""
    if isinstance(problem, ChainProblem):
        return judge_published_chain(problem)
    assert isinstance(problem, LinearProblem)
    return judge_published_linear(problem)
