"""Limit the tokens and the time of every request, by a wrapper around the hook `prepare_request`.

The hook makes a frozen `llamafw.GenerateRequest` of every request that generates text. The wrapper calls it, then
returns a changed copy or refuses the request.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Generator
from dataclasses import replace

from llamafw import App, GenerateRequest, RequestError, hookimpl

requires_api = ">=1.0,<2"


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    """Add the flags of the three limits."""
    group = parser.add_argument_group("llamafw-limits")
    group.add_argument("--most-prompt-tokens", metavar="N", type=int, help="refuse prompts of more than N tokens")
    group.add_argument(
        "--most-tokens", metavar="N", type=int, help="end answers after N tokens, even if the request allows more"
    )
    group.add_argument(
        "--most-seconds", metavar="S", type=float, help="end answers S seconds after their request arrived"
    )


@hookimpl(wrapper=True)
def prepare_request(app: App) -> Generator[None, GenerateRequest, GenerateRequest]:
    """Apply the limits that flags have set."""
    request = yield
    names = ("most_prompt_tokens", "most_tokens", "most_seconds")
    max_prompt, max_tokens, max_seconds = (app.settings.extra.get(name) for name in names)

    if max_prompt is not None and len(request.prompt) > max_prompt:
        message = f"the prompt has {len(request.prompt)} tokens; this server allows {max_prompt}"
        raise RequestError(message, param="prompt")

    if max_tokens is not None:
        n_predict = max_tokens if request.n_predict < 0 else min(request.n_predict, max_tokens)
        request = replace(request, n_predict=n_predict)

    if max_seconds is not None:
        limit_ms = 1e3 * max_seconds
        deadline_ms = limit_ms if request.deadline_ms is None else min(request.deadline_ms, limit_ms)
        request = replace(request, deadline_ms=deadline_ms)

    return request
