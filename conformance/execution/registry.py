"""The names of targets, what each needs, and how a worker makes it.  Nothing here imports a framework."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from conformance.errors import UnknownTarget

ENTRY_POINTS = "conformance.targets"
RESERVED = "oracle"
"""The name under which the oracle itself is judged on published results."""


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """How to make a target in a worker.

    ``source`` is ``module:attribute``, or the path of a Python file that defines ``target``.  Targets with the same
    ``framework`` share a worker process.  ``requires`` are the packages that it imports.  A target that names its
    ``ops`` is spared all others; without them it is asked, and says what it does not support.  One that is there
    ``on_request`` runs only when it is named.  With an ``exporter`` the runtime is fed the files that this makes.
    """

    name: str
    framework: str
    source: str
    requires: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = field(default=())
    ops: tuple[str, ...] = ()
    on_request: bool = False
    exporter: ExporterSpec | None = None

    @property
    def lazy(self) -> bool:
        """Whether its worker starts only when there is work for it."""
        return False

    @property
    def missing(self) -> tuple[str, ...]:
        """Required packages that are not installed."""
        return tuple(name for name in self.requires if _version(name) is None)

    @property
    def versions(self) -> dict[str, str]:
        return {name: version for name in self.requires if (version := _version(name)) is not None}

    @property
    def install(self) -> str:
        """The command that installs what is missing."""
        return f"pip install {' '.join(self.requires)}"


@dataclass(frozen=True, slots=True)
class ExporterSpec(TargetSpec):
    """How to make an exporter in a worker.  ``arithmetic`` is what its graphs promise on an honest runtime."""

    arithmetic: str = "native"

    @property
    def lazy(self) -> bool:
        return True


_TORCH = "conformance.targets.torch_targets"
_TENSORFLOW = "conformance.targets.tensorflow_target"
_KERAS = "conformance.targets.keras_targets"
_ON_TENSORFLOW = (("backend", "tensorflow"),)
_ON_TORCH = (("backend", "torch"),)
_ON_JAX = (("backend", "jax"),)
_TRANSPOSED = ("conv_transpose", "conv_input_gradient")

BUILT_IN = (
    TargetSpec("torch@cpu", "torch", f"{_TORCH}:Torch", ("torch",)),
    TargetSpec("torch-autograd@cpu", "torch", f"{_TORCH}:TorchAutograd", ("torch",), ops=(*_TRANSPOSED, "deconvnet")),
    TargetSpec("torch-nn-grad@cpu", "torch", f"{_TORCH}:TorchNNGrad", ("torch",), ops=_TRANSPOSED),
    TargetSpec("torch-direct@cpu", "torch", f"{_TORCH}:TorchDirect", ("torch",), ops=_TRANSPOSED),
    TargetSpec(
        "captum@cpu",
        "torch",
        "conformance.targets.captum_target:Captum",
        ("captum", "torch"),
        ops=("deconvnet",),
    ),
    TargetSpec("tensorflow@cpu", "tensorflow", f"{_TENSORFLOW}:TensorFlow", ("tensorflow",)),
    TargetSpec(
        "keras-tensorflow@cpu", "keras-tensorflow", f"{_KERAS}:KerasLayers", ("keras", "tensorflow"), _ON_TENSORFLOW
    ),
    TargetSpec(
        "keras-ops-tensorflow@cpu", "keras-tensorflow", f"{_KERAS}:KerasOps", ("keras", "tensorflow"), _ON_TENSORFLOW
    ),
    TargetSpec("keras-torch@cpu", "keras-torch", f"{_KERAS}:KerasLayers", ("keras", "torch"), _ON_TORCH),
    TargetSpec("keras-ops-torch@cpu", "keras-torch", f"{_KERAS}:KerasOps", ("keras", "torch"), _ON_TORCH),
    TargetSpec("keras-jax@cpu", "keras-jax", f"{_KERAS}:KerasLayers", ("keras", "jax"), _ON_JAX),
    TargetSpec("keras-ops-jax@cpu", "keras-jax", f"{_KERAS}:KerasOps", ("keras", "jax"), _ON_JAX),
    TargetSpec(
        "onnxruntime@cpu",
        "onnxruntime",
        "conformance.targets.onnxruntime_target:OnnxRuntime",
        ("onnxruntime", "onnx"),
    ),
    *(
        TargetSpec(
            f"onnxruntime-{level}@cpu",
            "onnxruntime",
            "conformance.targets.onnxruntime_target:OnnxRuntime",
            ("onnxruntime", "onnx"),
            (("optimization", level),),
            on_request=True,
        )
        for level in ("off", "basic", "extended")
    ),
    TargetSpec("onnx-reference@cpu", "onnx-reference", "conformance.targets.onnx_reference:OnnxReference", ("onnx",)),
)

EXPORTERS = (ExporterSpec("onnx-graph", "onnx-exporters", "exporters.onnx_graph:OnnxGraph", ("onnx",)),)

_EXPORTERS = {spec.name: spec for spec in EXPORTERS}
_EXAMPLE = "torch-dynamo:onnxruntime"
Spec = TypeVar("Spec", bound=TargetSpec)


def known_targets() -> dict[str, TargetSpec]:
    """Built-in targets and those of installed packages (entry-point group ``conformance.targets``), by name."""
    targets = {spec.name: spec for spec in BUILT_IN}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        targets[entry.name] = TargetSpec(entry.name, entry.name, entry.value, (entry.module.partition(".")[0],))
    return targets


def find_targets(names: Iterable[str]) -> list[TargetSpec]:
    """Targets by name (``torch`` stands for ``torch@cpu``) or path of a Python file.

    Without names: every target whose framework is installed.  Raises UnknownTarget.
    """
    known = known_targets()
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return [spec for spec in known.values() if not spec.missing and not spec.on_request]
    found: dict[str, TargetSpec] = {}
    for spec in (_find(name, known) for name in wanted):
        if found.setdefault(spec.name, spec) != spec or spec.name == RESERVED:
            raise UnknownTarget(f"{spec.source}: there is a target named {spec.name} already; rename the file")
    return list(found.values())


def _find(name: str, known: dict[str, TargetSpec]) -> TargetSpec:
    exporter, colon, runtime = name.partition(":")
    if colon and (spec := _EXPORTERS.get(exporter)) is not None:
        return _composite(_present(spec, exporter), _find(runtime, known))
    if (found := known.get(name) or known.get(f"{name}@cpu")) is not None:
        return _present(found, name)
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise UnknownTarget(f"{name}: no such file")
        return TargetSpec(path.stem, f"file:{path.resolve()}", str(path.resolve()))
    expected = f"one of {', '.join(known)}, an exporter and one of them ({', '.join(_EXPORTERS)}, as in {_EXAMPLE})"
    raise UnknownTarget(f"{name}: expected {expected}, or the path of a Python file with a target")


def _present(spec: Spec, name: str) -> Spec:
    """The same, or UnknownTarget with the command that installs what it needs."""
    if spec.missing:
        raise UnknownTarget(f"{name}: {', '.join(spec.missing)} is not installed; {spec.install}")
    return spec


def _composite(exporter: ExporterSpec, runtime: TargetSpec) -> TargetSpec:
    """A runtime that is fed what an exporter makes."""
    if runtime.exporter is not None:
        raise UnknownTarget(f"{exporter.name}:{runtime.name}: expected one exporter and a runtime")
    return replace(
        runtime,
        name=f"{exporter.name}:{runtime.name}",
        requires=tuple(dict.fromkeys((*exporter.requires, *runtime.requires))),
        exporter=exporter,
    )


@functools.cache
def _version(package: str) -> str | None:
    """The version of an installed package, found without importing it; None if it is not there.

    The same package comes in distributions of several names (``onnxruntime-gpu``, ``tensorflow-cpu``).
    """
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        return None
    for distribution in (package, f"{package}-gpu", f"{package}-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    names = importlib.metadata.packages_distributions().get(package, ())
    return importlib.metadata.version(names[0]) if names else "unknown"
