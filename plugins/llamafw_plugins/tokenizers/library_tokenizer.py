"""The common part of tokenizers whose work is done by Hugging Face's `tokenizers`.

Special tokens are found by `GgufTokenizer`; the library gets the plain text between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Encoding
from tokenizers import Tokenizer as Library

from llamafw import RequestError
from llamafw_plugins.tokenizers.gguf_tokenizer import GgufTokenizer
from llamafw_plugins.tokenizers.tokenizer_json import tokenizer_json

_MIN_BATCH_LENGTH = 4096  # characters; longer texts gain from the library's parallel loop, which releases the GIL


class LibraryTokenizer(GgufTokenizer):
    """A tokenizer that leaves plain text to `tokenizers`."""

    _library: Library
    _reads_offsets = False  # whether `_read_encoding` reads the offsets of tokens, which take the library more time

    def _encode_parts(self, parts: Sequence[str | int]) -> list[int]:
        encoded = iter(self._encode_texts([part for part in parts if isinstance(part, str)]))
        tokens: list[int] = []
        for part in parts:
            if isinstance(part, str):
                tokens += self._read_encoding(next(encoded), part)
            else:
                tokens.append(part)
        return tokens

    def _read_encoding(self, encoding: Encoding, text: str) -> list[int]:
        """Return the tokens of a text from what the library returned for it."""
        return self._read_ids(encoding.ids)

    def _read_ids(self, ids: list[int]) -> list[int]:
        """Return the tokens for ids of the library."""
        return ids

    def _encode_texts(self, texts: list[str]) -> list[Encoding]:
        try:
            if sum(map(len, texts)) <= _MIN_BATCH_LENGTH:
                return [self._library.encode(text, add_special_tokens=False) for text in texts]
            encode = self._library.encode_batch if self._reads_offsets else self._library.encode_batch_fast
            return encode(texts, add_special_tokens=False)
        except BaseException as error:
            # A panic of the library is not an Exception, so it would end the server. Its known cause is a word so long
            # that Oniguruma exceeds its limit of ten million steps.
            if type(error).__name__ != "PanicException":
                raise
            raise RequestError("the text has a part that is too long to be split into words") from error


class BpeTokenizer(LibraryTokenizer):
    """A tokenizer by byte-pair encoding, which `tokenizers` can also load from a file."""

    _decoder: Any  # of the library: turns the texts of tokens into text
    _incomplete = False  # whether the library returns `n_vocab` for unknown characters, which are then dropped

    def to_json(self) -> str:
        """Return the tokenizer as a ``tokenizer.json``, which `tokenizers` loads.

        Bytes that the vocabulary lacks are dropped there too, but before merging.
        """
        return tokenizer_json(
            self._library,
            self.vocabulary,
            self._decoder,
            strip_left=self._all_special.strip_left,
            strip_right=self._all_special.strip_right,
            first=self.bos if self.add_bos else None,
            last=self.eos if self.add_eos else None,
        )

    def _read_ids(self, ids: list[int]) -> list[int]:
        return [token for token in ids if token != self.n_vocab] if self._incomplete else ids
