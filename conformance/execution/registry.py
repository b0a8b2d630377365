"""The targets and exporters that there are.  Nothing here imports a framework."""

from __future__ import annotations

from conformance.execution.devices import PROVIDERS, short_name
from conformance.execution.specs import ExporterSpec, TargetSpec

_TORCH = "conformance.targets.torch_targets"
_ONNXRUNTIME = "conformance.targets.onnxruntime_target:OnnxRuntime"
_OPENVINO = "conformance.targets.openvino_target:OpenVino"
_TENSORFLOW = "conformance.targets.tensorflow_target"
_JAX = "conformance.targets.jax_target"
_KERAS = "conformance.targets.keras_targets"
_ON_TENSORFLOW = (("backend", "tensorflow"),)
_ON_TORCH = (("backend", "torch"),)
_ON_JAX = (("backend", "jax"),)
_ON_CUDA = (("device", "cuda"),)
_IEEE = (("device", "cuda"), ("tf32", "off"))
_TRANSPOSED = ("conv_transpose", "conv_input_gradient")


def on_provider(provider: str, *, tf32: bool = True) -> TargetSpec:
    """onnxruntime on one execution provider, as it comes; ``tf32`` False: told not to round operands to TF32."""
    runtime = "onnxruntime" if tf32 else "onnxruntime-ieee"
    options = (("provider", provider),) if tf32 else (("provider", provider), ("tf32", "off"))
    name = f"{runtime}@{short_name(provider)}"
    return TargetSpec(name, name, _ONNXRUNTIME, ("onnxruntime", "onnx"), options, device=provider)


BUILT_IN = (
    TargetSpec("torch@cpu", "torch", f"{_TORCH}:Torch", ("torch",)),
    TargetSpec("torch-autograd@cpu", "torch", f"{_TORCH}:TorchAutograd", ("torch",), ops=(*_TRANSPOSED, "deconvnet")),
    TargetSpec("torch-nn-grad@cpu", "torch", f"{_TORCH}:TorchNNGrad", ("torch",), ops=_TRANSPOSED),
    TargetSpec("torch-direct@cpu", "torch", f"{_TORCH}:TorchDirect", ("torch",), ops=_TRANSPOSED),
    TargetSpec("torch@cuda", "torch@cuda", f"{_TORCH}:Torch", ("torch",), _ON_CUDA, device="cuda"),
    TargetSpec("torch-ieee@cuda", "torch-ieee@cuda", f"{_TORCH}:Torch", ("torch",), _IEEE, device="cuda"),
    TargetSpec(
        "captum@cpu",
        "torch",
        "conformance.targets.captum_target:Captum",
        ("captum", "torch"),
        ops=("deconvnet",),
    ),
    TargetSpec("tensorflow@cpu", "tensorflow", f"{_TENSORFLOW}:TensorFlow", ("tensorflow",)),
    TargetSpec(
        "tensorflow@cuda", "tensorflow@cuda", f"{_TENSORFLOW}:TensorFlow", ("tensorflow",), _ON_CUDA, device="cuda"
    ),
    TargetSpec(
        "tensorflow-ieee@cuda",
        "tensorflow-ieee@cuda",
        f"{_TENSORFLOW}:TensorFlow",
        ("tensorflow",),
        _IEEE,
        device="cuda",
    ),
    TargetSpec(
        "keras-tensorflow@cpu", "keras-tensorflow", f"{_KERAS}:KerasLayers", ("keras", "tensorflow"), _ON_TENSORFLOW
    ),
    TargetSpec(
        "keras-ops-tensorflow@cpu", "keras-tensorflow", f"{_KERAS}:KerasOps", ("keras", "tensorflow"), _ON_TENSORFLOW
    ),
    TargetSpec("keras-torch@cpu", "keras-torch", f"{_KERAS}:KerasLayers", ("keras", "torch"), _ON_TORCH),
    TargetSpec("keras-ops-torch@cpu", "keras-torch", f"{_KERAS}:KerasOps", ("keras", "torch"), _ON_TORCH),
    TargetSpec("keras-jax@cpu", "keras-jax", f"{_KERAS}:KerasLayers", ("keras", "jax"), _ON_JAX, on_request=True),
    TargetSpec("keras-ops-jax@cpu", "keras-jax", f"{_KERAS}:KerasOps", ("keras", "jax"), _ON_JAX, on_request=True),
    TargetSpec(
        "tensorflow-xla@cpu",
        "tensorflow-xla",
        "conformance.targets.tensorflow_xla:TensorFlowXla",
        ("tensorflow",),
        on_request=True,
    ),
    TargetSpec(
        "torch-compile@cpu",
        "torch-compile",
        "conformance.targets.torch_compile:TorchCompile",
        ("torch",),
        on_request=True,
    ),
    TargetSpec("jax@cpu", "jax", f"{_JAX}:Jax", ("jax", "jaxlib"), on_request=True),
    TargetSpec("jax-jit@cpu", "jax", f"{_JAX}:Jax", ("jax", "jaxlib"), (("mode", "jit"),), on_request=True),
    TargetSpec(
        "jax-dilated@cpu",
        "jax",
        f"{_JAX}:JaxDilated",
        ("jax", "jaxlib"),
        ops=(*_TRANSPOSED, "conv_block", "deconv_block", "deconvnet"),
        on_request=True,
    ),
    TargetSpec(
        "onnxruntime@cpu",
        "onnxruntime",
        _ONNXRUNTIME,
        ("onnxruntime", "onnx"),
    ),
    *(
        TargetSpec(
            f"onnxruntime-{level}@cpu",
            "onnxruntime",
            _ONNXRUNTIME,
            ("onnxruntime", "onnx"),
            (("optimization", level),),
            on_request=True,
        )
        for level in ("off", "basic", "extended")
    ),
    *(on_provider(provider) for provider in PROVIDERS),
    on_provider("CUDAExecutionProvider", tf32=False),
    TargetSpec("onnx-reference@cpu", "onnx-reference", "conformance.targets.onnx_reference:OnnxReference", ("onnx",)),
    TargetSpec("openvino@cpu", "openvino", _OPENVINO, ("openvino", "onnx"), on_request=True),
    TargetSpec(
        "openvino-default@cpu",
        "openvino",
        _OPENVINO,
        ("openvino", "onnx"),
        (("precision", "default"),),
        on_request=True,
    ),
    TargetSpec(
        "onnx2torch@cpu",
        "onnx2torch",
        "conformance.targets.onnx2torch_target:Onnx2Torch",
        ("onnx2torch", "onnx", "torch", "torchvision"),
        on_request=True,
    ),
    TargetSpec(
        "litert@cpu",
        "litert",
        "conformance.targets.litert_target:LiteRt",
        ("ai-edge-litert", "tensorflow"),
        on_request=True,
    ),
)

_TORCH_EXPORT = ("torch", "onnx", "onnxscript", "onnx_ir")
_SYMBOLIC = (("sizes", "symbolic"),)
_KERAS_EXPORT = "exporters.keras_export:KerasExport"

EXPORTERS = (
    ExporterSpec("onnx-graph", "onnx-exporters", "exporters.onnx_graph:OnnxGraph", ("onnx",)),
    *(
        ExporterSpec(f"{name}{suffix}", "torch-exporters", source, _TORCH_EXPORT, options)
        for suffix, options in (("", ()), ("-symbolic", _SYMBOLIC))
        for name, source in (
            ("torch-dynamo", "exporters.torch_dynamo:TorchDynamo"),
            ("torch-script", "exporters.torch_script:TorchScript"),
        )
    ),
    *(
        ExporterSpec(f"{name}{suffix}", name, source, needed, options, arithmetic="native+bias")
        for suffix, options in (("", ()), ("-symbolic", _SYMBOLIC))
        for name, source, needed in (
            ("tf2onnx", "exporters.tf2onnx_export:Tf2Onnx", ("tensorflow", "tf2onnx", "onnx")),
            ("keras-export", _KERAS_EXPORT, ("keras", "tensorflow", "tf2onnx", "onnx")),
        )
    ),
    ExporterSpec(
        "keras-export-torch",
        "keras-export-torch",
        _KERAS_EXPORT,
        ("keras", *_TORCH_EXPORT),
        _ON_TORCH,
        arithmetic="native+bias",
    ),
)
