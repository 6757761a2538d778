"""Measure the time of sampling per token, for chains and single samplers, compared with numpy and llama.cpp.

    python benchmarks/samplers.py [--vocab 49152,151936] [--rounds 15]

Logits are normally distributed with a heavy upper tail, like those of a language model. Each token has different
logits, so branches cannot be predicted and no row is in the first-level cache. The results are microseconds of
processor time on one thread, which other load on the machine affects less than wall time: the median and the minimum of
the rounds.

* llamafw: `Chain.pick`, the whole cost of a token, with the draw.
* numpy: the same formulas in simple numpy code, with the draw.
* llama.cpp, if `llama-cpp-python` is installed: the array of candidates is filled as in ``llama_sampler_sample``, then
  ``llama_sampler_apply`` runs a chain that ends with ``llama_sampler_init_dist``.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from llamafw import GenerateRequest, SamplerContext
from llamafw.plugins import Plugins
from llamafw.sampling.chain import build_chain
from llamafw.sampling.logprobs import logprobs_of_row
from llamafw.sampling.sampler_kernels import CandidateBuffers
from llamafw_plugins.samplers import DEFAULT_ORDER

Row = np.ndarray[Any, Any]
Step = Callable[[Row], object]
N_ROWS = 100  # more rows of logits than fit into the processor's caches
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("default chain", {}),
    ("with penalties, 64 tokens", {"repeat_penalty": 1.1}),
    ("with penalties, 4096 tokens", {"repeat_penalty": 1.1, "repeat_last_n": 4096}),
    ("with typical_p 0.9 as well", {"repeat_penalty": 1.1, "typical_p": 0.9}),
    ("greedy", {"temperature": 0}),
    ("only the draw", OFF),
    ("top_k 40", OFF | {"top_k": 40}),
    ("top_k 1000", OFF | {"top_k": 1000}),
    ("top_p 0.95", OFF | {"top_p": 0.95}),
    ("min_p 0.05", OFF | {"min_p": 0.05}),
    ("typical_p 0.9", OFF | {"typical_p": 0.9}),
    ("temperature 0.8", OFF | {"temperature": 0.8}),
]
DEFAULTS = {
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.05,
    "temperature": 0.8,
    "typical_p": 1.0,
    "repeat_penalty": 1.0,
    "repeat_last_n": 64,
}


def random_logits(n_vocab: int, n: int) -> Row:
    """Return ``(n, n_vocab)`` float32 logits, normally distributed with a heavy upper tail."""
    random = np.random.default_rng(1)
    tail = random.exponential(1.5, (n, n_vocab)) * (random.random((n, n_vocab)) < 0.02)
    return (random.standard_normal((n, n_vocab)) * 2 + 2 * tail).astype(np.float32)


def prompt(n_vocab: int) -> tuple[int, ...]:
    """Return 4096 tokens; a third of them are different, as in text."""
    return tuple((np.random.default_rng(3).zipf(1.2, 4096) % n_vocab).tolist())


def llamafw_step(n_vocab: int, fields: Mapping[str, Any]) -> Step:
    """Return a function that draws a token with llamafw."""
    tokenizer: Any = SimpleNamespace(encode=lambda text, **_: [0], piece=lambda token: b"\n", eog=frozenset())
    context = SamplerContext(prompt(n_vocab), n_vocab, 8192, tokenizer)
    request = GenerateRequest((), samplers=DEFAULT_ORDER, options=fields)
    chain, buffers = build_chain(request, 1, Plugins().registry("sampler"), context), CandidateBuffers(n_vocab)
    return lambda row: chain.pick(buffers, row)


def numpy_step(n_vocab: int, fields: Mapping[str, Any]) -> Step:
    """Return a function that draws a token with numpy."""
    options = DEFAULTS | dict(fields)
    window, penalty = np.array(prompt(n_vocab)[-options["repeat_last_n"] :]), options["repeat_penalty"]
    random = np.random.default_rng(1)

    def step(row: Row) -> int:
        if penalty != 1:
            seen = np.unique(window)
            row[seen] = np.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
        if options["temperature"] <= 0:
            return int(row.argmax())

        ids = np.arange(len(row))
        if options["top_k"]:
            ids = np.argpartition(row, -options["top_k"])[-options["top_k"] :]
        ids = ids[np.argsort(-row[ids])] if options["top_k"] or options["top_p"] < 1 else ids
        logits = row[ids]

        if options["typical_p"] < 1:
            p = np.exp(logits - logits.max())
            p /= p.sum()
            surprise = -np.log(p)
            order = np.argsort(np.abs(surprise - (p * surprise).sum()))
            keep = order[: int((p[order].cumsum() <= options["typical_p"]).sum()) + 1]
            ids, logits = ids[np.sort(keep)], logits[np.sort(keep)]
        if options["top_p"] < 1:
            p = np.exp(logits - logits[0])
            n = int((p.cumsum() < options["top_p"] * p.sum()).sum()) + 1
            ids, logits = ids[:n], logits[:n]
        if options["min_p"]:
            keep = logits >= logits.max() + np.log(options["min_p"])
            ids, logits = ids[keep], logits[keep]

        p = np.exp((logits - logits.max()) / options["temperature"]).astype(np.float64)
        return int(random.choice(ids, p=p / p.sum()))

    return step


def llama_cpp_step(n_vocab: int, fields: Mapping[str, Any]) -> Step | None:
    """Return a function that draws a token with llama.cpp; None if `llama-cpp-python` is not installed."""
    try:
        import llama_cpp as peer  # type: ignore[import-not-found]  # optional
    except ImportError:
        return None
    options = DEFAULTS | dict(fields)
    chain = peer.llama_sampler_chain_init(peer.llama_sampler_chain_default_params())

    parts = []
    if options["repeat_penalty"] != 1:
        last, penalty = options["repeat_last_n"], options["repeat_penalty"]
        parts.append(peer.llama_sampler_init_penalties(n_vocab, last, penalty, 0.0, 0.0))
        for token in prompt(n_vocab)[-last:]:
            peer.llama_sampler_accept(parts[0], token)
    if options["temperature"] <= 0:
        parts.append(peer.llama_sampler_init_greedy())
    else:
        parts.append(peer.llama_sampler_init_top_k(options["top_k"]))
        parts.append(peer.llama_sampler_init_typical(options["typical_p"], 0))
        parts.append(peer.llama_sampler_init_top_p(options["top_p"], 0))
        parts.append(peer.llama_sampler_init_min_p(options["min_p"], 0))
        parts.append(peer.llama_sampler_init_temp(options["temperature"]))
        parts.append(peer.llama_sampler_init_dist(1))
    for part in parts:
        peer.llama_sampler_chain_add(chain, part)

    cells = np.zeros(n_vocab, np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)]))
    tokens = np.arange(n_vocab, dtype=np.int32)
    array = peer.llama_token_data_array(
        data=cells.ctypes.data_as(ctypes.POINTER(peer.llama_token_data)), size=n_vocab, selected=-1, sorted=False
    )

    def step(row: Row) -> int:
        cells["id"], cells["logit"] = tokens, row
        array.size, array.selected, array.sorted = n_vocab, -1, False
        peer.llama_sampler_apply(chain, ctypes.byref(array))
        token = int(array.data[array.selected].id)
        peer.llama_sampler_accept(chain, token)
        return token

    return step


def time_step(step: Step, logits: Row, rounds: int) -> tuple[float, float]:
    """Return the median and the minimum of the rounds, in microseconds of processor time per token."""
    per_token = []
    for _ in range(rounds):
        fresh = logits.copy()  # samplers overwrite logits
        start = time.thread_time()
        for row in fresh:
            step(row)
        per_token.append((time.thread_time() - start) / len(logits) * 1e6)
    return statistics.median(per_token), min(per_token)


def table(n_vocab: int, rounds: int) -> Iterator[str]:
    """Measure all cases for one size of the vocabulary; yield the lines of a Markdown table."""
    logits = random_logits(n_vocab, N_ROWS)
    makers = {"llamafw": llamafw_step, "numpy": numpy_step}
    if llama_cpp_step(n_vocab, {}) is not None:
        makers["llama.cpp"] = llama_cpp_step  # type: ignore[assignment]  # it is installed
    yield f"| {n_vocab:,} tokens | {' | '.join(makers)} |"
    yield "|---" * (1 + len(makers)) + "|"
    for name, fields in CASES:
        cells = [time_step(make(n_vocab, fields), logits, rounds) for make in makers.values()]
        yield f"| {name} | " + " | ".join(f"{median:.0f} ({minimum:.0f})" for median, minimum in cells) + " |"
    median, minimum = time_step(lambda row: logprobs_of_row(row, 0, 10), logits, rounds)
    yield f"| `n_probs` 10, in addition | {median:.0f} ({minimum:.0f}) |" + " |" * (len(makers) - 1)


def main() -> None:
    """Print a table for each size of the vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vocab", default="49152,151936", help="sizes of vocabularies, separated by commas")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    print("µs of processor time per token: median (minimum)\n")
    for size in args.vocab.split(","):
        for line in table(int(size), args.rounds):
            print(line, flush=True)
        print()


if __name__ == "__main__":
    main()
