"""Build the JSON parts that several responses share: token counts, timings, probabilities, settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, inf
from typing import Any

from llamafw import (
    AdapterControl,
    Delta,
    Finish,
    GeneratedToken,
    GenerateRequest,
    LoadedModel,
    Problem,
    StopType,
    Timings,
    Tokenizer,
)

JSON = dict[str, Any]

MIN_LOGPROB = -9999.0  # stands for minus infinity, which JSON cannot hold; OpenAI uses the same value


def stopped_json(stop_type: StopType) -> JSON:
    """Return llama-server's older fields for the reason why a generation ended."""
    return {f"stopped_{kind}": stop_type == kind for kind in ("eos", "word", "limit")}


def problem_text(problem: Problem) -> str:
    """Return the message of an error with the request field that is wrong, for formats without a member for it."""
    if problem.param is None or problem.param in problem.message:
        return problem.message
    return f"{problem.param}: {problem.message}"


def usage_json(groups: Iterable[Sequence[Finish]], *, chat: bool = False) -> JSON:
    """Return OpenAI's ``usage``.

    Parameters
    ----------
    groups : iterable of sequences of Finish
        The generations of each prompt. The tokens of a prompt count once.
    chat : bool
        Whether to report how many tokens are reasoning.
    """
    n_prompt = n_cached = n_predicted = n_reasoning = 0
    for group in groups:
        n_prompt += group[0].n_prompt
        n_cached += group[0].n_cached
        n_predicted += sum(finish.n_predicted for finish in group)
        n_reasoning += sum(finish.n_reasoning for finish in group)

    details = {"completion_tokens_details": {"reasoning_tokens": n_reasoning}} if chat else {}
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_predicted,
        "total_tokens": n_prompt + n_predicted,
        "prompt_tokens_details": {"cached_tokens": n_cached},
        **details,
    }


def timings_json(timings: Timings) -> JSON:
    """Return llama-server's ``timings``; rates are 0 if there were no tokens or no time passed.

    The first token is drawn when the time of the prompt ends, so the rate of generation is that of the others.
    """
    result: JSON = {"cache_n": timings.cache_n, "queue_ms": timings.queue_ms}
    phases = (
        ("prompt", timings.prompt_n, timings.prompt_n, timings.prompt_ms),
        ("predicted", timings.predicted_n, max(timings.predicted_n - 1, 0), timings.predicted_ms),
    )
    for name, n, n_timed, ms in phases:
        result[f"{name}_n"] = n
        result[f"{name}_ms"] = ms
        result[f"{name}_per_token_ms"] = ms / n_timed if n_timed else 0.0
        result[f"{name}_per_second"] = 1000 * n_timed / ms if ms > 0 else 0.0
    if timings.draft_n:
        result |= {"draft_n": timings.draft_n, "draft_n_accepted": timings.draft_n_accepted}
    return result


def progress_json(delta: Delta) -> JSON:
    """Return the ``timings`` and ``prompt_progress`` of a chunk, if the delta has them."""
    result = JSON()
    if delta.timings:
        result["timings"] = timings_json(delta.timings)
    if progress := delta.progress:
        result["prompt_progress"] = {
            "total": progress.n_prompt,
            "cache": progress.n_cached,
            "processed": progress.n_processed,
            "time_ms": progress.ms,
        }
    return result


def finite_logprob(logprob: float | None) -> float:
    """Return a log-probability that JSON can hold, from -9999 to 0; NaN and None become -9999."""
    if logprob is None or logprob != logprob:
        return MIN_LOGPROB
    return min(max(logprob, MIN_LOGPROB), 0.0)


def token_json(tokenizer: Tokenizer, token: int) -> JSON:
    """Return a token's id, text and bytes; the text of a special token is its name."""
    piece = tokenizer.piece(token, special=True)
    return {"id": token, "token": piece.decode("utf-8", "replace"), "bytes": list(piece)}


def chat_logprobs_json(tokens: Iterable[GeneratedToken], tokenizer: Tokenizer) -> list[JSON]:
    """Return the items of OpenAI's ``logprobs.content``."""

    def with_logprob(token: int, logprob: float | None) -> JSON:
        return {**token_json(tokenizer, token), "logprob": finite_logprob(logprob)}

    return [
        {
            **with_logprob(token.id, token.logprob),
            "top_logprobs": [with_logprob(other.id, other.logprob) for other in token.top],
        }
        for token in tokens
    ]


def completion_probabilities_json(
    tokens: Iterable[GeneratedToken], tokenizer: Tokenizer, *, post_sampling: bool
) -> list[JSON]:
    """Return llama-server's ``completion_probabilities``, with both its older and its newer fields."""
    key, top_key = ("prob", "top_probs") if post_sampling else ("logprob", "top_logprobs")

    def value(logprob: float | None) -> float:
        return exp(finite_logprob(logprob)) if post_sampling else finite_logprob(logprob)

    rows = []
    for token in tokens:
        top = [{**token_json(tokenizer, other.id), key: value(other.logprob)} for other in token.top]
        probs = [
            {"tok_str": item["token"], "prob": exp(finite_logprob(other.logprob))}
            for item, other in zip(top, token.top, strict=True)
        ]
        row = token_json(tokenizer, token.id)
        rows.append({**row, key: value(token.logprob), top_key: top, "content": row["token"], "probs": probs})
    return rows


def settings_json(request: GenerateRequest, loaded: LoadedModel, *, stream: bool) -> JSON:
    """Return llama-server's ``generation_settings``: the settings that were used for a request."""
    biases = dict(request.logit_bias)
    if request.ignore_eos:
        biases |= dict.fromkeys(sorted(loaded.tokenizer.eog), -inf)
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
        "truncate_prompt": request.truncate_prompt,
        "ignore_eos": request.ignore_eos,
        "post_sampling_probs": request.post_sampling_probs,
        "cache_prompt": request.cache_prompt,
        "priority": request.sender.priority,
        "lora": [{"id": id, "scale": scale} for id, scale in _lora_scales(request, loaded)],
        "grammar": request.grammar.text if request.grammar and request.grammar.kind == "gbnf" else "",
        "logit_bias": [[token, False if bias == -inf else bias] for token, bias in biases.items()],
    }


def _lora_scales(request: GenerateRequest, loaded: LoadedModel) -> Sequence[tuple[int, float]]:
    """Return the ids and scales of the LoRA adapters that a request uses."""
    if request.lora is not None:
        return request.lora
    control: AdapterControl | None = getattr(loaded.engine, "adapters", None)
    return [(one.id, one.scale) for one in control.status("lora")] if control else []
