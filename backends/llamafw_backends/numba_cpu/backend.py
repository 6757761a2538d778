"""Plan the steps of a model, allocate the KV cache and the buffers, and run batches with `forward`."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from llamafw import (
    BackendContext,
    Batch,
    CachePages,
    Floats,
    RequestError,
    SettingsError,
)
from llamafw import graph as g
from llamafw_backends.numba_cpu import forward, instruction_sets
from llamafw_backends.numba_cpu.assembly import Assembly, Step
from llamafw_backends.numba_cpu.cpu import physical_cores
from llamafw_backends.numba_cpu.emit import LANES
from llamafw_backends.numba_cpu.grouped_keys import GroupedKeys
from llamafw_backends.numba_cpu.kernel_compiler import LOADED, KernelCompiler
from llamafw_backends.numba_cpu.kernel_records import HIDDEN, LOGITS, PLAN, address_of, new_records
from llamafw_backends.numba_cpu.kv_cache import KVCache
from llamafw_backends.numba_cpu.memory import Arena, align_up
from llamafw_backends.numba_cpu.mixing_lowering import key_rotations
from llamafw_backends.numba_cpu.options import check_options, has_int8_activations, log_ignored_flags
from llamafw_backends.numba_cpu.pages import PAGE
from llamafw_backends.numba_cpu.placement import Placement
from llamafw_backends.numba_cpu.rotations import Rotations
from llamafw_backends.numba_cpu.slot_owner import SlotOwner
from llamafw_backends.numba_cpu.slot_states import SlotStates
from llamafw_backends.numba_cpu.slots import Slots
from llamafw_backends.numba_cpu.steps import AdaptedSteps, Steps
from llamafw_backends.numba_cpu.thread_tuner import ThreadTuner
from llamafw_backends.numba_cpu.threads import MAX_THREADS, Pool
from llamafw_backends.numba_cpu.weights import Weights


class NumbaBackend(SlotOwner):
    """A `llamafw.Backend` that runs a model on the CPU.

    Raises
    ------
    ModelError
        The kernels do not support an operator of the model, its sizes, or a tensor's type.
    SettingsError
        An option is invalid, or LLAMAFW_ISA names an instruction set that this processor does not have.
    """

    exact = True
    _weights: Weights
    _memory: int  # address of the buffers of the steps
    _filled: npt.NDArray[np.int64]  # (n_slots,) number of positions in each slot

    def __init__(self, context: BackendContext) -> None:
        options, graph = context.options, context.graph
        self.whole_texts = not graph.causal
        self.n_slots, self.n_batch = options.n_slots, options.n_batch
        self.n_ctx, self.n_embd = graph.context_length(options.n_ctx), graph.hidden.shape[0]
        self.state_format = "numba-3"  # the layout of `Slots.save`; the same for every instruction set
        self._n_ubatch = min(options.n_ubatch, options.n_batch)
        if self.whole_texts:
            self.n_ctx, self._n_ubatch = min(self.n_ctx, self.n_batch), self.n_batch

        check_options(options, self.n_ctx)
        self._n_threads = options.n_threads if options.n_threads > 0 else physical_cores()
        self._n_threads_batch = options.n_threads_batch if options.n_threads_batch > 0 else self._n_threads
        self._thread_tuner = ThreadTuner(self._n_threads)

        n_threads = max(self._n_threads, self._n_threads_batch)
        if n_threads > MAX_THREADS:
            raise SettingsError(f"the numba backend can use at most {MAX_THREADS} threads, not {n_threads}")
        self._isa = self._matrix_isa = instruction_sets.choose_instruction_set()
        if has_int8_activations(options):
            self._matrix_isa = instruction_sets.rounded(self._isa)
            self.state_format += "-int8"
        self._cache_types = f"{options.cache_type_k}/{options.cache_type_v}"

        self._rotations = Rotations(self.n_ctx)
        self._beside = context.beside if isinstance(context.beside, NumbaBackend) else None  # keeps its weights alive
        shared = self._beside._weights if self._beside else None
        self._steps = Steps(context, self._rotations, self.n_batch, self._n_ubatch, n_threads, shared=shared)
        self._adapted: AdaptedSteps | None = None
        self._weights = self._steps.weights
        self.n_vocab, self._n_types, self._n_given = graph.n_vocab, graph.n_types, graph.n_hidden_rows
        self._n_tokens = self._steps.lowering.n_tokens

        self._compiler = compiler = KernelCompiler(context.log, LOADED)
        self._pool = Pool(n_threads, compiler)
        self._close = weakref.finalize(self, self._pool.close)
        try:
            self._placement = Placement.from_options(self._pool, options, context.log)
            self._forward = compiler("forward", 5, forward.forward).ctypes
            self._step = compiler("step", 2, forward.step)
            if self._placement:
                self._placement.place(prompts=True)  # first, because memory is on the node that first writes to it
            self._weights.place(self._matrix_isa, self._pool, compiler)
            with ThreadPoolExecutor(1, "llamafw-numba-pack") as executor:  # while other kernels are compiled
                packing = executor.submit(self._weights.pack)
                self._make_steps(context)
                packing.result()
            self.set_adapters(context.adapted)
            if options.lock_memory:
                self._lock_weights(context.log)
        except BaseException:
            self.close()
            raise
        compiler.remove_unused(self._isa.name)
        self._weights.report(context.log)

        log_ignored_flags(context)
        context.log(
            f"numba backend: {self._matrix_isa.name}, {self._n_threads} threads ({self._n_threads_batch} for prompts), "
            f"{self._weights.n_bytes / 1e6:.0f} MB of weights packed in {self._weights.seconds:.1f} s, "
            f"kernels ready in {compiler.seconds:.1f} s"
        )

    def _make_steps(self, context: BackendContext) -> None:
        """Allocate what slots and steps need, and compile the kernels of the steps."""
        options, compiler, logits = context.options, self._compiler, self._steps.lowering
        types = ("f32", "f32") if self.whole_texts else (options.cache_type_k, options.cache_type_v)
        n_ubatch = None if options.swa_full else self._n_ubatch
        layouts = [layout for _, layout in logits.caches]
        n_text_tokens = self.n_batch if self.whole_texts else 0
        self._kv = KVCache(layouts, self.n_slots, self.n_ctx, types, compiler, n_ubatch, n_text_tokens)
        self._plan = new_records(PLAN)
        self._plan_address = address_of(self._plan)
        self._allocate()
        self._write_plan(writable=int(self._kv.pages.writable.ctypes.data))
        self._states = SlotStates(
            self.n_slots,
            logits.state_bytes,
            self._kv.rings,
            options.n_snapshots,
            can_go_back=logits.can_go_back,
        )
        rotations = None if self.whole_texts else key_rotations(logits)
        positions = next((value for value in context.graph if isinstance(value, g.GroupedPositions)), None)
        self._grouped: GroupedKeys | None = None
        if positions is not None:
            if rotations is None or self._states:
                raise context.refuse("numba", positions, "the keys of this model cannot be moved")
            self.snapshot_step = positions.width
            self._grouped = GroupedKeys(positions, rotations, self.n_slots, self._kv)
        contents = self._grouped or self._states
        self._slot_contents = Slots(self._filled, self._kv, contents, rotations, self.n_ctx)
        self.can_cut, self.can_shift = self._slot_contents.can_cut, self._slot_contents.can_shift
        self._assemble(self._steps, self._memory)
        self._chosen_step: Step | None = None

    def _assemble(self, steps: Steps, memory: int) -> None:
        """Write the records of steps whose buffers are at ``memory``, and compile their kernels."""
        assemble = partial(
            Assembly,
            caches=self._kv,
            states=(self._states.address, self._steps.lowering.state_bytes),
            compiler=self._compiler,
            isa=self._isa,
            activation_bits=self._matrix_isa.n_bits,
            n_rows=self._n_ubatch,
        )
        results = (LOGITS, int(self._plan["logits_stride"][0])), (HIDDEN, int(self._plan["hidden_stride"][0]))
        steps.assemble(assemble, memory, results)

    def _lock_weights(self, log: Callable[[str], None]) -> None:
        """Lock the weights in memory; log a line if the operating system refuses."""
        try:
            self._weights.arena.lock()
        except OSError as error:
            log(f"numba backend: the weights cannot be locked in memory: {error}; see ulimit -l")

    def _allocate(self) -> None:
        """Allocate the buffers of the steps, the batch and the results, and write their addresses into the plan."""
        n_logits = -(-max(self.n_vocab, self.n_embd) // LANES) * LANES  # without logits, hidden states take their place
        n_hidden = -(-self.n_embd // LANES) * LANES
        sizes = {
            "spans": 32 * self._n_ubatch,
            "tokens": 8 * self.n_batch,
            "positions": 8 * self.n_batch,
            "types": 8 * self.n_batch,
            "slots": 8 * self.n_batch,
            "outputs": 8 * self.n_batch,
            "filled": 8 * self.n_slots,
            "widths": 8 * len(self._isa.widths),
            "logits": self.n_batch * 4 * n_logits,
            "hidden": self.n_batch * 4 * n_hidden,
        }
        n_bytes = self._step_bytes = align_up(self._steps.n_bytes)
        self._buffers = Arena(n_bytes + sum(align_up(size + 64) for size in sizes.values()) + 64)
        self._memory = self._buffers.allocate(n_bytes)
        for name, size in sizes.items():
            self._plan[name] = self._buffers.allocate(size + 64)

        self._given = np.zeros((self.n_batch, self._n_given), np.float32)
        self._write_plan(given=int(self._given.ctypes.data), given_stride=self._given.strides[0])
        self._write_plan(kept=int(self._plan["hidden"][0]), kept_stride=4 * n_hidden)  # the step writes no others there
        self._tokens, self._positions, self._types, self._slots, self._outputs = (
            self._view(name, (self.n_batch,), np.int64) for name in ("tokens", "positions", "types", "slots", "outputs")
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

    def _allocate_scratch(self) -> None:
        """Allocate the buffers of the threads."""
        n_threads, all_steps = self._pool.n_threads, [self._steps, *([self._adapted.steps] if self._adapted else [])]
        n_bytes = align_up(max(steps.scratch_bytes for steps in all_steps) + 128)
        n_unpacked = align_up(max(steps.weights.buffer_bytes for steps in all_steps))
        self._scratch = Arena((n_bytes + n_unpacked) * n_threads)
        self._write_plan(scratch=self._scratch.allocate(n_bytes * n_threads), scratch_stride=n_bytes)
        self._write_plan(buffer=self._scratch.allocate(n_unpacked * n_threads), buffer_stride=n_unpacked)

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
        return self._in_windows(batch, self._forward_once)

    def _in_windows(self, batch: Batch, compute: Callable[[Batch], Floats]) -> Floats:
        return compute(batch) if self._grouped is None else self._grouped.run(batch, compute)

    def _forward_once(self, batch: Batch) -> Floats:
        self._run(batch, self._choose_steps(batch).logits)
        return self._logits[: len(batch.outputs), : self.n_vocab]

    def hidden(self, batch: Batch) -> Floats:
        """Return the hidden states of ``batch.outputs`` after the output norm, ``(m, n_embd)`` float32.

        The rules of `forward` apply.
        """
        return self._in_windows(batch, self._hidden_once)

    def _hidden_once(self, batch: Batch) -> Floats:
        self._run(batch, self._choose_steps(batch).hidden)
        return self._hidden[: len(batch.outputs), : self.n_embd]

    def forward_with_hidden(self, batch: Batch) -> tuple[Floats, Floats]:
        """Return the logits of ``batch.outputs``, and the hidden states of all tokens; see `llamafw.HiddenBackend`."""
        self._run(batch, self._choose_steps(batch).both)
        logits = self._logits[: len(batch.outputs), : self.n_vocab]
        return logits, self._hidden[: len(batch.tokens), : self.n_embd]

    def set_adapters(self, context: BackendContext | None) -> None:
        """Prepare the graph that batches with ``scales`` run; see `llamafw.AdaptingBackend`."""
        adapted = None
        if context is not None:
            n_threads = self._pool.n_threads
            steps = Steps(context, self._rotations, self.n_batch, self._n_ubatch, n_threads, self._steps)
            steps.weights.place(self._matrix_isa, self._pool, self._compiler)
            steps.weights.pack()
            adapted = AdaptedSteps(steps, context.graph.n_scales, self.n_batch)
            self._assemble(steps, adapted.memory)
        self._adapted = adapted
        self._allocate_scratch()
        if adapted is not None:
            self._write_plan(scales=int(adapted.scales.ctypes.data), scales_stride=adapted.scales.strides[0])

    def _choose_steps(self, batch: Batch) -> Steps:
        """Return the steps for a batch, and store its scales."""
        if batch.scales is None:
            return self._steps
        if self._adapted is None or batch.scales.shape != (len(batch.tokens), self._adapted.scales.shape[1]):
            raise RequestError(f"scales of shape {batch.scales.shape} do not fit {len(batch.tokens)} tokens")
        self._adapted.scales[: len(batch.scales)] = batch.scales
        return self._adapted.steps

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
        self._types[:n] = batch.checked_types(self._n_types)
        batch.check_hidden(self._n_given)
        if batch.hidden is not None:
            self._given[:n] = batch.hidden
        self._unpack_embeddings(n)
        if self.whole_texts:
            self._filled[...] = 0
            self._kv.start_batch()
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
        if n_runs == n or m == n:  # it continues responses; see `forward`
            self._thread_tuner.record(n, n_threads, time.perf_counter() - started)

    def _unpack_embeddings(self, n: int) -> None:
        """Unpack the rows that the batch needs of embeddings whose type has no kernel."""
        tables = (self._adapted.steps if self._adapted else self._steps).weights.tables  # of both
        for table in tables.values():
            indices = {"tokens": self._tokens, "positions": self._positions, "types": self._types}[table.ids][:n]
            if table.unpacked is not None and ((indices >= 0) & (indices < len(table.rows))).all():
                self._weights.unpack_rows(table, indices)

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

    def page_counts(self) -> CachePages:
        """Return how many pages of the KV cache are used."""
        pages = self._kv.pages
        return CachePages(PAGE, pages.n_used, pages.n_shared, pages.n_touched, pages.n_total)

    def describe(self) -> Mapping[str, Any]:
        """Return facts for logs and ``llamafw bench``."""
        return {
            "backend": "numba",
            "isa": self._isa.name,
            "activation_bits": self._matrix_isa.n_bits,
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
