"""Loads the models of ``--embedding-model`` and ``--reranking-model``, each with an engine of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llamafw.engine.load import load_model
from llamafw.engine.side_settings import side_settings
from llamafw.engine.start_checks import open_and_check
from llamafw.errors import LlamafwError, SettingsError
from llamafw.models.find import find_model
from llamafw.plugins import Plugins
from llamafw.serving import LoadedModel
from llamafw.settings import Settings
from llamafw.types import Model

FLAGS = {"embedder": "--embedding-model", "reranker": "--reranking-model"}  # by the field of `LoadedModel`


@dataclasses.dataclass(frozen=True, slots=True)
class SideModel:
    """A model that will be loaded beside the first one."""

    field: str  # of `LoadedModel`
    path: Path
    settings: Settings
    model: Model | None  # the opened file; None: loading opens it

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
            found.append(SideModel(field, path, own, open_and_check(path, own, plugins)))
        except LlamafwError as error:
            raise type(error)(f"{FLAGS[field]}: {error}") from error
    return found


def load_models(
    load_first: Callable[[], LoadedModel], others: list[SideModel], plugins: Plugins, log: Callable[[str], None]
) -> LoadedModel:
    """Return the first model with those beside it, which are loaded before it, because that is quick."""
    loaded = {other.field: other.load(plugins, log) for other in others}
    first = load_first()
    names = {first.name}
    for field, suffix in (("embedder", "embedding"), ("reranker", "reranking")):
        if (model := loaded.get(field)) is not None:
            name = model.name if model.name not in names else f"{model.name}-{suffix}"  # the same file, twice
            loaded[field] = replace(model, name=name)
            names.add(name)
    return replace(first, embedder=loaded.get("embedder"), reranker=loaded.get("reranker"))
