"""``llamafw quantize``: write a model as a GGUF file with rounded tensors."""

from __future__ import annotations

import re
import sys
import time
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

from llamafw.cli.parser import CommandParser
from llamafw.engine.load import open_model
from llamafw.errors import SettingsError
from llamafw.models.file_types import FILE_TYPES, find_file_type, find_quantizer
from llamafw.models.find import find_model
from llamafw.models.gguf_writer import check_free
from llamafw.models.imatrix import read_imatrix
from llamafw.models.progress import Progress
from llamafw.models.quantize import Choice, Plan, count_used, describe_types, make_plan, write_plan
from llamafw.plugins import Plugins
from llamafw.registry import Registry
from llamafw.settings import Settings

EXAMPLE = """\
llamafw quantize model-bf16.gguf model-q4_k_m.gguf --type q4_k_m
llamafw quantize model-bf16.gguf small.gguf --type q3_k_m --imatrix imatrix.gguf"""


def run(argv: list[str]) -> int:
    """Round a model and write it."""
    parser = CommandParser(
        "llamafw quantize",
        "Write a model as a GGUF file with rounded tensors. The file needs less memory and runs faster.",
        example=EXAMPLE,
    )
    parser.add_argument(
        "source", metavar="SRC", nargs="?", help="GGUF file or other model, or a name from the catalogue"
    )
    add_arguments(parser, default="q4_k_m")
    args = parse_arguments(parser, argv)

    plugins = Plugins(extra=args.plugin)
    settings, quants = Settings(model=args.source), plugins.registry("quant")
    choice = make_choice(args, quants)  # before a model is downloaded
    model = open_model(find_model(settings, progress=not args.quiet), settings, plugins)
    write(make_plan(model, choice, quants), args, quants)
    return 0


def add_arguments(parser: CommandParser, default: str | None) -> None:
    """Add the arguments of ``llamafw quantize`` that ``llamafw convert`` has too.

    Parameters
    ----------
    parser : CommandParser
        The parser of the command.
    default : str, optional
        The type of the file without ``--type``; None: tensors keep their types.
    """
    parser.add_argument("target", metavar="DST", nargs="?", type=Path, help="the file to write")
    add = parser.add_argument_group("types").add_argument
    add(
        "-t",
        "--type",
        metavar="TYPE",
        default=default,
        help=f"type of the file: {', '.join(FILE_TYPES)}, or a tensor type of a plugin "
        f"(default: {default or 'the types of SRC'})",
    )
    add("--imatrix", metavar="FILE", type=Path, help="importance matrix, made by `llamafw imatrix` or llama-imatrix")
    add("--pure", action="store_true", help="round all matrices to the same type, instead of some to a larger one")
    add("--leave-output-tensor", action="store_true", help="do not round output.weight")
    add("--output-tensor-type", metavar="TYPE", help="type of output.weight")
    add("--token-embedding-type", metavar="TYPE", help="type of token_embd.weight")
    add(
        "--tensor-type",
        metavar="PATTERN=TYPE",
        action="append",
        type=_parse_tensor_type,
        default=[],
        help="type of the tensors in whose name a regular expression is found, such as attn_v=q8_0; may be repeated",
    )
    add(
        "--allow-requantize",
        action="store_true",
        help="round tensors that have been rounded before, which costs quality",
    )

    add = parser.add_argument_group("output").add_argument
    add("--dry-run", action="store_true", help="print the type of each tensor, and write nothing")
    add("--force", action="store_true", help="replace DST if it exists")
    add("--threads", metavar="N", type=int, default=0, help="number of threads; 0: one per core (default: 0)")
    add("--quiet", action="store_true", help="do not show progress")
    add(
        "--plugin",
        metavar="NAME|MODULE|FILE.py",
        action="append",
        default=[],
        help="load an additional plugin; may be repeated",
    )


def parse_arguments(parser: CommandParser, argv: list[str]) -> Namespace:
    """Return the arguments; SettingsError if SRC or DST is missing."""
    args = parser.parse(argv)
    if args.target is None:
        parser.error("SRC and DST are needed: a model, and the file to write")
    return args


def check_flags_of_types(parser: CommandParser, args: Namespace) -> None:
    """Raise SettingsError if there is no ``--type`` but a flag that says how to round to it."""
    flags = ("imatrix", "pure", "leave_output_tensor", "output_tensor_type", "token_embedding_type", "tensor_type")
    given = [flag for flag in (*flags, "allow_requantize") if getattr(args, flag)]
    if args.type is None and given:
        parser.error(f"--{given[0].replace('_', '-')} needs --type: without it, all tensors keep their types")


def make_choice(args: Namespace, quants: Registry, *, keep_quantized: bool = False) -> Choice:
    """Return how types are chosen, from the arguments."""
    for flag, name in (
        ("--output-tensor-type", args.output_tensor_type),
        ("--token-embedding-type", args.token_embedding_type),
        *(("--tensor-type", name) for _, name in args.tensor_type),
    ):
        if name is not None:
            find_quantizer(name, quants, flag)
    if args.leave_output_tensor and args.output_tensor_type:
        raise SettingsError("--leave-output-tensor and --output-tensor-type contradict each other")
    return Choice(
        file_type=None if args.type is None else find_file_type(args.type, quants),
        imatrix=None if args.imatrix is None else read_imatrix(args.imatrix, quants),
        pure=args.pure,
        keep_output=args.leave_output_tensor,
        output_type=args.output_tensor_type,
        embedding_type=args.token_embedding_type,
        tensor_types=args.tensor_type,
        allow_requantize=args.allow_requantize,
        keep_quantized=keep_quantized,
    )


def write(plan: Plan, args: Namespace, quants: Registry) -> None:
    """Write the file, or print the plan if the arguments ask for that."""
    summary = f"{plan.n_bytes / 1e6:.0f} MB of tensors, {plan.bits_per_weight:.2f} bits per weight"
    if args.dry_run:
        for step in plan.steps:
            arrow = f" -> {step.type_name}" if step.is_rounded else ""
            print(f"{step.tensor.name:40} {'×'.join(map(str, step.tensor.shape)):>16} {step.tensor.type_name}{arrow}")
        print(f"{plan.model.n_bytes / 1e6:.0f} MB would become {summary}")
        return

    check_free(args.target, force=args.force)
    _print_notes(plan)
    started = time.perf_counter()
    with Progress(args.target.name, not args.quiet) as progress:
        progress.start_step("writing", plan.n_bytes)
        write_plan(args.target, plan, quants, n_threads=max(args.threads, 0), force=args.force, written=progress.update)
    seconds = time.perf_counter() - started
    print(f"{args.target}: {summary} ({describe_types(plan.type_counts())}), written in {seconds:.1f} s")


def _print_notes(plan: Plan) -> None:
    misfits = [step for step in plan.steps if step.falls_back]
    if misfits:
        print(
            f"{len(misfits)} tensors have rows that are not whole blocks of their type, such as "
            f"{misfits[0].tensor.name} with {misfits[0].tensor.shape[-1]} columns; they become "
            f"{', '.join(sorted({step.type_name for step in misfits}))}",
            file=sys.stderr,
        )
    imatrix = plan.choice.imatrix
    if imatrix is not None:
        n_used, n_rounded = count_used(plan, imatrix)
        print(f"{imatrix.path} has entries for {n_used} of {n_rounded} tensors that are rounded", file=sys.stderr)


def _parse_tensor_type(text: str) -> tuple[re.Pattern[str], str]:
    pattern, equals, name = text.rpartition("=")
    if not equals or not pattern or not name:
        raise ArgumentTypeError(f"{text!r} is not PATTERN=TYPE, such as attn_v=q8_0")
    try:
        return re.compile(pattern), name
    except re.error as error:
        raise ArgumentTypeError(f"{pattern!r} is not a regular expression: {error}") from error
