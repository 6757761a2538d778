"""Compare the speed of servers: ``llamafw serve`` and ``llama-server`` stream to 1, 4, 8 and 16 clients, in turn.

``python benchmarks/serving.py [--model FILE] [--rounds 5]`` prints a Markdown table of the total tokens per second and
the median time to the first token. Every client sends a different prompt of about 100 tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator

import httpx

from llamafw.models.wheels import pull
from noise import NoiseMeter, machine
from peer import program

N_PREDICT = 128
WORDS = ["time", "year", "people", "way", "day", "man", "thing", "life", "child", "world", "school", "state", "family"]
_seeds = itertools.count()


def prompt() -> str:
    """Return a prompt of about 100 tokens, a different one each time."""
    rng = random.Random(next(_seeds))
    return f"{rng.random()} " + " ".join(rng.choices(WORDS, k=85))


async def stream(http: httpx.AsyncClient, url: str, text: str) -> tuple[float, int]:
    """Stream a completion; return the seconds to the first token and the number of tokens."""
    body = {"prompt": text, "n_predict": N_PREDICT, "stream": True, "ignore_eos": True, "temperature": 0.8, "seed": 1}
    started, first, tokens = time.perf_counter(), 0.0, 0
    async with http.stream("POST", f"{url}/completion", json=body) as response:
        response.raise_for_status()
        async for chunk in response.aiter_raw():
            if b"data: " in chunk:  # not a comment, which is sent while the request waits
                first = first or time.perf_counter() - started
            tokens += chunk.count(b"data: ")
    return first, tokens - 1  # the last event has no token


async def run_clients(url: str, n_clients: int) -> tuple[float, float]:
    """Run clients at the same time; return tokens per second in total, and median milliseconds to the first token."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=300, limits=limits) as http:
        started = time.perf_counter()
        results = await asyncio.gather(*(stream(http, url, prompt()) for _ in range(n_clients)))
        wall = time.perf_counter() - started
    return sum(n for _, n in results) / wall, statistics.median(first for first, _ in results) * 1000


@contextlib.contextmanager
def running_server(command: list[str], port: int) -> Iterator[tuple[str, int]]:
    """Start a server and yield its URL and process id when it is ready."""
    url = f"http://127.0.0.1:{port}"
    log = tempfile.TemporaryFile()  # noqa: SIM115  # closed when it is collected
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
                log.seek(0)
                lines = log.read().decode(errors="replace").splitlines()[-20:]
                sys.exit("\n".join([f"the server ended before it was ready: {' '.join(command)}", *lines]))
            if time.monotonic() > deadline:
                sys.exit(f"the server did not start within two minutes: {' '.join(command)}")
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    """Return the number of a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def main() -> None:
    """Run both servers in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", default="1,4,8,16")
    parser.add_argument("--threads", default="2")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.1,
        help="a round does not count if other processes use a larger share of the processor (default: 0.1)",
    )
    args = parser.parse_args()

    model = args.model or str(pull("smollm2-135m"))
    counts = [int(n) for n in args.clients.split(",")]
    common = ["-m", model, "-np", str(max(counts)), "-c", str(512 * max(counts)), "-t", args.threads, "--port"]
    a_port, b_port = free_port(), free_port()
    rates: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    with (
        running_server([sys.executable, "-m", "llamafw", "serve", *common, str(a_port)], a_port) as (a_url, a_pid),
        running_server([str(program("llama-server")), *common, str(b_port)], b_port) as (b_url, b_pid),
    ):
        for url in (a_url, b_url):
            asyncio.run(run_clients(url, 2))  # warm up
        for n in counts:
            kept = disturbed = 0
            while kept < args.rounds and disturbed <= 3 * args.rounds:
                noise = NoiseMeter([a_pid, b_pid])
                a, b = asyncio.run(run_clients(a_url, n)), asyncio.run(run_clients(b_url, n))
                if (other_share := noise.share()) > args.tolerance:
                    disturbed += 1
                    print(f"round ignored: other processes used {other_share:.0%} of the processor", file=sys.stderr)
                    continue
                kept += 1
                rates[n].append((*a, *b, a[0] / b[0], a[1] / b[1]))

    print(f"{machine()}; {args.threads} threads, {N_PREDICT} tokens each, {args.rounds} rounds in turn, medians\n")
    print("| clients | llamafw tokens/s | llama-server | ratio | llamafw first token ms | llama-server | ratio |")
    print("|---|---|---|---|---|---|---|")
    for n, rows in rates.items():
        a, first_a, b, first_b, ratio, first = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"| {n} | {a:.0f} | {b:.0f} | {ratio:.2f} | {first_a:.0f} | {first_b:.0f} | {first:.2f} |")


if __name__ == "__main__":
    main()
