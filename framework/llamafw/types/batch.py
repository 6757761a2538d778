"""The input of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

from llamafw.types.arrays import Ints


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass: token ``i`` belongs to ``slots[i]`` at ``positions[i]``.

    Tokens of one slot are adjacent, in order of position, and continue what the slot holds.
    """

    tokens: Ints  # (n,)
    positions: Ints  # (n,)
    slots: Ints  # (n,)
    outputs: Ints  # (m,) indices into the batch, ascending: the tokens whose logits are wanted
