"""What all runtimes of ONNX models share: graphs that are made of the case, and models that were exported elsewhere.

A runtime says how it makes a model ready (`OnnxTarget.prepare`); the rest is the same for all of them.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import ClassVar, cast

import numpy as np

from conformance.spec import Chain, Convolution
from conformance.targets.base import Tensors
from conformance.targets.chain import ChainTarget
from conformance.targets.onnx_chain import OnnxSteps
from conformance.targets.onnx_graph import constants_of, one_node_model

Run = Callable[[Tensors], Sequence[np.ndarray]]
"""Runs a model that is ready on what is fed, and returns its outputs in the order of the graph."""

KEPT = 8


class OnnxTarget(ChainTarget):
    """A runtime of ONNX models.  ``opset`` is that of the graphs that it is fed.

    Weights become constants of the graph up to ``largest_constants`` bytes.  The last models stay ready, so that the
    same model is made ready once however often it is run.
    """

    runs_onnx = True
    largest_constants: ClassVar[float] = math.inf
    opset: int

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        self._ready: OrderedDict[bytes, Run] = OrderedDict()

    def prepare(self, model: bytes) -> Run:
        """Make a serialized ``ModelProto`` ready to run.  Raises Unsupported for what the runtime has no kernel for."""
        raise NotImplementedError

    def conv(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        weights = constants_of(case, tensors)
        if sum(array.nbytes for array in weights.values()) > self.largest_constants:
            weights = {}
        model = one_node_model(case, weights, self.opset)
        feeds = {name: array for name, array in tensors.items() if name not in weights}
        return self.evaluate(model.SerializeToString(), feeds)[0]

    conv_transpose = conv

    def steps(self, case: Chain) -> OnnxSteps:
        return OnnxSteps(case, case.opset or self.opset, self._evaluate_proto, self.largest_constants)

    def evaluate(self, model: bytes, feeds: Tensors) -> Sequence[np.ndarray]:
        """What the model makes of what is fed, in the order of its outputs."""
        key = hashlib.sha256(model).digest()
        if key not in self._ready:
            self._ready[key] = self.prepare(model)
            while len(self._ready) > KEPT:
                self._ready.popitem(last=False)
        self._ready.move_to_end(key)
        return self._ready[key](feeds)

    def run_model(self, model: bytes, feeds: Tensors) -> Sequence[np.ndarray]:
        """The same for a model that was exported elsewhere."""
        return self.evaluate(model, feeds)

    def _evaluate_proto(self, model: object, feeds: Tensors) -> Sequence[np.ndarray]:
        return self.evaluate(cast(bytes, model.SerializeToString()), feeds)  # type: ignore[attr-defined]
