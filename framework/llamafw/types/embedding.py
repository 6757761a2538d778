"""Embedding requests, and the responses to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llamafw.types.arrays import Floats
from llamafw.types.client import Sender, current_sender

Pooling = Literal["none", "mean", "cls", "last", "rank"]
"""How the hidden states of a text's tokens become its embedding.

``none``: one vector per token; ``mean``: their mean; ``cls``: the first token's; ``last``: the last token's;
``rank``: a score that the model's rank head computes.
"""


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """A validated, tokenised request for an embedding.

    Immutable.
    """

    prompt: tuple[int, ...]  # tokens
    pooling: Pooling = "mean"  # how to combine the hidden states
    id_slot: int = -1  # -1: any slot
    cache_prompt: bool = False  # must be False: caches hold no hidden states
    types: tuple[int, ...] = ()  # of the tokens, as in `Batch`; empty: all are 0
    sender: Sender = field(default_factory=current_sender)  # default: that of the HTTP request that is being answered


@dataclass(frozen=True, slots=True)
class Embedding:
    """The embedding of one text, not normalised."""

    vectors: Floats  # (1, n_embd); (n_prompt, n_embd) for pooling "none"; (1, 1), the score, for "rank"
    n_prompt: int  # tokens of the prompt
    id_slot: int  # the slot that was used
