"""Compare the speed of forward passes: ``llamafw bench`` and llama.cpp's ``llama-bench`` run in turn.

``python benchmarks/passes.py [--model FILE] [--rounds 5] [--threads 1,2]`` prints a Markdown table of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from llamafw.models.wheels import pull
from noise import NoiseMeter, machine
from peer import program

TESTS = ("-p", "512", "-n", "128")
"""The flags that both programs have for the default tests."""


Run = Callable[[str, int], Mapping[str, float]]
"""Runs a program on a model with a number of threads; returns the tokens per second of each test."""


def run_llamafw_bench(model: str, threads: int, tests: Sequence[str] = TESTS) -> dict[str, float]:
    """Return the tokens per second of each test in one run of ``llamafw bench``."""
    command = [sys.executable, "-m", "llamafw", "bench", "-m", model, "-t", str(threads), "-r", "1", "--json", *tests]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["results"]
    return {row["test"]: row["median"] for row in rows}


def run_llama_bench(model: str, threads: int, tests: Sequence[str] = TESTS) -> dict[str, float]:
    """Return the tokens per second of each test in one run of ``llama-bench``."""
    command = [str(program("llama-bench")), "-m", model, "-t", str(threads), "-r", "1", *tests]
    rows = json.loads(subprocess.run([*command, "-o", "json"], check=True, capture_output=True).stdout)
    return {_name(row): row["avg_ts"] for row in rows}


def run_batched_bench(model: str, threads: int, sequences: str, n: int = 128) -> dict[str, float]:
    """Return the tokens per second of all sequences together in one run of ``llama-batched-bench``.

    Parameters
    ----------
    sequences : str
        Numbers of sequences that generate ``n`` tokens at the same time: "8,16".
    """
    size = str((n + 1) * max(map(int, sequences.split(","))))
    tests = ("-npp", "1", "-ntg", str(n), "-npl", sequences, "-c", size, "--output-format", "jsonl")
    command = [str(program("llama-batched-bench")), "-m", model, "-t", str(threads), "-tb", str(threads), *tests]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    return {f"tg{row['tg']}x{row['pl']}": row["speed_tg"] for row in rows}


def _name(row: Mapping[str, int]) -> str:
    """Return the name of a test of ``llama-bench`` as ``llamafw bench`` gives it."""
    name = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
    return f"{name} @d{row['n_depth']}" if row.get("n_depth") else name


Rates = dict[tuple[str, str, int], list[tuple[float, float]]]
"""Tokens per second of both programs in each round, by model, test and number of threads."""


def measure(
    models: Mapping[str, str],
    threads: Sequence[int],
    rounds: int,
    tolerance: float,
    ours: Run = run_llamafw_bench,
    theirs: Run = run_llama_bench,
) -> Rates:
    """Run both programs on models in turn.

    Parameters
    ----------
    models : mapping of str to str
        Files by their names.
    threads : sequence of int
        Numbers of threads.
    rounds : int
        Number of rounds that count.
    tolerance : float
        A round does not count if other processes use a larger share of the processor.
    ours, theirs : callable
        What runs the two programs; both have the same tests.
    """
    rates: Rates = defaultdict(list)
    for name, model in models.items():
        for n in threads:
            kept = disturbed = 0
            while kept < rounds and disturbed <= 3 * rounds:
                noise = NoiseMeter()
                a, b = ours(model, n), theirs(model, n)
                if (other_share := noise.share()) > tolerance:
                    disturbed += 1
                    print(f"round ignored: other processes used {other_share:.0%} of the processor", file=sys.stderr)
                    continue
                kept += 1
                for test in a:
                    rates[name, test, n].append((a[test], b[test]))
    return rates


def medians(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the medians of both programs' tokens per second, and of their ratio.

    Without rounds, the program ends: other processes have disturbed all of them.
    """
    if not pairs:
        sys.exit("other processes have disturbed all rounds: end them, or see --tolerance")
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    return a, b, statistics.median(x / y for x, y in pairs)


def compare(models: Mapping[str, str], threads: Sequence[int], rounds: int, tolerance: float) -> None:
    """Run both programs on models in turn, and print a Markdown table; see `measure`."""
    rates = measure(models, threads, rounds, tolerance)
    print(f"{machine()}; {rounds} rounds in turn, medians\n")
    print("| model | test | threads | llamafw tokens/s | llama.cpp tokens/s | ratio |\n|---|---|---|---|---|---|")
    for (name, test, n), pairs in rates.items():
        a, b, ratio = medians(pairs)
        print(f"| {name} | {test} | {n} | {a:.0f} | {b:.0f} | {ratio:.2f} |")


def main() -> None:
    """Run both programs in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.1,
        help="a round does not count if other processes use a larger share of the processor (default: 0.1)",
    )
    args = parser.parse_args()

    model = args.model or str(pull("smollm2-135m"))
    compare({Path(model).name: model}, [int(n) for n in args.threads.split(",")], args.rounds, args.tolerance)


if __name__ == "__main__":
    main()
