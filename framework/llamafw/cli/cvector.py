"""``llamafw cvector``: make a control vector from pairs of prompts."""

from __future__ import annotations

from argparse import Namespace
from contextlib import closing
from pathlib import Path

import numpy as np

from llamafw.cli.measuring import SHARED_SETTINGS, OpenModel, check_generates, open_model_for, read_text
from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.plugin_flags import parse_with_plugin_flags
from llamafw.cli.read_settings import load_plugins, parse_early_flags
from llamafw.errors import SettingsError
from llamafw.evaluation.directions import find_directions, last_states, observe_layers
from llamafw.models.adapters import write_control_vector
from llamafw.models.gguf_writer import check_free
from llamafw.models.progress import Progress
from llamafw.options import unescape
from llamafw.plugins import Plugins
from llamafw.types import Ints

EXAMPLE = "llamafw cvector smollm2-135m --positive-file happy.txt --negative-file sad.txt -o happy.gguf"


def run(argv: list[str]) -> int:
    """Run a model over pairs of prompts, and write how the outputs of its layers differ."""
    early, rest = parse_early_flags(argv)
    plugins = load_plugins(early)
    args = _parse(rest, plugins, early.config)
    check_free(args.output_file, force=args.force)
    opened = open_model_for(args.path, args, early, plugins)
    check_generates(opened)
    sides = [_prompts(opened, args, name) for name in ("positive_file", "negative_file")]
    if len(sides[0]) != len(sides[1]):
        raise SettingsError(f"--positive-file has {len(sides[0])} prompts, but --negative-file has {len(sides[1])}")

    graph, layers = observe_layers(opened.graph)
    n_ctx = max(len(prompt) for side in sides for prompt in side)
    backend = opened.start(n_ctx, graph.n_embd, graph)
    states = []
    with closing(backend), Progress(opened.path.name, not args.quiet) as progress:
        progress.start_count("prompts", sum(map(len, sides)))
        for side in sides:
            rows = []
            for prompt in side:
                rows.append(last_states(backend, prompt))
                progress.advance("")
            states.append(np.stack(rows))
    directions = find_directions(layers, states[0], states[1], args.method)
    write_control_vector(args.output_file, opened.model, directions, force=args.force)
    print(f"{args.output_file}: directions of {len(layers)} layers from {len(sides[0])} pairs of prompts")
    return 0


def _parse(argv: list[str], plugins: Plugins, config: str | None) -> Namespace:
    parser = CommandParser(
        "llamafw cvector",
        "Make a control vector: for each layer, the direction in which its output after the positive prompts differs "
        "from that after the negative ones. `llamafw serve --control-vector-scaled FILE:SCALE` adds it.",
        usage="llamafw cvector [MODEL | -hf USER/REPO[:QUANT]] --positive-file FILE --negative-file FILE [OPTIONS]",
        example=EXAMPLE,
    )
    parser.add_argument("path", metavar="MODEL", nargs="?", help="the model, unless -m or -hf names it")
    add = parser.add_argument_group("prompts").add_argument
    lines = r"one per line; \n in a line is a line break"
    add("--positive-file", metavar="FILE", help=f"prompts with what the vector stands for, {lines}")
    add("--negative-file", metavar="FILE", help="the same prompts without it, in the same order")
    add("--method", choices=("pca", "mean"), default="pca", help="the principal component of the differences, or their "
        "mean (default: pca)")  # fmt: skip
    add("-o", "--output-file", metavar="FILE", type=Path, default=Path("control_vector.gguf"),
        help="(default: control_vector.gguf)")  # fmt: skip
    add("--force", action="store_true", help="replace FILE if it exists")
    add("--quiet", action="store_true", help="do not show progress")
    add_settings(parser, SHARED_SETTINGS)
    args = parse_with_plugin_flags(parser, argv, plugins, config)
    if args.positive_file is None or args.negative_file is None:
        parser.error("--positive-file and --negative-file name the prompts; both are needed")
    if args.path and (args.model or args.hf_repo or args.model_url):
        parser.error(f"unexpected argument {args.path}; the model is already named")
    return args


def _prompts(opened: OpenModel, args: Namespace, name: str) -> list[Ints]:
    """Return the tokens of the prompts in a file."""
    flag, file = f"--{name.replace('_', '-')}", getattr(args, name)
    prompts = []
    for line in read_text(file).splitlines():
        if not line.strip():
            continue
        tokens = opened.tokenizer.encode(unescape(line, flag), add_special=True, parse_special=True)
        limit = opened.settings.ctx_size or opened.graph.n_ctx_train
        if len(tokens) > limit:
            raise SettingsError(f"{flag}: a prompt has {len(tokens)} tokens; the context has {limit} (-c)")
        prompts.append(np.array(tokens, np.int32))
    if not prompts:
        raise SettingsError(f"{flag}: {file} has no prompts")
    return prompts
