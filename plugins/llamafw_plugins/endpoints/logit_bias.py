"""Read ``logit_bias``, in all the forms that requests give it, into one table."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

from llamafw import RequestError, Tokenizer

MAX_CHARACTERS = 16384  # of all texts together: they are tokenised on the event loop


def read_logit_bias(value: Any, tokenizer: Tokenizer) -> dict[int, float]:
    """Return the number to add to each token's logit; ``-inf`` for a token that must not be drawn.

    Parameters
    ----------
    value : None, dict or list
        ``{"token id": bias}``, OpenAI's form, or pairs of a token id or a text and a bias. A text stands for each of
        its tokens. A bias is a number or False. Biases of the same token add up. Tokens that are not in the vocabulary
        have no effect: programs that were written for other models send them.

    Raises
    ------
    RequestError
        An entry is not such a pair.
    """
    table: dict[int, float] = {}
    n_characters = 0
    for target, entry_bias, param in _entries(value):
        if isinstance(entry_bias, str) or entry_bias is True:
            raise RequestError("a bias must be a number or false", param=f"{param}.1")
        bias = -inf if entry_bias is False else float(entry_bias)

        if isinstance(target, str):
            n_characters += len(target)
            if n_characters > MAX_CHARACTERS:
                message = f"the texts of logit_bias must have at most {MAX_CHARACTERS} characters together"
                raise RequestError(message, param="logit_bias")
            tokens = tokenizer.encode(target, parse_special=False)
        else:
            tokens = [_token_id(target, param)]

        for token in (token for token in tokens if 0 <= token < tokenizer.n_vocab):
            table[token] = table.get(token, 0.0) + bias
    return table


def _entries(value: Any) -> Iterator[tuple[Any, Any, str]]:
    """Yield the target, the bias and the dotted path of each entry."""
    if isinstance(value, dict):
        for name, bias in value.items():
            param = f"logit_bias.{name}"
            try:
                yield int(name), bias, param
            except ValueError:
                raise RequestError(f"{name[:40]!r} is not a token id", param=param) from None
    else:
        for i, (target, bias) in enumerate(value or ()):
            yield target, bias, f"logit_bias.{i}"


def _token_id(target: Any, param: str) -> int:
    if isinstance(target, bool) or int(target) != target:
        raise RequestError("the first item of a pair must be a token id or a text", param=param)
    return int(target)
