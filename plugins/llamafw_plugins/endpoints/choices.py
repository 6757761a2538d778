"""What OpenAI's two completion operations have in common: several answers per prompt, and usage in streams."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llamafw import GenerateRequest, RequestError
from llamafw_plugins.endpoints.shapes import JSON

MAX_ANSWERS = 1024  # of one call


def choices_of(requests: Sequence[GenerateRequest], n: int) -> list[GenerateRequest]:
    """Return each request ``n`` times, with seeds that follow its own, if it has one."""
    if len(requests) * n > MAX_ANSWERS:
        raise RequestError(f"one call gives at most {MAX_ANSWERS} answers", param="n")
    return [_choice(request, i) for request in requests for i in range(n)]


def include_usage(body: JSON) -> bool:
    """True if the client wants the usage at the end of a stream."""
    return bool((body.get("stream_options") or {}).get("include_usage"))


def _choice(request: GenerateRequest, i: int) -> GenerateRequest:
    return request if request.seed is None else replace(request, seed=(request.seed + i) % (2**32 - 1))
