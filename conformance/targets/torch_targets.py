"""PyTorch, four ways to the same C.T.

``Torch``          its forward operators, ``torch.nn.functional.conv*d`` and ``conv_transpose*d``
``TorchAutograd``  the gradient of its convolution, by automatic differentiation
``TorchNNGrad``    the same gradient, by ``torch.nn.grad.conv*d_input``
``TorchDirect``    the equivalent direct convolution of Dumoulin and Visin, section 4

The first walks chains too, step by step (`torch_chain`); the first two give the whole deconvnet as one gradient
(`torch_gradient`).
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any, ClassVar, cast

import ml_dtypes
import numpy as np

from conformance.spec import Case, Convolution, Deconvnet
from conformance.targets.base import Function, OpTarget, Tensors, Unsupported
from conformance.targets.chain import ChainTarget
from conformance.targets.precision import float32_in_use
from conformance.targets.reasons import refusals
from conformance.targets.torch_chain import TorchSteps
from conformance.targets.torch_convolution import (
    convolve,
    convolve_transposed,
    decline_transposed_words,
)
from conformance.targets.torch_gradient import deconvnet_gradient, input_gradient

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class TorchTarget(OpTarget):
    """What targets on PyTorch have in common: the device, and tensors to and from it."""

    runtime: ClassVar[str]

    def __init__(self, threads: int = 1, device: str = "cpu", tf32: str = "default") -> None:
        super().__init__(threads)
        import torch

        if device != "cpu" and not torch.cuda.is_available():
            raise RuntimeError(f"this torch ({torch.__version__}) has no CUDA, or sees no device")

        self._torch: Any = torch
        self._functional: Any = torch.nn.functional
        self.device = device
        self.name = f"{self.runtime}{'-ieee' if tf32 == 'off' else ''}@{device}"
        torch.set_num_threads(threads)
        with contextlib.suppress(RuntimeError):  # a process can set this once, and not after the first parallel work
            torch.set_num_interop_threads(threads)
        if device != "cpu":
            self.arithmetic = "tf32" if tf32 == "default" else "native"
        if tf32 == "off":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def environment(self) -> dict[str, str]:
        torch = self._torch
        facts = {
            "torch": torch.__version__,
            "device": self.device,
            "threads": torch.get_num_threads(),
            "oneDNN": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
            "cpu capability": torch.backends.cpu.get_cpu_capability(),
            "float32 matmul precision": torch.get_float32_matmul_precision(),
        }
        if self.device != "cpu":
            facts |= {
                "device name": torch.cuda.get_device_name(self.device),
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),
                "cudnn allow_tf32": torch.backends.cudnn.allow_tf32,
                "cudnn benchmark": torch.backends.cudnn.benchmark,
                "float32 in use": float32_in_use(self),
            }
        return {key: str(value) for key, value in facts.items()}

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        with refusals("torch"):
            return super().run(case, tensors)

    def _operator(self, name: str, case: Convolution) -> Any:
        return getattr(self._functional, f"{name}{case.rank}d")

    def _tensor(self, array: np.ndarray) -> Any:
        """A tensor that shares the array's memory; a read-only array is copied, for torch has no read-only tensor."""
        array = np.require(array, requirements=["C", "W"])
        if array.dtype != BFLOAT16:
            return self._torch.from_numpy(array).to(self.device)
        return self._torch.from_numpy(array.view(np.int16)).view(self._torch.bfloat16).to(self.device)

    def _tensors(self, tensors: Tensors) -> tuple[Any, Any, Any]:
        """Input, weight and bias or None."""
        bias = tensors.get("bias")
        x, weight = self._tensor(tensors["input"]), self._tensor(tensors["weight"])
        return x, weight, None if bias is None else self._tensor(bias)

    def _array(self, tensor: Any) -> np.ndarray:
        tensor = tensor.detach().cpu().contiguous()
        if tensor.dtype == self._torch.bfloat16:
            return cast(np.ndarray, tensor.view(self._torch.int16).numpy().view(BFLOAT16))
        return cast(np.ndarray, tensor.numpy())


class _WithGradient(TorchTarget):
    """A target that can take the whole deconvnet as one gradient."""

    def deconvnet_gradient(self, case: Deconvnet, tensors: Tensors) -> np.ndarray:
        steps = TorchSteps(self._torch, self._tensor, self._array)
        compiled = functools.partial(self.compiled, case)
        return self._array(deconvnet_gradient(self._torch, steps, case, tensors, compiled))


class Torch(_WithGradient, ChainTarget):
    """The forward operators, in the device's default settings."""

    runtime = "torch"

    def conv(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        return self._computed(case, convolve, tensors)

    def conv_transpose(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        return self._computed(case, convolve_transposed, tensors)

    def _computed(self, case: Convolution, operator: Function, tensors: Tensors) -> np.ndarray:
        operate = self.compiled(case, functools.partial(operator, self._torch, case))
        return self._array(operate(*self._tensors(tensors)))

    def steps(self, case: Case) -> TorchSteps:  # noqa: ARG002
        return TorchSteps(self._torch, self._tensor, self._array)


class _TorchGradient(TorchTarget):
    """A transposed convolution as the gradient of a convolution with respect to its input."""

    def conv_transpose(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        decline_transposed_words(case, self.runtime)
        if case.bias:
            raise Unsupported("a gradient has no bias")
        return self.conv_input_gradient(case, tensors)

    def conv_input_gradient(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        gradient, weight, _ = self._tensors(tensors)
        return self._array(self._gradient(case, gradient, weight))

    def _gradient(self, case: Convolution, gradient: Any, weight: Any) -> Any:
        raise NotImplementedError


class TorchAutograd(_TorchGradient, _WithGradient):
    """``torch.autograd.grad`` of ``torch.nn.functional.conv*d``, and of a whole network."""

    runtime = "torch-autograd"

    def deconvnet(self, case: Deconvnet, tensors: Tensors) -> np.ndarray:
        return self.deconvnet_gradient(case, tensors)

    def _gradient(self, case: Convolution, gradient: Any, weight: Any) -> Any:
        x = self._torch.zeros(case.large_shape, dtype=weight.dtype, device=self.device, requires_grad=True)
        return self._torch.autograd.grad(convolve(self._torch, case, x, weight), x, gradient)[0]


class TorchNNGrad(_TorchGradient):
    """``torch.nn.grad.conv*d_input``."""

    runtime = "torch-nn-grad"

    def _gradient(self, case: Convolution, gradient: Any, weight: Any) -> Any:
        return input_gradient(self._torch, case, gradient, weight)


class TorchDirect(TorchTarget):
    """The direct convolution that equals the transposed one (Dumoulin and Visin, sections 4.1 to 4.6).

    ``stride - 1`` zeros between the elements of the input, ``k^ - 1 - begin`` and ``k^ - 1 - end`` around them (a
    negative number crops), the kernel flipped, its channels swapped, stride 1.
    """

    runtime = "torch-direct"

    def conv_transpose(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        decline_transposed_words(case, "a direct convolution")
        x, weight, bias = self._tensors(tensors)
        padded = self._padded(case, self._stretched(case, x))
        operator = self._operator("conv", case)
        flipped = _flipped(case, weight)
        return self._array(operator(padded, flipped, bias, dilation=case.dilation, groups=case.groups))

    conv_input_gradient = conv_transpose

    def _stretched(self, case: Convolution, x: Any) -> Any:
        size = [(a.small - 1) * a.stride + 1 for a in case.axes]
        stretched = x.new_zeros((*x.shape[:2], *size))
        stretched[(..., *(slice(None, None, s) for s in case.stride))] = x
        return stretched

    def _padded(self, case: Convolution, x: Any) -> Any:
        ends = [(a.extent - 1 - a.begin, a.extent - 1 - a.end) for a in case.axes]
        pads = [pad for pair in reversed(ends) for pad in pair]  # F.pad counts from the last axis
        widened = self._functional.pad(x, [max(pad, 0) for pad in pads])
        return self._functional.pad(widened, [min(pad, 0) for pad in pads])


def _flipped(case: Convolution, weight: Any) -> Any:
    """The kernel of the equivalent direct convolution: flipped, channels swapped within each group."""
    per_group = weight.reshape(case.groups, -1, *weight.shape[1:]).transpose(1, 2)
    return per_group.reshape(case.large_channels, -1, *case.kernel).flip(tuple(range(2, 2 + case.rank)))
