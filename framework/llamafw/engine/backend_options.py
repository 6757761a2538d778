"""Translates settings into the options of a backend."""

from __future__ import annotations

from llamafw.errors import SettingsError
from llamafw.settings import Settings
from llamafw.types import BackendOptions, GpuOptions, ThreadOptions

DEFAULT_SLOTS = 4  # as in llama-server: a user's chat and the request for its title need not wait for each other


ENCODER_SLOTS = 64
"""Texts that an encoder can compute in one batch; its slots keep nothing, so they need no memory."""


def backend_options(settings: Settings, n_ctx_train: int, *, is_encoder: bool = False) -> BackendOptions:
    """Return the backend's options for a model that was trained on ``n_ctx_train`` positions.

    ``-c`` is the number of positions of all slots together, as in llama-server; for encoders it is that of each text.
    Without ``-c`` and ``-np`` each slot gets the model's whole context; backends only use memory for positions that are
    filled.

    Raises
    ------
    SettingsError
        ``-c`` is too small for the number of slots.
    """
    n_slots = settings.parallel or (ENCODER_SLOTS if is_encoder else DEFAULT_SLOTS)
    n_ctx = settings.ctx_size or n_ctx_train
    if not is_encoder:
        n_ctx = (settings.ctx_size or n_ctx_train) // n_slots if settings.ctx_size or settings.parallel else n_ctx_train
    if n_ctx < 1:
        raise SettingsError(f"-c {settings.ctx_size} is too small for {n_slots} slots (-np)")
    threads = ThreadOptions(
        _union(settings.cpu_mask, settings.cpu_range) or frozenset(),
        bool(settings.cpu_strict),
        settings.prio,
        settings.poll,
    )
    return BackendOptions(
        n_slots=n_slots,
        n_ctx=n_ctx,
        n_batch=settings.batch_size,
        n_ubatch=min(settings.ubatch_size, settings.batch_size),
        n_threads=max(settings.threads, 0),
        n_threads_batch=max(settings.threads_batch, 0),
        cache_type_k=settings.cache_type_k,  # type: ignore[arg-type]  # checked against the choices
        cache_type_v=settings.cache_type_v,  # type: ignore[arg-type]  # as above
        n_snapshots=settings.ctx_checkpoints,
        swa_full=settings.swa_full,
        threads=threads,
        threads_batch=_batch_threads(settings, threads),
        numa=settings.numa,  # type: ignore[arg-type]  # as above
        lock_memory=settings.mlock,
        flash_attention=settings.flash_attn,
        gpu=_gpu_options(settings),
        extra=settings.extra,
    )


def _batch_threads(settings: Settings, threads: ThreadOptions) -> ThreadOptions:
    """Return ``threads`` with the changes that the flags ending in ``-batch`` make."""
    cpus = _union(settings.cpu_mask_batch, settings.cpu_range_batch)
    strict, priority, poll = settings.cpu_strict_batch, settings.prio_batch, settings.poll_batch
    return ThreadOptions(
        threads.cpus if cpus is None else cpus,
        threads.strict if strict is None else bool(strict),
        threads.priority if priority is None else priority,
        threads.poll if poll is None else poll,
    )


def _union(mask: frozenset[int] | None, span: frozenset[int] | None) -> frozenset[int] | None:
    return mask if span is None else span | (mask or frozenset())


def _gpu_options(settings: Settings) -> GpuOptions:
    return GpuOptions(
        n_layers=settings.gpu_layers,
        split_mode=settings.split_mode,  # type: ignore[arg-type]  # checked against the choices
        tensor_split=settings.tensor_split,
        main_gpu=settings.main_gpu,
        kv_offload=settings.kv_offload,
    )
