"""Keras 3, on whichever backend: its layers and its operators.

A process has one Keras backend, chosen by ``KERAS_BACKEND`` before Keras is imported.  Sources: keras.layers.Conv2D and
Conv2DTranspose, keras.ops.conv and conv_transpose (padding is ``same`` or ``valid``, output_padding is less than the
stride, layers take no stride together with a dilation, transposed convolutions take no groups).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import numpy as np

from conformance.arithmetic.spellings import Mode, keras_transposed
from conformance.spec import Case, Convolution
from conformance.targets.base import OpTarget, Tensors, Unsupported
from conformance.targets.reasons import decline_onnx_spelling, refusals
from conformance.targets.tensorflow_target import (
    channels_last,
    channels_second,
    load_tensorflow,
    spatial_first,
    tensorflow_environment,
    word_gives,
)

OutputPadding = tuple[int, ...] | None


class _KerasTarget(OpTarget):
    """What layers and operators have in common: the backend, and the words that give a case's geometry."""

    runtime: ClassVar[str]
    arithmetic = "native+bias"

    def __init__(self, threads: int = 1, backend: str = "tensorflow") -> None:
        super().__init__(threads)
        self.backend = backend
        self.name = f"{self.runtime}-{backend}@cpu"
        self._tf = load_tensorflow(threads) if backend == "tensorflow" else None
        self._keras = _load_keras(backend)

    def environment(self) -> dict[str, str]:
        facts = {"keras": self._keras.__version__, "backend": self.backend, "data_format": "channels_last"}
        return facts | ({} if self._tf is None else tensorflow_environment(self._tf))

    def run(self, case: Case, tensors: Tensors) -> Tensors:
        with refusals(f"keras on {self.backend}"), self._keras.device("cpu:0"):
            return super().run(case, tensors)

    def _result(self, y: Any) -> np.ndarray:
        return channels_second(cast(np.ndarray, self._keras.ops.convert_to_numpy(y)))


class KerasLayers(_KerasTarget):
    """``keras.layers.Conv*D`` and ``Conv*DTranspose``, called eagerly."""

    runtime = "keras"

    def conv(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        arguments = {"padding": _conv_padding(case), "groups": case.groups}
        return self._call(case, f"Conv{case.rank}D", arguments, tensors)

    def conv_transpose(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        padding, output_padding = _transposed_padding(case)
        arguments = {"padding": padding, "output_padding": output_padding}
        return self._call(case, f"Conv{case.rank}DTranspose", arguments, tensors)

    def _call(self, case: Convolution, kind: str, arguments: dict[str, Any], tensors: Tensors) -> np.ndarray:
        if max(case.stride) > 1 and max(case.dilation) > 1:
            raise Unsupported(f"keras.layers.{kind} takes no stride > 1 together with a dilation > 1")
        layer = getattr(self._keras.layers, kind)(
            case.out_channels,
            case.kernel,
            strides=case.stride,
            dilation_rate=case.dilation,
            data_format="channels_last",
            use_bias=case.bias,
            kernel_initializer="zeros",
            dtype=case.dtype,
            **arguments,
        )
        x = channels_last(tensors["input"])
        layer.build(x.shape)
        layer.set_weights([spatial_first(tensors["weight"])] + ([tensors["bias"]] if case.bias else []))
        return self._result(layer(x))


class KerasOps(_KerasTarget):
    """``keras.ops.conv`` and ``keras.ops.conv_transpose``."""

    runtime = "keras-ops"

    def conv(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        return self._call(case, self._keras.ops.conv, {"padding": _conv_padding(case)}, tensors)

    def conv_transpose(self, case: Convolution, tensors: Tensors) -> np.ndarray:
        padding, output_padding = _transposed_padding(case)
        arguments = {"padding": padding, "output_padding": output_padding}
        return self._call(case, self._keras.ops.conv_transpose, arguments, tensors)

    def _call(self, case: Convolution, operator: Any, arguments: dict[str, Any], tensors: Tensors) -> np.ndarray:
        ops = self._keras.ops
        y = operator(
            ops.convert_to_tensor(channels_last(tensors["input"])),
            ops.convert_to_tensor(spatial_first(tensors["weight"])),
            strides=case.stride,
            dilation_rate=case.dilation,
            data_format="channels_last",
            **arguments,
        )
        return self._result(ops.add(y, ops.convert_to_tensor(tensors["bias"])) if case.bias else y)


def _load_keras(backend: str) -> Any:
    os.environ["KERAS_BACKEND"] = backend
    import keras

    if (actual := keras.backend.backend()) != backend:
        raise RuntimeError(f"this process already runs Keras on {actual}; {backend} needs a process of its own")
    return keras


def _conv_padding(case: Convolution) -> Mode:
    decline_onnx_spelling(case, "keras")
    modes: tuple[Mode, ...] = (case.padding,) if isinstance(case.padding, str) else ("valid", "same")
    for mode in modes:
        if all(word_gives(mode, axis) for axis in case.axes):
            return mode
    raise Unsupported(f"keras pads by same or valid only, which do not give the padding {case.crop}")


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
