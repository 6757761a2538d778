"""Checks the names in the settings and the header of the model file, before the server listens.

Decisions of plugins (``open_model``, ``create_engine``) are left to `llamafw.engine.load`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llamafw.engine.components import build_graph, find_registered
from llamafw.engine.load import open_model
from llamafw.engine.memory_check import check_kv_cache_fits
from llamafw.errors import SettingsError
from llamafw.models.requantize import find_quantizer
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.types import Model


def check_names(settings: Settings, plugins: Plugins) -> None:
    """Check that plugins provide the backend, the tool parser and the tensor type that the settings name.

    Raises
    ------
    SettingsError
        No plugin provides one of them, or weights cannot be rounded to the tensor type.
    """
    if settings.requantize is not None:
        find_quantizer(settings.requantize, plugins.registry("quant"))
    names = {"tool_parser": settings.tool_parser}
    if not _is_implemented("create_engine", plugins):  # an engine of a plugin needs no registered backend
        names["backend"] = settings.backend

    for kind, name in names.items():
        registry = plugins.registry(kind)
        if name is not None and name not in registry:
            flag, noun = f"--{kind.replace('_', '-')}", kind.replace("_", " ")
            raise SettingsError(f"{flag}: no plugin provides the {noun} {name!r}{registry.suggest(name)}")


def open_and_check(path: Path, settings: Settings, plugins: Plugins) -> Model | None:
    """Open the model file, and check its tokenizer, its architecture and the size of the context.

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
    if _is_implemented("open_model", plugins):
        return None

    model = open_model(path, replace(settings, mmap=True), plugins)
    if not _is_implemented("create_engine", plugins):  # an engine of a plugin needs no registered architecture
        check_kv_cache_fits(build_graph(model, plugins), settings)
    find_registered(plugins, "tokenizer", model, "tokenizer.ggml.model")
    return model if settings.mmap else None


def _is_implemented(hook: str, plugins: Plugins) -> bool:
    return next(plugins.implementations(hook), None) is not None
