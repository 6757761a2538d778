"""Write the records of a schedule: the addresses of kernels, buffers and weights, phase by phase."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw_backends.numba_cpu import attention, experts, phases, plugin_operators, softmax
from llamafw_backends.numba_cpu.isa import InstructionSet
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.kernel_records import (
    ATTENTION,
    COLUMNS,
    GROUPED,
    MATRIX,
    PHASE,
    PRIVATE,
    ROW_OP,
    ROWS,
    SELECT,
    SELECTION,
    SYMMETRIC,
    TENSOR,
    new_records,
)
from llamafw_backends.numba_cpu.kv_cache import KVCache
from llamafw_backends.numba_cpu.memory import align_up
from llamafw_backends.numba_cpu.rotations import RotationTable
from llamafw_backends.numba_cpu.schedule import Schedule
from llamafw_backends.numba_cpu.tiles import ONE_BYTE
from llamafw_backends.numba_cpu.units import (
    Activations,
    AttentionUnit,
    ColumnsUnit,
    GatherUnit,
    MatrixUnit,
    OperatorUnit,
    Pairs,
    Place,
    Product,
    RecurrentUnit,
    RowUnit,
    SelectUnit,
    SortUnit,
    Unit,
)
from llamafw_backends.numba_cpu.weights import Table, Vector

_BLOCK_BYTES = 1 << 18  # of records

Parts = Mapping[str, Sequence[npt.NDArray[np.void]]]
"""Records that another one points to, by the names of the fields with their address."""


@dataclass(eq=False)
class Step:
    """The records of a step, and what must be kept alive while it runs."""

    phases: npt.NDArray[np.void]  # (n_phases,) PHASE
    scratch_bytes: int  # that each thread needs
    alive: list[npt.NDArray[np.uint8]]  # their memory


class Assembly:
    """Writes the records of one schedule.

    Parameters
    ----------
    schedule : Schedule
        The phases.
    memory : int
        Address of the buffers.
    caches : KVCache
        The KV cache.
    states : (int, int)
        Address of the states of recurrent operators, and bytes from slot to slot.
    compiler : KernelCompiler
        Compiles the kernels that the phases need.
    isa : InstructionSet
        The instruction set of the kernels.
    activation_bits : int
        15 or 8, of activations that are multiplied with quantised weights.
    n_rows : int
        Maximum number of tokens in a ubatch.
    result : int
        LOGITS or HIDDEN: what the step returns.
    result_stride : int
        Bytes from row to row of the result.
    """

    def __init__(
        self,
        schedule: Schedule,
        memory: int,
        caches: KVCache,
        states: tuple[int, int],
        compiler: KernelCompiler,
        isa: InstructionSet,
        activation_bits: int,
        n_rows: int,
        result: int,
        result_stride: int,
    ) -> None:
        self._caches, self._states, self._n_rows = caches, states, n_rows
        self._compiler, self._isa = compiler, isa
        self._size_bit = ONE_BYTE if activation_bits == 8 else 0
        self._result, self._result_stride = result, result_stride
        self._blocks: list[npt.NDArray[np.uint8]] = []
        self._used = 0  # bytes of the last block
        self._scratch_bytes = 64

        for buffer in schedule.buffers:
            buffer.address = memory + buffer.start
        records = new_records(PHASE, len(schedule.phases))
        for record, phase in zip(records, schedule.phases, strict=True):
            kernel, record["record"] = self._phase(phase.units, phase.is_redundant, phase.stage)
            record["kernel"], record["n_bytes"] = kernel, self._end() - int(record["record"])
            record["barrier"], record["stage"] = phase.barrier, phase.stage
        self.step = Step(records, self._scratch_bytes, self._blocks)

    def _phase(self, units: Sequence[Unit], is_redundant: bool, stage: int) -> tuple[int, int]:
        """Return the addresses of a phase's kernel and of its arguments."""
        match units:
            case [MatrixUnit() as unit]:
                return self._kernel("matrix", 3, phases.matrix), self._matrix(unit)
            case [ColumnsUnit(pairs=None) as unit]:
                return self._kernel("columns", 3, phases.columns), self._columns(unit, COLUMNS)
            case [ColumnsUnit(pairs=Pairs() as pairs) as unit]:
                record = self._columns(unit, experts.EXPERTS, **self._table(pairs))
                return self._kernel("expert columns", 3, experts.expert_columns), record
            case [SortUnit() as unit]:
                fields = {"stage": stage, "n_used": unit.pairs.n_used} | self._table(unit.pairs)
                fields |= self._address("chosen", unit.chosen) | self._address("places", Place(unit.pairs.places))
                record = self._store(experts.SORT, fields)
                return self._kernel("sort", 3, experts.sort), record
            case [GatherUnit() as unit]:
                return self._kernel("gather activations", 3, experts.gather_activations), self._gather(unit)
            case [AttentionUnit() as unit]:
                return self._attention(unit)
            case [RecurrentUnit() as unit]:
                return self._recurrent(unit)
            case [OperatorUnit() as unit]:
                return self._operator(unit)
            case [SelectUnit() as unit]:
                return self._kernel("select", 3, phases.select), self._select(unit)
        ops = [self._row_op(unit) for unit in units if isinstance(unit, RowUnit)]
        record = self._store(ROWS, {"stage": stage, "redundant": int(is_redundant)}, {"ops": ops})
        return self._kernel("rows", 3, phases.rows), record

    # --- records ------------------------------------------------------------------------------------

    @staticmethod
    def _new(dtype: np.dtype[np.void], /, **fields: Any) -> npt.NDArray[np.void]:
        record = new_records(dtype)
        for name, value in fields.items():
            record[name] = value
        return record

    def _store(self, dtype: np.dtype[np.void], fields: Mapping[str, Any], parts: Parts | None = None) -> int:
        """Write a record, and behind it the records that it points to, and return its address.

        The records of all phases follow one another in memory, because they are read once per step, from a memory
        that the weights have filled with other data since.
        """
        contents = [np.concatenate(records).view(np.uint8) for records in (parts or {}).values() if records]
        n_bytes = align_up(dtype.itemsize) + sum(align_up(content.nbytes) for content in contents)
        if not self._blocks or self._used + n_bytes > self._blocks[-1].nbytes:
            self._blocks.append(np.zeros(max(_BLOCK_BYTES, n_bytes + 64), np.uint8))
            self._used = -int(self._blocks[-1].ctypes.data) % 64
        block = self._blocks[-1]
        record, address = block[self._used : self._used + dtype.itemsize].view(dtype), self._end()
        self._used += align_up(dtype.itemsize)

        for name, records in (parts or {}).items():
            record[name], record[f"n_{name}"] = self._end() if records else 0, len(records)
            if records:
                content = contents.pop(0)
                block[self._used : self._used + content.nbytes] = content
                self._used += align_up(content.nbytes)
        for name, value in fields.items():
            record[name] = value
        return address

    def _end(self) -> int:
        """Return the address behind the records."""
        return int(self._blocks[-1].ctypes.data) + self._used

    def _kernel(self, name: str, n_arguments: int, function: Callable[..., int]) -> int:
        return int(self._compiler(name, n_arguments, function).address)

    def _row_kernel(self, function: Callable[..., int]) -> int:
        return self._kernel(f"row {function.__name__}", 8, function)

    @staticmethod
    def _numbers(fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return fields with the addresses of weights and tables."""
        numbers: dict[str, Any] = {}
        for name, value in fields.items():
            if isinstance(value, Table):
                numbers |= value.fields()
            else:
                numbers[name] = value.address if isinstance(value, Vector | RotationTable | Place) else value
        return numbers

    def _row_op(self, unit: RowUnit) -> npt.NDArray[np.void]:
        fields = self._numbers(unit.fields) | {"stage": unit.stage, "kernel": self._row_kernel(unit.kernel)}
        for name, place in (("a", unit.a), ("b", unit.b)):
            if isinstance(place, Place):
                fields |= self._address(name, place)
        if isinstance(unit.out, Place):
            fields |= self._address("out", unit.out)
        elif isinstance(unit.out, Activations):
            x = unit.out
            fields |= {"layouts": self._size_bit | x.layouts, "out_step": x.records_row, "b_step": x.floats_row}
            fields |= {"out": x.records.address, "out_stride": x.records.row_bytes, "out_mode": x.records.mode}
            fields |= {"b": x.floats.address, "b_stride": x.floats.row_bytes, "b_mode": x.floats.mode}
        else:
            fields |= {"out_stride": self._result_stride, "out_mode": self._result}
        return self._new(ROW_OP, **fields)

    @staticmethod
    def _address(name: str, place: Place) -> dict[str, int]:
        buffer = place.buffer
        return {
            name: buffer.address + place.offset,
            f"{name}_stride": buffer.row_bytes,
            f"{name}_mode": buffer.mode,
        }

    def _product(self, product: Product, stage: int) -> dict[str, Any]:
        """Return the fields of a MATRIX record, except those of its result."""
        matrix, x = product.matrix, product.x
        is_grouped = x.records.mode == GROUPED
        return {name: matrix.record[name][0] for name in TENSOR.names or ()} | {
            "stage": stage,
            "n_parts": max(x.n_parts, matrix.n_splits),
            "is_split": int(matrix.n_splits > 1),
            "part_tiles": matrix.part_tiles if matrix.n_parts > 1 else 0,  # 0: all parts have the same matrix
            "first_tile": product.first_tile,
            "used_tiles": product.used_tiles,
            "records": x.records.address,
            "floats": x.floats.address,
            "records_stride": x.records.row_bytes if is_grouped else 0,
            "floats_stride": x.floats.row_bytes if is_grouped else 0,
            "records_row": x.records_row,
            "floats_row": x.floats_row,
            "has_pair_rows": int(x.has_pair_rows),
            "scales": product.scales.address if product.scales else 0,
            "biases": product.biases.address if product.biases else 0,
        }

    def _matrix(self, unit: MatrixUnit) -> int:
        """Write the records of products that are added; return the address of the first."""
        first, *others = unit.products
        fields = self._product(first, unit.stage)
        fields |= {"add": int(unit.add), "out_part": 4 * first.matrix.weight.shape[-2]}
        fields |= self._address("out", unit.out) if unit.out else self._returned()
        more = [self._new(MATRIX, **self._product(other, unit.stage)) for other in others]
        return self._store(MATRIX, fields, {"more": more})

    @staticmethod
    def _table(pairs: Pairs) -> dict[str, int]:
        table = pairs.table
        return {"n_expert": pairs.n_expert, "table": table.address, "table_stride": table.row_bytes}

    def _gather(self, unit: GatherUnit) -> int:
        x = unit.out
        fields = {
            "stage": unit.stage,
            "n_used": unit.pairs.n_used,
            "n_columns": x.n,
            "layouts": self._size_bit | x.layouts,
            "records": x.records.address,
            "floats": x.floats.address,
            "records_stride": x.records.row_bytes,
            "floats_stride": x.floats.row_bytes,
        }
        fields |= self._table(unit.pairs) | self._address("x", unit.x)
        return self._store(experts.GATHER, fields | {"x_step": unit.step})

    def _returned(self) -> dict[str, int]:
        return {"out_stride": self._result_stride, "out_mode": self._result}

    def _columns(self, unit: ColumnsUnit, dtype: np.dtype[np.void], **more: Any) -> int:
        ops = [
            self._new(
                ROW_OP,
                **{"n_parts": 1} | self._numbers(op.fields),
                kernel=self._row_kernel(op.kernel),
                stage=unit.stage,
                a=op.a,
                b=op.b,
                out=op.out,
            )
            for op in unit.ops
        ]
        tiles = 2 if unit.n_columns % 32 == 0 else 1
        n_rows = self._n_rows * (unit.pairs.n_used if unit.pairs else 1)
        fields: dict[str, Any] = {
            "stage": unit.stage,
            "n_slots": unit.n_slots,
            "result": unit.result,
            "n_columns": unit.n_columns,
            "unit": tiles,
        }
        if isinstance(unit.out, Activations):
            x = unit.out
            fields |= {"layouts": self._size_bit | x.layouts, "records": x.records.address, "floats": x.floats.address}
            if unit.pairs:
                fields |= {"records_row": x.records_row, "floats_row": x.floats_row}
        elif unit.pairs and unit.out:
            fields |= {"out": unit.out.address, "out_stride": unit.out.buffer.row_bytes // unit.pairs.n_used}
        else:
            fields |= self._address("out", unit.out) if unit.out else self._returned()
        self._need_scratch(unit.n_slots * 4 * max(phases.CHUNK_FLOATS, 16 * tiles * n_rows))
        inputs = [self._new(MATRIX, slot=slot, **self._product(product, unit.stage)) for slot, product in unit.inputs]
        slots = [slot for slot, _ in unit.inputs]
        for i, record in enumerate(inputs):
            record["add"] = int(slots[i] in slots[:i])
        return self._store(dtype, fields | more, {"inputs": inputs, "ops": ops})

    def _attention(self, unit: AttentionUnit) -> tuple[int, int]:
        layout, cached = unit.cache, self._caches.fields(unit.number)
        n_rep = unit.n_head // layout.n_head
        kernel = attention.build(self._compiler, self._isa, n_rep, layout, *self._caches.types)
        window, kind = unit.fields["window"], unit.fields["window_kind"]
        limit = 0 if layout.whole_text and kind != SYMMETRIC else window
        n_seen = softmax.max_scores(limit, self._caches.n_ctx, kind)
        n_scores, n_segments = min(n_seen, softmax.SEGMENT), softmax.max_segments(n_seen, self._caches.n_ctx)
        self._need_scratch(attention.scratch_bytes(n_rep, layout, n_scores, n_segments))

        fields: dict[str, Any] = {
            "n_head_kv": layout.n_head,
            "stores": int(unit.stores),
            "n_scores": n_scores,
            "segment": softmax.SEGMENT,
            "n_segments": n_segments,
            "area_bytes": attention.area_bytes(n_rep, layout, n_segments),
        }
        fields |= cached | self._numbers(unit.fields) | self._address("q", unit.q)
        fields |= {"out": unit.out.buffer.address + unit.out.offset, "out_stride": unit.out.buffer.row_bytes}
        if unit.stores:
            fields |= self._address("k", unit.k)
            fields |= {} if layout.latent else self._address("v", unit.v)
        ops = {"q_ops": unit.q_ops, "k_ops": unit.k_ops, "v_ops": unit.v_ops}
        parts = {name: [self._head_op(op) for op in units] for name, units in ops.items()}
        return kernel.address, self._store(ATTENTION, fields, parts)

    def _recurrent(self, unit: RecurrentUnit) -> tuple[int, int]:
        kernel = unit.build(self._compiler)
        self._need_scratch(unit.scratch_bytes)
        fields = self._numbers(unit.fields) | {"state": self._states[0] + unit.state, "state_slot": self._states[1]}
        for name, place in (*unit.inputs.items(), ("out", unit.out)):
            fields |= {name: place.address, f"{name}_stride": place.buffer.row_bytes}
        return kernel.address, self._store(unit.dtype, fields)

    def _operator(self, unit: OperatorUnit) -> tuple[int, int]:
        fields = {"stage": unit.stage, "state": self._states[0] + unit.state, "state_slot": self._states[1]}
        arguments = [
            self._new(
                plugin_operators.ARGUMENT,
                address=one.address,
                stride=one.buffer.row_bytes if isinstance(one, Place) else 0,
            )
            for one in unit.arguments
        ]
        kernel = unit.build(self._compiler)
        return kernel.address, self._store(plugin_operators.OPERATOR, fields, {"arguments": arguments})

    def _head_op(self, unit: RowUnit) -> npt.NDArray[np.void]:
        fields = self._numbers(unit.fields)
        offset = fields.pop("offset", 0)
        return self._new(ROW_OP, **fields, kernel=self._row_kernel(unit.kernel), out=offset)

    def _select(self, unit: SelectUnit) -> int:
        buffers = [
            self._new(SELECTION, buffer=buffer.address, stride=buffer.row_bytes, private=int(buffer.mode == PRIVATE))
            for buffer in unit.buffers
            if buffer.row_bytes
        ]
        return self._store(SELECT, {}, {"buffers": buffers})

    def _need_scratch(self, n_bytes: int) -> None:
        self._scratch_bytes = max(self._scratch_bytes, n_bytes)
