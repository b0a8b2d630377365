"""What a target or an exporter needs, and how a worker makes it."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

from conformance.execution import devices


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """How to make a target in a worker.

    ``source`` is ``module:attribute``, or the path of a Python file that defines ``target``.  Targets with the same
    ``framework`` share a worker process.  ``requires`` are the packages that it imports.  A target that names its
    ``ops`` is spared all others; without them it is asked, and says what it does not support.  One that is there
    ``on_request`` runs only when it is named.  With an ``exporter`` the runtime is fed the files that this makes.
    ``device`` is what it needs beside packages: ``cuda``, or an execution provider of onnxruntime.
    """

    name: str
    framework: str
    source: str
    requires: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = field(default=())
    ops: tuple[str, ...] = ()
    on_request: bool = False
    exporter: ExporterSpec | None = None
    device: str = ""

    @property
    def lazy(self) -> bool:
        """Whether its worker starts only when there is work for it."""
        return False

    @property
    def missing(self) -> tuple[str, ...]:
        """Required packages that are not installed; if all are, the device that is not there."""
        packages = tuple(name for name in self.requires if version_of(name) is None)
        if packages or not self.device:
            return packages
        if self.device != "cuda" and self.device not in devices.available_providers():
            return (self.device,)
        needs_cuda = self.device == "cuda" or self.device in devices.ON_CUDA
        return ("a CUDA device",) if needs_cuda and not devices.has_cuda() else ()

    @property
    def versions(self) -> dict[str, str]:
        return {name: version for name in self.requires if (version := version_of(name)) is not None}

    @property
    def install(self) -> str:
        """The command that installs what is missing, as far as a command can."""
        package = devices.PROVIDERS.get(self.device)
        needed = [package if package and name == "onnxruntime" else name for name in self.requires]
        return f"pip install {' '.join(needed)}"


@dataclass(frozen=True, slots=True)
class ExporterSpec(TargetSpec):
    """How to make an exporter in a worker.  ``arithmetic`` is what its graphs promise on an honest runtime."""

    arithmetic: str = "native"

    @property
    def lazy(self) -> bool:
        return True

    @property
    def identity(self) -> dict[str, str]:
        """What its files depend on: name, options, versions, and the code where it is the user's own."""
        said = {"name": self.name, **dict(self.options), **self.versions}
        if self.source.endswith(".py"):
            said["source"] = hashlib.sha256(Path(self.source).read_bytes()).hexdigest()
        return said


@functools.cache
def version_of(package: str) -> str | None:
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
