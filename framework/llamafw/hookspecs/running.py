"""Hooks that are called for the server, its models and requests, and when something has happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamafw.hookspecs.markers import hookspec
from llamafw.interfaces import ChatFormat, Register, Tokenizer
from llamafw.serving import App, Engine
from llamafw.types import Finish, GenerateRequest, Model, Problem

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from llamafw.graph import Graph
    from llamafw.settings import Settings

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
def read_tokenizer(path: Path, n_vocab: int) -> Mapping[str, Any] | None:
    """Read the tokenizer of a Hugging Face checkpoint.

    First, once per checkpoint, on the loading thread.

    Parameters
    ----------
    path : Path
        The checkpoint's folder.
    n_vocab : int
        Number of tokens that the model has embeddings for.

    Returns
    -------
    mapping or None
        The metadata ``tokenizer.ggml.*`` that a GGUF file of the model has, with ``n_vocab`` tokens. None: this plugin
        does not know the files.
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
    is ``numba``. The built-in plugin returns ``onnx`` if ONNX Runtime can use a GPU.
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
    """React to a model that is ready: ``app.loaded`` has it, or ``app.loaded.all`` if the server has several.

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
