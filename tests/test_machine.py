"""The processor is described as the kernel describes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance import machine

X86 = """processor\t: 0
model name\t: AMD EPYC 9R14
flags\t\t: fpu avx2 avx512f avx512_bf16

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "_CPUINFO", path)
    monkeypatch.setattr(machine, "_cpuinfo", machine._cpuinfo.__wrapped__)
    return path


def test_the_features_of_the_first_processor_are_those_of_the_machine(cpuinfo: Path) -> None:
    cpuinfo.write_text(X86)
    assert machine.cpu_features() == {"fpu", "avx2", "avx512f", "avx512_bf16"}
    assert machine.cpu_model() == "AMD EPYC 9R14"


def test_arm_calls_them_features(cpuinfo: Path) -> None:
    cpuinfo.write_text(ARM)
    assert machine.cpu_features() == {"fp", "asimd", "bf16"}


def test_where_nobody_says_nothing_is_known(cpuinfo: Path) -> None:
    assert not cpuinfo.exists()
    assert machine.cpu_features() == frozenset()
    assert machine.cpu_model()
