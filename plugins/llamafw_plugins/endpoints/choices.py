"""What operations that give several answers have in common: how many there may be, seeds, usage in streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llamafw import GenerateRequest, RequestError
from llamafw_plugins.endpoints.shapes import JSON

MAX_ANSWERS = 1024  # of one call
MAX_BIASES = 2**18  # entries of `logit_bias` times answers: they are read for each on the event loop


def check_answers(body: JSON, n: int) -> None:
    """Raise RequestError if ``n`` answers to this body are too many."""
    if n > MAX_ANSWERS:
        raise RequestError(f"one call gives at most {MAX_ANSWERS} answers", param="n")
    if len(body.get("logit_bias") or ()) * n > MAX_BIASES:
        raise RequestError(f"{n} answers can have at most {MAX_BIASES // n} biases each", param="logit_bias")


def choices_of(requests: Sequence[GenerateRequest], n: int) -> list[GenerateRequest]:
    """Return each request ``n`` times, with seeds that follow its own, if it has one."""
    return [_choice(request, i) for request in requests for i in range(n)]


def include_usage(body: JSON) -> bool:
    """True if the client wants the usage at the end of a stream."""
    return bool((body.get("stream_options") or {}).get("include_usage"))


def usage_to_come(body: JSON) -> JSON:
    """Return what each chunk says of a usage that the last one has: OpenAI's clients expect a null."""
    return {"usage": None} if include_usage(body) else {}


def _choice(request: GenerateRequest, i: int) -> GenerateRequest:
    return request if request.seed is None else replace(request, seed=(request.seed + i) % (2**32 - 1))
