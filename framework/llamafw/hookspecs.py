"""The hooks that a plugin can implement: the plugin author's manual.

A plugin is a module, an object, or a class without constructor arguments; of a class, the server creates one object. An
entry point in the group ``llamafw`` of an installed distribution can name any of these; ``llamafw serve --plugin``
loads a module or a ``.py`` file. The hooks of a module are its functions or, if none of them is a hook, the methods of
its one class that has hooks. A plugin marks its hooks with `llamafw.hookimpl`. A hook is a plain function, not
``async def``, and may take any subset of the parameters below, by name. There are two kinds of hooks:

- *All*: every plugin is called, in the order of loading: built-in ones, installed ones by name, those of ``--plugin``.
- *First*: plugins are asked in reverse order, built-in ones last, until one returns something other than None. None
  always means "not mine, ask the next one". Such a hook can be wrapped with ``@hookimpl(wrapper=True)``: the function
  yields once, receives the result of the other plugins from the ``yield``, and returns the final result.

Each docstring says which kind a hook is, how often it is called, and on which thread: the *main thread* at start-up,
before the server listens; the *loading thread* while a model loads and the server answers 503; or the *event loop*,
where all requests wait until the hook returns. No hook is called per token. docs/plugins/index.md says what happens
when a hook fails.
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

    from llamafw.graph import Graph
    from llamafw.settings import Settings

NAME = "llamafw"  #: name of the pluggy project and of the entry-point group
API_VERSION = "1.0.0"
"""Version of the hooks and of everything that `llamafw` exports, by https://semver.org; not the version of llamafw.

A plugin states the versions it works with beside its hooks: ``requires_api = ">=1.2,<2"``, a version specifier as in a
pyproject.toml. If the specifier excludes this version, the plugin is not loaded.
"""
hookspec = pluggy.HookspecMarker(NAME)
hookimpl = pluggy.HookimplMarker(NAME)


# --- settings and commands --------------------------------------------------------------------------


@hookspec
def configure(options: Mapping[str, Any]) -> None:
    """Receive the settings of this plugin.

    All, once, on the main thread, before any other hook. A plugin declares its options beside its hooks, as JSON
    Schemas: ``plugin_options = {"limit": {"type": "integer", "minimum": 1, "default": 60, "description": "…"}}``. Users
    set them with ``--plugin-option NAME.limit=9`` or in a table ``[plugin.NAME]`` of the file of ``--config``. Each
    plugin gets only its own settings: ``options`` has validated values by key. A key that was not set has its default;
    without a default it is absent.
    """


@hookspec
def add_options(parser: ArgumentParser) -> None:
    """Add command line flags to ``llamafw serve``.

    All, once, on the main thread, before flags are parsed. Each plugin gets a parser of its own. Values arrive as
    ``Settings.extra[dest]`` and ``BackendOptions.extra[dest]``; the ``dest`` of ``--my-flag`` is ``"my_flag"``. The
    flags are also keys of the file of ``--config``. A flag that exists already is a start-up error that names both
    plugins.
    """


@hookspec
def register_commands(register: Register) -> None:
    """Register commands: ``register("hello", main)`` makes ``llamafw hello``.

    All, once, on the main thread, at start-up. ``main(argv: list[str]) -> int`` gets the arguments after the command
    and returns the exit code.
    """


# --- what models and requests are made of -----------------------------------------------------------
#
# All of these are called on every plugin, once, on the main thread, at start-up. Registering must be cheap, because
# every command loads every plugin: import numba, jinja2, onnxruntime and the like inside what you register, not at the
# top of the module. A name that another plugin has registered is a start-up error that names both plugins.


@hookspec
def register_samplers(register: Register) -> None:
    """Register samplers, each a `llamafw.SamplerPlugin`, usually a class: ``register("top_k", TopK)``."""


@hookspec
def register_fields(register: Register) -> None:
    """Register request fields: ``register("choice", {"type": "array", …})``, with a JSON Schema.

    The field is added to every operation that generates text, validated and documented like any other. Its value is in
    the ``body`` of `prepare_request`.
    """


@hookspec
def register_chat_formats(register: Register) -> None:
    """Register chat formats: ``register("chatml", factory)``.

    ``factory(ChatContext) -> ChatFormat`` is called when ``--chat-template chatml`` names the format.
    """


@hookspec
def register_tool_parsers(register: Register) -> None:
    """Register tool parsers: ``register("hermes", Hermes())``.

    A tool parser is registered as a `llamafw.ToolParserPlugin`, usually an object. The first one that matches the
    model's chat template is used, otherwise ``hermes``; ``--tool-parser`` selects another.
    """


@hookspec
def register_grammars(register: Register) -> None:
    """Register kinds of grammars: ``register("gbnf", factory)``.

    ``factory(GrammarContext) -> GrammarCompiler`` is called when a request first names this kind in
    `GenerateRequest.grammar`.
    """


@hookspec
def register_tokenizers(register: Register) -> None:
    """Register tokenizers: ``register("gpt2", factory)``.

    The name is the value of ``tokenizer.ggml.model`` in the model's metadata. ``factory(metadata) -> Tokenizer`` is
    called when such a model loads.
    """


@hookspec
def register_architectures(register: Register) -> None:
    """Register architectures: ``register("llama", llama)``.

    The name is the value of ``general.architecture`` in the model's metadata. ``llama(model) -> Graph``, a
    `llamafw.Architecture`, is called when such a model loads.
    """


@hookspec
def register_operators(register: Register) -> None:
    """Register operators for graphs, each a `llamafw.Operator`: ``register("wkv7", Operator(Wkv7, …))``."""


@hookspec
def register_quants(register: Register) -> None:
    """Register tensor types by ggml's names, each a `llamafw.Quant` or `llamafw.Quantizer`: ``register("Q4_1", q)``."""


@hookspec
def register_backends(register: Register) -> None:
    """Register backends: ``register("numba", factory)``.

    ``factory(BackendContext) -> Backend`` is called when a model loads and ``--backend`` or `choose_backend` names it.
    """


@hookspec
def register_error_formats(register: Register) -> None:
    """Register formats of errors by path: ``register("/v1/things", error_format)``, each a `llamafw.ErrorFormat`."""


# --- the server -------------------------------------------------------------------------------------


@hookspec
def extend_openapi() -> Mapping[str, Any] | None:
    """Return a part of the API document.

    All, once, on the main thread, while the server is built; again if another plugin is disabled meanwhile. The result
    is an OpenAPI 3.0.3 document or fragment with ``paths``, ``components`` and ``tags``; None adds nothing. A path or
    name that the document has already is a start-up error that names both plugins. Every call must return the same.
    """


@hookspec
def register_endpoints(register: Register, app: App) -> None:
    """Register endpoints, the functions behind operations: ``register("createCompletion", create)``.

    All, once, on the main thread, while the server is built. An endpoint is an ``async def create(call: Call)``, see
    `llamafw.Endpoint`; its name is the ``operationId`` in the API document. Every operation must have exactly one
    endpoint, and every endpoint an operation. ``app`` is the running server; its model is loaded later, so use
    ``app.loaded`` only while a request is answered.
    """


@hookspec
def register_authenticators(register: Register, app: App) -> None:
    """Register authenticators: ``register("keys", Keys(path))``, each a `llamafw.Authenticator`.

    All, once, on the main thread, while the server is built. If there is an authenticator, a request gets a 401 unless
    one of them accepts its credentials or its operation is public. API keys are an authenticator, too. A plugin that is
    not configured to control access must register nothing. If the hook fails, start-up fails.
    """


@hookspec
def wrap_asgi(asgi: ASGIApp, app: App) -> ASGIApp | None:
    """Wrap the ASGI application.

    All, once, on the main thread, while the server is built. Use pure ASGI only: starlette's ``BaseHTTPMiddleware``
    hides disconnects of clients. If the hook fails, start-up fails.

    Parameters
    ----------
    asgi : ASGI application
        The application, wrapped by the plugins that were called before.
    app : App
        The running server.

    Returns
    -------
    ASGI application or None
        The new application; the last plugin's application is the outermost. None leaves ``asgi`` unchanged.
    """


# --- models -----------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def open_model(path: Path, settings: Settings) -> Model | None:
    """Open a model that is not a GGUF file.

    First, once per model, on the loading thread.

    Parameters
    ----------
    path : Path
        The file or folder.
    settings : Settings
        The server's settings.

    Returns
    -------
    Model or None
        The opened model. None: this plugin does not know the format. If all return None, the file is read as GGUF.
    """


@hookspec(firstresult=True)
def create_engine(
    model: Model, tokenizer: Tokenizer, settings: Settings, finished: Callable[..., None]
) -> Engine | None:
    """Create an engine for a model that runs elsewhere.

    First, once per model, on the loading thread.

    Parameters
    ----------
    model : Model
        The opened model.
    tokenizer : Tokenizer
        Its tokenizer.
    settings : Settings
        The server's settings.
    finished : callable
        The engine must call ``finished(request=…, finish=…)`` on the event loop when a generation has ended, which
        calls the hook `request_finished` of all plugins.

    Returns
    -------
    Engine or None
        None: this plugin does not run the model. If all return None, the built-in engine runs it with a backend.
    """


@hookspec
def rewrite_graph(model: Model, graph: Graph) -> Graph | None:
    """Return a changed graph of a model, or None to leave ``graph`` as it is.

    All, once per model, on the loading thread; for a GGUF file also on the main thread, before the server listens. Each
    plugin gets the graph that the plugin before it returned. `llamafw.graph.rewrite` replaces operators. A ModelError
    refuses the model; any other exception does so too, because the unchanged graph may be wrong.
    """


@hookspec(firstresult=True)
def choose_backend(model: Model, settings: Settings) -> str | None:
    """Return the name of the registered backend for a model, or None for no preference.

    First, once per model, on the loading thread; not called if ``--backend`` names one. If all return None, the backend
    is ``numba``.
    """


@hookspec(firstresult=True)
def choose_chat_format(model: Model, settings: Settings) -> ChatFormat | None:
    """Return the chat format of a model, or None for no preference.

    First, once per model, on the loading thread; not called if ``--chat-template`` names a registered chat format. If
    all return None, the built-in plugin uses the template of ``--chat-template``, or else the model's own template.
    """


# --- requests ---------------------------------------------------------------------------------------


@hookspec(firstresult=True)
def prepare_request(body: Mapping[str, Any], prompt: Sequence[int], app: App) -> GenerateRequest | None:
    """Turn a request body into a `GenerateRequest`.

    First, once per generation, on the event loop. To change every request, wrap the hook.

    Parameters
    ----------
    body : mapping
        The validated request body, with the names of the native API (``n_predict``, not ``max_tokens``).
    prompt : sequence of int
        The request's own tokens, without the server's system prompt.
    app : App
        The running server.

    Returns
    -------
    GenerateRequest or None
        None leaves the request to the next plugin. The built-in plugin prepares every request.

    Raises
    ------
    RequestError
        The request is refused.
    """


@hookspec(firstresult=True)
def explain_error(error: BaseException) -> Problem | None:
    """Choose the response to an error.

    First, once per failed request, on the event loop.

    Returns
    -------
    Problem or None
        Status, message and type. None: this plugin does not know the error. If all return None, a `RequestError`
        is answered with its own status and message, any other exception with 500.
    """


# --- events -----------------------------------------------------------------------------------------


@hookspec
def server_started(app: App) -> None:
    """React to the start of the server: it listens, and the model may still be loading.

    All, once, on the event loop.
    """


@hookspec
def model_loaded(model: Model, app: App) -> None:
    """React to a model that is ready: ``app.loaded`` has it.

    All, once per model, on the event loop.
    """


@hookspec
def request_finished(request: GenerateRequest, finish: Finish | None) -> None:
    """React to the end of a generation.

    All, once per `GenerateRequest` that the engine accepted, on the event loop. `llamafw.request_id` returns the id of
    the HTTP request to which the generation belongs.

    Parameters
    ----------
    request : GenerateRequest
        The request.
    finish : Finish or None
        The reason, token counts and timings. None: the generation failed, or the client disconnected.
    """


@hookspec
def model_unloaded(model: Model, app: App) -> None:
    """React to the end of a model: its engine has stopped and its memory is free.

    All, once per model, on the event loop.
    """


@hookspec
def server_stopping(app: App) -> None:
    """React to the end of the server: it accepts no more requests, and running ones have ended.

    All, once, on the event loop.
    """
