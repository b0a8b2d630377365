"""The whole deconvnet as the gradient of its network, by automatic differentiation.

The gradient of a convolution is its transpose and that of max pooling unpools by summing, so only the gradient of ReLU
has to be replaced by the deconvnet's rectifier (arXiv:1312.6034, section 4), and where the case wants it, that of the
response normalisation by nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from conformance.spec import Convolution, Deconvnet, MaxPool, Rectify, ResponseNorm, Step
from conformance.targets.base import Function, Tensors
from conformance.targets.reasons import decline_beyond_gradient, symmetric_padding
from conformance.targets.torch_chain import TorchSteps
from conformance.targets.torch_convolution import decline_words


def input_gradient(torch: Any, case: Convolution, gradient: Any, weight: Any, bias: Any = None) -> Any:  # noqa: ARG001
    """``torch.nn.grad.conv*d_input``, for as many images as there are gradients."""
    decline_words(case, "torch.nn.grad")
    size = (gradient.shape[0], *case.large_shape[1:])
    operator = getattr(torch.nn.grad, f"conv{case.rank}d_input")
    padding = symmetric_padding(case, "torch")
    return operator(size, weight, gradient, case.stride, padding, case.dilation, case.groups)


def deconvnet_gradient(
    torch: Any,
    steps: TorchSteps,
    case: Deconvnet,
    tensors: Tensors,
    compiled: Callable[[Function], Function] = lambda climb: climb,
) -> Any:
    """The gradient of the layer's output, weighted by the seed, with respect to the image."""
    decline_beyond_gradient(case)
    way_up = [(stage, _operator(torch, steps, case, stage.step)) for stage in case.way_up]

    def climb(read: Mapping[str, Any]) -> Any:
        values = dict(read)
        for stage, operator in way_up:
            values[stage.name] = operator(*(values[name] for name in stage.reads))
        return values[case.layers[-1].name]

    read = {name: steps.read(name, array) for name, array in tensors.items()}
    image = read["input"].requires_grad_()
    top = compiled(climb)(read)
    return torch.autograd.grad(top, image, steps.isolate(case.isolate, top.detach()))[0]


def _operator(torch: Any, steps: TorchSteps, case: Deconvnet, step: Step) -> Function:
    """What computes a step of the way up, with the gradient that undoes it as the case says."""
    if isinstance(step, Rectify):
        return _with_gradient(torch, functools.partial(steps.rectify, step), _rectifier(steps, case))
    if isinstance(step, ResponseNorm):
        norm = functools.partial(steps.response_norm, step)
        passed = _with_gradient(torch, norm, lambda gradient, _: gradient)
        return passed if case.lrn_down == "identity" else norm
    if isinstance(step, MaxPool):
        return lambda x: steps.max_pool(step, x)[0]
    assert isinstance(step, Convolution)
    return functools.partial(steps.convolution, step)


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
