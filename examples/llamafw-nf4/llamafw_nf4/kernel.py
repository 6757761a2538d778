"""Unpack NF4 blocks to float32, compiled by Numba."""

from __future__ import annotations

import numba as nb

from llamafw import Bytes, Floats

READONLY = nb.types.Array(nb.uint8, 2, "C", readonly=True)  # blocks may be in a mapped file, which is read-only


@nb.njit(nb.void(READONLY, nb.float32[::1], nb.float32[::1], nb.float32[::1]), nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def unpack(blocks: Bytes, scales: Floats, levels: Floats, weights: Floats) -> None:
    """Write the weights of ``blocks``, (n, 34) uint8, into ``weights``, (64 n,) float32."""
    for i in range(len(blocks)):
        for j in range(32):
            byte = blocks[i, 2 + j]
            weights[64 * i + j] = scales[i] * levels[byte & 15]
            weights[64 * i + 32 + j] = scales[i] * levels[byte >> 4]
