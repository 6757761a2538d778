"""Measure how much the types of cached keys and values change what a model predicts.

For each pair of types: the Kullback-Leibler divergence of the next token's distribution from that with a cache of
float32, averaged over the tokens of a text, its 99th percentile, and how often the likeliest token is the same.

Run it from the repository's root::

    python benchmarks/cache_types.py [-m model.gguf] [-n 4096] [-t q8_0/q8_0,q8_0/q4_0] [FILE …]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from llamafw import BackendContext, BackendOptions, Batch, Floats
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from llamafw_backends.numba_cpu.backend import NumbaBackend
from llamafw_backends.numba_cpu.cache_types import CACHE_TYPES

TEXTS = ("docs/engine.md", "docs/sampling.md", "docs/kernels.md")
N_UBATCH = 512


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--model", type=Path, help="GGUF file (default: the default model)")
    parser.add_argument("-n", "--n-tokens", type=int, default=2048, help="length of the text")
    parser.add_argument("-t", "--types", default="f16/f16,q8_0/q8_0,q4_0/f16,f16/q4_0", help="pairs of types")
    parser.add_argument("files", nargs="*", type=Path, default=[Path(name) for name in TEXTS])
    args = parser.parse_args()

    model = Model(args.model)
    text = "\n".join(path.read_text() for path in args.files)
    tokens = model.tokenizer.encode(text)[: args.n_tokens]
    expected = model.log_probabilities(tokens, "f32", "f32")
    print(f"{model.path.name}, {len(tokens)} tokens\n")
    print("| keys | values | bytes per number | KL divergence | 99 % below | same token |\n|---|---|---|---|---|---|")
    for pair in args.types.split(","):
        keys, values = pair.split("/")
        found = model.log_probabilities(tokens, keys, values)
        divergence = (np.exp(expected) * (expected - found)).sum(axis=1)
        same = (expected.argmax(axis=1) == found.argmax(axis=1)).mean()
        size, rare = (_bytes(keys) + _bytes(values)) / 2, np.quantile(divergence, 0.99)
        print(f"| {keys} | {values} | {size:.2f} | {divergence.mean():.5f} | {rare:.4f} | {same:.1%} |", flush=True)


class Model:
    """A model file."""

    def __init__(self, path: Path | None) -> None:
        plugins = Plugins()
        self.path = path or find_default()
        self.plugins = plugins
        self.model = read_gguf(self.path, plugins.registry("quant"), ())
        self.graph = plugins.registry("architecture")[self.model.metadata["general.architecture"]](self.model)
        metadata = self.model.metadata
        self.tokenizer: Any = plugins.registry("tokenizer")[metadata["tokenizer.ggml.model"]](metadata)

    def log_probabilities(self, tokens: list[int], keys: Any, values: Any) -> Floats:
        options = BackendOptions(n_ctx=len(tokens), n_ubatch=N_UBATCH, cache_type_k=keys, cache_type_v=values)
        backend = NumbaBackend(
            BackendContext(
                self.model,
                self.graph,
                options,
                self.plugins.registry("quant"),
                lambda line: None,
                self.plugins.registry("operator"),
            )
        )
        rows = []
        for first in range(0, len(tokens), N_UBATCH):
            chunk = np.array(tokens[first : first + N_UBATCH], np.int32)
            positions = np.arange(first, first + len(chunk), dtype=np.int32)
            zeros = np.zeros(len(chunk), np.int32)
            logits = backend.forward(Batch(chunk, positions, zeros, np.arange(len(chunk), dtype=np.int32)))
            rows.append(_log_softmax(logits))
        backend.close()
        return np.concatenate(rows)


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _bytes(kind: str) -> float:
    found = CACHE_TYPES[kind].format
    return found.block_bytes / found.block_size


def find_default() -> Path:
    return next((Path.home() / ".cache/llamafw/models").glob("*.gguf"))


if __name__ == "__main__":
    main()
