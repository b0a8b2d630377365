"""A deconvnet as the gradient of its network in JAX, its ReLU given the deconvnet's rectifier by ``jax.custom_vjp``.

Unpooling and transposed convolutions then come from automatic differentiation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from conformance.spec import Convolution, Deconvnet, MaxPool, Rectify, ResponseNorm, Step
from conformance.targets.jax_chain import JaxSteps


def projection(jax: Any, steps: JaxSteps, case: Deconvnet, values: Mapping[str, Any]) -> Any:
    """The gradient of the layer's output, weighted by the seed, with respect to the image.

    ``values`` are the tensors of the case as JAX's own.
    """

    def climb(image: Any) -> Any:
        known = {**values, "input": image}
        for stage in case.way_up:
            known[stage.name] = _forward(jax, steps, case, stage.step, [known[name] for name in stage.reads])
        return known[case.layers[-1].name]

    top, back = jax.vjp(climb, values["input"])
    return back(steps.isolate(case.isolate, top))[0]


def _forward(jax: Any, steps: JaxSteps, case: Deconvnet, step: Step, fed: list[Any]) -> Any:
    """A step of the way up, with the gradient that undoes it as the case says."""
    if isinstance(step, Convolution):
        return steps.convolution(step, *fed)
    if isinstance(step, MaxPool):
        return steps.pooled(step, *fed)
    if isinstance(step, ResponseNorm):
        if case.lrn_down == "gradient":
            return steps.response_norm(step, *fed)
        return _with_gradient(jax, lambda x: steps.response_norm(step, x), lambda signal, _: signal)(*fed)
    if case.rectify == "none":
        return _with_gradient(jax, jax.nn.relu, lambda signal, _: signal)(*fed)
    rectify = Rectify(case.rectify)
    return _with_gradient(jax, jax.nn.relu, lambda signal, activation: steps.rectify(rectify, signal, activation))(*fed)


def _with_gradient(jax: Any, value: Callable[[Any], Any], gradient: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """``value(x)``, whose gradient is ``gradient(what comes back, value)``."""
    made = jax.custom_vjp(value)
    made.defvjp(lambda x: (given := value(x), given), lambda given, signal: (gradient(signal, given),))
    replaced: Callable[..., Any] = made
    return replaced
