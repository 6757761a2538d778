"""The protocols a plugin may implement: plain classes, looked up by name, never called through pluggy.

Each entry says who makes it, who calls it, how often and on which thread ("the engine thread" owns sequences and KV
slots; "the event loop" is the server's). `hookspecs` says how to register one.
"""
from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from llamafw.types import (
    BackendOptions,
    Batch,
    Bytes,
    Candidates,
    Decoder,
    Delta,
    Embedding,
    EmbedRequest,
    EngineStats,
    Floats,
    GenerateRequest,
    GrammarSource,
    JsonSchema,
    Model,
    SlotStatus,
    SystemPrompt,
    ToolCall,
)

if TYPE_CHECKING:
    from starlette.requests import Request

    from llamafw.settings import Settings


class Register(Protocol):
    """Adds one thing under a name. A name that is taken is an error naming both distributions."""
    def __call__(self, name: str, thing: Any, /) -> None: ...


# --- sampling ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SamplerContext:
    """What a sampler may know of the request it serves."""

    prompt: Sequence[int]
    n_vocab: int
    n_ctx: int
    tokenizer: Tokenizer
    min_keep: int = 0  # leave at least so many candidates, if there are


class Sampler(Protocol):
    """Reweighs or removes candidates, for one request. Called on the engine thread, per token."""

    def apply(self, candidates: Candidates) -> None:
        """Change ``candidates`` in place; leave at least one."""

    def accept(self, token: int) -> None:
        """Take note that ``token`` was drawn. Called once per generated token, after the chain."""


class SamplerPlugin(Protocol):
    """What is registered as a sampler: usually the sampler's class. ``create`` runs on the event loop, per request."""

    options: ClassVar[JsonSchema]
    """The request fields it reads: field → JSON Schema, each with a ``default``.

    They become fields of every generating operation in the API document."""

    truncates: ClassVar[bool]
    """True if all it does is remove unlikely candidates: left out at temperature ≤ 0, where the likeliest wins."""

    @classmethod
    def create(cls, options: Mapping[str, Any], context: SamplerContext) -> Sampler | None:
        """Return a sampler for one request; None if with these options it would change nothing.

        Parameters
        ----------
        options : mapping
            The request's values of the declared fields, defaults filled in, validated.
        """


class Grammar(Protocol):
    """Where one answer is within what it may be. Made per answer; called on the engine thread, per token."""

    @property
    def ended(self) -> bool:
        """Whether the answer is whole and nothing may follow."""

    def accept(self, token: int) -> bool:
        """Go on by ``token`` if it may come next; False, and nothing has changed, if not.

        End-of-generation tokens may come where the answer may end.
        """

    def mask(self, logits: Floats) -> None:
        """Set the logits, ``(n_vocab,)`` float32, of all tokens that may not come next to −inf."""


@dataclass(frozen=True, slots=True)
class GrammarContext:
    """What a grammar compiler is made from."""

    tokenizer: Tokenizer
    n_vocab: int  # logits that masks are for


class GrammarCompiler(Protocol):
    """Compiles one kind of source. Made once per model, when first asked for; called on worker threads."""

    def compile(self, source: str) -> Grammar:
        """Return the grammar, at its start.

        Raises
        ------
        RequestError
            The source is wrong, too complex, or holds what cannot be enforced. ``param`` is a path within it, if any.
        """


GrammarFactory = Callable[[GrammarContext], GrammarCompiler]


# --- text -------------------------------------------------------------------------------------------


class Tokenizer(Protocol):
    """Text to tokens and back. Made once per model; called on any thread, so it must not change."""

    n_vocab: int
    bos: int | None
    eos: int | None
    eog: frozenset[int]  # every token that ends a generation
    add_bos: bool
    add_eos: bool
    fim: Mapping[str, int]  # for filling in the middle: "pre", "suf", "mid", "rep", "sep", as far as the model has them

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        """Return the tokens of ``text``.

        Parameters
        ----------
        add_special : bool
            Add BOS and EOS as the model wants them.
        parse_special : bool
            Read the text of special tokens (``<|im_end|>``) as these tokens; otherwise as plain text.
        """

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of one token; ``b""`` for control tokens unless ``special``."""

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ``tokens``; bytes that are no UTF-8 become U+FFFD."""


class ChatFormat(Protocol):
    """Writes a conversation as a prompt. Made once per model; called on worker threads."""

    source: str  # the template's text, for /props

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Return the prompt.

        Raises
        ------
        RequestError
            The template refused the conversation, failed, took too long or wrote too much.
        """


@dataclass(frozen=True, slots=True)
class ChatContext:
    """What a chat format is made from."""

    bos_token: str = ""
    eos_token: str = ""
    template: str | None = None  # for formats that are a template


ChatFormatFactory = Callable[[ChatContext], ChatFormat]


class ToolParser(Protocol):
    """Finds calls of tools in one answer's text as it arrives. Made per answer; called on the event loop, per delta."""

    def feed(self, text: str) -> tuple[str, Sequence[ToolCall]]:
        """Take in more text; return the plain text and the whole calls that are now certain."""

    def finish(self) -> tuple[str, Sequence[ToolCall]]:
        """Return what was held back: the answer has ended. What is no call after all is text."""


class ToolParserPlugin(Protocol):
    """What is registered as a tool parser: one way in which models write calls. On worker threads and the event loop.

    Tools are as OpenAI describes them: ``{"type": "function", "function": {"name", "description", "parameters"}}``.
    """

    def matches(self, template: str) -> bool:
        """Return whether models with this chat template write calls this way."""

    def create(self) -> ToolParser:
        """Return a parser for one answer."""

    def grammar(self, tools: Sequence[Mapping[str, Any]], *, parallel: bool) -> str:
        """Return a Lark grammar of answers that are a call, or several, and nothing else."""

    def inline(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> Sequence[Mapping[str, Any]]:
        """Write tools, calls and results into the text of messages, for a chat template that knows none of them."""


# --- models -----------------------------------------------------------------------------------------


class Quant(Protocol):
    """A ggml tensor type: how its bytes are laid out and what they mean. Called while a model loads."""

    @property
    def name(self) -> str:
        """The type's name: ``"Q4_1"``."""

    @property
    def type_id(self) -> int:
        """Its number in GGUF files."""

    @property
    def block_size(self) -> int:
        """Weights per block."""

    @property
    def type_size(self) -> int:
        """Bytes per block."""

    def dequantize(self, data: Bytes, shape: Sequence[int]) -> Floats:
        """Return the weights, exactly, as float32 of ``shape``."""


class Architecture(Protocol):
    """Reads a model's metadata into a description that backends run. Called once per model."""

    def __call__(self, model: Model) -> Decoder:
        """Return the description; ModelError if metadata or tensors are missing or impossible."""


class Backend(Protocol):
    """Runs a model. Made once per model; called on the engine thread, one call at a time.

    The logits of a token depend on the tokens of its own slot up to it, and on nothing else, to the last bit:
    not on other slots, on how the prompt was cut into batches, or on the number of threads.
    """

    n_slots: int
    n_ctx: int  # positions per slot
    n_vocab: int
    n_batch: int  # most tokens in one batch
    n_embd: int  # of hidden states

    def forward(self, batch: Batch) -> Floats:
        """Return ``(len(batch.outputs), n_vocab)`` float32 logits, the caller's to write into until the next call.

        Calling it twice with the same batch is allowed and gives the same result.
        """

    def hidden(self, batch: Batch) -> Floats:
        """Return the hidden states after the output norm, ``(len(batch.outputs), n_embd)`` float32, instead of logits.

        What is said of `forward` holds here too.
        """

    def truncate(self, slot: int, n: int) -> None:
        """Forget what ``slot`` holds from position ``n`` on."""

    def shift(self, slot: int, first: int, n: int) -> None:
        """Forget positions ``first`` … ``first + n - 1`` of ``slot``; what follows moves down, keys turned for it."""

    def save(self, slot: int, n: int) -> Bytes:
        """Return the state of the first ``n`` positions of ``slot``, a copy, ``(n_bytes,)``."""

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        """Let ``slot``, any slot, hold the ``n`` positions that `save` returned, and nothing else, to the last bit.

        Raises
        ------
        LlamafwError
            The state does not fit; nothing has changed.
        """

    def describe(self) -> Mapping[str, Any]:
        """Return facts for logs and ``llamafw bench``: ``n_threads``, ``weight_bytes`` read per token …"""

    def close(self) -> None:
        """Stop threads, free memory. Nothing else is called afterwards."""


@dataclass(frozen=True, slots=True)
class BackendContext:
    """What a backend is made from."""

    model: Model
    decoder: Decoder
    options: BackendOptions
    quants: Mapping[str, Quant]  # by name, of every plugin
    log: Callable[[str], None] = field(default=lambda line: None)  # progress for people


BackendFactory = Callable[[BackendContext], Backend]


# --- serving ----------------------------------------------------------------------------------------


class Engine(Protocol):
    """Answers requests, many at a time. Its methods are called on the event loop."""

    n_slots: int
    n_ctx: int
    failed: bool  # nothing can be answered any more; `GET /health` says so

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Yield the answer piece by piece; the last delta has ``finish``. Closing the generator cancels the request."""

    async def embed(self, request: EmbedRequest) -> Embedding:
        """Return the embedding of a text. Cancelling the call cancels the request."""

    def stats(self) -> EngineStats:
        """Return the counts since the start."""

    def slots(self) -> Sequence[SlotStatus]:
        """Return what each slot is doing."""

    async def save_slot(self, id: int, path: Path) -> tuple[int, int]:
        """Write the cache of a slot to a file, once nobody uses it; return its tokens and the bytes written."""

    async def restore_slot(self, id: int, path: Path) -> tuple[int, int]:
        """Read what `save_slot` wrote; return its tokens and the bytes read. RequestError if it is wrong or foreign."""

    async def erase_slot(self, id: int) -> int:
        """Empty the cache of a slot, once nobody uses it; return how many tokens it held."""

    async def stop(self, grace: float) -> None:
        """Refuse new requests, let running ones finish for ``grace`` seconds, cut the rest, close the backend."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model, ready to answer."""

    name: str  # as clients know it: --alias, or the file's name
    model: Model
    decoder: Decoder | None  # None: what the hook `create_engine` returned runs it
    tokenizer: Tokenizer
    chat: ChatFormat
    engine: Engine
    tool_parser: ToolParserPlugin | None = None  # None: no plugin offers one
    grammar: GrammarSource | None = None  # what requests are held to that say nothing of it
    system_prompt: SystemPrompt = SystemPrompt()


@runtime_checkable
class App(Protocol):
    """The running server, as endpoints see it. One per process; used on the event loop."""

    settings: Settings
    document: Mapping[str, Any]  # the merged API document
    document_json: bytes  # the same, as JSON
    samplers: Mapping[str, SamplerPlugin]  # of every plugin

    @property
    def loaded(self) -> LoadedModel:
        """The model; raises Unavailable while it is loading."""

    def set_system_prompt(self, text: str) -> None:
        """Put ``text`` before every prompt from now on."""
    def prepare(self, body: Mapping[str, Any], prompt: Sequence[int]) -> GenerateRequest:
        """Return what ``prepare_request`` makes of a validated native request body and its tokenised prompt."""


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, validated against the API document."""

    body: Any  # parsed JSON; None without a body
    path: Mapping[str, Any]  # path parameters, typed
    query: Mapping[str, Any]  # query parameters, typed; those the document does not know are text
    http: Request  # starlette's, for headers and the client


Endpoint = Callable[[Call], Awaitable[Any]]
"""An endpoint returns a starlette Response, or anything orjson can write, which becomes a 200."""
