"""Prepares a request's prompt: checks its tokens and, if allowed, cuts it to fit the context."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np

from llamafw.engine import context_shift
from llamafw.errors import ContextFullError, RequestError
from llamafw.types import GenerateRequest, Ints, Strengths


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A prompt as the engine evaluates it."""

    tokens: Ints  # (n_prompt,)
    n_keep: int = 0  # tokens at the start that a context shift never drops
    truncated: bool = False  # the middle was cut out because the prompt did not fit
    adapters: Strengths = ()  # that the tokens are evaluated with


def prepare_prompt(
    request: GenerateRequest, n_vocab: int, n_ctx: int, *, add_bos: bool, adapters: Strengths = ()
) -> PreparedPrompt:
    """Return the prompt of a generation request, as the engine evaluates it.

    Parameters
    ----------
    request : GenerateRequest
        The request.
    n_vocab : int
        Size of the vocabulary.
    n_ctx : int
        Positions per slot.
    add_bos : bool
        The model's prompts begin with a BOS token, which is kept in addition to ``n_keep`` tokens.
    adapters : Strengths
        The adapters that the request uses.

    Raises
    ------
    ContextFullError
        The prompt does not fit, and the request does not set ``truncate_prompt``.
    RequestError
        The prompt has a token that is not in the vocabulary.
    """
    is_too_long = len(request.prompt) + (request.n_predict != 0) > n_ctx
    if is_too_long and not request.truncate_prompt:  # before the conversion, which takes long for millions of tokens
        # a request that reports the log-probabilities of its prompt cannot set truncate_prompt
        raise ContextFullError(len(request.prompt), n_ctx, can_truncate=request.prompt_logprobs is None)
    tokens = as_tokens(request.prompt, n_vocab)
    n_keep = context_shift.n_kept(request.n_keep, len(tokens), n_ctx, bos=add_bos)
    if is_too_long:
        tokens = context_shift.truncated(tokens, n_keep, n_ctx)
    return PreparedPrompt(tokens, n_keep, is_too_long, adapters)


def as_tokens(prompt: tuple[int, ...], n_vocab: int) -> Ints:
    """Return the prompt as an array; raise RequestError if a token is not in the vocabulary."""
    with contextlib.suppress(OverflowError):  # a number that does not fit into int32
        tokens = np.fromiter(prompt, np.int32, len(prompt))
        if not len(tokens) or (tokens.min() >= 0 and tokens.max() < n_vocab):
            return tokens
    invalid = next(token for token in prompt if not 0 <= token < n_vocab)
    raise RequestError(f"token {invalid} is not in the vocabulary of {n_vocab}", param="prompt")
