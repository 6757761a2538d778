"""``gpt2``: byte-level BPE (Sennrich et al., arXiv:1508.07909; bytes as characters after GPT-2).

The merging is done by Hugging Face's `tokenizers`. It knows nothing of special tokens, which `GgufTokenizer` finds.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Encoding, Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Library

from llamafw import ModelError, RequestError
from llamafw_plugins.tokenizers import metadata as read
from llamafw_plugins.tokenizers.base import GgufTokenizer, byte_of
from llamafw_plugins.tokenizers.pre_tokenizers import DEFAULT, PRE_TOKENIZERS, PreTokenizer
from llamafw_plugins.tokenizers.vocabulary import BYTE, NORMAL, Vocabulary, read_vocabulary

log = logging.getLogger(__name__)

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_SHORT = 4096  # characters; longer texts are worth the start of a parallel loop, which also lets other threads run


def _byte_characters() -> list[str]:
    """Return the character that stands for each byte: itself where it can be printed, else one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


BYTE_CHARACTERS = _byte_characters()
_TO_BYTES = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}


class Gpt2Tokenizer(GgufTokenizer):
    """Byte-level BPE.

    Bytes that no token stands for (rare control characters, in small vocabularies) have no tokens, as in llama.cpp.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        vocabulary = read_vocabulary(metadata)
        pre_tokenizer = _pre_tokenizer(metadata)
        super().__init__(metadata, vocabulary, add_bos=pre_tokenizer.add_bos)
        # A control token that text could be merged into would let a user speak for the model.
        ids = {text: token for text, token in vocabulary.ids.items() if token not in vocabulary.control}
        if _LONE_SURROGATE.search("".join(ids)):  # stands for a byte that is no UTF-8; the library takes Unicode only
            ids = {text: token for text, token in ids.items() if not _LONE_SURROGATE.search(text)}
        merges = _merges(metadata, vocabulary, ids)
        # The library drops characters it does not know *before* merging, and so joins what was apart.
        self._incomplete = not ids.keys() >= set(BYTE_CHARACTERS)
        unknown = {"": self.n_vocab} if self._incomplete else {}
        self._library = Library(
            models.BPE(
                vocab=ids | unknown,
                merges=merges,
                unk_token="" if unknown else None,
                ignore_merges=pre_tokenizer.ignore_merges,
            )
        )
        cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre_tokenizer.patterns]
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._library.pre_tokenizer = pre_tokenizers.Sequence([*cuts, to_bytes])

    def _encode_parts(self, parts: Sequence[str | int]) -> list[int]:
        encoded = iter(self._encode_texts([part for part in parts if isinstance(part, str)]))
        tokens: list[int] = []
        for part in parts:
            if isinstance(part, str):
                tokens += next(encoded).ids
            else:
                tokens.append(part)
        return [token for token in tokens if token != self.n_vocab] if self._incomplete else tokens

    def _encode_texts(self, texts: list[str]) -> list[Encoding]:
        try:
            if sum(map(len, texts)) <= _SHORT:
                return [self._library.encode(text, add_special_tokens=False) for text in texts]
            return self._library.encode_batch_fast(texts, add_special_tokens=False)
        except BaseException as error:
            # A panic of the library is no Exception: uncaught, it would end the server. It has a known cause: one
            # stretch of text for which Oniguruma runs out of steps, ten million.
            if type(error).__name__ != "PanicException":
                raise
            raise RequestError("the text has a stretch too long to be cut into words") from error

    def _piece(self, text: str, kind: int) -> bytes:
        if kind == NORMAL:
            try:
                return bytes([_TO_BYTES[character] for character in text])
            except KeyError:  # not byte-level: the characters stand for themselves
                return text.encode("utf-8", "surrogateescape")
        return byte_of(text) if kind == BYTE else b""


def _pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer:
    name = read.text(metadata, "pre")
    if name is None:
        log.warning("the model has no %spre: the default pre-tokenizer may cut text in the wrong places", read.PREFIX)
        return DEFAULT
    if name not in PRE_TOKENIZERS:
        log.warning("unknown %spre %r: the default pre-tokenizer may cut text in the wrong places", read.PREFIX, name)
        return DEFAULT
    return PRE_TOKENIZERS[name]


def _merges(metadata: Mapping[str, Any], vocabulary: Vocabulary, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the merges, the most urgent first; ModelError if one is of or into something that is no token."""
    merges: dict[tuple[str, str], None] = {}  # the library lets a repeated merge replace the first: it must not
    for line in read.strings(metadata, "merges"):
        left, _, right = line.partition(" ")
        if left in ids and right in ids and left + right in ids:
            merges[left, right] = None
        elif not {left, right, left + right} <= vocabulary.ids.keys():
            raise ModelError(f"{read.PREFIX}merges has {line!r}, which merges no two tokens into a third")
    return list(merges)
