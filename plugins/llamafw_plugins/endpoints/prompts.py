"""The forms a prompt may have, read into token ids. It knows nothing of what is done with them."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from llamafw import RequestError, Tokenizer

LONG = 4096  # characters and token ids from which on reading them is left to a worker thread

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: as the client gave it, and as token ids."""

    given: str | list[int | str]
    tokens: tuple[int, ...]


async def aside(work: Callable[[], T], size: int) -> T:
    """Return what ``work`` returns; if there is much to do, it does not hold up the event loop."""
    return await asyncio.to_thread(work) if size >= LONG else work()


def size_of(given: Any) -> int:
    """Return the characters and token ids in a prompt, or what part of them is more than enough to be `LONG`."""
    if isinstance(given, str) or len(given) >= LONG:
        return len(given)
    return sum(size_of(item) if isinstance(item, (str, list)) else 1 for item in given)


def bos(tokenizer: Tokenizer) -> list[int]:
    """Return what a text begins with: BOS, if the model wants it."""
    return [tokenizer.bos] if tokenizer.add_bos and tokenizer.bos is not None else []


async def read_prompts(given: Any, tokenizer: Tokenizer, field: str = "prompt") -> list[Prompt]:
    """Return the prompts in a validated ``prompt`` field, or another of its kind.

    A text is one prompt; so is an array of token ids, or of token ids and texts. An array of texts, or one that
    contains arrays, is several. BOS and EOS are added to texts as the model wants them; an array that begins with a
    text gets BOS; one that begins with a token id is taken as it is.
    """
    return await aside(lambda: _read_prompts(given, tokenizer, field), size_of(given))


def encode_mixed(items: Sequence[Any], tokenizer: Tokenizer, param: str, *, parse_special: bool = True) -> list[int]:
    """Return token ids and the tokens of texts, in order; RequestError for an id that is not in the vocabulary."""
    if (ids := _read_ids(items, tokenizer.n_vocab, param)) is not None:
        return ids
    tokens: list[int] = []
    for i, item in enumerate(items):
        if isinstance(item, str):
            tokens += tokenizer.encode(item, parse_special=parse_special)
        else:
            _check_id(item, tokenizer.n_vocab, f"{param}.{i}")
            tokens.append(item)
    return tokens


def _read_ids(items: Sequence[Any], n_vocab: int, param: str) -> list[int] | None:
    """Return ``items`` if they are token ids, None if others are among them. Takes 20 ns for each."""
    try:
        ids = np.frombuffer(array("i", items), np.int32)
    except (TypeError, OverflowError):
        return None
    for i in np.flatnonzero((ids < 0) | (ids >= n_vocab))[:1]:
        _check_id(items[i], n_vocab, f"{param}.{i}")
    return list(items)


def _check_id(token: int, n_vocab: int, param: str) -> None:
    """Raise RequestError if this is no token id."""
    if not 0 <= token < n_vocab:
        raise RequestError(f"token {token} is not in the vocabulary, which has {n_vocab}", param=param)


def _read_prompts(given: Any, tokenizer: Tokenizer, field: str) -> list[Prompt]:
    if isinstance(given, str):
        return [_read_text(given, tokenizer)]
    if (ids := _read_ids(given, tokenizer.n_vocab, field)) is not None:
        return [Prompt(given, tuple(ids))]
    kinds = set(map(type, given))
    if kinds != {str} and list not in kinds:
        return [_read_array(given, tokenizer, field)]
    return [
        _read_text(item, tokenizer) if isinstance(item, str) else _read_array(item, tokenizer, f"{field}.{i}")
        for i, item in enumerate(given)
    ]


def _read_text(text: str, tokenizer: Tokenizer) -> Prompt:
    return Prompt(text, tuple(tokenizer.encode(text, add_special=True, parse_special=True)))


def _read_array(items: list[Any], tokenizer: Tokenizer, param: str) -> Prompt:
    tokens = encode_mixed(items, tokenizer, param)
    before = bos(tokenizer) if isinstance(items[0], str) else []
    return Prompt(items, (*before, *tokens))
