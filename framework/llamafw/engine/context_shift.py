"""Computes which tokens to drop when a prompt or a context is too long."""

from __future__ import annotations

import numpy as np

from llamafw.types import Ints

_MIN_FREE = 4  # positions that kept tokens must leave free


def n_kept(n_keep: int, n_prompt: int, n_ctx: int, *, bos: bool) -> int:
    """Return how many tokens at the start are never dropped.

    Parameters
    ----------
    n_keep : int
        The request's value; -1: the whole prompt.
    n_prompt : int
        Tokens of the prompt.
    n_ctx : int
        Positions per slot.
    bos : bool
        The prompt begins with a BOS token, which is kept in addition.
    """
    requested = n_prompt if n_keep < 0 else n_keep + bos
    return max(min(requested, n_ctx - _MIN_FREE), 0)


def truncated(prompt: Ints, n_keep: int, n_ctx: int) -> Ints:
    """Return a prompt of at least ``n_ctx`` tokens with blocks after the first ``n_keep`` tokens cut out.

    A block is half as long as the space after the kept tokens. The end of the prompt stays and fills at least half of
    that space.
    """
    n_keep = max(min(n_keep, n_ctx - _MIN_FREE), 0)
    block = max((n_ctx - n_keep) // 2, 1)
    n_cut = (len(prompt) - n_keep - block) // block * block
    return np.concatenate([prompt[:n_keep], prompt[n_keep + n_cut :]])


def n_discarded(n: int, n_keep: int, n_discard: int) -> int:
    """Return how many tokens after the first ``n_keep`` to drop from a full context of ``n`` tokens; 0: none.

    Parameters
    ----------
    n : int
        Tokens in the context.
    n_keep : int
        Tokens at the start that are kept.
    n_discard : int
        The request's value; 0: half of the tokens that may be dropped.
    """
    n_droppable = n - n_keep
    return min(n_discard, n_droppable) if n_discard > 0 else n_droppable // 2
