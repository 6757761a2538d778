"""The forms a prompt may have, read into token ids. It knows nothing of what is done with them."""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

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


async def read_prompts(given: Any, tokenizer: Tokenizer, field: str = "prompt") -> list[Prompt]:
    """Return the prompts in a validated ``prompt`` field, or another of its kind.

    A text is one prompt; so is an array of token ids, or of token ids and texts. An array of texts, or one that
    contains arrays, is several. BOS and EOS are added to texts as the model wants them; an array that begins with a
    text gets BOS; one that begins with a token id is taken as it is.
    """
    return await aside(lambda: _read_prompts(given, tokenizer, field), size_of(given))


def encode_mixed(items: Sequence[Any], tokenizer: Tokenizer, param: str, *, parse_special: bool = True) -> list[int]:
    """Return token ids and the tokens of texts, in order; RequestError for an id that is not in the vocabulary."""
    if set(map(type, items)) <= {int}:
        return read_ids(items, tokenizer.n_vocab, param)
    tokens: list[int] = []
    for i, item in enumerate(items):
        if isinstance(item, str):
            tokens += tokenizer.encode(item, parse_special=parse_special)
        else:
            tokens += read_ids([item], tokenizer.n_vocab, param, first=i)
    return tokens


def read_ids(items: Sequence[int], n_vocab: int, param: str, *, first: int = 0) -> list[int]:
    """Return ``items`` as token ids; ``first`` is the number of the first, for errors."""
    ids = list(items)
    if ids and not (min(ids) >= 0 and max(ids) < n_vocab):
        i = next(i for i, token in enumerate(ids) if not 0 <= token < n_vocab)
        message = f"token {ids[i]} is not in the vocabulary, which has {n_vocab}"
        raise RequestError(message, param=f"{param}.{first + i}")
    return ids


def _read_prompts(given: Any, tokenizer: Tokenizer, field: str) -> list[Prompt]:
    if isinstance(given, str):
        return [_read_text(given, tokenizer)]
    kinds = set(map(type, given))
    if kinds == {int}:  # a megabyte of them should not be looked through again
        return [Prompt(given, tuple(read_ids(given, tokenizer.n_vocab, field)))]
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
    if isinstance(items[0], str) and tokenizer.add_bos and tokenizer.bos is not None:
        tokens.insert(0, tokenizer.bos)
    return Prompt(items, tuple(tokens))
