"""The KV cache: its memory, and what happens to it between forward passes.

Keys are stored in blocks of 16 positions, with RoPE applied; values position by position, unless they are a part of
the keys. See `attention`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import Bytes, LlamafwError, SettingsError
from llamafw_backends.numba_cpu.attention import CacheLayout
from llamafw_backends.numba_cpu.attention_emit import ELEMENT_BYTES
from llamafw_backends.numba_cpu.emit import LANES
from llamafw_backends.numba_cpu.memory import Arena, align_up, padded_context

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class KeyRotation:
    """How the numbers of a key are rotated by its position."""

    frequencies: npt.NDArray[np.float64]  # (n_pairs,) radians per position
    first: slice  # the first numbers of the pairs
    second: slice


class KVCache:
    """The keys and values of all slots, one array of each per `CacheLayout`.

    Parameters
    ----------
    layouts : sequence of CacheLayout
        The sizes of each cache.
    n_slots, n_ctx : int
        Number of slots, and of positions in each.
    types : (str, str)
        Types of keys and values: ``f16`` or ``f32``.

    Raises
    ------
    SettingsError
        There is not enough memory.
    """

    def __init__(self, layouts: Sequence[CacheLayout], n_slots: int, n_ctx: int, types: tuple[str, str]) -> None:
        self.types, self.n_ctx, self._n_slots = types, padded_context(n_ctx), n_slots
        key_type, value_type = ({"f16": np.float16, "f32": np.float32}[kind] for kind in types)
        sizes = [
            tuple(
                n_slots * c.n_head * self.n_ctx * size * ELEMENT_BYTES[kind]
                for size, kind in zip(c.sizes, types, strict=True)
            )
            for c in layouts
        ]
        n_bytes = sum(align_up(size) for pair in sizes for size in pair)
        try:
            self._arena = Arena(n_bytes)  # no huge pages: the first token would use one for each head of each layer
        except (OSError, OverflowError) as exc:
            raise SettingsError(
                f"a KV cache of {n_bytes / 1e9:.1f} GB cannot be allocated: {exc}; use a smaller context (-c) or fewer "
                "slots (-np)"
            ) from exc

        self.keys: list[Array] = []  # (n_slots, n_head, n_blocks, key_size, 16)
        self.values: list[Array] = []  # (n_slots, n_head, 16 · n_blocks, value_size)
        for c, (key_bytes, value_bytes) in zip(layouts, sizes, strict=True):
            keys, values = self._arena.allocate(key_bytes), self._arena.allocate(value_bytes)
            key_shape = (n_slots, c.n_head, self.n_ctx // LANES, c.key_size, LANES)
            self.keys.append(self._arena.view(keys, key_shape, key_type))
            self.values.append(self._arena.view(values, (n_slots, c.n_head, self.n_ctx, c.sizes[1]), value_type))

    @property
    def n_bytes(self) -> int:
        """Size of the memory, most of which is only provided when it is used."""
        return self._arena.n_bytes

    def addresses(self, number: int) -> dict[str, int]:
        """Return the fields of an ATTENTION record that describe a cache."""
        keys, values = self.keys[number], self.values[number]
        return {
            "keys": int(keys.ctypes.data),
            "values": int(values.ctypes.data),
            "key_slot": keys.strides[0],
            "key_head": keys.strides[1],
            "value_slot": values.strides[0],
            "value_head": values.strides[1],
        }

    def state_size(self, n: int) -> int:
        """Return the size in bytes of the state of ``n`` positions."""
        return sum(part.nbytes for part in self._state(0, n))

    def _state(self, slot: int, n: int) -> Iterator[Array]:
        """Yield views of the keys and values of the first ``n`` positions, keys in whole blocks."""
        for keys, values in zip(self.keys, self.values, strict=True):
            yield keys[slot, :, : -(-n // LANES)]
            yield values[slot, :, :n]

    def save(self, slot: int, n: int) -> Bytes:
        """Return a copy of the first ``n`` positions.

        The bytes are, cache by cache, the keys, in whole blocks with zeros after position ``n``, then the values.
        """
        parts = []
        for i, part in enumerate(self._state(slot, n)):
            copy = part.copy()
            if i % 2 == 0 and n % LANES:
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

    def shift(self, slot: int, first: int, n: int, end: int, rotations: Sequence[KeyRotation | None]) -> None:
        """Move positions ``first + n`` … ``end - 1`` down by ``n``, and rotate their keys back by ``n`` positions."""
        for all_keys, all_values, rotation in zip(self.keys, self.values, rotations, strict=True):
            by_position = all_keys[slot].transpose(0, 1, 3, 2)  # (n_head, n_blocks, 16, key_size), a view
            rows = by_position.reshape(by_position.shape[0], -1, by_position.shape[3])  # a copy
            moved = rows[:, first + n : end].astype(np.float32)
            if rotation is not None:
                cos, sin = (f(n * rotation.frequencies).astype(np.float32) for f in (np.cos, np.sin))
                a, b = moved[..., rotation.first].copy(), moved[..., rotation.second].copy()
                moved[..., rotation.first], moved[..., rotation.second] = a * cos + b * sin, b * cos - a * sin
            rows[:, first : end - n] = moved
            by_position[...] = rows.reshape(by_position.shape)

            values = all_values[slot]
            values[:, first : end - n] = values[:, first + n : end].copy()
