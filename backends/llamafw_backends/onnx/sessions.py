"""Opens sessions of ONNX Runtime."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort

from llamafw_backends.onnx.model_builder import Array

NOTHING, ERRORS = 4, 3
"""What sessions write to stderr."""

NO_FALLBACK = "session.disable_cpu_ep_fallback"
"""The setting with which a session fails if its provider cannot run a node; otherwise the CPU runs it."""

ort.set_default_logger_severity(ERRORS)  # it warns of every machine without a GPU
OUT_OF_MEMORY = ("failed to allocate memory", "out of memory", "e_outofmemory", "bad allocation", "bad_alloc")
"""What ONNX Runtime's messages contain if a device has no memory left: it has no class for this error."""


def make_options(
    n_threads: int = 1, config: Mapping[str, str] | None = None, *, severity: int = ERRORS
) -> ort.SessionOptions:
    """Return options for a session."""
    options = ort.SessionOptions()
    options.log_severity_level = severity
    options.intra_op_num_threads = n_threads
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    return options


def open_session(
    model: bytes, options: ort.SessionOptions, providers: Sequence[Any], weights: Mapping[str, Array] | None = None
) -> ort.InferenceSession:
    """Return a session that runs a model on these providers.

    Without the fallback of ONNX Runtime's Python package: if a provider fails, it would open the session on the CPU.

    Parameters
    ----------
    model : bytes
        The model.
    options : SessionOptions
        What `make_options` returned.
    providers : sequence of (str, dict or OrtEpDevice)
        The providers with their options, the preferred one first. If it is a plugin, the device instead of options.
    weights : mapping of str to array, optional
        The weights outside the model, by name. ONNX Runtime copies them.
    """
    if providers[0][0] == "DmlExecutionProvider":  # it supports neither of them
        options.enable_mem_pattern = False
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    if weights:
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in weights.items()}
        options.add_external_initializers(list(values), list(values.values()))
    device = providers[0][1]
    if isinstance(device, ort.OrtEpDevice):
        options.add_provider_for_devices([device], {})
        return ort.InferenceSession(model, options, enable_fallback=0)
    return ort.InferenceSession(model, options, providers=list(providers), enable_fallback=0)


def free_unused_memory() -> None:
    """Return memory to the system that was freed, but that glibc keeps for later: after loading, all of the weights."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device had not enough memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in OUT_OF_MEMORY)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; ONNX Runtime adds stack traces."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
