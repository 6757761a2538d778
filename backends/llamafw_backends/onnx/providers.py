"""Chooses the execution provider of ONNX Runtime and says which ones can be used here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from llamafw import SettingsError
from llamafw_backends.onnx.device_tensors import Device


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider that the backend knows."""

    name: str  # the value of --onnx-provider
    ort_name: str
    kind: str  # the name of its memory in ONNX Runtime
    float_type: type[np.floating[Any]]
    package: str  # what to install for it

    def device(self, number: int = 0) -> Device:
        """Return a device of this provider."""
        options = {} if self.name == "cpu" else {"device_id": str(number)}
        return Device([(self.ort_name, options)], self.kind, number)


PROVIDERS: Mapping[str, Provider] = {
    one.name: one
    for one in (
        Provider("cuda", "CUDAExecutionProvider", "cuda", np.float16, "llamafw[cuda]"),
        Provider("directml", "DmlExecutionProvider", "dml", np.float16, "llamafw[directml]"),
        Provider("webgpu", "WebGpuExecutionProvider", "webgpu", np.float16, "onnxruntime-ep-webgpu"),
        Provider("cpu", "CPUExecutionProvider", "cpu", np.float32, "llamafw[onnx]"),
    )
}
"""All providers by name, the preferred ones first."""


def choose(name: str | None) -> Provider:
    """Return a provider by name, or the best that can be used here; SettingsError if it cannot be used."""
    if name is not None and name != "auto":
        provider = PROVIDERS[name]
        reason = missing(provider)
        if reason:
            raise SettingsError(f"--onnx-provider {name} cannot be used: {reason}")
        return provider
    return next(provider for provider in PROVIDERS.values() if not missing(provider))


def missing(provider: Provider) -> str:
    """Return why a provider cannot be used here; "" if it can."""
    if provider.ort_name not in ort.get_available_providers():
        return f"this onnxruntime {ort.__version__} does not have it; install it with: pip install '{provider.package}'"
    if provider.name == "cpu":
        return ""
    try:
        provider.device().zeros((1,), np.dtype(np.float32))
    except Exception as error:  # onnxruntime has a class for each kind of failure, and none for all
        return str(error).strip().splitlines()[0]
    return ""
