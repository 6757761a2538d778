"""Checks the names in the settings and the header of the model file, before the server listens.

Decisions of plugins (``open_model``, ``create_engine``) are left to `llamafw.engine.load`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llamafw.engine.adapter_loader import check_adapters, names_adapters, open_adapters
from llamafw.engine.components import build_graph, find_registered, make_context
from llamafw.engine.drafters import check_draft_model, check_drafters
from llamafw.engine.load import open_model
from llamafw.engine.memory_check import check_kv_cache_fits
from llamafw.errors import SettingsError
from llamafw.models.file_types import find_quantizer
from llamafw.models.find import find_model
from llamafw.models.requantize import FLAG as REQUANTIZE
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.types import Model


def check_names(settings: Settings, plugins: Plugins) -> None:
    """Check that plugins provide the backend, the tool parser, the tensor type and the drafters that settings name.

    Raises
    ------
    SettingsError
        No plugin provides one of them, weights cannot be rounded to the tensor type, or an adapter has no scale.
    """
    if settings.requantize is not None:
        find_quantizer(settings.requantize, plugins.registry("quant"), REQUANTIZE)
    check_drafters(settings, plugins)
    check_adapters(settings)
    names = {"tool_parser": settings.tool_parser}
    if not is_implemented("create_engine", plugins):  # an engine of a plugin needs no registered backend
        names["backend"] = settings.backend

    for kind, name in names.items():
        registry = plugins.registry(kind)
        if name is not None and name not in registry:
            flag, noun = f"--{kind.replace('_', '-')}", kind.replace("_", " ")
            raise SettingsError(f"{flag}: no plugin provides the {noun} {name!r}{registry.suggest(name)}")


def open_and_check(path: Path, settings: Settings, plugins: Plugins) -> Model | None:
    """Open the model file, and check its tokenizer, its architecture, its adapters and the size of the context.

    The file of the draft model is checked, too.

    Returns
    -------
    Model or None
        The opened model, for `load_model`. None if `load_model` must open it: because a plugin may open it, or because
        ``--no-mmap`` reads the whole file, which would take too long here.

    Raises
    ------
    ModelError
        The file cannot be read, or no plugin provides its architecture or its tokenizer.
    SettingsError
        A setting does not fit the file or the memory.
    """
    if is_implemented("open_model", plugins):
        return None

    model = open_model(path, replace(settings, mmap=True), plugins)
    if not is_implemented("create_engine", plugins):  # an engine of a plugin needs no registered architecture
        graph = build_graph(model, plugins)
        check_kv_cache_fits(graph, settings)
        if names_adapters(settings):
            open_adapters(make_context(model, graph, settings, plugins, _ignore), settings, plugins, _ignore)
        check_draft_model(settings, plugins, lambda own: open_model(find_model(own), own, plugins))
    find_registered(plugins, "tokenizer", model, "tokenizer.ggml.model")
    return model if settings.mmap else None


def _ignore(line: str) -> None:
    """Do nothing: the line is logged when the model is loaded."""


def is_implemented(hook: str, plugins: Plugins) -> bool:
    """Return whether a plugin has a hook."""
    return next(plugins.implementations(hook), None) is not None
