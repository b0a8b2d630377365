"""Keras 3, on whichever backend: its layers and its operators.

A process has one Keras backend, chosen by ``KERAS_BACKEND`` before Keras is imported.  Sources: keras.layers.Conv2D and
Conv2DTranspose, keras.ops.conv and conv_transpose (padding is ``same`` or ``valid``, output_padding is less than the
stride, layers take no stride together with a dilation, transposed convolutions take no groups).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, cast

import numpy as np

from conformance.arithmetic.spellings import Mode, keras_transposed
from conformance.spec import Case, Chain, Convolution
from conformance.targets.base import Tensors, Unsupported
from conformance.targets.chain import ChainTarget
from conformance.targets.channels_last import channels_last, channels_second, spatial_first, word_for
from conformance.targets.jax_target import forgetful, jax_environment, load_jax
from conformance.targets.keras_chain import KerasLayerSteps, KerasSteps, convolution_layer
from conformance.targets.reasons import decline_onnx_spelling, refusals
from conformance.targets.tensorflow_target import kernels, load_tensorflow, tensorflow_environment

OutputPadding = tuple[int, ...] | None


class _KerasTarget(ChainTarget):
    """What layers and operators have in common: the backend, and the words that give a case's geometry."""

    runtime: ClassVar[str]
    arithmetic = "native+bias"

    def __init__(self, threads: int = 1, backend: str = "tensorflow") -> None:
        super().__init__(threads)
        self.backend = backend
        self.name = f"{self.runtime}-{backend}@cpu"
        self._framework = _LOADERS[backend](threads)
        self._forget = forgetful(self._framework) if backend == "jax" else lambda: None
        self.keras = _load_keras(backend)

    def environment(self) -> dict[str, str]:
        facts = {"keras": self.keras.__version__, "backend": self.backend, "data_format": "channels_last"}
        return facts | _ENVIRONMENTS[self.backend](self._framework)

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        self._forget()
        who = f"keras on {self.backend}"
        with refusals(who), kernels(who, case.dtype), self.keras.device("cpu:0"):
            return super().run(case, tensors)

    def _result(self, y: Any) -> np.ndarray:
        return channels_second(cast(np.ndarray, self.keras.ops.convert_to_numpy(y)))


class KerasLayers(_KerasTarget):
    """``keras.layers.Conv*D`` and ``Conv*DTranspose``, called eagerly."""

    runtime = "keras"

    def conv(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        return self._result(self.layer(case, channels_last(tensors["input"]), tensors))

    conv_transpose = conv

    def steps(self, case: Chain) -> KerasSteps:  # noqa: ARG002
        return KerasLayerSteps(self.keras)

    def layer(self, case: Convolution, x: Any, tensors: Tensors) -> Any:
        """What the layer with the case's weights makes of ``x``, be it an array or an input of a model."""
        weights = [spatial_first(tensors["weight"])] + ([tensors["bias"]] if case.bias else [])
        return convolution_layer(self.keras, case, x, weights, _layer_arguments(case))


class KerasOps(_KerasTarget):
    """``keras.ops.conv`` and ``keras.ops.conv_transpose``."""

    runtime = "keras-ops"

    def conv(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        return self._call(case, self.keras.ops.conv, {"padding": _conv_padding(case)}, tensors)

    def conv_transpose(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        padding, output_padding = _transposed_padding(case)
        arguments = {"padding": padding, "output_padding": output_padding}
        return self._call(case, self.keras.ops.conv_transpose, arguments, tensors)

    def steps(self, case: Chain) -> KerasSteps:  # noqa: ARG002
        return KerasSteps(self.keras)

    def _call(self, case: Convolution, operator: Any, arguments: dict[str, Any], tensors: Tensors) -> np.ndarray:
        ops = self.keras.ops
        y = operator(
            ops.convert_to_tensor(channels_last(tensors["input"])),
            ops.convert_to_tensor(spatial_first(tensors["weight"])),
            strides=case.stride,
            dilation_rate=case.dilation,
            data_format="channels_last",
            **arguments,
        )
        return self._result(ops.add(y, ops.convert_to_tensor(tensors["bias"])) if case.bias else y)


def _load_torch(threads: int) -> Any:
    import torch

    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):  # a process can set this once, and not after the first parallel work
        torch.set_num_interop_threads(threads)
    return torch


def _torch_environment(torch: Any) -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "oneDNN": str(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
    }


_LOADERS: dict[str, Callable[[int], Any]] = {
    "tensorflow": load_tensorflow,
    "torch": _load_torch,
    "jax": load_jax,
}
_ENVIRONMENTS: dict[str, Callable[[Any], dict[str, str]]] = {
    "tensorflow": tensorflow_environment,
    "torch": _torch_environment,
    "jax": jax_environment,
}


def _load_keras(backend: str) -> Any:
    os.environ["KERAS_BACKEND"] = backend
    import keras

    if (actual := keras.backend.backend()) != backend:
        raise RuntimeError(f"this process already runs Keras on {actual}; {backend} needs a process of its own")
    return keras


def _layer_arguments(case: Convolution) -> dict[str, Any]:
    if not case.transposed:
        return {"padding": _conv_padding(case), "groups": case.groups}
    padding, output_padding = _transposed_padding(case)
    return {"padding": padding, "output_padding": output_padding}


def _conv_padding(case: Convolution) -> Mode:
    decline_onnx_spelling(case, "keras")
    if (word := word_for(case.axes, case.padding)) is None:
        raise Unsupported(f"keras pads by same or valid only, which do not give the padding {case.crop}")
    return word


def _transposed_padding(case: Convolution) -> tuple[Mode, OutputPadding]:
    """``padding`` and ``output_padding`` that give the case's crop: its own if it has them, else the first that do."""
    decline_onnx_spelling(case, "keras")
    if case.groups > 1:
        raise Unsupported(f"keras has no groups in a transposed convolution, the case has {case.groups}")
    for padding, output_padding in _candidates(case):
        if _allowed(case, output_padding) and _gives(case, padding, output_padding):
            return padding, output_padding
    words = f"padding='{case.padding}'" if isinstance(case.padding, str) else "same or valid"
    raise Unsupported(f"keras cannot crop {case.crop} by {words} and an output_padding less than the stride")


def _candidates(case: Convolution) -> Iterator[tuple[Mode, OutputPadding]]:
    modes: tuple[Mode, ...] = ("same", "valid")
    if isinstance(case.padding, str):
        yield case.padding, case.output_padding
        modes = (case.padding,)
    for mode in modes:
        yield mode, None
        yield mode, tuple(_output_padding(case, mode, n) for n in range(case.rank))


def _output_padding(case: Convolution, mode: Mode, n: int) -> int:
    """The output_padding that gives axis ``n`` its size, whether or not Keras takes it and the crop comes out right."""
    axis = case.axes[n]
    begin, end = keras_transposed(axis.small, axis.extent, axis.stride, mode, 0)
    return axis.large - (axis.full - begin - end)


def _allowed(case: Convolution, output_padding: OutputPadding) -> bool:
    return output_padding is None or all(0 <= o < s for o, s in zip(output_padding, case.stride, strict=True))


def _gives(case: Convolution, mode: Mode, output_padding: OutputPadding) -> bool:
    added = output_padding or (None,) * case.rank
    return case.crop == tuple(
        keras_transposed(a.small, a.extent, a.stride, mode, o) for a, o in zip(case.axes, added, strict=True)
    )
