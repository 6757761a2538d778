"""What the server adds to a request: small ones, and a megabyte of token ids. ``python benchmarks/overhead.py [FILE]``.

One client, one request at a time, against a real server; medians of the time until the answer is there.
"""
from __future__ import annotations

import statistics
import sys
import time

import httpx

from llamafw.models.wheels import pull
from quiet import machine
from serving import free_port, running


def median(http: httpx.Client, path: str, body: object, rounds: int) -> float:
    """Return the median of milliseconds that a POST takes."""
    times = []
    for _ in range(rounds):
        request = http.build_request("POST", path, json=body)
        start = time.perf_counter()
        http.send(request).raise_for_status()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    model = sys.argv[1] if len(sys.argv) > 1 else str(pull("smollm2-135m"))
    port = free_port()
    command = [sys.executable, "-m", "llamafw", "serve", "-m", model, "--port", str(port)]
    with running(command, port) as (url, _), httpx.Client(base_url=url, timeout=60) as http:
        print(f"{machine()}\n")
        print(f"/detokenize, 2 tokens        {median(http, '/detokenize', {'tokens': [19556, 905]}, 500):7.2f} ms")
        ids = [i % 1000 + 10_000 for i in range(150_000)]
        print(f"/detokenize, 1 MB of ids     {median(http, '/detokenize', {'tokens': ids}, 10):7.2f} ms")
        body = {"prompt": "Hello", "n_predict": 1, "temperature": 0}
        answers = [http.post("/completion", json=body).json()["timings"] for _ in range(50)]
        engine = statistics.median(t["prompt_ms"] + t["predicted_ms"] + t["queue_ms"] for t in answers)
        whole = median(http, "/completion", body, 50)
        print(f"/completion, 1 token         {whole:7.2f} ms, of these in the engine {engine:.2f}")


if __name__ == "__main__":
    main()
