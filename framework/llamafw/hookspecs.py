"""Every hook a plugin may implement. This file is the plugin author's manual.

A plugin is a module or object found through the entry-point group ``llamafw`` that marks functions with
`llamafw.hookimpl`. Hooks named ``register_…`` run once per process and fill a table. Registering must be
cheap: import heavy libraries inside what you register, not at the top of the plugin.

In hooks that ask all plugins for one answer ("first"), the first that is not None wins; None means "not mine".
Hooks run on the main thread at start-up, those about a model on the thread that loads it, and all others on the event
loop; none runs per token.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from llamafw.interfaces import ChatFormat, Register, Tokenizer
from llamafw.serving import App, Engine
from llamafw.types import Finish, GenerateRequest, Model, Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from llamafw.settings import Settings

NAME = "llamafw"  #: the hook project and the entry-point group
API_VERSION = "1.0.0"
"""The version of everything `llamafw` exports and of the hooks, by https://semver.org; apart from llamafw's own.

A plugin that needs something newer says so with ``requires_api = ">=1.2,<2"``, a specifier as in a pyproject.toml.
"""
hookspec = pluggy.HookspecMarker(NAME)
hookimpl = pluggy.HookimplMarker(NAME)


# --- command line -----------------------------------------------------------------------------------


@hookspec
def add_options(parser: ArgumentParser) -> None:
    """Add flags of your own to ``llamafw serve``. All plugins, before flags are parsed.

    The values arrive as ``Settings.extra[dest]`` and ``BackendOptions.extra[dest]``.
    """


@hookspec
def configure(options: Mapping[str, Any]) -> None:
    """Take your own settings, once, before anything of yours is registered. Each plugin gets its own, and none's else.

    What may be set, the plugin states beside its hooks: ``plugin_options = {"limit": {"type": "integer", "minimum": 1,
    "default": 60, "description": "…"}}``, JSON Schemas. Users set it with ``--plugin-option NAME.limit=9``, or in the
    file of ``--config``, ``[plugin.NAME]``. What arrives is valid, and has the defaults; a key without a default is
    there if it was set.
    """


@hookspec
def register_commands(register: Register) -> None:
    """Add commands: ``register("hello", main)`` with ``main(argv: list[str]) -> int`` makes ``llamafw hello``."""


# --- registries -------------------------------------------------------------------------------------


@hookspec
def register_samplers(register: Register) -> None:
    """Add samplers: ``register("top_k", TopK)``, a `llamafw.SamplerPlugin`."""


@hookspec
def register_fields(register: Register) -> None:
    """Add fields to every request that generates: ``register("choice", {"type": "array", …})``, a JSON Schema.

    The field is validated and documented like any other, and arrives in ``body`` at `prepare_request`.
    """


@hookspec
def register_chat_formats(register: Register) -> None:
    """Add chat formats: ``register("chatml", factory)`` with ``factory(ChatContext) -> ChatFormat``."""


@hookspec
def register_tool_parsers(register: Register) -> None:
    """Add ways to write calls of tools: ``register("hermes", Hermes())``, a `llamafw.ToolParserPlugin`."""


@hookspec
def register_grammars(register: Register) -> None:
    """Add kinds of grammars: ``register("gbnf", factory)`` with ``factory(GrammarContext) -> GrammarCompiler``."""


@hookspec
def register_tokenizers(register: Register) -> None:
    """Add tokenizers by ``tokenizer.ggml.model``: ``register("gpt2", f)`` with ``f(metadata) -> Tokenizer``."""


@hookspec
def register_architectures(register: Register) -> None:
    """Add architectures by ``general.architecture``: ``register("llama", describe)``, a `llamafw.Architecture`."""


@hookspec
def register_quants(register: Register) -> None:
    """Add tensor types by name: ``register("Q4_1", quant)``, a `llamafw.Quant`."""


@hookspec
def register_backends(register: Register) -> None:
    """Add backends: ``register("numba", factory)`` with ``factory(BackendContext) -> Backend``."""


@hookspec
def register_endpoints(register: Register, app: App) -> None:
    """Bind coroutine functions to the API document: ``register("createCompletion", create)``.

    Called while the server is built. ``create(call: Call)`` returns a starlette Response or JSON-able data.

    Parameters
    ----------
    register : Register
        Takes an ``operationId`` of the document and a coroutine function.
    app : App
        The running server; keep what you need of it.
    """


@hookspec
def register_authenticators(register: Register, app: App) -> None:
    """Add what knows users: ``register("keys", KeyFile(path))``, a `llamafw.Authenticator`.

    Called while the server is built. As soon as there is one, requests whose sender none of them knows are a 401, but
    for operations that the document calls public; API keys are one more. A plugin that has not been asked to guard
    anything registers nothing. If it fails, the start ends.

    Parameters
    ----------
    register : Register
        Takes a name and the authenticator.
    app : App
        The running server.
    """


# --- the API document and the HTTP application ------------------------------------------------------


@hookspec
def extend_openapi() -> Mapping[str, Any] | None:
    """Return an OpenAPI 3.0.3 fragment (``paths``, ``components``, ``tags``) to merge into the API document.

    Any clash with what is there is a start-up error that names both sides. None: nothing to add.
    """


@hookspec
def wrap_asgi(asgi: ASGIApp, app: App) -> ASGIApp | None:
    """Return an ASGI application around ``asgi``; None to leave it. All plugins, in order: the last is outermost.

    Pure ASGI only: starlette's BaseHTTPMiddleware hides disconnects from streams.
    """


# --- models -----------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def open_model(path: Path, settings: Settings) -> Model | None:
    """Open a model file, or folder, that is not GGUF. First; None from all: it is read as GGUF."""


@hookspec(firstresult=True)
def create_engine(
    model: Model, tokenizer: Tokenizer, settings: Settings, finished: Callable[..., None]
) -> Engine | None:
    """Return what is to answer requests for this model, instead of our own engine and a backend.

    For models that run elsewhere: an engine is given tokens and yields text. It calls ``finished(request=…, finish=…)``
    when a generation has ended, which tells all plugins' ``request_finished``. First; None from all: ours.
    """


@hookspec(firstresult=True)
def choose_backend(model: Model, settings: Settings) -> str | None:
    """Return the name of the backend for this model. First; the built-in answer is ``numba``."""


@hookspec(firstresult=True)
def choose_chat_format(model: Model, settings: Settings) -> ChatFormat | None:
    """Return the chat format for this model. First; the built-in answer follows ``--chat-template``, then the model."""


# --- requests ---------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def prepare_request(body: Mapping[str, Any], prompt: Sequence[int], app: App) -> GenerateRequest | None:
    """Turn a validated native request body and its tokenised prompt into a `GenerateRequest`. First, per request.

    To amend every request, implement it as a wrapper: ``@hookimpl(wrapper=True)``.
    """


@hookspec(firstresult=True)
def explain_error(error: BaseException) -> Problem | None:
    """Say how a client sees ``error``. First, per failure; None from all: a RequestError explains itself, else 500."""


# --- events -----------------------------------------------------------------------------------------


@hookspec
def model_loaded(model: Model, app: App) -> None:
    """A model is ready to answer. All plugins, on the event loop."""


@hookspec
def model_unloaded(model: Model, app: App) -> None:
    """The model will answer no more; its memory is free. All plugins, on the event loop."""


@hookspec
def request_finished(request: GenerateRequest, finish: Finish | None) -> None:
    """A generation has ended. All plugins, on the event loop, once per `GenerateRequest` that the engine took.

    ``finish`` has the counts of tokens and the timings; None if the client went away or the generation failed.
    """


@hookspec
def server_started(app: App) -> None:
    """The server is listening; the model may still be loading. All plugins."""


@hookspec
def server_stopping(app: App) -> None:
    """The server has stopped accepting requests and has finished or cut those it had. All plugins."""
