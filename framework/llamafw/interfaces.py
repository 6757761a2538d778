"""The protocols a plugin may implement: plain classes, looked up by name, never called through pluggy.

Each entry says who makes it, who calls it, how often and on which thread ("the engine thread" owns sequences and KV
slots; "the event loop" is the server's). `hookspecs` says how to register one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from llamafw.types import (
    BackendOptions,
    Batch,
    Bytes,
    Candidates,
    Decoder,
    Floats,
    JsonSchema,
    Model,
    ToolCall,
)


class Register(Protocol):
    """Adds one thing under a name. A name that is taken is an error naming both distributions."""

    def __call__(self, name: str, thing: Any, /) -> None: ...


# --- sampling ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SamplerContext:
    """What a sampler may know of the request it serves."""

    prompt: Sequence[int]  # its tokens
    n_vocab: int  # tokens of the model: candidates at the start
    n_ctx: int  # positions of a slot
    tokenizer: Tokenizer  # the model's
    min_keep: int = 0  # leave at least so many candidates, if there are
    seed: int = 0  # of the request; what a sampler draws comes from a generator of its own, seeded with it


class Sampler(Protocol):
    """Reweighs or removes candidates, for one request. Called on the engine thread, per token.

    If it has an attribute ``kernel``, a `Kernel`, this is called instead of `apply`, together with its neighbours'.
    """

    def apply(self, candidates: Candidates) -> None:
        """Change ``candidates`` in place; leave at least one."""

    def accept(self, token: int) -> None:
        """Take note that ``token`` was drawn. Called once per generated token, after the chain."""


class SamplerPlugin(Protocol):
    """What is registered as a sampler: usually the sampler's class. ``create`` runs on the event loop, per request.

    If it has an attribute ``precedes``, the name of another sampler, requests that name no samplers use it too, just
    before that one. Otherwise it is used where ``samplers`` names it.
    """

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
        context : SamplerContext
            The request that it is for.
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
        """Set those of the ``logits``, ``(n_vocab,)`` float32, to −inf whose tokens may not come next."""


@dataclass(frozen=True, slots=True)
class GrammarContext:
    """What a grammar compiler is made from."""

    tokenizer: Tokenizer  # the model's
    n_vocab: int  # logits that masks are for


class GrammarCompiler(Protocol):
    """Compiles one kind of source. Made once per model, when first asked for; called on worker threads."""

    def compile(self, source: str) -> Grammar:
        """Return the grammar that the text ``source`` describes, at its start.

        Raises
        ------
        RequestError
            The source is wrong, too complex, or holds what cannot be enforced. ``param`` is a path within it, if any.
        """


GrammarFactory = Callable[[GrammarContext], GrammarCompiler]
"""What is registered as a kind of grammar."""


# --- text -------------------------------------------------------------------------------------------


class Tokenizer(Protocol):
    """Text to tokens and back. Made once per model; called on any thread, so it must not change."""

    n_vocab: int  # tokens
    bos: int | None  # the token that begins a text, if the model has one
    eos: int | None  # the token that ends a text
    eog: frozenset[int]  # every token that ends a generation
    add_bos: bool  # the model wants BOS before prompts
    add_eos: bool  # the model wants EOS after prompts
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
        """Return the bytes of ``token``; ``b""`` for control tokens unless ``special``."""

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ``tokens``, control tokens only if ``special``; bytes that are no UTF-8 become U+FFFD."""


class ChatFormat(Protocol):
    """Writes a conversation as a prompt. Made once per model; called on worker threads."""

    source: str  # the template's text, for /props

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Return the prompt.

        Parameters
        ----------
        messages : sequence of mapping
            The conversation, as OpenAI's chat API has it: ``role``, ``content`` …
        add_generation_prompt : bool
            End with the words that an answer begins after.
        **variables
            What else the template may use: ``tools``, and what a request gives as ``chat_template_kwargs``.

        Raises
        ------
        RequestError
            The template refused the conversation, failed, took too long or wrote too much.
        """


@dataclass(frozen=True, slots=True)
class ChatContext:
    """What a chat format is made from."""

    bos_token: str = ""  # the text of BOS
    eos_token: str = ""  # the text of EOS
    template: str | None = None  # for formats that are a template


ChatFormatFactory = Callable[[ChatContext], ChatFormat]
"""What is registered as a chat format."""


class ToolParser(Protocol):
    """Finds calls of tools in one answer's text as it arrives. Made per answer; called on the event loop, per delta."""

    def feed(self, text: str) -> tuple[str, Sequence[ToolCall]]:
        """Take in more ``text``; return the plain text and the whole calls that are now certain."""

    def finish(self) -> tuple[str, Sequence[ToolCall]]:
        """Return what was held back: the answer has ended. What is no call after all is text."""


class ToolParserPlugin(Protocol):
    """What is registered as a tool parser: one way in which models write calls. On worker threads and the event loop.

    Tools are as OpenAI describes them: ``{"type": "function", "function": {"name", "description", "parameters"}}``.
    """

    def matches(self, template: str) -> bool:
        """Return whether models with this chat ``template`` write calls this way."""

    def create(self) -> ToolParser:
        """Return a parser for one answer."""

    def grammar(self, tools: Sequence[Mapping[str, Any]], *, parallel: bool) -> str:
        """Return a Lark grammar of answers that are a call of ``tools``, several if ``parallel``, and nothing else."""

    def inline(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> Sequence[Mapping[str, Any]]:
        """Return ``messages`` with ``tools``, calls and results as text, for a template that knows none of them."""


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
        """Return the weights in ``data``, whole blocks, ``(n_bytes,)`` uint8, exactly, as float32 of ``shape``."""


class Architecture(Protocol):
    """Reads a model's metadata into a description that backends run. Called once per model."""

    def __call__(self, model: Model) -> Decoder:
        """Return the description; ModelError if metadata or tensors are missing or impossible."""


class Backend(Protocol):
    """Runs a model. Made once per model; called on the engine thread, one call at a time.

    The logits of a token depend on the tokens of its own slot up to it, and on nothing else, to the last bit:
    not on other slots, on how the prompt was cut into batches, or on the number of threads.
    """

    n_slots: int  # sequences it holds at a time
    n_ctx: int  # positions per slot
    n_vocab: int  # logits per row
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
        """Let any ``slot`` hold the ``n`` positions whose ``state`` `save` returned, and nothing else, to the last bit.

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

    model: Model  # tensors by their names in the file
    decoder: Decoder  # what is to be computed
    options: BackendOptions  # as flags set them
    quants: Mapping[str, Quant]  # by name, of every plugin
    log: Callable[[str], None] = field(default=lambda line: None)  # progress for people


BackendFactory = Callable[[BackendContext], Backend]
"""What is registered as a backend. Called once per model, on the thread that loads it."""
