"""Models in Numba: the CPU backend. docs/kernels.md explains its design.

Files, from the machine upwards, each importing only from those above it:
cpu, cache, emit (LLVM IR), isa (dot products), amx, instruction_sets (the choice), simd (IR as Numba's operations),
records, threads, tiles (weights), matmul, elementwise, embedding, attention, forward (the step), memory, packing,
weights, pace, kv_cache, backend.
"""

from __future__ import annotations

from llamafw import Backend, BackendContext, Register, hookimpl


def open_model(context: BackendContext) -> Backend:
    """Return a backend with the model loaded; ModelError if it cannot run it."""
    from llamafw_backends.numba_cpu.backend import NumbaBackend  # numba takes half a second to import

    return NumbaBackend(context)


@hookimpl
def register_backends(register: Register) -> None:
    """Offer the backend as ``numba``."""
    register("numba", open_model)
