"""How long sampling takes per token: each sampler, the default chain and the draw, over a whole vocabulary.

    python benchmarks/samplers.py [--vocab 49152] [--rounds 7]

The rows are normal with a heavy upper tail, as a language model's are; a different one for each token, so that no
branch is learnt and no row is in the first-level cache. Medians of the rounds, in microseconds.
"""
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from llamafw import Candidates, GenerateRequest, SamplerContext
from llamafw.engine.chain import build, draw
from llamafw.engine.logprobs import of_row
from llamafw.kernels import Vocabulary
from llamafw_plugins.samplers import DEFAULT_ORDER
from llamafw_plugins.samplers.min_p import MinP
from llamafw_plugins.samplers.penalties import Penalties
from llamafw_plugins.samplers.temperature import Temperature
from llamafw_plugins.samplers.tfs_z import TfsZ
from llamafw_plugins.samplers.top_k import TopK
from llamafw_plugins.samplers.top_p import TopP
from llamafw_plugins.samplers.typ_p import TypP

PLUGINS: dict[str, Any] = {
    "penalties": Penalties, "top_k": TopK, "tfs_z": TfsZ, "typ_p": TypP, "top_p": TopP, "min_p": MinP,
    "temperature": Temperature,
}
CASES: list[tuple[str, Sequence[str], dict[str, Any]]] = [
    ("default chain", DEFAULT_ORDER, {}),
    ("default chain, all six at work", DEFAULT_ORDER, {"repeat_penalty": 1.1, "typical_p": 0.9}),
    ("default chain, dynamic temperature", DEFAULT_ORDER, {"dynatemp_range": 0.5}),
    ("greedy", DEFAULT_ORDER, {"temperature": 0}),
    ("greedy with penalties", DEFAULT_ORDER, {"temperature": 0, "repeat_penalty": 1.1}),
    ("no sampler: only the draw", (), {}),
    ("top_k 40", ("top_k",), {}),
    ("top_k 1000", ("top_k",), {"top_k": 1000}),
    ("top_p 0.95 alone", ("top_p",), {}),
    ("min_p 0.05 alone", ("min_p",), {}),
    ("typ_p 0.9 alone", ("typ_p",), {"typical_p": 0.9}),
    ("temperature 0.8 alone", ("temperature",), {}),
    ("penalties alone, window 64", ("penalties",), {"repeat_penalty": 1.1}),
]


def rows(n_vocab: int, n: int) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(1)
    tail = random.exponential(1.5, (n, n_vocab)) * (random.random((n, n_vocab)) < 0.02)
    return (random.standard_normal((n, n_vocab)) * 2 + 2 * tail).astype(np.float32)


def median_us(step: Callable[[np.ndarray[Any, Any]], object], logits: np.ndarray[Any, Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        fresh = logits.copy()  # samplers overwrite them
        start = time.perf_counter()
        for row in fresh:
            step(row)
        times.append((time.perf_counter() - start) / len(logits) * 1e6)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vocab", type=int, default=49152)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    logits = rows(args.vocab, 200)
    vocabulary = Vocabulary(args.vocab)
    tokenizer: Any = SimpleNamespace(encode=lambda text, **_: [0], piece=lambda token: b"\n", eog=frozenset())
    context = SamplerContext(tuple(range(100, 300)), args.vocab, 2048, tokenizer)
    print(f"{'µs per token, vocabulary of ' + str(args.vocab):44s}{'median':>8s}")
    for name, samplers, options in CASES:
        request = GenerateRequest(context.prompt, samplers=tuple(samplers), options=options)
        chain = build(request, 1, PLUGINS, context)

        def step(row: np.ndarray[Any, Any], chain: Any = chain) -> object:
            return chain.pick(vocabulary, row)

        print(f"{name:44s}{median_us(step, logits, args.rounds):8.1f}")
    random = np.random.default_rng(1)
    few = Candidates(np.arange(10, dtype=np.int32), logits[0, :10].copy())
    parts: list[tuple[str, Callable[[np.ndarray[Any, Any]], object]]] = [
        ("of these: the draw from 10", lambda row: draw(few, random)),
        ("log-probabilities, 10 alternatives", lambda row: of_row(row, 0, 10)),
    ]
    for name, part in parts:
        print(f"{name:44s}{median_us(part, logits, args.rounds):8.1f}")


if __name__ == "__main__":
    main()
