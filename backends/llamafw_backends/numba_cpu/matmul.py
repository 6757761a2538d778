"""Kernels that multiply a matrix with activations, one per weight format and instruction set.

Each sum starts from the bias (or zero) and adds its blocks in order. The grouping of tokens and tiles, and the
distribution of tiles over threads, therefore cannot change a bit of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.emit import FLOATS, I64, Builder, Value, address, constant
from llamafw_backends.numba_cpu.formats import FORMATS
from llamafw_backends.numba_cpu.instruction_sets import find_set
from llamafw_backends.numba_cpu.isa import InstructionSet
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler, jit
from llamafw_backends.numba_cpu.kernel_records import tensor_at
from llamafw_backends.numba_cpu.simd import call_address, load_i64
from llamafw_backends.numba_cpu.tiles import (
    COLUMNS,
    FLOAT_COLUMNS,
    Q8_LAYOUT,
    Format,
    QuantFormat,
    record_at,
)
from llamafw_backends.numba_cpu.unpacked import BUFFER_BYTES, TILES, Unpacked, can_unpack, record_bytes, unpack_tiles

CHUNK = 4  # tiles that are multiplied with all groups of tokens in turn, while they are in the cache
STREAM_TOKENS = 2  # with at most so many tokens, time is spent on reading the weights
STREAM_AHEAD = 8192  # bytes that are fetched ahead of the multiplication then
FLOATS_AHEAD = 1024  # the same for several tiles side by side, in all
MAX_TOKENS_OF_TWO_TILES = 8  # whose sums registers have room for, beside the words of two tiles
FLOAT_SUMS = 4  # of adjacent tiles or tokens: each addition to a sum of floats waits for the one before
UNPACKED = 0  # instead of a width: the largest one, with unpacked tiles
_N_ARGUMENTS = 10  # weights, tile_bytes, n_tiles, n_records, activations, start, start_stride, out, out_stride, add


def _at_once(isa: InstructionSet, tile_format: Format, n_tokens: int) -> tuple[int, int]:
    """Return how many of ``n_tokens`` tokens, and how many tiles, are multiplied at once.

    One tile is best while weights are read: processors fetch one stream of addresses faster than several.
    """
    if tile_format.layout != Q8_LAYOUT and n_tokens <= STREAM_TOKENS:
        return n_tokens, FLOAT_SUMS // n_tokens
    if isinstance(tile_format, Unpacked):
        return isa.unpacked_at_once[tile_format.columns_per_scale]
    if isinstance(tile_format, QuantFormat) and n_tokens > MAX_TOKENS_OF_TWO_TILES:
        return n_tokens, 1
    return n_tokens, isa.tiles_at_once.get(n_tokens, 2 if 2 * n_tokens <= isa.float_sums else 1)


def _max_last(isa: InstructionSet, tile_format: Format) -> int:
    """Return how many last tokens are multiplied at once at most, though they are in several groups; 0: none."""
    is_float = tile_format.layout != Q8_LAYOUT and tile_format.columns == FLOAT_COLUMNS
    return isa.last_float_tokens if is_float else 0


def _group_widths(isa: InstructionSet, n_tokens: int) -> tuple[int, ...]:
    """Return the widths of the groups that the last ``n_tokens`` tokens are in; see `width_for`."""
    if not n_tokens:
        return ()
    width = max(width for width in isa.widths if width <= n_tokens)
    return (width, *_group_widths(isa, n_tokens - width))


def _fetches(
    b: Builder, tiles: Sequence[Value], tile_bytes: Value, record_bytes: int, ahead: int
) -> tuple[list[Value], Value]:
    """Emit where weights are fetched ahead of each of some adjacent tiles, and how far this moves with a record.

    They are ``ahead`` bytes ahead, in all tiles together; 0: those of the tiles that are multiplied next. What follows
    short tiles is fetched in the order of its addresses, which processors fetch faster than several streams.
    """
    n, record = len(tiles), constant(I64, record_bytes)
    if not ahead:
        distance = b.mul(tile_bytes, constant(I64, CHUNK))
        return [b.add(tile, distance) for tile in tiles], record
    is_short = b.icmp_signed("<=", b.mul(tile_bytes, constant(I64, n)), constant(I64, STREAM_AHEAD))
    starts = [
        b.select(is_short, address(b, tiles[0], STREAM_AHEAD + i * record_bytes), address(b, tile, ahead // n))
        for i, tile in enumerate(tiles)
    ]
    return starts, b.select(is_short, constant(I64, n * record_bytes), record)


def _tiles_by_tokens(
    module: Any,
    isa: InstructionSet,
    tile_format: Format,
    n_tiles: int,
    n_tokens: int,
    widths: Sequence[int],
    *,
    is_stream: bool,
    read_once: bool = False,
) -> Any:
    """Emit a function that multiplies adjacent tiles with ``n_tokens`` tokens; return it.

    ``widths`` are those of the tokens' groups. If ``is_stream``, weights are fetched as they are read; if
    ``read_once``, into no cache but the first.
    """
    bytes_per_record = -(-(tile_format.block_words + tile_format.scale_bytes) // tile_format.records_per_block)
    is_early = isinstance(tile_format, QuantFormat) and tile_format.columns_per_scale == COLUMNS

    def body(b: Builder, arguments: list[Value]) -> None:
        weights, tile_bytes, _, n_records, activations, start, start_stride, out, out_stride, add = arguments
        tiles = [b.add(weights, b.mul(tile_bytes, constant(I64, t))) for t in range(n_tiles)]
        ahead = FLOATS_AHEAD if n_tiles > 1 and n_tokens <= STREAM_TOKENS else STREAM_AHEAD
        level = (0 if read_once else 1) if is_stream else 2
        fetched, fetch_step = _fetches(b, tiles, tile_bytes, bytes_per_record, ahead if is_stream else 0)
        starts = [emit.load(b, b.add(start, b.mul(start_stride, constant(I64, t))), FLOATS) for t in range(n_tiles)]
        pipeline = isa.pipeline(b, n_tokens) if is_early else None

        def tokens_at(i: Value) -> list[Value]:
            found: list[Value] = []
            for width in widths:
                before = b.mul(n_records, constant(I64, len(found) * tile_format.activation_bytes))
                record = b.mul(i, constant(I64, width * tile_format.activation_bytes))
                group = b.add(b.add(activations, before), record)
                found += [address(b, group, t * tile_format.token_bytes) for t in range(width)]
            return found[:n_tokens]

        def issue(i: Value) -> None:
            """Start to multiply record ``i`` of the only tile.

            The last record is issued twice.
            """
            assert pipeline is not None  # only called with a pipeline
            assert isinstance(tile_format, QuantFormat)
            tile_format.start(record_at(b, tile_format, tiles[0], i), pipeline.issue(b, i), tokens_at(i))

        def fetch_ahead(start: Value, i: Value) -> None:
            """Fetch what will be multiplied later."""
            ahead = b.add(start, b.mul(i, fetch_step))
            for line in range(0, bytes_per_record, 64):
                emit.prefetch(b, address(b, ahead, line), level=level)

        if pipeline:
            issue(constant(I64, 0))

        def multiply(i: Value, sums: list[Value]) -> list[Value]:
            tokens = tokens_at(i)
            if pipeline:
                following = b.add(i, constant(I64, 1))
                issue(b.select(b.icmp_signed("<", following, n_records), following, i))
            for start in fetched if not isinstance(tile_format, Unpacked) else []:
                fetch_ahead(start, i)
            records = [record_at(b, tile_format, tile, i, widths[0]) for tile in tiles]
            dots = pipeline.collect(b, i) if pipeline else isa
            sums_of_tiles = [sums[t : t + n_tokens] for t in range(0, len(sums), n_tokens)]
            return [one for tile in tile_format.multiply(records, dots, tokens, sums_of_tiles) for one in tile]

        sums = emit.loop(b, n_records, [s for s in starts for _ in range(n_tokens)], multiply)

        adding = b.icmp_signed("!=", add, constant(I64, 0))
        for i, total in enumerate(sums):
            tile, token = divmod(i, n_tokens)
            where = b.add(address(b, out, 64 * tile), b.mul(out_stride, constant(I64, token)))
            result = b.select(adding, b.fadd(total, emit.load(b, where, FLOATS)), total)
            emit.store(b, result, where)

    kind = "stream." if is_stream else ""
    return emit.function(module, f"{isa.name}.{tile_format.name}.{kind}{n_tiles}x{n_tokens}", _N_ARGUMENTS, body)


def _chunk_by_tokens(
    module: Any, isa: InstructionSet, tile_format: Format, n_tokens: int, *, is_last: bool, read_once: bool
) -> Any:
    """Emit a function that multiplies any number of adjacent tiles with ``n_tokens`` tokens; return it.

    They are a group; or the groups of the last tokens, if ``is_last``. `_tiles_by_tokens` describes ``read_once``.
    """
    tokens_at_once, tiles_at_once = _at_once(isa, tile_format, n_tokens)
    widths, is_stream = _group_widths(isa, n_tokens), is_last or n_tokens <= STREAM_TOKENS

    def body(b: Builder, arguments: list[Value]) -> None:
        weights, tile_bytes, n_tiles, n_records, activations, start, start_stride, out, out_stride, add = arguments

        def emit_tiles(count: Value, first: Value, group_size: int) -> None:
            shape = group_size, tokens_at_once, widths
            kernel = _tiles_by_tokens(module, isa, tile_format, *shape, is_stream=is_stream, read_once=read_once)

            def multiply(i: Value, _: list[Value]) -> list[Value]:
                tile = b.add(first, b.mul(i, constant(I64, group_size)))
                for token in range(0, n_tokens, tokens_at_once):
                    to = b.add(b.add(out, b.mul(tile, constant(I64, 64))), b.mul(out_stride, constant(I64, token)))
                    b.call(
                        kernel,
                        [
                            b.add(weights, b.mul(tile, tile_bytes)),
                            tile_bytes,
                            n_tiles,
                            n_records,
                            address(b, activations, token * tile_format.token_bytes),
                            b.add(start, b.mul(tile, start_stride)),
                            start_stride,
                            to,
                            out_stride,
                            add,
                        ],
                    )
                return []

            emit.loop(b, count, [], multiply)

        emit_tiles(b.sdiv(n_tiles, constant(I64, tiles_at_once)), constant(I64, 0), tiles_at_once)
        if tiles_at_once > 1:
            rest = b.srem(n_tiles, constant(I64, tiles_at_once))
            emit_tiles(rest, b.sub(n_tiles, rest), 1)

    kind = "last." if is_last else ""
    return emit.function(module, f"{isa.name}.{tile_format.name}.{kind}{n_tokens}", _N_ARGUMENTS, body)


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]  # numba has no types
def _multiply(context: Any, isa: Any, tile_format: Any, read_once: Any, width: Any, arguments: Any) -> Any:
    """Multiply tiles with a group of ``width`` tokens, or with the last ``-width`` tokens; see also `UNPACKED`.

    ``isa`` and ``tile_format`` are literal names, ``read_once`` is a literal 0 or 1.
    """
    names, is_once = (isa.literal_value, tile_format.literal_value), bool(read_once.literal_value)

    def lower(context: Any, b: Builder, _: Any, values: list[Value]) -> Value:
        chosen_isa, chosen_format = find_set(names[0]), FORMATS[names[1]]
        numbers = [b.extract_value(values[4], i) for i in range(_N_ARGUMENTS)]
        after = b.append_basic_block("after")
        switch = b.switch(values[3], after)

        def add_case(width: int, used_format: Format) -> None:
            case = b.append_basic_block(f"width{width}")
            switch.add_case(ir.Constant(I64, width), case)
            b.position_at_end(case)
            shape = chosen_isa, used_format, abs(width or widest)
            b.call(_chunk_by_tokens(b.module, *shape, is_last=width < 0, read_once=is_once), numbers)
            b.branch(after)

        widest, *others = chosen_isa.widths
        last = range(1, _max_last(chosen_isa, chosen_format) + 1)
        if can_unpack(chosen_format):
            add_case(UNPACKED, Unpacked(chosen_format, chosen_isa))
        if not can_unpack(chosen_format) or chosen_isa.min_unpacked > widest:
            add_case(widest, chosen_format)
        for width in [-n for n in last] or others:
            add_case(width, chosen_format)
        b.position_at_end(after)
        return context.get_dummy_value()

    return types.void(isa, tile_format, read_once, types.int64, types.UniTuple(types.int64, _N_ARGUMENTS)), lower


def _isa_operation(emitter: Callable[[InstructionSet, Builder], None]) -> Any:
    """Return an intrinsic ``f(isa)`` that emits code of an instruction set.

    Its argument is a literal name.
    """

    @intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]  # numba has no types
    def operation(context: Any, isa: Any) -> Any:
        chosen_isa = find_set(isa.literal_value)

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


def build(compiler: KernelCompiler, isa: InstructionSet, tile_format: Format, *, read_once: bool = False) -> Any:
    """Compile the kernel for one format.

    ``kernel(tensor, widths, buffer, activations, n_tokens, first, last, out, out_stride, add)`` writes the products of
    tiles ``first`` … ``last - 1`` to ``out[token, 16 * (tile - first)]``, or adds them to the values there if ``add``
    is 1. ``buffer`` is the address of `unpacked.buffer_bytes`.

    With ``read_once``, decoding fetches weights so that they leave the larger caches to other data. This is best if
    they would be evicted before the next token needs them.
    """
    sizes = tile_format.activation_bytes, record_bytes(tile_format), isa.min_unpacked, _max_last(isa, tile_format)
    kernel = _matmul(isa.name, tile_format.key, int(read_once), *sizes)
    name = f"{'large ' if read_once else ''}matmul for {isa.name}"
    return compiler(tile_format.kernel_name(name), 10, kernel, isa=isa.name)


def _matmul(
    isa: str,
    tile_format: str,
    read_once: int,
    activation_bytes: int,
    unpacked_bytes: int,
    min_unpacked: int,
    max_last: int,
) -> Callable[..., int]:
    def matmul(
        tensor: int,
        widths: int,
        buffer: int,
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
        unpacked_tile = t.n_records * unpacked_bytes
        n_unpacked = 0  # tokens that are multiplied with unpacked tiles, in groups of the largest width
        if unpacked_bytes and n_tokens >= min_unpacked:
            n_unpacked = n_tokens - n_tokens % load_i64(widths)
        at_once = max(1, min(TILES, BUFFER_BYTES // unpacked_tile)) if n_unpacked else CHUNK

        for tile in range(first, last, at_once):
            n_tiles, weights = min(at_once, last - tile), t.weights + tile * t.tile_bytes
            if n_unpacked:
                unpack_tiles(isa, tile_format, (weights, t.tile_bytes, n_tiles, t.n_records, buffer))
            token = 0
            while token < n_tokens:
                rest, is_unpacked = n_tokens - token, token < n_unpacked
                width = -rest if rest <= max_last else width_for(widths, rest)
                _multiply(
                    isa,
                    tile_format,
                    read_once,
                    UNPACKED if is_unpacked else width,
                    (
                        buffer if is_unpacked else weights,
                        unpacked_tile if is_unpacked else t.tile_bytes,
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
                token += abs(width)
        _end(isa)
        return 0

    return matmul


_call = call_address(10)


@jit
def matmul(
    tensor: int,
    widths: int,
    buffer: int,
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
    _call(t.kernel, tensor, widths, buffer, activations, n_tokens, first, last, out, out_stride, add)
