"""OpenAI's Responses API: conversations that the server stores, and answers that consist of typed items.

``openapi.yaml`` describes the operations. Answers are generated as those of chat completions are.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Mapping
from typing import Any

from llamafw import App, Register, hookimpl
from llamafw_plugins.fragments import read_fragment

DEFAULT_MAX = 1000  # responses
DEFAULT_MAX_MB = 256


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--responses-max",
        type=_whole_number,
        default=DEFAULT_MAX,
        metavar="N",
        help="number of responses of /v1/responses that are kept in memory; 0: none (default: %(default)s)",
    )
    parser.add_argument(
        "--responses-max-mb",
        type=_whole_number,
        default=DEFAULT_MAX_MB,
        metavar="N",
        help="size of these responses together, in MiB (default: %(default)s)",
    )


@hookimpl
def extend_openapi() -> Mapping[str, Any]:
    return read_fragment(__name__)


@hookimpl
def register_endpoints(register: Register, app: App) -> None:
    from llamafw_plugins.responses.endpoints import ResponseEndpoints
    from llamafw_plugins.responses.store import ResponseStore

    extra = app.settings.extra
    max_bytes = extra.get("responses_max_mb", DEFAULT_MAX_MB) << 20
    endpoints = ResponseEndpoints(app, ResponseStore(extra.get("responses_max", DEFAULT_MAX), max_bytes))
    register("createResponse", endpoints.create)
    register("createResponseAlias", endpoints.create)
    register("countResponseTokens", endpoints.count)
    register("getResponse", endpoints.get)
    register("deleteResponse", endpoints.delete)
    register("cancelResponse", endpoints.cancel)
    register("listResponseInput", endpoints.list_input)


def _whole_number(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ArgumentTypeError(f"{text} is less than 0")
    return number
