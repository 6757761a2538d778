"""Generation requests, and the responses to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

StopType = Literal["none", "eos", "word", "limit"]
"""Why a generation ended: end-of-generation token, stop string, token, time or context limit."""


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """What an answer is held to."""

    kind: str  # a registered grammar: "gbnf", "json_schema" …
    text: str  # the source, in that kind's language
    field: str = "grammar"  # of the request that it comes from, for errors


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """What a client wants generated. Validated, tokenised, and never changed."""

    prompt: tuple[int, ...]  # tokens
    n_predict: int = -1  # -1: until a stop; -2: until the context is full; 0: only evaluate the prompt
    stop: tuple[str, ...] = ()  # strings that end the answer and are not in it
    samplers: tuple[str, ...] = ()  # names, in order; a name may appear twice
    options: Mapping[str, Any] = field(default_factory=dict)  # of all samplers, by request field
    min_keep: int = 0  # candidates that every sampler leaves
    seed: int | None = None  # None: drawn anew
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # token → what is added to its logit; -inf forbids it
    ignore_eos: bool = False  # draw no token that ends a generation
    cache_prompt: bool = True  # reuse what caches hold of the prompt
    id_slot: int = -1  # -1: any
    n_probs: int = 0  # alternatives reported per token; with `logprobs`, 0 still reports the token itself
    logprobs: bool = False  # report the token's own log-probability
    post_sampling_probs: bool = False  # report probabilities after the samplers, not before
    grammar: GrammarSource | None = None  # what the answer is held to
    context_shift: bool = False  # when the context is full, drop tokens and go on, without end if need be
    n_keep: int = 0  # tokens of the start that are never dropped; -1: the whole prompt
    n_discard: int = 0  # tokens dropped at a time; 0: half of what may go
    t_max_predict_ms: float | None = None  # end at a newline this long after the first token
    deadline_ms: float | None = None  # end this long after arrival
    special: bool = False  # special tokens have their names as text, the one that ends the answer too
    prompt_logprobs: int | None = None  # alternatives reported per token of the prompt; None: no report
    return_progress: bool = False  # deltas tell how far the prompt has been evaluated
    timings_per_token: bool = False  # every delta with tokens has timings


@dataclass(frozen=True, slots=True)
class SystemPrompt:
    """What stands before every prompt."""

    text: str = ""  # as it was set
    tokens: tuple[int, ...] = ()  # BOS, if the model wants one, included


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability."""

    id: int  # the token
    logprob: float  # ≤ 0


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One generated token. ``piece`` are its own bytes, which need not be whole characters."""

    id: int  # the token
    piece: bytes
    logprob: float | None = None  # None: not asked for
    top: tuple[TokenLogprob, ...] = ()  # likeliest first


@dataclass(frozen=True, slots=True)
class Timings:
    """Counts of tokens and the milliseconds they took."""

    cache_n: int = 0  # prompt tokens from the cache
    prompt_n: int = 0  # prompt tokens evaluated, without those from the cache
    prompt_ms: float = 0.0  # to the first token drawn
    predicted_n: int = 0  # tokens drawn
    predicted_ms: float = 0.0  # from the first to the last
    queue_ms: float = 0.0  # waited for a slot


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """How far a prompt has been evaluated."""

    n_prompt: int  # tokens of the prompt
    n_cached: int  # taken from the cache
    n_processed: int  # evaluated, those from the cache included
    ms: float  # since the request got its slot


@dataclass(frozen=True, slots=True)
class Finish:
    """How a generation ended."""

    stop_type: StopType  # why
    stopping_word: str = ""  # the stop string that was found
    truncated: bool = False  # ended because the context was full
    n_prompt: int = 0  # tokens of the prompt
    n_cached: int = 0  # of these, taken from the cache
    n_predicted: int = 0  # tokens sampled, the end-of-generation token included
    id_slot: int = -1  # the slot that answered; -1: none
    seed: int = 0  # the one used
    timings: Timings = Timings()  # how long it took
    tokens: tuple[int, ...] = ()  # those sampled, in order


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of one answer. Text withheld so far (half a character, half a stop string) is not in it."""

    text: str  # whole characters
    tokens: tuple[GeneratedToken, ...] = ()  # those that the text is made of
    id_slot: int = -1  # the slot that answers; -1: none
    finish: Finish | None = None  # in the last delta only
    timings: Timings | None = None  # so far, if the request asks for them
    progress: PromptProgress | None = None  # likewise, in deltas of their own before the first token
    prompt: tuple[GeneratedToken, ...] = ()  # likewise: the prompt's tokens, the first without a log-probability


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants called."""

    id: str  # unique among the answer's calls
    name: str  # the tool's
    arguments: str  # JSON, an object
