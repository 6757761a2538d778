"""Finds what plugins provide for a model: tokenizer, chat format, tool parser, architecture, backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llamafw.engine.backend_options import backend_options
from llamafw.engine.call_probe import render_call
from llamafw.engine.memory_check import limit_snapshots
from llamafw.errors import ModelError, PluginError, SettingsError
from llamafw.graph import Graph, GraphError, self_extend
from llamafw.interfaces import (
    AdaptingBackend,
    Architecture,
    Backend,
    BackendContext,
    ChatContext,
    ChatFormat,
    SharingBackend,
    SnapshotBackend,
    Tokenizer,
    ToolContext,
    ToolParser,
    ToolParserPlugin,
)
from llamafw.interfaces.members import check_members
from llamafw.models.rope_settings import groups_of
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.types import Model

DEFAULT_BACKEND = "numba"
DEFAULT_TOOL_PARSER = "hermes"  # for chat templates that no tool parser matches


def find_registered(plugins: Plugins, kind: str, model: Model, key: str) -> Any:
    """Return the architecture or tokenizer that the metadata value ``key`` names.

    Raises
    ------
    ModelError
        The value is missing, or no plugin provides it.
    """
    registry, name = plugins.registry(kind), model.metadata.get(key)
    if not isinstance(name, str):
        raise ModelError(f"{model.path}: the metadata has no {key}")
    if name not in registry:
        raise ModelError(f"{model.path}: no plugin provides the {kind} {name!r}{registry.suggest(name)}")
    return registry[name]


def build_graph(model: Model, plugins: Plugins, change: Callable[[Graph], Graph] | None = None) -> Graph:
    """Return the graph that the model's architecture makes of it, as ``change`` and then plugins change it.

    Raises
    ------
    ModelError
        The file does not fit the architecture, or cannot be changed.
    SettingsError
        The positions of the model cannot be those of self-extend.
    """
    architecture: Architecture = find_registered(plugins, "architecture", model, "general.architecture")
    try:
        graph = architecture(model)
    except GraphError as error:
        raise ModelError(f"{model.path}: {error}") from None
    if not isinstance(graph, Graph):
        description = _describe_entry(plugins, "architecture", model.metadata["general.architecture"])
        raise PluginError(f"{description} returned {graph!r:.80}, not a llamafw.graph.Graph")

    key = f"{model.metadata['general.architecture']}.attention.causal"
    if graph.causal and not model.metadata.get(key, True):
        raise ModelError(f"{model.path}: {key} is false, but this architecture is causal")
    if (groups := groups_of(model)) is not None:
        try:
            graph = self_extend(graph, *groups)
        except GraphError as error:
            raise SettingsError(f"--grp-attn-n: {error}") from None
    changed = _rewrite(model, change(graph) if change else graph, plugins)
    prediction = None if graph.prediction is None else _rewrite(model, graph.prediction, plugins)
    return replace(changed, prediction=prediction)


def _rewrite(model: Model, graph: Graph, plugins: Plugins) -> Graph:
    """Return the graph after each plugin could change it."""
    for name, call in plugins.implementations("rewrite_graph"):
        try:
            changed = call(model=model, graph=graph)
        except PluginError as error:
            if not isinstance(error.__cause__, ModelError):
                raise
            path = f"{model.path}: " if isinstance(error.__cause__, GraphError) else ""
            raise ModelError(f"{path}{error.__cause__}") from None
        if changed is not None and not isinstance(changed, Graph):
            raise PluginError(f"plugin {name}: rewrite_graph returned {changed!r:.80}, not a llamafw.graph.Graph")
        graph = graph if changed is None else changed
    return graph


def make_tokenizer(model: Model, plugins: Plugins) -> Tokenizer:
    """Return the model's tokenizer."""
    tokenizer: Tokenizer = find_registered(plugins, "tokenizer", model, "tokenizer.ggml.model")(model.metadata)
    check_members(tokenizer, Tokenizer, _describe_entry(plugins, "tokenizer", model.metadata["tokenizer.ggml.model"]))
    return tokenizer


def choose_chat_format(model: Model, tokenizer: Tokenizer, settings: Settings, plugins: Plugins) -> ChatFormat:
    """Return the chat format that ``--chat-template`` names, or the one that plugins choose for the model."""
    formats = plugins.registry("chat_format")
    if settings.chat_template is not None and settings.chat_template in formats:
        context = ChatContext(_token_text(tokenizer, tokenizer.bos), _token_text(tokenizer, tokenizer.eos))
        named: ChatFormat = formats[settings.chat_template](context)
        check_members(named, ChatFormat, _describe_entry(plugins, "chat_format", settings.chat_template))
        return named
    chosen: ChatFormat | None = plugins.call_first("choose_chat_format", model=model, settings=settings)
    if chosen is None:
        raise SettingsError("no plugin provides a chat format for this model")
    check_members(chosen, ChatFormat, plugins.describe_result("choose_chat_format", chosen))
    return chosen


def choose_tool_parser(chat: ChatFormat, settings: Settings, plugins: Plugins) -> ToolParserPlugin | None:
    """Return the tool parser that ``--tool-parser`` names, or the first that matches what the template writes."""
    parsers, name = plugins.registry("tool_parser"), settings.tool_parser
    if name is not None and name not in parsers:
        raise SettingsError(f"--tool-parser: no plugin provides the tool parser {name!r}{parsers.suggest(name)}")
    if name is None:
        call = render_call(chat)
        matching = (name for name, parser in parsers.items() if parser.matches(chat.source, call))
        name = next(matching, DEFAULT_TOOL_PARSER)
    chosen: ToolParserPlugin | None = parsers.get(name)
    if chosen is not None:
        description = f"{_describe_entry(plugins, 'tool_parser', name)}: the object that create() returns"
        check_members(chosen.create(ToolContext()), ToolParser, description)
    return chosen


def choose_backend(model: Model, settings: Settings, plugins: Plugins) -> str:
    """Return the name of the backend that ``--backend`` names or plugins choose for the model.

    Raises
    ------
    SettingsError
        There is no such backend, or a flag is given that only another one has.
    """
    backends = plugins.registry("backend")
    chosen = settings.backend or plugins.call_first("choose_backend", model=model, settings=settings)
    name = str(chosen or DEFAULT_BACKEND)
    if name not in backends:
        raise SettingsError(f"--backend: no plugin provides the backend {name!r}{backends.suggest(name)}")
    if found := find_unused_flag(name, settings, plugins):
        flag, owner = found
        raise SettingsError(f"{flag}: only the backend {owner!r} has this flag, but {name!r} runs the model")
    return name


def find_unused_flag(backend: str | None, settings: Settings, plugins: Plugins) -> tuple[str, str] | None:
    """Return a flag that is given for another backend, and the name of that backend; None if there is no such flag.

    Parameters
    ----------
    backend : str or None
        The name of the backend that runs the model, if one does.
    settings : Settings
        All settings.
    plugins : Plugins
        All plugins.
    """
    for name, factory in plugins.registry("backend").items():
        if name != backend and hasattr(factory, "given_flags"):
            for flag in factory.given_flags(settings):
                return flag, name
    return None


def make_context(
    model: Model, graph: Graph, settings: Settings, plugins: Plugins, log: Callable[[str], None]
) -> BackendContext:
    """Return the arguments of a backend."""
    options = limit_snapshots(backend_options(settings, graph.n_ctx_train, is_encoder=not graph.causal), graph)
    return BackendContext(model, graph, options, plugins.registry("quant"), log, plugins.registry("operator"))


def make_backend(name: str, context: BackendContext, plugins: Plugins) -> Backend:
    """Return a backend with the model loaded."""
    backend: Backend = plugins.registry("backend")[name](context)
    description = _describe_entry(plugins, "backend", name)
    check_members(backend, Backend, description)
    if hasattr(backend, "set_adapters"):
        check_members(backend, AdaptingBackend, description)
    elif context.adapted is not None:
        raise SettingsError(f"--lora, --control-vector: {description} cannot run adapters")
    if not backend.can_cut:
        check_members(backend, SnapshotBackend, description)
    if hasattr(backend, "share_prefix"):
        check_members(backend, SharingBackend, description)
    return backend


def _describe_entry(plugins: Plugins, kind: str, name: str) -> str:
    """Return the subject of an error message about something that a plugin has registered."""
    registry = plugins.registry(kind)
    return f"plugin {registry.owner(name)}: the {registry.noun} {name!r}"


def _token_text(tokenizer: Tokenizer, token: int | None) -> str:
    return "" if token is None else tokenizer.piece(token, special=True).decode("utf-8", "replace")
