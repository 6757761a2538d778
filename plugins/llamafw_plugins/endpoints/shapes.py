"""Parts that the responses of several operations share: counts, times, probabilities, settings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from math import exp, inf
from secrets import token_hex
from typing import Any

from llamafw import (
    Delta,
    Finish,
    GeneratedToken,
    GenerateRequest,
    LoadedModel,
    StopType,
    Timings,
    Tokenizer,
    __version__,
)

JSON = dict[str, Any]

LOGPROB_FLOOR = -9999.0  # JSON has no infinities; OpenAI writes this one too
FINGERPRINT = f"llamafw-{__version__}"


def head(prefix: str, kind: str, model: str) -> JSON:
    """Return the members that OpenAI's responses and chunks begin with."""
    return {
        "id": f"{prefix}-{token_hex(16)}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": FINGERPRINT,
    }


def finish_reason(finish: Finish) -> str:
    """Return OpenAI's name for the end of an answer."""
    return "length" if finish.stop_type == "limit" else "stop"


def stopped(stop_type: StopType) -> JSON:
    """Return llama-server's older members for the end of an answer."""
    return {f"stopped_{kind}": stop_type == kind for kind in ("eos", "word", "limit")}


def usage(groups: Iterable[Sequence[Finish]]) -> JSON:
    """Return OpenAI's ``usage``. Each group are the answers to one prompt, whose tokens count once."""
    n_prompt = n_cached = n_predicted = 0
    for group in groups:
        n_prompt += group[0].n_prompt
        n_cached += group[0].n_cached
        n_predicted += sum(finish.n_predicted for finish in group)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_predicted,
        "total_tokens": n_prompt + n_predicted,
        "prompt_tokens_details": {"cached_tokens": n_cached},
    }


def timings(times: Timings) -> JSON:
    """Return llama-server's ``timings``; rates of nothing are None."""
    shape: JSON = {"cache_n": times.cache_n, "queue_ms": times.queue_ms}
    phases = ("prompt", times.prompt_n, times.prompt_ms), ("predicted", times.predicted_n, times.predicted_ms)
    for name, n, ms in phases:
        shape[f"{name}_n"] = n
        shape[f"{name}_ms"] = ms
        shape[f"{name}_per_token_ms"] = ms / n if n else None
        shape[f"{name}_per_second"] = 1000 * n / ms if ms > 0 else None
    return shape


def on_the_way(delta: Delta) -> JSON:
    """Return what a chunk says of the run so far, if the request asks: ``timings`` and ``prompt_progress``."""
    shape = JSON()
    if delta.timings:
        shape["timings"] = timings(delta.timings)
    if done := delta.progress:
        shape["prompt_progress"] = {
            "total": done.n_prompt,
            "cache": done.n_cached,
            "processed": done.n_processed,
            "time_ms": done.ms,
        }
    return shape


def finite(logprob: float | None) -> float:
    """Return a logarithm of a probability that JSON can hold: from -9999 to 0."""
    if logprob is None or logprob != logprob:
        return LOGPROB_FLOOR
    return min(max(logprob, LOGPROB_FLOOR), 0.0)


def token_shape(tokenizer: Tokenizer, token: int) -> JSON:
    """Return a token's id, text and bytes; special tokens have their names."""
    piece = tokenizer.piece(token, special=True)
    return {"id": token, "token": piece.decode("utf-8", "replace"), "bytes": list(piece)}


def openai_logprobs(tokens: Iterable[GeneratedToken], tokenizer: Tokenizer) -> list[JSON]:
    """Return the items of OpenAI's ``logprobs.content``."""
    return [
        {
            **token_shape(tokenizer, token.id),
            "logprob": finite(token.logprob),
            "top_logprobs": [
                {**token_shape(tokenizer, other.id), "logprob": finite(other.logprob)} for other in token.top
            ],
        }
        for token in tokens
    ]


def native_probabilities(tokens: Iterable[GeneratedToken], tokenizer: Tokenizer, *, post_sampling: bool) -> list[JSON]:
    """Return llama-server's ``completion_probabilities``, with the members of its older and of its newer shape."""
    key, top_key = ("prob", "top_probs") if post_sampling else ("logprob", "top_logprobs")

    def value(logprob: float | None) -> float:
        return exp(finite(logprob)) if post_sampling else finite(logprob)

    rows = []
    for token in tokens:
        top = [{**token_shape(tokenizer, other.id), key: value(other.logprob)} for other in token.top]
        probs = [
            {"tok_str": shape["token"], "prob": exp(finite(other.logprob))}
            for shape, other in zip(top, token.top, strict=True)
        ]
        shape = token_shape(tokenizer, token.id)
        rows.append({**shape, key: value(token.logprob), top_key: top, "content": shape["token"], "probs": probs})
    return rows


def settings_shape(request: GenerateRequest, loaded: LoadedModel, *, stream: bool) -> JSON:
    """Return llama-server's ``generation_settings``: the request as it was understood."""
    return {
        **request.options,
        "n_ctx": loaded.engine.n_ctx,
        "n_predict": request.n_predict,
        "max_tokens": request.n_predict,
        "model": loaded.name,
        "seed": -1 if request.seed is None else request.seed,
        "stop": list(request.stop),
        "samplers": list(request.samplers),
        "stream": stream,
        "n_probs": request.n_probs,
        "min_keep": request.min_keep,
        "n_keep": request.n_keep,
        "n_discard": request.n_discard,
        "ignore_eos": request.ignore_eos,
        "post_sampling_probs": request.post_sampling_probs,
        "cache_prompt": request.cache_prompt,
        "grammar": request.grammar.text if request.grammar and request.grammar.kind == "gbnf" else "",
        "logit_bias": [[token, False if bias == -inf else bias] for token, bias in request.logit_bias.items()],
    }
