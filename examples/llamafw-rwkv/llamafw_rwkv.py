"""The tokenizer of RWKV World models, ``rwkv`` in GGUF files: at every place the longest token that fits.

Vocabulary and rule: https://github.com/BlinkDL/ChatRWKV/tree/main/tokenizer. GGUF files write a token's bytes as Python
does, without quotes: ``\\xe4\\xb8``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llamafw import Ints, ModelError, Register, RequestError, Tokenizer, hookimpl

requires_api = ">=1.0,<2"
PREFIX = "tokenizer.ggml."
CONTROL, UNUSED = 3, 5  # token types of GGUF


class RwkvTokenizer:
    """A `llamafw.Tokenizer`."""

    add_bos = add_eos = False
    fim: Mapping[str, int] = {}  # no such tokens; nobody writes to it

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        texts, types = vocabulary(metadata)
        self.n_vocab = len(texts)
        self.pieces = [
            b"" if kind in (CONTROL, UNUSED) else unescaped(text) for text, kind in zip(texts, types, strict=True)
        ]
        self.ids = {piece: token for token, piece in reversed(list(enumerate(self.pieces))) if piece}
        missing = [byte for byte in range(256) if bytes([byte]) not in self.ids]
        if missing:
            raise ModelError(
                f"{PREFIX}tokens has no token for the byte {missing[0]:#04x}: this is no RWKV World vocabulary"
            )
        self.sizes: dict[
            bytes, list[int]
        ] = {}  # the first two bytes → lengths of tokens that begin so, the longest first
        for piece in sorted(self.ids, key=len, reverse=True):
            sizes = self.sizes.setdefault(piece[:2], [])
            if len(piece) not in sizes:
                sizes.append(len(piece))
        self.names = {text: token for token, text in enumerate(texts) if types[token] == CONTROL and text}
        self.special = re.compile("|".join(map(re.escape, self.names)) or r"(?!)")
        self.bos, self.eos, turn = (number(metadata, name, self.n_vocab) for name in ("bos", "eos", "eot"))
        self.eog = frozenset(token for token in (self.eos, turn) if token is not None)

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the tokens of ``text``. RWKV adds none of its own."""
        if not parse_special:
            return self.longest(text)
        tokens, at = list[int](), 0
        for found in self.special.finditer(text):
            tokens += [*self.longest(text[at : found.start()]), self.names[found[0]]]
            at = found.end()
        return tokens + self.longest(text[at:])

    def longest(self, text: str) -> list[int]:
        """Return, from left to right, the longest token at each place."""
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise RequestError("the text has a lone surrogate, which stands for no character") from None
        ids, tokens, at = self.ids, list[int](), 0
        while at < len(data):
            for size in self.sizes.get(data[at : at + 2], ()):
                token = ids.get(data[at : at + size])
                if token is not None and at + size <= len(data):
                    break
            else:
                size, token = 1, ids[data[at : at + 1]]
            tokens.append(token)
            at += size
        return tokens

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of one token; ``b""`` for control tokens unless ``special``."""
        if not 0 <= token < self.n_vocab:
            raise RequestError(f"there is no token {token}: the model has {self.n_vocab}", param="tokens")
        if special and not self.pieces[token]:
            return next((name.encode() for name, known in self.names.items() if known == token), b"")
        return self.pieces[token]

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ``tokens``; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.piece(token, special=special) for token in tokens).decode("utf-8", "replace")


def vocabulary(metadata: Mapping[str, Any]) -> tuple[Sequence[str], Ints]:
    """Return the texts of all tokens and their types; ModelError if the file has no such lists."""
    texts = metadata.get(f"{PREFIX}tokens")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ModelError(f"{PREFIX}tokens is no list of texts")
    types = np.array(metadata.get(f"{PREFIX}token_type", [1] * len(texts)), object)
    if types.shape != (len(texts),) or not all(isinstance(kind, int) for kind in types.tolist()):
        raise ModelError(f"{PREFIX}token_type is no list of {len(texts)} numbers")
    return texts, types.astype(np.int32)


def number(metadata: Mapping[str, Any], name: str, n_vocab: int) -> int | None:
    """Return a special token, if the file names one."""
    token = metadata.get(f"{PREFIX}{name}_token_id")
    if token is not None and not (isinstance(token, int) and 0 <= token < n_vocab):
        raise ModelError(f"{PREFIX}{name}_token_id is {token!r:.80}, and there are {n_vocab} tokens")
    return token


def unescaped(text: str) -> bytes:
    """Return the bytes that a token of a GGUF file stands for."""
    try:
        return text.encode("ascii").decode("unicode_escape").encode("latin-1")
    except (UnicodeDecodeError, UnicodeEncodeError):
        raise ModelError(f"{PREFIX}tokens has {text!r}, which are no bytes as Python writes them") from None


def make(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer of one model; ModelError if the metadata describes none."""
    return RwkvTokenizer(metadata)


@hookimpl
def register_tokenizers(register: Register) -> None:
    """Read models whose ``tokenizer.ggml.model`` is ``rwkv``."""
    register("rwkv", make)
