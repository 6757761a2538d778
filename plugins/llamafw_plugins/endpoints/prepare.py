"""Turn a native request body and its prompt's tokens into a `GenerateRequest`.

Independent of HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import App, GenerateRequest, NotSupported, RequestError, SamplerPlugin, Settings, read_sampler_names
from llamafw_plugins.endpoints.adapters import chosen_scales
from llamafw_plugins.endpoints.choices import N_SEEDS
from llamafw_plugins.endpoints.logit_bias import read_logit_bias
from llamafw_plugins.endpoints.structured import read_grammar
from llamafw_plugins.endpoints.unsupported import refuse_generation_fields
from llamafw_plugins.samplers.order import MIROSTAT_ORDER, default_order, with_last

RANDOM_SEEDS = (-1, 2**32 - 1)  # for llama-server, both mean a random seed
MAX_STOP_CHARACTERS = 16384  # of all stop strings together: the event loop prepares the search for them
N_PREDICT_FIELDS = ("n_predict", "max_completion_tokens", "max_tokens")  # synonyms; the first that is given wins


def build_request(body: Mapping[str, Any], prompt: Sequence[int], app: App) -> GenerateRequest:
    """Return the request for the engine.

    Fields that are absent or null get the server's defaults: those of flags, else those that the model recommends.

    Parameters
    ----------
    body : mapping
        A validated request body of any generating operation.
    prompt : sequence of int
        The request's own tokens, without the server's system prompt.

    Raises
    ------
    NotSupported
        The server was started for embeddings only.
    RequestError
        A field is not supported, the model only embeds, a token does not exist, or ``stop`` is too long. The engine
        checks samplers and slots.
    """
    if app.settings.embedding:
        raise NotSupported("This server does not support completions. Start it without `--embeddings`")
    refuse_generation_fields(body)
    loaded = app.loaded
    if any(body.get("model") == model.name for model in loaded.all[1:]):
        raise RequestError(f"the model {body['model']!r} cannot generate; use {loaded.name!r}", param="model")
    defaults = {**loaded.sampling, **app.settings.request_defaults()}

    def value(field: str, default: Any) -> Any:
        given = body.get(field)
        return defaults.get(field, default) if given is None else given

    n_keep, options = int(value("n_keep", 0)), sampler_options(body, app.samplers, defaults)
    n_probs = int(value("n_probs", 0))
    return GenerateRequest(
        prompt=loaded.whole_prompt(prompt),
        n_predict=max_new_tokens(body, app.settings.predict),
        stop=stop_strings(value("stop", ())),
        samplers=MIROSTAT_ORDER if options.get("mirostat") else sampler_names(body.get("samplers"), options, app),
        options=options,
        min_keep=int(value("min_keep", 0)),
        seed=read_seed(int(value("seed", -1))),
        logit_bias=app.settings.logit_biases() | read_logit_bias(body.get("logit_bias"), loaded.tokenizer),
        ignore_eos=value("ignore_eos", False),
        cache_prompt=value("cache_prompt", True),
        n_cache_reuse=int(value("n_cache_reuse", 0)),
        id_slot=int(value("id_slot", -1)),
        n_probs=n_probs,
        logprobs=n_probs > 0,
        post_sampling_probs=value("post_sampling_probs", False),
        grammar=read_grammar(body, loaded.grammar),
        context_shift=app.settings.context_shift and app.settings.grp_attn_n == 1,
        truncate_prompt=_truncate_prompt(value("truncate_prompt", False), app.settings),
        n_keep=n_keep if n_keep < 0 else n_keep + len(loaded.system_prompt.tokens),
        n_discard=int(value("n_discard", 0)),
        t_max_predict_ms=max(value("t_max_predict_ms", 0), 0) or None,
        deadline_ms=value("deadline_ms", None),
        special=app.settings.special,
        draft_n_max=optional_int(body.get("speculative.n_max")),
        draft_n_min=optional_int(body.get("speculative.n_min")),
        draft_p_min=body.get("speculative.p_min"),
        return_progress=bool(body.get("stream") and body.get("return_progress")),
        timings_per_token=bool(body.get("stream") and body.get("timings_per_token")),
        lora=chosen_scales(body, "lora", loaded),
        control_vectors=chosen_scales(body, "control_vectors", loaded),
    )


def optional_int(value: float | None) -> int | None:
    """Return an integer that JSON may hold as a float, or None."""
    return None if value is None else int(value)


def read_seed(seed: int) -> int | None:
    """Return a seed of 32 bits for a seed of any size, or None if the seed is to be random."""
    return None if seed in RANDOM_SEEDS else seed % N_SEEDS


def _truncate_prompt(requested: bool, settings: Settings) -> bool:
    """Return whether a prompt that does not fit is truncated; RequestError if it cannot be."""
    if requested and settings.grp_attn_n != 1:
        message = "truncate_prompt is not possible on this server: it was started with self-extend (--grp-attn-n)"
        raise RequestError(message, param="truncate_prompt")
    return requested


def max_new_tokens(body: Mapping[str, Any], flag: int | None) -> int:
    """Return the maximum number of tokens to generate.

    Parameters
    ----------
    flag : int, optional
        The value of ``-n``, which is the default and the upper limit.
    """
    requested = next((int(body[field]) for field in N_PREDICT_FIELDS if body.get(field) is not None), None)
    if requested is None:
        return -1 if flag is None else flag
    if flag is None or flag < 0:
        return requested
    return flag if requested < 0 else min(requested, flag)


def stop_strings(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return the stop strings of a request.

    Raises
    ------
    RequestError
        The strings are too long.
    """
    strings = (value,) if isinstance(value, str) else tuple(value)
    if sum(map(len, strings)) > MAX_STOP_CHARACTERS:
        message = f"the strings of stop must have at most {MAX_STOP_CHARACTERS} characters together"
        raise RequestError(message, param="stop")
    return strings


def sampler_names(requested: str | Sequence[str] | None, options: Mapping[str, Any], app: App) -> tuple[str, ...]:
    """Return the samplers in the order of use: the request's, the flag's, the model's or the default ones.

    The default order includes other samplers if the request changes one of their options; see `default_order`.

    Raises
    ------
    RequestError
        A letter stands for no sampler.
    """
    try:
        names = app.settings.sampler_names() if requested is None else read_sampler_names(requested)
    except ValueError as error:
        raise RequestError(f"samplers: {error}", param="samplers") from None
    if names is None:
        names = app.loaded.sampling.get("samplers")
    return default_order(app.samplers, options) if names is None else with_last(names)


def sampler_options(
    body: Mapping[str, Any], samplers: Mapping[str, SamplerPlugin], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the value of each sampler option: the request's, else the server's default, else the sampler's."""
    options: dict[str, Any] = {}
    for plugin in samplers.values():
        for field, schema in plugin.options.items():
            given = body.get(field)
            value = defaults.get(field, schema.get("default")) if given is None else given
            options[field] = int(value) if schema.get("type") == "integer" and value is not None else value
    return options
