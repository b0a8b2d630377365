"""A case as a module of PyTorch: its weights, and a forward that calls what the target ``torch`` calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from conformance.spec import Case, Chain, Convolution, ResponseNormGradient
from conformance.targets.base import Tensors, Unsupported, decline_onnx_words
from conformance.targets.chain import follow
from conformance.targets.torch_chain import TorchSteps
from conformance.targets.torch_convolution import convolve, convolve_transposed
from conformance.targets.torch_gradient import input_gradient
from exporters.base import fed, parameters

STATISTICS = ("mean", "variance")
"""Tensors that are buffers, as in ``nn.BatchNorm2d``, for they are not trained."""

_OPERATORS = {"conv": convolve, "conv_transpose": convolve_transposed, "conv_input_gradient": input_gradient}


class CaseModule(torch.nn.Module):  # type: ignore[misc]
    """What somebody who exports this case has: an ``nn.Module`` with its weights, in inference mode.

    It is called with the tensors that the case is fed, in the order of ``inputs``, and returns those that the case
    returns, in the order of ``outputs``.  Raises Unsupported where PyTorch cannot say the case.
    """

    def __init__(self, case: Case, tensors: Tensors, steps: TorchSteps) -> None:
        super().__init__()
        decline_onnx_words(case, "torch")
        if isinstance(case, Chain) and any(isinstance(step, ResponseNormGradient) for step in case.steps):
            raise Unsupported("torch.autograd.grad inside a model is not exported")
        self.case, self.steps = case, steps
        self.inputs = tuple(fed(tensors))
        self.outputs = tuple(case.result_shapes)
        self.own: dict[str, str] = {}
        for name, array in parameters(tensors).items():
            self._hold(name, steps.read(name, array))
        self.eval()

    def forward(self, *given: Any) -> Any:
        values = dict(zip(self.inputs, given, strict=True))
        values |= {name: getattr(self, own) for name, own in self.own.items()}
        return self._results(values)

    def _hold(self, name: str, tensor: Any) -> None:
        """Make a tensor of the case a parameter or a buffer, whose names have no dots."""
        self.own[name] = own = name.replace(".", "_")
        if name.rpartition(".")[2] in STATISTICS:
            self.register_buffer(own, tensor)
        else:
            self.register_parameter(own, torch.nn.Parameter(tensor, requires_grad=False))

    def _results(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        if isinstance(self.case, Chain):
            followed = follow(self.case, values, self.steps)
            return tuple(followed[name] for name in self.outputs)
        assert isinstance(self.case, Convolution)
        operator = _OPERATORS[self.case.op]
        return (operator(torch, self.case, values["input"], values["weight"], values.get("bias")),)
