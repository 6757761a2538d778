"""The KV cache: its memory, and what happens to it between forward passes.

Keys are stored in blocks of 16 positions, with RoPE applied; values position by position, unless they are a part of
the keys. See `attention`. Caches that are read through windows may keep the last positions only; see `ring`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import Bytes, LlamafwError, SettingsError
from llamafw_backends.numba_cpu.attention import CacheLayout
from llamafw_backends.numba_cpu.cache_types import CACHE_TYPES, CacheType
from llamafw_backends.numba_cpu.emit import LANES
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.kernel_records import ROUNDING, address_of, new_records
from llamafw_backends.numba_cpu.key_rotation import KeyRotation, KeyRotator
from llamafw_backends.numba_cpu.memory import Arena, align_up, padded_context
from llamafw_backends.numba_cpu.ring import Ring, ring_size

Array = npt.NDArray[Any]


class KVCache:
    """The keys and values of all slots, one array of each per `CacheLayout`.

    Parameters
    ----------
    layouts : sequence of CacheLayout
        The sizes of each cache.
    n_slots, n_ctx : int
        Number of slots, and of positions in each.
    types : (str, str)
        Types of keys and values: names of `CACHE_TYPES`.
    compiler : KernelCompiler
        Compiles the kernels that round keys and values.
    n_ubatch : int, optional
        Maximum number of tokens in a ubatch. None: caches with a window keep all positions, too.

    Attributes
    ----------
    keys : list of (words, scales)
        Words are (n_slots, n_head, n_blocks, n_words, 16): a position in each lane. Scales are the same with n_scales;
        there are none if a type has no scales.
    values : list of array
        (n_slots, n_head, 16 · n_blocks, n), in the layout of files.

    Raises
    ------
    SettingsError
        There is not enough memory, or heads have a size that a type does not support.
    """

    def __init__(
        self,
        layouts: Sequence[CacheLayout],
        n_slots: int,
        n_ctx: int,
        types: tuple[str, str],
        compiler: KernelCompiler,
        n_ubatch: int | None = None,
    ) -> None:
        self.types, self.n_ctx = (CACHE_TYPES[types[0]], CACHE_TYPES[types[1]]), padded_context(n_ctx)
        self._layouts, self._compiler = layouts, compiler
        self._records: dict[tuple[str, int], npt.NDArray[np.void]] = {}
        self._rotations: Sequence[KeyRotation | None] = ()
        self._rotators: dict[int, KeyRotator] = {}  # by the size of a key
        kept = [
            self.n_ctx if c.window is None or n_ubatch is None or c.latent else ring_size(c.window, n_ubatch, n_ctx)
            for c in layouts
        ]
        shapes = [
            ((n_slots, c.n_head, n // LANES, self._key_block(c)), (n_slots, c.n_head, n, self._value_row(c)))
            for c, n in zip(layouts, kept, strict=True)
        ]
        sizes = [(math.prod(keys), math.prod(values)) for keys, values in shapes]
        n_bytes = sum(align_up(size) for pair in sizes for size in pair)
        try:
            self._arena = Arena(n_bytes)  # no huge pages: the first token would use one for each head of each layer
        except (OSError, OverflowError) as exc:
            raise SettingsError(
                f"a KV cache of {n_bytes / 1e9:.1f} GB cannot be allocated: {exc}; use a smaller context (-c) or fewer "
                "slots (-np)"
            ) from exc

        self.keys: list[tuple[Array, ...]] = []
        self.values: list[Array] = []
        self.rings: list[Ring] = []  # the caches that keep the last positions only
        self._whole: list[tuple[tuple[Array, ...], Array]] = []  # keys and values of the others
        for c, n, pair in zip(layouts, kept, shapes, strict=True):
            blocks, values = (
                self._arena.view(self._arena.allocate(math.prod(shape)), shape, np.uint8) for shape in pair
            )
            keys = _key_arrays(blocks, self.types[0], c.key_size)
            self.keys.append(keys)
            self.values.append(values)
            if n < self.n_ctx and c.window is not None:
                self.rings.append(Ring(keys, values, c.window))
            else:
                self._whole.append((keys, values))

    @property
    def n_bytes(self) -> int:
        """Size of the memory, most of which is only provided when it is used."""
        return self._arena.n_bytes

    def _key_block(self, layout: CacheLayout) -> int:
        """Return the size of a block of keys."""
        self.types[0].check_size(layout.key_size, "-ctk")
        if layout.latent and self.types[0].is_quantised:
            raise SettingsError(
                f"-ctk {self.types[0].name} cannot be used with this model, whose values are a part of the keys (MLA); "
                "use f16, bf16 or f32"
            )
        return self.types[0].format.tile_bytes(layout.key_size)

    def _value_row(self, layout: CacheLayout) -> int:
        """Return the size of the values of a position."""
        self.types[1].check_size(layout.sizes[1], "-ctv")
        return self.types[1].row_bytes(layout.sizes[1])

    def addresses(self, number: int) -> dict[str, int]:
        """Return the fields of an ATTENTION record that describe a cache."""
        (words, *_), values, layout = self.keys[number], self.values[number], self._layouts[number]
        return {
            "keys": int(words.ctypes.data),
            "values": int(values.ctypes.data),
            "key_slot": words.strides[0],
            "key_head": words.strides[1],
            "key_block": words.strides[2],
            "value_slot": values.strides[0],
            "value_head": values.strides[1],
            "value_row": values.strides[2],
            "n_kept": values.shape[2],
            "key_rounding": self._rounding(self.types[0], layout.key_size),
            "value_rounding": self._rounding(self.types[1], layout.sizes[1]),
        }

    def _rounding(self, kind: CacheType, size: int) -> int:
        """Return the address of a ROUNDING record, which lives as long as the cache."""
        record = self._records.setdefault((kind.name, size), new_records(ROUNDING))
        for name, value in kind.fields(self._compiler, size).items():
            record[name] = value
        return address_of(record)

    def state_size(self, n: int) -> int:
        """Return the size in bytes of the state of ``n`` positions, without rings."""
        return sum(part.nbytes for part in self._state(0, n))

    def _state(self, slot: int, n: int) -> Iterator[Array]:
        """Yield views of the keys, in whole blocks, and of the values of the first ``n`` positions."""
        for keys, values in self._whole:
            yield from (part[slot, :, : -(-n // LANES)] for part in keys)
            yield values[slot, :, :n]

    def save(self, slot: int, n: int) -> Bytes:
        """Return a copy of the first ``n`` positions, without rings.

        The bytes are, cache by cache, the words of the keys, their scales, both in whole blocks with zeros after
        position ``n``, then the values.
        """
        parts = []
        for part in self._state(slot, n):
            copy = part.copy()
            if part.ndim == 4 and n % LANES:  # words or scales
                copy[:, -1, :, n % LANES :] = 0
            parts.append(copy.reshape(-1).view(np.uint8))
        return np.concatenate(parts) if parts else np.zeros(0, np.uint8)

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        """Write a state that `save` returned.

        Raises
        ------
        LlamafwError
            The state does not have the size of ``n`` positions.
        """
        if state.nbytes != self.state_size(n):
            raise LlamafwError(f"the state has {state.nbytes} bytes; {n} positions have {self.state_size(n)}")
        state, start = np.ascontiguousarray(state), 0
        for part in self._state(slot, n):
            part[...] = state[start : start + part.nbytes].view(part.dtype).reshape(part.shape)
            start += part.nbytes

    def prepare_shift(self, rotations: Sequence[KeyRotation | None]) -> None:
        """Compile what `shift` needs for keys that are rotated like this."""
        self._rotations = rotations
        for layout, rotation in zip(self._layouts, rotations, strict=True):
            if rotation is not None and layout.key_size not in self._rotators:
                rounding = self._rounding(self.types[0], layout.key_size)
                self._rotators[layout.key_size] = KeyRotator(self._compiler, self.types[0], layout.key_size, rounding)

    def shift(self, slot: int, first: int, n: int, end: int) -> None:
        """Move positions ``first + n`` … ``end - 1`` down by ``n``, and rotate their keys back by ``n`` positions.

        There must be no rings.
        """
        caches = zip(self._layouts, self.keys, self.values, self._rotations, strict=True)
        for layout, all_keys, all_values, rotation in caches:
            for part in all_keys:
                by_position = part[slot, :, first // LANES : -(-end // LANES)].transpose(0, 1, 3, 2)  # a view
                rows = by_position.reshape(len(by_position), -1, by_position.shape[3])  # a copy
                start = first % LANES
                rows[:, start : start + end - n - first] = rows[:, start + n : start + end - first].copy()
                by_position[...] = rows.reshape(by_position.shape)
            values = all_values[slot]
            values[:, first : end - n] = values[:, first + n : end].copy()
            if rotation is not None:
                heads = [int(words.ctypes.data) for words in all_keys[0][slot]]
                self._rotators[layout.key_size].rotate(heads, first, end - n, n, rotation)


def _key_arrays(blocks: Array, kind: CacheType, size: int) -> tuple[Array, ...]:
    """Return views of the words and the scales in blocks of keys, the latter if the type has scales."""
    tile, shape = kind.format, (*blocks.shape[:3], -1, LANES)
    end = size // tile.columns * tile.word_bytes
    word_bytes = 4 if kind.is_quantised else kind.row_bytes(LANES) // LANES
    words = blocks[..., :end].view(f"u{word_bytes}").reshape(shape)
    if not tile.scale_bytes:
        return (words,)
    scales = blocks[..., end : end + size // tile.block_size * tile.scale_bytes]
    return words, scales.view(np.uint16).reshape(shape)
