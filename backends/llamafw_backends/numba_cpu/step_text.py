"""Describe the step that a graph becomes as text: its phases with their units, and its buffers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from llamafw import BackendContext
from llamafw_backends.numba_cpu.convolution import CONVOLUTION
from llamafw_backends.numba_cpu.cpu import physical_cores
from llamafw_backends.numba_cpu.kernel_records import (
    BATCH_BARRIER,
    GROUPED,
    PRIVATE,
    SELECT_BARRIER,
    SHARED,
    SINGLE_BARRIER,
    TRANSIENT,
)
from llamafw_backends.numba_cpu.linear_attention import LINEAR_ATTENTION
from llamafw_backends.numba_cpu.lowering import Lowering
from llamafw_backends.numba_cpu.rotations import Rotations
from llamafw_backends.numba_cpu.schedule import Schedule, schedule
from llamafw_backends.numba_cpu.selective_scan import SELECTIVE_SCAN
from llamafw_backends.numba_cpu.units import (
    AttentionUnit,
    Buffer,
    ColumnsUnit,
    GatherUnit,
    MatrixUnit,
    OperatorUnit,
    Product,
    RecurrentUnit,
    RowUnit,
    SelectUnit,
    SortUnit,
    Unit,
)
from llamafw_backends.numba_cpu.weights import Table, Weights

_BARRIERS = {BATCH_BARRIER: "batch", SINGLE_BARRIER: "single", SELECT_BARRIER: "select"}
_MODES = {SHARED: "shared", PRIVATE: "private", TRANSIENT: "transient", GROUPED: "grouped"}
_RECURRENT = {CONVOLUTION: "convolution", LINEAR_ATTENTION: "linear attention", SELECTIVE_SCAN: "selective scan"}
_HEADER = """\
Barriers: batch, before a phase with several rows; single, with one row; select, if there are fewer outputs than tokens.
"""


def describe_step(context: BackendContext) -> str:
    """Return the phases of the step that computes a model's logits, and the buffers that they use.

    Raises
    ------
    ModelError
        The kernels do not support the model.
    """
    options, graph = context.options, context.graph
    n_ubatch = min(options.n_ubatch, options.n_batch)
    n_threads = max(options.n_threads or physical_cores(), options.n_threads_batch)
    rotations = Rotations(options.n_ctx or graph.n_ctx_train)
    lowering = Lowering(graph, graph.logits or graph.hidden, Weights(context), rotations, options.n_batch)
    step = schedule(lowering.units, n_ubatch, n_threads)

    names = {buffer: f"b{i}" for i, buffer in enumerate(one for one in step.buffers if one.row_bytes)}
    title = (
        f"{len(step.phases)} phases, {len(names)} buffers in {step.n_bytes / 1e6:.1f} MB, for {n_ubatch} tokens and "
        f"{n_threads} threads\n"
    )
    return "\n".join([title + _HEADER, *_phases(step, names), "", *_buffers(names)]) + "\n"


def _phases(step: Schedule, names: Mapping[Buffer, str]) -> Iterator[str]:
    """Yield a line for each phase; further units of a phase have lines of their own."""
    yield "phase  barrier       rows     units and the buffers that they read and write"
    for i, phase in enumerate(step.phases):
        barrier = " ".join(name for flag, name in _BARRIERS.items() if phase.barrier & flag)
        start = f"{i:5}  {barrier:12}  {'outputs' if phase.stage else 'tokens':7}"
        for unit in phase.units:
            reads, writes = (_list(buffers, names) for buffers in (unit.reads(), unit.writes()))
            yield f"{start}  {_unit(unit)}: {reads}{' ' if reads else ''}→ {writes or 'result'}"
            start = " " * len(start)


def _buffers(names: Mapping[Buffer, str]) -> Iterator[str]:
    """Yield a line for each buffer."""
    yield "buffer  bytes per row       bytes          at  phases     mode"
    for buffer, name in names.items():
        phases = f"{buffer.first}–{buffer.last}"
        sizes = f"{buffer.row_bytes:13}  {buffer.n_bytes:10}  {buffer.start:10}"
        yield f"{name:6}  {sizes}  {phases:9}  {_MODES[buffer.mode]}"


def _list(buffers: Iterable[Buffer], names: Mapping[Buffer, str]) -> str:
    return " ".join(dict.fromkeys(names[buffer] for buffer in buffers if buffer in names))


def _unit(unit: Unit) -> str:
    """Return what a unit computes."""
    match unit:
        case RowUnit():
            tables = (value.tensor for value in unit.fields.values() if isinstance(value, Table))
            return " ".join([unit.kernel.__name__, *(f"{one.name} {one.type_name}" for one in tables)])
        case MatrixUnit():
            return f"matrix {' + '.join(map(_product, unit.products))}{', added' if unit.add else ''}"
        case ColumnsUnit():
            kernels = [op.kernel.__name__ for op in unit.ops]
            experts = " of experts" if unit.pairs else ""
            return f"columns{experts} {', '.join([*_sums(unit.inputs), *kernels])}"
        case AttentionUnit():
            ops = [
                f"{name} {op.kernel.__name__}"
                for name, units in (("q", unit.q_ops), ("k", unit.k_ops), ("v", unit.v_ops))
                for op in units
            ]
            cache = f"cache {unit.number}{'' if unit.stores else ', which it only reads'}"
            return f"attention {', '.join([f'{unit.n_head} heads', cache, *ops])}"
        case RecurrentUnit():
            return f"{_RECURRENT[unit.dtype]}, {unit.state_bytes} bytes per slot"
        case OperatorUnit():
            state = f", {unit.state_bytes} bytes per slot" if unit.state_bytes else ""
            return f"{unit.name} in {unit.n_parts} parts{state}"
        case SortUnit():
            return f"sort {unit.pairs.n_used} of {unit.pairs.n_expert} experts"
        case GatherUnit():
            return "gather"
        case SelectUnit():
            return "select"
    raise AssertionError(f"{type(unit).__name__} has no description")


def _sums(inputs: Sequence[tuple[int, Product]]) -> Iterator[str]:
    """Yield the products of each slot."""
    slots: dict[int, list[str]] = {}
    for slot, product in inputs:
        slots.setdefault(slot, []).append(_product(product))
    yield from map(" + ".join, slots.values())


def _product(product: Product) -> str:
    """Return the tensor of a product, its type in the file, and the rows that are used if these are not all."""
    matrix, weight = product.matrix, product.matrix.weight
    rows = "" if weight.last is None else f"[{weight.first}:{weight.last}]"
    return f"{weight.name}{rows} {matrix.tensor.type_name}"
