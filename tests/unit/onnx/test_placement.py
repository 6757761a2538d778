"""Settings that say where a model runs have their meaning, are refused, or are named in the log."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from llamafw import GpuOptions, SettingsError, ThreadOptions
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.onnx import packages, placement, providers
from llamafw_backends.onnx.backend import OnnxBackend
from llamafw_backends.onnx.device_tensors import Device
from llamafw_backends.onnx.placement import choose_device, support_of
from llamafw_backends.onnx.providers import Provider, choose
from llamafw_backends.onnx.support import Probe
from support.numba_backend import make_context

CPU = {"onnx_provider": "cpu"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model of two layers."""
    return write_tiny_gguf(tmp_path / "m.gguf")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make every provider a GPU, and return the numbers of the devices that are asked for."""
    numbers: list[int] = []

    def device(name: str | None, number: int = 0) -> Device:
        numbers.append(number)
        return Device([("CUDAExecutionProvider", {})], "cuda", number, np.dtype(np.float16), "cuda")

    monkeypatch.setattr(placement, "choose", device)
    return numbers


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        ({"n_layers": 1}, "^-ngl 1: .* -ngl all for all 2 layers, or -ngl 0"),
        ({"tensor_split": (3.0, 1.0)}, "^-ts 3,1: .* -mg N chooses one"),
        ({"split_mode": "row"}, "^-sm row: "),
        ({"kv_offload": False}, "^-nkvo: "),
    ],
)
def test_dividing_a_model_is_refused(path: Path, gpus: list[int], gpu: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        choose_device(make_context(path, gpu=GpuOptions(**gpu)))


def test_gpus_do_not_round_activations(path: Path, gpus: list[int]) -> None:
    with pytest.raises(
        SettingsError, match="^--onnx-activations int8: this is for CPUs, but the model runs on cuda device 0"
    ):
        choose_device(make_context(path, extra={"onnx_activations": "int8"}))
    choose_device(make_context(path, extra={"onnx_activations": "float"}))


@pytest.mark.parametrize(
    ("gpu", "number"),
    [
        ({}, 0),
        ({"n_layers": -1}, 0),
        ({"n_layers": 2}, 0),
        ({"n_layers": 99, "split_mode": "none", "main_gpu": 2}, 2),
        ({"tensor_split": (0.0, 1.0)}, 1),
    ],
)
def test_whole_model_is_on_the_chosen_gpu(path: Path, gpus: list[int], gpu: dict[str, Any], number: int) -> None:
    assert choose_device(make_context(path, gpu=GpuOptions(**gpu))).number == number
    assert gpus == [number]


def test_no_layers_on_the_gpu_means_the_cpu(path: Path) -> None:
    assert choose_device(make_context(path, gpu=GpuOptions(n_layers=0, kv_offload=False))).kind == "cpu"
    with pytest.raises(SettingsError, match="-ngl 0 .* --onnx-provider is cuda"):
        choose_device(make_context(path, gpu=GpuOptions(n_layers=0), extra={"onnx_provider": "cuda"}))


def test_environment_variable_names_the_provider(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str | None] = []

    def device(name: str | None, number: int = 0) -> Device:
        names.append(name)
        return choose("cpu")

    monkeypatch.setattr(placement, "choose", device)
    monkeypatch.setenv("LLAMAFW_ONNX_PROVIDER", "webgpu")
    choose_device(make_context(path))
    choose_device(make_context(path, extra=CPU))  # flags take precedence
    assert names == ["webgpu", "cpu"]
    with pytest.raises(SettingsError, match="-ngl 0 .* LLAMAFW_ONNX_PROVIDER is webgpu"):
        choose_device(make_context(path, gpu=GpuOptions(n_layers=0)))


@pytest.mark.inventory("C-040", "C-048", "C-049", "C-050", "C-051")
def test_flags_for_gpus_are_logged_on_the_cpu(path: Path) -> None:
    lines: list[str] = []
    choose_device(make_context(path, lines, gpu=GpuOptions(-1, "row", (3.0, 1.0), 1, False), extra=CPU))
    assert lines == ["onnx backend: it computes on the CPU; -ngl all -sm row -ts 3,1 -mg 1 has no effect"]


def test_flags_for_threads_are_logged(path: Path) -> None:
    lines: list[str] = []
    threads = ThreadOptions(frozenset({0}), True, 1, 100)
    context = make_context(path, lines, threads=threads, n_threads_batch=3, numa="isolate", flash_attention=True)
    placement.log_ignored_flags(context)
    assert lines == [
        "onnx backend: ONNX Runtime decides this itself; -tb 3 -C/-Cr --cpu-strict --prio --poll --numa isolate -fa on "
        "has no effect"
    ]
    lines.clear()
    placement.log_ignored_flags(make_context(path, lines, threads=ThreadOptions(poll=0)))
    assert not lines


def test_unknown_cache_types_are_refused(path: Path) -> None:
    with pytest.raises(SettingsError, match="-ctv q8_0: the onnx backend stores keys and values as f16 or f32"):
        OnnxBackend(make_context(path, cache_type_v="q8_0", extra=CPU))


def test_startup_logs_device_and_memory(path: Path) -> None:
    lines: list[str] = []
    backend = OnnxBackend(make_context(path, lines, n_threads=3, extra=CPU))
    assert len(lines) == 1
    assert lines[0].startswith("onnx backend: the CPU (3 threads) with ONNX Runtime ")
    assert "computes in float32" in lines[0]
    assert "MiB of KV cache at first" in lines[0]
    assert backend.describe()["provider"] == "cpu"
    backend.close()


@pytest.mark.parametrize(
    ("name", "installed", "lines"),
    [
        ("cuda", ["onnxruntime"], ["pip uninstall -y onnxruntime", "pip install 'llamafw[cuda]'"]),
        (
            "cuda",
            ["onnxruntime", "onnxruntime-gpu"],
            ["pip uninstall -y onnxruntime onnxruntime-gpu", "pip install 'llamafw[cuda]'"],
        ),
        ("directml", ["onnxruntime-gpu"], ["pip uninstall -y onnxruntime-gpu", "pip install 'llamafw[directml]'"]),
        ("webgpu", ["onnxruntime"], ["pip install 'llamafw[webgpu]'"]),
        ("webgpu", ["onnxruntime-gpu"], ["pip uninstall -y onnxruntime-gpu", "pip install 'llamafw[webgpu]'"]),
    ],
)
def test_missing_provider_says_what_to_run(
    name: str, installed: list[str], lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that is installed beside another one overwrites it, so that one must be removed first."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", None)
    monkeypatch.setattr(providers, "find_packages", lambda: installed)
    with pytest.raises(SettingsError, match=f"^--onnx-provider {name}: ") as caught:
        choose(name)
    commands = ", then ".join(f"`{line}`" for line in lines)
    assert str(caught.value).partition("; ")[2] == f"install it with {commands}"


def test_packages_with_onnxruntime_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = packages.find_packages.__wrapped__  # without its cache
    before = find()
    assert len(before) == 1
    folder = tmp_path / "onnxruntime_other-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-other\nVersion: 1.0\n", "utf-8")
    (folder / "RECORD").write_text("onnxruntime/other.py,,\n", "utf-8")
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "other.py").write_text(
        "", "utf-8"
    )  # since Python 3.12, files that are missing do not count
    monkeypatch.syspath_prepend(tmp_path)
    assert find() == tuple(sorted([*before, "onnxruntime-other"]))


def test_provider_that_leaves_nodes_to_the_cpu_is_refused() -> None:
    """ONNX Runtime falls back to the CPU in silence."""
    azure = Provider("azure", "AzureExecutionProvider", "cpu", (np.dtype(np.float32),), "none")
    with pytest.raises(SettingsError, match="device 0 of azure cannot be used: .*fallback to CPU EP"):
        azure.device()


def test_device_of_a_plugin_is_selected_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its place among the devices of the plugin: its id is that of the hardware, which no flag has."""
    (cpu,) = [one for one in ort.get_ep_devices() if one.ep_name == "CPUExecutionProvider"]
    found: list[Any] = [SimpleNamespace(ep_name="OtherExecutionProvider"), cpu]
    monkeypatch.setattr(ort, "get_ep_devices", lambda: found)
    monkeypatch.setattr(providers, "NO_FALLBACK", "unused")  # sessions on the CPU refuse it
    provider = Provider("plugin", "CPUExecutionProvider", "cpu", (np.dtype(np.float16),), "none", "some_plugin")
    assert provider.device().providers == [("CPUExecutionProvider", cpu)]
    with pytest.raises(SettingsError, match="^device 1 of plugin cannot be used: it has 1$"):
        provider.device(1)


def test_nodes_are_tried_once_per_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_SUPPORT", {})
    tried = []

    def make_probe() -> Probe:
        tried.append("node")
        x = np.ones(1, np.float32)
        return Probe(lambda b: b.node("Nonsense", b.input("x", np.float32, [1]), outputs=["y"]), {"x": x}, x)

    assert [support_of(choose("cpu")).runs("Nonsense", make_probe) for _ in range(2)] == [False, False]
    assert len(tried) == 1
