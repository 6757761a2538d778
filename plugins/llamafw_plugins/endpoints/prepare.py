"""A native request body and its tokens become a `GenerateRequest`. It knows nothing of HTTP, prompts or answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamafw import App, GenerateRequest, NotSupported, RequestError, SamplerPlugin
from llamafw_plugins.endpoints.logit_bias import read_logit_bias
from llamafw_plugins.endpoints.structured import read_grammar
from llamafw_plugins.endpoints.unsupported import refuse_generation
from llamafw_plugins.samplers.order import MIROSTAT_ORDER, default_order

RANDOM_SEEDS = (-1, 2**32 - 1)  # llama-server's two spellings of "draw one"
MAX_STOP = 16384  # characters of all stop strings together
N_PREDICT = ("n_predict", "max_completion_tokens", "max_tokens")  # one thing; the first that is given wins


def prepare(body: Mapping[str, Any], prompt: Sequence[int], app: App) -> GenerateRequest:
    """Return the request; fields that are absent or null get the server's defaults.

    Raises
    ------
    RequestError
        A field is not supported, a token does not exist, ``stop`` is too long. Samplers and slots the engine checks.
    """
    if app.settings.embedding:
        raise NotSupported("This server does not support completions. Start it without `--embeddings`")
    refuse_generation(body)
    loaded = app.loaded
    defaults = app.settings.request_defaults()

    def value(field: str, default: Any) -> Any:
        given = body.get(field)
        return defaults.get(field, default) if given is None else given

    n_keep, options = int(value("n_keep", 0)), sampler_options(body, app.samplers, defaults)
    seed = int(value("seed", -1))
    n_probs = int(value("n_probs", 0))
    return GenerateRequest(
        prompt=loaded.whole_prompt(prompt),
        n_predict=limit(body, app.settings.predict),
        stop=stop_strings(value("stop", ())),
        samplers=MIROSTAT_ORDER if options.get("mirostat") else sampler_names(body.get("samplers"), app),
        options=options,
        min_keep=int(value("min_keep", 0)),
        seed=None if seed in RANDOM_SEEDS else seed,
        logit_bias=app.settings.biases() | read_logit_bias(body.get("logit_bias"), loaded.tokenizer),
        ignore_eos=value("ignore_eos", False),
        cache_prompt=value("cache_prompt", True),
        id_slot=int(value("id_slot", -1)),
        n_probs=n_probs,
        logprobs=n_probs > 0,
        post_sampling_probs=value("post_sampling_probs", False),
        grammar=read_grammar(body, loaded.grammar),
        context_shift=app.settings.context_shift,
        n_keep=n_keep if n_keep < 0 else n_keep + len(loaded.system_prompt.tokens),
        n_discard=int(value("n_discard", 0)),
        t_max_predict_ms=value("t_max_predict_ms", None),
        deadline_ms=value("deadline_ms", None),
        special=app.settings.special,
        return_progress=bool(body.get("stream") and body.get("return_progress")),
        timings_per_token=bool(body.get("stream") and body.get("timings_per_token")),
    )


def limit(body: Mapping[str, Any], server: int | None) -> int:
    """Return the most tokens to generate. ``server``, the flag ``-n``, is the default and an upper bound."""
    given = next((int(body[field]) for field in N_PREDICT if body.get(field) is not None), None)
    if given is None:
        return -1 if server is None else server
    if server is None or server < 0:
        return given
    return server if given < 0 else min(given, server)


def stop_strings(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return the stop strings; RequestError if they are more than the event loop has time to prepare a search for."""
    strings = (given,) if isinstance(given, str) else tuple(given)
    if sum(map(len, strings)) > MAX_STOP:
        raise RequestError(f"the strings of stop have more than {MAX_STOP} characters together", param="stop")
    return strings


def sampler_names(given: Sequence[str] | None, app: App) -> tuple[str, ...]:
    """Return the samplers to apply, in order: the request's, else those of ``--samplers``, else the usual ones."""
    if given is None:
        named = app.settings.sampler_names()
        return default_order(app.samplers) if named is None else named
    return tuple(given)


def sampler_options(
    body: Mapping[str, Any], samplers: Mapping[str, SamplerPlugin], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fields of all samplers: the request's, else those that flags set, else the samplers' own defaults."""
    options: dict[str, Any] = {}
    for plugin in samplers.values():
        for field, schema in plugin.options.items():
            given = body.get(field)
            value = defaults.get(field, schema.get("default")) if given is None else given
            options[field] = int(value) if schema.get("type") == "integer" and value is not None else value
    return options
