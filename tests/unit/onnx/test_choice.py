"""The backend is chosen by name, by its provider, or because a GPU can be used; its packages are optional."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llamafw import Settings, SettingsError
from llamafw.cli.main import main
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends import onnx
from llamafw_backends.onnx import providers
from llamafw_backends.onnx.devices_command import describe_devices
from llamafw_backends.onnx.gpu_facts import GpuFacts, read_nvidia_smi

MODEL: Any = None  # the choice does not depend on it


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a package for GPUs be installed, and CUDA be usable."""
    monkeypatch.setattr(onnx, "GPU_PACKAGES", ("onnxruntime",))
    monkeypatch.setattr(providers, "missing", lambda provider: "" if provider.name == "cuda" else "it is not here")


def test_named_provider_chooses_the_backend() -> None:
    assert onnx.choose_backend(MODEL, Settings(extra={"onnx_provider": "cpu"})) == "onnx"


@pytest.mark.parametrize(("gpu_layers", "chosen"), [(None, "onnx"), (-1, "onnx"), (99, "onnx"), (0, None)])
def test_usable_gpu_chooses_the_backend(one_gpu: None, gpu_layers: int | None, chosen: str | None) -> None:
    assert onnx.choose_backend(MODEL, Settings(gpu_layers=gpu_layers)) == chosen


def test_backend_is_not_chosen_without_a_gpu(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(onnx, "GPU_PACKAGES", ("not-a-package",))
    assert onnx.choose_backend(MODEL, Settings(gpu_layers=99)) is None
    assert not caplog.records

    monkeypatch.setattr(onnx, "GPU_PACKAGES", ("onnxruntime",))
    monkeypatch.setattr(providers, "missing", lambda provider: f"no {provider.kind} here")
    assert onnx.choose_backend(MODEL, Settings(gpu_layers=99)) is None
    assert "`llamafw devices` says why: cuda: no cuda here; directml: no dml here" in caplog.text


def test_environment_variable_names_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAFW_ONNX_PROVIDER", "cpu")
    assert onnx.provider_name({}) == onnx.provider_name({"onnx_provider": None}) == "cpu"
    assert onnx.provider_name({"onnx_provider": "cuda"}) == "cuda"  # flags take precedence
    monkeypatch.setenv("LLAMAFW_ONNX_PROVIDER", "cudda")
    with pytest.raises(SettingsError, match="LLAMAFW_ONNX_PROVIDER: 'cudda' is not one of auto, cuda, directml"):
        onnx.provider_name({})


def test_missing_package_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    """In a process of its own, in which onnxruntime cannot be imported."""
    path = write_tiny_gguf(tmp_path / "m.gguf")
    code = (
        "import sys; from pathlib import Path\n"
        "sys.modules['onnxruntime'] = None\n"
        "from llamafw.cli.main import main\n"
        "main(['devices'])\n"
        "sys.exit(main(['bench', '-m', sys.argv[1], '--backend', 'onnx']))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "llamafw: --backend onnx needs ONNX Runtime; install it with: pip install 'llamafw[onnx]'" in run.stderr
    assert run.stdout.startswith("none: the package onnxruntime is not installed; install it with: pip install")


def test_devices_command_lists_providers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == describe_devices()
    assert lines[0].startswith("onnxruntime 1.")
    assert {line.split()[0].strip(":") for line in lines[1:]} >= {"cuda", "directml", "webgpu", "cpu"}
    assert lines[-1].endswith("computes in float32")


def test_output_of_nvidia_smi_is_read() -> None:
    assert read_nvidia_smi("NVIDIA H100 80GB HBM3, 81559, 80993\n") == GpuFacts("NVIDIA H100 80GB HBM3", 81559, 80993)
    assert str(GpuFacts("X", 81559, 993)) == "X, 81,559 MiB, 993 MiB free"
    for text in ("", "No devices were found", "NVIDIA A, [N/A], [N/A]"):
        assert read_nvidia_smi(text) is None


def test_graph_command_lists_the_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", str(write_tiny_gguf(tmp_path / "m.gguf")), "--step", "--backend", "onnx"]) == 0
    text = capsys.readouterr().out
    assert "computes in float" in text.splitlines()[0]
    assert "Attention" in text
    assert text.splitlines()[-1].split()[0].isdecimal()  # how many nodes there are of the last kind
