"""Limit how many generations one request may ask for, and repeat a request for ``n`` choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llamafw import GenerateRequest, RequestError
from llamafw_plugins.endpoints.response_json import JSON

MAX_GENERATIONS = 1024  # of one HTTP request
MAX_BIASES = 2**18  # entries of `logit_bias` times generations; the event loop reads all entries for each generation
N_SEEDS = 2**32 - 1  # seeds are 0 to 2**32 - 2; 2**32 - 1 means a random seed


def check_n_generations(body: JSON, n: int) -> None:
    """Raise RequestError if a body asks for too many generations.

    Parameters
    ----------
    n : int
        Number of generations that the body asks for: prompts times choices per prompt.
    """
    if n > MAX_GENERATIONS:
        message = f"one request can have at most {MAX_GENERATIONS} choices over all its prompts; this one asks for {n}"
        raise RequestError(message, param="n")
    if len(body.get("logit_bias") or ()) * n > MAX_BIASES:
        message = f"with {n} choices, logit_bias can have at most {MAX_BIASES // n} entries"
        raise RequestError(message, param="logit_bias")


def repeat_requests(requests: Sequence[GenerateRequest], n: int) -> list[GenerateRequest]:
    """Return each request ``n`` times.

    If it has a seed, the i-th copy has the seed plus i.
    """
    return [_with_next_seed(request, i) for request in requests for i in range(n)]


def _with_next_seed(request: GenerateRequest, i: int) -> GenerateRequest:
    return request if request.seed is None else replace(request, seed=(request.seed + i) % N_SEEDS)
