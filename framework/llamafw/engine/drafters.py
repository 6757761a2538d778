"""Creates the drafters that ``--spec-type`` names, and loads what they guess with.

That is the draft model of ``--spec-draft-model``, or the model's own block for multi-token prediction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial

from llamafw.engine.components import build_graph, choose_backend, make_backend, make_context, make_tokenizer
from llamafw.engine.side_settings import draft_threads, prediction_settings, side_settings
from llamafw.engine.unloadable_backend import UnloadableBackend
from llamafw.engine.unloadable_drafter import UnloadableDrafter
from llamafw.errors import LlamafwError, ModelError, SettingsError
from llamafw.graph import Graph
from llamafw.interfaces import Backend, BackendContext, Drafter, DrafterContext, DraftModel, Tokenizer, WithHidden
from llamafw.interfaces.members import check_members
from llamafw.models.file_pages import release_file_pages
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.speculation_settings import DRAFT_MODEL_DRAFTER, PREDICTION_DRAFTER
from llamafw.types import Model

MAX_MORE_TOKENS = 128
"""How many tokens two vocabularies may differ in at their ends: models of one family are padded to different sizes."""


def check_drafters(settings: Settings, plugins: Plugins) -> None:
    """Check that plugins provide the drafters that the settings name.

    Raises
    ------
    SettingsError
        A drafter does not exist, or cannot be used with other settings.
    """
    registry = plugins.registry("drafter")
    for name in settings.drafters:
        if name not in registry:
            raise SettingsError(f"--spec-type: no plugin provides the drafter {name!r}{registry.suggest(name)}")
        if settings.grp_attn_n > 1 and isinstance(registry[name], WithHidden):
            raise SettingsError(f"--spec-type: {name} needs hidden states, which --grp-attn-n changes: use one of them")


def check_prediction(model: Model, graph: Graph) -> Graph:
    """Return the graph of the model's block for multi-token prediction; SettingsError if it does not have one."""
    if graph.prediction is None:
        architecture = model.metadata["general.architecture"]
        raise SettingsError(
            f"--spec-type: {PREDICTION_DRAFTER} needs a block for multi-token prediction (tensors blk.N.nextn.*); "
            f"{model.path} does not have one, or llamafw cannot use it in a {architecture} model"
        )
    return graph.prediction


def needs_hidden(settings: Settings, plugins: Plugins) -> bool:
    """Return whether a drafter that the settings name sees the model's hidden states."""
    registry = plugins.registry("drafter")
    return any(isinstance(registry.get(name), WithHidden) for name in settings.drafters)


def check_draft_model(settings: Settings, plugins: Plugins, open_model: Callable[[Settings], Model]) -> None:
    """Check that the file of the draft model can be read and run, if drafters use one.

    Parameters
    ----------
    settings : Settings
        The server's settings.
    plugins : Plugins
        All plugins.
    open_model : callable
        Finds and opens the model that settings name.

    Raises
    ------
    SettingsError, ModelError, DownloadError
        It cannot; the message names the flag.
    """
    open_draft_model(settings, plugins, open_model)


def open_draft_model(
    settings: Settings, plugins: Plugins, open_model: Callable[[Settings], Model], **sizes: int
) -> tuple[Settings, Model, Graph] | None:
    """Return the settings of the draft model, its file and its graph; None if no drafter uses one.

    The parameters and errors are those of `check_draft_model`; ``sizes`` are settings of the draft model.
    """
    flag = _draft_flag(settings)
    if DRAFT_MODEL_DRAFTER not in settings.drafters or not flag:
        return None
    try:
        return _open_draft_model(settings, plugins, open_model, **sizes)
    except LlamafwError as error:
        raise type(error)(f"{flag}: {error}") from error


def create_drafters(
    backend: Backend,
    backend_name: str,
    model: Model,
    graph: Graph,
    tokenizer: Tokenizer,
    settings: Settings,
    plugins: Plugins,
    open_model: Callable[[Settings], Model],
    log: Callable[[str], None],
) -> Mapping[str, Drafter]:
    """Return the drafters by name, in the order in which they are asked.

    If the server can sleep, those that have loaded a model are `UnloadableDrafter`.

    Parameters
    ----------
    backend : Backend
        Runs the model.
    backend_name : str
        Its name.
    model, graph, tokenizer : Model, Graph, Tokenizer
        The model, its graph and its tokenizer.
    settings : Settings
        The server's settings.
    plugins : Plugins
        All plugins.
    open_model : callable
        Finds and opens the model that settings name.
    log : callable
        Receives lines about the progress.

    Raises
    ------
    SettingsError
        Drafts cannot be verified for this model, or a drafter or the draft model cannot be used.
    """
    if not settings.drafters:
        return {}
    check_drafters(settings, plugins)
    if backend.whole_texts or not backend.n_vocab:
        raise SettingsError("--spec-type: this model does not generate text")
    if not backend.can_cut and not hasattr(backend, "hold_state"):
        raise SettingsError("--spec-type: the backend cannot verify drafts of this model (see llamafw.HoldingBackend)")

    if needs_hidden(settings, plugins) and not hasattr(backend, "forward_with_hidden"):
        raise SettingsError(
            f"--spec-type: a drafter needs hidden states, which the backend {backend_name!r} cannot return"
        )

    prepare = cache(partial(_prepare_draft_model, backend, tokenizer, settings, plugins, open_model, log))
    load = partial(_load_draft_model, prepare, settings, plugins)
    load_prediction = partial(_load_prediction, backend, backend_name, model, graph, settings, plugins, log)
    context = DrafterContext(settings, tokenizer, backend.n_slots, backend.n_ctx, load, load_prediction)
    drafters = dict[str, Drafter]()
    try:
        for name in settings.drafters:
            drafters[name] = _create(name, context, plugins)
        if (flag := _draft_flag(settings)) and not prepare.cache_info().currsize:
            raise SettingsError(f"{flag}: no drafter that --spec-type names uses the draft model, as draft-simple does")
    except BaseException:
        for drafter in drafters.values():
            drafter.close()
        raise
    log(f"drafters: {', '.join(drafters)}")
    return drafters


def _create(name: str, context: DrafterContext, plugins: Plugins) -> Drafter:
    """Return a drafter; it can be unloaded if it has loaded a model and the settings want that."""
    models: dict[int, Model] = {}  # those that it has loaded, by id
    registry = plugins.registry("drafter")

    def noted(load: Callable[[], DraftModel]) -> DraftModel:
        loaded = load()
        models[id(loaded.model)] = loaded.model
        return loaded

    def create() -> Drafter:
        drafter: Drafter = registry[name](noting)
        check_members(drafter, Drafter, f"plugin {registry.owner(name)}: the drafter {name!r}")
        return drafter

    def release() -> None:
        for model in models.values():
            release_file_pages(model)

    noting = replace(
        context,
        load_draft_model=partial(noted, context.load_draft_model),
        load_prediction=partial(noted, context.load_prediction),
    )
    drafter = create()
    if not models or context.settings.sleep_idle_seconds < 0:
        return drafter
    return UnloadableDrafter(create, drafter, release)


def _load_prediction(
    backend: Backend,
    backend_name: str,
    model: Model,
    graph: Graph,
    settings: Settings,
    plugins: Plugins,
    log: Callable[[str], None],
) -> DraftModel:
    """Load the model's block for multi-token prediction, with as many slots and positions as ``backend``."""
    prediction = check_prediction(model, graph)
    own = prediction_settings(settings, ctx_size=backend.n_slots * backend.n_ctx, parallel=backend.n_slots)
    try:
        context = make_context(model, prediction, own, plugins, log)
        beside = backend.inner if isinstance(backend, UnloadableBackend) else backend
        context = replace(context, keeps_hidden=True, beside=beside)
        return DraftModel(model, make_backend(backend_name, context, plugins))
    except LlamafwError as error:
        raise type(error)(f"--spec-type: the block that {PREDICTION_DRAFTER} needs: {_own_flags(error)}") from error


def _load_draft_model(
    prepare: Callable[[], tuple[str, BackendContext]], settings: Settings, plugins: Plugins
) -> DraftModel:
    """Load the draft model; see `_prepare_draft_model`."""
    if not _draft_flag(settings):
        raise SettingsError("--spec-type: draft-simple needs a model: --spec-draft-model or --spec-draft-hf")
    try:
        name, context = prepare()
        return DraftModel(context.model, make_backend(name, context, plugins))
    except LlamafwError as error:
        raise type(error)(f"{_draft_flag(settings)}: {_own_flags(error)}") from error


def _prepare_draft_model(
    backend: Backend,
    tokenizer: Tokenizer,
    settings: Settings,
    plugins: Plugins,
    open_model: Callable[[Settings], Model],
    log: Callable[[str], None],
) -> tuple[str, BackendContext]:
    """Return the backend of the draft model and its arguments; it has as many slots and positions as ``backend``."""
    sizes = {"ctx_size": backend.n_slots * backend.n_ctx, "parallel": backend.n_slots}
    own, model, graph = _open_draft_model(settings, plugins, open_model, **sizes)
    _check_vocabulary(tokenizer, make_tokenizer(model, plugins))
    return choose_backend(model, own, plugins), make_context(model, graph, own, plugins, log)


def _open_draft_model(
    settings: Settings, plugins: Plugins, open_model: Callable[[Settings], Model], **sizes: int
) -> tuple[Settings, Model, Graph]:
    """Return the settings of the draft model, its file and its graph."""
    own = side_settings(
        settings,
        model=settings.spec_draft_model,
        hf_repo=settings.spec_draft_hf,
        hf_token=settings.hf_token,
        cache_type_k=settings.spec_draft_type_k,
        cache_type_v=settings.spec_draft_type_v,
        gpu_layers=settings.spec_draft_ngl,
        grp_attn_n=settings.grp_attn_n,
        grp_attn_w=settings.grp_attn_w,
        **sizes,
        **draft_threads(settings),
    )
    model = open_model(own)
    graph = build_graph(model, plugins)
    if not graph.causal or graph.logits is None:
        raise ModelError(f"{model.path} does not generate text")
    return own, model, graph


def _draft_flag(settings: Settings) -> str:
    """Return the flag that names the draft model; "" if none does."""
    if settings.spec_draft_hf:
        return "--spec-draft-hf"
    return "--spec-draft-model" if settings.spec_draft_model else ""


def _own_flags(error: LlamafwError) -> str:
    """Return an error's message with the flags of the draft's cache: backends name those of the model's."""
    return re.sub(r"(?<!\S)-ct[kv](?!\S)", r"\g<0>d", str(error))


def _check_vocabulary(tokenizer: Tokenizer, other: Tokenizer) -> None:
    """Raise SettingsError unless two tokenizers have the same tokens, but for some at the end of one of them."""
    n_common = min(tokenizer.n_vocab, other.n_vocab)
    if max(tokenizer.n_vocab, other.n_vocab) - n_common > MAX_MORE_TOKENS:
        raise SettingsError(
            f"the vocabulary of the draft model has {other.n_vocab} tokens, and that of the model {tokenizer.n_vocab}; "
            "they must be the same"
        )
    for token in range(n_common):
        pieces = [one.piece(token, special=True) for one in (tokenizer, other)]
        if pieces[0] != pieces[1]:
            raise SettingsError(
                f"token {token} is {_text(pieces[1])} in the vocabulary of the draft model, and {_text(pieces[0])} in "
                "that of the model; they must be the same"
            )


def _text(piece: bytes) -> str:
    return repr(piece.decode("utf-8", "replace"))
