"""Finds out what runs a model, without loading it: its graph, its tokenizer, and the backends that can compile it."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamafw.engine.backend_options import backend_options
from llamafw.engine.components import build_graph, make_tokenizer
from llamafw.errors import FAULTS, LlamafwError
from llamafw.graph import Graph
from llamafw.interfaces import BackendContext, Tokenizer
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.types import Model

_N_CTX = 512  # positions; a model needs no more to be planned


@dataclass(slots=True)
class Runnable:
    """What runs a model, and what does not."""

    graph: Graph | None = None
    tokenizer: Tokenizer | None = None
    backends: dict[str, str | None] = field(default_factory=dict)  # why a backend cannot run it; None: it can
    problems: dict[str, str] = field(default_factory=dict)  # why a part is missing: "architecture", "tokenizer" …


def what_runs(model: Model, plugins: Plugins) -> Runnable:
    """Return what runs a model.

    A backend is asked by `describe_step`; one that does not have this is left out.
    """
    found = Runnable()
    kind = model.metadata.get("general.type", "model")
    if kind != "model":
        found.problems["type"] = f"this is not a model, but a file of the type {kind!r:.40}"
        return found
    try:
        found.graph = build_graph(model, plugins)
    except LlamafwError as error:
        found.problems["architecture"] = _reason(model, error)
    try:
        found.tokenizer = make_tokenizer(model, plugins)
    except LlamafwError as error:
        found.problems["tokenizer"] = _reason(model, error)
    if found.graph is not None:
        found.backends = _backends(model, found.graph, plugins)
        if found.backends and None not in found.backends.values():
            found.problems["backend"] = "; ".join(f"{name}: {reason}" for name, reason in found.backends.items())
    return found


def _backends(model: Model, graph: Graph, plugins: Plugins) -> dict[str, str | None]:
    options = backend_options(Settings(parallel=1, ctx_size=_N_CTX), graph.n_ctx_train)
    quants, operators = plugins.registry("quant"), plugins.registry("operator")
    found: dict[str, str | None] = {}
    for name, factory in plugins.registry("backend").items():
        describe = getattr(factory, "describe_step", None)
        if describe is None:
            continue
        try:
            describe(BackendContext(model, graph, options, quants, operators=operators))
            found[name] = None
        except LlamafwError as error:
            found[name] = _reason(model, error)
        except FAULTS as error:  # the package of a backend is not installed, or it fails
            found[name] = f"{type(error).__name__}: {error}"
    return found


def _reason(model: Model, error: Exception) -> str:
    return str(error).removeprefix(f"{model.path}: ")
