"""Check the options of a backend, and name those that have no effect."""

from __future__ import annotations

from llamafw import BackendContext, BackendOptions, GpuOptions, SettingsError
from llamafw_backends.numba_cpu.cache_types import CACHE_TYPES


def check_options(options: BackendOptions, n_ctx: int) -> None:
    """Raise SettingsError if a type of the KV cache or a size is invalid; slots have ``n_ctx`` positions."""
    for kind in (options.cache_type_k, options.cache_type_v):
        if kind not in CACHE_TYPES:
            raise SettingsError(f"the types of the KV cache are {', '.join(CACHE_TYPES)}, not {kind!r}")

    sizes = {
        "number of slots": options.n_slots,
        "context size": n_ctx,
        "batch size": options.n_batch,
        "ubatch size": min(options.n_ubatch, options.n_batch),
    }
    for name, size in sizes.items():
        if size < 1:
            raise SettingsError(f"the {name} is {size}; it must be at least 1")


def has_int8_activations(options: BackendOptions) -> bool:
    """Return whether ``--numba-activations int8`` is given."""
    return options.extra.get("numba_activations") == "int8"


def log_ignored_flags(context: BackendContext) -> None:
    """Log the flags that have no effect on this backend."""
    options = context.options
    if ignored := _gpu_flags(options.gpu):
        context.log(f"numba backend: it computes on the CPU; {' '.join(ignored)} has no effect (docs/gpu.md)")
    if options.flash_attention is False:
        context.log("numba backend: attention is always computed in blocks; -fa off has no effect")


def _gpu_flags(gpu: GpuOptions) -> list[str]:
    """Return the flags with which options for GPUs were given."""
    default = GpuOptions()
    flags = {
        f"-ngl {gpu.n_layers}": gpu.n_layers != default.n_layers,
        f"-sm {gpu.split_mode}": gpu.split_mode != default.split_mode,
        f"-ts {','.join(f'{share:g}' for share in gpu.tensor_split)}": gpu.tensor_split != default.tensor_split,
        f"-mg {gpu.main_gpu}": gpu.main_gpu != default.main_gpu,
        "-nkvo": gpu.kv_offload != default.kv_offload,
    }
    return [flag for flag, is_given in flags.items() if is_given]
