"""What no request may exceed, whichever endpoint it came through: a wrapper around the hook `prepare_request`.

Every request that generates passes there once, as a frozen `llamafw.GenerateRequest`. The wrapper lets it be made, then
returns a changed one or refuses it.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Generator
from dataclasses import replace

from llamafw import App, GenerateRequest, RequestError, hookimpl

requires_api = ">=1.0,<2"


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("llamafw-limits")
    group.add_argument("--most-prompt-tokens", metavar="N", type=int, help="refuse longer prompts")
    group.add_argument(
        "--most-tokens", metavar="N", type=int, help="end answers after N tokens, also those that ask for more"
    )
    group.add_argument("--most-seconds", metavar="S", type=float, help="end answers S seconds after their request came")


@hookimpl(wrapper=True)
def prepare_request(app: App) -> Generator[None, GenerateRequest, GenerateRequest]:
    """Hold each request to the limits that flags have set."""
    request = yield
    longest, most, seconds = (app.settings.extra.get(f"most_{name}") for name in ("prompt_tokens", "tokens", "seconds"))
    if longest is not None and len(request.prompt) > longest:
        raise RequestError(f"the prompt has {len(request.prompt)} tokens; this server takes {longest}", param="prompt")
    if most is not None:
        request = replace(request, n_predict=smaller(request.n_predict, most))
    if seconds is not None:
        given = request.deadline_ms
        request = replace(request, deadline_ms=1e3 * seconds if given is None else min(given, 1e3 * seconds))
    return request


def smaller(n_predict: int, most: int) -> int:
    """Return the smaller number of tokens; below 0, ``n_predict`` is none."""
    return most if n_predict < 0 else min(n_predict, most)
