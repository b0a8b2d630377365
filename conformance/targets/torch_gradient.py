"""The whole deconvnet as the gradient of its network, by automatic differentiation.

The gradient of a convolution is its transpose and that of max pooling unpools by summing, so only the gradient of ReLU
has to be replaced by the deconvnet's rectifier (arXiv:1312.6034, section 4), and where the case wants it, that of the
response normalisation by nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from conformance.spec import Convolution, Deconvnet, MaxPool, Rectify, ResponseNorm, Step
from conformance.targets.base import Tensors
from conformance.targets.reasons import decline_beyond_gradient
from conformance.targets.torch_chain import TorchSteps


def deconvnet_gradient(torch: Any, steps: TorchSteps, case: Deconvnet, tensors: Tensors) -> Any:
    """The gradient of the layer's output, weighted by the seed, with respect to the image."""
    decline_beyond_gradient(case)
    values = {name: steps.read(name, array) for name, array in tensors.items()}
    image = values["input"].requires_grad_()
    for stage in case.way_up:
        values[stage.name] = _run(torch, steps, case, stage.step, [values[name] for name in stage.reads])
    top = values[case.layers[-1].name]
    return torch.autograd.grad(top, image, steps.isolate(case.isolate, top.detach()))[0]


def _run(torch: Any, steps: TorchSteps, case: Deconvnet, step: Step, fed: list[Any]) -> Any:
    """A step of the way up, with the gradient that undoes it as the case says."""
    if isinstance(step, Rectify):
        return _with_gradient(torch, functools.partial(steps.rectify, step), _rectifier(steps, case))(*fed)
    if isinstance(step, ResponseNorm):
        norm = functools.partial(steps.response_norm, step)
        passed = _with_gradient(torch, norm, lambda gradient, _: gradient)
        return (passed if case.lrn_down == "identity" else norm)(*fed)
    if isinstance(step, MaxPool):
        return steps.max_pool(step, *fed)[0]
    assert isinstance(step, Convolution)
    return steps.convolution(step, *fed)


def _rectifier(steps: TorchSteps, case: Deconvnet) -> Callable[[Any, Any], Any]:
    """What becomes of the signal at a ReLU on the way down, given the ReLU's output."""
    if case.rectify == "none":
        return lambda gradient, _: gradient
    step = Rectify(case.rectify)
    return lambda gradient, activation: steps.rectify(step, gradient, activation)


def _with_gradient(torch: Any, value: Callable[[Any], Any], gradient: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """``value(x)``, whose gradient is ``gradient(what comes back, value)``."""

    class Replaced(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(context: Any, x: Any) -> Any:
            given = value(x)
            context.save_for_backward(given)
            return given

        @staticmethod
        def backward(context: Any, signal: Any) -> Any:
            return gradient(signal, *context.saved_tensors)

    apply: Callable[..., Any] = Replaced.apply
    return apply
