"""Plan the steps of a model, allocate the KV cache and the buffers, and run batches with `forward`."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from llamafw import (
    BackendContext,
    BackendOptions,
    Batch,
    Bytes,
    CachePages,
    Floats,
    GpuOptions,
    ModelError,
    RequestError,
    SettingsError,
)
from llamafw_backends.numba_cpu import forward, instruction_sets
from llamafw_backends.numba_cpu.assembly import Assembly, Step
from llamafw_backends.numba_cpu.cache_types import CACHE_TYPES
from llamafw_backends.numba_cpu.cpu import physical_cores
from llamafw_backends.numba_cpu.emit import LANES
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.kernel_records import HIDDEN, LOGITS, PLAN, address_of, new_records
from llamafw_backends.numba_cpu.kv_cache import KVCache
from llamafw_backends.numba_cpu.lowering import Lowering
from llamafw_backends.numba_cpu.memory import Arena, align_up
from llamafw_backends.numba_cpu.mixing_lowering import key_rotations
from llamafw_backends.numba_cpu.pages import PAGE
from llamafw_backends.numba_cpu.placement import Placement
from llamafw_backends.numba_cpu.rotations import Rotations
from llamafw_backends.numba_cpu.schedule import Schedule, schedule
from llamafw_backends.numba_cpu.slot_states import SlotStates
from llamafw_backends.numba_cpu.slots import Slots
from llamafw_backends.numba_cpu.thread_tuner import ThreadTuner
from llamafw_backends.numba_cpu.threads import MAX_THREADS, Pool
from llamafw_backends.numba_cpu.weights import Weights


class NumbaBackend:
    """A `llamafw.Backend` that runs a model on the CPU.

    Raises
    ------
    ModelError
        The kernels do not support an operator of the model, its sizes, or a tensor's type.
    SettingsError
        An option is invalid, or LLAMAFW_ISA names an instruction set that this processor does not have.
    """

    exact, whole_texts = True, False

    def __init__(self, context: BackendContext) -> None:
        options, graph = context.options, context.graph
        if not graph.causal:
            raise ModelError("the numba backend cannot run models whose tokens depend on later tokens")
        self.n_slots, self.n_batch = options.n_slots, options.n_batch
        self.n_ctx, self.n_embd = options.n_ctx or graph.n_ctx_train, graph.hidden.shape[0]
        self.state_format = "numba-3"  # the layout of `Slots.save`; the same for every instruction set
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

        self._weights = Weights(context)
        self._rotation_tables = rotations = Rotations(self.n_ctx)
        logits, hidden = (
            Lowering(graph, result, self._weights, rotations, self.n_batch)
            for result in (graph.logits or graph.hidden, graph.hidden)
        )
        self.n_vocab = graph.n_vocab
        self._n_tokens = logits.n_tokens
        schedules = [schedule(one.units, self._n_ubatch, n_threads) for one in (logits, hidden)]

        self._compiler = compiler = KernelCompiler(context.log)  # kept, because it keeps the kernels
        self._pool = Pool(n_threads, compiler)
        self._close = weakref.finalize(self, self._pool.close)
        try:
            self._placement = Placement.from_options(self._pool, options, context.log)
            self._forward = compiler("forward", 5, forward.forward).ctypes
            self._step = compiler("step", 2, forward.step)
            if self._placement:
                self._placement.place(prompts=True)  # first, because memory is on the node that first writes to it
            self._weights.place(self._isa, self._pool, compiler)
            with ThreadPoolExecutor(1, "llamafw-numba-pack") as executor:  # while other kernels are compiled
                packing = executor.submit(self._weights.pack)
                self._make_steps(context, schedules, logits, n_threads)
                packing.result()
            if options.lock_memory:
                self._lock_weights(context.log)
        except BaseException:
            self.close()
            raise
        compiler.remove_unused(self._isa.name)
        self._weights.report(context.log)

        if ignored := _gpu_flags(options.gpu):
            context.log(f"numba backend: it computes on the CPU; {' '.join(ignored)} has no effect")
        if options.flash_attention is False:
            context.log("numba backend: attention is always computed in blocks; -fa off has no effect")
        context.log(
            f"numba backend: {self._isa.name}, {self._n_threads} threads ({self._n_threads_batch} for prompts), "
            f"{self._weights.n_bytes / 1e6:.0f} MB of weights packed in {self._weights.seconds:.1f} s, "
            f"kernels ready in {compiler.seconds:.1f} s"
        )

    def _make_steps(self, context: BackendContext, schedules: list[Schedule], logits: Lowering, n_threads: int) -> None:
        """Allocate what slots and steps need, and compile the kernels of the steps."""
        options, compiler = context.options, self._compiler
        types = options.cache_type_k, options.cache_type_v
        n_ubatch = None if options.swa_full else self._n_ubatch
        layouts = [layout for _, layout in logits.caches]
        self._kv = KVCache(layouts, self.n_slots, self.n_ctx, types, compiler, n_ubatch)
        self._plan = new_records(PLAN)
        self._plan_address = address_of(self._plan)
        self._allocate(schedules)
        self._write_plan(writable=int(self._kv.pages.writable.ctypes.data))
        self._states = SlotStates(
            self.n_slots,
            logits.state_bytes,
            self._kv.rings,
            options.n_snapshots,
            can_go_back=logits.can_go_back,
        )
        states = self._states.address, logits.state_bytes
        self._slot_contents = Slots(self._filled, self._kv, self._states, key_rotations(logits), self.n_ctx)
        self.can_cut, self.can_shift = self._slot_contents.can_cut, self._slot_contents.can_shift
        results = (LOGITS, int(self._plan["logits_stride"][0])), (HIDDEN, int(self._plan["hidden_stride"][0]))
        self._logits_step, self._hidden_step = (
            Assembly(one, self._memory, self._kv, states, compiler, self._isa, self._n_ubatch, kind, stride).step
            for one, (kind, stride) in zip(schedules, results, strict=True)
        )
        self._allocate_scratch(n_threads)
        self._chosen_step: Step | None = None

    def _check_options(self, options: BackendOptions) -> None:
        """Raise SettingsError if a type of the KV cache or a size is invalid."""
        for kind in (options.cache_type_k, options.cache_type_v):
            if kind not in CACHE_TYPES:
                raise SettingsError(f"the types of the KV cache are {', '.join(CACHE_TYPES)}, not {kind!r}")

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

    def _allocate(self, schedules: list[Schedule]) -> None:
        """Allocate the buffers of the steps, the batch and the results, and write their addresses into the plan."""
        n_logits = -(-max(self.n_vocab, self.n_embd) // LANES) * LANES  # without logits, hidden states take their place
        n_hidden = -(-self.n_embd // LANES) * LANES
        sizes = {
            "spans": 32 * self._n_ubatch,
            "tokens": 8 * self.n_batch,
            "positions": 8 * self.n_batch,
            "slots": 8 * self.n_batch,
            "outputs": 8 * self.n_batch,
            "filled": 8 * self.n_slots,
            "widths": 8 * len(self._isa.widths),
            "logits": self.n_batch * 4 * n_logits,
            "hidden": self.n_batch * 4 * n_hidden,
        }
        n_bytes = self._step_bytes = align_up(max(one.n_bytes for one in schedules))
        self._buffers = Arena(n_bytes + sum(align_up(size + 64) for size in sizes.values()) + 64)
        self._memory = self._buffers.allocate(n_bytes)
        for name, size in sizes.items():
            self._plan[name] = self._buffers.allocate(size + 64)

        self._tokens, self._positions, self._slots, self._outputs = (
            self._view(name, (self.n_batch,), np.int64) for name in ("tokens", "positions", "slots", "outputs")
        )
        self._logits = self._view("logits", (self.n_batch, n_logits), np.float32)
        self._hidden = self._view("hidden", (self.n_batch, n_hidden), np.float32)
        self._filled = self._view("filled", (self.n_slots,), np.int64)
        self._view("widths", (len(self._isa.widths),), np.int64)[...] = self._isa.widths
        self._write_plan(
            logits_stride=4 * n_logits,
            hidden_stride=4 * n_hidden,
            step=self._step.address,
            pool=self._pool.address,
            n_vocab=self._n_tokens,
            n_slots=self.n_slots,
            n_ctx=self.n_ctx,
            n_ubatch=self._n_ubatch,
        )

    def _allocate_scratch(self, n_threads: int) -> None:
        """Allocate the buffers of the threads."""
        n_bytes = align_up(max(step.scratch_bytes for step in (self._logits_step, self._hidden_step)) + 128)
        self._scratch = Arena(n_bytes * n_threads)
        self._write_plan(scratch=self._scratch.allocate(n_bytes * n_threads), scratch_stride=n_bytes)

    def _choose_step(self, step: Step) -> None:
        """Let the next batch run a step."""
        if step is not self._chosen_step:
            self._write_plan(phases=address_of(step.phases), n_phases=len(step.phases))
            self._chosen_step = step

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
        self._run(batch, self._logits_step)
        return self._logits[: len(batch.outputs), : self.n_vocab]

    def hidden(self, batch: Batch) -> Floats:
        """Return the hidden states of ``batch.outputs`` after the output norm, ``(m, n_embd)`` float32.

        The rules of `forward` apply.
        """
        self._run(batch, self._hidden_step)
        return self._hidden[: len(batch.outputs), : self.n_embd]

    def _run(self, batch: Batch, step: Step) -> None:
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
        self._unpack_embeddings(n)
        self._slot_contents.go_back(self._slots[:n], self._positions[:n])
        self._choose_step(step)
        if self._placement:
            self._placement.place(prompts=len(np.unique(self._slots[:n])) < n)

        n_threads, started = self._thread_tuner.choose(n), time.perf_counter()
        n_runs = self._forward(self._plan_address, n, m, n_threads, self._n_threads_batch)
        if n_runs <= 0 and -n_runs % 8 == forward.NOT_WRITABLE:
            self._slot_contents.reserve(self._slots[:n], self._positions[:n])
            n_runs = self._forward(self._plan_address, n, m, n_threads, self._n_threads_batch)
        if n_runs <= 0:
            self._raise_fault(*divmod(-n_runs, 8))
        self._slot_contents.advance(self._slots[:n])
        if n_runs == n:  # one token per slot
            self._thread_tuner.record(n, n_threads, time.perf_counter() - started)

    def _unpack_embeddings(self, n: int) -> None:
        """Unpack the rows that the batch needs of embeddings whose type has no kernel."""
        tokens = self._tokens[:n]
        for table in self._weights.tables.values():
            if table.unpacked is not None and ((tokens >= 0) & (tokens < len(table.rows))).all():
                self._weights.unpack_rows(table, tokens)

    def _raise_fault(self, i: int, fault: int) -> NoReturn:
        """Raise an error for element ``i`` of the batch; ``fault`` is one of those that `forward` finds."""
        raise RequestError(
            {
                forward.BAD_TOKEN: f"token {self._tokens[i]} is not in the vocabulary of {self._n_tokens} tokens",
                forward.BAD_SLOT: self._slot_contents.missing(self._slots[i]),
                forward.BAD_POSITION: f"position {self._positions[i]} is not in the context of {self.n_ctx} tokens",
                forward.BAD_ORDER: f"position {self._positions[i]} does not continue slot {self._slots[i]}",
                forward.BAD_OUTPUT: f"output {self._outputs[i]} is not an index of the batch above the previous one",
            }[fault]
        )

    def truncate(self, slot: int, n: int) -> int:
        """Remove all positions of ``slot`` from ``n`` on; return how many are left."""
        return self._slot_contents.truncate(slot, n)

    def share_prefix(self, source: int, target: int, n: int) -> None:
        """Replace the contents of ``target`` by the first ``n`` positions of ``source``; see `Slots.share_prefix`."""
        self._slot_contents.share_prefix(source, target, n)

    def page_counts(self) -> CachePages:
        """Return how many pages of the KV cache are used."""
        pages = self._kv.pages
        return CachePages(PAGE, pages.n_used, pages.n_shared, pages.n_touched, pages.n_total)

    def take_snapshot(self, slot: int) -> None:
        """Keep a copy of what cannot be cut of ``slot``, for `truncate`."""
        self._slot_contents.take_snapshot(slot)

    def snapshots(self, slot: int) -> Sequence[int]:
        """Return the positions of the snapshots of ``slot``, ascending."""
        return self._slot_contents.snapshots(slot)

    def shift(self, slot: int, first: int, n: int) -> None:
        """Remove positions ``first`` … ``first + n - 1`` of ``slot``; later ones move down, with their keys rotated."""
        self._slot_contents.shift(slot, first, n)

    def state_size(self, n: int) -> int:
        """Return the size in bytes of the state of ``n`` positions; with snapshots, the largest possible."""
        return self._slot_contents.state_size(n)

    def save(self, slot: int, n: int) -> Bytes:
        """Return a copy of the state of the first ``n`` positions of ``slot``, (n_bytes,) uint8."""
        return self._slot_contents.save(slot, n)

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        """Replace the contents of ``slot`` by ``n`` positions that `save` returned; see `Slots.restore`."""
        self._slot_contents.restore(slot, n, state)

    def describe(self) -> Mapping[str, Any]:
        """Return facts for logs and ``llamafw bench``."""
        return {
            "backend": "numba",
            "isa": self._isa.name,
            "n_threads": self._n_threads,
            "n_threads_batch": self._n_threads_batch,
            "weight_bytes": self._weights.n_bytes,
            "weight_types": sorted(self._weights.kernels),
            "cache_bytes": self._kv.n_bytes,
            "cache_types": self._cache_types,
        }

    def close(self) -> None:
        """Stop the threads; memory is freed with the last reference to the backend."""
        self._close()


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
