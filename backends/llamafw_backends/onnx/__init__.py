"""The backend for ONNX Runtime: graphs of any architecture become ONNX models, which run on CPUs and GPUs.

docs/gpu.md explains how to use it. The packages `onnx` and `onnxruntime` are optional, and imported only when the
backend is used.
"""

from __future__ import annotations

import logging
import os
from argparse import ArgumentParser
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from llamafw import Backend, BackendContext, Model, Register, Settings, SettingsError, hookimpl

PROVIDER_NAMES = ("cuda", "directml", "webgpu", "cpu")
"""The values of ``--onnx-provider`` besides ``auto``."""

VARIABLE = "LLAMAFW_ONNX_PROVIDER"
MISSING = "--backend onnx needs ONNX Runtime; install it with: pip install 'llamafw[onnx]' (docs/gpu.md lists others)"

GPU_PACKAGES = ("onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-windowsml", "onnxruntime-ep-webgpu")
"""The packages that have providers for GPUs."""

log = logging.getLogger(__name__)


class OnnxFactory:
    """The backend's factory: loads models, and describes the ONNX models that it makes of them."""

    has_own_memory = True  # that of a GPU

    def __call__(self, context: BackendContext) -> Backend:
        """Load a model and return its backend.

        See `OnnxBackend` for the errors.
        """
        _check_packages()
        from llamafw_backends.onnx.backend import OnnxBackend  # here, because the packages are optional

        return OnnxBackend(context)

    def describe_step(self, context: BackendContext) -> str:
        """Return the nodes of the ONNX model, for ``llamafw graph --step``."""
        _check_packages()
        from llamafw_backends.onnx.step_text import describe_step  # here, as above

        return describe_step(context)

    def given_flags(self, settings: Settings) -> list[str]:
        """Return the flags of this backend that are given; ``auto`` leaves the choice of the provider to it."""
        values = {
            f"--{name.replace('_', '-')}": settings.extra.get(name) for name in ("onnx_provider", "onnx_activations")
        }
        return [f"{flag} {value}" for flag, value in values.items() if value not in (None, "auto")]


open_model = OnnxFactory()


def _check_packages() -> None:
    """Raise SettingsError if the optional packages are not installed."""
    try:
        import onnx  # noqa: F401  # only to find out whether it is there
        import onnxruntime  # noqa: F401  # as above
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxruntime"):
            raise
        raise SettingsError(MISSING) from None


def provider_name(extra: Mapping[str, Any]) -> str:
    """Return the provider that the flag or the environment variable names, or ``auto``.

    Parameters
    ----------
    extra : mapping of str to object
        The values of the flags that plugins added.
    """
    name = extra.get("onnx_provider") or os.environ.get(VARIABLE) or "auto"
    if name not in ("auto", *PROVIDER_NAMES):
        raise SettingsError(f"{VARIABLE}: {name!r} is not one of auto, {', '.join(PROVIDER_NAMES)}")
    return str(name)


@hookimpl
def register_backends(register: Register) -> None:
    """Register the backend as ``onnx``."""
    register("onnx", open_model)


@hookimpl
def register_commands(register: Register) -> None:
    """Add the commands ``llamafw devices`` and ``llamafw export``."""
    register("devices", _run_devices)
    register("export", _run_export)


def _run_devices(argv: list[str]) -> int:
    from llamafw_backends.onnx.devices_command import run  # here, because it imports onnxruntime

    return run(argv)


def _run_export(argv: list[str]) -> int:
    try:
        from llamafw_backends.onnx.export import run  # here, because the packages are optional
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxruntime"):
            raise
        raise SettingsError(MISSING.replace("--backend onnx", "llamafw export")) from None
    return run(argv)


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    """Add ``--onnx-provider`` and ``--onnx-activations``."""
    parser.add_argument(
        "--onnx-provider",
        choices=("auto", *PROVIDER_NAMES),
        help="what ONNX Runtime computes with; another than auto selects --backend onnx (default: auto, the first that "
        f"works here; `llamafw devices` lists them) [env: {VARIABLE}]",
    )
    parser.add_argument(
        "--onnx-activations",
        choices=("int8", "float"),
        help="on CPUs, what ONNX Runtime multiplies quantised matrices with: floats, or activations rounded to 8 bits, "
        "which is less exact and somewhat faster (default: float); GPUs use floats and refuse int8",
    )


@hookimpl
def choose_backend(model: Model, settings: Settings) -> str | None:
    """Choose this backend if a provider is named, or if a GPU can be used and ``-ngl 0`` does not forbid it."""
    if provider_name(settings.extra) != "auto":
        return "onnx"
    if settings.gpu_layers == 0 or not any(map(_is_installed, GPU_PACKAGES)):
        return None
    try:
        from llamafw_backends.onnx.providers import PROVIDERS, missing  # here, because the packages are optional
    except ModuleNotFoundError as error:
        log.warning("the GPU is not used: the package %s is missing", error.name)
        return None
    reasons = {name: missing(provider) for name, provider in PROVIDERS.items() if name != "cpu"}
    if not all(reasons.values()):
        return "onnx"
    log.warning("the GPU is not used; `llamafw devices` says why: %s", "; ".join(": ".join(r) for r in reasons.items()))
    return None


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
