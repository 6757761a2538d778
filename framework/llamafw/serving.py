"""The running server as plugins see it: its engine, its model, and the request that an endpoint answers.

The protocols of the parts of a model are in `llamafw.interfaces`. Nothing here is called on the engine thread.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from llamafw.graph import Graph
from llamafw.interfaces import ChatFormat, SamplerPlugin, Tokenizer, ToolParserPlugin
from llamafw.types import (
    AdapterKind,
    AdapterStatus,
    ChatCapabilities,
    Delta,
    Embedding,
    EmbedRequest,
    EngineStats,
    GenerateRequest,
    GrammarSource,
    Model,
    PluginInfo,
    Problem,
    SlotStatus,
    SystemPrompt,
    User,
)

if TYPE_CHECKING:
    from starlette.requests import Request

    from llamafw.settings import Settings


class Engine(Protocol):
    """Answers many requests at the same time.

    Created once per model on the loading thread, by the server or by the hook `create_engine`. All methods are called
    on the event loop.
    """

    n_slots: int  # requests that can run at the same time
    n_ctx: int  # positions per slot: the maximum length of prompt and response together
    failed: bool  # whether the engine can no longer answer; `GET /health` is then 503

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Answer ``request``: yield the text in pieces; the last one has ``finish``.

        Called once per generation. Closing the generator cancels the request.

        Raises
        ------
        RequestError
            The request cannot be answered. Raised by the call, or while the generator runs.
        """

    async def embed(self, request: EmbedRequest) -> Embedding:
        """Return the embedding that ``request`` asks for.

        Cancelling the call cancels the request.
        """

    def stats(self) -> EngineStats:
        """Return counts since the start, for ``GET /metrics``."""

    def slots(self) -> Sequence[SlotStatus]:
        """Return what each slot is doing, for ``GET /slots``."""

    async def save_slot(self, id: int, path: Path) -> tuple[int, int]:
        """Wait until slot ``id`` is free and write its cache to the file ``path``.

        Returns
        -------
        tuple of int
            The number of cached tokens, and the size of the file in bytes.
        """

    async def restore_slot(self, id: int, path: Path) -> tuple[int, int]:
        """Wait until slot ``id`` is free and read its cache from a file ``path`` that `save_slot` has written.

        Returns
        -------
        tuple of int
            The number of cached tokens, and the size of the file in bytes.

        Raises
        ------
        RequestError
            The file is damaged, or belongs to another model.
        """

    async def erase_slot(self, id: int) -> int:
        """Wait until slot ``id`` is free and empty its cache; return how many tokens it held."""

    async def stop(self, grace: float) -> None:
        """Stop the engine and close its backend.

        New requests are refused at once. Running ones have ``grace`` seconds to finish, then they end early.
        """


class AdapterControl(Protocol):
    """Changes the adapters of an engine.

    An engine that can have adapters provides it as the attribute ``adapters``.
    """

    def status(self, kind: AdapterKind) -> Sequence[AdapterStatus]:
        """Return the adapters that are loaded, in the order of their ids.

        Parameters
        ----------
        kind : {"lora", "control_vectors"}
            Which adapters.
        """

    def set_scales(self, chosen: Sequence[tuple[int, float]], kind: AdapterKind) -> None:
        """Set the scales for requests that do not choose any.

        Parameters
        ----------
        chosen : sequence of (int, float)
            Ids and scales; adapters that are not among them get 0.
        kind : {"lora", "control_vectors"}
            Which adapters.

        Raises
        ------
        RequestError
            There is no adapter with one of the ids; nothing has changed.
        """

    async def load(self, path: Path, scale: float) -> AdapterStatus:
        """Load a LoRA adapter.

        Parameters
        ----------
        path : Path
            A GGUF file, or a folder of PEFT.
        scale : float
            The scale for requests that do not choose one.

        Raises
        ------
        RequestError
            The file cannot be read, or does not fit the model.
        """

    async def unload(self, id: int) -> None:
        """Unload a LoRA adapter.

        Parameters
        ----------
        id : int
            Its id, which is not used again.

        Raises
        ------
        RequestError
            There is no such adapter.
        Unavailable
            A request uses it.
        """


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to answer requests."""

    name: str  # its id for clients: --alias, its name in the catalogue, or the name of its file
    model: Model  # the opened file
    graph: Graph | None  # None: an engine of a plugin runs the model (hook `create_engine`)
    tokenizer: Tokenizer  # converts text to tokens and back
    chat: ChatFormat  # renders conversations as prompts
    engine: Engine  # answers requests
    tool_parser: ToolParserPlugin | None = None  # None: no plugin provides one
    grammar: GrammarSource | None = None  # grammar of requests that do not set one
    system_prompt: SystemPrompt = SystemPrompt()  # text before every prompt
    chat_capabilities: ChatCapabilities = ChatCapabilities()  # what `chat` can do
    embedder: LoadedModel | None = None  # the model of --embedding-model
    reranker: LoadedModel | None = None  # the model of --reranking-model
    sampling: Mapping[str, Any] = field(default_factory=dict)  # defaults of request fields that the file recommends

    @property
    def all(self) -> tuple[LoadedModel, ...]:
        """This model, and the other models that the server has beside it."""
        return (self, *(model for model in (self.embedder, self.reranker) if model is not None))

    def whole_prompt(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens to evaluate: the system prompt, if there is one, and the request's own prompt.

        Parameters
        ----------
        prompt : sequence of int
            The request's own tokens. After a system prompt, a BOS token at their start is dropped.

        Returns
        -------
        tuple of int
            All tokens; ``prompt`` itself if it is a tuple and there is no system prompt.
        """
        before = self.system_prompt.tokens
        if not before:
            return tuple(prompt)  # no copy if it is a tuple: a prompt may have a million tokens
        return (*before, *(prompt[1:] if prompt and prompt[0] == self.tokenizer.bos else prompt))


@runtime_checkable
class App(Protocol):
    """The running server, as endpoints and hooks see it.

    There is one per process; use it on the event loop.
    """

    settings: Settings  # the settings that the server was started with
    document: Mapping[str, Any]  # the API document, with the parts of plugins
    document_json: bytes  # the same as JSON
    samplers: Mapping[str, SamplerPlugin]  # the samplers of all plugins, by name

    @property
    def installed(self) -> Sequence[PluginInfo]:
        """Every plugin that was found, in the order of loading."""

    @property
    def failures(self) -> Mapping[tuple[str, str], int]:
        """The number of failures since the start by plugin and place, such as ``("dist:entry", "request")`` → 2."""

    @property
    def loaded(self) -> LoadedModel:
        """The model.

        While it is loading, this raises `Unavailable`, which clients see as 503.
        """

    async def set_system_prompt(self, text: str) -> None:
        """Put ``text`` before every prompt from now on.

        Running requests are not affected.
        """

    def prepare(self, body: Mapping[str, Any], prompt: Sequence[int]) -> GenerateRequest:
        """Return the request that the hook `prepare_request` makes of a body and a prompt.

        Parameters
        ----------
        body : mapping
            A validated request body, with the names of the native API.
        prompt : sequence of int
            The request's own tokens, without the system prompt.

        Raises
        ------
        RequestError
            A plugin refuses the request, or no plugin prepares requests.
        """


@dataclass(frozen=True, slots=True)
class Credentials:
    """The part of a request that identifies its client."""

    keys: tuple[str, ...]  # of ``Authorization: Bearer`` and ``X-Api-Key``, decoded as latin-1; empty without them
    http: Request  # starlette's request, for other headers and the client's address


class Authenticator(Protocol):
    """Identifies clients by their credentials.

    Registered once, while the server is built. Called on the event loop, once per request to an operation that
    is not public.
    """

    async def authenticate(self, credentials: Credentials) -> User | None:
        """Return the user to whom the ``credentials`` belong.

        None: this authenticator does not know them, and the next one is asked. If none knows them, the request is
        a 401.

        Raises
        ------
        RequestError
            The request is refused, whatever other authenticators say: `Forbidden`, `TooManyRequests` …
        """


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, validated against the API document."""

    body: Any  # the parsed JSON body; None without a body
    path: Mapping[str, Any]  # path parameters, converted to the types in the document
    query: Mapping[str, Any]  # query parameters, converted too; those that the document does not have are strings
    http: Request  # starlette's request, for headers and the client's address
    user: User | None = None  # the client; None: the operation is public, or the server has no authenticators
    ignored: list[str] = field(default_factory=list)  # fields without effect, for the header that names them; may grow


ErrorFormat = Callable[[Problem], tuple[int, Any]]
"""A function that returns the HTTP status and the JSON body of an error response: ``error_format(problem)``.

It is called on the event loop, once per failed request to the path for which it is registered or to a path below it,
whoever refuses the request, and even if no operation has the path. Of several registered paths, the longest counts.
Errors of other paths are ``{"error": {"code", "message", "type", …}}``.
"""

Endpoint = Callable[[Call], Awaitable[Any]]
"""A function that answers an operation: an ``async def`` that returns a starlette Response, or data for a 200.

It is called on the event loop, once per request. Data is whatever orjson can write as JSON. Any exception becomes an
error response: a `RequestError` with its status and message, anything else a 500. If the client disconnects, the
call is cancelled.
"""
