"""PyTorch compiled by its default compiler, Inductor: the same operators, the whole case one ``torch.compile``.

Inductor writes C++ for what it fuses and calls PyTorch's own kernels for convolutions.  It needs a C++ compiler, about
a second for every case, and some more when the target is made, for the headers that it compiles beforehand.  Every
case is compiled from nothing (``fresh_cache``), with static shapes, in this process and no other.
"""

from __future__ import annotations

import contextlib
import functools
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from conformance.spec import Case, Convolution
from conformance.targets.base import Function, Tensors, Unsupported
from conformance.targets.progress_bars import keep_locks_in_process
from conformance.targets.torch_convolution import convolve
from conformance.targets.torch_targets import Torch

_NO_COMPILER = "No working C++ compiler found"


class TorchCompile(Torch):
    """The operators of `Torch` inside ``torch.compile(fullgraph=True)``."""

    runtime = "torch-compile"

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        import torch._inductor.config as settings
        from torch._inductor import utils

        keep_locks_in_process()
        settings.compile_threads = 1  # else it keeps processes of its own to compile in
        self._fresh_cache = getattr(utils, "fresh_cache", None) or utils.fresh_inductor_cache
        self._latest: tuple[Case, Function] | None = None
        self._lacking = self._tried()

    def environment(self) -> dict[str, str]:
        return super().environment() | {"compiler": "inductor", "C++": self._lacking or self._cxx()}

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        if self._lacking:
            raise Unsupported(self._lacking)
        if self._latest is not None and self._latest[0] == case:
            return super().run(case, tensors)
        self._torch._dynamo.reset()  # else the limit of compiled variants of one function is soon reached
        try:
            with _in_one_graph(), self._fresh():
                return super().run(case, tensors)
        except Exception:
            self._latest = None
            raise

    def compiled(self, case: Case, function: Function) -> Function:
        """The function, to be compiled when it is called; a case that comes again, with other data, finds it so."""
        if self._latest is None or self._latest[0] != case:
            made = self._torch.compile(function, fullgraph=True, dynamic=False)
            self._latest = case, functools.partial(_unless_declined, function, made)
        return self._latest[1]

    def conv_input_gradient(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        """The gradient of the compiled convolution."""
        gradient, weight, _ = self._tensors(tensors)
        x = self._torch.zeros(case.large_shape, dtype=weight.dtype, requires_grad=True)
        y = self.compiled(case, functools.partial(convolve, self._torch, case))(x, weight)
        return self._array(self._torch.autograd.grad(y, x, gradient)[0])

    def _cxx(self) -> str:
        from torch._inductor.cpp_builder import get_cpp_compiler

        command = [get_cpp_compiler(), "--version"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition("\n")[0]

    @contextlib.contextmanager
    def _fresh(self) -> Iterator[None]:
        """A folder for what the compiler writes, which goes whatever happens; what is loaded stays loaded."""
        with tempfile.TemporaryDirectory(prefix="torch-compile-") as folder, self._fresh_cache(dir=folder):
            yield

    def _tried(self) -> str:
        """Why nothing can be compiled here; empty if it can."""
        try:
            with self._fresh():
                self._torch.compile(lambda x: x.relu() + 1, fullgraph=True, dynamic=False)(self._torch.zeros(2))
        except Exception as error:
            if _NO_COMPILER not in str(error):
                raise
            return "torch.compile found no C++ compiler; name one in the environment variable CXX"
        return ""


@contextlib.contextmanager
def _in_one_graph() -> Iterator[None]:
    """Turn Dynamo's word for what it cannot take into the one graph that it is asked for into Unsupported."""
    try:
        yield
    except Exception as error:
        if f"{type(error).__module__}.{type(error).__name__}" != "torch._dynamo.exc.Unsupported":
            raise
        raise Unsupported(f"torch.compile, in one graph: {str(error).partition(chr(10))[0]}") from error


def _unless_declined(function: Function, made: Function, *fed: Any) -> Any:
    """What was made of a function, called on what it is fed, unless the function itself raises Unsupported.

    That shows on tensors without data.  While it is being compiled, an exception of ours becomes one of the compiler.
    """
    try:
        function(*map(_without_data, fed))
    except Unsupported:
        raise
    except Exception:  # what else is wrong is for the compiler to say
        pass
    return made(*fed)


def _without_data(fed: Any) -> Any:
    if isinstance(fed, dict):
        return {name: value.to("meta") for name, value in fed.items()}
    return None if fed is None else fed.to("meta")
