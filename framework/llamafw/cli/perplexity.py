"""``llamafw perplexity``: measure how well a model predicts a text, and how much it differs from another model."""

from __future__ import annotations

import json
from argparse import Namespace
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from llamafw.cli.measuring import (
    OpenModel,
    check_generates,
    make_parser,
    open_model_for,
    read_text,
    split_paths,
)
from llamafw.cli.parser import CommandParser
from llamafw.cli.plugin_flags import parse_with_plugin_flags
from llamafw.cli.read_settings import load_plugins, parse_early_flags
from llamafw.errors import ModelError, SettingsError
from llamafw.evaluation.base_logits import BaseWriter, read_base
from llamafw.evaluation.chunks import make_chunks
from llamafw.evaluation.kl_divergence import Comparison, compare
from llamafw.evaluation.perplexity import Perplexity, measure
from llamafw.models.gguf_writer import check_free
from llamafw.models.part_files import part_file
from llamafw.models.progress import Progress

EXAMPLE = """\
llamafw perplexity model.gguf wiki.test.raw
llamafw perplexity model-f16.gguf wiki.test.raw --save-all-logits base.kld
llamafw perplexity model-q4_k_m.gguf --kl-divergence --kl-divergence-base base.kld"""


def run(argv: list[str]) -> int:
    """Measure and print the result."""
    early, rest = parse_early_flags(argv)
    plugins = load_plugins(early)
    parser = _make_parser()
    args = parse_with_plugin_flags(parser, rest, plugins, early.config)
    if args.kl_divergence and not args.kl_divergence_base:
        parser.error("--kl-divergence needs --kl-divergence-base FILE")
    model, text = split_paths(args, parser, has_text=not args.kl_divergence)
    base = Path(args.kl_divergence_base) if args.kl_divergence_base else None
    if base is not None and not args.kl_divergence:
        check_free(base, force=args.force)

    opened = open_model_for(model, args, early, plugins)
    check_generates(opened)
    if args.kl_divergence:
        assert base is not None  # checked above
        _print_comparison(_compare(opened, base, args), opened, args)
    else:
        assert text is not None  # `split_paths` refuses that
        _print_perplexity(_measure(opened, read_text(text), base, args), opened, args)
    return 0


def _make_parser() -> CommandParser:
    parser = make_parser(
        "perplexity",
        "Measure how well a model predicts a text: exp(-mean(ln p)) of the tokens in the second half of each chunk, as "
        "llama-perplexity does. With --kl-divergence, compare its predictions with those of another model.",
        "llamafw perplexity [MODEL | -hf USER/REPO[:QUANT]] TEXT [OPTIONS]\n"
        "       llamafw perplexity [MODEL] --kl-divergence --kl-divergence-base FILE [OPTIONS]",
        EXAMPLE,
    )
    add = parser.add_argument_group("comparison").add_argument
    add(
        *("--kl-divergence-base", "--save-all-logits"),
        metavar="FILE",
        help="write the predictions to FILE, or read them with --kl-divergence; llama-perplexity has the same format",
    )
    add("--kl-divergence", action="store_true", help="compare with the predictions in --kl-divergence-base")
    add("--force", action="store_true", help="replace FILE if it exists")
    add("--json", action="store_true", help="print JSON")
    return parser


def _measure(opened: OpenModel, text: str, base: Path | None, args: Namespace) -> Perplexity:
    n_ctx = opened.chunk_size()
    chunks = make_chunks(text, opened.tokenizer, n_ctx, n_chunks=args.chunks, parse_special=args.parse_special)
    n_vocab = opened.tokenizer.n_vocab
    with ExitStack() as stack:
        backend = stack.enter_context(closing(opened.start(n_ctx, opened.graph.n_vocab)))
        progress = stack.enter_context(Progress(opened.path.name, not args.quiet))
        progress.start_count("chunks", len(chunks.tokens))

        def finished(result: Perplexity) -> None:
            progress.advance(f"PPL {result.value:.4f}")

        if base is None:
            return measure(backend, chunks, finished)
        try:
            with part_file(base) as part, part.open("wb") as file:
                return measure(backend, chunks, finished, BaseWriter(file, chunks, n_vocab).add)
        except OSError as error:
            raise ModelError(f"{base} cannot be written: {error.strerror or error}") from error


def _compare(opened: OpenModel, path: Path, args: Namespace) -> Comparison:
    base = read_base(path)
    if base.n_vocab != opened.tokenizer.n_vocab:
        raise SettingsError(
            f"{path} is of a model with {base.n_vocab} tokens, but {opened.path} has {opened.tokenizer.n_vocab}"
        )
    if base.tokens.min(initial=0) < 0 or base.tokens.max(initial=0) >= base.n_vocab:
        raise ModelError(f"{path} is damaged: it has tokens that are not in the vocabulary")
    bos = opened.tokenizer.bos if opened.tokenizer.add_bos else None
    backend = opened.start(opened.chunk_size(int(base.tokens.shape[1]), str(path)), opened.graph.n_vocab)
    with closing(backend), Progress(opened.path.name, not args.quiet) as progress:
        progress.start_count("chunks", len(base.tokens))
        return compare(
            backend, base, bos, lambda result: progress.advance(f"KL divergence {result.divergence.value:.5f}")
        )


def _print_perplexity(result: Perplexity, opened: OpenModel, args: Namespace) -> None:
    if args.json:
        print(json.dumps({"model": opened.path.name, **_perplexity_json(result)}))
    else:
        print(f"perplexity: {result.value:.4f} ± {result.error:.4f} ({result.nll.n} tokens)")


def _print_comparison(result: Comparison, opened: OpenModel, args: Namespace) -> None:
    quantiles = {f"{100 * q:g} %": result.quantile(q) for q in (0.5, 0.9, 0.99, 0.999)}
    if args.json:
        divergence = {
            "mean": result.divergence.value,
            "error": result.divergence.error,
            "max": result.quantile(1),
            "quantiles": {name.removesuffix(" %"): value for name, value in quantiles.items()},
        }
        numbers = {
            "model": opened.path.name,
            **_perplexity_json(result.perplexity),
            "base_perplexity": result.base.value,
            "log_ratio": {"mean": result.log_ratio.value, "error": result.log_ratio.error},
            "kl_divergence": divergence,
            "rms_difference": result.rms_difference,
            "same_top": {"mean": result.same_top.value, "error": result.same_top.error},
        }
        print(json.dumps(numbers))
        return

    rows = {
        "perplexity": f"{result.perplexity.value:.4f} ± {result.perplexity.error:.4f}",
        "perplexity of the base": f"{result.base.value:.4f} ± {result.base.error:.4f}",
        "ln of their ratio": f"{result.log_ratio.value:.5f} ± {result.log_ratio.error:.5f}",
        "KL divergence": f"{result.divergence.value:.5f} ± {result.divergence.error:.5f}",
        "  quantiles": ", ".join(f"{name} {value:.5f}" for name, value in quantiles.items()),
        "  maximum": f"{result.quantile(1):.5f}",
        "difference of p (RMS)": f"{100 * result.rms_difference:.3f} %",
        "same likeliest token": f"{100 * result.same_top.value:.3f} ± {100 * result.same_top.error:.3f} %",
    }
    for name, value in rows.items():
        print(f"{name:24}{value}")
    print(f"{'tokens':24}{result.perplexity.nll.n}")


def _perplexity_json(result: Perplexity) -> dict[str, Any]:
    return {"perplexity": result.value, "error": result.error, "n_tokens": result.nll.n}
