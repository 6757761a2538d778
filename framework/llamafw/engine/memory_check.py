"""Checks that the KV cache that ``--ctx-size`` asks for fits into the memory of the machine."""

from __future__ import annotations

import psutil

from llamafw.engine.backend_options import backend_options
from llamafw.errors import SettingsError
from llamafw.settings import Settings
from llamafw.types import BackendOptions, Decoder

_ELEMENT_BYTES = {"f16": 2, "f32": 4}
_CTX_STEP = 256  # suggested context sizes are multiples of it


def kv_cache_bytes(decoder: Decoder, options: BackendOptions) -> int:
    """Return the size of the KV cache of all slots.

    Every position has a key and a value of ``n_embd_head`` elements for each of ``n_head_kv`` heads in each layer.
    """
    return options.n_slots * options.n_ctx * _bytes_per_position(decoder, options)


def check_kv_cache_fits(decoder: Decoder, settings: Settings, memory: int | None = None) -> None:
    """Check that the KV cache is not larger than the physical memory.

    Only a context size that the user sets is checked. The default, the whole trained context for each slot, may be
    larger than the memory: the cache takes memory only as it is filled.

    Parameters
    ----------
    decoder : Decoder
        The description of the model.
    settings : Settings
        The server's settings.
    memory : int, optional
        Physical memory in bytes; by default that of this machine.

    Raises
    ------
    SettingsError
        The cache does not fit. The message says how much it needs, how much memory there is, and what would fit.
    """
    if settings.ctx_size == 0:
        return
    if memory is None:
        memory = psutil.virtual_memory().total
    options = backend_options(settings, decoder.n_ctx_train)
    needed = kv_cache_bytes(decoder, options)
    if needed <= memory:
        return

    slots = f"{options.n_slots} slots of {options.n_ctx} tokens" if options.n_slots > 1 else f"{options.n_ctx} tokens"
    suggestion = _suggestion(memory // _bytes_per_position(decoder, options), options.n_slots)
    raise SettingsError(
        f"-c {settings.ctx_size} needs {_gib(needed)} for the KV cache ({slots}), but this machine has {_gib(memory)} "
        f"of memory; {suggestion}"
    )


def _bytes_per_position(decoder: Decoder, options: BackendOptions) -> int:
    elements = decoder.n_layer * decoder.n_head_kv * decoder.n_embd_head
    return elements * (_ELEMENT_BYTES[options.cache_type_k] + _ELEMENT_BYTES[options.cache_type_v])


def _suggestion(n_positions: int, n_slots: int) -> str:
    """Return which flags fit into memory for ``n_positions`` positions."""
    n_ctx = n_positions // _CTX_STEP * _CTX_STEP or n_positions
    if n_ctx == 0:
        return "no context of this model fits"
    if n_ctx < n_slots:
        return f"-c {n_ctx} -np {n_ctx} would fit"
    share = f" ({n_ctx // n_slots} tokens for each slot; a smaller -np gives each slot more)" if n_slots > 1 else ""
    return f"-c {n_ctx} would fit{share}"


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"
