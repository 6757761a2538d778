"""``llamafw graph``: print the graph of a model, or the steps that a backend makes of it."""

from __future__ import annotations

import sys
from functools import partial

from llamafw.cli.parser import CommandParser
from llamafw.engine.backend_options import backend_options
from llamafw.engine.components import build_graph, choose_backend
from llamafw.engine.load import open_model
from llamafw.errors import SettingsError
from llamafw.graph import Graph, as_dot, as_json, as_text
from llamafw.interfaces import BackendContext
from llamafw.models.find import find_model
from llamafw.models.requantize import requantize
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.types import Model

FORMATS = {"text": as_text, "dot": as_dot, "json": as_json}


def run(argv: list[str]) -> int:
    """Print the graph of a model."""
    parser = CommandParser(
        "llamafw graph",
        "Print the operators that compute a model's logits, one per line.",
        example="llamafw graph model.gguf --format dot | dot -Tsvg > model.svg",
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="GGUF file, or a name from the catalogue (default: smollm2-135m)"
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument(
        "--format", choices=tuple(FORMATS), default="text", help="text, JSON, or Graphviz' DOT language (default: text)"
    )
    forms.add_argument("--step", action="store_true", help="print what the backend makes of the graph instead")
    forms.add_argument("--onnx", action="store_true", help="the same as --step --backend onnx")
    parser.add_argument("--backend", metavar="NAME", help="the backend whose step is printed (default: numba)")
    parser.add_argument("--requantize", metavar="TYPE", help="the type that matrices are rounded to before that")
    parser.add_argument(
        "--plugin",
        metavar="NAME|MODULE|FILE.py",
        action="append",
        default=[],
        help="load an additional plugin; may be repeated",
    )
    args = parser.parse(argv)
    if args.onnx:
        if args.backend not in (None, "onnx"):
            parser.error("--backend: --onnx already names the backend")
        args.step, args.backend = True, "onnx"
    if args.backend and not args.step:
        parser.error("--backend: add --step, because only steps depend on the backend")
    if args.requantize and not args.step:
        parser.error("--requantize: add --step, because only steps depend on the types of tensors")

    settings = Settings(model=args.model, backend=args.backend, requantize=args.requantize)
    plugins = Plugins(extra=args.plugin)
    model = open_model(find_model(settings), settings, plugins)
    graph = build_graph(model, plugins)
    text = _step_text(model, graph, settings, plugins) if args.step else FORMATS[args.format](graph)
    print(text.rstrip("\n"))
    return 0


def _step_text(model: Model, graph: Graph, settings: Settings, plugins: Plugins) -> str:
    """Return the description that the backend gives of its step; SettingsError if it gives none."""
    name = choose_backend(model, settings, plugins)
    describe = getattr(plugins.registry("backend")[name], "describe_step", None)
    if describe is None:
        raise SettingsError(f"--step: the backend {name!r} does not describe its steps")
    options = backend_options(settings, graph.n_ctx_train, is_encoder=not graph.causal)
    quants, operators = plugins.registry("quant"), plugins.registry("operator")
    model = requantize(model, graph, settings, quants, partial(print, file=sys.stderr))
    text: str = describe(BackendContext(model, graph, options, quants, operators=operators))
    return text
