"""``llamafw convert``: write a checkpoint of Hugging Face as a GGUF file."""

from __future__ import annotations

from pathlib import Path

from llamafw.checkpoints import is_adapter, open_adapter
from llamafw.cli.parser import CommandParser
from llamafw.cli.quantize import add_arguments, check_flags_of_types, make_choice, parse_arguments, write
from llamafw.engine.components import build_graph
from llamafw.engine.load import open_model
from llamafw.models.find import find_model
from llamafw.models.quantize import make_plan
from llamafw.plugins import Plugins
from llamafw.settings import Settings

EXAMPLE = """\
llamafw convert ./Qwen3-0.6B qwen3-0.6b-bf16.gguf
llamafw convert ./Qwen3-0.6B qwen3-0.6b-q4_k_m.gguf --type q4_k_m
llamafw convert ./my-lora my-lora.gguf --base ./Qwen3-0.6B"""


def run(argv: list[str]) -> int:
    """Convert a checkpoint."""
    parser = CommandParser(
        "llamafw convert",
        "Write a checkpoint of Hugging Face (a folder with config.json and safetensors files) as a GGUF file, which "
        "llama.cpp and others read. A folder whose tensors do not fit its config is refused. Matrices that the "
        "checkpoint has rounded keep their types. A folder with a LoRA adapter (adapter_config.json) becomes an "
        "adapter for llama.cpp.",
        example=EXAMPLE,
    )
    parser.add_argument("source", metavar="SRC", nargs="?", help="the folder, or another model that plugins can open")
    parser.add_argument(
        "--base",
        metavar="FOLDER",
        type=Path,
        help="the model that an adapter changes (default: what the adapter names)",
    )
    add_arguments(parser, default=None)
    args = parse_arguments(parser, argv)
    check_flags_of_types(parser, args)

    plugins = Plugins(extra=args.plugin)
    settings, quants = Settings(model=args.source), plugins.registry("quant")
    choice = make_choice(args, quants, keep_quantized=True)
    path = Path(args.source)
    if is_adapter(path):
        if args.type is not None:
            parser.error(
                "--type: the matrices of an adapter keep their types, because they are too small to be rounded"
            )
        model = open_adapter(path, args.base, plugins.registry("conversion"))
    elif args.base is not None:
        parser.error(f"--base: {args.source} is not a LoRA adapter")
    else:
        model = open_model(path if path.exists() else find_model(settings), settings, plugins)
        build_graph(model, plugins)  # raises ModelError for tensors that do not fit the config
    write(make_plan(model, choice, quants), args, quants)
    return 0
