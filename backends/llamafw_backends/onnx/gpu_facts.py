"""Finds out the names and the free memory of GPUs, for people.

ONNX Runtime does not tell the memory.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass

import onnxruntime as ort

from llamafw_backends.onnx.device_tensors import Device

QUERY = ("--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """A GPU of NVIDIA."""

    name: str
    total: int  # MiB
    free: int  # MiB

    def __str__(self) -> str:
        return f"{self.name}, {self.total:,} MiB, {self.free:,} MiB free"


def describe_gpu(device: Device) -> str:
    """Return what is known about a device; "" if that is nothing."""
    if device.kind == "cpu":
        return platform.processor() or platform.machine()
    if device.kind == "cuda" and (facts := nvidia_gpu(device.number)):
        return str(facts)
    if device.number == 0 and (names := _names_of(str(device.providers[0][0]))):
        return names[0]
    return ""


def nvidia_gpu(number: int) -> GpuFacts | None:
    """Return what ``nvidia-smi`` says about a GPU, by its number for CUDA; None if it says nothing."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number)] if visible is None else visible.split(",")[number : number + 1]
    program = shutil.which("nvidia-smi")
    if program is None or not names:
        return None
    try:
        command = [program, *(f"--id={name.strip()}" for name in names), *QUERY]
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return read_nvidia_smi(result.stdout)


def read_nvidia_smi(text: str) -> GpuFacts | None:
    """Return the GPU that a line of ``nvidia-smi`` describes: ``NVIDIA H100 80GB HBM3, 81559, 80993``."""
    parts = [part.strip() for part in text.strip().rsplit(",", 2)]
    if len(parts) != 3 or not all(part.isdecimal() for part in parts[1:]):
        return None
    return GpuFacts(parts[0], int(parts[1]), int(parts[2]))


def _names_of(ort_name: str) -> list[str]:
    """Return the names that ONNX Runtime has for the devices of a provider."""
    if not hasattr(ort, "get_ep_devices"):
        return []
    devices = [one.device for one in ort.get_ep_devices() if one.ep_name == ort_name]
    return [name for one in devices if (name := one.metadata.get("Description") or one.vendor)]
