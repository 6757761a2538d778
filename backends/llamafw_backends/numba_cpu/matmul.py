"""Matrix times activations, tile by tile. One kernel per weight format and instruction set.

Each sum starts from the bias (or zero) and takes its blocks in order, whatever is computed beside it: grouping tokens
and tiles differently, or giving tiles to other threads, cannot change a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cache import Compiler, jit
from llamafw_backends.numba_cpu.emit import FLOATS, I64, Builder, Value, address, constant
from llamafw_backends.numba_cpu.instruction_sets import INSTRUCTION_SETS
from llamafw_backends.numba_cpu.isa import InstructionSet
from llamafw_backends.numba_cpu.records import tensor_at
from llamafw_backends.numba_cpu.simd import call_address, load_i64
from llamafw_backends.numba_cpu.tiles import Q8_LAYOUT, TILE_FORMATS, TileFormat, at

CHUNK = 4  # tiles multiplied with one group of tokens before the next group: they stay in the cache
_N_ARGUMENTS = 10  # weights, tile_bytes, n_tiles, n_blocks, activations, start, start_stride, out, out_stride, add


def _tiles_by_tokens(module: Any, isa: InstructionSet, form: TileFormat, n_tiles: int, n_tokens: int) -> Any:
    """Return a function that multiplies ``n_tiles`` adjacent tiles with a group of ``n_tokens`` tokens."""

    def body(b: Builder, arguments: list[Value]) -> None:
        weights, tile_bytes, _, n_blocks, activations, start, start_stride, out, out_stride, add = arguments
        tiles = [b.add(weights, b.mul(tile_bytes, constant(I64, t))) for t in range(n_tiles)]
        ahead = b.mul(tile_bytes, constant(I64, CHUNK))
        starts = [emit.load(b, b.add(start, b.mul(start_stride, constant(I64, t))), FLOATS) for t in range(n_tiles)]

        stages = isa.stages(b, n_tokens) if form.layout == Q8_LAYOUT else None

        def tokens_at(i: Value) -> list[Value]:
            group = b.add(activations, b.mul(i, constant(I64, n_tokens * form.record_bytes)))
            return [address(b, group, t * form.record_bytes) for t in range(n_tokens)]

        def issue(i: Value) -> None:
            """Begin with block ``i`` of the only tile. Behind the last one lies something else: it is not collected."""
            assert stages is not None  # or nobody would call this
            form.dots(b, stages.issue(b, i), at(b, tiles[0], i, form.block_bytes), tokens_at(i))

        if stages:
            issue(constant(I64, 0))

        def block(i: Value, sums: list[Value]) -> list[Value]:
            tokens, new = tokens_at(i), []
            if stages:
                issue(b.add(i, constant(I64, 1)))
            dots = stages.collect(b, i) if stages else isa
            for t, tile in enumerate(tiles):
                next_chunk = at(b, b.add(tile, ahead), i, form.block_bytes)
                for line in range(0, form.block_bytes, 64):
                    emit.prefetch(b, address(b, next_chunk, line))
                new += form.block(b, dots, tile, n_blocks, i, tokens, sums[t * n_tokens : (t + 1) * n_tokens])
            return new

        sums = emit.loop(b, n_blocks, [s for s in starts for _ in range(n_tokens)], block)
        adding = b.icmp_signed("!=", add, constant(I64, 0))
        for i, total in enumerate(sums):
            tile, token = divmod(i, n_tokens)
            where = b.add(address(b, out, 64 * tile), b.mul(out_stride, constant(I64, token)))
            store = b.select(adding, b.fadd(total, emit.load(b, where, FLOATS)), total)
            emit.store(b, store, where)

    return emit.function(module, f"{isa.name}.{form.name}.{n_tiles}x{n_tokens}", _N_ARGUMENTS, body)


def _chunk_by_tokens(module: Any, isa: InstructionSet, form: TileFormat, n_tokens: int) -> Any:
    """Return a function that multiplies any number of adjacent tiles with a group of ``n_tokens`` tokens."""
    at_once = isa.tiles[n_tokens]

    def body(b: Builder, arguments: list[Value]) -> None:
        weights, tile_bytes, n_tiles, n_blocks, activations, start, start_stride, out, out_stride, add = arguments

        def several(count: Value, first: Value, step: int) -> None:
            kernel = _tiles_by_tokens(module, isa, form, step, n_tokens)

            def once(i: Value, _: list[Value]) -> list[Value]:
                tile = b.add(first, b.mul(i, constant(I64, step)))
                b.call(
                    kernel,
                    [
                        b.add(weights, b.mul(tile, tile_bytes)),
                        tile_bytes,
                        n_tiles,
                        n_blocks,
                        activations,
                        b.add(start, b.mul(tile, start_stride)),
                        start_stride,
                        b.add(out, b.mul(tile, constant(I64, 64))),
                        out_stride,
                        add,
                    ],
                )
                return []

            emit.loop(b, count, [], once)

        several(b.sdiv(n_tiles, constant(I64, at_once)), constant(I64, 0), at_once)
        if at_once > 1:
            rest = b.srem(n_tiles, constant(I64, at_once))
            several(rest, b.sub(n_tiles, rest), 1)

    return emit.function(module, f"{isa.name}.{form.name}.{n_tokens}", _N_ARGUMENTS, body)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]  # numba has no types
def _multiply(context: Any, isa: Any, form: Any, width: Any, arguments: Any) -> Any:
    """Multiply tiles with a group of ``width`` tokens; ``isa`` and ``form`` are names known when it is compiled."""
    names = isa.literal_value, form.literal_value

    def lower(context: Any, b: Builder, _: Any, values: list[Value]) -> Value:
        chosen, packed = INSTRUCTION_SETS[names[0]], TILE_FORMATS[names[1]]
        unpacked = [b.extract_value(values[3], i) for i in range(_N_ARGUMENTS)]
        after = b.append_basic_block("after")
        switch = b.switch(values[2], after)
        for n_tokens in chosen.widths:
            case = b.append_basic_block(f"tokens{n_tokens}")
            switch.add_case(ir.Constant(I64, n_tokens), case)
            b.position_at_end(case)
            b.call(_chunk_by_tokens(b.module, chosen, packed, n_tokens), unpacked)
            b.branch(after)
        b.position_at_end(after)
        return context.get_dummy_value()

    return types.void(isa, form, types.int64, types.UniTuple(types.int64, _N_ARGUMENTS)), lower


def _bracket(emitter: Callable[[InstructionSet, Builder], None]) -> Any:
    """Return an intrinsic of the name of an instruction set, which emits what the set wants done there."""

    @intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]  # numba has no types
    def operation(context: Any, isa: Any) -> Any:
        chosen = INSTRUCTION_SETS[isa.literal_value]

        def lower(context: Any, b: Builder, _: Any, values: list[Value]) -> Value:
            emitter(chosen, b)
            return context.get_dummy_value()

        return types.void(isa), lower

    return operation


_begin, _end = _bracket(lambda isa, b: isa.begin(b)), _bracket(lambda isa, b: isa.end(b))


@jit
def width_for(widths: int, rest: int) -> int:
    """Return how many of ``rest`` tokens are grouped next: the largest of ``widths`` that is not more."""
    while load_i64(widths) > rest:
        widths += 8
    return load_i64(widths)


def build(compiler: Compiler, isa: InstructionSet, form: TileFormat) -> Any:
    """Return the compiled kernel for one format.

    ``kernel(tensor, widths, activations, n_tokens, first, last, out, out_stride, add)`` writes the products of tiles
    ``first`` … ``last - 1`` to ``out[token, 16 * (tile - first)]``, or adds them to what is there.
    """
    return compiler(f"matmul {form.name} for {isa.name}", 9, _matmul(isa.name, form.name, form.record_bytes))


def _matmul(isa: str, form: str, record_bytes: int) -> Callable[..., int]:
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
                    form,
                    width,
                    (
                        t.weights + tile * t.tile_bytes,
                        t.tile_bytes,
                        n_tiles,
                        t.n_blocks,
                        activations + token * t.n_blocks * record_bytes,
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
    """Call the kernel of ``tensor`` with the activations in the layout it wants."""
    t = tensor_at(tensor)
    activations = records if t.layout == Q8_LAYOUT else floats
    _call(t.kernel, tensor, widths, activations, n_tokens, first, last, out, out_stride, add)
