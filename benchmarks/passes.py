"""Forward passes side by side: ``llamafw bench`` and llama.cpp's ``llama-bench`` in turn, medians and ratios.

``python benchmarks/passes.py [--model FILE] [--rounds 5] [--threads 1,2]`` prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict

from llamafw.models.wheels import pull
from peer import program
from quiet import Watch, machine


def ours(model: str, threads: int) -> dict[str, float]:
    """Return tokens/s by test, from one run of ``llamafw bench``."""
    command = [sys.executable, "-m", "llamafw", "bench", "-m", model, "-t", str(threads), "-r", "1", "--json"]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["results"]
    return {row["test"]: row["median"] for row in rows}


def theirs(model: str, threads: int) -> dict[str, float]:
    """Return tokens/s by test, from one run of ``llama-bench``."""
    command = [str(program("llama-bench")), "-m", model, "-p", "512", "-n", "128", "-t", str(threads), "-r", "1"]
    rows = json.loads(subprocess.run([*command, "-o", "json"], check=True, capture_output=True).stdout)
    return {(f"pp{r['n_prompt']}" if r["n_prompt"] else f"tg{r['n_gen']}"): r["avg_ts"] for r in rows}


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--tolerance", type=float, default=0.1, help="foreign CPU share that spoils a round")
    given = parser.parse_args()
    model = given.model or str(pull("smollm2-135m"))
    rates: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for threads in map(int, given.threads.split(",")):
        kept = spoilt = 0
        while kept < given.rounds and spoilt <= 3 * given.rounds:
            watch = Watch()
            a, b = ours(model, threads), theirs(model, threads)
            if (foreign := watch.foreign()) > given.tolerance:
                spoilt += 1
                print(f"round spoilt: others used {foreign:.0%} of the processor", file=sys.stderr)
                continue
            kept += 1
            for test in a:
                rates[test, threads].append((a[test], b[test]))
    print(f"{machine()}; {given.rounds} rounds in turn, medians\n")
    print("| test | threads | llamafw tokens/s | llama.cpp tokens/s | ratio |\n|---|---|---|---|---|")
    for (test, threads), pairs in sorted(rates.items()):
        a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(x / y for x, y in pairs)
        print(f"| {test} | {threads} | {a:.0f} | {b:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
