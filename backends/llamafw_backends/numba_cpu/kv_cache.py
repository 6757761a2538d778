"""Save, restore and shift the KV cache between forward passes.

Keys are stored in blocks of 16 positions, with RoPE applied; values position by position. See `attention`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import Bytes, LlamafwError
from llamafw_backends.numba_cpu.emit import LANES

Array = npt.NDArray[Any]


class KVCache:
    """The keys and values of all slots, as arrays.

    Parameters
    ----------
    keys : array
        (n_slots, n_layer, n_head_kv, n_blocks, head_size, 16) float16 or float32.
    values : array
        (n_slots, n_layer, n_head_kv, 16 · n_blocks, head_size) float16 or float32.
    frequencies : (n_rot / 2,) float64
        Radians per position by which pair (i, i + n_rot / 2) of a key is rotated.
    """

    def __init__(self, keys: Array, values: Array, frequencies: npt.NDArray[np.float64]) -> None:
        self._keys, self._values, self._frequencies = keys, values, frequencies

    def state_size(self, n: int) -> int:
        """Return the size in bytes of the state of ``n`` positions."""
        keys, values = self._keys[0], self._values[0]
        n_blocks = -(-n // LANES)
        per_block, per_position = keys.nbytes // keys.shape[2], values.nbytes // values.shape[2]
        return n_blocks * per_block + n * per_position

    def save(self, slot: int, n: int) -> Bytes:
        """Return a copy of the first ``n`` positions.

        The bytes are the keys, in whole blocks with zeros after position ``n``, then the values.
        """
        keys = self._keys[slot, :, :, : -(-n // LANES)].copy()
        if n % LANES:
            keys[:, :, -1, :, n % LANES :] = 0
        values = np.ascontiguousarray(self._values[slot, :, :, :n])
        return np.concatenate([keys.reshape(-1).view(np.uint8), values.reshape(-1).view(np.uint8)])

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        """Write a state that `save` returned.

        Raises
        ------
        LlamafwError
            The state does not have the size of ``n`` positions.
        """
        if state.nbytes != self.state_size(n):
            raise LlamafwError(f"the state has {state.nbytes} bytes; {n} positions have {self.state_size(n)}")

        keys, values = self._keys[slot, :, :, : -(-n // LANES)], self._values[slot, :, :, :n]
        n_key_bytes = keys.size * keys.itemsize
        state = np.ascontiguousarray(state)
        keys[...] = state[:n_key_bytes].view(keys.dtype).reshape(keys.shape)
        values[...] = state[n_key_bytes:].view(values.dtype).reshape(values.shape)

    def shift(self, slot: int, first: int, n: int, end: int) -> None:
        """Move positions ``first + n`` … ``end - 1`` down by ``n``, and rotate their keys back by ``n`` positions."""
        half = len(self._frequencies)
        cos, sin = (f(n * self._frequencies).astype(np.float32) for f in (np.cos, np.sin))

        for layer in range(self._keys.shape[1]):  # one layer at a time, to limit the memory for copies
            by_position = self._keys[slot, layer].transpose(0, 1, 3, 2)  # (n_head_kv, n_blocks, 16, head_size), a view
            rows = by_position.reshape(by_position.shape[0], -1, by_position.shape[3])  # a copy
            moved = rows[:, first + n : end].astype(np.float32)
            a, b = moved[..., :half].copy(), moved[..., half : 2 * half].copy()
            moved[..., :half], moved[..., half : 2 * half] = a * cos + b * sin, b * cos - a * sin
            rows[:, first : end - n] = moved
            by_position[...] = rows.reshape(by_position.shape)

            values = self._values[slot, layer]
            values[:, first : end - n] = values[:, first + n : end].copy()
