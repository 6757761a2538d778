"""Allocate the KV cache and the buffers of a model, and run batches with `forward`."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from llamafw import (
    BackendContext,
    BackendOptions,
    Batch,
    Bytes,
    Decoder,
    Floats,
    GpuOptions,
    LlamafwError,
    RequestError,
    SettingsError,
)
from llamafw_backends.numba_cpu import attention, forward, instruction_sets, isa
from llamafw_backends.numba_cpu.cpu import physical_cores
from llamafw_backends.numba_cpu.emit import LANES
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.kernel_records import PLAN, new_records
from llamafw_backends.numba_cpu.kv_cache import KVCache
from llamafw_backends.numba_cpu.memory import Arena, align_up, padded_context
from llamafw_backends.numba_cpu.placement import Placement
from llamafw_backends.numba_cpu.thread_tuner import ThreadTuner
from llamafw_backends.numba_cpu.threads import MAX_THREADS, Pool
from llamafw_backends.numba_cpu.token_embedding import NO_KERNEL
from llamafw_backends.numba_cpu.weights import Weights, check_supported


class NumbaBackend:
    """A `llamafw.Backend` that runs a model on the CPU.

    Raises
    ------
    ModelError
        The kernels do not support the model's sizes, activation, tensor roles or tensor types.
    SettingsError
        An option is invalid, or LLAMAFW_ISA names an instruction set that this processor does not have.
    """

    exact, whole_texts, can_cut, can_shift = True, False, True, True

    def __init__(self, context: BackendContext) -> None:
        options, decoder = context.options, context.decoder
        check_supported(decoder)
        self.n_slots, self.n_batch, self.n_vocab = options.n_slots, options.n_batch, decoder.n_vocab
        self.n_ctx, self.n_embd = options.n_ctx or decoder.n_ctx_train, decoder.n_embd
        self.state_format = "numba-1"  # the layout of `KVCache.save`; the same for every instruction set
        self._n_ubatch = min(options.n_ubatch, options.n_batch)

        self._check_options(options)
        self._n_threads = options.n_threads if options.n_threads > 0 else physical_cores()
        self._n_threads_batch = options.n_threads_batch if options.n_threads_batch > 0 else self._n_threads
        self._thread_tuner = ThreadTuner(self._n_threads)

        n_threads = max(self._n_threads, self._n_threads_batch)
        if n_threads > MAX_THREADS:
            raise SettingsError(f"the numba backend can use at most {MAX_THREADS} threads, not {n_threads}")
        self._isa = instruction_sets.choose_instruction_set()
        self._cache_types = f"{options.cache_type_k}/{options.cache_type_v}"

        compiler = KernelCompiler(context.log)
        self._pool = Pool(n_threads, compiler)
        self._close = weakref.finalize(self, self._pool.close)
        try:
            self._placement = Placement.from_options(self._pool, options, context.log)
            n_rep = decoder.n_head // decoder.n_head_kv  # query heads per KV head
            self._forward = compiler("forward", 5, forward.forward).ctypes
            self._step = compiler("step", 2, forward.step)
            self._attention = attention.build(
                compiler, n_rep, decoder.n_embd_head, options.cache_type_k, options.cache_type_v
            )
            if self._placement:
                self._placement.place(prompts=True)  # first, because memory is on the node that first writes to it
            self._weights = Weights(context, self._isa, self._pool, compiler)
            if options.lock_memory:
                self._lock_weights(context.log)

            self._plan = new_records(PLAN)
            self._plan_address = int(self._plan.ctypes.data)
            self._allocate_cache(decoder, options)
            self._allocate_buffers(decoder, n_rep, n_threads)
            self._describe_model(decoder, n_rep)
        except BaseException:
            self.close()
            raise
        compiler.remove_unused(self._isa.name)

        if (gpu := options.gpu) != GpuOptions():
            context.log(f"numba backend: it computes on the CPU and ignores {gpu}")
        if options.flash_attention is False:
            context.log("numba backend: attention is always computed in blocks; -fa off has no effect")
        context.log(
            f"numba backend: {self._isa.name}, {self._n_threads} threads ({self._n_threads_batch} for prompts), "
            f"{self._weights.n_bytes / 1e6:.0f} MB of weights packed in {self._weights.seconds:.1f} s, "
            f"kernels ready in {compiler.seconds:.1f} s"
        )

    def _check_options(self, options: BackendOptions) -> None:
        """Raise SettingsError if a type of the KV cache or a size is invalid."""
        for kind in (options.cache_type_k, options.cache_type_v):
            if kind not in attention.ELEMENT_BYTES:
                raise SettingsError(
                    f"the numba backend can store the KV cache as {' or '.join(attention.ELEMENT_BYTES)}, not {kind!r}"
                )

        sizes = {
            "number of slots": self.n_slots,
            "context size": self.n_ctx,
            "batch size": self.n_batch,
            "ubatch size": self._n_ubatch,
        }
        for name, size in sizes.items():
            if size < 1:
                raise SettingsError(f"the {name} is {size}; it must be at least 1")

    def _lock_weights(self, log: Callable[[str], None]) -> None:
        """Lock the weights in memory; log a line if the operating system refuses."""
        try:
            self._weights.arena.lock()
        except OSError as error:
            log(f"numba backend: the weights cannot be locked in memory: {error}; see ulimit -l")

    def _allocate_cache(self, decoder: Decoder, options: BackendOptions) -> None:
        """Allocate the KV cache, and write its addresses and strides into the plan."""
        head_size, n_head_kv, n_ctx = decoder.n_embd_head, decoder.n_head_kv, padded_context(self.n_ctx)
        types = options.cache_type_k, options.cache_type_v
        key_head, value_head = (n_ctx * head_size * attention.ELEMENT_BYTES[kind] for kind in types)
        key_slot, value_slot = (head * n_head_kv * decoder.n_layer for head in (key_head, value_head))

        # no huge pages: the first token would use one for each head of each layer
        n_bytes = self.n_slots * (key_slot + value_slot) + 2 * LANES * 4
        try:
            self._cache = Arena(n_bytes)
        except (OSError, OverflowError) as exc:
            raise SettingsError(
                f"a KV cache of {n_bytes / 1e9:.1f} GB cannot be allocated: {exc}; use a smaller context (-c) or fewer "
                "slots (-np)"
            ) from exc

        keys, values = self._cache.allocate(self.n_slots * key_slot), self._cache.allocate(self.n_slots * value_slot)
        key_type, value_type = ({"f16": np.float16, "f32": np.float32}[kind] for kind in types)
        heads = self.n_slots, decoder.n_layer, n_head_kv
        self._kv = KVCache(
            self._cache.view(keys, (*heads, n_ctx // LANES, head_size, LANES), key_type),
            self._cache.view(values, (*heads, n_ctx, head_size), value_type),
            decoder.rope_frequencies,
        )

        self._write_plan(
            keys=keys,
            values=values,
            key_slot=key_slot,
            key_layer=key_head * n_head_kv,
            key_head=key_head,
            value_slot=value_slot,
            value_layer=value_head * n_head_kv,
            value_head=value_head,
            n_scores=n_ctx,
        )

    def _allocate_buffers(self, decoder: Decoder, n_rep: int, n_threads: int) -> None:
        """Allocate the buffers of a step, and write their addresses and strides into the plan."""
        n, n_ctx, n_embd = self._n_ubatch, padded_context(self.n_ctx), decoder.n_embd
        q_stride, kv_stride = (4 * n_heads * decoder.n_embd_head for n_heads in (decoder.n_head, decoder.n_head_kv))
        widest = max(n_embd, decoder.n_head * decoder.n_embd_head)  # columns of activations, except ffn_down's
        n_logits = -(-decoder.n_vocab // LANES) * LANES
        attention_scratch = attention.scratch_bytes(n_rep, decoder.n_embd_head, n_ctx)
        scratch = align_up(max(4 * n_embd, attention_scratch, 8 * max(forward.FFN_FLOATS, 32 * n)))
        rope = rope_table(decoder.rope_frequencies, decoder.rope_magnitude, n_ctx)
        n_rows = max(n, n_threads)  # each thread may have its own row of activations

        sizes = {
            "x": n * 4 * n_embd,
            "q": n * q_stride,
            "k": n * kv_stride,
            "v": n * kv_stride,
            "attention_out": n * q_stride,
            "records": n_rows * widest * isa.RECORD_BYTES // 32,
            "floats": 4 * n_rows * widest,
            "ffn_records": n * decoder.n_ff * isa.RECORD_BYTES // 32,
            "ffn_floats": 4 * n * decoder.n_ff,
            "scratch": scratch * n_threads,
            "items": 16 * n,
            "tokens": 8 * self.n_batch,
            "positions": 8 * self.n_batch,
            "slots": 8 * self.n_batch,
            "outputs": 8 * self.n_batch,
            "filled": 8 * self.n_slots,
            "rope": rope.nbytes,
            "widths": 8 * len(self._isa.widths),
            "hidden": self.n_batch * 4 * n_embd,
            "logits": self.n_batch * 4 * n_logits,
        }
        self._buffers = Arena(sum(align_up(n_bytes) + 64 for n_bytes in sizes.values()))
        for name, n_bytes in sizes.items():
            self._plan[name] = self._buffers.allocate(n_bytes + 64)

        self._tokens, self._positions, self._slots, self._outputs = (
            self._view(name, (self.n_batch,), np.int64) for name in ("tokens", "positions", "slots", "outputs")
        )
        self._logits = self._view("logits", (self.n_batch, n_logits), np.float32)
        self._filled = self._view("filled", (self.n_slots,), np.int64)
        self._hidden = self._view("hidden", (self.n_batch, n_embd), np.float32)
        self._hidden_address = int(self._plan["hidden"][0])
        self._view("rope", rope.shape, np.float32)[...] = rope
        self._view("widths", (len(self._isa.widths),), np.int64)[...] = self._isa.widths

        self._write_plan(
            hidden=0,  # logits are requested
            q_stride=q_stride,
            kv_stride=kv_stride,
            scratch_stride=scratch,
            records_stride=widest * isa.RECORD_BYTES // 32,
            floats_stride=4 * widest,
            logits_stride=4 * n_logits,
        )

    def _describe_model(self, decoder: Decoder, n_rep: int) -> None:
        """Write the model, its weights and the kernels into the plan."""
        embedding, embedding_row, embedding_kind = self._weights.embedding
        self._embedded = None  # rows of the embedding that Python unpacks, if there is no kernel for their type
        if embedding_kind == NO_KERNEL:
            self._embedded = np.zeros((self.n_batch, decoder.n_embd), np.float32)
            self._write_plan(embedded=self._embedded.ctypes.data)

        self._write_plan(
            n_layer=decoder.n_layer,
            n_embd=decoder.n_embd,
            n_head=decoder.n_head,
            n_head_kv=decoder.n_head_kv,
            head_size=decoder.n_embd_head,
            n_ff=decoder.n_ff,
            n_vocab=decoder.n_vocab,
            n_rot=2 * len(decoder.rope_frequencies),
            norm_eps=decoder.norm_eps,
            attention_scale=decoder.attention_scale,
            layers=self._weights.layers.ctypes.data,
            output_norm=self._weights.output_norm,
            output=self._weights.output,
            embedding=embedding,
            embedding_row=embedding_row,
            embedding_kind=embedding_kind,
            step=self._step.address,
            pool=self._pool.address,
            attention=self._attention.address,
            max_tokens=attention.rows_at_once(n_rep)[1],
            n_slots=self.n_slots,
            n_ctx=self.n_ctx,
            n_ubatch=self._n_ubatch,
        )

    def _write_plan(self, **fields: float) -> None:
        for name, value in fields.items():
            self._plan[name] = value

    def _view(self, name: str, shape: tuple[int, ...], kind: Any) -> npt.NDArray[Any]:
        return self._buffers.view(int(self._plan[name][0]), shape, kind)

    # --- the protocol `llamafw.Backend` -------------------------------------------------------------

    def forward(self, batch: Batch) -> Floats:
        """Return the logits of ``batch.outputs``, ``(m, n_vocab)`` float32, valid until the next call.

        Raises
        ------
        RequestError
            A token, slot or position is out of range, or a slot would have a gap. Nothing was computed.
        """
        self._run(batch)
        return self._logits[: len(batch.outputs), : self.n_vocab]

    def hidden(self, batch: Batch) -> Floats:
        """Return the hidden states of ``batch.outputs`` after the output norm, ``(m, n_embd)`` float32.

        The rules of `forward` apply.
        """
        self._plan["hidden"] = self._hidden_address
        try:
            self._run(batch)
        finally:
            self._plan["hidden"] = 0
        return self._hidden[: len(batch.outputs)]

    def _run(self, batch: Batch) -> None:
        """Compute a batch into the buffers, and record how long it took."""
        n, m = len(batch.tokens), len(batch.outputs)
        if not 0 < n <= self.n_batch or len(batch.positions) != n or len(batch.slots) != n or m > n:
            raise RequestError(
                f"the batch has {n} tokens, {len(batch.positions)} positions, {len(batch.slots)} slots and {m} "
                f"outputs; it must have 1 to {self.n_batch} tokens, with one position and one slot each"
            )

        # copied to fixed addresses, because asking an array for its address takes longer
        self._tokens[:n], self._positions[:n], self._slots[:n] = batch.tokens, batch.positions, batch.slots
        self._outputs[:m] = batch.outputs
        if self._embedded is not None and ((tokens := self._tokens[:n]) >= 0).all() and (tokens < self.n_vocab).all():
            self._weights.embed(tokens, self._embedded[:n])
        if self._placement:
            self._placement.place(prompts=len(np.unique(self._slots[:n])) < n)

        n_threads, started = self._thread_tuner.choose(n), time.perf_counter()
        n_runs = self._forward(self._plan_address, n, m, n_threads, self._n_threads_batch)
        if n_runs <= 0:
            self._raise_fault(*divmod(-n_runs, 8))
        if n_runs == n:  # one token per slot
            self._thread_tuner.record(n, n_threads, time.perf_counter() - started)

    def _raise_fault(self, i: int, fault: int) -> NoReturn:
        """Raise an error for element ``i`` of the batch; ``fault`` is one of those that `forward` finds."""
        raise RequestError(
            {
                forward.BAD_TOKEN: f"token {self._tokens[i]} is not in the vocabulary of {self.n_vocab} tokens",
                forward.BAD_SLOT: self._missing_slot(self._slots[i]),
                forward.BAD_POSITION: f"position {self._positions[i]} is not in the context of {self.n_ctx} tokens",
                forward.BAD_ORDER: f"position {self._positions[i]} does not continue slot {self._slots[i]}",
                forward.BAD_OUTPUT: f"output {self._outputs[i]} is not an index of the batch above the previous one",
            }[fault]
        )

    def truncate(self, slot: int, n: int) -> int:
        """Remove all positions of ``slot`` from ``n`` on; return how many are left."""
        n_positions = self._n_positions(slot)
        if n < 0:
            raise LlamafwError(f"slot {slot} cannot be truncated to {n} positions")
        self._filled[slot] = n_left = min(n_positions, n)
        return n_left

    def shift(self, slot: int, first: int, n: int) -> None:
        """Remove positions ``first`` … ``first + n - 1`` of ``slot``; later ones move down, with their keys rotated."""
        end = self._n_positions(slot)
        if first < 0 or n < 0 or first + n > end:
            raise LlamafwError(f"{n} positions from {first} on cannot be removed from slot {slot}, which has {end}")
        self._kv.shift(slot, first, n, end)
        self._filled[slot] = end - n

    def state_size(self, n: int) -> int:
        """Return the size in bytes of the state of ``n`` positions."""
        return self._kv.state_size(n)

    def save(self, slot: int, n: int) -> Bytes:
        """Return a copy of the state of the first ``n`` positions of ``slot``, (n_bytes,) uint8."""
        if not 0 <= n <= (n_positions := self._n_positions(slot)):
            raise LlamafwError(f"{n} positions of slot {slot} cannot be saved, because it has {n_positions}")
        return self._kv.save(slot, n)

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        """Replace the contents of ``slot`` by ``n`` positions that `save` returned.

        Raises
        ------
        LlamafwError
            The slot does not exist, or the state does not have the size of ``n`` positions.
        """
        self._n_positions(slot)  # raises an error if the slot does not exist
        if not 0 <= n <= self.n_ctx:
            raise LlamafwError(f"{n} positions do not fit into the context of {self.n_ctx}")
        self._kv.restore(slot, n, state)
        self._filled[slot] = n

    def _n_positions(self, slot: int) -> int:
        """Return the number of positions in ``slot``; raise LlamafwError if it does not exist."""
        if not 0 <= slot < self.n_slots:
            raise LlamafwError(self._missing_slot(slot))
        return int(self._filled[slot])

    def _missing_slot(self, slot: int) -> str:
        return f"slot {slot} does not exist: slots are numbered from 0 to {self.n_slots - 1}"

    def describe(self) -> Mapping[str, Any]:
        """Return facts for logs and ``llamafw bench``."""
        return {
            "backend": "numba",
            "isa": self._isa.name,
            "n_threads": self._n_threads,
            "n_threads_batch": self._n_threads_batch,
            "weight_bytes": self._weights.n_bytes,
            "weight_types": sorted(self._weights.kernels),
            "cache_bytes": self._cache.n_bytes,
            "cache_types": self._cache_types,
        }

    def close(self) -> None:
        """Stop the threads; memory is freed with the last reference to the backend."""
        self._close()


def rope_table(frequencies: npt.NDArray[np.float64], magnitude: float, n_ctx: int) -> Floats:
    """Return the cosines and sines of each position, (n_ctx, 2, n_rot // 2) float32 (Su et al. 2021)."""
    angles = np.arange(n_ctx)[:, None] * frequencies
    return (np.stack([np.cos(angles), np.sin(angles)], axis=1) * magnitude).astype(np.float32)
