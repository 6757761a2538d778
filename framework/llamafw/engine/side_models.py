"""Loads the models of ``--embedding-model`` and ``--reranking-model``, each with an engine of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from llamafw.engine.backend_options import backend_options
from llamafw.engine.components import build_graph, choose_backend
from llamafw.engine.load import load_model, open_header
from llamafw.engine.memory_companions import find_companions, side_model_bytes
from llamafw.engine.memory_estimate import PartBytes
from llamafw.engine.memory_fit import check_memory, fit, has_own_memory
from llamafw.engine.side_settings import side_settings
from llamafw.engine.start_checks import is_implemented, open_and_check
from llamafw.errors import LlamafwError, SettingsError
from llamafw.graph import Graph
from llamafw.models.find import find_model
from llamafw.models.requantize import requantize
from llamafw.plugins import Plugins
from llamafw.serving import LoadedModel
from llamafw.settings import Settings
from llamafw.types import Model

FLAGS = {"embedder": "--embedding-model", "reranker": "--reranking-model"}  # by the field of `LoadedModel`
NAMES = {"embedder": "embedding model", "reranker": "reranking model"}


@dataclasses.dataclass(frozen=True, slots=True)
class SideModel:
    """A model that will be loaded beside the first one."""

    field: str  # of `LoadedModel`
    path: Path
    settings: Settings
    model: Model | None  # the opened file; None: loading opens it
    needed: PartBytes | None  # of the machine's memory; None: unknown, or its backend has another memory

    def load(self, plugins: Plugins, log: Callable[[str], None]) -> LoadedModel:
        """Load the model and start its engine; errors name the flag."""
        try:
            return load_model(self.path, self.settings, plugins, log, model=self.model)
        except LlamafwError as error:
            raise type(error)(f"{FLAGS[self.field]}: {error}") from error


def find_side_models(settings: Settings, plugins: Plugins) -> list[SideModel]:
    """Find the models beside the first one, download them if necessary, and check their files.

    Raises
    ------
    SettingsError
        The flags cannot be used together.
    ModelError, DownloadError
        A file does not exist, cannot be downloaded, or no plugin can run it.
    """
    names = {"embedder": settings.embedding_model, "reranker": settings.reranking_model}
    if settings.embedding and (used := [FLAGS[field] for field, name in names.items() if name]):
        raise SettingsError(f"--embedding serves no completions, so {used[0]} would leave the first model without use")
    found = []
    for field, name in names.items():
        if not name:
            continue
        own = side_settings(settings, model=name, ctx_size=settings.embedding_ctx_size)
        try:
            path = find_model(own)
            model = open_and_check(path, own, plugins)
            needed = None
            if (opened := _open_header(model, own, plugins)) is not None:
                own = _limit_context(own, opened[1], settings)
                needed = side_model_bytes(*opened, own)
            found.append(SideModel(field, path, own, model, needed))
        except LlamafwError as error:
            raise type(error)(f"{FLAGS[field]}: {error}") from error
    return found


def _open_header(model: Model | None, settings: Settings, plugins: Plugins) -> tuple[Model, Graph] | None:
    """Return a model and its graph, to estimate its memory; None if a plugin or another memory has it.

    ``model`` is what `open_and_check` has returned.
    """
    if is_implemented("open_model", plugins) or is_implemented("create_engine", plugins):
        return None
    model = model or open_header(settings, plugins)
    if has_own_memory(choose_backend(model, settings, plugins), plugins):
        return None
    return model, build_graph(model, plugins)


def _limit_context(own: Settings, graph: Graph, settings: Settings) -> Settings:
    """Return the settings of a model beside the first one; ``--fit`` gives it the smallest context."""
    if not settings.fit or own.ctx_size or not graph.causal:
        return own
    n_slots = backend_options(own, graph.n_ctx_train).n_slots
    return replace(own, ctx_size=n_slots * min(graph.n_ctx_train, settings.fit_ctx))


def needed_beside(others: list[SideModel]) -> Mapping[str, PartBytes]:
    """Return what models beside the first one need of the memory, by what they are."""
    return {NAMES[other.field]: other.needed for other in others if other.needed is not None}


def check_memory_of_all(settings: Settings, model: Model | None, others: list[SideModel], plugins: Plugins) -> None:
    """Check that all models fit into the memory together, before the first of them is loaded.

    Parameters
    ----------
    settings : Settings
        The server's settings.
    model : Model or None
        What `open_and_check` has returned for the first model.
    others : list of SideModel
        The other ones.
    plugins : Plugins
        All plugins.

    Raises
    ------
    SettingsError
        They do not fit.
    """
    beside = needed_beside(others)
    if not beside or (opened := _open_header(model, settings, plugins)) is None:
        return
    first, graph = opened
    first = requantize(first, graph, settings, plugins.registry("quant"), lambda line: None)
    companions = find_companions(first, graph, settings, plugins, lambda own: open_header(own, plugins)).beside(beside)
    if settings.fit:
        settings, _ = fit(first, graph, settings, companions=companions)
    check_memory(first, graph, settings, companions=companions)


def load_models(
    load_first: Callable[..., LoadedModel], others: list[SideModel], plugins: Plugins, log: Callable[[str], None]
) -> LoadedModel:
    """Return the first model with those beside it, which are loaded before it, because that is quick.

    ``load_first`` gets the argument ``beside`` of `load_model`.
    """
    loaded = {other.field: other.load(plugins, log) for other in others}
    first = load_first(
        beside={name: replace(part, weights=0, vocabulary=0) for name, part in needed_beside(others).items()}
    )
    names = {first.name}
    for field, suffix in (("embedder", "embedding"), ("reranker", "reranking")):
        if (model := loaded.get(field)) is not None:
            name = model.name if model.name not in names else f"{model.name}-{suffix}"  # the same file, twice
            loaded[field] = replace(model, name=name)
            names.add(name)
    return replace(first, embedder=loaded.get("embedder"), reranker=loaded.get("reranker"))
