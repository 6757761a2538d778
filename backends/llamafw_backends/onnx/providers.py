"""Finds the execution providers of ONNX Runtime that can be used here, and opens their devices."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from llamafw import SettingsError
from llamafw_backends.onnx.device_tensors import Device
from llamafw_backends.onnx.model_builder import ModelBuilder
from llamafw_backends.onnx.packages import find_packages, install_commands
from llamafw_backends.onnx.sessions import NO_FALLBACK, NOTHING, first_line

MAX_DEVICES = 16
F16, F32 = np.dtype(np.float16), np.dtype(np.float32)


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider that the backend knows."""

    name: str  # the value of --onnx-provider
    ort_name: str
    kind: str  # the name of its memory in ONNX Runtime
    float_types: tuple[np.dtype[Any], ...]  # of activations, the preferred one first
    package: str  # what to install for it
    plugin: str | None = None  # the Python package that has the provider, if it is not part of onnxruntime
    options: tuple[tuple[str, str], ...] = ()

    def device(self, number: int = 0) -> Device:
        """Return a device of this provider.

        Raises
        ------
        SettingsError
            The provider is not installed, or the device cannot be used.
        """
        self._load()
        if self.name == "cpu":
            return Device([(self.ort_name, {})], self.kind, 0, F32, self.name)

        selection, errors = self._select(number), []
        for float_type in self.float_types:
            device = Device([(self.ort_name, selection)], self.kind, number, float_type, self.name)
            try:
                session = device.session(_add_model, float_type, {NO_FALLBACK: "1"}, severity=NOTHING)
                session.run(None, {"x": np.ones(2, float_type)})
                device.zeros((1,), float_type)
            except Exception as error:  # onnxruntime has a class for each kind of failure, and none for all
                errors.append(first_line(error))
            else:
                return device
        raise SettingsError(f"device {number} of {self.name} cannot be used: {errors[-1]}")

    def _select(self, number: int) -> Any:
        """Return what selects a device: options, or the device itself if the provider is a plugin."""
        if self.plugin is None:
            return {"device_id": str(number), **dict(self.options)}
        found = [one for one in ort.get_ep_devices() if one.ep_name == self.ort_name]
        if number >= len(found):
            raise SettingsError(f"device {number} of {self.name} cannot be used: it has {len(found)}")
        return found[number]

    def _load(self) -> None:
        """Load the libraries of the provider; SettingsError if they are not installed."""
        available = ort.get_available_providers()
        if self.plugin is not None and self.ort_name not in available:
            self._register(self.plugin)
        elif self.ort_name not in available:
            raise self._missing(f"onnxruntime {ort.__version__} does not have it", find_packages())
        elif self.name == "cuda" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls(cudnn=False)  # those that pip has installed

    def _missing(self, reason: str, unwanted: Iterable[str]) -> SettingsError:
        """Return the error that says how to install the provider, instead of other packages."""
        return SettingsError(f"{reason}; install it with {install_commands(self.package, unwanted)}")

    def _register(self, plugin: str) -> None:
        try:
            module = importlib.import_module(plugin)
        except ModuleNotFoundError:
            others = [name for name in find_packages() if name != "onnxruntime"]
            raise self._missing("it is not installed", others) from None
        try:
            ort.register_execution_provider_library(self.name, module.get_library_path())
        except Exception as error:  # as above
            raise SettingsError(f"{plugin} cannot be loaded: {first_line(error)}") from None
        if self.ort_name not in ort.get_available_providers():
            raise SettingsError(f"{plugin} has found no GPU")


def _add_model(b: ModelBuilder) -> None:
    """Build a model that adds a vector to itself."""
    x = b.input("x", b.float_type, ["n"])
    b.node("Add", x, x, outputs=["y"])
    b.output("y", b.float_type, ["n"])


PROVIDERS: Mapping[str, Provider] = {
    one.name: one
    for one in (
        Provider(
            "cuda",
            "CUDAExecutionProvider",
            "cuda",
            (F16,),
            "llamafw[cuda]",
            options=(("arena_extend_strategy", "kSameAsRequested"),),  # otherwise the arena doubles
        ),
        Provider("directml", "DmlExecutionProvider", "dml", (F16, F32), "llamafw[directml]"),
        Provider("webgpu", "WebGpuExecutionProvider", "webgpu", (F16, F32), "llamafw[webgpu]", "onnxruntime_ep_webgpu"),
        Provider("cpu", "CPUExecutionProvider", "cpu", (F32,), "llamafw[onnx]"),
    )
}
"""All providers by name, the preferred ones first."""


def choose(name: str | None, number: int = 0) -> Device:
    """Return a device of a provider, or of the best one that can be used here.

    Parameters
    ----------
    name : str, optional
        The provider; None or ``auto`` for the best one.
    number : int
        The device of the provider.

    Raises
    ------
    SettingsError
        The provider or the device cannot be used.
    """
    if name is not None and name != "auto":
        try:
            return PROVIDERS[name].device(number)
        except SettingsError as error:
            raise SettingsError(f"--onnx-provider {name}: {error}") from None
    for provider in PROVIDERS.values():
        if not missing(provider):
            return provider.device(number)
    raise SettingsError("this onnxruntime has no provider that can be used, not even for the CPU")


def missing(provider: Provider) -> str:
    """Return why a provider cannot be used here; "" if it can."""
    try:
        provider.device()
    except SettingsError as error:
        return str(error)
    return ""


def devices(provider: Provider) -> list[Device]:
    """Return all devices of a provider; SettingsError if there are none."""
    found = [provider.device()]
    while provider.name != "cpu" and len(found) < MAX_DEVICES:
        try:
            found.append(provider.device(len(found)))
        except SettingsError:
            break
    return found
