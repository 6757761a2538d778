"""``llamafw imatrix``: measure which columns of a model's matrices matter, so that they are rounded with more care."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import numpy as np

from llamafw.cli.measuring import make_parser, open_model_for, read_text, split_paths
from llamafw.cli.plugin_flags import parse_with_plugin_flags
from llamafw.cli.read_settings import load_plugins, parse_early_flags
from llamafw.errors import ModelError
from llamafw.evaluation.activations import ObservedGraph, observe
from llamafw.evaluation.chunks import make_chunks, run_chunk
from llamafw.models.gguf_writer import check_free
from llamafw.models.imatrix import write_imatrix
from llamafw.models.progress import Progress

EXAMPLE = "llamafw imatrix model-bf16.gguf calibration.txt -o imatrix.gguf"


def run(argv: list[str]) -> int:
    """Run a model over a text, and write the importance matrix."""
    early, rest = parse_early_flags(argv)
    plugins = load_plugins(early)
    parser = make_parser(
        "imatrix",
        "Run a model over a text, and write an importance matrix: the mean squares of what each matrix is multiplied "
        "with. `llamafw quantize --imatrix` rounds with smaller errors where they matter; llama-quantize can read it.",
        "llamafw imatrix [MODEL | -hf USER/REPO[:QUANT]] TEXT [-o FILE] [OPTIONS]",
        EXAMPLE,
    )
    add = parser.add_argument_group("output").add_argument
    add("-o", "--output-file", metavar="FILE", type=Path, default=Path("imatrix.gguf"), help="(default: imatrix.gguf)")
    add("--process-output", action="store_true", help="also for output.weight")
    add("--force", action="store_true", help="replace FILE if it exists")
    args = parse_with_plugin_flags(parser, rest, plugins, early.config)
    model, path = split_paths(args, parser)
    check_free(args.output_file, force=args.force)
    assert path is not None  # `split_paths` refuses that
    text = read_text(path)

    opened = open_model_for(model, args, early, plugins)
    n_ctx = opened.chunk_size()
    chunks = make_chunks(text, opened.tokenizer, n_ctx, n_chunks=args.chunks, parse_special=args.parse_special)
    observed = observe(opened.graph, output=args.process_output)
    if not observed.matrices:
        raise ModelError(f"{opened.path}: the model has no matrices in layers")
    backend = opened.start(n_ctx, observed.graph.n_embd, observed.graph)
    with closing(backend), Progress(opened.path.name, not args.quiet) as progress:
        progress.start_count("chunks", len(chunks.tokens))
        for chunk in chunks:
            for rows in run_chunk(backend, chunk, 0, hidden=True):
                observed.add(rows)
            progress.advance("")
    _check(observed, opened.path)
    write_imatrix(args.output_file, observed.sums, path, len(chunks.tokens), n_ctx, force=args.force)
    print(f"{args.output_file}: {len(observed.sums)} matrices, {chunks.tokens.size} tokens")
    return 0


def _check(observed: ObservedGraph, path: Path) -> None:
    """Raise ModelError if a sum is not finite; print which matrices have no numbers."""
    for name, sums in observed.sums.items():
        if not np.isfinite(sums.squares).all():
            raise ModelError(f"{path}: the inputs of {name!r} are not finite")
    missing = {name: int((sums.counts == 0).sum()) for name, sums in observed.sums.items() if (sums.counts == 0).any()}
    if missing:
        print(f"the text uses not all experts of {len(missing)} matrices; take a longer text", file=sys.stderr)
    if observed.skipped:
        print(f"{len(observed.skipped)} matrices are left out, such as {observed.skipped[0]}", file=sys.stderr)
