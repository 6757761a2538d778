"""Load a model's tensors in the formats of the kernels: matrices as tiles, vectors as float32.

A matrix keeps its format if there is a kernel for it; every other ggml type is unpacked exactly and rounded to Q8_0.
The file is read once, except for the token embedding, whose rows are read from the file when they are needed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import BackendContext, Decoder, Floats, ModelError, Tensor, check_decoder
from llamafw_backends.numba_cpu import matmul, packing
from llamafw_backends.numba_cpu.emit import LANES
from llamafw_backends.numba_cpu.isa import InstructionSet
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.kernel_records import LAYER, TENSOR, new_records
from llamafw_backends.numba_cpu.memory import Arena, align_up
from llamafw_backends.numba_cpu.threads import Pool
from llamafw_backends.numba_cpu.tiles import ROWS, TILE_FORMATS, TileFormat
from llamafw_backends.numba_cpu.token_embedding import KERNEL_KINDS, NO_KERNEL

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
NORMS = ("attn_norm", "ffn_norm")
REQUIRED_ROLES = ("token_embd", *NORMS, *MATRICES, "output_norm", "output")
OPTIONAL_ROLES = tuple(f"{role}_bias" for role in (*MATRICES, "output"))
ACTIVATIONS = ("silu",)
COLUMNS = 32  # the columns of a matrix are a multiple of this: a block of ggml, a record of activations
CHUNK_ROWS = 1024  # rows unpacked at once
FALLBACK_TYPE = "Q8_0"  # for types without a kernel


class Weights:
    """The weights of a model, in one arena, in the order in which a step reads them.

    Raises
    ------
    ModelError
        The kernels do not support a tensor's type or shape, or a tensor is missing.
    """

    def __init__(self, context: BackendContext, isa: InstructionSet, pool: Pool, compiler: KernelCompiler) -> None:
        self._context, self._pool = context, pool
        self.decoder = context.decoder
        self._embedding = self._tensor("token_embd")
        self._converted: Counter[str] = Counter()  # bytes of converted tiles, by their type in the file
        matrices = dict(self._matrices())

        formats = {tensor.type_name: self._format(tensor) for tensor in matrices.values()}
        self.kernels = {
            tile_format.name: matmul.build(compiler, isa, tile_format)
            for tile_format in dict.fromkeys(formats.values())
        }
        self._pack = compiler("packing", 2, packing.pack)
        self._round_rows = compiler("rounding", 2, packing.round_rows) if set(formats) - set(TILE_FORMATS) else None

        self.arena = Arena(self._size(matrices.values()), huge=True)
        self.zeros = self.arena.allocate(4 * LANES)
        self._records: list[Any] = []  # kept alive, because other records point to them

        started = time.perf_counter()
        self.layers = new_records(LAYER, self.decoder.n_layer)
        for number in range(self.decoder.n_layer):
            layer = self.layers[number : number + 1]
            for role in NORMS:
                layer[role] = self._vector(self._tensor(role, number))
            for role in MATRICES:
                layer[role] = self._matrix(role, number)
            layer["qkv_layouts"] = self._layouts("attn_q", "attn_k", "attn_v", layer=number)
            layer["ffn_layouts"] = self._layouts("ffn_gate", "ffn_up", layer=number)
        self.output_norm = self._vector(self._tensor("output_norm"))
        self.output = self._matrix("output")
        self.seconds = time.perf_counter() - started

        for name, n_bytes in self._converted.items():
            n_file_bytes = sum(tensor.data.nbytes for tensor in matrices.values() if tensor.type_name == name)
            context.log(
                f"{name} has no kernel: its weights are rounded to {FALLBACK_TYPE}, "
                f"{n_bytes / 1e6:.0f} MB per token instead of {n_file_bytes / 1e6:.0f} MB"
            )

    @property
    def n_bytes(self) -> int:
        """Size of the weights that a step reads, in bytes."""
        return self.arena.n_bytes

    @property
    def embedding(self) -> tuple[int, int, int]:
        """Address of the token embedding, bytes per row, and its kind: see `token_embedding.KERNEL_KINDS`."""
        rows = _rows(self._embedding)
        return int(rows.ctypes.data), rows.strides[0], KERNEL_KINDS.get(self._embedding.type_name, NO_KERNEL)

    def embed(self, tokens: npt.NDArray[np.int64], out: Floats) -> None:
        """Write the embeddings of ``tokens``, (n, n_embd), if their type has no kernel."""
        out[...] = self._dequantize(self._embedding.type_name, _rows(self._embedding)[tokens].reshape(-1), out.shape)

    # --- the tensors of the model -------------------------------------------------------------------

    def _tensor(self, role: str, layer: int = 0) -> Tensor:
        name = self.decoder.tensors[role].format(layer=layer)
        try:
            return self._context.model.tensors[name]
        except KeyError:
            raise ModelError(f"{self._context.model.path}: the tensor {name!r} is missing") from None

    def _matrices(self) -> Iterator[tuple[tuple[str, int], Tensor]]:
        """Yield all matrices by role and layer, except the token embedding."""
        for layer in range(self.decoder.n_layer):
            for role in MATRICES:
                yield (role, layer), self._check_shape(self._tensor(role, layer))
        yield ("output", 0), self._check_shape(self._tensor("output"))

    def _check_shape(self, tensor: Tensor) -> Tensor:
        """Return a tensor if the kernels can multiply it; otherwise raise ModelError."""
        if len(tensor.shape) != 2 or tensor.shape[1] % COLUMNS:
            raise ModelError(
                f"{self._context.model.path}: the tensor {tensor.name!r} has shape {tensor.shape}; the numba backend "
                f"needs matrices whose number of columns is a multiple of {COLUMNS}"
            )
        return tensor

    def _format(self, tensor: Tensor) -> TileFormat:
        """Return the format of a matrix in memory."""
        tile_format = TILE_FORMATS.get(tensor.type_name)
        if tile_format is None and tensor.type_name not in self._context.quants:
            path = self._context.model.path
            raise ModelError(f"{path}: the tensor {tensor.name!r} has the unknown type {tensor.type_name}")
        return tile_format or TILE_FORMATS[FALLBACK_TYPE]

    def _layouts(self, *roles: str, layer: int) -> int:
        """Return the layouts of activations that some matrices need, as bits."""
        return int(np.bitwise_or.reduce([self._format(self._tensor(role, layer)).layout for role in roles]))

    def _size(self, matrices: Any) -> int:
        """Return an upper bound of the arena's size in bytes: tiles, biases, norms and their alignment."""
        vectors = (2 * self.decoder.n_layer + 1) * align_up(4 * self.decoder.n_embd) + align_up(4 * LANES)
        return vectors + sum(
            align_up(self._format(t).tile_bytes(t.shape[1] // self._format(t).columns) * -(-t.shape[0] // ROWS))
            + align_up(4 * (t.shape[0] + ROWS))
            for t in matrices
        )

    # --- packing ------------------------------------------------------------------------------------

    def _dequantize(self, type_name: str, data: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> Floats:
        if type_name == "F32":
            return np.ascontiguousarray(data).view(np.float32).reshape(shape)
        if type_name == "F16":
            return np.ascontiguousarray(data).view(np.float16).reshape(shape).astype(np.float32)
        return self._context.quants[type_name].dequantize(data, shape)

    def _vector(self, tensor: Tensor) -> int:
        return self.arena.store(self._dequantize(tensor.type_name, tensor.data, tensor.shape))

    def _matrix(self, role: str, layer: int = 0) -> int:
        """Pack a matrix; return the address of its TENSOR record."""
        tensor = self._tensor(role, layer)
        tile_format, (n_rows, n_columns) = self._format(tensor), tensor.shape
        n_blocks, n_tiles = n_columns // tile_format.columns, -(-n_rows // ROWS)
        order = self._row_order(role, n_rows)

        record = new_records(TENSOR)
        record["kernel"] = self.kernels[tile_format.name].address
        record["layout"], record["n_tiles"], record["n_blocks"] = tile_format.layout, n_tiles, n_blocks
        record["tile_bytes"] = tile_format.tile_bytes(n_blocks)
        record["weights"] = tiles = self.arena.allocate(n_tiles * tile_format.tile_bytes(n_blocks))
        record["start"], record["start_stride"] = self.zeros, 0
        if f"{role}_bias" in self.decoder.tensors:
            bias = self._tensor(f"{role}_bias", layer)
            values = np.zeros(n_tiles * ROWS, np.float32)
            values[:n_rows] = self._dequantize(bias.type_name, bias.data, bias.shape)[order]
            record["start"], record["start_stride"] = self.arena.store(values), 4 * ROWS
        self._records.append(record)

        if tensor.type_name in TILE_FORMATS:
            self._run(self._pack, tile_format, _rows(tensor), order, n_blocks, tiles)
        else:
            self._converted[tensor.type_name] += n_tiles * tile_format.tile_bytes(n_blocks)
            for first in range(0, n_rows, CHUNK_ROWS):
                chunk = order[first : first + CHUNK_ROWS]
                rows = _rows(tensor)[chunk]
                unpacked = self._dequantize(tensor.type_name, rows.reshape(-1), (len(chunk), n_columns))
                chunk_tiles = tiles + first // ROWS * tile_format.tile_bytes(n_blocks)
                self._run(self._round_rows, tile_format, unpacked, np.arange(len(chunk)), n_blocks, chunk_tiles)
        return int(record.ctypes.data)

    def _run(
        self,
        kernel: Any,
        tile_format: TileFormat,
        rows: npt.NDArray[Any],
        order: npt.NDArray[np.int64],
        n_blocks: int,
        tiles: int,
    ) -> None:
        """Run a packing kernel on all threads."""
        arguments, scratch = new_records(packing.PACKING), np.zeros(64 * self._pool.n_threads, np.uint8)
        rows, order = np.ascontiguousarray(rows), np.ascontiguousarray(order, np.int64)
        halves_at, halves_stride = tile_format.halves_at(n_blocks)

        values: Mapping[str, int] = {
            "source": rows.ctypes.data,
            "row_bytes": rows.strides[0],
            "rows": order.ctypes.data,
            "n_rows": len(order),
            "n_blocks": n_blocks,
            "tiles": tiles,
            "tile_bytes": tile_format.tile_bytes(n_blocks),
            "n_threads": self._pool.n_threads,
            "scratch": scratch.ctypes.data,
            "source_bytes": tile_format.source_bytes,
            "words_at": tile_format.words_at,
            "n_words": tile_format.n_words,
            "bias": tile_format.bias,
            "n_halves": tile_format.n_halves,
            "block_bytes": tile_format.block_bytes,
            "halves_at": halves_at,
            "halves_stride": halves_stride,
        }
        for name, value in values.items():
            arguments[name] = value
        self._pool.run(kernel.address, int(arguments.ctypes.data), self._pool.n_threads)

    def _row_order(self, role: str, n_rows: int) -> npt.NDArray[np.int64]:
        """Return, for each row of the tiles, the number of its row in the file, (n_rows,).

        If RoPE is interleaved (pairs of adjacent elements), the rows of each head of Q and K are reordered: first the
        first elements of all pairs, then the second ones. Pair i is then (i, i + n_rot / 2), and a rotation is a few
        operations on whole vectors. Scores do not change, because queries and keys are reordered in the same way.
        """
        rows = np.arange(n_rows)
        if role not in ("attn_q", "attn_k") or not self.decoder.rope_interleaved:
            return rows
        size, n_rot = self.decoder.n_embd_head, 2 * len(self.decoder.rope_frequencies)
        head = np.concatenate([np.arange(0, n_rot, 2), np.arange(1, n_rot, 2), np.arange(n_rot, size)])
        return rows.reshape(-1, size)[:, head].reshape(-1)


def check_supported(decoder: Decoder) -> None:
    """Raise ModelError if the kernels do not support a model's activation, tensor roles or sizes."""
    check_decoder(decoder, "numba", activations=ACTIVATIONS, required=REQUIRED_ROLES, optional=OPTIONAL_ROLES)

    for name, value, unit in (
        ("head size", decoder.n_embd_head, LANES),
        ("embedding length", decoder.n_embd, COLUMNS),
        ("heads times head size", decoder.n_head * decoder.n_embd_head, COLUMNS),
        ("feed-forward length", decoder.n_ff, COLUMNS),
    ):
        if value < 1 or value % unit:
            raise ModelError(f"the numba backend needs a {name} that is a multiple of {unit}; this model's is {value}")

    n_rot = 2 * len(decoder.rope_frequencies)
    if n_rot > decoder.n_embd_head:
        raise ModelError(f"the model rotates {n_rot} dimensions of each head, but a head has {decoder.n_embd_head}")
    if decoder.n_head % decoder.n_head_kv:
        raise ModelError(f"{decoder.n_head} query heads cannot be divided evenly among {decoder.n_head_kv} KV heads")


def _rows(tensor: Tensor) -> npt.NDArray[np.uint8]:
    return tensor.data.reshape(tensor.shape[0], -1)
