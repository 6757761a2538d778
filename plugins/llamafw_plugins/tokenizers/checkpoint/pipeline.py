"""Runs parts of a ``tokenizer.json`` without its vocabulary, to find out what they do.

Parts can be written in many ways that do the same; what they do to a few texts is what counts. Independent of GGUF.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tokenizers import Tokenizer as Library

from llamafw import ModelError

_WORD = "x"


class Pipeline:
    """The normaliser, pre-tokenizer and post-processor of a ``tokenizer.json``.

    Raises
    ------
    ModelError
        `tokenizers` does not accept one of them.
    """

    def __init__(self, tokenizer: Mapping[str, Any]) -> None:
        self.library = _library({name: tokenizer.get(name) for name in ("normalizer", "pre_tokenizer")})
        self.normalizer, self.pre_tokenizer = self.library.normalizer, self.library.pre_tokenizer
        self._processor = _library({"post_processor": tokenizer.get("post_processor")})

    def normalize(self, text: str) -> str:
        """Return the normalised text."""
        if not self.normalizer:
            return text
        with _panics_refused("the normalizer"):
            return str(self.normalizer.normalize_str(text))

    def words(self, text: str) -> list[str]:
        """Return the words of a text, as the pre-tokenizer writes them."""
        return [word for word, _ in self._split(self.normalize(text))]

    def parts(self, text: str) -> list[str]:
        """Return the words as parts of a text, without normalising it.

        A word that the pre-tokenizer cut within a character belongs to the part with this character.
        """
        starts = [0, *sorted({end for _, (_, end) in self._split(text)})]
        return [text[start:end] for start, end in zip(starts, starts[1:], strict=False) if end > start]

    def around_one(self) -> tuple[list[str], list[str]]:
        """Return the texts of the tokens that are added before and after a text."""
        tokens = self._processor.encode(_WORD).tokens
        middle = tokens.index(_WORD)
        return tokens[:middle], tokens[middle + 1 :]

    def between_two(self) -> list[str]:
        """Return the texts of the tokens that are added between two texts that belong together."""
        tokens = self._processor.encode(_WORD, _WORD).tokens
        first = tokens.index(_WORD)
        return tokens[first + 1 : tokens.index(_WORD, first + 1)]

    def _split(self, text: str) -> list[tuple[str, tuple[int, int]]]:
        if not self.pre_tokenizer:
            return [(text, (0, len(text)))]
        with _panics_refused("the pre-tokenizer"):
            return list(self.pre_tokenizer.pre_tokenize_str(text))


@contextmanager
def _panics_refused(what: str) -> Iterator[None]:
    """Raise ModelError for failures of the library, whose panics are not of type Exception."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"tokenizer.json: {what} does not work: {error}") from None


def _library(parts: Mapping[str, Any]) -> Library:
    """Return a tokenizer with these parts and one word."""
    model = {"type": "WordLevel", "vocab": {_WORD: 0}, "unk_token": _WORD}
    with _panics_refused(" or ".join(parts)):
        return Library.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model, **parts}))
