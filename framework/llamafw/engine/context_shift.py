"""What becomes of a context that is full: which tokens go. Arithmetic alone; it knows nothing of caches."""

from __future__ import annotations

import numpy as np

from llamafw.types import Ints

_FREE = 4  # positions that tokens to keep leave free, at least


def kept(n_keep: int, n_prompt: int, n_ctx: int, *, bos: bool) -> int:
    """Return how many tokens of the start are never dropped.

    Parameters
    ----------
    n_keep : int
        As the request has it; -1: the whole prompt.
    bos : bool
        The model wants a BOS token, which is kept besides.
    """
    wanted = n_prompt if n_keep < 0 else n_keep + bos
    return max(min(wanted, n_ctx - _FREE), 0)


def shortened(prompt: Ints, n_keep: int, n_ctx: int) -> Ints:
    """Return a prompt of ``n_ctx`` tokens or more with blocks after the first ``n_keep`` cut out.

    The end stays, and with it at least half of what is free: blocks are half of that long.
    """
    n_keep = max(min(n_keep, n_ctx - _FREE), 0)
    block = max((n_ctx - n_keep) // 2, 1)
    n_cut = (len(prompt) - n_keep - block) // block * block
    return np.concatenate([prompt[:n_keep], prompt[n_keep + n_cut :]])


def discarded(n: int, n_keep: int, n_discard: int) -> int:
    """Return how many tokens after the first ``n_keep`` of ``n`` are dropped to make room; 0: there is nothing to drop.

    Parameters
    ----------
    n_discard : int
        As the request has it; 0: half of what may go.
    """
    droppable = n - n_keep
    return min(n_discard, droppable) if n_discard > 0 else droppable // 2
