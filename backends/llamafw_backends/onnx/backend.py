"""Runs a model with ONNX Runtime: batches of several slots, and caches that can be cut, moved, saved and restored."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort

from llamafw import (
    BackendContext,
    Batch,
    Bytes,
    Floats,
    Ints,
    LlamafwError,
    ModelError,
    RequestError,
    Snapshots,
    Unavailable,
)
from llamafw_backends.onnx import (
    attention_lowering,
    expert_lowering,
    grouped_queries,
    recurrent_lowering,
    rotary,
    row_lowering,
)
from llamafw_backends.onnx.batch_inputs import Inputs, Part, block_inputs, divide
from llamafw_backends.onnx.captured_steps import CapturedSteps, run_options
from llamafw_backends.onnx.code_products import INT8
from llamafw_backends.onnx.device_tensors import Device, SlotTensors, mib
from llamafw_backends.onnx.gpu_facts import describe_gpu
from llamafw_backends.onnx.key_rotation import rotate_back
from llamafw_backends.onnx.lowering import Lowering, StateTensor, lower_graph
from llamafw_backends.onnx.model_builder import Array, ModelBuilder
from llamafw_backends.onnx.model_sessions import open_model
from llamafw_backends.onnx.placement import cache_types, choose_device, count_threads, log_ignored_flags, support_of
from llamafw_backends.onnx.saved_states import n_bytes, pack, shapes_like, state_digest, unpack
from llamafw_backends.onnx.sessions import free_unused_memory, is_out_of_memory
from llamafw_backends.onnx.support import Support
from llamafw_backends.onnx.tensors import Tensors
from llamafw_backends.onnx.top_logits import TopLogits, selects

OPERATORS = (row_lowering, rotary, attention_lowering, recurrent_lowering, expert_lowering)
"""The modules that register what lowers each operator."""


def lower(context: BackendContext, support: Support, n_ctx: int) -> Lowering:
    """Return the model's graph as an ONNX model that is ready to be built."""
    lowering = start_lowering(context, support, n_ctx, ModelBuilder(support.float_type))
    lower_graph(lowering)
    return lowering


def start_lowering(context: BackendContext, support: Support, n_ctx: int, builder: ModelBuilder) -> Lowering:
    """Return the model's graph on its way to an ONNX model, of which nothing has been lowered."""
    types, tensors = cache_types(context, support), Tensors(context.model, context.quants)
    rounds = support.kind == "cpu" and context.options.extra.get("onnx_activations") == "int8"
    return Lowering(context, builder, tensors, support, n_ctx, types, INT8 if rounds else 0)


class OnnxBackend:
    """A `llamafw.SnapshotBackend` that runs graphs with ONNX Runtime.

    Parameters
    ----------
    context : BackendContext
        The model and the settings.

    Raises
    ------
    SettingsError
        A setting has no meaning for this backend, or the provider cannot be used.
    ModelError
        An operator of a plugin cannot be lowered.
    """

    exact = False  # the kernels of a product depend on the number of rows

    def __init__(self, context: BackendContext) -> None:
        graph, options = context.graph, context.options
        self._graph = graph
        self.n_slots, self.n_batch = options.n_slots, options.n_batch
        self.n_ctx = graph.context_length(options.n_ctx)
        self.n_vocab, self.n_embd, self._n_types = graph.n_vocab, graph.n_embd, graph.n_types
        self._n_hidden_rows = graph.n_hidden_rows
        self.whole_texts = not graph.causal
        self._n_ubatch = options.n_batch if self.whole_texts else options.n_ubatch

        started = time.monotonic()
        self._device = device = choose_device(context)
        self._support = support = support_of(device)
        self._n_threads = count_threads(options) if support.is_cpu else 1  # idle threads would take time from others
        self._base = context
        self._context = context.adapted or context
        lowering = lower(self._context, support, self.n_ctx)
        self._states: Sequence[StateTensor] = lowering.states
        self.state_format = f"onnx-1-{state_digest(self._states)}"
        self._load(lowering)
        n_padded = self._n_ubatch if grouped_queries.ROWS in self._input_names else 0
        self._slots = SlotTensors(device, self._states, self.n_slots, self.n_ctx + n_padded)
        self._add_steps()
        log_ignored_flags(context)
        context.log(f"onnx backend: {self._facts()}, loaded in {time.monotonic() - started:.1f} s")
        self._n_tokens = [0] * self.n_slots
        self._fixed = [state for state in self._states if not state.grows]
        self._caches = [state for state in self._states if state.grows]
        self.can_cut = not self._fixed
        keys = [state for state in self._caches if state.name.endswith("key")]
        self.can_shift = self.can_cut and bool(keys) and all(state.rotation is not None for state in keys)
        self._top: TopLogits | None = None
        if device.kind != "cpu" and selects(support):  # on the CPU, all logits are there anyway
            self.top_logits = self._top_logits
        self._n_snapshots = options.n_snapshots
        self._snapshots = [Snapshots[list[Array]](options.n_snapshots) for _ in range(self.n_slots)]

    def set_adapters(self, context: BackendContext | None) -> None:
        """Load the graph with adapters in place of the one before; see `llamafw.AdaptingBackend`.

        There is one session at a time, because sessions cannot share weights.
        """
        before, after = self._context, context or self._base
        lowering = lower(after, self._support, self.n_ctx)
        if state_digest(lowering.states) != state_digest(self._states):
            raise ModelError(f"{after.model.path}: slots would keep other tensors with these adapters than without")
        del self._steps, self._session
        try:
            self._load(lowering)
        except LlamafwError:
            self._load(lower(before, self._support, self.n_ctx))
            self._add_steps()
            raise
        self._context = after
        self._add_steps()

    def _load(self, lowering: Lowering) -> None:
        """Open a session with a model."""
        self._input_names = set(lowering.builder.input_names)
        self._inputs = Inputs.of(lowering)
        self._weight_bytes = n_bytes(lowering.builder.weights.values())
        self._session, self._can_capture = open_model(
            self._device,
            lowering.builder,
            self._n_threads,
            self.n_slots,
            poll=self._support.is_cpu and self._base.options.threads.poll > 0,
        )
        self._steps: CapturedSteps | None = None

    def _add_steps(self) -> None:
        """Capture steps from now on, if the device and the model allow it."""
        if self._can_capture:
            self._steps = CapturedSteps(self._session, self._device, self._slots, self._base.log)

    def _facts(self) -> str:
        """Return what start-up logs: where the model runs, and what it takes there."""
        device, gpu = self._device, describe_gpu(self._device)
        where = f"{self._n_threads} threads" if device.kind == "cpu" else gpu
        return (
            f"{device}{f' ({where})' if where else ''} with ONNX Runtime {ort.__version__}, "
            f"computes in {device.float_type}, {mib(self._weight_bytes)} of weights, "
            f"{mib(self._slots.n_bytes)} of KV cache at first"
        )

    # --- the forward pass

    def forward(self, batch: Batch) -> Floats:
        """Return the logits of ``batch.outputs``, ``(m, n_vocab)`` float32."""
        if self._graph.logits is None:
            return self.hidden(batch)[:, :0]
        return self._rows(batch, "logits", self.n_vocab)

    def _top_logits(self, batch: Batch, n: int, n_vocab: int) -> tuple[Ints, Floats]:
        """Return the ``n`` highest logits of ``batch.outputs`` and their tokens; see `llamafw.CandidateBackend`."""
        self._check(batch)
        shape = (len(batch.outputs), n)
        ids, rows = np.empty(shape, np.int32), np.empty(shape, np.float32)
        top = self._top = self._top or TopLogits(self._device)
        for part in divide(batch, self._n_ubatch, pads=self._inputs.pads):
            logits = self._run(part, "logits", self._device)
            if len(part.places):
                found = top.select(logits, n, n_vocab)
                ids[part.places], rows[part.places] = (array[: len(part.places)] for array in found)
        return ids, rows

    def hidden(self, batch: Batch) -> Floats:
        """Return the hidden states of ``batch.outputs`` after the output norm, ``(m, n_embd)`` float32."""
        return self._rows(batch, "hidden", self.n_embd)

    def forward_with_hidden(self, batch: Batch) -> tuple[Floats, Floats]:
        """Return the logits of ``batch.outputs``, and the hidden states of all tokens; see `llamafw.HiddenBackend`."""
        self._check(batch)
        logits = np.empty((len(batch.outputs), self.n_vocab), np.float32)
        hidden = np.empty((len(batch.tokens), self.n_embd), np.float32)
        for part in divide(batch, self._n_ubatch, pads=self._inputs.pads):
            rows = [one.numpy() for one in self._compute(part, "logits", None, all_hidden=True)[:2]]
            hidden[part.indices], logits[part.places] = rows
        return logits, hidden

    def _rows(self, batch: Batch, output: str, size: int) -> Floats:
        self._check(batch)
        rows = np.empty((len(batch.outputs), size), np.float32)
        for part in divide(batch, self._n_ubatch, pads=self._inputs.pads):
            rows[part.places] = self._run(part, output).numpy()[: len(part.places)]
        return rows

    def _run(self, part: Part, output: str, device: Device | None = None) -> ort.OrtValue:
        """Compute some tokens and add them to their slots; return an output of the model, on the host or a device."""
        return self._compute(part, output, device)[0 if output == "hidden" else 1]

    def _compute(
        self, part: Part, output: str, device: Device | None, *, all_hidden: bool = False
    ) -> Sequence[ort.OrtValue]:
        """Compute some tokens and add them to their slots; return the hidden states, and the logits if there are any.

        ``output`` is what is wanted, on the device if one is given. See `Inputs.make` for ``all_hidden``.
        """
        ends = part.ends
        self._slots.reserve(part.n_positions if grouped_queries.ROWS in self._input_names else part.n_keys)
        self._slots.reserve_blocks(ends)
        slot_range = part.slot_range if self._slots.can_divide else (0, self.n_slots)
        feeds = self._inputs.make(part, slot_range, logits=output == "logits", all_hidden=all_hidden)
        feeds |= block_inputs(part, self._slots.blocks)
        try:
            plain = partial(self._run_once, feeds, slot_range, output, device)
            steps = self._steps if output == "logits" and not all_hidden else None
            outputs = (steps.run(part, feeds, plain) if steps is not None and steps.takes(part) else None) or plain()
        except Exception as error:
            for slot, end in ends.items():
                self._n_tokens[slot] = end  # the states may have changed, so go back to a snapshot
                self.truncate(slot, int(part.positions[part.slots == slot][0]))
            if is_out_of_memory(error):
                raise Unavailable(
                    f"{self._device} has not enough memory to compute {len(part.tokens)} tokens at once, beside "
                    f"{mib(self._weight_bytes)} of weights and {mib(self._slots.n_bytes)} of KV cache; a shorter "
                    "prompt may work, or the server needs a smaller -ub, -c or -np"
                ) from error
            raise LlamafwError(f"ONNX Runtime has failed: {error}") from error
        for slot, end in ends.items():
            self._n_tokens[slot] = end
        return outputs

    def _run_once(
        self, feeds: Mapping[str, Array], slot_range: tuple[int, int], output: str, device: Device | None
    ) -> Sequence[ort.OrtValue]:
        """Run the model with inputs of any shapes; see `_compute`."""
        binding = self._session.io_binding()
        for name in self._input_names & feeds.keys():
            binding.bind_cpu_input(name, np.ascontiguousarray(feeds[name]))
        for name in ["hidden"] if self._graph.logits is None else ["hidden", "logits"]:
            if device is None or name != output:
                binding.bind_output(name, "cpu")
            else:
                binding.bind_output(name, device.kind, device.number)
        self._slots.bind(binding, *slot_range)
        self._session.run_with_iobinding(binding, None if self._steps is None else run_options(None))
        return list(binding.get_outputs())

    def _check(self, batch: Batch) -> None:
        """Raise RequestError if tokens do not continue their slots, or are not in the vocabulary, or their types."""
        if batch.scales is not None and batch.scales.shape != (len(batch.tokens), self._inputs.n_scales):
            raise RequestError(f"scales of shape {batch.scales.shape} do not fit {len(batch.tokens)} tokens")
        tokens = np.asarray(batch.tokens)
        batch.checked_types(self._n_types)
        batch.check_hidden(self._n_hidden_rows)
        if self.n_vocab and not ((tokens >= 0) & (tokens < self.n_vocab)).all():
            raise RequestError(f"a token of {tokens.tolist()} is not in the vocabulary of {self.n_vocab} tokens")
        seen: dict[int, int] = {}
        for slot, position in zip(batch.slots.tolist(), batch.positions.tolist(), strict=True):
            if not 0 <= slot < self.n_slots or not 0 <= position < self.n_ctx:
                raise RequestError(f"slot {slot} or position {position} is out of range")
            n = seen.get(slot, self._n_tokens[slot])
            if position > n or (slot not in seen and position < n and not self.can_cut):
                raise RequestError(f"position {position} does not continue slot {slot}, which has {n} tokens")
            seen[slot] = position + 1

    # --- cuts

    def truncate(self, slot: int, n: int) -> int:
        """Remove positions from the end of ``slot`` until at most ``n`` are left; return how many are left."""
        if n < self._n_tokens[slot]:
            self._snapshots[slot].cut(n)
            position, fixed = self._fixed_at(slot, n)
            for state, array in zip(self._fixed, fixed, strict=True):
                self._slots.write(state, slot, array)
            self._cut(slot, position)
        return self._n_tokens[slot]

    def _cut(self, slot: int, n: int) -> None:
        """Set the number of positions of a slot, and free its blocks after them."""
        self._n_tokens[slot] = n
        self._slots.cut(slot, n)

    def _fixed_at(self, slot: int, n: int) -> tuple[int, list[Array]]:
        """Return the last position of at most ``n`` at which the slot can be cut, and the fixed states there."""
        if self.can_cut or n >= self._n_tokens[slot]:
            return min(n, self._n_tokens[slot]), self._read_fixed(slot)
        return self._snapshots[slot].last(n) or (0, [np.zeros(state.shape, state.dtype) for state in self._fixed])

    def _read_fixed(self, slot: int) -> list[Array]:
        return [self._slots.read(state, slot, 0) for state in self._fixed]

    def take_snapshot(self, slot: int) -> None:
        """Keep a copy of the state of ``slot`` at its end."""
        self._snapshots[slot].add(self._n_tokens[slot], self._read_fixed(slot))

    def hold_state(self, slot: int) -> None:
        """Keep the state of ``slot`` at its end until the next call, besides its snapshots."""
        self._snapshots[slot].hold(self._n_tokens[slot], self._read_fixed(slot))

    def snapshots(self, slot: int) -> Sequence[int]:
        """Return the positions of the snapshots of ``slot``."""
        return self._snapshots[slot].positions

    def shift(self, slot: int, first: int, n: int) -> None:
        """Remove positions ``first`` … ``first + n - 1`` of ``slot``; later ones move down, with their keys rotated."""
        end = self._n_tokens[slot]
        for state in self._caches:
            rows = self._slots.read(state, slot, end)[:, first + n :]
            if state.rotation is not None:
                rows = rotate_back(rows, state.rotation, n, self.n_ctx)
            if rows.shape[1]:
                self._slots.write(state, slot, rows, first)
        self._cut(slot, end - n)

    # --- saved states: keys and values, fixed states, then the position and the fixed states of each snapshot

    def state_size(self, n: int) -> int:
        """Return the largest possible size in bytes of the state of ``n`` positions."""
        return n_bytes(self._like(n)) + (0 if self.can_cut else self._n_snapshots * self._snapshot_bytes)

    @property
    def _snapshot_bytes(self) -> int:
        return 8 + n_bytes(self._like(0)[len(self._caches) :])

    def _like(self, n: int) -> list[Array]:
        """Return arrays of the shapes and types of what a slot of ``n`` positions keeps; they use no memory."""
        return shapes_like([*self._caches, *self._fixed], n)

    def save(self, slot: int, n: int) -> Bytes:
        """Return the state of the first ``n`` positions of ``slot``."""
        position, fixed = self._fixed_at(slot, n)
        if position != n:
            raise LlamafwError(f"slot {slot} cannot be cut at {n}")
        arrays = [self._slots.read(state, slot, n) for state in self._caches] + fixed
        for before, states in self._snapshots[slot]:
            if before < n:
                arrays += [np.array([before], np.int64), *states]
        return pack(arrays)

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        """Replace the contents of ``slot`` by the ``n`` positions in ``state``, which `save` returned."""
        if not 0 <= n <= self.n_ctx:
            raise LlamafwError(f"{n} positions do not fit into a context of {self.n_ctx}")
        like = self._like(n)
        fixed = like[len(self._caches) :]
        n_snapshots, rest = divmod(state.nbytes - n_bytes(like), self._snapshot_bytes)
        if rest or not 0 <= n_snapshots <= (0 if self.can_cut else self._n_snapshots):
            raise LlamafwError(f"a state of {state.nbytes} bytes is not that of {n} positions, {n_bytes(like)} bytes")

        self._slots.reserve(n)
        self._slots.reserve_blocks({slot: n})
        saved = unpack(state, [*like, *[np.zeros(1, np.int64), *fixed] * n_snapshots])
        for one, array in zip([*self._caches, *self._fixed], saved, strict=False):
            if array.size:
                self._slots.write(one, slot, array)
        self._cut(slot, n)
        self._snapshots[slot].cut(-1)
        rows = saved[len(like) :]
        for i in range(n_snapshots):
            position, *states = rows[i * (1 + len(fixed)) : (i + 1) * (1 + len(fixed))]
            self._snapshots[slot].add(int(position[0]), [array.copy() for array in states])

    def describe(self) -> Mapping[str, Any]:
        """Return facts for logs and ``llamafw bench``."""
        return {
            "backend": "onnx",
            "provider": self._device.name,
            "device": self._device.number,
            "float_type": str(self._device.float_type),
            "n_threads": self._n_threads,
            "weight_bytes": self._weight_bytes,
            "cache_bytes": self._slots.n_bytes,
        }

    def close(self) -> None:
        """Free the memory of the session and of the slots."""
        del self._steps, self._session, self._slots, self._snapshots
        free_unused_memory()
