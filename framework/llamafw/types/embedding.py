"""Embedding requests, and the responses to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llamafw.types.arrays import Floats

Pooling = Literal["none", "mean", "cls", "last", "rank"]
"""How the hidden states of a text's tokens become its embedding: all as they are, their mean, the first, the last."""


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """What a client wants embedded. Validated, tokenised, and never changed."""

    prompt: tuple[int, ...]  # tokens
    pooling: Pooling = "mean"  # how one vector comes of many
    id_slot: int = -1  # -1: any
    cache_prompt: bool = False  # hidden states are not in the cache


@dataclass(frozen=True, slots=True)
class Embedding:
    """The embedding of one text, not normalised."""

    vectors: Floats  # (1, n_embd), or (n_prompt, n_embd) without pooling; a score, (1, 1), for "rank"
    n_prompt: int  # tokens of the prompt
    id_slot: int  # the slot that evaluated it
