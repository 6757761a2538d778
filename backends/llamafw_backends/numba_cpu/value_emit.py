"""Emit the sums of weighted values, position by position.

Weights of values with scales are multiplied by the scales first, for 16 positions at once. Each number of a sum is
added in the order of positions, whatever is computed together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llamafw_backends.numba_cpu import emit
from llamafw_backends.numba_cpu.cache_types import CACHE_TYPES, CacheType
from llamafw_backends.numba_cpu.emit import F32, FLOATS, I64, Builder, Value, address, constant, larger, smaller
from llamafw_backends.numba_cpu.runs import Run

_Scaled = Callable[[Value, int, Value], Value]
_Weight = Callable[[Value, int, int], Value]
_AHEAD = 8192  # distance of prefetches, in bytes
_CHUNK = 128  # positions whose values stay in the first-level cache
_ACCUMULATORS = 24  # registers for sums: AVX-512 has 32; for other sets the compiler spills some


def emit_values(b: Builder, values: list[Value], n_rows: int, size: int, kind: str) -> None:
    """Emit adding the weighted values of positions ``first`` … ``last - 1`` to ``out``, (n_rows, size) float32.

    The positions are in ``runs`` (see `runs`). ``weights`` are those of position 0.
    """
    weights, stride, cached, scales, runs, n_runs, first, last, out = values
    n_vectors, at_once = size // emit.LANES, max(1, min(4, _ACCUMULATORS // n_rows))
    if CACHE_TYPES[kind].n_scales:
        at_once = max(2, at_once // 2 * 2)  # whole blocks
    stack = emit.scratch(b, 64 * max(n_rows, 2) * at_once)

    def add_run(i: Value, _: list[Value]) -> list[Value]:
        run = Run.load(b, runs, i)
        low = larger(b, first, b.mul(run.first, constant(I64, emit.LANES)))
        high = smaller(b, last, b.mul(run.end, constant(I64, emit.LANES)))
        run_values, run_scales = b.add(cached, run.values), b.add(scales, run.scales)

        def add_chunk(i: Value, _: list[Value]) -> list[Value]:
            start = b.add(low, b.mul(i, constant(I64, _CHUNK)))
            end = smaller(b, high, b.add(start, constant(I64, _CHUNK)))
            for first in range(0, n_vectors, at_once):
                vectors = range(first, min(first + at_once, n_vectors))
                memory = weights, stride, run_values, run_scales, stack
                part = _Part(b, CACHE_TYPES[kind], size, n_rows, vectors, *memory)
                places = [address(b, out, 4 * size * r + 64 * v) for r in range(n_rows) for v in vectors]
                sums = part.add(start, end, [emit.load(b, place, FLOATS) for place in places])
                for total, place in zip(sums, places, strict=True):
                    emit.store(b, total, place)
            return []

        n_chunks = b.sdiv(b.add(b.sub(high, low), constant(I64, _CHUNK - 1)), constant(I64, _CHUNK))
        emit.loop(b, n_chunks, [], add_chunk)
        return []

    emit.loop(b, n_runs, [], add_run)


@dataclass(frozen=True, slots=True)
class _Part:
    """Some of the numbers of values, 16 in each vector, at the positions of a run."""

    b: Builder
    kind: CacheType
    size: int
    n_rows: int
    vectors: range
    weights: Value
    stride: Value
    cached: Value  # address that position 0 would have
    scales: Value  # the same
    stack: Value  # address of a buffer for scales

    def add(self, low: Value, high: Value, sums: list[Value]) -> list[Value]:
        """Emit adding the values of positions ``low`` … ``high - 1``; sum r · len(vectors) + v is that of row r."""
        b = self.b
        if not self.kind.n_scales:
            return self._add_positions(low, high, sums, lambda position, v, x: x, self._weight)

        first_block = b.sdiv(low, constant(I64, emit.LANES))
        end_block = b.sdiv(b.add(high, constant(I64, emit.LANES - 1)), constant(I64, emit.LANES))

        def add_block(i: Value, sums: list[Value]) -> list[Value]:
            block = b.add(first_block, i)
            start = b.mul(block, constant(I64, emit.LANES))
            end = b.add(start, constant(I64, emit.LANES))
            scaled, weight = self._minima(start) if self.kind.n_scales == 2 else self._scaled_weights(start)
            return self._add_positions(larger(b, low, start), smaller(b, high, end), sums, scaled, weight)

        return emit.loop(b, b.sub(end_block, first_block), sums, add_block)

    def _add_positions(
        self,
        low: Value,
        high: Value,
        sums: list[Value],
        scaled: _Scaled,
        weight: _Weight,
    ) -> list[Value]:
        """Emit adding the products of ``scaled(position, v, numbers)`` and ``weight(position, r, v)``."""
        b, row_bytes, n = self.b, self.kind.row_bytes(self.size), len(self.vectors)

        def add_position(i: Value, sums: list[Value]) -> list[Value]:
            position = b.add(low, i)
            row = b.add(self.cached, b.mul(position, constant(I64, row_bytes)))
            if self.vectors.start == 0:
                for line in range(0, row_bytes, 64):
                    emit.prefetch(b, address(b, row, _AHEAD + line))
            loaded = [scaled(position, v, self.kind.load(b, row, v)) for v in self.vectors]
            new_sums = []
            for r in range(self.n_rows):
                factors = [weight(position, r, v) for v in self.vectors]
                products = zip(factors, loaded, sums[r * n :], strict=False)
                new_sums += [emit.fma(b, factor, x, total) for factor, x, total in products]
            return new_sums

        return emit.loop(b, b.sub(high, low), sums, add_position)

    def _weight(self, position: Value, r: int, _: int) -> Value:
        """Emit loading a weight into each lane."""
        return emit.load_splat(self.b, self._at(self._row(r), position), F32)

    def _scaled_weights(self, start: Value) -> tuple[_Scaled, _Weight]:
        """Emit the products of weights and scales of 16 positions; return functions for `_add_positions`."""
        b, blocks = self.b, self._blocks()
        for k, scale in enumerate(self._load_scales(start)):
            for r in range(self.n_rows):
                weights = emit.load(b, self._at(self._row(r), start), FLOATS)
                emit.store(b, b.fmul(weights, scale), address(b, self.stack, 64 * (r * len(blocks) + k)))

        def weight(position: Value, r: int, v: int) -> Value:
            place = address(b, self.stack, 64 * (r * len(blocks) + v // 2 - blocks[0]))
            return emit.load_splat(b, self._at(place, b.sub(position, start)), F32)

        return lambda position, v, x: x, weight

    def _minima(self, start: Value) -> tuple[_Scaled, _Weight]:
        """Emit loading scales and minima of 16 positions; return functions for `_add_positions`."""
        b, first = self.b, self._blocks()[0]
        for k, number in enumerate(self._load_scales(start)):
            emit.store(b, number, address(b, self.stack, 64 * k))

        def scaled(position: Value, v: int, x: Value) -> Value:
            place = self._at(address(b, self.stack, 128 * (v // 2 - first)), b.sub(position, start))
            scale, minimum = (emit.load_splat(b, address(b, place, offset), F32) for offset in (0, 64))
            return emit.fma(b, scale, x, minimum)

        return scaled, self._weight

    def _load_scales(self, start: Value) -> list[Value]:
        """Emit loading the scales of 16 positions, or the scale and the minimum, of each block of 32 numbers."""
        b, n_scales = self.b, self.kind.n_scales
        base = b.add(self.scales, b.mul(start, constant(I64, self.size * n_scales // emit.LANES)))
        numbers = [n_scales * block + i for block in self._blocks() for i in range(n_scales)]
        return [emit.load_half(b, address(b, base, 32 * number)) for number in numbers]

    def _blocks(self) -> range:
        """Return the blocks of 32 numbers that the vectors belong to."""
        return range(self.vectors[0] // 2, self.vectors[-1] // 2 + 1)

    def _row(self, r: int) -> Value:
        return self.b.add(self.weights, self.b.mul(self.stride, constant(I64, r)))

    def _at(self, base: Value, i: Value) -> Value:
        return self.b.add(base, self.b.mul(i, constant(I64, 4)))
