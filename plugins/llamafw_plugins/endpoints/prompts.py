"""Read prompts, in all the forms that requests give them, into token ids."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from llamafw import RequestError, Tokenizer

MIN_SIZE_FOR_THREAD = 4096  # characters and token ids; shorter input is read on the event loop

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt."""

    original: str | list[int | str]  # as the client sent it
    tokens: tuple[int, ...]
    truncated: bool = False  # tokens were removed because the prompt did not fit into the context


async def run_in_thread(work: Callable[[], T], size: int) -> T:
    """Return the result of ``work``; if its input is large, run it on a thread to keep the event loop free.

    Parameters
    ----------
    work : callable
        The function to run.
    size : int
        Number of characters and token ids that ``work`` reads.
    """
    return await asyncio.to_thread(work) if size >= MIN_SIZE_FOR_THREAD else work()


def prompt_size(value: Any) -> int:
    """Return the number of characters and token ids in a prompt.

    For an array with many items, return the number of items: it is large enough for `run_in_thread`.
    """
    if isinstance(value, dict):
        return prompt_size(value["prompt_string"])
    if isinstance(value, str) or len(value) >= MIN_SIZE_FOR_THREAD:
        return len(value)
    return sum(prompt_size(item) if isinstance(item, (str, list, dict)) else 1 for item in value)


def bos_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens to put before a text: BOS if the model expects it, otherwise none."""
    return [tokenizer.bos] if tokenizer.add_bos and tokenizer.bos is not None else []


async def read_prompts(value: Any, tokenizer: Tokenizer, field: str = "prompt") -> list[Prompt]:
    """Return the prompts of a validated request field.

    A text is one prompt. So is an array of token ids, or of token ids and texts, and an object whose `prompt_string` is
    one of these. An array of texts, or one that contains arrays or objects, is several prompts. Texts get BOS and EOS
    if the model expects them. An array gets BOS only if it begins with a text.

    Parameters
    ----------
    value : str, list or dict
        The value of the field.
    field : str
        The name of the field, for error messages.

    Raises
    ------
    RequestError
        A token id is not in the vocabulary, or a prompt has images or audio.
    """
    return await run_in_thread(lambda: _read_prompts(value, tokenizer, field), prompt_size(value))


def encode_mixed(items: Sequence[Any], tokenizer: Tokenizer, param: str, *, parse_special: bool = True) -> list[int]:
    """Return the tokens of an array of token ids and texts.

    Raises
    ------
    RequestError
        A token id is not in the vocabulary.
    """
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
    """Return the items if all are token ids, None if some are texts.

    Takes 20 ns per item.
    """
    try:
        ids = np.frombuffer(array("i", items), np.int32)
    except (TypeError, OverflowError):
        return None
    for i in np.flatnonzero((ids < 0) | (ids >= n_vocab))[:1]:
        _check_id(items[i], n_vocab, f"{param}.{i}")
    return list(items)


def _check_id(token: int, n_vocab: int, param: str) -> None:
    """Raise RequestError if a token id is not in the vocabulary."""
    if not 0 <= token < n_vocab:
        raise RequestError(f"token {token} is not in the vocabulary of {n_vocab} tokens", param=param)


def _read_prompts(value: Any, tokenizer: Tokenizer, field: str) -> list[Prompt]:
    if not isinstance(value, list):
        return [_read_prompt(value, tokenizer, field)]
    if (ids := _read_ids(value, tokenizer.n_vocab, field)) is not None:
        return [Prompt(value, tuple(ids))]
    types = set(map(type, value))
    if types != {str} and not {list, dict} & types:
        return [_read_array(value, tokenizer, field)]
    return [_read_prompt(item, tokenizer, f"{field}.{i}") for i, item in enumerate(value)]


def _read_prompt(value: Any, tokenizer: Tokenizer, param: str) -> Prompt:
    """Return one prompt: a text, an array of token ids and texts, or an object with one of these."""
    if isinstance(value, dict):
        if value.get("multimodal_data"):
            message = "multimodal_data needs a multimodal model; this server's model reads text only"
            raise RequestError(message, param=f"{param}.multimodal_data")
        return _read_prompt(value["prompt_string"], tokenizer, f"{param}.prompt_string")
    return _read_text(value, tokenizer) if isinstance(value, str) else _read_array(value, tokenizer, param)


def _read_text(text: str, tokenizer: Tokenizer) -> Prompt:
    return Prompt(text, tuple(tokenizer.encode(text, add_special=True, parse_special=True)))


def _read_array(items: list[Any], tokenizer: Tokenizer, param: str) -> Prompt:
    tokens = encode_mixed(items, tokenizer, param)
    bos = bos_tokens(tokenizer) if isinstance(items[0], str) else []
    return Prompt(items, (*bos, *tokens))
