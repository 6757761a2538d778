"""The input of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

from llamafw.types.arrays import Ints


@dataclass(frozen=True, slots=True)
class Batch:
    """The tokens of one forward pass: token ``i`` belongs to ``slots[i]`` at ``positions[i]``.

    Tokens of one slot are adjacent, in ascending order of position, and continue the slot's cache.
    """

    tokens: Ints  # (n,)
    positions: Ints  # (n,)
    slots: Ints  # (n,)
    outputs: Ints  # (m,) ascending indices into the batch: the tokens whose logits are needed
