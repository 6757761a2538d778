"""What all tokenizers of GGUF files have in common: special tokens, pieces, decoding. It knows nothing of merging."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import ModelError, RequestError
from llamafw_plugins.tokenizers import metadata as read
from llamafw_plugins.tokenizers.special import SpecialTokens
from llamafw_plugins.tokenizers.vocabulary import Vocabulary

_NOT_STRIPPED = ("<unk>", "<s>", "<|endoftext|>")


class GgufTokenizer(ABC):
    """A tokenizer of a GGUF file: the protocol `llamafw.Tokenizer`, save how plain text becomes tokens."""

    def __init__(self, metadata: Mapping[str, Any], vocabulary: Vocabulary, *, add_bos: bool) -> None:
        self.n_vocab = len(vocabulary.texts)
        self.bos, self.eos, self.eog = vocabulary.bos, vocabulary.eos, vocabulary.eog
        self.fim = vocabulary.fim
        self.add_bos = read.flag(metadata, "add_bos_token", add_bos)
        self.add_eos = read.flag(metadata, "add_eos_token", False)
        for wanted, token, name in ((self.add_bos, self.bos, "bos"), (self.add_eos, self.eos, "eos")):
            if wanted and token is None:
                raise ModelError(f"{read.PREFIX}add_{name}_token is true, but there is no {read.PREFIX}{name}_token_id")
        self._all_special, self._user_defined = _special_tokens(metadata, vocabulary)
        raw = vocabulary.control | vocabulary.user_defined
        self._special_pieces = [
            vocabulary.texts[token].encode("utf-8", "surrogateescape") if token in raw else self._piece(text, kind)
            for token, (text, kind) in enumerate(zip(vocabulary.texts, vocabulary.types, strict=True))
        ]
        self._pieces = list(self._special_pieces)
        for token in vocabulary.control - vocabulary.rendered:
            self._pieces[token] = b""

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the tokens of ``text``; see `llamafw.Tokenizer`.

        Raises
        ------
        RequestError
            ``text`` has a lone surrogate, which stands for no character.
        """
        _check(text)
        parts = (self._all_special if parse_special else self._user_defined).split(text)
        tokens = self._encode_parts(parts)
        if add_special and self.add_bos and self.bos is not None:
            tokens.insert(0, self.bos)
        if add_special and self.add_eos and self.eos is not None:
            tokens.append(self.eos)
        return tokens

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of one token; ``b""`` for control tokens unless ``special``."""
        if not 0 <= token < self.n_vocab:
            raise RequestError(f"there is no token {token}: the model has {self.n_vocab}", param="tokens")
        return (self._special_pieces if special else self._pieces)[token]

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ``tokens``; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.piece(token, special=special) for token in tokens).decode("utf-8", "replace")

    @abstractmethod
    def _encode_parts(self, parts: list[str | int]) -> list[int]:
        """Return the tokens of stretches of plain text and, among them, special tokens."""

    @abstractmethod
    def _piece(self, text: str, kind: int) -> bytes:
        """Return the bytes that a token of this text and type stands for."""


def byte_of(text: str) -> bytes:
    """Return the byte that the token ``<0x0A>`` stands for."""
    try:
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            return bytes.fromhex(text[3:5])
    except ValueError:
        pass  # says the same as a wrong length
    raise ModelError(f"{read.PREFIX}token_type says that {text!r} is a byte token, and these read <0x00> to <0xFF>")


def _special_tokens(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> tuple[SpecialTokens, SpecialTokens]:
    """Return the special tokens to look for with ``parse_special`` and without.

    GGUF does not say which tokens swallow white space. llama.cpp knows two families by name: Phi-3, and Jina's
    embedding models.
    """
    texts, ids = vocabulary.texts, vocabulary.ids
    found = {token: texts[token] for token in vocabulary.control | vocabulary.user_defined if texts[token]}
    user_defined = {token: text for token, text in found.items() if token in vocabulary.user_defined}
    strip_left: set[int] = set()
    strip_right: set[int] = set()
    name = str(metadata.get("general.name", "")).lower()
    if "<mask>" in ids and (read.text(metadata, "pre") or "").startswith("jina-v2-"):
        strip_left.add(ids["<mask>"])
    elif "phi-3" in name or "phi3" in name:
        strip_right = found.keys() - {ids.get(text) for text in _NOT_STRIPPED}
    return SpecialTokens(found, strip_left, strip_right), SpecialTokens(user_defined, strip_left, strip_right)


def _check(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"the text has a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start}"
            ) from None
