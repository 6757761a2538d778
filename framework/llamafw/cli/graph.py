"""``llamafw graph``: print the graph of a model."""

from __future__ import annotations

from llamafw.cli.parser import CommandParser
from llamafw.engine.components import build_graph
from llamafw.engine.load import open_model
from llamafw.graph import as_dot, as_json, as_text
from llamafw.models.find import find_model
from llamafw.plugins import Plugins
from llamafw.settings import Settings

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
    parser.add_argument(
        "--format", choices=tuple(FORMATS), default="text", help="text, JSON, or Graphviz' DOT language (default: text)"
    )
    parser.add_argument(
        "--plugin",
        metavar="NAME|MODULE|FILE.py",
        action="append",
        default=[],
        help="load an additional plugin; may be repeated",
    )
    args = parser.parse(argv)

    settings, plugins = Settings(model=args.model), Plugins(extra=args.plugin)
    graph = build_graph(open_model(find_model(settings), settings, plugins), plugins)
    print(FORMATS[args.format](graph), end="" if args.format != "json" else "\n")
    return 0
