"""``llamafw fit``: print how much memory a model needs, before it is loaded."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace

from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.read_settings import load_plugins, parse_early_flags, settings_from
from llamafw.errors import SettingsError
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
    "spec_draft_model",
    "spec_draft_hf",
    "lora",
    "lora_scaled",
    "control_vector",
    "control_vector_scaled",
    "control_vector_layer_range",
    "embedding_model",
    "reranking_model",
    "embedding_ctx_size",
)
"""The settings of ``llamafw serve`` that this command has too."""

EXAMPLE = """\
llamafw fit model.gguf -c 32768 -np 4
llamafw fit model.gguf -md small.gguf --lora sql.gguf --embedding-model minilm-l6-v2
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

    from llamafw.engine.adapter_loader import check_adapters
    from llamafw.engine.components import build_graph  # slow imports, which --help does not need
    from llamafw.engine.drafters import check_drafters, check_prediction
    from llamafw.engine.load import open_header
    from llamafw.engine.machine_memory import read_memory
    from llamafw.engine.memory_companions import find_companions
    from llamafw.engine.memory_estimate import MODEL, cpu_options, estimate
    from llamafw.engine.memory_fit import check_memory
    from llamafw.engine.side_models import find_side_models, needed_beside
    from llamafw.models.requantize import requantize

    check_drafters(settings, plugins)
    check_adapters(settings)
    model = open_header(settings, plugins)
    graph = build_graph(model, plugins)
    if PREDICTION_DRAFTER in settings.drafters:
        check_prediction(model, graph)
    model = requantize(model, graph, settings, plugins.registry("quant"), lambda line: None)
    memory = read_memory()
    options = cpu_options(settings, graph, memory)
    companions = find_companions(model, graph, settings, plugins, lambda own: open_header(own, plugins), memory)
    companions = companions.beside(needed_beside(find_side_models(settings, plugins)))
    needed = estimate(model, graph, options, companions, is_cache_set=settings.ctx_size != 0)
    fits = needed.total <= memory.available
    if args.json:
        kinds = ("weights", "cache", "activations", "vocabulary")
        sizes = {kind: getattr(needed, kind) for kind in (*kinds, "program", "total")}
        parts = {name: {kind: getattr(part, kind) for kind in kinds} for name, part in needed.parts.items()}
        machine = {"memory": memory.total, "available": memory.available}
        slots = {"n_slots": options.n_slots, "n_ctx": options.n_ctx}
        print(json.dumps({**sizes, **machine, **slots, "fits": fits, "parts": parts}))
        return 0 if fits else 1
    first = needed.parts[MODEL]
    rows = {
        "weights": first.weights,
        f"KV cache, {options.n_slots} x {options.n_ctx} tokens": first.cache,
        "activations": first.activations,
    }
    for name, part in needed.parts.items():
        kinds_of_part = {
            "weights": part.weights,
            "KV cache": part.cache,
            "activations": part.activations,
            "vocabulary": part.vocabulary,
        }
        if name != MODEL:
            rows |= {f"{name}: {kind}": n_bytes for kind, n_bytes in kinds_of_part.items() if n_bytes}
    rows |= {
        "program, also during sleep": needed.program,
        "total": needed.total,
        "memory": memory.total,
        "memory that is free": memory.available,
    }
    width = max(map(len, rows))
    print("\n".join(f"{name:{width}}  {size / 2**20:>12,.1f} MiB" for name, size in rows.items()))
    try:
        print(check_memory(model, graph, settings, memory, companions) or "the server fits into memory")
    except SettingsError as error:
        print(error)
    return 0 if fits else 1
