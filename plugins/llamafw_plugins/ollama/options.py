"""Read the fields of Ollama's requests that control generation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from llamafw import App, Call, RequestError
from llamafw_plugins.endpoints.messages import media_error
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.endpoints.thinking import known_effort

RENAMED = {"num_predict": "n_predict", "num_keep": "n_keep", "penalize_newline": "penalize_nl"}
"""Options → the native fields with the same meaning."""

FORMAT = re.compile(r"^response_format(\.json_schema\.schema)?")
MESSAGE = re.compile(r"^(?:prompt|messages(?:\.(\d+))?)(?:\..*)?$")
SCHEMA = "OllamaOptions"  # names all options with an effect; those of samplers and plugins are native fields, too


def read_options(call: Call, app: App) -> JSON:
    """Return the native fields for the ``options`` of a validated request.

    Options without effect, such as those for loading a model, are named in the response's headers. So is ``num_ctx``,
    unless it is the size that the server was started with.

    Raises
    ------
    RequestError
        With ``--strict-fields``, an option has no effect.
    """
    known = app.document["components"]["schemas"][SCHEMA]["properties"].keys() - {"num_ctx"}
    fields: JSON = {}
    for name, value in (call.body.get("options") or {}).items():
        if value is None:
            continue
        if name in known:
            fields[RENAMED.get(name, name)] = value
        elif name != "num_ctx" or value != app.loaded.engine.n_ctx:
            ignore(call, app, f"options.{name}")
    if call.body.get("truncate"):
        fields["truncate_prompt"] = True
    return fields


@contextmanager
def errors_about(body: JSON) -> Iterator[None]:
    """Make errors about native fields and fields of chat completions errors about the fields of Ollama's request."""
    try:
        yield
    except RequestError as error:
        if error.param is not None:
            error.param = field_of(error.param, body)
        error.message = error.message.replace("truncate_prompt: true", "truncate: true")
        raise


def field_of(param: str, body: JSON) -> str:
    """Return the path in Ollama's request for a path in the request that was made from it."""
    root, dot, rest = param.partition(".")
    option = next((name for name, native in RENAMED.items() if native == root), root)
    if option in (body.get("options") or ()):
        return f"options.{option}{dot}{rest}"
    if root == "reasoning_effort":
        return "think"

    match = MESSAGE.match(param)
    if match is None:
        return FORMAT.sub("format", param)
    if "prompt" not in body and "suffix" not in body:
        return "messages" if root == "prompt" else param
    return "system" if match[1] == "0" and body.get("system") else "prompt"


def ignore(call: Call, app: App, field: str) -> None:
    """Name a field without effect in the response's headers; RequestError with ``--strict-fields``."""
    if app.settings.strict_fields:
        raise RequestError(f"{field} has no effect on this server", param=field)
    call.ignored.append(field)


def format_fields(body: JSON) -> JSON:
    """Return the fields of chat completions for the ``format`` of a validated request."""
    format = body.get("format")
    if not format:
        return {}
    if format == "json":
        return {"response_format": {"type": "json_object"}}
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": format}}}


def thinking_fields(body: JSON) -> JSON:
    """Return the fields of chat completions for the ``think`` of a validated request."""
    think = body.get("think")
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"enable_thinking": think}
    return {"enable_thinking": True, "reasoning_effort": known_effort(think)}


def refuse_images(images: object, param: str) -> None:
    """Raise RequestError if a request has images."""
    if images:
        raise media_error("an image", "images", param)
