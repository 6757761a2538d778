"""Read the fields of requests that say how texts are embedded: by which model, with which prompt, and in which size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from llamafw import App, LoadedModel, NotSupported, Pooling, RequestError, Settings
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.endpoints.server import model_sizes

POOLINGS = ("none", "mean", "cls", "last", "rank")  # indexed by ARCH.pooling_type of GGUF files
PROMPT_KEY = "sentence_transformers.prompts."  # metadata: the text that a model wants before texts of some task
DEFAULT_PROMPT_KEY = "sentence_transformers.default_prompt"  # metadata: the task of texts for which none is named
DENSE_LAYERS = ("dense_3.weight", "dense_2.weight")  # tensors that change the size of embeddings, the last layer first

TASKS = {
    "search_query": "query", "retrieval.query": "query",
    "search_document": "document", "retrieval.passage": "document", "passage": "document",
}  # fmt: skip
"""Names of Cohere, Jina and NVIDIA for the tasks that every model has: name → task."""

Cut = Literal["none", "start", "end", "split"]
"""What happens to texts that are too long: an error, lose their start or their end, or are embedded in parts."""


@dataclass(frozen=True, slots=True)
class TextLimit:
    """The length of texts, and what happens to longer ones."""

    cut: Cut = "none"
    n_tokens: int | None = None  # None: as many as the model reads


def choose_embedder(app: App, name: str | None = None) -> LoadedModel:
    """Return the model that embeds texts: that of ``--embedding-model``, unless the request names the first one.

    Raises
    ------
    RequestError
        The request names the model of ``--reranking-model``.
    """
    loaded = app.loaded
    names = (loaded.name, *app.settings.alias)
    is_first = name is not None and (
        name in names or name.removesuffix(":latest") in names
    )  # Ollama's clients add tags
    chosen = loaded if loaded.embedder is None or is_first else loaded.embedder
    if name is not None and loaded.reranker is not None and name == loaded.reranker.name != chosen.name:
        raise RequestError(f"the model {name!r} only reranks; use {chosen.name!r}", param="model")
    return chosen


def choose_reranker(app: App, name: str | None = None) -> LoadedModel:
    """Return the model that reranks.

    Raises
    ------
    NotSupported
        The server was not started for that.
    RequestError
        The request names another model of this server.
    """
    settings, loaded = app.settings, app.loaded
    if loaded.reranker is not None:
        if name != loaded.reranker.name and name in (loaded.name, *app.settings.alias, *(m.name for m in loaded.all)):
            raise RequestError(f"the model {name!r} does not rerank; use {loaded.reranker.name!r}", param="model")
        return loaded.reranker
    if not (settings.reranking or (settings.pooling == "rank" and (settings.embedding or loaded.embedder))):
        raise NotSupported("This server does not support reranking. Start it with `--reranking`")
    return loaded.embedder or loaded


def choose_pooling(loaded: LoadedModel, flag: str | None) -> Pooling:
    """Return the pooling of ``--pooling``, else the model's.

    If neither says it, it is ``mean`` for encoders, and otherwise ``last``: the last token has seen the whole text.

    Raises
    ------
    NotSupported
        The pooling is ``rank``, which produces scores instead of embeddings.
    """
    metadata = loaded.model.metadata
    number = metadata.get(f"{metadata.get('general.architecture')}.pooling_type")
    name = flag or (POOLINGS[int(number)] if number is not None and 0 <= int(number) < len(POOLINGS) else None)
    if name is None:
        name = "last" if loaded.graph is None or loaded.graph.causal else "mean"
    if name == "rank":
        raise NotSupported("This server does not support embeddings: with `--pooling rank` it reranks")
    return cast("Pooling", name)


def choose_one_vector_pooling(loaded: LoadedModel, flag: str | None, advice: str) -> Pooling:
    """Return `choose_pooling`; RequestError with ``advice`` if a text then has several vectors."""
    pooling = choose_pooling(loaded, flag)
    if pooling == "none":
        raise RequestError(f"without pooling, a text has one embedding per token; {advice}")
    return pooling


def norm_order(body: JSON, pooling: Pooling, flag: int | None) -> int:
    """Return ``embd_normalize``.

    The default is ``flag``, else 2. Without pooling, it is -1.
    """
    value = body.get("embd_normalize")
    if value is None:
        value = -1 if pooling == "none" else 2 if flag is None else flag
    return int(value)


def choose_dimensions(body: JSON, loaded: LoadedModel, settings: Settings, field: str = "dimensions") -> int | None:
    """Return how many numbers of each vector to keep; None: all.

    Raises
    ------
    RequestError
        The model's embeddings cannot be shortened to this size.
    """
    size, n_embd = body.get(field), embedding_size(loaded)
    if size in (None, n_embd):
        return None
    metadata = loaded.model.metadata
    sizes = settings.embd_dimensions or metadata.get(
        f"{metadata.get('general.architecture')}.matryoshka_dimensions", ()
    )
    allowed = sorted({int(number) for number in sizes if number < n_embd}, reverse=True)
    if size not in allowed:
        others = f"; they can be shortened to {', '.join(map(str, allowed))}" if allowed else ""
        message = f"embeddings of this model have {n_embd} dimensions and cannot have {size}{others}"
        raise RequestError(message, param=field)
    return int(size)


def embedding_size(loaded: LoadedModel) -> int:
    """Return the number of dimensions of a model's embeddings."""
    for name in DENSE_LAYERS:
        if name in loaded.model.tensors:
            return int(loaded.model.tensors[name].shape[0])
    return model_sizes(loaded)[2]


def choose_prefix(task: str | None, loaded: LoadedModel, settings: Settings, param: str) -> str:
    """Return the text to put before texts of a task.

    Parameters
    ----------
    task : str, optional
        The task that the request names. None: the prefix that a flag sets, else the model's default.
    param : str
        The field that names the task, for error messages.

    Raises
    ------
    RequestError
        The model has no prompt for the task.
    """
    name = TASKS.get(task, task) if task else None
    flag = settings.embd_prefix_query if name == "query" else settings.embd_prefix
    if flag is not None and name in (None, "query", "document"):
        return flag
    prompts = read_prompts_of_model(loaded)
    if name is None:
        return prompts.get(str(loaded.model.metadata.get(DEFAULT_PROMPT_KEY)), "")
    if name in ("query", "document"):
        return prompts.get(name, "")
    if name not in prompts:
        known = ", ".join(sorted({"query", "document", *prompts}))
        raise RequestError(f"this model has no prompt for the task {name!r}; it has {known}", param=param)
    return prompts[name]


def read_prompts_of_model(loaded: LoadedModel) -> dict[str, str]:
    """Return the prompts in a model's metadata, by task: what the model was trained to find before texts."""
    metadata: Mapping[str, Any] = loaded.model.metadata
    prompts = {
        key.removeprefix(PROMPT_KEY): value
        for key, value in metadata.items()
        if key.startswith(PROMPT_KEY) and isinstance(value, str)
    }
    if "document" not in prompts and "passage" in prompts:
        prompts["document"] = prompts["passage"]
    return prompts


def read_limit(body: JSON) -> TextLimit:
    """Return the limit that ``truncate`` and ``truncate_prompt_tokens`` set.

    ``truncate`` is true or "END" (texts lose their ends), "START", "SPLIT", or false or "NONE" (an error). With
    ``truncate_prompt_tokens``, which is -1 for the model's limit, texts lose their ends unless ``truncate`` differs.
    """
    value, n_tokens = body.get("truncate"), body.get("truncate_prompt_tokens")
    end = "start" if body.get("truncation_direction") == "Left" else "end"
    cut = end if value is True else value.lower() if isinstance(value, str) else "none"
    if n_tokens is None:
        return TextLimit(cast("Cut", cut))
    return TextLimit(cast("Cut", end if cut == "none" else cut), None if n_tokens == -1 else int(n_tokens))


def add_prefix(value: Any, prefix: str) -> Any:
    """Return a field of texts with ``prefix`` before each text.

    Token ids, and texts that are given together with token ids, stay as they are.
    """
    if not prefix:
        return value
    if isinstance(value, str):
        return prefix + value
    if isinstance(value, dict):
        text = value.get("prompt_string")
        return {**value, "prompt_string": prefix + text} if isinstance(text, str) else value
    if all(isinstance(item, str) for item in value) or any(isinstance(item, (list, dict)) for item in value):
        return [item if isinstance(item, list) else add_prefix(item, prefix) for item in value]
    return value
