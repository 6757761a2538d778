"""``plamo2``: a unigram language model (Kudo, arXiv:1804.10959) with byte fallback, as in PLaMo 2.

The tokens of a text are those whose scores have the highest sum. The UTF-8 bytes of a character have a score of -1000
together. Scores are rounded to ten-thousandths, so sums are exact. Of several ways to split a text with the same sum,
the one with the longest first token counts, then the one with the longest second token, and so on. The original
(https://huggingface.co/pfnet/plamo-2-1b) searches from the end of a text to its beginning. Nothing is normalised.

Hugging Face's `tokenizers` searches from the beginning to the end. Of several ways with the same sum it returns the one
with the longest *last* token, so it gets reversed texts and reversed tokens. Special tokens are found by
`GgufTokenizer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, models
from tokenizers import Tokenizer as Library

from llamafw import ModelError
from llamafw_plugins.tokenizers.gguf_tokenizer import parse_byte_token
from llamafw_plugins.tokenizers.library_tokenizer import LibraryTokenizer
from llamafw_plugins.tokenizers.metadata_values import PREFIX, read_numbers
from llamafw_plugins.tokenizers.tokenizer_json import is_unicode
from llamafw_plugins.tokenizers.vocabulary import BYTE, UNUSED, Vocabulary, read_vocabulary

SCALE = 10_000  # scores become whole numbers of this unit
UNKNOWN = -1000 * SCALE  # the cost of a character without a token
_UNUSABLE = 2 * UNKNOWN  # tokens with such a score, or a lower one, are never used
_PENALTY = 10  # the library's cost of an unknown character: so much less than the lowest score


class Plamo2Tokenizer(LibraryTokenizer):
    """A unigram tokenizer with byte fallback."""

    _reads_offsets = True

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        vocabulary = read_vocabulary(metadata, bos=1, eos=2, unknown=0)
        super().__init__(metadata, vocabulary, add_bos=False)
        self._byte_tokens = _byte_tokens(vocabulary)
        self._tokens, pieces = _pieces(metadata, vocabulary)
        self._library = Library(models.Unigram(pieces, unk_id=0, byte_fallback=False))

    def _encode_texts(self, texts: list[str]) -> list[Encoding]:
        return super()._encode_texts([text[::-1] for text in texts])

    def _read_encoding(self, encoding: Encoding, text: str) -> list[int]:
        tokens: list[int] = []
        n = len(text)
        for id, (start, end) in zip(reversed(encoding.ids), reversed(encoding.offsets), strict=True):
            if id:
                tokens.append(self._tokens[id])
            else:
                tokens += [self._byte_tokens[byte] for byte in text[n - end : n - start].encode()]
        return tokens

    def _make_piece(self, text: str, token_type: int) -> bytes:
        return parse_byte_token(text) if token_type == BYTE else text.encode("utf-8", "surrogateescape")


def _byte_tokens(vocabulary: Vocabulary) -> list[int]:
    """Return the token of each byte, ``<0x00>`` to ``<0xFF>``."""
    found = {
        parse_byte_token(text)[0]: token
        for token, (text, kind) in enumerate(zip(vocabulary.texts, vocabulary.types, strict=True))
        if kind == BYTE
    }
    missing = [byte for byte in range(256) if byte not in found]
    if missing:
        raise ModelError(f"{PREFIX}tokens lacks <0x{missing[0]:02X}>")
    return [found[byte] for byte in range(256)]


def _pieces(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> tuple[list[int], list[tuple[str, float]]]:
    """Return what plain text can become besides bytes: the tokens, and the reversed text and the score of each.

    The first one stands for unknown characters. To the score of each token, a number is added for each of its
    characters. That changes no comparison, because all ways to split a text have the same characters. Unknown
    characters then have a score of 0, and all others a positive one.
    """
    numbers = read_numbers(metadata, "scores", len(vocabulary.texts))
    if numbers is None:
        raise ModelError(f"the model has no {PREFIX}scores")
    scores = round_scores(numbers).tolist()
    left_out = vocabulary.control | vocabulary.user_defined
    tokens = [
        token
        for text, token in vocabulary.ids.items()
        if token not in left_out
        and vocabulary.types[token] not in (BYTE, UNUSED)
        and is_unicode(text)
        and scores[token] > (UNKNOWN if len(text) == 1 else _UNUSABLE)
    ]
    unit = _PENALTY + 1.0  # so that no token has a lower score than the first one, from which the library subtracts
    texts = vocabulary.texts
    pieces = [(texts[token][::-1], unit * (scores[token] - UNKNOWN * len(texts[token]))) for token in tokens]
    return [-1, *tokens], [("", float(_PENALTY)), *pieces]


def round_scores(scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return scores in whole ten-thousandths, ``(n,)``; those that are not finite become too low to be used."""
    scaled = np.rint(scores.astype(np.float64) * SCALE)
    return np.where(np.isfinite(scaled), scaled, float(_UNUSABLE))
