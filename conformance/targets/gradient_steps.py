"""The way up of a deconvnet whose gradient is the way down, where a framework lets functions have other gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from conformance.spec import Convolution, Deconvnet, MaxPool, Rectify, ResponseNorm, Step

Gradient = Callable[[Any, Any], Any]
"""Of what comes back, and of the value that the function had."""


class UpSteps(Protocol):
    """The steps that a framework has for the way up."""

    def convolution(self, step: Convolution, *fed: Any) -> Any: ...
    def pooled(self, step: MaxPool, x: Any) -> Any: ...
    def response_norm(self, step: ResponseNorm, x: Any) -> Any: ...
    def rectify(self, step: Rectify, signal: Any, activation: Any) -> Any: ...


def forward(
    steps: UpSteps,
    relu: Callable[[Any], Any],
    with_gradient: Callable[[Callable[[Any], Any], Gradient], Callable[..., Any]],
    case: Deconvnet,
    step: Step,
    fed: list[Any],
) -> Any:
    """A step of the way up, with the gradient that undoes it as the case says.

    ``with_gradient`` gives a function another gradient, in the framework's own way.
    """
    if isinstance(step, Convolution):
        return steps.convolution(step, *fed)
    if isinstance(step, MaxPool):
        return steps.pooled(step, *fed)
    if isinstance(step, ResponseNorm):
        if case.lrn_down == "gradient":
            return steps.response_norm(step, *fed)
        return with_gradient(lambda x: steps.response_norm(step, x), lambda signal, _: signal)(*fed)
    if case.rectify == "none":
        return with_gradient(relu, lambda signal, _: signal)(*fed)
    rectify = Rectify(case.rectify)
    return with_gradient(relu, lambda signal, activation: steps.rectify(rectify, signal, activation))(*fed)
