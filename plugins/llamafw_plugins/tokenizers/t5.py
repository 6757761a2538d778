"""``t5``: SentencePiece's unigram language model (Kudo, arXiv:1804.10959), as in T5, XLM-RoBERTa and their descendants.

The tokens of a text are those whose scores (logarithms of probabilities) have the highest sum, found by Viterbi's
algorithm. A character without a token costs ten more than the rarest token; neighbours of this kind become one unknown
token. Before that, the text is normalised: a table in the model file (``precompiled_charsmap``) replaces characters,
spaces are joined, and become ``▁``.

Hugging Face's `tokenizers` does this, as for the models' own ``tokenizer.json``. It looks characters up in the table by
grapheme; SentencePiece and llama.cpp look up the longest match, which is different for rare combinations of marks.
Special tokens are found by `GgufTokenizer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library

from llamafw import ModelError
from llamafw_plugins.tokenizers.bert import without_first_space
from llamafw_plugins.tokenizers.gguf_tokenizer import parse_byte_token
from llamafw_plugins.tokenizers.library_tokenizer import LibraryTokenizer
from llamafw_plugins.tokenizers.metadata_values import PREFIX, read_flag, read_numbers
from llamafw_plugins.tokenizers.tokenizer_json import is_unicode
from llamafw_plugins.tokenizers.vocabulary import BYTE, NORMAL, UNUSED, Vocabulary, read_vocabulary

_SPACE = "\u2581"  # ▁, the space in the texts of tokens
_NONCHARACTERS = [chr(plane << 16 | 0xFFFE | last) for plane in range(16, -1, -1) for last in (1, 0)]


class T5Tokenizer(LibraryTokenizer):
    """A unigram tokenizer."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        vocabulary = read_vocabulary(metadata, eos=1, unknown=2)
        super().__init__(
            {f"{PREFIX}add_eos_token": True, **metadata}, vocabulary, add_bos=False
        )  # EOS ends each text unless the metadata say otherwise
        self._space_prefix = read_flag(metadata, "add_space_prefix", False)
        merges_spaces = read_flag(metadata, "remove_extra_whitespaces", False)
        self._tokens, pieces = _pieces(metadata, vocabulary)
        self._library = Library(models.Unigram(pieces, unk_id=0, byte_fallback=False))
        self._library.normalizer = normalizers.Sequence(
            [*_charsmap(metadata), *_spaces(merges=merges_spaces, prefix=self._space_prefix)]
        )
        if not any(_SPACE in piece[1:] for piece, _ in pieces):
            # Tokens do not cross words. The library is faster with words, which it caches.
            self._library.pre_tokenizer = pre_tokenizers.Split(_SPACE, "merged_with_next")
        self._space_prefix |= merges_spaces

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ``tokens`` without the space that `encode` adds at its beginning."""
        pieces = (self.piece(token, special=special) for token in tokens)
        visible = without_first_space(pieces) if self._space_prefix else pieces
        return b"".join(visible).decode("utf-8", "replace")

    def _read_ids(self, ids: list[int]) -> list[int]:
        return [self._tokens[id] for id in ids]

    def _make_piece(self, text: str, token_type: int) -> bytes:
        if token_type == BYTE:
            return parse_byte_token(text)
        return text.replace(_SPACE, " ").encode("utf-8", "surrogateescape")


def _pieces(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> tuple[list[int], list[tuple[str, float]]]:
    """Return what plain text can become: the tokens, and the text and the score of each.

    The first one is the unknown token. Its text is a noncharacter, so that text cannot become this token by its name.
    """
    if vocabulary.unknown is None:
        raise ModelError(f"the model has no {PREFIX}unknown_token_id")
    scores = read_numbers(metadata, "scores", len(vocabulary.texts))
    if scores is None:
        raise ModelError(f"the model has no {PREFIX}scores")
    if not np.isfinite(scores).all():
        raise ModelError(f"{PREFIX}scores has {np.count_nonzero(~np.isfinite(scores))} entries that are not finite")

    left_out = vocabulary.control | {vocabulary.unknown}
    tokens = [
        token
        for text, token in vocabulary.ids.items()
        if token not in left_out and vocabulary.types[token] not in (BYTE, UNUSED) and is_unicode(text)
    ]
    scored = {token: float(scores[token]) for token in tokens if vocabulary.types[token] == NORMAL}
    unknown = next(character for character in _NONCHARACTERS if character not in vocabulary.ids)
    pieces = [(vocabulary.texts[token], scored.get(token, 0.0)) for token in tokens]
    lowest = min(
        scored.values(), default=0.0
    )  # the library derives the cost of unknown characters from the lowest score
    return [vocabulary.unknown, *tokens], [(unknown, lowest), *pieces]


def _charsmap(metadata: Mapping[str, Any]) -> list[Any]:
    """Return the normaliser of the model's table of characters, if it has one."""
    value = metadata.get(f"{PREFIX}precompiled_charsmap")
    if value is None:
        return []
    try:
        data = value if isinstance(value, bytes) else np.asarray(value).astype(np.uint8).tobytes()
        return [normalizers.Precompiled(data)] if data else []
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{PREFIX}precompiled_charsmap is not a table of characters") from None


def _spaces(*, merges: bool, prefix: bool) -> list[Any]:
    """Return what turns spaces into ``▁``.

    Parameters
    ----------
    merges : bool
        Remove spaces at both ends, join others, and begin each text with a space.
    prefix : bool
        Begin each text with a space.
    """
    if merges:
        return [
            normalizers.Replace(Regex("^ +| +$"), ""),
            normalizers.Replace(Regex(" +"), _SPACE),
            normalizers.Prepend(_SPACE),
        ]
    return [normalizers.Replace(" ", _SPACE), *([normalizers.Prepend(_SPACE)] if prefix else [])]
