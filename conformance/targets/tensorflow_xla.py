"""TensorFlow compiled by XLA: the same operators, the whole case one ``tf.function(jit_compile=True)``.

Shapes are static, so every case is compiled anew, which costs about a tenth of a second.  What has no XLA kernel
(``tf.nn.max_pool_with_argmax``) cannot be compiled, and neither can what would leave XLA on the way.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

from conformance.spec import Case
from conformance.targets.base import Function, Tensors, Unsupported
from conformance.targets.tensorflow_target import TensorFlow

_NO_KERNEL = re.compile(
    r"No registered '(?P<op>\w+)' OpKernel for XLA"
    r"|Detected unsupported operations.*?\{\{node (?P<node>[^}]*)\}\}",
    re.DOTALL,
)


@contextlib.contextmanager
def compilable() -> Iterator[None]:
    """Turn TensorFlow's word for an operator that XLA does not have into Unsupported."""
    try:
        yield
    except Exception as error:
        if found := _NO_KERNEL.search(str(error)):
            raise Unsupported(f"XLA has no kernel of {found['op'] or found['node']}") from error
        raise


class TensorFlowXla(TensorFlow):
    """The operators of `TensorFlow` inside ``tf.function(jit_compile=True)``."""

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        self.name = "tensorflow-xla@cpu"
        self._latest: tuple[Case, Function] | None = None

    def environment(self) -> dict[str, str]:
        facts = {"jit_compile": "True", "XLA_FLAGS": os.environ.get("XLA_FLAGS", "default")}
        return super().environment() | facts

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        with compilable():
            return super().run(case, tensors)

    def compiled(self, case: Case, function: Function) -> Function:
        """The function, to be compiled when it is called; a case that comes again, with other data, finds it so."""
        if self._latest is None or self._latest[0] != case:
            self._latest = case, self._tf.function(function, jit_compile=True, autograph=False)
        return self._latest[1]
