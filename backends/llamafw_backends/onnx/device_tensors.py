"""Tensors of slots in the memory of a device, and tiny models that read and write parts of them there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import onnxruntime as ort

from llamafw import Unavailable
from llamafw_backends.onnx.block_table import BLOCK, BlockTable, count_blocks
from llamafw_backends.onnx.lowering import StateTensor
from llamafw_backends.onnx.model_builder import Array, Dimensions, ModelBuilder
from llamafw_backends.onnx.sessions import ERRORS, is_out_of_memory, make_options, open_session

FIRST_POSITIONS = 256
"""How many positions a cache has room for at first; it doubles when they are used up."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where tensors are: the names and numbers that ONNX Runtime uses."""

    providers: Sequence[Any]
    kind: str  # "cpu", "cuda", "dml", "webgpu"
    number: int
    float_type: np.dtype[Any]  # of activations
    name: str  # of the provider, as in --onnx-provider

    def __str__(self) -> str:
        return "the CPU" if self.kind == "cpu" else f"{self.name} device {self.number}"

    def zeros(self, shape: Sequence[int], dtype: np.dtype[Any]) -> ort.OrtValue:
        """Return a tensor of zeros on the device.

        Raises
        ------
        Unavailable
            The device has not enough memory.
        """
        try:
            return ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype), self.kind, self.number)
        except Exception as error:  # onnxruntime has a class for each kind of failure, and none for all
            if is_out_of_memory(error):
                size = math.prod(shape) * dtype.itemsize
                raise Unavailable(f"{self} has no memory left for a tensor of {mib(size)}") from error
            raise

    def session(
        self,
        build: Callable[[ModelBuilder], None],
        dtype: np.dtype[Any],
        config: Mapping[str, str] | None = None,
        *,
        severity: int = ERRORS,
    ) -> ort.InferenceSession:
        """Return a session with a small model."""
        b = ModelBuilder(dtype)
        build(b)
        return open_session(
            b.build().SerializeToString(), make_options(config=config, severity=severity), self.providers
        )


def mib(n_bytes: int) -> str:
    """Return a size for people."""
    return f"{n_bytes / 2**20:,.0f} MiB"


@dataclass(slots=True)
class SlotTensors:
    """The tensors that keep the states of all slots.

    Parameters
    ----------
    device : Device
        Where they are.
    states : sequence of StateTensor
        Their shapes and types.
    n_slots : int
        How many slots there are.
    n_ctx : int
        Positions per slot.
    """

    device: Device
    states: Sequence[StateTensor]
    n_slots: int
    n_ctx: int
    capacity: int = 0  # positions per slot that there is room for
    blocks: BlockTable = field(default_factory=lambda: BlockTable(0))  # those of the slots
    generation: int = 0  # changes when tensors get other addresses
    values: dict[str, ort.OrtValue] = field(default_factory=dict)  # by the names of the states
    _sessions: dict[Any, ort.InferenceSession] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.capacity = min(FIRST_POSITIONS, self.n_ctx)
        self.blocks = BlockTable(self.n_slots)
        self.blocks.add(1 + self.n_slots * count_blocks(self.capacity))
        for state in self.states:
            self.values[state.name] = self.device.zeros(self._shape(state), state.dtype)

    def reserve(self, n: int) -> None:
        """Make room for ``n`` positions per slot, in the tensors that have as many for each.

        Raises
        ------
        Unavailable
            The device has not enough memory. What the slots keep is unchanged.
        """
        if n <= self.capacity or not any(state.grows and not state.is_paged for state in self.states):
            return
        capacity = self.capacity
        while capacity < n:
            capacity = min(2 * capacity, self.n_ctx)
        self._grow([state for state in self.states if state.grows and not state.is_paged], capacity)
        self.capacity = capacity

    def reserve_blocks(self, ends: Mapping[int, int]) -> None:
        """Make room for so many positions of slots, in the tensors in blocks; raises as `reserve` does."""
        paged = [state for state in self.states if state.is_paged]
        if not paged:
            return
        if missing := self.blocks.missing(ends):
            most = 1 + self.n_slots * count_blocks(self.n_ctx)
            n_blocks = self.blocks.n_blocks
            n_blocks = max(n_blocks + missing, min(2 * n_blocks, most))
            self._grow(paged, self.capacity, n_blocks)
            self.blocks.add(n_blocks)
        self.blocks.reserve(ends)

    def cut(self, slot: int, n: int) -> None:
        """Let other slots use the blocks after the first ``n`` positions of a slot."""
        self.blocks.cut(slot, n)

    def _grow(self, states: Sequence[StateTensor], capacity: int, n_blocks: int = 0) -> None:
        """Make tensors larger, so that they have the shapes for this capacity or number of blocks."""
        try:
            for _, group in groupby(states, lambda state: id(state.value)):  # a cache at a time, to save memory
                shapes = [(state, self._shape(state, capacity, n_blocks)) for state in group]
                larger = {
                    state.name: self._grown(state, shape)
                    for state, shape in shapes
                    if math.prod(shape) > math.prod(self.values[state.name].shape())
                }
                self.values.update(larger)  # keys and values together, because nodes need them to have the same size
        except Unavailable as error:
            raise Unavailable(self._shortage(capacity, n_blocks)) from error
        finally:
            self.generation += 1

    def _shortage(self, capacity: int, n_blocks: int) -> str:
        """Return what a client is told if the caches cannot grow."""
        shapes = [(self._shape(state, capacity, n_blocks), state.dtype) for state in self.states]
        wanted = sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes)
        positions = f"{self.n_slots} slots of {capacity} tokens" if self.n_slots > 1 else f"{capacity} tokens"
        if n_blocks:
            positions = f"{(n_blocks - 1) * BLOCK} tokens of all slots"
        return (
            f"{self.device} has not enough memory for {mib(wanted)} of KV cache, for {positions}; it has "
            f"{mib(self.n_bytes)} now; a shorter prompt may work, or the server needs a smaller -c or -np"
        )

    @property
    def can_divide(self) -> bool:
        """Whether a model can get the states of some slots only: the device has addresses."""
        return self.device.kind in ("cpu", "cuda")

    def bind(self, binding: ort.IOBinding, first: int, n: int) -> None:
        """Make the states of ``n`` slots from ``first`` on inputs of a model, and the same memory its outputs.

        Where the device has addresses, the binding gets these, so that it does not keep tensors that have grown.
        """
        for state in self.states:
            value = self.values[state.name]
            if not self.can_divide:
                binding.bind_ortvalue_input(state.past, value)
                binding.bind_ortvalue_output(state.present, value)
                continue
            shape, address = value.shape(), value.data_ptr()
            if not state.is_paged:
                address += first * math.prod(shape[1:]) * state.dtype.itemsize
                shape = [n, *shape[1:]]
            where = (self.device.kind, self.device.number, state.dtype, shape, address)
            binding.bind_input(state.past, *where)
            binding.bind_output(state.present, *where)

    def read(self, state: StateTensor, slot: int, n: int) -> Array:
        """Return a copy of what a slot keeps: its first ``n`` positions, ``(n_head, n, size)``, or its whole state."""
        tensor, feeds = self.values[state.name], {"slot": np.array([slot], np.int64)}
        if state.is_paged:
            feeds = {"blocks": np.array(self.blocks.of(slot, n), np.int64)}
        if state.grows:
            feeds["end"] = np.array([n], np.int64)
        key = ("read", state.is_paged, state.grows, len(state.shape), state.dtype)
        binding = self._bind(key, _read_blocks if state.is_paged else _read, tensor, feeds, state.dtype)
        return np.asarray(binding.copy_outputs_to_cpu()[0][0])

    def write(self, state: StateTensor, slot: int, rows: Array, first: int = 0) -> None:
        """Write positions of a slot from ``first`` on, ``(n_head, n, size)``, or its whole state."""
        tensor = self.values[state.name]
        if state.is_paged:
            positions = np.arange(first, first + rows.shape[1])
            blocks = np.array(self.blocks.of(slot, first + len(positions)), np.int64)
            indices = np.stack([blocks[positions // BLOCK], positions % BLOCK], axis=-1)
            rows = rows.transpose(1, 0, 2)
        elif state.grows:
            n_head, n, size = rows.shape
            indices = np.empty((n_head, n, 3), np.int64)
            indices[..., 0] = slot
            indices[..., 1] = np.arange(n_head)[:, None]
            indices[..., 2] = first + np.arange(n)
        else:
            rows, indices = rows[None], np.array([[slot]], np.int64)
        feeds = {"indices": indices, "rows": np.ascontiguousarray(rows, state.dtype)}
        key = ("write", len(tensor.shape()), indices.ndim, indices.shape[-1], state.dtype)
        self._bind(key, _write, tensor, feeds, state.dtype, in_place=True)

    @property
    def n_bytes(self) -> int:
        """The size of all tensors in bytes."""
        return sum(math.prod(self.values[state.name].shape()) * state.dtype.itemsize for state in self.states)

    def _shape(self, state: StateTensor, capacity: int = 0, n_blocks: int = 0) -> tuple[int, ...]:
        """Return the shape of a tensor, with the present capacity and number of blocks unless others are given."""
        if not state.grows:
            return (self.n_slots, *state.shape)
        n_head, size = state.shape
        if state.is_paged:
            return (n_blocks or self.blocks.n_blocks, BLOCK, n_head, size)
        return (self.n_slots, n_head, capacity or self.capacity, size)

    def _grown(self, state: StateTensor, shape: Sequence[int]) -> ort.OrtValue:
        """Return a larger cache with the contents of the present one, copied on the device."""
        tensor = self.device.zeros(shape, state.dtype)
        feeds, axis = {"old": self.values[state.name]}, 0 if state.is_paged else 2
        self._bind(("grow", axis, state.dtype), _grow, tensor, feeds, state.dtype, in_place=True)
        return tensor

    def _bind(
        self,
        key: Any,
        build: Callable[[ModelBuilder, Any], None],
        tensor: ort.OrtValue,
        feeds: Mapping[str, Any],
        dtype: np.dtype[Any],
        *,
        in_place: bool = False,
    ) -> ort.IOBinding:
        """Run a tiny model on a tensor, with its output in another one or in place."""
        if key not in self._sessions:
            self._sessions[key] = self.device.session(lambda b: build(b, key), dtype)
        session = self._sessions[key]
        binding = session.io_binding()
        binding.bind_ortvalue_input("tensor", tensor)
        for name, array in feeds.items():
            if isinstance(array, ort.OrtValue):
                binding.bind_ortvalue_input(name, array)
            else:
                binding.bind_cpu_input(name, array)
        if in_place:
            binding.bind_ortvalue_output("y", tensor)
        else:
            binding.bind_output("y", "cpu")
        session.run_with_iobinding(binding)
        return binding


def _read(b: ModelBuilder, key: Any) -> None:
    """Build a model that returns the state of one slot."""
    _, _, grows, n_axes, dtype = key
    shape: Dimensions = ["n_slots", *[f"d{i}" for i in range(n_axes + grows)]]
    y = b.node("Gather", b.input("tensor", dtype, shape), b.input("slot", np.int64, [1]), axis=0)
    if grows:
        y = b.node("Slice", y, b.ints(0), b.input("end", np.int64, [1]), b.ints(2))
    b.node("Identity", y, outputs=["y"])
    b.output("y", dtype, [1, *[f"e{i}" for i in range(n_axes + grows)]])


def _read_blocks(b: ModelBuilder, key: Any) -> None:
    """Build a model that returns positions of some blocks, ``(1, n_head, n, size)``."""
    dtype = key[-1]
    y = b.node("Gather", b.input("tensor", dtype, ["n", "block", "h", "s"]), b.input("blocks", np.int64, ["m"]), axis=0)
    shape = b.node("Concat", b.ints(1, -1), b.node("Shape", y, start=2), axis=0)
    y = b.node("Slice", b.node("Reshape", y, shape), b.ints(0), b.input("end", np.int64, [1]), b.ints(1))
    b.node("Transpose", y, outputs=["y"], perm=[0, 2, 1, 3])
    b.output("y", dtype, [1, "e0", "e1", "e2"])


def _write(b: ModelBuilder, key: Any) -> None:
    """Build a model that replaces parts of a tensor."""
    _, n_axes, n_outer, n_indices, dtype = key
    shape: Dimensions = [f"d{i}" for i in range(n_axes)]
    outer: Dimensions = [f"r{i}" for i in range(n_outer - 1)]
    tensor, indices = b.input("tensor", dtype, shape), b.input("indices", np.int64, [*outer, n_indices])
    rows = b.input("rows", dtype, [*outer, *shape[n_indices:]])
    b.node("ScatterND", tensor, indices, rows, outputs=["y"])
    b.output("y", dtype, shape)


def _grow(b: ModelBuilder, key: Any) -> None:
    """Build a model that copies a cache to the start of a larger one."""
    _, axis, dtype = key
    shape, small = ([*["d0", "d1", "d2"][:axis], size, *["e0", "e1", "e2"][axis:]] for size in ("n_new", "n_old"))
    tensor, old = b.input("tensor", dtype, shape), b.input("old", dtype, small)
    rest = b.node("Slice", tensor, b.node("Shape", old, start=axis, end=axis + 1), b.ints(2**62), b.ints(axis))
    b.node("Concat", old, rest, axis=axis, outputs=["y"])
    b.output("y", dtype, shape)
