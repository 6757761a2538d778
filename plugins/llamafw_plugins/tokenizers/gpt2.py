"""``gpt2``: byte-level BPE (Sennrich et al., arXiv:1508.07909), with bytes written as characters, as in GPT-2.

Hugging Face's `tokenizers` does the merging. Special tokens are found by `GgufTokenizer`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Library

from llamafw import ModelError
from llamafw_plugins.tokenizers.gguf_tokenizer import parse_byte_token
from llamafw_plugins.tokenizers.library_tokenizer import BpeTokenizer
from llamafw_plugins.tokenizers.metadata_values import PREFIX, read_string, read_strings
from llamafw_plugins.tokenizers.pre_tokenizers import DEFAULT, PRE_TOKENIZERS, PreTokenizer
from llamafw_plugins.tokenizers.vocabulary import BYTE, NORMAL, Vocabulary, read_vocabulary

log = logging.getLogger(__name__)

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _byte_characters() -> list[str]:
    """Return the character that stands for each byte: itself if it is printable, else one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


BYTE_CHARACTERS = _byte_characters()
_TO_BYTES = {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}


class Gpt2Tokenizer(BpeTokenizer):
    """A byte-level BPE tokenizer.

    Small vocabularies lack tokens for rare control characters; such bytes are dropped, as in llama.cpp.
    """

    _decoder = decoders.ByteLevel()

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        vocabulary = read_vocabulary(metadata)
        pre_tokenizer = _pre_tokenizer(metadata)
        super().__init__(metadata, vocabulary, add_bos=pre_tokenizer.add_bos)

        # If plain text could merge into a control token, users could end the model's turn or begin one.
        ids = {text: token for text, token in vocabulary.ids.items() if token not in vocabulary.control}
        if _LONE_SURROGATE.search("".join(ids)):  # for bytes that are not UTF-8; the library only takes Unicode
            ids = {text: token for text, token in ids.items() if not _LONE_SURROGATE.search(text)}
        merges = read_merges(metadata, vocabulary, ids)

        # The library drops unknown characters before merging, which could then merge the characters around them. An
        # unknown token, removed afterwards, keeps these apart.
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
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre_tokenizer.patterns]
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._library.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])

    def _make_piece(self, text: str, token_type: int) -> bytes:
        if token_type == NORMAL:
            try:
                return bytes([_TO_BYTES[character] for character in text])
            except KeyError:  # the token is not byte-level: its characters stand for themselves
                return text.encode("utf-8", "surrogateescape")
        return parse_byte_token(text) if token_type == BYTE else b""


def _pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer:
    name = read_string(metadata, "pre")
    if name is None:
        log.warning("the model has no %spre: the default pre-tokenizer may split text incorrectly", PREFIX)
        return DEFAULT
    if name not in PRE_TOKENIZERS:
        log.warning("unknown %spre %r: the default pre-tokenizer may split text incorrectly", PREFIX, name)
        return DEFAULT
    return PRE_TOKENIZERS[name]


def read_merges(metadata: Mapping[str, Any], vocabulary: Vocabulary, ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the merges in order of priority; ModelError if one of them does not merge two tokens into a third."""
    merges: dict[tuple[str, str], None] = {}  # a dict, because repeated merges must keep their first rank
    for line in read_strings(metadata, "merges"):
        left, _, right = line.partition(" ")
        if left in ids and right in ids and left + right in ids:
            merges[left, right] = None
        elif not {left, right, left + right} <= vocabulary.ids.keys():
            raise ModelError(f"{PREFIX}merges has {line!r}, which does not merge two tokens into a third")
    return list(merges)
