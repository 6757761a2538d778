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
        No plugin provides one of them, weights cannot be rounded to the tensor type, an adapter has no scale, or flags
        contradict each other.
    """
    if settings.requantize is not None:
        find_quantizer(settings.requantize, plugins.registry("quant"), REQUANTIZE)
    check_drafters(settings, plugins)
    check_adapters(settings)
    _check_contradictions(settings)
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


def _check_contradictions(settings: Settings) -> None:
    """Raise SettingsError if two flags, or two values of one, cannot both have an effect."""
    priorities = [priority for priority, _ in settings.max_queue_priority]
    for priority in priorities:
        if priorities.count(priority) > 1:
            raise SettingsError(f"--max-queue-priority: there is more than one limit for the priority {priority}")

    low, high = settings.spec_draft_n_min, settings.spec_draft_n_max
    if low > high and any(name.startswith("draft-") for name in settings.drafters):
        raise SettingsError(f"--spec-draft-n-min: no draft has {low} tokens, because --spec-draft-n-max is {high}")
    if settings.lora_folder is not None and not settings.props:
        raise SettingsError("--lora-folder needs --props, which lets clients load adapters")


def _ignore(line: str) -> None:
    """Do nothing: the line is logged when the model is loaded."""


def is_implemented(hook: str, plugins: Plugins) -> bool:
    """Return whether a plugin has a hook."""
    return next(plugins.implementations(hook), None) is not None
