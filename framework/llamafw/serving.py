"""What serves, as plugins see it: an engine, the model, the application, one call. `interfaces` has their parts.

"The event loop" is the server's; nothing here is called on the engine thread.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from llamafw.interfaces import ChatFormat, SamplerPlugin, Tokenizer, ToolParserPlugin
from llamafw.types import (
    Decoder,
    Delta,
    Embedding,
    EmbedRequest,
    EngineStats,
    GenerateRequest,
    GrammarSource,
    Model,
    PluginInfo,
    SlotStatus,
    SystemPrompt,
    User,
)

if TYPE_CHECKING:
    from starlette.requests import Request

    from llamafw.settings import Settings


class Engine(Protocol):
    """Answers requests, many at a time. Its methods are called on the event loop."""

    n_slots: int  # requests it answers at a time
    n_ctx: int  # positions of a slot: the longest prompt and answer together
    failed: bool  # nothing can be answered any more; `GET /health` says so

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Yield the answer to ``request`` in pieces; the last has ``finish``. Closing the generator cancels it."""

    async def embed(self, request: EmbedRequest) -> Embedding:
        """Return the embedding that ``request`` asks for. Cancelling the call cancels the request."""

    def stats(self) -> EngineStats:
        """Return the counts since the start."""

    def slots(self) -> Sequence[SlotStatus]:
        """Return what each slot is doing."""

    async def save_slot(self, id: int, path: Path) -> tuple[int, int]:
        """Write the cache of slot ``id`` to the file ``path``, once nobody uses it; return its tokens and the bytes."""

    async def restore_slot(self, id: int, path: Path) -> tuple[int, int]:
        """Read what `save_slot` wrote to ``path`` into slot ``id``; return its tokens and the bytes read.

        Raises
        ------
        RequestError
            The file is wrong, or another model's.
        """

    async def erase_slot(self, id: int) -> int:
        """Empty the cache of slot ``id``, once nobody uses it; return how many tokens it held."""

    async def stop(self, grace: float) -> None:
        """Refuse new requests, let running ones finish for ``grace`` seconds, cut the rest, close the backend."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, ready to answer."""

    name: str  # as clients know it: --alias, or the file's name
    model: Model  # its file
    decoder: Decoder | None  # None: what the hook `create_engine` returned runs it
    tokenizer: Tokenizer  # text to tokens and back
    chat: ChatFormat  # conversations to prompts
    engine: Engine  # prompts to answers
    tool_parser: ToolParserPlugin | None = None  # None: no plugin offers one
    grammar: GrammarSource | None = None  # what requests are held to that say nothing of it
    system_prompt: SystemPrompt = SystemPrompt()  # what stands before every prompt

    def whole_prompt(self, prompt: Sequence[int]) -> tuple[int, ...]:
        """Return a prompt behind the system prompt, if there is one; BOS, which that has, does not come twice.

        Parameters
        ----------
        prompt : sequence of int
            A request's own tokens.

        Returns
        -------
        tuple of int
            The tokens that are evaluated.
        """
        before = self.system_prompt.tokens
        if not before:
            return tuple(prompt)  # itself, if it is one: there may be a megabyte of it
        return (*before, *(prompt[1:] if prompt and prompt[0] == self.tokenizer.bos else prompt))


@runtime_checkable
class App(Protocol):
    """The running server, as endpoints see it. One per process; used on the event loop."""

    settings: Settings  # as the server was started
    document: Mapping[str, Any]  # the merged API document
    document_json: bytes  # the same, as JSON
    samplers: Mapping[str, SamplerPlugin]  # of every plugin

    @property
    def installed(self) -> Sequence[PluginInfo]:
        """Every plugin that was found, in the order in which they were loaded."""

    @property
    def failures(self) -> Mapping[tuple[str, str], int]:
        """How often plugins have failed since the start, by plugin and place: ``("dist:entry", "request")`` → 2."""

    @property
    def loaded(self) -> LoadedModel:
        """The model; raises Unavailable while it is loading."""

    async def set_system_prompt(self, text: str) -> None:
        """Put ``text`` before every prompt from now on."""

    def prepare(self, body: Mapping[str, Any], prompt: Sequence[int]) -> GenerateRequest:
        """Return what ``prepare_request`` makes of ``body``, native and validated, and the tokens of its ``prompt``."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request says of its sender."""

    keys: tuple[str, ...]  # of ``Authorization: Bearer`` and ``X-Api-Key``, as far as they are there; bytes as latin-1
    http: Request  # starlette's, for other headers and the client's address


class Authenticator(Protocol):
    """Knows users. Made once, when the server is built; asked on the event loop, per request that is not public."""

    async def authenticate(self, credentials: Credentials) -> User | None:
        """Return who has these ``credentials``; None if they are nobody's here: then the next authenticator is asked.

        If nobody knows them the request is a 401.

        Raises
        ------
        RequestError
            The request is refused whoever else may know its sender: `Forbidden`, `TooManyRequests` …
        """


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, validated against the API document."""

    body: Any  # parsed JSON; None without a body
    path: Mapping[str, Any]  # path parameters, typed
    query: Mapping[str, Any]  # query parameters, typed; those the document does not know are text
    http: Request  # starlette's, for headers and the client
    user: User | None = None  # who sends it; None: the operation is public, or the server asks nobody


Endpoint = Callable[[Call], Awaitable[Any]]
"""An endpoint returns a starlette Response, or anything orjson can write, which becomes a 200."""
