"""A deconvnet as the gradient of its network, with a ReLU whose gradient is the deconvnet's rectifier.

This is how it is often done in TensorFlow (``tf.custom_gradient``, or ``gradient_override_map`` in the days of graphs):
unpooling and transposed convolutions then come from automatic differentiation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from conformance.spec import Convolution, Deconvnet, MaxPool, Rectify, ResponseNorm, Step
from conformance.targets.reasons import decline_beyond_gradient
from conformance.targets.tensorflow_chain import TensorFlowSteps


def deconvnet_gradient(tf: Any, steps: TensorFlowSteps, case: Deconvnet, tensors: Mapping[str, Any]) -> Any:
    """The gradient of the layer's output, weighted by the seed, with respect to the image.

    Raises Unsupported where the way down does what no gradient of the way up does.
    """
    decline_beyond_gradient(case)
    values = dict(tensors)
    with tf.GradientTape() as tape:
        tape.watch(values["input"])
        for stage in case.way_up:
            values[stage.name] = _forward(tf, steps, case, stage.step, [values[name] for name in stage.reads])
    top = values[case.layers[-1].name]
    seed = steps.isolate(case.isolate, top)
    return tape.gradient(top, values["input"], output_gradients=seed)


def _forward(tf: Any, steps: TensorFlowSteps, case: Deconvnet, step: Step, fed: list[Any]) -> Any:
    """A step of the way up, with the gradient that undoes it as the case says."""
    if isinstance(step, Convolution):
        return steps.convolution(step, *fed)
    if isinstance(step, MaxPool):
        return steps.pooled(step, *fed)
    if isinstance(step, ResponseNorm):
        if case.lrn_down == "gradient":
            return steps.response_norm(step, *fed)
        return _with_gradient(tf, lambda x: steps.response_norm(step, x), lambda signal, _: signal)(*fed)
    if case.rectify == "none":
        return _with_gradient(tf, tf.nn.relu, lambda signal, _: signal)(*fed)
    rectify = Rectify(case.rectify)
    return _with_gradient(tf, tf.nn.relu, lambda signal, activation: steps.rectify(rectify, signal, activation))(*fed)


def _with_gradient(tf: Any, value: Callable[[Any], Any], gradient: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """``value(x)``, whose gradient is ``gradient(what comes back, value)``."""

    def replaced(x: Any) -> tuple[Any, Callable[[Any], Any]]:
        given = value(x)
        return given, lambda signal: gradient(signal, given)

    made: Callable[..., Any] = tf.custom_gradient(replaced)
    return made
