"""``llamafw bench``: how many tokens per second a backend computes. It measures forward passes alone."""

from __future__ import annotations

import json
import re
import statistics
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llamafw.cli.parser import Parser, add_settings, load_plugins, settings_from, split_plugin_flags
from llamafw.interfaces import Backend
from llamafw.models.find import find_model
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.types import Batch, Ints

PASSED_ON = (
    "model",
    "hf_repo",
    "hf_file",
    "hf_token",
    "model_url",
    "offline",
    "override_kv",
    "backend",
    "batch_size",
    "ubatch_size",
    "cache_type_k",
    "cache_type_v",
)


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the table: tokens per second over several runs."""

    test: str  # pp512: a prompt of 512 tokens; tg128: 128 tokens, one by one; tg128x8: in 8 slots at once
    threads: int
    median: float
    low: float
    high: float
    gb_per_s: float  # weights read per second, at the median

    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        spread = f"{self.low:.1f} - {self.high:.1f}"
        return self.test, str(self.threads), f"{self.median:.1f}", spread, f"{self.gb_per_s:.1f}"


def run(argv: list[str]) -> int:
    """Measure and print."""
    first, rest = split_plugin_flags(argv)
    plugins = load_plugins(first)
    parser = Parser("llamafw bench", "Measure how fast a model runs: tokens per second of prompts and of decoding.")
    bench = parser.add_argument_group("bench")
    lists: dict[str, Any] = {"type": _numbers, "metavar": "N,.."}
    bench.add_argument("-p", "--n-prompt", default=[512], help="prompt lengths; 0: none (default: 512)", **lists)
    bench.add_argument("-n", "--n-gen", default=[128], help="tokens to decode; 0: none (default: 128)", **lists)
    bench.add_argument("-np", "--parallel", default=[1], help="slots decoding at once (default: 1)", **lists)
    bench.add_argument("-t", "--threads", default=[0], help="threads (default: 0, as the server would)", **lists)
    bench.add_argument("-r", "--repetitions", default=[5], type=_numbers, metavar="N", help="runs (default: 5)")
    bench.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser, PASSED_ON)
    given = parser.parse(rest)
    base = settings_from(Namespace(**{name: getattr(given, name) for name in PASSED_ON}), config=first.config)
    path = find_model(base)
    results = _measure(path, base, plugins, given)
    _print(results, path.name, as_json=given.json)
    return 0


def _measure(path: Path, base: Settings, plugins: Plugins, given: Namespace) -> list[Result]:
    from llamafw.engine.load import describe, make_backend, open_model

    model = open_model(path, base, plugins)
    decoder = describe(model, plugins)
    n_slots, longest = max(*given.parallel, 1), max(*given.n_prompt, *given.n_gen, 1)
    results: list[Result] = []
    for threads in given.threads:
        settings = replace(base, threads=threads, threads_batch=threads, parallel=n_slots, ctx_size=n_slots * longest)
        backend = make_backend(model, decoder, settings, plugins, lambda line: None)
        try:
            facts = backend.describe()
            weights = float(facts.get("weight_bytes", model.n_bytes)) / 1e9
            for name, n_tokens, n_passes, once in _tests(backend, given.n_prompt, given.n_gen, given.parallel):
                rates = _rates(once, n_tokens, given.repetitions[0])
                median = statistics.median(rates)
                gb_per_s = weights * n_passes / n_tokens * median
                n_threads = int(facts.get("n_threads", threads))
                results.append(Result(name, n_threads, median, min(rates), max(rates), gb_per_s))
        finally:
            backend.close()
    return results


def _tests(
    backend: Backend, n_prompt: list[int], n_gen: list[int], parallel: list[int]
) -> Iterator[tuple[str, int, int, Callable[[], None]]]:
    """Yield (name, tokens, forward passes, what to time)."""
    random = np.random.default_rng(0)
    for n in filter(None, n_prompt):
        prompt = random.integers(0, backend.n_vocab, n, dtype=np.int32)
        yield f"pp{n}", n, -(-n // backend.n_batch), lambda prompt=prompt: _prefill(backend, prompt)  # type: ignore[misc]  # mypy cannot type a default of a lambda
    for n in filter(None, n_gen):
        for slots in parallel:
            tokens = random.integers(0, backend.n_vocab, (n, slots), dtype=np.int32)
            name = f"tg{n}" if slots == 1 else f"tg{n}x{slots}"
            yield name, n * slots, n, lambda tokens=tokens: _decode(backend, tokens)  # type: ignore[misc]  # as above


def _prefill(backend: Backend, prompt: Ints) -> None:
    n = len(prompt)
    backend.truncate(0, 0)  # what the run before left
    for start in range(0, n, backend.n_batch):
        part = prompt[start : start + backend.n_batch]
        positions = np.arange(start, start + len(part), dtype=np.int32)
        last = np.array([len(part) - 1] if start + len(part) == n else [], np.int32)
        backend.forward(Batch(part, positions, np.zeros(len(part), np.int32), last))


def _decode(backend: Backend, tokens: Ints) -> None:
    slots = np.arange(tokens.shape[1], dtype=np.int32)
    for slot in slots:
        backend.truncate(int(slot), 0)
    for position, row in enumerate(tokens):
        backend.forward(Batch(row, np.full_like(row, position), slots, slots))


def _rates(once: Callable[[], None], n_tokens: int, repetitions: int) -> list[float]:
    once()  # warms caches and threads
    rates = []
    for _ in range(max(repetitions, 1)):
        start = time.perf_counter()
        once()
        rates.append(n_tokens / (time.perf_counter() - start))
    return rates


def _numbers(text: str) -> list[int]:
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        raise ArgumentTypeError(f"{text!r} is no list of whole numbers, separated by commas")
    return [int(part) for part in text.split(",")]


def _print(results: list[Result], model: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"model": model, "results": [asdict(result) for result in results]}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=model)
    for heading in ("test", "threads", "tokens/s", "spread", "GB/s"):
        table.add_column(heading, justify="left" if heading == "test" else "right")
    for result in results:
        table.add_row(*result.cells())
    Console().print(table)
