"""Reads the files of a checkpoint's tokenizer: JSON files, and the tokens that they add to a vocabulary.

Independent of algorithms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llamafw import ModelError, checkpoints

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""The tokens that ``tokenizer_config.json`` names, as ``bos_token`` and so on."""


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is found in texts before the rest is split into words."""

    id: int
    text: str
    special: bool


class TokenizerFiles:
    """The files of a tokenizer, read when they are needed.

    Parameters
    ----------
    folder : Path
        The checkpoint.
    n_vocab : int, optional
        Number of tokens that the model has embeddings for. By default what ``config.json`` says, if it says so.
    """

    def __init__(self, folder: Path, n_vocab: int | None = None) -> None:
        self.folder = folder
        self._n_vocab = n_vocab

    def find(self, *names: str) -> Path | None:
        """Return the first of several files that exists."""
        return next((path for name in names if (path := self.folder / name).is_file()), None)

    @cached_property
    def tokenizer(self) -> Mapping[str, Any]:
        """``tokenizer.json``."""
        return checkpoints.read_json(self.folder / "tokenizer.json")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """``tokenizer_config.json``; empty if it does not exist."""
        return self._read_optional("tokenizer_config.json")

    @cached_property
    def model_config(self) -> Mapping[str, Any]:
        """``config.json``, in which the values of ``text_config`` take precedence; empty if it does not exist."""
        config = self._read_optional("config.json")
        text = config.get("text_config")
        return {**config, **text} if isinstance(text, dict) else config

    @cached_property
    def eos_ids(self) -> list[int]:
        """The tokens that end a generation by ``generation_config.json``, or else by ``config.json``."""
        for config in (self._read_optional("generation_config.json"), self.model_config):
            value = config.get("eos_token_id")
            ids = value if isinstance(value, list) else [value]
            found = [token for token in ids if type(token) is int and token >= 0]
            if found:
                return found
        return []

    @property
    def n_vocab(self) -> int | None:
        """Number of tokens that the model has embeddings for; None if it is not known."""
        if self._n_vocab is not None:
            return self._n_vocab
        value = self.model_config.get("vocab_size")
        return value if type(value) is int and value > 0 else None

    @cached_property
    def named(self) -> Mapping[str, str]:
        """The texts of tokens with a role, such as ``{"bos": "<s>"}``."""
        sources = (self.config, self._read_optional("special_tokens_map.json"))
        named: dict[str, str] = {}
        for role in ROLES:
            for source in sources:
                value = source.get(f"{role}_token")
                text = value.get("content") if isinstance(value, dict) else value
                if isinstance(text, str) and text:
                    named.setdefault(role, text)
        return named

    @cached_property
    def added(self) -> list[AddedToken]:
        """The added tokens, sorted by id.

        A token is special if one of the files says so, or if it has a role.
        """
        special = set(self.named.values())
        texts: dict[int, str] = {}
        for id, text, is_special in self._added_tokens():
            texts.setdefault(id, text)
            if is_special:
                special.add(text)
        return [AddedToken(id, text, text in special) for id, text in sorted(texts.items())]

    def _added_tokens(self) -> Iterator[tuple[int, str, bool]]:
        """Yield id, text and whether it is special of the added tokens of all files, the most important file first."""
        if self.find("tokenizer.json"):
            for token in _read_list(self.tokenizer, "added_tokens", "tokenizer.json"):
                yield _read_added(token.get("id"), token, "tokenizer.json")
        decoder = self.config.get("added_tokens_decoder")
        if isinstance(decoder, dict):
            for id, token in decoder.items():
                is_number = isinstance(id, str) and id.isdecimal()
                yield _read_added(int(id) if is_number else id, token, "tokenizer_config.json")
        for text, id in self._read_optional("added_tokens.json").items():
            yield _read_added(id, {"content": text}, "added_tokens.json")

    def _read_optional(self, name: str) -> Mapping[str, Any]:
        path = self.folder / name
        return checkpoints.read_json(path) if path.is_file() else {}


def _read_list(values: Mapping[str, Any], key: str, file: str) -> list[dict[str, Any]]:
    value = values.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ModelError(f"{file}: {key} is not a list of objects")
    return value


def _read_added(id: Any, token: Any, file: str) -> tuple[int, str, bool]:
    text = token.get("content") if isinstance(token, dict) else None
    if type(id) is not int or id < 0 or not isinstance(text, str):
        raise ModelError(f"{file}: the added token {token!r:.80} has no id or no text")
    return id, text, bool(token.get("special"))
