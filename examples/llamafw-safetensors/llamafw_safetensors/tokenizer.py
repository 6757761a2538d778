"""Tokenize text with a ``tokenizer.json``, using the `tokenizers` library, and give the bytes of each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer as Library

from llamafw import ModelError, RequestError


class FileTokenizer:
    """A `llamafw.Tokenizer` for byte-level BPE, and for SentencePiece BPE with byte fallback."""

    add_eos = False
    fim: Mapping[str, int] = {}  # never modified

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.library = Library.from_str(metadata["tokenizer.json"])
        self.plain = Library.from_str(metadata["tokenizer.json"])
        self.plain.encode_special_tokens = True  # encode the names of special tokens as ordinary text
        self.n_vocab = self.library.get_vocab_size()
        self.bos, self.eos = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))

        added = self.library.get_added_tokens_decoder()
        self.names = {token: entry.content.encode() for token, entry in added.items()}
        self.special = {token for token, entry in added.items() if entry.special}
        ends = ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "</s>")  # many configs name only one
        self.eog = frozenset(token for token in (self.eos, *map(self.library.token_to_id, ends)) if token is not None)
        self.add_bos = self.bos is not None and self.library.encode("a").ids[:1] == [self.bos]

        decoder = str(self.library.decoder)
        if "ByteLevel" in decoder:
            self.to_bytes = byte_level()
        elif "ByteFallback" in decoder:
            self.to_bytes = {}
        else:
            raise ModelError("tokenizer.json: the decoder is neither ByteLevel nor ByteFallback")

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the tokens of ``text``."""
        library = self.library if parse_special else self.plain
        try:
            tokens: list[int] = library.encode(text, add_special_tokens=False).ids
        except UnicodeEncodeError:
            raise RequestError("the text has a lone surrogate, which is not a character") from None
        return [self.bos, *tokens] if add_special and self.add_bos and self.bos is not None else tokens

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of one token; ``b""`` for special tokens unless ``special``."""
        if token in self.names:
            return self.names[token] if special or token not in self.special else b""
        text = self.library.id_to_token(token)
        if text is None:
            raise RequestError(f"token {token} does not exist", param="tokens")
        if self.to_bytes:
            return bytes(self.to_bytes[character] for character in text)
        if len(text) == 6 and text.startswith("<0x"):
            return bytes.fromhex(text[3:5])
        return text.replace("▁", " ").encode()

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ``tokens``; bytes that are not valid UTF-8 become U+FFFD."""
        text = b"".join(self.piece(token, special=special) for token in tokens).decode("utf-8", "replace")
        return text if self.to_bytes else text.removeprefix(" ")  # SentencePiece adds it to every text


def byte_level() -> dict[str, int]:
    """Return the byte of each character of GPT-2's byte-level BPE."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return {chr(byte if byte in printable else next(others)): byte for byte in range(256)}
