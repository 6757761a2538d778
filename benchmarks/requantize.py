"""Measure what rounding a model's matrices to other types costs: in the weights, and in what the model predicts.

For each type: the size of the tensors, the time to load, the perplexity of a text, and the Kullback-Leibler divergence
of the next token's distribution from that of the file.

Run it from the repository's root::

    python benchmarks/requantize.py [-m model.gguf] [-n 1024] [-t q8_0,q4_k] [FILE …]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from cache_types import TEXTS, Model
from llamafw import Floats, Settings
from llamafw.models.requantize import requantize


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--model", type=Path, help="GGUF file (default: the default model)")
    parser.add_argument("-n", "--n-tokens", type=int, default=1024, help="length of the text")
    parser.add_argument("-t", "--types", default="q8_0,q6_k,q5_k,q5_0,q4_k,q4_1,iq4_nl,q4_0,q3_k,q2_k")
    parser.add_argument("files", nargs="*", type=Path, default=[Path(name) for name in TEXTS])
    args = parser.parse_args()

    model = Model(args.model)
    text = "\n".join(path.read_text() for path in args.files)
    tokens = model.tokenizer.encode(text)[: args.n_tokens]
    file, started = model.model, time.perf_counter()
    expected = model.log_probabilities(tokens, "f16", "f16")
    seconds = time.perf_counter() - started
    print(f"{model.path.name}, {len(tokens)} tokens\n")
    print("| type | MB | seconds | perplexity | KL divergence | same token |\n|---|---|---|---|---|---|")
    print(f"| file | {file.n_bytes / 1e6:.0f} | {seconds:.1f} | {perplexity(expected, tokens):.3f} | | |", flush=True)
    for name in args.types.split(","):
        settings = Settings(requantize=name)
        model.model = requantize(file, model.graph, settings, model.plugins.registry("quant"), lambda line: None)
        started = time.perf_counter()
        found = model.log_probabilities(tokens, "f16", "f16")
        seconds = time.perf_counter() - started
        divergence = (np.exp(expected) * (expected - found)).sum(axis=1).mean()
        same = (expected.argmax(axis=1) == found.argmax(axis=1)).mean()
        size = f"{model.model.n_bytes / 1e6:.0f} | {seconds:.1f} | {perplexity(found, tokens):.3f}"
        print(f"| {name} | {size} | {divergence:.4f} | {same:.1%} |", flush=True)


def perplexity(log_probabilities: Floats, tokens: list[int]) -> float:
    """Return the perplexity of a text, given those of the tokens after each of its tokens."""
    return float(np.exp(-log_probabilities[np.arange(len(tokens) - 1), tokens[1:]].mean(dtype=np.float64)))


if __name__ == "__main__":
    main()
