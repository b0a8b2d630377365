"""Accelerators: what is found, what is promised there, what is computed elsewhere, which arithmetic is in use."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conformance.errors import UnknownTarget
from conformance.execution import devices, find_targets, known_targets, registry
from conformance.execution.worker import make
from conformance.oracle.operators import OPERATORS
from conformance.spec import Case, Convolution
from conformance.targets.base import Target, Unsupported
from conformance.targets.onnxruntime_fallback import computed_elsewhere
from conformance.targets.precision import float32_in_use

GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make onnxruntime offer some providers, and the driver see a device or none."""

    def offer(*providers: str, cuda: bool = False) -> None:
        monkeypatch.setattr(devices, "available_providers", lambda: providers)
        monkeypatch.setattr(devices, "has_cuda", lambda: cuda)

    return offer


def stands_by_itself() -> set[str]:
    return {spec.name for spec in find_targets([])}


# ---- What is found ----


def test_the_installed_onnxruntime_offers_the_processor() -> None:
    pytest.importorskip("onnxruntime")
    assert "CPUExecutionProvider" in devices.available_providers()


@pytest.mark.parametrize("failure", [OSError(), subprocess.TimeoutExpired("python", 1), SimpleNamespace(stdout="?\n")])
def test_an_onnxruntime_that_cannot_be_asked_offers_nothing(failure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object, **__: object) -> Any:
        if isinstance(failure, Exception):
            raise failure
        return failure

    monkeypatch.setattr(subprocess, "run", ask)
    assert devices.available_providers.__wrapped__() == ()


def test_there_is_no_cuda_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: str) -> Any:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(devices.ctypes, "CDLL", load)
    assert not devices.has_cuda.__wrapped__()


@pytest.mark.parametrize(("status", "count", "there"), [(0, 2, True), (0, 0, False), (100, 1, False)])
def test_cuda_is_a_driver_that_sees_a_device(
    status: int, count: int, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count_devices(place: Any) -> int:
        place._obj.value = count
        return 0

    driver = SimpleNamespace(cuInit=lambda _: status, cuDeviceGetCount=count_devices)
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda _: driver)
    assert devices.has_cuda.__wrapped__() is there


def test_what_onnxruntime_offers_becomes_a_target(offered: Any) -> None:
    pytest.importorskip("onnxruntime")
    offered(*GPU, cuda=True)
    assert {"onnxruntime@cuda", "onnxruntime@tensorrt", "onnxruntime-ieee@cuda"} <= stands_by_itself()
    offered("CPUExecutionProvider", "AzureExecutionProvider")
    assert not {name for name in stands_by_itself() if name.startswith("onnxruntime") and not name.endswith("@cpu")}


def test_a_provider_without_its_device_is_missing(offered: Any) -> None:
    pytest.importorskip("onnxruntime")
    offered(*GPU, cuda=False)
    assert not {name for name in stands_by_itself() if name.endswith(("@cuda", "@tensorrt"))}
    with pytest.raises(UnknownTarget, match="onnxruntime@cuda: a CUDA device is not here"):
        find_targets(["onnxruntime@cuda"])


def test_a_provider_that_nobody_has_heard_of_becomes_a_target_too(offered: Any) -> None:
    pytest.importorskip("onnxruntime")
    offered("CPUExecutionProvider", "AbacusExecutionProvider")
    assert "onnxruntime@abacus" in stands_by_itself()


def test_a_provider_that_is_not_offered_is_told_with_what_installs_it(offered: Any) -> None:
    pytest.importorskip("onnxruntime")
    offered("CPUExecutionProvider")
    message = "onnxruntime@cuda: CUDAExecutionProvider is not here; pip install onnxruntime-gpu onnx"
    with pytest.raises(UnknownTarget, match=message):
        find_targets(["onnxruntime@cuda"])


def test_torch_and_tensorflow_run_on_cuda_where_there_is_a_device(offered: Any) -> None:
    pytest.importorskip("torch")
    offered(cuda=True)
    assert {"torch@cuda", "torch-ieee@cuda"} <= stands_by_itself()
    offered(cuda=False)
    assert not {name for name in stands_by_itself() if name.endswith("@cuda")}


@pytest.mark.parametrize("name", ["torch@cuda", "tensorflow@cuda"])
def test_a_library_without_cuda_says_so(name: str) -> None:
    pytest.importorskip(name.partition("@")[0])
    if devices.has_cuda():
        pytest.skip("there is a CUDA device")
    with pytest.raises(RuntimeError, match="has no CUDA, or sees no device"):
        make(known_targets()[name], 1)


# ---- What is promised ----


class Onnxruntime(SimpleNamespace):
    """Stands in for the module: sessions on any provider, which compute on the processor."""

    def __init__(self, real: Any, starts: bool = True, elsewhere: bool = False) -> None:
        self.given: list[Any] = []

        def session(model: bytes, options: Any, providers: list[Any]) -> Any:
            self.given += providers
            name = providers[0] if isinstance(providers[0], str) else providers[0][0]
            return Session(real.InferenceSession(model, options, providers=["CPUExecutionProvider"]), name)

        class Session:
            def __init__(self, inner: Any, provider: str) -> None:
                self.inner, self.provider = inner, provider

            def get_providers(self) -> list[str]:
                return [*([self.provider] if starts else []), "CPUExecutionProvider"]

            def run(self, names: Any, feeds: Any) -> Any:
                return self.inner.run(names, feeds)

            def end_profiling(self) -> str:
                path = Path(self.inner.end_profiling())
                if not elsewhere:
                    path.write_text(path.read_text().replace("CPUExecutionProvider", self.provider))
                return str(path)

        super().__init__(
            InferenceSession=session,
            SessionOptions=real.SessionOptions,
            GraphOptimizationLevel=real.GraphOptimizationLevel,
            get_available_providers=lambda: list(GPU),
            __version__=real.__version__,
        )


def accelerated(monkeypatch: pytest.MonkeyPatch, name: str, **how: bool) -> tuple[Target, Onnxruntime]:
    """A target on a provider that is not here, on a stand-in for onnxruntime."""
    import sys

    real = pytest.importorskip("onnxruntime")
    module = Onnxruntime(real, **how)
    monkeypatch.setitem(sys.modules, "onnxruntime", module)  # type: ignore[arg-type]
    return make(known_targets()[name], 1), module


def one_case() -> Convolution:
    from conformance.arithmetic import Axis

    axes = (Axis(large=4, small=2, kernel=3),)
    return Convolution(id="a/b", op="conv_transpose", axes=axes, padding=((0, 0),))


def ones(case: Case) -> dict[str, np.ndarray]:
    return {name: np.ones(shape, np.float32) for name, shape in case.tensor_shapes.items()}


@pytest.mark.parametrize(
    ("name", "promises", "options"),
    [
        ("onnxruntime@cuda", "tf32", "CUDAExecutionProvider"),
        ("onnxruntime-ieee@cuda", "native", ("CUDAExecutionProvider", {"use_tf32": "0"})),
        ("onnxruntime@tensorrt", "tf32", "TensorrtExecutionProvider"),
        ("onnxruntime@openvino", "native", "OpenVINOExecutionProvider"),
    ],
)
def test_a_provider_promises_the_arithmetic_of_its_settings(
    name: str, promises: str, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, module = accelerated(monkeypatch, name)
    assert target.name == name
    assert target.arithmetic == promises
    case = one_case()
    assert target.run(case, ones(case))["output"].ravel().tolist() == [1, 2, 2, 1]
    assert all(given == options for given in module.given)
    said = target.environment()
    assert said["float32 in use"] == "float32"  # which is what the stand-in computes in


def test_a_provider_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    target, _ = accelerated(monkeypatch, "onnxruntime@cuda", starts=False)
    case = one_case()
    with pytest.raises(RuntimeError, match="offers CUDAExecutionProvider and could not start it"):
        target.run(case, ones(case))


def test_what_the_processor_computes_instead_is_told_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    target, _ = accelerated(monkeypatch, "onnxruntime@cuda", elsewhere=True)
    case = one_case()
    for _ in range(2):
        with pytest.raises(Unsupported, match="computed ConvTranspose on CPUExecutionProvider"):
            target.run(case, ones(case))
    assert target.environment()["float32 in use"].startswith("unknown: onnxruntime has no kernel")


def test_a_real_provider_that_computes_nothing_itself_is_found_out() -> None:
    runtime = pytest.importorskip("onnxruntime")
    if "AzureExecutionProvider" not in runtime.get_available_providers():
        pytest.skip("this onnxruntime has no AzureExecutionProvider, which leaves all nodes to the processor")
    target = make(registry.on_provider("AzureExecutionProvider"), 1)
    case = one_case()
    with pytest.raises(Unsupported, match="no kernel in AzureExecutionProvider, and computed ConvTranspose on CPU"):
        target.run(case, ones(case))


def test_where_sizes_are_computed_does_not_matter(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    nodes = [("Conv", "CUDAExecutionProvider"), ("Shape", "CPUExecutionProvider"), ("MaxPool", "CPUExecutionProvider")]
    events = [{"cat": "Node", "args": {"op_name": name, "provider": where}} for name, where in nodes]
    profile.write_text(json.dumps([{"cat": "Session"}, {"cat": "Node", "args": {}}, *events]))
    assert computed_elsewhere(profile, "CUDAExecutionProvider") == {"MaxPool": "CPUExecutionProvider"}


# ---- Which arithmetic is in use ----


class Rounding:
    """The oracle, with operands rounded to so many significant bits first, and the weight too."""

    name, arithmetic = "rounding", "native"

    def __init__(self, bits: Mapping[str, int]) -> None:
        self.bits = bits

    def environment(self) -> dict[str, str]:
        return {}

    def run(self, case: Any, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        bits = self.bits[case.op]
        fraction, exponent = np.frexp(tensors["input"].astype(np.float64))
        rounded = np.ldexp(np.round(np.ldexp(fraction, bits)), exponent - bits)
        return {"output": OPERATORS[case.op].output(case, {**tensors, "input": rounded})}


@pytest.mark.parametrize(
    ("conv", "transpose", "found"),
    [
        (24, 24, "float32"),
        (11, 11, "tf32"),
        (8, 8, "bfloat16"),
        (24, 11, "float32 and tf32"),
    ],
)
def test_a_convolution_shows_the_arithmetic_in_use(conv: int, transpose: int, found: str) -> None:
    assert float32_in_use(Rounding({"conv": conv, "conv_transpose": transpose})) == found


@pytest.mark.parametrize("name", ["torch", "tensorflow", "onnxruntime"])
def test_processors_compute_in_float32(name: str) -> None:
    pytest.importorskip(name)
    assert float32_in_use(make(known_targets()[f"{name}@cpu"], 1)) == "float32"
