"""What ``llamafw perplexity`` and ``llamafw imatrix`` have in common: their arguments, and opening a model."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.read_settings import shared_settings_from
from llamafw.engine.components import build_graph, choose_backend, make_backend, make_context, make_tokenizer
from llamafw.engine.load import open_model
from llamafw.errors import ModelError, SettingsError
from llamafw.graph import Graph
from llamafw.interfaces import Backend, Tokenizer
from llamafw.models.find import find_model
from llamafw.models.requantize import requantize
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.types import Model

SHARED_SETTINGS = (
    *("model", "hf_repo", "hf_file", "hf_token", "model_url", "offline", "override_kv", "requantize"),
    *("backend", "ctx_size", "batch_size", "ubatch_size", "threads", "threads_batch", "cache_type_k", "cache_type_v"),
    "swa_full",
)
"""The settings of ``llamafw serve`` that these commands have too."""

DEFAULT_CONTEXT = 512  # tokens per chunk, as in llama.cpp
_MAX_NUMBERS = 2**26  # of float32 results per batch: 256 MB


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model whose backend is not loaded yet."""

    path: Path
    model: Model
    graph: Graph
    tokenizer: Tokenizer
    settings: Settings
    plugins: Plugins

    def chunk_size(self, wanted: int = 0, source: str = "--ctx-size") -> int:
        """Return how many tokens a chunk has: ``wanted``, else those of ``--ctx-size``, else at most 512.

        Raises
        ------
        SettingsError
            The model has fewer positions. ``source`` is what names the number.
        """
        wanted = wanted or self.settings.ctx_size
        size = self.graph.context_length(wanted or DEFAULT_CONTEXT)
        if size < wanted:
            raise SettingsError(f"{source}: chunks of {wanted} tokens do not fit; {self.path} has {size} positions")
        return size

    def start(self, n_ctx: int, row_size: int, graph: Graph | None = None) -> Backend:
        """Return a backend with one slot.

        Parameters
        ----------
        n_ctx : int
            Positions of the slot.
        row_size : int
            Numbers that the backend returns per token.
        graph : Graph, optional
            What to run instead of the model's graph.
        """
        graph = graph or self.graph
        n_batch = min(self.settings.batch_size, n_ctx, max(_MAX_NUMBERS // row_size, 1))
        if not graph.causal:
            n_batch = n_ctx
        settings = replace(
            self.settings,
            parallel=1,
            ctx_size=n_ctx,
            batch_size=n_batch,
            ubatch_size=min(self.settings.ubatch_size, n_batch),
        )
        name = choose_backend(self.model, settings, self.plugins)
        return make_backend(name, make_context(self.model, graph, settings, self.plugins, report), self.plugins)


def report(line: str) -> None:
    """Print a line about the progress."""
    print(line, file=sys.stderr)


def make_parser(command: str, description: str, usage: str, example: str) -> CommandParser:
    """Return a parser with the arguments that both commands have."""
    parser = CommandParser(f"llamafw {command}", description, usage=usage, example=example)
    parser.add_argument(
        "paths", metavar="[MODEL] TEXT", nargs="*", help="the model, unless -m or -hf names it; the text"
    )
    add = parser.add_argument_group("text").add_argument
    add("--chunks", metavar="N", type=int, default=0, help="use at most N chunks of the text; 0: all (default: 0)")
    add("--parse-special", action="store_true", help="turn the text of special tokens into these tokens")
    add("--quiet", action="store_true", help="do not show progress")
    add_settings(parser, SHARED_SETTINGS)
    return parser


def read_text(path: str) -> str:
    """Return the text in a file; ``-`` is standard input.

    Raises
    ------
    SettingsError
        The file cannot be read, or is not UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return data.decode()
    except OSError as error:
        raise SettingsError(f"the text {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"the text {path} is not UTF-8: {error.reason} at byte {error.start}") from error


def split_paths(args: Namespace, parser: CommandParser, *, has_text: bool = True) -> tuple[str | None, str | None]:
    """Return the model and the text that the arguments name; None for what they do not name."""
    paths, is_named = list(args.paths), args.model or args.hf_repo or args.model_url
    text = paths.pop() if has_text and paths else None
    if has_text and text is None:
        parser.error("TEXT is missing: a file with the text, or - for standard input")
    if len(paths) > 1 or (paths and is_named):
        parser.error(f"unexpected argument {paths[-1]}" + ("; the model is already named" if is_named else ""))
    return (paths[0] if paths else None), text


def open_model_for(model: str | None, args: Namespace, early: Settings, plugins: Plugins) -> OpenModel:
    """Open the model that the arguments name."""
    fixed: dict[str, Any] = {} if model is None else {"model": model}
    settings = shared_settings_from(args, SHARED_SETTINGS, early, **fixed)
    path = find_model(settings, progress=not args.quiet)
    opened = open_model(path, settings, plugins)
    graph = build_graph(opened, plugins)
    changed = requantize(opened, graph, settings, plugins.registry("quant"), report)
    return OpenModel(path, changed, graph, make_tokenizer(opened, plugins), settings, plugins)


def check_generates(opened: OpenModel) -> None:
    """Raise ModelError if a model has no logits."""
    if opened.graph.logits is None:
        raise ModelError(f"{opened.path}: the model embeds texts; it predicts no tokens, so it has no perplexity")
