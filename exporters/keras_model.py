"""A case as a Keras model: a functional one, of layers wherever the target ``keras`` uses layers.

What that target composes of ``keras.ops`` becomes a layer of one's own, whose call runs the step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from conformance.spec import (
    Case,
    Chain,
    Convolution,
    Isolate,
    MaxPool,
    MaxUnpool,
    Rectify,
    Reshape,
    ResponseNorm,
    ResponseNormGradient,
    Take,
)
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.chain import CHAINS, follow
from conformance.targets.keras_chain import KerasLayerSteps
from conformance.targets.keras_targets import KerasLayers


class ModelSteps(KerasLayerSteps):
    """The steps on the symbolic tensors of a functional model."""

    def max_pool(self, step: MaxPool, x: Any) -> tuple[Any, Any]:
        return self._inside(super().max_pool, step, x)  # type: ignore[no-any-return]

    def max_unpool(self, step: MaxUnpool, x: Any, indices: Any) -> Any:
        return self._inside(super().max_unpool, step, x, indices)

    def take(self, step: Take, x: Any, indices: Any) -> Any:
        return self._inside(super().take, step, x, indices)

    def rectify(self, step: Rectify, x: Any, activation: Any = None) -> Any:
        if activation is None:
            return super().rectify(step, x)
        return self._inside(super().rectify, step, x, activation)

    def response_norm(self, step: ResponseNorm, x: Any) -> Any:
        return self._inside(super().response_norm, step, x)

    def response_norm_gradient(self, step: ResponseNormGradient, signal: Any, x: Any) -> Any:
        return self._inside(super().response_norm_gradient, step, signal, x)

    def isolate(self, step: Isolate, x: Any) -> Any:
        return self._inside(super().isolate, step, x)

    def reshape(self, step: Reshape, x: Any) -> Any:
        return self._inside(super().reshape, step, x)

    def _inside(self, operate: Callable[..., Any], step: Any, *fed: Any) -> Any:
        layer = _step_layer(self._keras)(lambda given: operate(step, *given))
        try:
            return layer(list(fed))
        except Unsupported:  # Keras tells its own story around the reason
            raise layer.declined from None


def keras_model(target: KerasLayers, case: Case, tensors: Tensors, inputs: Mapping[str, Any]) -> Any:
    """The model from these inputs to the results of the case, in order.  Raises Unsupported."""
    if isinstance(case, Convolution) and case.op in ("conv", "conv_transpose"):
        outputs = [target.layer(case, inputs["input"], tensors)]
    elif isinstance(case, Chain) and case.op in CHAINS:
        steps = ModelSteps(target.keras)
        weights = {name: steps.read(name, array) for name, array in tensors.items() if name not in inputs}
        values = follow(case, {**weights, **inputs}, steps)
        outputs = [values[name] for name in case.result_shapes]
    else:
        raise Unsupported(f"keras has no {case.op}")
    return target.keras.Model(list(inputs.values()), outputs)


@functools.cache
def _step_layer(keras: Any) -> Any:
    class Step(keras.layers.Layer):  # type: ignore[misc]
        """A step of a chain that no layer of Keras is."""

        def __init__(self, operate: Callable[[list[Any]], Any]) -> None:
            super().__init__()
            self.operate = operate
            self.declined: Unsupported | None = None

        def call(self, given: list[Any]) -> Any:
            try:
                return self.operate(given)
            except Unsupported as reason:
                self.declined = reason
                raise

    return Step
