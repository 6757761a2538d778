"""Opens the session of a whole model, with the weights of its builder."""

from __future__ import annotations

from collections.abc import Mapping

import onnxruntime as ort

from llamafw import LlamafwError
from llamafw_backends.onnx.captured_steps import can_capture, is_capture_refused, with_capture
from llamafw_backends.onnx.device_tensors import Device, mib
from llamafw_backends.onnx.model_builder import ModelBuilder
from llamafw_backends.onnx.saved_states import n_bytes
from llamafw_backends.onnx.sessions import (
    ERRORS,
    NOTHING,
    first_line,
    free_unused_memory,
    is_out_of_memory,
    make_options,
    open_session,
)

MANY_SLOTS = 8
TILES = {"ep.cuda.fpa_intb_gemm": "1"}
"""The setting with which CUDA multiplies several rows with codes in tiles; otherwise it multiplies up to 16 rows one by
one, and unpacks matrices for more. With 16 rows this takes half of the time for a large matrix; single rows and prompts
take a fifth to a third longer, and loading takes longer too, because kernels are tried. So it is for many slots."""


def open_model(
    device: Device, builder: ModelBuilder, n_threads: int, n_slots: int, *, poll: bool
) -> tuple[ort.InferenceSession, bool]:
    """Return a session with the model, and whether it can capture steps as graphs.

    The weights in the builder are dropped, because the session has copies.

    Parameters
    ----------
    device : Device
        Where the model runs.
    builder : ModelBuilder
        The model.
    n_threads : int
        The threads that compute on the CPU; 1 on GPUs, where idle threads would take time from others.
    n_slots : int
        How many texts may be computed at once.
    poll : bool
        Whether idle threads wait actively.

    Raises
    ------
    LlamafwError
        The device has not enough memory, or ONNX Runtime cannot open the model.
    """
    config = {
        "session.intra_op.allow_spinning": "1" if poll else "0",
        "session.use_device_allocator_for_initializers": "1",  # the arena would take more than they need
    }
    if device.kind == "cuda" and n_slots >= MANY_SLOTS:
        config |= TILES
    captures, weight_bytes = can_capture(device, builder.input_names), n_bytes(builder.weights.values())
    try:
        if captures:
            try:
                return _open(device, builder, n_threads, config, captures=True), True
            except Exception as error:  # onnxruntime has a class for each kind of failure, and none for all
                if not is_capture_refused(error):
                    raise
        return _open(device, builder, n_threads, config, captures=False), False
    except Exception as error:  # as above
        if is_out_of_memory(error):
            message = f"{device} has not enough memory for {mib(weight_bytes)} of weights"
            raise LlamafwError(f"{message}; take a smaller model or -ngl 0") from error
        raise LlamafwError(f"ONNX Runtime cannot open the model on {device}: {first_line(error)}") from error
    finally:
        builder.weights.clear()
        free_unused_memory()


def _open(
    device: Device, builder: ModelBuilder, n_threads: int, config: Mapping[str, str], *, captures: bool
) -> ort.InferenceSession:
    options = make_options(n_threads, config, severity=NOTHING if captures else ERRORS)
    providers = with_capture(device) if captures else device.providers
    return open_session(builder.build().SerializeToString(), options, providers, builder.weights)
