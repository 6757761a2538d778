"""Looks up the bytes of a model's tokens, and the tokens of given bytes.

Independent of how a tokenizer splits text.
"""

from __future__ import annotations

from llamafw.interfaces import Tokenizer


class Pieces:
    """The bytes of all tokens of one model.

    Parameters
    ----------
    tokenizer : Tokenizer
        Asked once for each token, which takes about 0.1 s for a large vocabulary.
    n_logits : int
        Number of tokens that the model may draw. Those that the tokenizer does not have get no bytes.
    """

    def __init__(self, tokenizer: Tokenizer, n_logits: int) -> None:
        self.eog = tokenizer.eog
        self.all = [tokenizer.piece(token, special=True) for token in range(tokenizer.n_vocab)]  # by token
        self.all += [b""] * (n_logits - tokenizer.n_vocab)
        ordinary = (token for token in range(tokenizer.n_vocab) if token not in self.eog and tokenizer.piece(token))
        self._tokens = {self.all[token]: token for token in ordinary}
        self._longest = max(map(len, self._tokens), default=0)

    def spell(self, text: bytes) -> list[int] | None:
        """Return ordinary tokens whose bytes are ``text``, the longest first; None if that finds none."""
        tokens: list[int] = []
        start = 0
        while start < len(text):
            ends = range(min(len(text), start + self._longest), start, -1)
            end = next((end for end in ends if text[start:end] in self._tokens), None)
            if end is None:
                return None
            tokens.append(self._tokens[text[start:end]])
            start = end
        return tokens

    def containing(self, last_bytes: set[bytes]) -> list[int]:
        """Return the tokens that have one of the bytes ``last_bytes``."""
        return [token for token, piece in enumerate(self.all) if any(byte in piece for byte in last_bytes)]
