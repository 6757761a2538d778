"""The KV cache: its memory, and what happens to it between forward passes.

Keys are stored in blocks of 16 positions, with RoPE applied; values position by position, unless they are a part of
the keys. See `attention`. Slots with a common start share its memory; see `pages`. Caches that are read through windows
may keep the last positions only; see `ring`. Encoders only need memory while they compute texts; see `text_pages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import Bytes, LlamafwError, SettingsError
from llamafw_backends.numba_cpu.attention import CacheLayout
from llamafw_backends.numba_cpu.cache_arrays import CacheArrays, CacheShape
from llamafw_backends.numba_cpu.cache_types import CACHE_TYPES, CacheType
from llamafw_backends.numba_cpu.emit import LANES
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.kernel_records import ROUNDING, address_of, new_records
from llamafw_backends.numba_cpu.key_rotation import KeyRotation, KeyRotator
from llamafw_backends.numba_cpu.memory import Arena
from llamafw_backends.numba_cpu.pages import PAGE, Pages, ring_table, whole_pages
from llamafw_backends.numba_cpu.ring import Ring, ring_size
from llamafw_backends.numba_cpu.text_pages import TextPages


class KVCache:
    """The keys and values of all slots, for each `CacheLayout`.

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
    n_text_tokens : int
        If the layouts are those of whole texts: the maximum number of tokens in a batch; otherwise 0.

    Raises
    ------
    SettingsError
        There is not enough memory, or a type cannot be used for a layout.
    """

    def __init__(
        self,
        layouts: Sequence[CacheLayout],
        n_slots: int,
        n_ctx: int,
        types: tuple[str, str],
        compiler: KernelCompiler,
        n_ubatch: int | None = None,
        n_text_tokens: int = 0,
    ) -> None:
        self.types, self.n_ctx = (CACHE_TYPES[types[0]], CACHE_TYPES[types[1]]), whole_pages(n_ctx)
        self.layouts, self._compiler = layouts, compiler
        self._records: dict[tuple[str, int], npt.NDArray[np.void]] = {}
        self._rotations: Sequence[KeyRotation | None] = ()
        self._rotators: dict[int, KeyRotator] = {}  # by the size of a key

        kept = [
            self.n_ctx if c.window is None or n_ubatch is None or c.latent else ring_size(c.window, n_ubatch, n_ctx)
            for c in layouts
        ]
        text_pages = TextPages(n_slots, self.n_ctx, n_text_tokens) if n_text_tokens else None
        if text_pages is not None:
            n_slots, kept = 1, [text_pages.n_total * PAGE] * len(layouts)
        shapes = [CacheShape(c, n_slots, n, *self.types) for c, n in zip(layouts, kept, strict=True)]
        n_bytes = sum(shape.n_bytes for shape in shapes)
        try:
            self._arena = Arena(n_bytes)  # no huge pages: the first token would use one for each head of each layer
        except (OSError, OverflowError) as exc:
            raise SettingsError(
                f"a KV cache of {n_bytes / 1e9:.1f} GB cannot be allocated: {exc}; use a smaller context (-c) or fewer "
                "slots (-np)"
            ) from exc

        self.pages: Pages | TextPages = text_pages or Pages(n_slots, self.n_ctx)
        self.caches: list[CacheArrays] = []
        self.rings: list[Ring] = []  # the caches that keep the last positions only
        self._whole: list[CacheArrays] = []  # the others
        for c, n, shape in zip(layouts, kept, shapes, strict=True):
            if n_text_tokens:
                cache = shape.allocate(self._arena, self.pages.table)
            elif n < self.n_ctx and c.window is not None:
                cache = shape.allocate(self._arena, ring_table(n_slots, n, self.n_ctx))
                self.rings.append(Ring(cache, c.window))
            else:
                cache = shape.allocate(self._arena, self.pages.table)
                self._whole.append(cache)
            self.caches.append(cache)

    @property
    def n_bytes(self) -> int:
        """Size of the memory, most of which is only provided when it is used."""
        return self._arena.n_bytes

    def fields(self, number: int) -> dict[str, int]:
        """Return the fields of an ATTENTION record that describe a cache."""
        key_size, value_size = self.layouts[number].sizes
        return self.caches[number].fields() | {
            "key_rounding": self._rounding(self.types[0], key_size),
            "value_rounding": self._rounding(self.types[1], value_size),
        }

    def _rounding(self, kind: CacheType, size: int) -> int:
        """Return the address of a ROUNDING record, which lives as long as this object."""
        record = self._records.setdefault((kind.name, size), new_records(ROUNDING))
        for name, value in kind.fields(self._compiler, size).items():
            record[name] = value
        return address_of(record)

    def start_batch(self) -> None:
        """Take the memory of the last batch's texts away."""
        if isinstance(self.pages, TextPages):
            self.pages.clear()

    def truncate(self, slot: int, n: int) -> None:
        """Free the memory of positions from ``n`` on, except of rings."""
        self.pages.truncate(slot, n)

    def reserve(self, slot: int, first: int, end: int, n_kept: int | None = None) -> None:
        """Prepare a slot for writing positions ``first`` … ``end - 1``, except of rings.

        Other slots keep what they share with this one. The contents of the first ``n_kept`` positions stay; by default
        those before ``first``.
        """
        for old, new in self.pages.reserve(slot, first, end, first if n_kept is None else n_kept):
            self._copy_page(old, new)

    def share(self, source: int, target: int, n: int) -> None:
        """Replace the contents of slot ``target`` by the first ``n`` positions of ``source``, except of rings.

        Only the data of the last page are copied, if ``n`` ends within it.
        """
        self.truncate(target, 0)
        n_pages, rest = divmod(n, PAGE)
        self.pages.share(source, target, n_pages)
        if rest:
            self.reserve(target, n - rest, n)
            self._copy_page(*(int(self.pages.table[slot, n_pages]) for slot in (source, target)))

    def _copy_page(self, old: int, new: int) -> None:
        for cache in self._whole:
            cache.copy_page(old, new)

    def state_size(self, n: int) -> int:
        """Return the size in bytes of the state of ``n`` positions, without rings."""
        return sum(cache.n_bytes(0, n) for cache in self._whole)

    def save(self, slot: int, n: int) -> Bytes:
        """Return a copy of the first ``n`` positions, without rings: that of each cache."""
        return np.concatenate([np.zeros(0, np.uint8), *(cache.copy(slot, 0, n) for cache in self._whole)])

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
        self.truncate(slot, 0)
        self.reserve(slot, 0, n)
        for cache in self._whole:
            end = start + cache.n_bytes(0, n)
            cache.write(slot, 0, n, state[start:end])
            start = end

    def prepare_shift(self, rotations: Sequence[KeyRotation | None]) -> None:
        """Compile what `shift` needs; ``rotations`` say how the keys of each cache are rotated, None: they are not."""
        self._rotations = rotations
        for layout, rotation in zip(self.layouts, rotations, strict=True):
            if rotation is not None and layout.key_size not in self._rotators:
                rounding = self._rounding(self.types[0], layout.key_size)
                self._rotators[layout.key_size] = KeyRotator(self._compiler, self.types[0], layout.key_size, rounding)

    def shift(self, slot: int, first: int, n: int, end: int) -> None:
        """Move positions ``first + n`` … ``end - 1`` down by ``n``, and rotate their keys back by ``n`` positions.

        There must be no rings.
        """
        self.reserve(slot, first, end, n_kept=end)
        for cache in self.caches:
            cache.move(slot, first, n, end)
        self._rotate(slot, first, end - n, np.array([n]))
        self.truncate(slot, end - n)

    def move_keys(self, slot: int, first: int, moves: npt.NDArray[np.int64]) -> None:
        """Rotate the keys of successive positions from ``first`` on, each back by its number of ``moves``, ``(n,)``.

        There must be no rings.
        """
        end = first + len(moves)
        self.reserve(slot, first, end, n_kept=end)
        self._rotate(slot, first, end, moves)

    def _rotate(self, slot: int, first: int, end: int, moves: npt.NDArray[np.int64]) -> None:
        """Rotate the keys of positions ``first`` … ``end - 1`` back, by one number of positions or each by its own."""
        for layout, cache, rotation in zip(self.layouts, self.caches, self._rotations, strict=True):
            if rotation is None:
                continue
            pairs = rotation.pairs(moves, layout.key_size)
            for begin, last, owner, place in cache.runs(slot, first, end):
                offset = (place - begin) // LANES * cache.words.strides[2]
                heads = [int(words.ctypes.data) + offset for words in cache.words[owner]]
                own = pairs if len(moves) == 1 else pairs[begin - first : last - first]
                self._rotators[layout.key_size].rotate(heads, begin, last, own)

    def copy_keys(self, slot: int, first: int, end: int) -> list[npt.NDArray[Any]]:
        """Return copies of the keys of positions ``first`` … ``end - 1``, in whole blocks.

        There must be no rings.
        """
        return [cache.read(part, slot, first, end) for cache in self.caches for part in (cache.words, cache.key_scales)]

    def write_keys(self, slot: int, first: int, end: int, copies: Sequence[npt.NDArray[Any]]) -> None:
        """Write what `copy_keys` has returned for the same positions."""
        self.reserve(slot, first, end, n_kept=end)
        for cache, keys, scales in zip(self.caches, copies[::2], copies[1::2], strict=True):
            cache.replace(cache.words, slot, first, end, keys)
            cache.replace(cache.key_scales, slot, first, end, scales)
