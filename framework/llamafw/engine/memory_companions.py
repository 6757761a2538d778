"""Finds what a server loads beside its model, for the estimate of its memory: what drafts, adapters, other models.

Files are opened, but no weights are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from llamafw.engine.adapter_loader import names_adapters, open_adapters
from llamafw.engine.backend_options import backend_options
from llamafw.engine.components import make_context
from llamafw.engine.drafters import open_draft_model
from llamafw.engine.machine_memory import Memory, read_memory
from llamafw.engine.memory_check import limit_snapshots
from llamafw.engine.memory_estimate import (
    MODEL,
    Companions,
    Follower,
    PartBytes,
    adapter_bytes,
    cpu_options,
    estimate,
    vocabulary_bytes,
)
from llamafw.engine.side_settings import prediction_settings
from llamafw.graph import Graph
from llamafw.interfaces import BackendContext
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.speculation_settings import PREDICTION_DRAFTER
from llamafw.types import Model

MTP_BLOCK, DRAFT_MODEL, ADAPTERS = "MTP block", "draft model", "adapters"


def find_companions(
    model: Model,
    graph: Graph,
    settings: Settings,
    plugins: Plugins,
    open_model: Callable[[Settings], Model],
    memory: Memory | None = None,
) -> Companions:
    """Return what the engine of a model loads beside it.

    Parameters
    ----------
    model, graph : Model, Graph
        The model and its graph.
    settings : Settings
        The server's settings.
    plugins : Plugins
        All plugins.
    open_model : callable
        Finds and opens the model that settings name.
    memory : Memory, optional
        By default that of this machine.

    Raises
    ------
    LlamafwError
        A file cannot be found or read, or does not fit the model; the message names the flag.
    """
    memory = memory or read_memory()
    options = cpu_options(settings, graph, memory)
    followers, others = dict[str, Follower](), dict[str, PartBytes]()
    if PREDICTION_DRAFTER in settings.drafters and graph.prediction is not None:
        types = backend_options(prediction_settings(settings), graph.n_ctx_train)
        own = replace(options, cache_type_k=types.cache_type_k, cache_type_v=types.cache_type_v)
        followers[MTP_BLOCK] = Follower(graph.prediction, own, weights=0, n_hidden=2 * graph.n_embd)

    sizes = {"ctx_size": options.n_slots * options.n_ctx, "parallel": options.n_slots}
    if (found := open_draft_model(settings, plugins, open_model, **sizes)) is not None:
        draft_settings, draft_model, draft_graph = found
        own = limit_snapshots(backend_options(draft_settings, draft_graph.n_ctx_train), draft_graph, memory.total)
        vocabulary = vocabulary_bytes(draft_model)
        followers[DRAFT_MODEL] = Follower(draft_graph, own, draft_model.n_bytes, vocabulary=vocabulary)

    if names_adapters(settings):
        context, _ = open_adapters(make_context(model, graph, settings, plugins, _ignore), settings, plugins, _ignore)
        if context.adapted is not None:
            others[ADAPTERS] = adapter_bytes(model, context.adapted.model, context.adapted.graph, options)
    return Companions(followers, others)


def with_adapters(companions: Companions, context: BackendContext, adapted: BackendContext | None) -> Companions:
    """Return companions with other adapters, whose files have been read.

    Parameters
    ----------
    companions : Companions
        What is loaded beside the model, perhaps with adapters.
    context : BackendContext
        The model without adapters, and the options of the backend.
    adapted : BackendContext, optional
        The model with the other adapters; None: without any.
    """
    others = {name: part for name, part in companions.others.items() if name != ADAPTERS}
    if adapted is not None:
        options = context.options
        others[ADAPTERS] = adapter_bytes(context.model, adapted.model, adapted.graph, options, have_been_read=True)
    return replace(companions, others=others)


def side_model_bytes(model: Model, graph: Graph, settings: Settings, memory: Memory | None = None) -> PartBytes:
    """Return what a model of ``--embedding-model`` or ``--reranking-model`` needs.

    Parameters
    ----------
    model, graph : Model, Graph
        The model and its graph.
    settings : Settings
        Its own settings.
    memory : Memory, optional
        By default that of this machine.
    """
    options = cpu_options(settings, graph, memory or read_memory())
    part = estimate(model, graph, options, is_cache_set=settings.ctx_size != 0).parts[MODEL]
    return replace(part, vocabulary=vocabulary_bytes(model))


def _ignore(line: str) -> None:
    """Do nothing: the line is logged when the adapters are loaded."""
