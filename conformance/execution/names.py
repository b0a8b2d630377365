"""From the names that users write to targets: by name, exporter:runtime, a file, or anybody's ONNX backend."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from conformance.errors import UnknownTarget
from conformance.execution import devices, registry
from conformance.execution.specs import ExporterSpec, TargetSpec, version_of

ENTRY_POINTS = "conformance.targets"
BACKEND = "onnx-backend="
"""What stands before the name of anybody's ONNX backend."""
RESERVED = "oracle"
"""The name under which the oracle itself is judged on published results."""

_EXPORTERS = {spec.name: spec for spec in registry.EXPORTERS}
_EXAMPLE = "torch-dynamo:onnxruntime"


def known_targets() -> dict[str, TargetSpec]:
    """Built-in targets and those of installed packages (entry-point group ``conformance.targets``), by name."""
    targets = {spec.name: spec for spec in registry.BUILT_IN}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        targets[entry.name] = TargetSpec(entry.name, entry.name, entry.value, (entry.module.partition(".")[0],))
    return targets


def all_targets() -> dict[str, TargetSpec]:
    """The same, and what the installed onnxruntime offers beyond; asking it takes a fraction of a second."""
    targets = known_targets()
    if version_of("onnxruntime") is None:
        return targets
    told = {*devices.PROVIDERS, *devices.NO_DEVICE}
    unknown = [name for name in devices.available_providers() if name not in told]
    return targets | {spec.name: spec for spec in map(registry.on_provider, unknown)}


def find_targets(names: Iterable[str], must_be_present: bool = True) -> list[TargetSpec]:
    """Targets by name (``torch`` stands for ``torch@cpu``), path of a Python file, or ``onnx-backend=``.

    Without names: every target whose framework is installed.  Raises UnknownTarget, also for a target whose framework
    is not installed, unless it need not be present.
    """
    wanted = list(dict.fromkeys(names))
    if not wanted:
        return [spec for spec in all_targets().values() if not spec.missing and not spec.on_request]
    known = all_targets() if any("onnxruntime@" in name for name in wanted) else known_targets()
    found: dict[str, TargetSpec] = {}
    for name in wanted:
        spec = _find(name, known)
        if found.setdefault(spec.name, spec) != spec or spec.name == RESERVED:
            raise UnknownTarget(f"{spec.source}: there is a target named {spec.name} already; rename the file")
        if must_be_present and spec.missing:
            raise UnknownTarget(f"{name}: {why_missing(spec)}")
    return list(found.values())


def _find(name: str, known: dict[str, TargetSpec]) -> TargetSpec:
    if name.startswith(BACKEND):
        return _backend(name)
    before, colon, runtime = name.partition(":")
    if colon and (exporter := _exporter(before)) is not None:
        if not runtime:
            raise UnknownTarget(f"{name}: expected a runtime after the colon, as in {_EXAMPLE}")
        return _composite(exporter, _find(runtime, known))
    if (found := known.get(name) or known.get(f"{name}@cpu")) is not None:
        return found
    path = Path(name)
    if path.suffix == ".py":
        return TargetSpec(path.stem, f"file:{path.resolve()}", _file(path))
    close = difflib.get_close_matches(name, [*(other.removesuffix("@cpu") for other in known), *_EXPORTERS], n=3)
    meant = f"; did you mean {' or '.join(close)}?" if close else "."
    expected = f"a target or exporter that `conformance targets` lists (as in {_EXAMPLE}), a Python file"
    raise UnknownTarget(f"{name}: no such target{meant} Expected {expected}, or {BACKEND}some.module")


def _backend(name: str) -> TargetSpec:
    """An ONNX backend: ``onnx-backend=package.module``, ``package.module:attribute`` or ``file.py``, ``@device``.

    Only the package is looked for here: what else may be wrong shows in the worker, which imports it.
    """
    source, at, device = name.removeprefix(BACKEND).partition("@")
    path = Path(source)
    if path.suffix == ".py":
        source, package, name = _file(path), "", f"{BACKEND}{path.name}{at}{device}"
    elif all(part.isidentifier() for part in source.replace(":", ".", 1).split(".")):
        package = source.partition(".")[0].partition(":")[0]
    else:
        raise UnknownTarget(f"{name}: expected a module or a file, as in {BACKEND}onnxruntime.backend")
    if package and importlib.util.find_spec(package) is None:
        raise UnknownTarget(f"{name}: there is no module {package}")
    options = (("source", source), ("device", device.upper() or "CPU"), ("name", name))
    made_by = "conformance.targets.onnx_backend:OnnxBackend"
    return TargetSpec(name, name, made_by, tuple(filter(None, ("onnx", package))), options)


def _exporter(name: str) -> ExporterSpec | None:
    """The exporter of that name or in that file; None if it is neither."""
    if (spec := _EXPORTERS.get(name)) is not None:
        return spec
    path = Path(name)
    return ExporterSpec(path.stem, f"file:{path.resolve()}", _file(path)) if path.suffix == ".py" else None


def _file(path: Path) -> str:
    if not path.is_file():
        raise UnknownTarget(f"{path}: no such file")
    return str(path.resolve())


def why_missing(spec: TargetSpec) -> str:
    """Why a target cannot be had, with the command that installs what it needs."""
    where = "installed" if set(spec.missing) <= set(spec.requires) else "here"
    return f"{', '.join(spec.missing)} is not {where}; {spec.install}"


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
