"""Generation requests, and the responses to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llamafw.types.chat import Reasoning
from llamafw.types.client import Sender, current_sender

StopType = Literal["none", "eos", "word", "limit"]
"""Why a generation ended.

``eos``: end-of-generation token, or the end of the grammar; ``word``: a stop string; ``limit``: a limit on tokens,
time or context; ``none``: nothing could be generated.
"""


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """The grammar that constrains a response, or its end.

    Without ``after`` and ``at``, the grammar describes the whole response. With one of them, the response begins with
    any text, and the grammar describes the rest. With both, the strings of ``at`` count from where ``after`` ends.

    Strings are compared with the text of all tokens, including control tokens. A string may end within a token: then
    the grammar describes the rest of the token too, and tokens whose rest it forbids are not drawn.

    With ``after`` alone, the grammar's text has to come, so no end-of-generation token is drawn before it. With ``at``,
    a response may end before any of its strings.
    """

    kind: str  # name of a registered grammar: "gbnf", "json_schema" …
    text: str  # source text in that grammar's language
    field: str = "grammar"  # request field that the text came from, for error messages
    after: tuple[str, ...] = ()  # it starts after the first of these strings, which are not part of its text
    at: tuple[str, ...] = ()  # it starts with the first of these strings, which are part of its text

    def __post_init__(self) -> None:
        """Refuse empty strings, which every text contains."""
        if "" in self.after or "" in self.at:
            raise ValueError("`after` and `at` must not have empty strings")


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A validated, tokenised request to generate text.

    Immutable.
    """

    prompt: tuple[int, ...]  # tokens
    n_predict: int = -1  # maximum new tokens; -1: no limit, -2: until the context is full, 0: only evaluate the prompt
    stop: tuple[str, ...] = ()  # strings that end the response; not part of it
    samplers: tuple[str, ...] = ()  # names in the order of use; a name may appear twice
    options: Mapping[str, Any] = field(default_factory=dict)  # options of all samplers, by request field
    min_keep: int = 0  # minimum number of candidates that each sampler leaves
    seed: int | None = None  # None: random
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # token → value added to its logit; -inf forbids it
    ignore_eos: bool = False  # never draw an end-of-generation token
    cache_prompt: bool = True  # reuse cached prefixes of the prompt
    n_cache_reuse: int = 0  # also reuse parts that are cached at other positions, if they are as long; 0: no
    n_answer_start: int | None = None  # tokens at the end of a chat's prompt that its next turn may not repeat
    id_slot: int = -1  # -1: any slot
    n_probs: int = 0  # alternatives reported per token; with `logprobs`, 0 still reports the token itself
    logprobs: bool = False  # report the log-probability of each token
    post_sampling_probs: bool = False  # report probabilities after the samplers instead of before
    grammar: GrammarSource | None = None  # constrains the response, after its reasoning
    reasoning: Reasoning | None = None  # None: the response does not begin with reasoning
    visible: frozenset[int] = frozenset()  # control tokens that appear in the text
    context_shift: bool = False  # when the context is full, drop old tokens and continue
    truncate_prompt: bool = False  # cut the middle out of a prompt that does not fit, instead of refusing it
    n_keep: int = 0  # number of tokens at the start that are never dropped; -1: the whole prompt
    n_discard: int = 0  # tokens dropped at a time; 0: half of the tokens that may be dropped
    t_max_predict_ms: float | None = None  # end at the first newline later than this after the first token
    deadline_ms: float | None = None  # end this long after arrival
    special: bool = False  # show special tokens as text, including the one that ends the response
    prompt_logprobs: int | None = None  # alternatives reported per prompt token; None: no report
    return_progress: bool = False  # report progress while the prompt is evaluated
    timings_per_token: bool = False  # add timings to every delta that has tokens
    lora: tuple[tuple[int, float], ...] | None = None  # ids and scales of LoRA adapters; None: those of the server
    control_vectors: tuple[tuple[int, float], ...] | None = None  # the same, of control vectors
    draft_n_max: int | None = None  # maximum tokens of a draft; 0: no drafts, None: the server's setting
    draft_n_min: int | None = None  # drafts of fewer tokens are not used; None: the server's setting
    draft_p_min: float | None = None  # a draft ends before a token that is less probable; None: the server's setting
    sender: Sender = field(default_factory=current_sender)  # default: that of the HTTP request that is being answered


@dataclass(frozen=True, slots=True)
class SystemPrompt:
    """Text that is put before every prompt."""

    text: str = ""  # as the user set it
    tokens: tuple[int, ...] = ()  # includes BOS if the model needs it


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its log-probability."""

    id: int  # the token
    logprob: float  # natural logarithm, ≤ 0


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One generated token.

    ``piece`` holds its bytes, which may be an incomplete UTF-8 character.
    """

    id: int  # the token
    piece: bytes
    logprob: float | None = None  # None: not requested
    top: tuple[TokenLogprob, ...] = ()  # most likely alternatives, in descending order


@dataclass(frozen=True, slots=True)
class Timings:
    """Token counts of a request and the milliseconds spent on them."""

    cache_n: int = 0  # prompt tokens reused from a cache
    prompt_n: int = 0  # prompt tokens evaluated, without reused ones
    prompt_ms: float = 0.0  # from the start of evaluation to the first token drawn
    predicted_n: int = 0  # tokens drawn
    predicted_ms: float = 0.0  # from the first token drawn to the last
    queue_ms: float = 0.0  # time spent waiting for a slot
    draft_n: int = 0  # tokens of drafts that were evaluated
    draft_n_accepted: int = 0  # of these, tokens that were drawn


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """Progress of a prompt's evaluation."""

    n_prompt: int  # tokens of the prompt
    n_cached: int  # tokens reused from the cache
    n_processed: int  # tokens evaluated so far, including reused ones
    ms: float  # milliseconds since the request got its slot


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a generation: the reason, the counts and the timings."""

    stop_type: StopType  # the reason
    stopping_word: str = ""  # the stop string that was found
    truncated: bool = False  # the prompt was cut, or the context was full
    n_prompt: int = 0  # tokens of the prompt
    n_cached: int = 0  # prompt tokens reused from a cache
    n_predicted: int = 0  # tokens drawn, including the end-of-generation token
    n_reasoning: int = 0  # of these, tokens of reasoning
    id_slot: int = -1  # the slot that was used; -1: none
    seed: int = 0  # the seed that was used
    timings: Timings = Timings()  # counts and durations
    tokens: tuple[int, ...] = ()  # the tokens drawn, in order


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a response.

    Incomplete characters and possible stop strings are held back.
    """

    text: str  # whole characters
    tokens: tuple[GeneratedToken, ...] = ()  # the tokens that the text is made of
    id_slot: int = -1  # the slot that generates; -1: none
    finish: Finish | None = None  # only in the last delta
    timings: Timings | None = None  # timings so far, if requested
    progress: PromptProgress | None = None  # if requested, in separate deltas before the first token
    prompt: tuple[GeneratedToken, ...] = ()  # if requested: the prompt's tokens; the first has no log-probability


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of a tool call.

    The pieces of one call arrive in order, and before those of the next call.
    """

    index: int  # number of the call in the answer, from 0
    id: str  # unique within the answer; the same in all pieces
    name: str | None  # name of the tool, in the first piece; None in later pieces
    arguments: str  # the next characters of a JSON object


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """What the next piece of an answer's text adds: reasoning first, then text, then calls."""

    reasoning: str = ""  # what the model thinks before it answers
    text: str = ""  # the content of the answer
    calls: tuple[CallDelta, ...] = ()  # pieces of tool calls


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole tool call that the model has written."""

    id: str  # unique within the response
    name: str  # name of the tool
    arguments: str  # a JSON object
