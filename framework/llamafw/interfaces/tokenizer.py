"""Protocol for tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """Converts text to tokens and back.

    Created once per model; immutable, because any thread may call it.

    A tokenizer may also have the method ``to_json()``, which returns it as a ``tokenizer.json`` for other programs.
    """

    n_vocab: int  # number of tokens
    bos: int | None  # beginning-of-text token, if the model has one
    eos: int | None  # end-of-text token, if the model has one
    eog: frozenset[int]  # all end-of-generation tokens
    add_bos: bool  # put BOS before prompts
    add_eos: bool  # put EOS after prompts
    fim: Mapping[str, int]  # fill-in-the-middle tokens that the model has: "pre", "suf", "mid", "rep", "sep"

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the tokens of ``text``.

        Parameters
        ----------
        add_special : bool
            Add BOS and EOS if the model uses them.
        parse_special : bool
            Turn the text of a special token (``<|im_end|>``) into that token instead of plain text.
        """

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of ``token``; for control tokens ``b""`` unless ``special``."""

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ``tokens``, with control tokens only if ``special``; invalid UTF-8 becomes U+FFFD."""
