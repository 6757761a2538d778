"""The forms a prompt may have, read into token ids. It knows nothing of what is done with them."""
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llamafw import RequestError, Tokenizer

LONG_TEXT = 4096  # characters from which on tokenising is left to a worker thread


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: as the client gave it, and as token ids."""

    given: str | list[int | str]
    tokens: tuple[int, ...]


async def read_prompts(given: Any, tokenizer: Tokenizer) -> list[Prompt]:
    """Return the prompts in a validated ``prompt`` field.

    A text is one prompt; so is an array of token ids, or of token ids and texts. An array of texts, or one that
    contains arrays, is several. BOS and EOS are added to texts as the model wants them; an array that begins with a
    text gets BOS; one that begins with a token id is taken as it is.
    """
    if isinstance(given, str):
        return [Prompt(given, tuple(await encode(given, tokenizer, add_special=True)))]
    if all(isinstance(item, (int, float)) for item in given) or not _is_several(given):
        return [await _read_array(given, tokenizer, "prompt")]
    prompts = []
    for i, item in enumerate(given):
        if isinstance(item, str):
            prompts.append(Prompt(item, tuple(await encode(item, tokenizer, add_special=True))))
        else:
            prompts.append(await _read_array(item, tokenizer, f"prompt.{i}"))
    return prompts


async def encode(
    text: str, tokenizer: Tokenizer, *, add_special: bool = False, parse_special: bool = True
) -> list[int]:
    """Return the tokens of ``text``; a long one does not hold up the event loop."""
    if len(text) < LONG_TEXT:
        return tokenizer.encode(text, add_special=add_special, parse_special=parse_special)
    return await asyncio.to_thread(tokenizer.encode, text, add_special=add_special, parse_special=parse_special)


async def encode_mixed(
    items: Sequence[Any], tokenizer: Tokenizer, param: str, *, parse_special: bool = True
) -> list[int]:
    """Return token ids and the tokens of texts, in order; RequestError for an id that is not in the vocabulary."""
    if all(isinstance(item, (int, float)) for item in items):
        return read_ids(items, tokenizer.n_vocab, param)
    tokens: list[int] = []
    for i, item in enumerate(items):
        if isinstance(item, str):
            tokens += await encode(item, tokenizer, parse_special=parse_special)
        else:
            tokens += read_ids([item], tokenizer.n_vocab, param, first=i)
    return tokens


def read_ids(items: Sequence[Any], n_vocab: int, param: str, *, first: int = 0) -> list[int]:
    """Return ``items`` as token ids (JSON Schema takes 1.0 for an integer); ``first`` is the number of the first."""
    ids = [int(item) for item in items]
    if ids and not (min(ids) >= 0 and max(ids) < n_vocab):
        i = next(i for i, token in enumerate(ids) if not 0 <= token < n_vocab)
        message = f"token {ids[i]} is not in the vocabulary, which has {n_vocab}"
        raise RequestError(message, param=f"{param}.{first + i}")
    return ids


def _is_several(given: Sequence[Any]) -> bool:
    return any(isinstance(item, list) for item in given) or all(isinstance(item, str) for item in given)


async def _read_array(items: list[Any], tokenizer: Tokenizer, param: str) -> Prompt:
    tokens = await encode_mixed(items, tokenizer, param)
    if isinstance(items[0], str) and tokenizer.add_bos and tokenizer.bos is not None:
        tokens.insert(0, tokenizer.bos)
    return Prompt([item if isinstance(item, str) else int(item) for item in items], tuple(tokens))
