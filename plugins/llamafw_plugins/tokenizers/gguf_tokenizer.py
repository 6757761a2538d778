"""The common part of all tokenizers of GGUF files: special tokens, pieces and decoding.

Independent of merging.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import ModelError, RequestError
from llamafw_plugins.tokenizers.metadata_values import PREFIX, read_flag, read_string
from llamafw_plugins.tokenizers.special_tokens import SpecialTokens
from llamafw_plugins.tokenizers.vocabulary import Vocabulary

_PHI3_NOT_STRIPPED = ("<unk>", "<s>", "<|endoftext|>")


class GgufTokenizer(ABC):
    """The base of all tokenizers.

    Subclasses add the algorithm that turns plain text into tokens.
    """

    def __init__(self, metadata: Mapping[str, Any], vocabulary: Vocabulary, *, add_bos: bool) -> None:
        self.vocabulary = vocabulary
        self.n_vocab = len(vocabulary.texts)
        self.bos, self.eos, self.eog = vocabulary.bos, vocabulary.eos, vocabulary.eog
        self.fim = vocabulary.fim
        self.add_bos = read_flag(metadata, "add_bos_token", add_bos)
        self.add_eos = read_flag(metadata, "add_eos_token", False)
        for is_added, token, name in ((self.add_bos, self.bos, "bos"), (self.add_eos, self.eos, "eos")):
            if is_added and token is None:
                raise ModelError(f"{PREFIX}add_{name}_token is true, but there is no {PREFIX}{name}_token_id")

        self._all_special, self._user_defined = _special_tokens(metadata, vocabulary)
        verbatim = vocabulary.control | vocabulary.user_defined
        self._special_pieces = [
            text.encode("utf-8", "surrogateescape") if token in verbatim else self._make_piece(text, token_type)
            for token, (text, token_type) in enumerate(zip(vocabulary.texts, vocabulary.types, strict=True))
        ]
        self._pieces = list(self._special_pieces)
        for token in vocabulary.control - vocabulary.rendered:
            self._pieces[token] = b""

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the tokens of ``text``.

        The parameters are explained in `llamafw.Tokenizer`.

        Raises
        ------
        RequestError
            ``text`` has a lone surrogate, which is not a character.
        """
        _refuse_lone_surrogates(text)
        parts = (self._all_special if parse_special else self._user_defined).split(text)
        tokens = self._encode_parts(parts)
        if add_special and self.add_bos and self.bos is not None:
            tokens.insert(0, self.bos)
        if add_special and self.add_eos and self.eos is not None:
            tokens.append(self.eos)
        return tokens

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of ``token``; for control tokens ``b""`` unless ``special``."""
        if not 0 <= token < self.n_vocab:
            raise RequestError(f"token {token} is not in the vocabulary of {self.n_vocab}", param="tokens")
        return (self._special_pieces if special else self._pieces)[token]

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ``tokens``, with control tokens only if ``special``; invalid UTF-8 becomes U+FFFD."""
        return b"".join(self.piece(token, special=special) for token in tokens).decode("utf-8", "replace")

    @abstractmethod
    def _encode_parts(self, parts: list[str | int]) -> list[int]:
        """Return the tokens of a text that has been split into plain text and special tokens."""

    @abstractmethod
    def _make_piece(self, text: str, token_type: int) -> bytes:
        """Return the bytes of a token with this text and type, which is not a control or user-defined token."""


def parse_byte_token(text: str) -> bytes:
    """Return the byte of a byte token from its text, ``<0x00>`` to ``<0xFF>``."""
    try:
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            return bytes.fromhex(text[3:5])
    except ValueError:
        pass  # the error below
    raise ModelError(f"{PREFIX}token_type marks {text!r} as a byte token, but it is not one of <0x00> to <0xFF>")


def _special_tokens(metadata: Mapping[str, Any], vocabulary: Vocabulary) -> tuple[SpecialTokens, SpecialTokens]:
    """Return the special tokens to find with ``parse_special``, and those to find without it.

    GGUF does not say which tokens strip the white space around them. As in llama.cpp, two families are recognised by
    their names: Phi-3, and Jina's embedding models.
    """
    texts, ids = vocabulary.texts, vocabulary.ids
    special = {token: texts[token] for token in vocabulary.control | vocabulary.user_defined if texts[token]}
    user_defined = {token: text for token, text in special.items() if token in vocabulary.user_defined}

    strip_left: set[int] = set()
    strip_right: set[int] = set()
    name = str(metadata.get("general.name", "")).lower()
    if "<mask>" in ids and (read_string(metadata, "pre") or "").startswith("jina-v2-"):
        strip_left.add(ids["<mask>"])
    elif "phi-3" in name or "phi3" in name:
        strip_right = special.keys() - {ids.get(text) for text in _PHI3_NOT_STRIPPED}
    return SpecialTokens(special, strip_left, strip_right), SpecialTokens(user_defined, strip_left, strip_right)


def _refuse_lone_surrogates(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"the text has a lone surrogate, U+{ord(text[error.start]):04X}, at character {error.start}"
            ) from None
