"""``llamafw fit``: print how much memory a model needs, before it is loaded."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict, replace

from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.read_settings import load_plugins, parse_early_flags, settings_from
from llamafw.errors import SettingsError
from llamafw.models.find import find_model
from llamafw.speculation_settings import PREDICTION_DRAFTER

SHARED_SETTINGS = (
    "model",
    "hf_repo",
    "hf_file",
    "hf_token",
    "model_url",
    "offline",
    "ctx_size",
    "parallel",
    "batch_size",
    "ubatch_size",
    "cache_type_k",
    "cache_type_v",
    "swa_full",
    "ctx_checkpoints",
    "requantize",
    "override_kv",
    "spec_type",
    "spec_draft_type_k",
    "spec_draft_type_v",
)
"""The settings of ``llamafw serve`` that this command has too."""

EXAMPLE = """\
llamafw fit model.gguf -c 32768 -np 4
llamafw fit model.gguf --cache-type-k q8_0 --cache-type-v q8_0 --requantize q4_k"""


def run(argv: list[str]) -> int:
    """Print the estimate; return 0 if the model fits into the memory that is free, otherwise 1."""
    early, rest = parse_early_flags(argv)
    plugins = load_plugins(early)
    parser = CommandParser(
        "llamafw fit",
        "Print how much memory a server needs for a model on the CPU, without loading it. The exit code is 1 if that "
        "is more than what is free. Flags have the meaning that they have for `llamafw serve`.",
        usage="llamafw fit [MODEL | -m FILE | -hf USER/REPO[:QUANT]] [OPTIONS]",
        example=EXAMPLE,
    )
    parser.add_argument("file", metavar="MODEL", nargs="?", help="the same as -m MODEL")
    parser.add_argument("--json", action="store_true", help="print JSON: sizes in bytes")
    add_settings(parser, SHARED_SETTINGS)
    args = parser.parse(rest)
    settings = settings_from(
        Namespace(**{name: getattr(args, name) for name in SHARED_SETTINGS if hasattr(args, name)}),
        config=early.config,
    )
    if args.file is not None:
        settings = replace(settings, model=args.file)

    from llamafw.engine.components import build_graph  # slow imports, which --help does not need
    from llamafw.engine.drafters import check_prediction
    from llamafw.engine.load import open_model
    from llamafw.engine.machine_memory import read_memory
    from llamafw.engine.memory_estimate import check_memory, cpu_options, draft_options, estimate
    from llamafw.models.requantize import requantize

    model = open_model(find_model(settings), settings, plugins)
    graph = build_graph(model, plugins)
    if PREDICTION_DRAFTER in settings.drafters:
        check_prediction(model, graph)
    model = requantize(model, graph, settings, plugins.registry("quant"), lambda line: None)
    memory = read_memory()
    options = cpu_options(settings, graph, memory)
    needed = estimate(model, graph, options, draft_options(settings, graph, options))
    fits = needed.total <= memory.available
    if args.json:
        sizes = {**asdict(needed), "total": needed.total, "memory": memory.total, "available": memory.available}
        print(json.dumps({**sizes, "n_slots": options.n_slots, "n_ctx": options.n_ctx, "fits": fits}))
        return 0 if fits else 1
    rows = {
        "weights": needed.weights,
        f"KV cache, {options.n_slots} x {options.n_ctx} tokens": needed.cache,
        "activations": needed.activations,
        "program, also during sleep": needed.program,
        "total": needed.total,
        "memory": memory.total,
        "memory that is free": memory.available,
    }
    width = max(map(len, rows))
    print("\n".join(f"{name:{width}}  {size / 2**20:>12,.1f} MiB" for name, size in rows.items()))
    try:
        print(check_memory(model, graph, settings, memory) or "the server fits into memory")
    except SettingsError as error:
        print(error)
    return 0 if fits else 1
