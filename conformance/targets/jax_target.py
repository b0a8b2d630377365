"""JAX without a library on top: ``jax.lax``, called eagerly, or a whole case as one function under ``jax.jit``.

``Jax``         ``lax.conv_general_dilated``, ``lax.conv_transpose``, and the gradient by ``jax.vjp``
``JaxDilated``  C.T as a direct convolution of the dilated input, as Equinox has it; the one with groups

An eager call compiles the operator for these shapes; what is jitted is compiled as one program, in which XLA fuses and
reorders.  Both cost tens of milliseconds for every new shape.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from conformance.spec import Case, Convolution, Deconvnet
from conformance.targets.base import Function, Tensors
from conformance.targets.chain import ChainTarget
from conformance.targets.jax_chain import JaxSteps, in_numpy
from conformance.targets.jax_convolution import Transposed, convolve, convolve_dilated, convolve_transposed, gradient
from conformance.targets.jax_gradient import projection
from conformance.targets.reasons import decline_beyond_gradient, refusals

RUNS_REMEMBERED = 128


def load_jax(threads: int) -> Any:
    """Import JAX on the CPU, with so many threads and with float64."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("NPROC", str(threads))  # the size of XLA's thread pool
    import jax

    jax.config.update("jax_enable_x64", True)  # without it float64 quietly becomes float32
    return jax


def jax_environment(jax: Any) -> dict[str, str]:
    """Versions and the settings that results depend on."""
    return {
        "jax": jax.__version__,
        "jaxlib": jax.lib.__version__,
        "device": str(jax.devices()[0]),
        "threads": os.environ["NPROC"],
        "x64": str(jax.config.jax_enable_x64),
        "matmul precision": str(jax.config.jax_default_matmul_precision or "default"),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "default"),
    }


def forgetful(jax: Any) -> Callable[[], None]:
    """What to call before every case, so that memory does not grow with their number.

    JAX keeps every operator that it has compiled, 6 MB for a case of a few, and another case has other shapes.
    """
    runs = itertools.count(1)

    def forget() -> None:
        if next(runs) % RUNS_REMEMBERED == 0:
            jax.clear_caches()

    return forget


class Jax(ChainTarget):
    """``lax.conv_general_dilated``, ``lax.conv_transpose``, ``jax.vjp`` of the convolution, and chains.

    ``mode`` is ``eager`` or ``jit``.
    """

    runtime: ClassVar[str] = "jax"
    arithmetic = "native+bias"

    def __init__(self, threads: int = 1, mode: str = "eager") -> None:
        super().__init__(threads)
        self._jax = load_jax(threads)
        self._forget = forgetful(self._jax)
        self._mode = mode
        self._latest: tuple[Case, Function] | None = None
        self.name = f"{self.runtime}{'-jit' if mode == 'jit' else ''}@cpu"

    def environment(self) -> dict[str, str]:
        return {**jax_environment(self._jax), "mode": self._mode}

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        self._forget()
        with refusals("jax"), self._jax.default_device(self._jax.devices("cpu")[0]):
            return super().run(case, tensors)

    def compiled(self, case: Case, function: Function) -> Function:
        """The function, jitted if so asked for; a case that comes again, with other data, finds it compiled."""
        if self._mode == "eager":
            return function
        if self._latest is None or self._latest[0] != case:
            self._latest = case, self._jax.jit(function)
        return self._latest[1]

    def steps(self, case: Case) -> JaxSteps:  # noqa: ARG002
        return JaxSteps(self._jax, self._transposed())

    def conv(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        return self._computed(case, convolve, tensors)

    def conv_transpose(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        return self._computed(case, self._transposed(), tensors)

    def conv_input_gradient(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        return self._computed(case, gradient, tensors)

    def deconvnet_gradient(self, case: Deconvnet, tensors: Tensors) -> np.ndarray:
        """The projection to pixels as the gradient of the network, whose ReLU has the rectifier for its gradient."""
        decline_beyond_gradient(case)
        steps = self.steps(case)
        read = {name: steps.read(name, array) for name, array in tensors.items()}
        return in_numpy(self.compiled(case, lambda values: projection(self._jax, steps, case, values))(read))

    def _transposed(self) -> Transposed:
        return convolve_transposed

    def _computed(self, case: Convolution, operator: Transposed, tensors: Tensors) -> np.ndarray:
        """What an operator makes of input and weight, and the bias added to it."""
        steps = self.steps(case)
        read = {name: steps.read(name, array) for name, array in tensors.items()}

        def operate(values: dict[str, Any]) -> Any:
            y = operator(self._jax, case, values["input"], values["weight"])
            return y + values["bias"] if case.bias else y

        return in_numpy(self.compiled(case, operate)(read))


class JaxDilated(Jax):
    """The transposed convolution as ``lax.conv_general_dilated`` with ``lhs_dilation`` and a flipped kernel."""

    runtime = "jax-dilated"

    def conv_input_gradient(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        return self._computed(case, convolve_dilated, tensors)

    def _transposed(self) -> Transposed:
        return convolve_dilated
