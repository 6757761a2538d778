"""The backend for ONNX Runtime: graphs of any architecture become ONNX models, which run on CPUs and GPUs."""

from __future__ import annotations

from llamafw import Backend, BackendContext, Register, SettingsError, hookimpl

MISSING = "--backend onnx needs ONNX Runtime; install it with: pip install 'llamafw[onnx]'"


def open_model(context: BackendContext) -> Backend:
    """Load a model and return its backend.

    See `OnnxBackend` for the errors.
    """
    try:
        from llamafw_backends.onnx.backend import OnnxBackend  # here, because the package is optional
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxruntime"):
            raise
        raise SettingsError(MISSING) from None
    return OnnxBackend(context)


@hookimpl
def register_backends(register: Register) -> None:
    """Register the backend as ``onnx``."""
    register("onnx", open_model)


@hookimpl
def register_commands(register: Register) -> None:
    """Add the command ``llamafw export``."""
    register("export", _run_export)


def _run_export(argv: list[str]) -> int:
    try:
        from llamafw_backends.onnx.export import run  # here, because the packages are optional
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxruntime"):
            raise
        raise SettingsError(MISSING.replace("--backend onnx", "llamafw export")) from None
    return run(argv)
