"""Protocol for tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """Text to tokens and back. Made once per model; called on any thread, so it must not change."""

    n_vocab: int  # tokens
    bos: int | None  # the token that begins a text, if the model has one
    eos: int | None  # the token that ends a text
    eog: frozenset[int]  # every token that ends a generation
    add_bos: bool  # the model wants BOS before prompts
    add_eos: bool  # the model wants EOS after prompts
    fim: Mapping[str, int]  # for filling in the middle: "pre", "suf", "mid", "rep", "sep", as far as the model has them

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the tokens of ``text``.

        Parameters
        ----------
        add_special : bool
            Add BOS and EOS as the model wants them.
        parse_special : bool
            Read the text of special tokens (``<|im_end|>``) as these tokens; otherwise as plain text.
        """

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of ``token``; ``b""`` for control tokens unless ``special``."""

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ``tokens``, control tokens only if ``special``; bytes that are no UTF-8 become U+FFFD."""
