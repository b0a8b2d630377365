"""What this machine has to run on, found without importing a framework here."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import sys

PROVIDERS = {
    "CUDAExecutionProvider": "onnxruntime-gpu",
    "TensorrtExecutionProvider": "onnxruntime-gpu",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
    "DmlExecutionProvider": "onnxruntime-directml",
    "CoreMLExecutionProvider": "onnxruntime",
    "ROCMExecutionProvider": "onnxruntime-rocm",
    "MIGraphXExecutionProvider": "onnxruntime-migraphx",
    "WebGpuExecutionProvider": "onnxruntime-webgpu",
    "DnnlExecutionProvider": "onnxruntime-dnnl",
    "XnnpackExecutionProvider": "onnxruntime",
    "QNNExecutionProvider": "onnxruntime-qnn",
}
"""Execution providers of ONNX Runtime, and the package that brings each."""

ON_CUDA = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
"""Providers that need a device of NVIDIA's."""

NO_DEVICE = ("CPUExecutionProvider", "AzureExecutionProvider")
"""The processor, and a provider that sends models elsewhere."""

_ASK = "import onnxruntime; print(*onnxruntime.get_available_providers(), sep='\\n')"
_SECONDS = 60.0


@functools.cache
def available_providers() -> tuple[str, ...]:
    """The execution providers that the installed onnxruntime offers; none if it cannot be imported.

    Offering one does not mean that there is a device for it: that shows when a session is made.
    """
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK], capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    said = [line.strip() for line in asked.stdout.splitlines()]
    return tuple(line for line in said if line.endswith("ExecutionProvider"))


def short_name(provider: str) -> str:
    """``CUDAExecutionProvider`` as it stands behind the @: ``cuda``."""
    return provider.removesuffix("ExecutionProvider").lower()


@functools.cache
def has_cuda() -> bool:
    """Whether NVIDIA's driver is here and sees a device."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):
        return False
