"""Opens a model for a command that needs its graph and no engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llamafw.interfaces import BackendContext, Tokenizer
from llamafw.settings import Settings


def open_context(
    settings: Settings, plugins: Iterable[str] = (), log: Callable[[str], None] = print
) -> tuple[BackendContext, Tokenizer]:
    """Open the model that the settings name; return what its backend would get, and its tokenizer.

    Parameters
    ----------
    settings : Settings
        The model and its settings.
    plugins : iterable of str
        Plugins that are loaded beside the installed ones, as ``--plugin`` names them.
    log : callable
        Receives lines about the progress.

    Raises
    ------
    ModelError
        The file cannot be read, or no plugin has its architecture or tokenizer.
    SettingsError
        A setting does not fit the model.
    """
    # Here, because plugins import this module through `llamafw`, and should not load the engine by that.
    from llamafw.engine.backend_options import backend_options
    from llamafw.engine.components import build_graph, make_tokenizer
    from llamafw.engine.load import open_model
    from llamafw.models.find import find_model
    from llamafw.models.requantize import requantize
    from llamafw.plugins import Plugins

    loaded = Plugins(extra=plugins)
    model = open_model(find_model(settings), settings, loaded)
    graph = build_graph(model, loaded)
    quants, operators = loaded.registry("quant"), loaded.registry("operator")
    model = requantize(model, graph, settings, quants, log)
    options = backend_options(settings, graph.n_ctx_train, is_encoder=not graph.causal)
    return BackendContext(model, graph, options, quants, log, operators), make_tokenizer(model, loaded)
