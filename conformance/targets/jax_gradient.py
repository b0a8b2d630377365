"""A deconvnet as the gradient of its network in JAX, its ReLU given the deconvnet's rectifier by ``jax.custom_vjp``.

Unpooling and transposed convolutions then come from automatic differentiation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from conformance.spec import Deconvnet
from conformance.targets.gradient_steps import Gradient, forward
from conformance.targets.jax_chain import JaxSteps


def projection(jax: Any, steps: JaxSteps, case: Deconvnet, values: Mapping[str, Any]) -> Any:
    """The gradient of the layer's output, weighted by the seed, with respect to the image.

    ``values`` are the tensors of the case as JAX's own.
    """

    replaced = functools.partial(_with_gradient, jax)

    def climb(image: Any) -> Any:
        known = {**values, "input": image}
        for stage in case.way_up:
            fed = [known[name] for name in stage.reads]
            known[stage.name] = forward(steps, jax.nn.relu, replaced, case, stage.step, fed)
        return known[case.layers[-1].name]

    top, back = jax.vjp(climb, values["input"])
    return back(steps.isolate(case.isolate, top))[0]


def _with_gradient(jax: Any, value: Callable[[Any], Any], gradient: Gradient) -> Callable[..., Any]:
    """``value(x)``, whose gradient is ``gradient(what comes back, value)``."""
    made = jax.custom_vjp(value)
    made.defvjp(lambda x: (given := value(x), given), lambda given, signal: (gradient(signal, given),))
    replaced: Callable[..., Any] = made
    return replaced
