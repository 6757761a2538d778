"""The units of work that a graph is lowered to, and the buffers that they read and write.

Independent of graphs: `lowering` makes units from a graph, `schedule` puts them in order, `assembly` writes records.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llamafw_backends.numba_cpu.attention import CacheLayout
from llamafw_backends.numba_cpu.isa import RECORD_BYTES
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.kernel_records import SHARED
from llamafw_backends.numba_cpu.memory import align_up
from llamafw_backends.numba_cpu.weights import Matrix, Vector

Kernel = Callable[..., int]


@dataclass(eq=False)
class Buffer:
    """Memory for one row per token."""

    row_bytes: int
    mode: int = SHARED
    first: int = -1  # phases between which it is in use
    last: int = -1
    start: int = 0  # its place among the buffers of a step
    n_bytes: int = 0
    address: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value's rows are: a buffer, and an offset in each of its rows, in bytes."""

    buffer: Buffer
    offset: int = 0

    @property
    def address(self) -> int:
        """Address of the first row."""
        return self.buffer.address + self.offset


@dataclass(eq=False)
class Activations:
    """A row of ``n_parts`` vectors of ``n`` numbers, in the layouts that matrices are multiplied with."""

    n: int
    n_parts: int
    layouts: int = 0  # bits
    has_pair_rows: bool = True  # if it is the input of experts: not all pairs of a token have the same row
    float_bytes: int = 4  # 2: the floats are rounded to bfloat16
    records: Buffer = field(init=False)
    floats: Buffer = field(init=False)

    def __post_init__(self) -> None:
        self.records = Buffer(self.n_parts * self.records_row)
        self.floats = Buffer(self.n_parts * self.floats_row)

    @property
    def records_row(self) -> int:
        """Size of a vector's records."""
        return self.n // 32 * RECORD_BYTES

    @property
    def floats_row(self) -> int:
        """Size of a vector of floats."""
        return self.float_bytes * self.n


@dataclass(eq=False)
class Unit(ABC):
    """Work that one phase does, or a part of it."""

    stage: int = field(kw_only=True)  # 0: for the ubatch's tokens; 1: for its outputs

    @abstractmethod
    def reads(self) -> list[Buffer]:
        """Return the buffers that it reads."""

    @abstractmethod
    def writes(self) -> list[Buffer]:
        """Return the buffers that it writes."""


@dataclass(eq=False)
class RowUnit(Unit):
    """An operator that computes a row from one or two others."""

    kernel: Kernel
    a: Place | Activations | None
    b: Place | None
    out: Place | Activations | None  # None: a row that the step returns
    fields: Mapping[str, Any]  # of its ROW_OP; a `Vector`, `Table` or `Place` becomes its address
    is_shared: bool = False  # the row is written once, not by each thread

    def reads(self) -> list[Buffer]:
        places = (self.a, self.b, *self.fields.values())
        return [place.buffer for place in places if isinstance(place, Place)]

    def writes(self) -> list[Buffer]:
        if isinstance(self.out, Activations):
            return [self.out.records, self.out.floats]
        return [self.out.buffer] if self.out else []


@dataclass(frozen=True, slots=True)
class Product:
    """A product with some rows of a matrix, or of each matrix of a group."""

    matrix: Matrix
    x: Activations
    first_tile: int
    used_tiles: int
    scales: Vector | None = None  # a factor for each matrix of a group
    biases: Vector | None = None  # added after it; without a factor, the matrix has its bias itself


@dataclass(eq=False)
class MatrixUnit(Unit):
    """A product with a matrix, or the sum of several products of the same size."""

    products: Sequence[Product]  # each is added to those before it
    out: Place | None  # None: the logits
    add: bool = False  # to what is in ``out``

    def reads(self) -> list[Buffer]:
        added = [self.out.buffer] if self.out and self.add else []
        return [*added, *(buffer for one in self.products for buffer in (one.x.records, one.x.floats))]

    def writes(self) -> list[Buffer]:
        return [self.out.buffer] if self.out else []


@dataclass(eq=False)
class Pairs:
    """The pairs of a token and one of its experts, sorted by expert."""

    n_expert: int
    n_used: int
    table: Buffer  # see `experts.table_bytes`
    places: Buffer  # each pair's place, one row per token


@dataclass(eq=False)
class SortUnit(Unit):
    """Sorts pairs by expert."""

    chosen: Place
    pairs: Pairs

    def reads(self) -> list[Buffer]:
        return [self.chosen.buffer]

    def writes(self) -> list[Buffer]:
        return [self.pairs.table, self.pairs.places]


@dataclass(eq=False)
class GatherUnit(Unit):
    """Stores the rows of the pairs' tokens as activations."""

    x: Place
    pairs: Pairs
    out: Activations
    step: int  # bytes between the rows of a token's pairs; 0 if they have the same row

    def reads(self) -> list[Buffer]:
        return [self.x.buffer, self.pairs.table]

    def writes(self) -> list[Buffer]:
        return [self.out.records, self.out.floats]


@dataclass(eq=False)
class SlotOp:
    """An elementwise operator between slots: numbered groups of columns."""

    kernel: Kernel
    a: int
    b: int
    out: int
    fields: Mapping[str, Any]


@dataclass(eq=False)
class ColumnsUnit(Unit):
    """Elementwise operators of products with matrices."""

    inputs: Sequence[tuple[int, Product]]  # slots, and what is added to them; the first product of a slot replaces it
    ops: Sequence[SlotOp]
    n_slots: int
    result: int
    n_columns: int
    out: Place | Activations | None  # None: the logits
    pairs: Pairs | None = None  # the rows are pairs of a token and an expert

    def reads(self) -> list[Buffer]:
        table = [self.pairs.table] if self.pairs else []
        return [*table, *(buffer for _, one in self.inputs for buffer in (one.x.records, one.x.floats))]

    def writes(self) -> list[Buffer]:
        if isinstance(self.out, Activations):
            return [self.out.records, self.out.floats]
        return [self.out.buffer] if self.out else []


@dataclass(eq=False)
class AttentionUnit(Unit):
    """Attention over a cache."""

    q: Place
    k: Place
    v: Place
    out: Place
    q_ops: Sequence[RowUnit]  # applied to each head in place
    k_ops: Sequence[RowUnit]
    v_ops: Sequence[RowUnit]
    n_head: int
    cache: CacheLayout
    number: int  # of the cache
    cached: Buffer  # stands for the cache
    stores: bool
    fields: Mapping[str, Any]  # of its ATTENTION record

    def reads(self) -> list[Buffer]:
        stored = [self.k.buffer, self.v.buffer] if self.stores else []
        return [self.q.buffer, *stored, self.cached]

    def writes(self) -> list[Buffer]:
        stored = [self.k.buffer, self.v.buffer, self.cached] if self.stores else []
        return [self.out.buffer, self.q.buffer, *stored]


@dataclass(eq=False)
class RecurrentUnit(Unit):
    """An operator that reads the tokens of a slot in order, and keeps a state of fixed size."""

    build: Callable[[KernelCompiler], Any]  # compiles the kernel
    dtype: np.dtype[np.void]  # of the kernel's record
    inputs: Mapping[str, Place]  # by the names of the record's fields
    out: Place
    fields: Mapping[str, Any]  # of the record
    state_bytes: int  # of a slot
    scratch_bytes: int  # of a thread
    state: int = 0  # place of its state among those of a slot, in bytes

    def reads(self) -> list[Buffer]:
        return [place.buffer for place in self.inputs.values()]

    def writes(self) -> list[Buffer]:
        return [self.out.buffer]


@dataclass(eq=False)
class OperatorUnit(Unit):
    """An operator of a plugin."""

    build: Callable[[KernelCompiler], Any]  # compiles the kernel
    name: str
    arguments: Sequence[Place | Vector]  # the arrays of its function, in the order of its parameters
    out: Place  # one of them
    n_parts: int
    state_bytes: int  # of a slot; 0 if the operator has no state
    state: int = 0  # place of its state among those of a slot, in bytes

    def reads(self) -> list[Buffer]:
        return [one.buffer for one in self.arguments if isinstance(one, Place) and one is not self.out]

    def writes(self) -> list[Buffer]:
        return [self.out.buffer]


@dataclass(eq=False)
class SelectUnit(Unit):
    """From here on, only the rows of the outputs are needed."""

    buffers: list[Buffer] = field(default_factory=list)

    def reads(self) -> list[Buffer]:
        return self.buffers

    def writes(self) -> list[Buffer]:
        return self.buffers


def float_buffer(n: int) -> Buffer:
    """Return a buffer for rows of ``n`` numbers."""
    return Buffer(align_up(4 * n))
