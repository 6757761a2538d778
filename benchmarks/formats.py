"""Compare the speed of tensor types: a dense model of 0.45 billion random weights in each of them.

``python benchmarks/formats.py [--rounds 3] [--threads 1,2] [--depths 4096] [--sequences 8] [--only Q4_K_M,…]`` writes
the models into the cache folder once (about 0.3 GB each), runs ``llamafw bench`` and llama.cpp's ``llama-bench`` in
turn (with several sequences, ``llama-batched-bench``), and prints a Markdown table: the medians of llamafw's tokens
per second and, in brackets, of their ratio to llama.cpp's. Quantised types and BF16 have another column, for prompts
that are read with activations of 8 bits, or of bfloat16 (``--numba-activations int8``), as llama.cpp reads them. The
last column is the share of the memory bandwidth that decoding uses: the bytes of all matrices times the tokens per
second, divided by the bandwidth that as many threads reach when they only read.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from functools import partial

import numba
import numpy as np
import numpy.typing as npt

from families import find
from noise import machine
from passes import Run, measure, medians, run_batched_bench, run_llama_bench, run_llamafw_bench

READ_BYTES = 512 << 20
EXACT = ("F32", "F16")
"""Types whose activations are never rounded."""
PROMPT = ("-p", "512", "-n", "0", "--numba-activations", "int8")


def mix(more: str, most: str, tensor: str) -> str:
    """Return the type of a matrix in a file such as Q4_K_M: in half of the layers, two matrices have a larger type."""
    if tensor.startswith("token_embd"):
        return "Q6_K"
    layer = int(tensor.split(".")[1])
    is_larger = layer < 3 or layer >= 25 or (layer - 3) % 3 == 2  # of 28 layers: the first and last eighth, every third
    return more if is_larger and ("attn_v" in tensor or "ffn_down" in tensor) else most


FILES: dict[str, Callable[[str], str] | None] = {
    "Q4_0": None,
    "Q4_1": None,
    "Q5_0": None,
    "Q8_0": None,
    "Q2_K": None,
    "Q3_K": None,
    "Q4_K_M": partial(mix, "Q6_K", "Q4_K"),
    "Q5_K_M": partial(mix, "Q6_K", "Q5_K"),
    "Q6_K": None,
    "IQ4_XS": None,
    "MXFP4": None,
    "IQ3_S": None,
    "IQ2_XS": None,
    "F16": None,
    "BF16": None,
}
"""What chooses the type of each matrix; None: all have the type."""


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def _read(numbers: npt.NDArray[np.int64]) -> int:
    """Return the sum of all numbers, which are read in four streams."""
    a = b = c = d = 0
    n = len(numbers) // 4
    for i in range(n):
        a += numbers[i]
        b += numbers[n + i]
        c += numbers[2 * n + i]
        d += numbers[3 * n + i]
    return a + b + c + d


def read_bandwidth(n_threads: int) -> float:
    """Return the bytes per second that threads read from memory, the best of five times."""
    numbers = np.ones(READ_BYTES // 8, np.int64)
    _read(numbers[:8])
    best = 0.0
    for _ in range(5):
        workers = [threading.Thread(target=_read, args=(part,)) for part in np.array_split(numbers, n_threads)]
        started = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, READ_BYTES / (time.perf_counter() - started))
    return best


def can_round(model: str) -> bool:
    """Return whether a flag rounds the activations that a model's weights are multiplied with."""
    return not any(f"-{name}-" in model for name in EXACT)


def runs(args: argparse.Namespace) -> tuple[Run, Run]:
    """Return what runs the tests with the two programs."""
    tests: list[tuple[str, ...]] = [("-p", "512", "-n", "128")]
    if args.depths:
        tests.append(("-p", "0", "-n", "128", "-d", args.depths))

    def ours(model: str, threads: int) -> dict[str, float]:
        parallel = [("-p", "0", "-n", "128", "-np", args.sequences)] if args.sequences else []
        rates = {k: v for test in tests + parallel for k, v in run_llamafw_bench(model, threads, test).items()}
        if can_round(model):
            rates["pp512 int8"] = run_llamafw_bench(model, threads, PROMPT)["pp512"]
        return rates

    def theirs(model: str, threads: int) -> dict[str, float]:
        several = run_batched_bench(model, threads, args.sequences) if args.sequences else {}
        rates = {k: v for test in tests for k, v in run_llama_bench(model, threads, test).items()} | several
        return rates | ({"pp512 int8": rates["pp512"]} if can_round(model) else {})

    return ours, theirs


def main() -> None:
    """Run both programs on each model and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--depths", default="", help="tokens in the KV cache before further tests: 4096,16384")
    parser.add_argument("--sequences", default="", help="how many generate at the same time in further tests: 8,16")
    parser.add_argument("--tolerance", type=float, default=0.1, help="see passes.py")
    parser.add_argument("--only", default=",".join(FILES))
    args = parser.parse_args()

    paths = {name: find("dense", name, FILES[name]) for name in args.only.split(",")}
    threads = [int(n) for n in args.threads.split(",")]
    bandwidth = {n: read_bandwidth(n) for n in threads}
    rates = measure({k: str(v) for k, v in paths.items()}, threads, args.rounds, args.tolerance, *runs(args))

    read = ", ".join(f"{speed / 1e9:.0f} GB/s with {n}" for n, speed in bandwidth.items())
    print(f"{machine()}; {args.rounds} rounds in turn, medians; threads read {read}\n")
    tests = list(dict.fromkeys(test for _, test, _ in rates))
    headings = ["type", "threads", *tests, *(["share of the bandwidth"] if "tg128" in tests else [])]
    print(f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
    for name, path in paths.items():
        for n in threads:
            results = {test: medians(rates[name, test, n]) for test in tests if (name, test, n) in rates}
            cells = [f"{results[test][0]:.0f} ({results[test][2]:.2f})" if test in results else "–" for test in tests]
            if "tg128" in results:
                cells.append(f"{path.stat().st_size * results['tg128'][0] / bandwidth[n]:.0%}")
            print(f"| {name} | {n} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
