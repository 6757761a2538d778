"""Puts the tokens of a vocabulary in the order of their ids, with GGUF's types.

Independent of algorithms and files.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from llamafw import ModelError
from llamafw_plugins.tokenizers.checkpoint.files import AddedToken
from llamafw_plugins.tokenizers.metadata_values import PREFIX
from llamafw_plugins.tokenizers.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

log = logging.getLogger(__name__)

ADDED_SCORE, UNUSED_SCORE = -1000.0, -10000.0  # as in llama.cpp's files; such tokens are never merged
SPACE = "\u2581"  # ▁, the space in the texts of tokens
BYTE_TEXT = re.compile("<0x[0-9A-F]{2}>")

_LOOKS_SPECIAL = re.compile(r"<pad>|<mask>|<2mass>|\[@BOS@\]|<\|.*\|>|<｜.*｜>|<unused.*>", re.DOTALL)
"""Texts of added tokens that models should mark as special, and some do not (as in llama.cpp)."""


class Tokens:
    """The tokens of a vocabulary by id: texts, types and scores.

    Parameters
    ----------
    vocabulary : mapping
        Text → id. Ids have to be different, but may leave gaps.
    """

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self.texts: dict[int, str] = {}
        for text, id in vocabulary.items():
            if type(id) is not int or not 0 <= id < 2**31:
                raise ModelError(f"the tokenizer's vocabulary has the token {text!r:.80} with the id {id!r:.80}")
            if id in self.texts:
                raise ModelError(f"the tokenizer's vocabulary has two tokens {id}: {self.texts[id]!r} and {text!r}")
            self.texts[id] = text
        self.types = dict.fromkeys(self.texts, NORMAL)
        self.scores: dict[int, float] = {}
        self._end = max(self.texts, default=-1) + 1  # of the vocabulary without added tokens

    @property
    def ids(self) -> dict[str, int]:
        """Text → id."""
        return {text: id for id, text in self.texts.items()}

    def mark_bytes(self) -> None:
        """Give ``<0x00>`` to ``<0xFF>`` the type of byte tokens."""
        for id, text in self.texts.items():
            if BYTE_TEXT.fullmatch(text):
                self.types[id] = BYTE

    def mark_unknown(self, text: str | None) -> None:
        """Give a token the type of the unknown token, if the vocabulary has it."""
        if text is not None and (id := self.ids.get(text)) is not None:
            self.types[id] = UNKNOWN

    def add(self, tokens: Iterable[AddedToken], *, visible: Collection[str] = ()) -> None:
        """Add tokens, or replace those with the same ids.

        Parameters
        ----------
        tokens : iterable of AddedToken
            The tokens.
        visible : collection of str
            Texts of special tokens that clients have to see.
        """
        for token in tokens:
            is_control = (token.special or bool(_LOOKS_SPECIAL.fullmatch(token.text))) and token.text not in visible
            if self.types.get(token.id) != UNKNOWN:
                self.types[token.id] = CONTROL if is_control else USER_DEFINED
            # Special tokens are found before spaces become ▁.
            self.texts[token.id] = token.text if is_control else token.text.replace(SPACE, " ")
            self.scores[token.id] = ADDED_SCORE

    def metadata(self, n_vocab: int | None, *, scores: bool = False) -> dict[str, Any]:
        """Return GGUF's metadata of the tokens.

        Parameters
        ----------
        n_vocab : int, optional
            Number of tokens of the model. Tokens that the tokenizer does not have become unused tokens. By default, as
            many as the tokenizer has.
        scores : bool
            Whether to include scores.

        Raises
        ------
        ModelError
            The tokenizer has more tokens than the model.
        """
        n = max(self.texts, default=-1) + 1 if n_vocab is None else n_vocab
        if self._end > n:
            raise ModelError(f"the tokenizer has {self._end} tokens, but the model has only {n}")
        if left_out := [text for id, text in self.texts.items() if id >= n]:
            log.warning("the model has no embeddings for the tokens %s; they are left out", ", ".join(left_out[:5]))

        taken = set(self.texts.values())
        texts, types = [], []
        for id in range(n):
            text = self.texts.get(id)
            if text is None:
                text = f"[PAD{id}]"
                while text in taken:
                    text = f"[{text}]"
            texts.append(text)
            types.append(self.types.get(id, UNUSED))
        metadata: dict[str, Any] = {f"{PREFIX}tokens": texts, f"{PREFIX}token_type": types}
        if scores:
            metadata[f"{PREFIX}scores"] = [self.scores.get(id, UNUSED_SCORE) for id in range(n)]
        return metadata
