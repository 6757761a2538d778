"""Tokenize text for RWKV World models (``rwkv`` in GGUF files): take the longest matching token at each position.

The vocabulary and the rule are at https://github.com/BlinkDL/ChatRWKV/tree/main/tokenizer. GGUF files write the bytes
of a token as a Python literal without quotes: ``\\xe4\\xb8``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llamafw import Ints, ModelError, RequestError, Tokenizer

PREFIX = "tokenizer.ggml."
CONTROL, UNUSED = 3, 5  # token types of GGUF


class RwkvTokenizer:
    """A `llamafw.Tokenizer` that takes the longest matching token."""

    add_bos = add_eos = False
    fim: Mapping[str, int] = {}  # there are none; never modified

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        texts, types = read_vocabulary(metadata)
        self.n_vocab = len(texts)
        self.pieces = [
            b"" if kind in (CONTROL, UNUSED) else unescape(text) for text, kind in zip(texts, types, strict=True)
        ]
        self.ids = {piece: token for token, piece in reversed(list(enumerate(self.pieces))) if piece}

        missing = [byte for byte in range(256) if bytes([byte]) not in self.ids]
        if missing:
            raise ModelError(
                f"{PREFIX}tokens has no token for the byte {missing[0]:#04x}: it is not an RWKV World vocabulary"
            )

        # First two bytes of tokens → lengths of all tokens that start with them, the longest first.
        self.sizes: dict[bytes, list[int]] = {}
        for piece in sorted(self.ids, key=len, reverse=True):
            sizes = self.sizes.setdefault(piece[:2], [])
            if len(piece) not in sizes:
                sizes.append(len(piece))

        self.names = {text: token for token, text in enumerate(texts) if types[token] == CONTROL and text}
        self.special = re.compile("|".join(map(re.escape, self.names)) or r"(?!)")
        self.bos, self.eos, eot = (special_token(metadata, name, self.n_vocab) for name in ("bos", "eos", "eot"))
        self.eog = frozenset(token for token in (self.eos, eot) if token is not None)

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the tokens of ``text``; ``add_special`` has no effect, RWKV adds no tokens."""
        if not parse_special:
            return self.encode_plain(text)

        tokens, start = list[int](), 0
        for match in self.special.finditer(text):
            tokens += [*self.encode_plain(text[start : match.start()]), self.names[match[0]]]
            start = match.end()
        return tokens + self.encode_plain(text[start:])

    def encode_plain(self, text: str) -> list[int]:
        """Return the tokens of text without special tokens."""
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise RequestError("the text has a lone surrogate, which is not a character") from None

        ids, tokens, start = self.ids, list[int](), 0
        while start < len(data):
            for size in self.sizes.get(data[start : start + 2], ()):
                token = ids.get(data[start : start + size])
                if token is not None and start + size <= len(data):
                    break
            else:
                size, token = 1, ids[data[start : start + 1]]
            tokens.append(token)
            start += size
        return tokens

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of one token; ``b""`` for control tokens unless ``special``."""
        if not 0 <= token < self.n_vocab:
            raise RequestError(f"token {token} does not exist: the model has {self.n_vocab} tokens", param="tokens")
        if special and not self.pieces[token]:
            return next((name.encode() for name, known in self.names.items() if known == token), b"")
        return self.pieces[token]

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ``tokens``; bytes that are not valid UTF-8 become U+FFFD."""
        return b"".join(self.piece(token, special=special) for token in tokens).decode("utf-8", "replace")


def read_vocabulary(metadata: Mapping[str, Any]) -> tuple[Sequence[str], Ints]:
    """Return the texts and the types of all tokens; ModelError if they are missing or invalid."""
    texts = metadata.get(f"{PREFIX}tokens")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ModelError(f"{PREFIX}tokens is not a list of texts")
    types = np.array(metadata.get(f"{PREFIX}token_type", [1] * len(texts)), object)
    if types.shape != (len(texts),) or not all(isinstance(kind, int) for kind in types.tolist()):
        raise ModelError(f"{PREFIX}token_type is not a list of {len(texts)} numbers")
    return texts, types.astype(np.int32)


def special_token(metadata: Mapping[str, Any], name: str, n_vocab: int) -> int | None:
    """Return a special token, or None if the file does not name one."""
    token = metadata.get(f"{PREFIX}{name}_token_id")
    if token is not None and not (isinstance(token, int) and 0 <= token < n_vocab):
        raise ModelError(f"{PREFIX}{name}_token_id is {token!r:.80}; the model has {n_vocab} tokens")
    return token


def unescape(text: str) -> bytes:
    """Return the bytes of a token that a GGUF file writes as a Python literal."""
    try:
        return text.encode("ascii").decode("unicode_escape").encode("latin-1")
    except (UnicodeDecodeError, UnicodeEncodeError):
        raise ModelError(f"{PREFIX}tokens has {text!r}, which is not a valid Python bytes literal") from None


def make_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer of a model; ModelError if its metadata is invalid."""
    return RwkvTokenizer(metadata)
