"""Kernels that multiply a matrix with activations, one per weight format and instruction set.

Each sum starts from the bias (or zero) and adds its blocks in order. The grouping of tokens and tiles, and the
distribution of tiles over threads, therefore cannot change a bit of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import FLOATS, I64, Builder, Value, address, constant
from llamafw_backends.numba_cpu.formats import FORMATS
from llamafw_backends.numba_cpu.instruction_sets import INSTRUCTION_SETS
from llamafw_backends.numba_cpu.isa import InstructionSet
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler, jit
from llamafw_backends.numba_cpu.kernel_records import tensor_at
from llamafw_backends.numba_cpu.simd import call_address, load_i64
from llamafw_backends.numba_cpu.tiles import (
    COLUMNS,
    F32_LAYOUT,
    Q8_LAYOUT,
    Format,
    QuantFormat,
    Record,
    element_address,
)

CHUNK = 4  # tiles that are multiplied with all groups of tokens in turn, while they are in the cache
STREAM_TOKENS = 2  # with at most so many tokens, time is spent on reading the weights
STREAM_AHEAD = 8192  # bytes that are fetched ahead of the multiplication then
FLOAT_SUMS = 4  # of adjacent tiles or tokens: each addition to a sum of floats waits for the one before
_N_ARGUMENTS = 10  # weights, tile_bytes, n_tiles, n_records, activations, start, start_stride, out, out_stride, add


def _tiles_at_once(isa: InstructionSet, tile_format: Format, n_tokens: int) -> int:
    """Return how many tiles are multiplied at once.

    One is best while weights are read: processors fetch one stream of addresses faster than several.
    """
    if tile_format.layout == F32_LAYOUT and n_tokens <= STREAM_TOKENS:
        return FLOAT_SUMS // n_tokens
    return isa.tiles_at_once[n_tokens]


def _tiles_by_tokens(module: Any, isa: InstructionSet, tile_format: Format, n_tiles: int, n_tokens: int) -> Any:
    """Emit a function that multiplies ``n_tiles`` adjacent tiles with a group of ``n_tokens`` tokens; return it."""
    records_per_block, block_words = tile_format.records_per_block, tile_format.block_words
    block_bytes = block_words + tile_format.scale_bytes
    is_early = isinstance(tile_format, QuantFormat) and tile_format.columns_per_scale == COLUMNS

    def body(b: Builder, arguments: list[Value]) -> None:
        weights, tile_bytes, _, n_records, activations, start, start_stride, out, out_stride, add = arguments
        tiles = [b.add(weights, b.mul(tile_bytes, constant(I64, t))) for t in range(n_tiles)]
        is_stream = n_tokens <= STREAM_TOKENS
        distance = constant(I64, STREAM_AHEAD // n_tiles) if is_stream else b.mul(tile_bytes, constant(I64, CHUNK))
        starts = [emit.load(b, b.add(start, b.mul(start_stride, constant(I64, t))), FLOATS) for t in range(n_tiles)]
        pipeline = isa.pipeline(b, n_tokens) if is_early else None

        def tokens_at(i: Value) -> list[Value]:
            group = b.add(activations, b.mul(i, constant(I64, n_tokens * tile_format.activation_bytes)))
            return [address(b, group, t * tile_format.token_bytes) for t in range(n_tokens)]

        def record_at(tile: Value, i: Value) -> Record:
            block, number = b.udiv(i, constant(I64, records_per_block)), b.urem(i, constant(I64, records_per_block))
            words = element_address(b, tile, block, block_bytes)
            scales = address(b, words, block_words)
            return Record(b, element_address(b, words, number, tile_format.word_bytes), scales, number, n_tokens)

        def issue(i: Value) -> None:
            """Start to multiply record ``i`` of the only tile.

            The last record is issued twice.
            """
            assert pipeline is not None  # only called with a pipeline
            assert isinstance(tile_format, QuantFormat)
            tile_format.start(record_at(tiles[0], i), pipeline.issue(b, i), tokens_at(i))

        def fetch_ahead(tile: Value, i: Value) -> None:
            """Fetch what will be multiplied later."""
            bytes_per_record = -(-block_bytes // records_per_block)
            ahead = element_address(b, b.add(tile, distance), i, bytes_per_record)
            for line in range(0, bytes_per_record, 64):
                emit.prefetch(b, address(b, ahead, line), level=1 if is_stream else 2)

        if pipeline:
            issue(constant(I64, 0))

        def multiply(i: Value, sums: list[Value]) -> list[Value]:
            tokens = tokens_at(i)
            if pipeline:
                following = b.add(i, constant(I64, 1))
                issue(b.select(b.icmp_signed("<", following, n_records), following, i))
            for tile in tiles:
                fetch_ahead(tile, i)
            records, dots = [record_at(tile, i) for tile in tiles], pipeline.collect(b, i) if pipeline else isa
            sums_of_tiles = [sums[t : t + n_tokens] for t in range(0, len(sums), n_tokens)]
            return [one for tile in tile_format.multiply(records, dots, tokens, sums_of_tiles) for one in tile]

        sums = emit.loop(b, n_records, [s for s in starts for _ in range(n_tokens)], multiply)

        adding = b.icmp_signed("!=", add, constant(I64, 0))
        for i, total in enumerate(sums):
            tile, token = divmod(i, n_tokens)
            where = b.add(address(b, out, 64 * tile), b.mul(out_stride, constant(I64, token)))
            result = b.select(adding, b.fadd(total, emit.load(b, where, FLOATS)), total)
            emit.store(b, result, where)

    return emit.function(module, f"{isa.name}.{tile_format.name}.{n_tiles}x{n_tokens}", _N_ARGUMENTS, body)


def _chunk_by_tokens(module: Any, isa: InstructionSet, tile_format: Format, n_tokens: int) -> Any:
    """Emit a function that multiplies any number of adjacent tiles with a group of ``n_tokens`` tokens; return it."""
    at_once = _tiles_at_once(isa, tile_format, n_tokens)

    def body(b: Builder, arguments: list[Value]) -> None:
        weights, tile_bytes, n_tiles, n_records, activations, start, start_stride, out, out_stride, add = arguments

        def emit_tiles(count: Value, first: Value, group_size: int) -> None:
            kernel = _tiles_by_tokens(module, isa, tile_format, group_size, n_tokens)

            def multiply(i: Value, _: list[Value]) -> list[Value]:
                tile = b.add(first, b.mul(i, constant(I64, group_size)))
                b.call(
                    kernel,
                    [
                        b.add(weights, b.mul(tile, tile_bytes)),
                        tile_bytes,
                        n_tiles,
                        n_records,
                        activations,
                        b.add(start, b.mul(tile, start_stride)),
                        start_stride,
                        b.add(out, b.mul(tile, constant(I64, 64))),
                        out_stride,
                        add,
                    ],
                )
                return []

            emit.loop(b, count, [], multiply)

        emit_tiles(b.sdiv(n_tiles, constant(I64, at_once)), constant(I64, 0), at_once)
        if at_once > 1:
            rest = b.srem(n_tiles, constant(I64, at_once))
            emit_tiles(rest, b.sub(n_tiles, rest), 1)

    return emit.function(module, f"{isa.name}.{tile_format.name}.{n_tokens}", _N_ARGUMENTS, body)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]  # numba has no types
def _multiply(context: Any, isa: Any, tile_format: Any, width: Any, arguments: Any) -> Any:
    """Multiply tiles with a group of ``width`` tokens; ``isa`` and ``tile_format`` are literal names."""
    names = isa.literal_value, tile_format.literal_value

    def lower(context: Any, b: Builder, _: Any, values: list[Value]) -> Value:
        chosen_isa, chosen_format = INSTRUCTION_SETS[names[0]], FORMATS[names[1]]
        unpacked = [b.extract_value(values[3], i) for i in range(_N_ARGUMENTS)]
        after = b.append_basic_block("after")
        switch = b.switch(values[2], after)
        for n_tokens in chosen_isa.widths:
            case = b.append_basic_block(f"tokens{n_tokens}")
            switch.add_case(ir.Constant(I64, n_tokens), case)
            b.position_at_end(case)
            b.call(_chunk_by_tokens(b.module, chosen_isa, chosen_format, n_tokens), unpacked)
            b.branch(after)
        b.position_at_end(after)
        return context.get_dummy_value()

    return types.void(isa, tile_format, types.int64, types.UniTuple(types.int64, _N_ARGUMENTS)), lower


def _isa_operation(emitter: Callable[[InstructionSet, Builder], None]) -> Any:
    """Return an intrinsic ``f(isa)`` that emits code of an instruction set.

    Its argument is a literal name.
    """

    @intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]  # numba has no types
    def operation(context: Any, isa: Any) -> Any:
        chosen_isa = INSTRUCTION_SETS[isa.literal_value]

        def lower(context: Any, b: Builder, _: Any, values: list[Value]) -> Value:
            emitter(chosen_isa, b)
            return context.get_dummy_value()

        return types.void(isa), lower

    return operation


_begin, _end = _isa_operation(lambda isa, b: isa.begin(b)), _isa_operation(lambda isa, b: isa.end(b))


@jit
def width_for(widths: int, rest: int) -> int:
    """Return how many of the last ``rest`` tokens are multiplied together next: the largest width up to ``rest``.

    ``widths`` is the address of the instruction set's widths, in descending order.
    """
    while load_i64(widths) > rest:
        widths += 8
    return load_i64(widths)


def build(compiler: KernelCompiler, isa: InstructionSet, tile_format: Format) -> Any:
    """Compile the kernel for one format.

    ``kernel(tensor, widths, activations, n_tokens, first, last, out, out_stride, add)`` writes the products of tiles
    ``first`` … ``last - 1`` to ``out[token, 16 * (tile - first)]``, or adds them to the values there if ``add`` is 1.
    """
    kernel = _matmul(isa.name, tile_format.key, tile_format.activation_bytes)
    return compiler(tile_format.kernel_name(f"matmul for {isa.name}"), 9, kernel, isa=isa.name)


def _matmul(isa: str, tile_format: str, activation_bytes: int) -> Callable[..., int]:
    def matmul(
        tensor: int,
        widths: int,
        activations: int,
        n_tokens: int,
        first: int,
        last: int,
        out: int,
        out_stride: int,
        add: int,
    ) -> int:
        t = tensor_at(tensor)
        _begin(isa)
        for tile in range(first, last, CHUNK):
            n_tiles = min(CHUNK, last - tile)
            token = 0
            while token < n_tokens:
                width = width_for(widths, n_tokens - token)
                _multiply(
                    isa,
                    tile_format,
                    width,
                    (
                        t.weights + tile * t.tile_bytes,
                        t.tile_bytes,
                        n_tiles,
                        t.n_records,
                        activations + token * t.n_records * activation_bytes,
                        t.start + tile * t.start_stride,
                        t.start_stride,
                        out + token * out_stride + 64 * (tile - first),
                        out_stride,
                        add,
                    ),
                )
                token += width
        _end(isa)
        return 0

    return matmul


_call = call_address(9)


@jit
def matmul(
    tensor: int,
    widths: int,
    records: int,
    floats: int,
    n_tokens: int,
    first: int,
    last: int,
    out: int,
    out_stride: int,
    add: int,
) -> None:
    """Call the kernel of ``tensor`` with the activations in the layout that it needs.

    ``records`` and ``floats`` are addresses of the same activations in either layout; one of them may be unused.
    """
    t = tensor_at(tensor)
    activations = records if t.layout == Q8_LAYOUT else floats
    _call(t.kernel, tensor, widths, activations, n_tokens, first, last, out, out_stride, add)
