"""Load a model's tensors in the formats of the kernels: matrices as tiles, vectors as float32.

A matrix keeps its type if there is a format for it. Weights of any other type are unpacked exactly, to float32. The
file is read once, except for embeddings, whose rows are read from the file when they are needed.
"""

from __future__ import annotations

import time
from collections import ChainMap, Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import BackendContext, Floats, ModelError, PluginError, Tensor
from llamafw import graph as g
from llamafw_backends.numba_cpu import matmul, packing
from llamafw_backends.numba_cpu.cpu import cache_bytes
from llamafw_backends.numba_cpu.emit import LANES
from llamafw_backends.numba_cpu.formats import BF16_PAIRS, FORMATS, find_format
from llamafw_backends.numba_cpu.isa import InstructionSet
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.kernel_records import POSITIONS, TENSOR, TOKENS, TYPES, address_of, new_records
from llamafw_backends.numba_cpu.memory import Arena, align_up
from llamafw_backends.numba_cpu.options import has_int8_activations
from llamafw_backends.numba_cpu.threads import Pool
from llamafw_backends.numba_cpu.tiles import ROWS, Format
from llamafw_backends.numba_cpu.unpacked import buffer_bytes

CHUNK_ROWS = 1024  # rows unpacked at once

Order = tuple[int, ...]
"""How the rows of a head are reordered: for each row, its number in the file. All heads have the same order."""


@dataclass(eq=False)
class Matrix:
    """One or several matrices of a tensor, which are packed into tiles when the model loads."""

    tensor: Tensor
    weight: g.Weight
    bias: g.Weight | None
    order: Order
    tile_format: Format
    record: npt.NDArray[np.void]  # TENSOR
    n_splits: int = 1  # a matrix is stored as several, each of which has some of its columns

    @property
    def n_parts(self) -> int:
        """Number of matrices."""
        return self.weight.shape[0] if len(self.weight.shape) == 3 else self.n_splits

    @property
    def n_rows(self) -> int:
        """Rows of all matrices."""
        return int(np.prod(self.weight.shape[:-1])) * self.n_splits

    def row_order(self) -> npt.NDArray[np.int64]:
        """Return the number in the file of each row; of a matrix that is split, a row has several."""
        rows = np.arange(self.n_rows)
        if self.n_splits > 1:
            return rows.reshape(-1, self.n_splits).T.reshape(-1)
        return rows.reshape(-1, len(self.order))[:, list(self.order)].reshape(-1) if self.order else rows

    @property
    def n_columns(self) -> int:
        """Columns of each matrix."""
        return self.weight.shape[-1] // self.n_splits

    @property
    def part_tiles(self) -> int:
        """Tiles of each matrix."""
        return -(-self.weight.shape[-2] // ROWS)

    @property
    def layout(self) -> int:
        """Layout of the activations that it is multiplied with."""
        return self.tile_format.layout

    @property
    def address(self) -> int:
        """Address of its TENSOR record."""
        return address_of(self.record)

    @property
    def n_bytes(self) -> int:
        """Size of the tiles."""
        return self.tile_format.tile_bytes(self.n_columns) * -(-self.n_rows // ROWS)


@dataclass(eq=False)
class Vector:
    """Numbers of the file, or computed ones, as float32."""

    values: Floats
    address: int = 0  # after `Weights.place`


@dataclass(eq=False)
class Table:
    """An embedding, whose rows stay in the file."""

    tensor: Tensor
    rows: npt.NDArray[np.uint8]  # (n_rows, bytes per row)
    row_format: Format | None  # None: Python unpacks rows
    unpacked: Floats | None = None  # (n_batch, n) rows of the batch, if Python unpacks them
    ids: str = "tokens"  # what has these rows: "tokens", "positions" or "types"
    kernel: int = 0  # address of the kernel that unpacks a block, after `Weights.place`

    def fields(self) -> dict[str, int]:
        """Return the fields of a ROW_OP that looks up rows."""
        block = self.row_format
        return {
            "table": int(self.rows.ctypes.data),
            "row_bytes": self.rows.strides[0],
            "block_size": block.block_size if block else 0,
            "block_bytes": block.block_bytes if block else 0,
            "unpack": self.kernel,
            "ids": {"tokens": TOKENS, "positions": POSITIONS, "types": TYPES}[self.ids],
            "embedded": 0 if self.unpacked is None else int(self.unpacked.ctypes.data),
        }


class Weights:
    """The weights that a model's plan asks for, in one arena, in the order in which it asks.

    Parameters
    ----------
    context : BackendContext
        The model, and what plugins have registered.
    base : Weights, optional
        The packed weights of another plan for the same model. What they include is not packed again.

    Raises
    ------
    ModelError
        The kernels do not support a tensor's type or shape.
    PluginError
        The format of a plugin's tensor type is invalid.
    """

    def __init__(self, context: BackendContext, base: Weights | None = None) -> None:
        self._context = context
        self._matrices: ChainMap[Any, Matrix] = ChainMap({}, base._matrices if base else {})
        self._vectors: ChainMap[Any, Vector] = ChainMap({}, base._vectors if base else {})
        self.tables: ChainMap[str, Table] = ChainMap({}, base.tables if base else {})
        self.kernels: dict[str, Any] = {}  # that multiply, by `Format.key`
        # bytes of tiles and of the file, by type
        self._converted: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.seconds = 0.0

    @property
    def context(self) -> BackendContext:
        """The model, and what plugins have registered."""
        return self._context

    # --- what a plan asks for -----------------------------------------------------------------------

    def matrix(
        self, weight: g.Weight, bias: g.Weight | None = None, order: Order = (), *, can_split: bool = False
    ) -> Matrix:
        """Return a matrix, or several of the same shape; if ``can_split``, a narrow one may be split by columns."""
        tensor = self._context.model.tensors[weight.name]
        tile_format = self._tile_format(tensor)
        n_splits = packing.count_splits(weight.shape, tensor, tile_format) if can_split else 1
        key = (weight, bias, order, n_splits)
        if key not in self._matrices:
            if len(weight.shape) not in (2, 3) or weight.shape[-1] % tile_format.columns:
                raise ModelError(
                    f"{self._context.model.path}: the tensor {tensor.name!r} has shape {tensor.shape}; the numba "
                    f"backend needs matrices whose number of columns is a multiple of {tile_format.columns}"
                )
            if len(weight.shape) == 3 and weight.shape[1] % ROWS:
                raise ModelError(
                    f"{self._context.model.path}: the tensor {tensor.name!r} has shape {tensor.shape}; the numba "
                    f"backend needs groups of matrices whose number of rows is a multiple of {ROWS}"
                )
            self._matrices[key] = Matrix(tensor, weight, bias, order, tile_format, new_records(TENSOR), n_splits)
        return self._matrices[key]

    def layout(self, weight: g.Weight) -> int:
        """Return the layout of the activations that a matrix is multiplied with."""
        return self._tile_format(self._context.model.tensors[weight.name]).layout

    def vector(self, weight: g.Weight, order: Order = (), change: Callable[[Floats], Floats] | None = None) -> Vector:
        """Return the numbers of a tensor, in another order, or as ``change`` returns them."""
        key = (weight, order, change)
        if key not in self._vectors:
            values = self._read(weight)
            values = (change(values) if change else values).reshape(-1)
            self._vectors[key] = Vector(values[list(order)] if order else values)
        return self._vectors[key]

    def numbers(self, values: npt.ArrayLike) -> Vector:
        """Return computed numbers."""
        array = np.ascontiguousarray(values, np.float32)
        return self._vectors.setdefault((array.shape, array.tobytes()), Vector(array))

    def table(self, weight: g.Weight, n_batch: int, ids: str = "tokens") -> Table:
        """Return an embedding; ``n_batch`` is the maximum number of rows that are needed at once."""
        if weight.name not in self.tables:
            tensor = self._context.model.tensors[weight.name]
            row_format = self._format(tensor)
            if row_format is not None and weight.shape[1] % row_format.block_size:
                row_format = None
            unpacked = None if row_format else np.zeros((n_batch, weight.shape[1]), np.float32)
            self.tables[weight.name] = Table(tensor, _rows(tensor), row_format, unpacked, ids)
        return self.tables[weight.name]

    def unpack_rows(self, table: Table, indices: npt.NDArray[np.int64]) -> None:
        """Write some rows of an embedding into ``table.unpacked``."""
        assert table.unpacked is not None  # only called for tables whose type has no kernel
        out = table.unpacked[: len(indices)]
        out[...] = self._dequantize(table.tensor, table.rows[indices].reshape(-1), out.shape)

    def _tile_format(self, tensor: Tensor) -> Format:
        """Return the format in which a matrix is stored; F32 if its type has none."""
        found = self._format(tensor) or FORMATS["F32"]
        return BF16_PAIRS if found.name == BF16_PAIRS.name and has_int8_activations(self._context.options) else found

    def _format(self, tensor: Tensor) -> Format | None:
        """Return the format of a tensor; None if there is none for its type."""
        if tensor.type_name not in self._context.quants:
            path = self._context.model.path
            raise ModelError(f"{path}: the tensor {tensor.name!r} has the unknown type {tensor.type_name}")
        return find_format(self._context.quants[tensor.type_name])

    # --- packing ------------------------------------------------------------------------------------

    def place(self, isa: InstructionSet, pool: Pool, compiler: KernelCompiler) -> None:
        """Compile the kernels that the matrices need, and find memory for the weights, whose addresses are known then.

        The vectors are loaded, too.

        Raises
        ------
        PluginError
            The format of a plugin's tensor type cannot be compiled.
        """
        self._packer = packing.Packer(pool, compiler)
        read_once = 0 < 2 * cache_bytes() < self._size()  # a cache keeps nothing of more data until the next token
        formats = {matrix.tile_format.key: matrix.tile_format for matrix in self._matrices.maps[0].values()}
        for key, one in formats.items():
            with _faults_of_plugins(one):
                self.kernels[key] = matmul.build(compiler, isa, one, read_once=read_once)
                self._packer.compile(one, compiler)
        for table in self.tables.maps[0].values():
            if (rows := table.row_format) is not None:
                with _faults_of_plugins(rows):
                    table.kernel = compiler(rows.kernel_name("unpack"), 2, rows.unpack, has_result=False).address

        self.arena = Arena(self._size(), huge=True)
        self._zeros = self.arena.allocate(4 * LANES)
        for vector in self._vectors.maps[0].values():
            vector.address = self.arena.store(vector.values)
        for matrix in self._matrices.maps[0].values():
            self._place_matrix(matrix)

    def pack(self) -> None:
        """Copy the matrices into tiles.

        Other threads may compile kernels meanwhile.
        """
        started = time.perf_counter()
        looked_up = {table.tensor.name for table in self.tables.values()}
        by_tensor: dict[str, list[Matrix]] = {}
        for matrix in self._matrices.maps[0].values():
            by_tensor.setdefault(matrix.tensor.name, []).append(matrix)
        for name, matrices in by_tensor.items():
            data = matrices[0].tensor.data  # read once, because it may have to be computed
            for matrix in matrices:
                self._pack_matrix(matrix, data)
            if matrix.tile_format.name != matrix.tensor.type_name:
                self._converted[matrix.tensor.type_name]["file"] += data.nbytes
            del data
            if name not in looked_up:
                self._packer.call_when_packed(matrices[0].tensor.release)
        self._packer.run()
        self.seconds = time.perf_counter() - started

    def report(self, log: Callable[[str], None]) -> None:
        """Log the types whose weights were unpacked."""
        for name, n_bytes in self._converted.items():
            log(
                f"{name} has no kernel: its weights are unpacked to float32, {n_bytes['tiles'] / 1e6:.0f} MB per token "
                f"instead of {n_bytes['file'] / 1e6:.0f} MB"
            )

    @property
    def n_bytes(self) -> int:
        """Size of the weights that a step reads, in bytes."""
        return self.arena.n_bytes

    @property
    def buffer_bytes(self) -> int:
        """Size of the memory that a thread needs to unpack tiles, in bytes."""
        return max((buffer_bytes(one.tile_format, one.n_columns) for one in self._matrices.values()), default=0)

    def _size(self) -> int:
        """Return an upper bound of the arena's size in bytes: vectors, tiles, biases and their alignment."""
        vectors = sum(align_up(vector.values.nbytes) for vector in self._vectors.maps[0].values())
        return (
            vectors
            + align_up(4 * LANES)
            + sum(align_up(m.n_bytes) + align_up(4 * (m.n_rows + ROWS)) for m in self._matrices.maps[0].values())
        )

    def _read(self, weight: g.Weight) -> Floats:
        """Return the numbers of a tensor, or of some of its rows."""
        tensor = self._context.model.tensors[weight.name]
        values = self._dequantize(tensor, tensor.data, tensor.shape)
        return values[weight.first : weight.last] if tensor.shape else values

    def _dequantize(self, tensor: Tensor, data: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> Floats:
        """Return the weights of a part of a tensor."""
        if tensor.type_name == "F32":
            return np.ascontiguousarray(data).view(np.float32).reshape(shape)
        if tensor.type_name == "F16":
            return np.ascontiguousarray(data).view(np.float16).reshape(shape).astype(np.float32)
        try:
            return self._context.quants[tensor.type_name].dequantize(data, shape)
        except ModelError as error:
            raise ModelError(f"{self._context.model.path}: the tensor {tensor.name!r}: {error}") from error

    def _place_matrix(self, matrix: Matrix) -> None:
        """Allocate the tiles and the bias of a matrix, and fill its record."""
        tile_format, n_columns, n_tiles = matrix.tile_format, matrix.n_columns, -(-matrix.n_rows // ROWS)
        record, tile_bytes = matrix.record, tile_format.tile_bytes(n_columns)
        record["kernel"] = self.kernels[tile_format.key].address
        record["layout"], record["n_tiles"] = tile_format.layout, n_tiles
        record["n_records"], record["tile_bytes"] = n_columns // tile_format.columns, tile_bytes
        record["weights"] = self.arena.allocate(n_tiles * tile_bytes)
        record["start"], record["start_stride"] = self._zeros, 0
        if matrix.bias is not None:
            values = np.zeros(n_tiles * ROWS, np.float32)
            values[: matrix.n_rows] = self._read(matrix.bias).reshape(-1)[matrix.row_order()]
            record["start"], record["start_stride"] = self.arena.store(values), 4 * ROWS

    def _pack_matrix(self, matrix: Matrix, data: npt.NDArray[np.uint8]) -> None:
        """Copy the rows of a matrix into its tiles; ``data`` are those of its tensor."""
        tile_format, n_rows, n_columns = matrix.tile_format, matrix.n_rows, matrix.n_columns
        order, tiles = matrix.row_order(), int(matrix.record["weights"][0])
        n_file_rows = int(np.prod(matrix.tensor.shape[:-1])) * matrix.n_splits
        rows_per_part = n_file_rows // matrix.tensor.shape[0]
        rows = data.reshape(n_file_rows, -1)[matrix.weight.first * rows_per_part :][:n_rows]
        if matrix.tensor.type_name == tile_format.name:
            self._packer.add(tile_format, rows, order, tiles, n_columns)
            return
        self._converted[matrix.tensor.type_name]["tiles"] += matrix.n_bytes
        for first in range(0, n_rows, CHUNK_ROWS):
            chunk = order[first : first + CHUNK_ROWS]
            unpacked = self._dequantize(matrix.tensor, rows[chunk].reshape(-1), (len(chunk), n_columns))
            chunk_tiles = tiles + first // ROWS * tile_format.tile_bytes(n_columns)
            self._packer.add(tile_format, unpacked, np.arange(len(chunk)), chunk_tiles, n_columns)


@contextmanager
def _faults_of_plugins(tile_format: Format) -> Iterator[None]:
    """Turn an error of a plugin's format that is being compiled into a PluginError."""
    try:
        yield
    except Exception as error:
        if not tile_format.version:
            raise
        name = tile_format.name
        raise PluginError(
            f"the tensor type {name}: its format for the numba backend cannot be compiled: {error}"
        ) from error


def _rows(tensor: Tensor) -> npt.NDArray[np.uint8]:
    return tensor.data.reshape(tensor.shape[0], -1)
