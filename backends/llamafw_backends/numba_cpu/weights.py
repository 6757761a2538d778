"""A model's tensors as the kernels want them: matrices in tiles, vectors in float32.

Each matrix keeps its own format if there is a kernel for it; every other ggml type is unpacked exactly and rounded to
Q8_0. The file is read once, except for rows of the token embedding, which are looked up where they are.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import BackendContext, Decoder, Floats, ModelError, Tensor
from llamafw_backends.numba_cpu import matmul, packing
from llamafw_backends.numba_cpu.cache import Compiler
from llamafw_backends.numba_cpu.embedding import KINDS, OTHER
from llamafw_backends.numba_cpu.emit import LANES
from llamafw_backends.numba_cpu.isa import InstructionSet
from llamafw_backends.numba_cpu.memory import Arena, padded
from llamafw_backends.numba_cpu.records import LAYER, TENSOR, make
from llamafw_backends.numba_cpu.threads import Pool
from llamafw_backends.numba_cpu.tiles import ROWS, TILE_FORMATS, TileFormat

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
NORMS = ("attn_norm", "ffn_norm")
COLUMNS = 32  # matrices have a multiple of so many: a block of ggml, and a record of activations
CHUNK_ROWS = 1024  # rows of a foreign type unpacked at once
FALLBACK = "Q8_0"


class Weights:
    """All weights of a model, in one arena, in the order in which a step reads them."""

    def __init__(self, context: BackendContext, isa: InstructionSet, pool: Pool, compiler: Compiler) -> None:
        self._context, self._pool = context, pool
        self.decoder = context.decoder
        check_sizes(self.decoder)
        self._embedding = self._tensor("token_embd")
        self._foreign: Counter[str] = Counter()  # bytes of tiles by type without a kernel
        matrices = dict(self._matrices())
        forms = {tensor.type_name: self._format(tensor) for tensor in matrices.values()}
        self.kernels = {form.name: matmul.build(compiler, isa, form) for form in dict.fromkeys(forms.values())}
        self._pack = compiler("packing", 2, packing.pack)
        self._round_rows = compiler("rounding", 2, packing.round_rows) if set(forms) - set(TILE_FORMATS) else None
        self.arena = Arena(self._size(matrices.values()), huge=True)
        self.zeros = self.arena.take(4 * LANES)
        self._keep: list[Any] = []  # arrays that records point to
        started = time.perf_counter()
        self.layers = make(LAYER, self.decoder.n_layer)
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
        for name, n_bytes in self._foreign.items():
            context.log(
                f"{name} has no kernel yet: unpacked and rounded to {FALLBACK}, {n_bytes / 1e6:.0f} MB instead of "
                f"{sum(t.data.nbytes for t in matrices.values() if t.type_name == name) / 1e6:.0f} MB read per token"
            )

    @property
    def n_bytes(self) -> int:
        """Bytes of weights that a step reads."""
        return self.arena.n_bytes

    @property
    def embedding(self) -> tuple[int, int, int]:
        """Address and bytes of the rows of the token embedding, and their kind: see `embedding.KINDS`."""
        rows = _rows(self._embedding)
        return int(rows.ctypes.data), rows.strides[0], KINDS.get(self._embedding.type_name, OTHER)

    def embed(self, tokens: npt.NDArray[np.int64], out: Floats) -> None:
        """Write the embeddings of ``tokens``, (n, n_embd), of a type that has no kernel."""
        out[...] = self._dequantize(self._embedding.type_name, _rows(self._embedding)[tokens].reshape(-1), out.shape)

    # --- looking up ---------------------------------------------------------------------------------

    def _tensor(self, role: str, layer: int = 0) -> Tensor:
        name = self.decoder.tensors[role].format(layer=layer)
        try:
            return self._context.model.tensors[name]
        except KeyError:
            raise ModelError(f"{self._context.model.path}: the tensor {name!r} is missing") from None

    def _matrices(self) -> Iterator[tuple[tuple[str, int], Tensor]]:
        for layer in range(self.decoder.n_layer):
            for role in MATRICES:
                yield (role, layer), self._checked(self._tensor(role, layer))
        yield ("output", 0), self._checked(self._tensor("output"))

    def _checked(self, tensor: Tensor) -> Tensor:
        if len(tensor.shape) != 2 or tensor.shape[1] % COLUMNS:
            raise ModelError(
                f"{self._context.model.path}: the tensor {tensor.name!r} has shape {tensor.shape}; the numba backend "
                f"needs matrices whose rows are a multiple of {COLUMNS} long"
            )
        return tensor

    def _format(self, tensor: Tensor) -> TileFormat:
        known = TILE_FORMATS.get(tensor.type_name)
        if known is None and tensor.type_name not in self._context.quants:
            path = self._context.model.path
            raise ModelError(f"{path}: the tensor {tensor.name!r} has the unknown type {tensor.type_name}")
        return known or TILE_FORMATS[FALLBACK]

    def _layouts(self, *roles: str, layer: int) -> int:
        return int(np.bitwise_or.reduce([self._format(self._tensor(role, layer)).layout for role in roles]))

    def _size(self, matrices: Any) -> int:
        """Return an upper bound of what the arena must hold: tiles, biases, norms and their alignment."""
        vectors = (2 * self.decoder.n_layer + 1) * padded(4 * self.decoder.n_embd) + padded(4 * LANES)
        return vectors + sum(
            padded(self._format(t).tile_bytes(t.shape[1] // self._format(t).columns) * -(-t.shape[0] // ROWS))
            + padded(4 * (t.shape[0] + ROWS))
            for t in matrices
        )

    # --- reading ------------------------------------------------------------------------------------

    def _dequantize(self, type_name: str, data: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> Floats:
        if type_name == "F32":
            return np.ascontiguousarray(data).view(np.float32).reshape(shape)
        if type_name == "F16":
            return np.ascontiguousarray(data).view(np.float16).reshape(shape).astype(np.float32)
        return self._context.quants[type_name].dequantize(data, shape)

    def _vector(self, tensor: Tensor) -> int:
        return self.arena.put(self._dequantize(tensor.type_name, tensor.data, tensor.shape))

    def _matrix(self, role: str, layer: int = 0) -> int:
        """Pack a matrix; return the address of its TENSOR record."""
        tensor = self._tensor(role, layer)
        form, (n_rows, n_columns) = self._format(tensor), tensor.shape
        n_blocks, n_tiles = n_columns // form.columns, -(-n_rows // ROWS)
        order = self._row_order(role, n_rows)
        record = make(TENSOR)
        record["kernel"] = self.kernels[form.name].address
        record["layout"], record["n_tiles"], record["n_blocks"] = form.layout, n_tiles, n_blocks
        record["tile_bytes"] = form.tile_bytes(n_blocks)
        record["weights"] = tiles = self.arena.take(n_tiles * form.tile_bytes(n_blocks))
        record["start"], record["start_stride"] = self.zeros, 0
        if f"{role}_bias" in self.decoder.tensors:
            bias = self._tensor(f"{role}_bias", layer)
            values = np.zeros(n_tiles * ROWS, np.float32)
            values[:n_rows] = self._dequantize(bias.type_name, bias.data, bias.shape)[order]
            record["start"], record["start_stride"] = self.arena.put(values), 4 * ROWS
        self._keep.append(record)
        if tensor.type_name in TILE_FORMATS:
            self._run(self._pack, form, _rows(tensor), order, n_blocks, tiles)
        else:
            self._foreign[tensor.type_name] += n_tiles * form.tile_bytes(n_blocks)
            for first in range(0, n_rows, CHUNK_ROWS):
                chosen = order[first : first + CHUNK_ROWS]
                rows = _rows(tensor)[chosen]
                unpacked = self._dequantize(tensor.type_name, rows.reshape(-1), (len(chosen), n_columns))
                there = tiles + first // ROWS * form.tile_bytes(n_blocks)
                self._run(self._round_rows, form, unpacked, np.arange(len(chosen)), n_blocks, there)
        return int(record.ctypes.data)

    def _run(
        self,
        kernel: Any,
        form: TileFormat,
        rows: npt.NDArray[Any],
        order: npt.NDArray[np.int64],
        n_blocks: int,
        tiles: int,
    ) -> None:
        """Run a packing kernel on all threads."""
        work, scratch = make(packing.PACKING), np.zeros(64 * self._pool.n_threads, np.uint8)
        rows, order = np.ascontiguousarray(rows), np.ascontiguousarray(order, np.int64)
        halves_at, halves_stride = form.halves_at(n_blocks)
        values: Mapping[str, int] = {
            "source": rows.ctypes.data,
            "row_bytes": rows.strides[0],
            "rows": order.ctypes.data,
            "n_rows": len(order),
            "n_blocks": n_blocks,
            "tiles": tiles,
            "tile_bytes": form.tile_bytes(n_blocks),
            "n_threads": self._pool.n_threads,
            "scratch": scratch.ctypes.data,
            "source_bytes": form.source_bytes,
            "words_at": form.words_at,
            "n_words": form.n_words,
            "bias": form.bias,
            "n_halves": form.n_halves,
            "block_bytes": form.block_bytes,
            "halves_at": halves_at,
            "halves_stride": halves_stride,
        }
        for name, value in values.items():
            work[name] = value
        self._pool.run(kernel.address, int(work.ctypes.data), self._pool.n_threads)

    def _row_order(self, role: str, n_rows: int) -> npt.NDArray[np.int64]:
        """Return which row of the file each row is.

        Each head of Q and K, if RoPE is interleaved, gets the first halves of its pairs, then the second. Then pair i
        is (i, i + n_rot / 2), and rotating is a few operations on whole vectors. Scores do not change, since both
        sides of the product are permuted alike.
        """
        rows = np.arange(n_rows)
        if role not in ("attn_q", "attn_k") or not self.decoder.rope_interleaved:
            return rows
        size, n_rot = self.decoder.n_embd_head, 2 * len(self.decoder.rope_frequencies)
        head = np.concatenate([np.arange(0, n_rot, 2), np.arange(1, n_rot, 2), np.arange(n_rot, size)])
        return rows.reshape(-1, size)[:, head].reshape(-1)


def check_sizes(decoder: Decoder) -> None:
    """Raise ModelError if the kernels cannot do a model's sizes."""
    for what, value, unit in (
        ("head size", decoder.n_embd_head, LANES),
        ("embedding length", decoder.n_embd, COLUMNS),
        ("heads times head size", decoder.n_head * decoder.n_embd_head, COLUMNS),
        ("feed-forward length", decoder.n_ff, COLUMNS),
    ):
        if value < 1 or value % unit:
            raise ModelError(f"the numba backend needs a {what} that is a multiple of {unit}; this model's is {value}")
    if 2 * len(decoder.rope_frequencies) > decoder.n_embd_head or decoder.n_head % decoder.n_head_kv:
        raise ModelError("the model turns more dimensions than a head has, or its heads cannot share KV heads evenly")


def _rows(tensor: Tensor) -> npt.NDArray[np.uint8]:
    return tensor.data.reshape(tensor.shape[0], -1)
