"""The CPU backend: graphs of any architecture in Numba. docs/kernels.md explains its design.

The modules, each of which imports only modules before it:
cpu (features of the processor), cache (folders of compiled code), kernel_compiler, emit (LLVM IR), memory, isa (dot
products), amx, short_sums (of 16 bits), instruction_sets (choice of one), simd (IR as Numba operations),
kernel_records, threads, tables (of 16 numbers), tiles (how weights are stored and multiplied), formats (tensor types,
one per module), kernel_api (for tensor types of plugins), unpacked (tiles as bytes), matmul, elementwise,
token_embedding, row_kernels, row_reductions, phases (rows and products), experts, hadamard (rotation of heads),
cache_rounding, cache_types (of keys and values), pages (of slots), text_pages (of encoders), runs (of pages), softmax,
attention_emit, value_emit, attention, recurrence (what recurrent operators share), convolution, linear_attention_emit,
linear_attention, selective_scan, plugin_operators, forward (a step through all phases), packing, options, weights,
units (of work), kept_rows (all rows of a step), rotations, fusion (what is computed together), cache_arrays, ring,
key_rotation, kv_cache, grouped_keys, slot_states, slots, slot_owner, row_lowering, mixing_lowering, operator_lowering,
lowering (from a graph to units), schedule (from units to phases), assembly (from phases to records), steps (of a
graph), step_text, thread_tuner, placement, backend.
"""

from __future__ import annotations

from argparse import ArgumentParser

from llamafw import Backend, BackendContext, Model, Register, Settings, hookimpl


class NumbaFactory:
    """The backend's factory: loads models, and describes their steps."""

    def __call__(self, context: BackendContext) -> Backend:
        """Load a model and return its backend.

        See `NumbaBackend` for the errors.
        """
        from llamafw_backends.numba_cpu.backend import NumbaBackend  # here, because importing numba takes half a second

        return NumbaBackend(context)

    def describe_step(self, context: BackendContext) -> str:
        """Return what ``llamafw graph --step`` prints; see `step_text`."""
        from llamafw_backends.numba_cpu.step_text import describe_step  # here, as above

        return describe_step(context)

    def variants(self) -> list[dict[str, str]]:
        """Return the environment variables that select the instruction sets of this processor."""
        from llamafw_backends.numba_cpu.instruction_sets import INSTRUCTION_SETS  # here, as above

        return [{"LLAMAFW_ISA": name} for name, isa in INSTRUCTION_SETS.items() if isa.available()]

    def given_flags(self, settings: Settings) -> list[str]:
        """Return the flag of this backend, if it is given."""
        name = settings.extra.get("numba_activations")
        return [f"--numba-activations {name}"] if name else []


open_model = NumbaFactory()


@hookimpl
def register_backends(register: Register) -> None:
    """Register the backend as ``numba``."""
    register("numba", open_model)


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    """Add ``--numba-activations``."""
    parser.add_argument(
        "--numba-activations",
        choices=("int15", "int8"),
        help="what quantised weights are multiplied with on CPUs: activations rounded to 15 bits, or to 8 bits, which "
        "reads prompts about 1.6 times as fast and changes the likeliest token at one of twenty positions; with int8, "
        "activations of BF16 weights are rounded to bfloat16, which is faster with AVX-512 BF16 only (default: int15); "
        "the flag selects --backend numba",
    )


@hookimpl(tryfirst=True)
def choose_backend(model: Model, settings: Settings) -> str | None:
    """Choose this backend if its flag is given."""
    return "numba" if settings.extra.get("numba_activations") else None
