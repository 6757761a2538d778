"""The forms `logit_bias` may have, read into one table. It knows nothing of how biases are applied."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

from llamafw import RequestError, Tokenizer

MAX_CHARACTERS = 16384  # of all texts together: they are tokenised on the event loop


def read_logit_bias(given: Any, tokenizer: Tokenizer) -> dict[int, float]:
    """Return token id → number to add to its logit; ``-inf`` for a token that must not be drawn.

    Parameters
    ----------
    given : None, dict or list
        ``{"token id": bias}`` as OpenAI has it, or pairs of a token id or text and a bias. A text stands for each of
        its tokens. A bias is a number, or False. Biases on one token add up.

    Raises
    ------
    RequestError
        A token is not in the vocabulary, or an entry is no pair.
    """
    table: dict[int, float] = {}
    n_characters = 0
    for target, value, param in _entries(given):
        if isinstance(value, str) or value is True:
            raise RequestError("a bias is a number or false", param=f"{param}.1")
        bias = -inf if value is False else float(value)
        if isinstance(target, str):
            n_characters += len(target)
            if n_characters > MAX_CHARACTERS:
                message = f"the texts of logit_bias have more than {MAX_CHARACTERS} characters"
                raise RequestError(message, param="logit_bias")
            tokens = tokenizer.encode(target, parse_special=False)
        else:
            tokens = [_token(target, tokenizer.n_vocab, param)]
        for token in tokens:
            table[token] = table.get(token, 0.0) + bias
    return table


def _entries(given: Any) -> Iterator[tuple[Any, Any, str]]:
    """Yield target, bias and the place of each entry."""
    if isinstance(given, dict):
        for name, value in given.items():
            param = f"logit_bias.{name}"
            try:
                yield int(name), value, param
            except ValueError:
                raise RequestError(f"{name[:40]!r} is no token id", param=param) from None
    else:
        for i, (target, value) in enumerate(given or ()):
            yield target, value, f"logit_bias.{i}"


def _token(target: Any, n_vocab: int, param: str) -> int:
    if isinstance(target, bool) or int(target) != target:
        raise RequestError("the first item of a pair is a token id or a text", param=param)
    if not 0 <= target < n_vocab:
        raise RequestError(f"token {int(target)} is not in the vocabulary, which has {n_vocab}", param=param)
    return int(target)
