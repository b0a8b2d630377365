"""A deconvnet as the gradient of its network, with a ReLU whose gradient is the deconvnet's rectifier.

This is how it is often done in TensorFlow (``tf.custom_gradient``, or ``gradient_override_map`` in the days of graphs):
unpooling and transposed convolutions then come from automatic differentiation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from conformance.spec import Deconvnet
from conformance.targets.gradient_steps import Gradient, forward
from conformance.targets.reasons import decline_beyond_gradient
from conformance.targets.tensorflow_chain import TensorFlowSteps


def deconvnet_gradient(tf: Any, steps: TensorFlowSteps, case: Deconvnet, tensors: Mapping[str, Any]) -> Any:
    """The gradient of the layer's output, weighted by the seed, with respect to the image.

    Raises Unsupported where the way down does what no gradient of the way up does.
    """
    decline_beyond_gradient(case)
    values = dict(tensors)
    replaced = functools.partial(_with_gradient, tf)
    with tf.GradientTape() as tape:
        tape.watch(values["input"])
        for stage in case.way_up:
            fed = [values[name] for name in stage.reads]
            values[stage.name] = forward(steps, tf.nn.relu, replaced, case, stage.step, fed)
    top = values[case.layers[-1].name]
    seed = steps.isolate(case.isolate, top)
    return tape.gradient(top, values["input"], output_gradients=seed)


def _with_gradient(tf: Any, value: Callable[[Any], Any], gradient: Gradient) -> Callable[..., Any]:
    """``value(x)``, whose gradient is ``gradient(what comes back, value)``."""

    def replaced(x: Any) -> tuple[Any, Callable[[Any], Any]]:
        given = value(x)
        return given, lambda signal: gradient(signal, given)

    made: Callable[..., Any] = tf.custom_gradient(replaced)
    return made
