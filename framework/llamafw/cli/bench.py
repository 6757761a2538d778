"""``llamafw bench``: measure how many tokens per second a backend computes, in forward passes without sampling."""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llamafw.cli.parser import CommandParser, add_settings
from llamafw.cli.plugin_flags import parse_with_plugin_flags
from llamafw.cli.read_settings import load_plugins, parse_early_flags, shared_settings_from
from llamafw.interfaces import Backend
from llamafw.models.find import find_model
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.types import Batch, Ints

SHARED_SETTINGS = (
    "model",
    "hf_repo",
    "hf_file",
    "hf_token",
    "model_url",
    "offline",
    "override_kv",
    "requantize",
    "backend",
    "batch_size",
    "ubatch_size",
    "cache_type_k",
    "cache_type_v",
)
"""The settings of ``llamafw serve`` that this command has too."""

EXAMPLE = "llamafw bench -m model.gguf -p 512,2048 -n 128 -np 1,8 -t 4"


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one test: a row of the table."""

    test: str  # pp512: a prompt of 512 tokens; tg128x8: 128 tokens one by one, in 8 slots; @d4096: after 4096 others
    threads: int
    median: float  # tokens per second, of all repetitions
    low: float
    high: float
    gb_per_s: float  # weights read per second, at the median speed

    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        spread = f"{self.low:.1f} - {self.high:.1f}"
        return self.test, str(self.threads), f"{self.median:.1f}", spread, f"{self.gb_per_s:.1f}"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One measurement: a number of forward passes that are timed."""

    name: str
    n_tokens: int
    n_passes: int  # each forward pass reads all weights
    prepare: Callable[[], None]  # called before each run
    run: Callable[[], None]


def run(argv: list[str]) -> int:
    """Run the tests and print their results."""
    early, rest = parse_early_flags(argv)
    plugins = load_plugins(early)
    args = parse_with_plugin_flags(_make_parser(), rest, plugins, early.config)
    settings = shared_settings_from(args, SHARED_SETTINGS, early)
    path = find_model(settings)
    results = _measure(path, settings, plugins, args)
    name = path.name if settings.requantize is None else f"{path.name} as {settings.requantize.upper()}"
    _print_results(results, name, as_json=args.json)
    return 0


def _make_parser() -> CommandParser:
    parser = CommandParser(
        "llamafw bench",
        "Measure how fast a model runs, in tokens per second: prompt processing (pp) and token generation (tg). "
        "--config and the flags for plugins (--plugin, --no-plugin, ...) work as for `llamafw serve`.",
        usage="llamafw bench [-m FILE | -hf USER/REPO[:QUANT]] [OPTIONS]",
        example=EXAMPLE,
    )
    add = parser.add_argument_group("tests").add_argument
    numbers: dict[str, Any] = {"type": _parse_numbers, "metavar": "N,.."}
    add("-p", "--n-prompt", default=[512], help="lengths of prompts in tokens; 0: no prompts (default: 512)", **numbers)
    add(
        "-n", "--n-gen", default=[128], help="numbers of tokens to generate; 0: no generation (default: 128)", **numbers
    )
    add(
        "-np", "--parallel", default=[1], help="numbers of slots that generate at the same time (default: 1)", **numbers
    )
    add(
        "-d",
        "--n-depth",
        default=[0],
        help="numbers of tokens that the slots hold before each test (default: 0)",
        **numbers,
    )
    add(
        "-t",
        "--threads",
        default=[0],
        help="numbers of threads; 0: the default of `llamafw serve` (default: 0)",
        **numbers,
    )
    add("-r", "--repetitions", default=5, type=_parse_count, metavar="N", help="repetitions of each test (default: 5)")
    add("--json", action="store_true", help="print JSON instead of a table")
    add_settings(parser, SHARED_SETTINGS)
    return parser


def _measure(path: Path, base: Settings, plugins: Plugins, args: Namespace) -> list[Result]:
    from llamafw.engine.components import build_graph, choose_backend, make_backend, make_context
    from llamafw.engine.load import open_model
    from llamafw.models.requantize import requantize

    model = open_model(path, base, plugins)
    graph = build_graph(model, plugins)
    model = requantize(model, graph, base, plugins.registry("quant"), partial(print, file=sys.stderr))
    n_slots, n_ctx = max(*args.parallel, 1), max(*args.n_prompt, *args.n_gen, 1) + max(args.n_depth)
    results: list[Result] = []
    for threads in args.threads:
        settings = replace(base, threads=threads, threads_batch=threads, parallel=n_slots, ctx_size=n_slots * n_ctx)
        name = choose_backend(model, settings, plugins)
        backend = make_backend(name, make_context(model, graph, settings, plugins, lambda line: None), plugins)
        try:
            facts = backend.describe()
            weights_gb = float(facts.get("weight_bytes", model.n_bytes)) / 1e9
            n_threads = int(facts.get("n_threads", threads))
            for benchmark in _benchmarks(backend, args):
                speeds = _speeds(benchmark, args.repetitions)
                median = statistics.median(speeds)
                gb_per_s = weights_gb * benchmark.n_passes / benchmark.n_tokens * median
                results.append(Result(benchmark.name, n_threads, median, min(speeds), max(speeds), gb_per_s))
        finally:
            backend.close()
    return results


def _benchmarks(backend: Backend, args: Namespace) -> Iterator[Benchmark]:
    for depth in args.n_depth:
        for benchmark in _benchmarks_at(_Runner(backend, depth), args):
            yield replace(benchmark, name=f"{benchmark.name} @d{depth}") if depth else benchmark


def _benchmarks_at(runner: _Runner, args: Namespace) -> Iterator[Benchmark]:
    for n in filter(None, args.n_prompt):
        prompt = runner.random_tokens(n)
        n_passes = -(-n // runner.backend.n_batch)
        yield Benchmark(f"pp{n}", n, n_passes, partial(runner.fill, 1), partial(runner.prefill, prompt))
    for n in filter(None, args.n_gen):
        for n_slots in args.parallel:
            tokens, name = runner.random_tokens(n, n_slots), f"tg{n}" if n_slots == 1 else f"tg{n}x{n_slots}"
            yield Benchmark(name, n * n_slots, n, partial(runner.fill, n_slots), partial(runner.decode, tokens))


class _Runner:
    """Runs forward passes in slots that hold ``depth`` tokens."""

    def __init__(self, backend: Backend, depth: int) -> None:
        self.backend, self._depth, self._random = backend, depth, np.random.default_rng(0)
        self._first = self.random_tokens(depth)

    def random_tokens(self, *shape: int) -> Ints:
        """Return random tokens, int32."""
        return self._random.integers(0, self.backend.n_vocab, shape, dtype=np.int32)

    def fill(self, n_slots: int) -> None:
        """Let the first slots hold the tokens that come before a test, and no others."""
        for slot in range(n_slots):
            n = self.backend.truncate(slot, self._depth)
            self._evaluate(slot, n, self._first[n:])

    def prefill(self, prompt: Ints) -> None:
        """Evaluate a prompt, (n,) int32, in slot 0."""
        self._evaluate(0, self._depth, prompt)

    def _evaluate(self, slot: int, first: int, tokens: Ints) -> None:
        """Evaluate tokens, (n,) int32, at the positions from ``first`` on."""
        n, n_batch = len(tokens), self.backend.n_batch
        for start in range(0, n, n_batch):
            part = tokens[start : start + n_batch]
            positions = np.arange(first + start, first + start + len(part), dtype=np.int32)
            outputs = np.array([len(part) - 1] if start + len(part) == n else [], np.int32)
            self.backend.forward(Batch(part, positions, np.full(len(part), slot, np.int32), outputs))

    def decode(self, tokens: Ints) -> None:
        """Evaluate tokens, (n, n_slots) int32, row by row: one token of each slot at a time."""
        slots = np.arange(tokens.shape[1], dtype=np.int32)
        for i, row in enumerate(tokens):
            self.backend.forward(Batch(row, np.full_like(row, self._depth + i), slots, slots))


def _speeds(benchmark: Benchmark, repetitions: int) -> list[float]:
    """Return the tokens per second of each repetition."""
    benchmark.prepare()
    benchmark.run()  # warms up caches and threads
    speeds = []
    for _ in range(repetitions):
        benchmark.prepare()
        start = time.perf_counter()
        benchmark.run()
        speeds.append(benchmark.n_tokens / (time.perf_counter() - start))
    return speeds


def _parse_numbers(text: str) -> list[int]:
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        raise ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 1,8")
    return [int(part) for part in text.split(",")]


def _parse_count(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text) or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _print_results(results: list[Result], model: str, *, as_json: bool) -> None:
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
