"""What travels between the rooms: plain values, frozen, without behaviour.

The one exception is `Candidates`, which samplers change in place.
This module knows nothing of plugins, files, HTTP or threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
"""Tokens, positions, slots: int32, as GGUF and llama.cpp have them."""

Floats = npt.NDArray[np.float32]
"""Logits, hidden states, weights: float32."""

Bytes = npt.NDArray[np.uint8]
"""What a file or a state holds, byte by byte."""

JsonSchema = Mapping[str, Any]
"""JSON Schemas by the names of the fields they describe, in the dialect of OpenAPI 3.0."""

StopType = Literal["none", "eos", "word", "limit"]
"""Why a generation ended: end-of-generation token, stop string, token, time or context limit."""

Pooling = Literal["none", "mean", "cls", "last", "rank"]
"""How the hidden states of a text's tokens become its embedding: all as they are, their mean, the first, the last."""


# --- models -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a model file, still in the file.

    ``shape`` is in numpy order, outermost first: a GGUF matrix with ``ne = [n_in, n_out]`` has
    shape ``(n_out, n_in)``. ``data`` is a read-only uint8 view of the file's bytes, ``(n_bytes,)``.
    """

    name: str  # "blk.0.attn_q.weight"
    shape: tuple[int, ...]
    type_name: str  # of the ggml type: "F32", "Q4_1" …
    data: Bytes


@dataclass(frozen=True, slots=True)
class Model:
    """A model file, opened: metadata in memory, tensors on disk."""

    path: Path  # the file, or folder
    metadata: Mapping[str, Any]  # GGUF keys; arrays are lists or numpy arrays
    tensors: Mapping[str, Tensor]  # by name
    n_bytes: int  # of all tensors


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoder-only transformer in the Llama family, as an `Architecture` describes it to backends.

    RMSNorm before attention and feed-forward, rotary positions, grouped-query attention, gated
    feed-forward. Tensor names follow GGUF; ``{layer}`` stands for the layer's number.
    """

    n_vocab: int  # rows of the output matrix
    n_ctx_train: int  # positions the model was trained on
    n_embd: int  # size of a hidden state
    n_layer: int  # blocks of attention and feed-forward
    n_head: int  # heads of Q
    n_head_kv: int  # heads of K and V; a divisor of n_head
    n_embd_head: int  # size of one head of Q, K and V
    n_ff: int  # size of the feed-forward layer
    norm_eps: float  # added to the mean square in RMSNorm
    rope_frequencies: npt.NDArray[np.float64]  # (n_rot // 2,) radians per position, scaling applied
    rope_magnitude: float  # factor on cos and sin (YaRN); 1.0 without
    rope_interleaved: bool  # True: pairs (0, 1), (2, 3) …; False: pairs (0, n/2), (1, n/2 + 1) …
    attention_scale: float  # factor on Q·K
    activation: Literal["silu"]  # of the gate
    tensors: Mapping[str, str]  # role → GGUF name; see `llamafw_plugins.architectures.llama`


# --- the forward pass -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass: token ``i`` belongs to ``slots[i]`` at ``positions[i]``.

    Tokens of one slot are adjacent, in order of position, and continue what the slot holds.
    """

    tokens: Ints  # (n,)
    positions: Ints  # (n,)
    slots: Ints  # (n,)
    outputs: Ints  # (m,) indices into the batch, ascending: the tokens whose logits are wanted


@dataclass(frozen=True, slots=True)
class ThreadOptions:
    """How the operating system is to run threads that compute."""

    cpus: frozenset[int] = frozenset()  # the processors they may use, by number; none: any
    strict: bool = False  # each has one of them for itself, in order
    priority: int = 0  # -1: low, 0: normal, 1: medium, 2: high, 3: realtime
    poll: int = 50  # how long they look out for work before they sleep, from 0 (not at all) to 100


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """What of a model is to lie on which GPU."""

    n_layers: int | None = None  # on GPUs; None: as the backend finds best
    split_mode: Literal["none", "layer", "row"] = "layer"  # how several GPUs share the model
    tensor_split: tuple[float, ...] = ()  # the share of each GPU, in any unit; none: as the backend finds best
    main_gpu: int = 0  # the one for all, with "none"; for intermediate results, with "row"
    kv_offload: bool = True  # False: the KV cache stays in host memory


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """How a backend is to run a model. A backend logs which of these it cannot follow."""

    n_slots: int = 1  # sequences held at a time
    n_ctx: int = 0  # positions per slot; 0: the model's training context
    n_batch: int = 2048  # most tokens in one call of forward
    n_ubatch: int = 512  # most tokens computed at once
    n_threads: int = 0  # for decoding; 0: one per physical core
    n_threads_batch: int = 0  # for prompts; 0: as n_threads
    cache_type_k: Literal["f16", "f32"] = "f16"  # how keys are stored
    cache_type_v: Literal["f16", "f32"] = "f16"  # how values are stored
    threads: ThreadOptions = ThreadOptions()  # for decoding
    threads_batch: ThreadOptions = ThreadOptions()  # for prompts
    numa: Literal["distribute", "isolate", "numactl"] | None = None  # how threads are spread over NUMA nodes
    lock_memory: bool = False  # keep the weights from being swapped out
    flash_attention: bool | None = None  # None: as the backend finds best
    gpu: GpuOptions = GpuOptions()  # what lies where
    extra: Mapping[str, Any] = field(default_factory=dict)  # what plugins' own flags were set to


# --- generation -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Candidates:
    """The tokens still in the running. Samplers shrink, reorder or reweigh them in place.

    ``ids[i]`` is a token and ``logits[i]`` its score. Samplers may replace both arrays and write into
    ``logits``, until the token is drawn; ``ids`` may be shared and is read-only. At least one candidate must remain.
    """

    ids: Ints  # (n,)
    logits: Floats  # (n,)
    sorted: bool = False  # True: logits are in descending order; a sampler that breaks it says so

    def find(self, tokens: Ints) -> tuple[Ints, Ints]:
        """Return at which indices some tokens are, and for each of these, which of the tokens is there.

        Parameters
        ----------
        tokens : (m,) int
            Each of them once. Those that are no candidates any more are not in the answer.
        """
        if not len(tokens):
            return np.empty(0, np.int32), np.empty(0, np.int32)
        if len(self.ids) > tokens.max() and np.array_equal(self.ids[tokens], tokens):
            return tokens, np.arange(len(tokens), dtype=np.int32)  # the whole vocabulary in order: token = index
        order = tokens.argsort()
        which = order[np.minimum(tokens.searchsorted(self.ids, sorter=order), len(tokens) - 1)]
        where = np.flatnonzero(tokens[which] == self.ids)
        return where.astype(np.int32), which[where].astype(np.int32)


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
class EmbedRequest:
    """What a client wants embedded. Validated, tokenised, and never changed."""

    prompt: tuple[int, ...]  # tokens
    pooling: Pooling = "mean"  # how one vector comes of many
    id_slot: int = -1  # -1: any
    cache_prompt: bool = False  # hidden states are not in the cache


@dataclass(frozen=True, slots=True)
class Embedding:
    """The embedding of one text, not normalised."""

    vectors: Floats  # (1, n_embd), or (n_prompt, n_embd) without pooling; a score, (1, 1), for "rank"
    n_prompt: int  # tokens of the prompt
    id_slot: int  # the slot that evaluated it


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
class EngineStats:
    """What an engine has done since its start, and what it is doing."""

    n_decode: int = 0  # forward passes
    n_busy_slots: int = 0  # the sum over them of slots in each
    prompt_tokens: int = 0  # evaluated
    prompt_tokens_cached: int = 0  # taken from a cache instead
    prompt_seconds: float = 0.0  # spent on prompts
    predicted_tokens: int = 0  # drawn
    predicted_seconds: float = 0.0  # spent on drawing them
    requests_processing: int = 0  # in a slot
    requests_deferred: int = 0  # waiting for one
    requests_rejected: int = 0  # refused, because too many were waiting
    cache_tokens: int = 0  # positions in use in all slots
    cache_size: int = 0  # positions of all slots
    prompt_cache_bytes: int = 0  # of states kept in memory
    prompt_cache_limit: int | None = 0  # None: there is none


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One slot, as it is now."""

    id: int  # from 0
    state: Literal["idle", "prompt", "generating"]  # what it does
    id_task: int  # counts the requests that slots were given to; -1: none yet
    n_tokens: int  # positions in its cache
    request: GenerateRequest | None = None  # the one it serves, or served last
    n_prompt: int = 0  # tokens of its prompt
    n_prompt_processed: int = 0  # evaluated, without those from the cache
    n_cached: int = 0  # tokens of the prompt taken from a cache
    n_decoded: int = 0  # tokens drawn
    n_remain: int = 0  # tokens that may follow; -1: any number
    stop_type: StopType = "none"  # how its last request ended
    stopping_word: str = ""  # the stop string that ended it


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


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as the client sees it."""

    status: int  # of HTTP
    message: str  # one sentence for the client
    type: str  # a stable word for programs: "invalid_request_error" …
    param: str | None = None  # the request field at fault, as a dotted path
    extra: Mapping[str, Any] = field(default_factory=dict)  # further members of the error object
    retry_after: int | None = None  # seconds; becomes a header


@dataclass(frozen=True, slots=True)
class User:
    """Who sends a request, as an authenticator knows them."""

    name: str  # unique among the users of this server
    facts: Mapping[str, Any] = field(default_factory=dict)  # what else is known: groups, limits …


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One plugin that was found, as listings show it."""

    name: str  # distribution:entry, or what --plugin was given
    distribution: str  # "?" for files and modules
    version: str  # of the distribution; "?" for files and modules
    state: Literal["active", "failed", "blocked"]  # failed: left out; blocked: by --no-plugin
    requires_api: str | None = None  # the versions of the API that it works with, if it says so
    kinds: Mapping[str, Sequence[str]] = field(default_factory=dict)  # what it has registered: kind → names
    hooks: Sequence[str] = ()  # that it implements
    options: JsonSchema = field(default_factory=dict)  # its own settings
    request_fields: JsonSchema = field(default_factory=dict)  # of requests that generate: its samplers' and its own
    load_ms: float = 0.0  # importing it, and registering what it has
    error: str | None = None  # why it was left out
