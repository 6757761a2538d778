"""Check the server's limits of overhead, latency and memory: ``python benchmarks/limits.py [NAME …] [--model FILE]``.

The names are overhead, megabyte, health, idle and memory; the default is all of them. Servers are real processes, with
clients on the same machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import psutil

from llamafw.models.wheels import pull
from llamafw.testing.tiny import write_tiny_gguf
from noise import NoiseMeter, machine
from serving import free_port, running_server

Row = tuple[str, float, float, str]  # name, value, limit, unit

ENDLESS = {"prompt": "Once upon a time", "n_predict": -1, "ignore_eos": True, "stream": True, "temperature": 0.8}
TOLERANCE = 0.1  # share of all cores' time that other processes may use
PLUGIN = Path(__file__).with_name("tokenizing.py")


@contextlib.contextmanager
def server(model: str, *flags: str) -> Iterator[tuple[str, int]]:
    """Start ``llamafw serve``; yield its URL and process id."""
    port = free_port()
    command = [sys.executable, "-m", "llamafw", "serve", "-m", model, "--port", str(port), *flags]
    with running_server(command, port) as address:
        yield address


class Client:
    """A connection to the server.

    It uses `HTTPConnection`, which adds 0.1 ms to a request; httpx adds 1 ms.
    """

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(url.removeprefix("http://"), timeout=60)

    def timed(self, method: str, path: str, body: bytes | None = None) -> tuple[float, Any, float]:
        """Return the milliseconds of a request, its response, and the milliseconds of the tokenizer, if reported."""
        start = time.perf_counter()
        self._connection.request(method, path, body)
        response = self._connection.getresponse()
        content = response.read()
        ms = (time.perf_counter() - start) * 1e3
        if response.status != 200:
            raise RuntimeError(f"{method} {path}: {response.status} {content.decode()}")
        return ms, json.loads(content), float(response.headers.get("x-tokenize-ms", 0))

    def overhead(self, body: object, rounds: int) -> float:
        """Return the median of the milliseconds that completions spend outside the tokenizer and the engine."""
        content = json.dumps(body).encode()
        times: list[float] = []
        for _ in range(rounds):
            ms, completion, tokenizer_ms = self.timed("POST", "/completion", content)
            engine_ms = sum(completion["timings"][name] for name in ("queue_ms", "prompt_ms", "predicted_ms"))
            times.append(ms - tokenizer_ms - engine_ms)
        return statistics.median(times[rounds // 10 :])  # the first ones warm up


def overhead(model: str) -> Iterator[Row]:
    """Measure short requests of one client."""
    with server(model) as (url, _):
        client, pair = Client(url), b'{"tokens": [19556, 905]}'
        body = {"prompt": "Hello", "n_predict": 1, "temperature": 0}
        yield "completion of 1 token, outside the engine", client.overhead(body, 300), 1.5, "ms"
        times = [client.timed("POST", "/detokenize", pair)[0] for _ in range(500)]
        yield "/detokenize, 2 tokens", statistics.median(times), 1.5, "ms"


def megabyte(model: str) -> Iterator[Row]:
    """Measure prompts of a megabyte of text and of token ids.

    They are truncated to the context.
    """
    words = "time year people way day man thing life child world school state family ".split()
    text = " ".join(words[i * i % 13] for i in range(190_000))[: 1 << 20]
    ids = [i % 1000 + 10_000 for i in range((1 << 20) // 7)]
    with server(model, "-c", "256", "-np", "1", "--plugin", str(PLUGIN)) as (url, _):
        for name, prompt, limit in (("text", text, 15), ("token ids", ids, 25)):  # 150,000 ids take longer to parse
            body = {"prompt": prompt, "n_predict": 1, "temperature": 0, "truncate_prompt": True}
            ms = Client(url).overhead(body, 30)
            yield f"a prompt of 1 MB of {name}, outside tokenizer and engine", ms, limit, "ms"


async def _read_streams(url: str, n: int) -> None:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as http:

        async def read_stream() -> None:
            async with http.stream("POST", "/completion", json=ENDLESS) as response:
                async for _ in response.aiter_raw():
                    pass

        with contextlib.suppress(httpx.TransportError):
            await asyncio.gather(*(read_stream() for _ in range(n)))


def read_streams(url: str, n: int) -> None:
    """Read ``n`` endless streams.

    This runs in a separate process.
    """
    asyncio.run(_read_streams(url, n))


@contextlib.contextmanager
def open_streams(url: str, n: int, n_waiting: int) -> Iterator[None]:
    """Keep ``n`` streams open; ``n_waiting`` of them wait for a slot."""
    process = multiprocessing.get_context("spawn").Process(target=read_streams, args=(url, n), daemon=True)
    process.start()
    try:
        wait_for_metric(url, f"llamacpp:requests_deferred {n_waiting}.0")
        yield
    finally:
        process.kill()
        process.join()


def wait_for_metric(url: str, line: str) -> None:
    """Wait until ``/metrics`` has this line."""
    with httpx.Client(base_url=url, timeout=60) as http:
        while line not in http.get("/metrics").text.splitlines():
            time.sleep(0.01)  # the server does not announce changes


def health(model: str) -> Iterator[Row]:
    """Measure ``/health`` while all slots generate and sixty streams wait."""
    with server(model, "--metrics") as (url, _), open_streams(url, 64, 60):
        client, times = Client(url), []
        for _ in range(500):
            times.append(client.timed("GET", "/health")[0])
            time.sleep(0.01)  # spreads the requests over five seconds of load
    times.sort()
    yield "/health under full load, median", times[250], 50, "ms"
    yield "/health under full load, 99th percentile", times[495], 50, "ms"
    yield "/health under full load, slowest of 500", times[-1], 50, "ms"


def time_decoding(url: str, n_idle: int, first: int = 1200, last: int = 2200) -> float:
    """Return the seconds from token ``first`` to ``last`` of a stream, while ``n_idle`` others wait for its slot."""
    body = {**ENDLESS, "n_predict": last + 1, "seed": 1, "cache_prompt": False}
    with (
        contextlib.ExitStack() as stack,
        httpx.Client(base_url=url, timeout=60) as http,
        http.stream("POST", "/completion", json=body) as response,
    ):
        started = 0.0
        events = (line for line in response.iter_lines() if line.startswith("data: "))
        for n, _ in enumerate(events, 1):
            if n == 1 and n_idle:
                stack.enter_context(open_streams(url, n_idle, n_idle))
                (slot,) = httpx.get(f"{url}/slots").json()
                if slot["next_token"][0]["n_decoded"] >= first:
                    raise RuntimeError("the other streams were not opened in time")
            if n == first:
                started = time.perf_counter()
            if n == last:
                return time.perf_counter() - started
    raise RuntimeError("the stream ended early")


def idle(model: str) -> Iterator[Row]:
    """Measure how much open but idle streams slow down decoding.

    A round in which other processes were busy counts only if all rounds were like that.
    """
    kept: list[float] = []
    disturbed: list[float] = []
    with server(model, "-np", "1", "-c", "4096", "--metrics", "--slots") as (url, pid):
        while len(kept) < 5 and len(disturbed) < 7:
            noise = NoiseMeter([pid])
            seconds = []
            for n in (0, 64):
                seconds.append(time_decoding(url, n))
                wait_for_metric(url, "llamacpp:requests_processing 0.0")
            other_share = noise.share()
            (kept if other_share < TOLERANCE else disturbed).append((seconds[1] / seconds[0] - 1) * 100)
            print(
                f"  alone {seconds[0]:.2f} s, with 64 idle streams {seconds[1]:.2f} s; "
                f"other processes used {other_share:.0%} of the processor",
                file=sys.stderr,
            )
    yield "decoding with 64 idle streams, slower by", statistics.median(kept or disturbed), 2, "%"


async def _send_requests(url: str, n: int) -> None:
    """Send ``n`` requests of all kinds, eight at a time."""
    limit = asyncio.Semaphore(8)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:

        async def send(i: int) -> None:
            async with limit:
                prompt = {"prompt": f"{i} abc {i * i}", "n_predict": 2}
                match i % 8:
                    case 0:
                        chat = {"messages": [{"role": "user", "content": str(i)}], "max_tokens": 2}
                        await http.post("/v1/chat/completions", json=chat)
                    case 1:
                        async with http.stream("POST", "/completion", json={**prompt, "stream": True}) as response:
                            await response.aread()
                    case 2:  # the client disconnects
                        async with http.stream("POST", "/completion", json={**ENDLESS, "seed": i}) as response:
                            await anext(response.aiter_raw())
                    case 3:
                        await http.post("/completion", json={**prompt, "temperature": "hot"})
                    case 4:
                        await http.post("/tokenize", json={"content": "abc " * 50})
                    case 5:
                        await http.post("/completion", json={**prompt, "grammar": 'root ::= "a"+', "n_probs": 3})
                    case _:
                        await http.post("/completion", json=prompt)

        for first in range(0, n, 1000):
            await asyncio.gather(*(send(i) for i in range(first, min(first + 1000, n))))


def memory(model: str) -> Iterator[Row]:
    """Measure the growth of memory by requests of all kinds, some cancelled and some invalid, with a tiny model."""
    with tempfile.TemporaryDirectory() as folder:
        tiny = write_tiny_gguf(Path(folder) / "tiny.gguf")
        with server(str(tiny), "--metrics") as (url, pid):
            process = psutil.Process(pid)
            used = []
            for n in (2_000, 18_000):
                asyncio.run(_send_requests(url, n))
                wait_for_metric(url, "llamacpp:requests_processing 0.0")
                used.append(process.memory_full_info().uss / 2**20)
                print(f"  after {2_000 if n == 2_000 else 20_000} requests {used[-1]:.1f} MiB", file=sys.stderr)
    yield "growth of memory from 2,000 to 20,000 requests", (used[1] / used[0] - 1) * 100, 2, "%"


MEASUREMENTS: dict[str, Callable[[str], Iterator[Row]]] = {
    "overhead": overhead,
    "megabyte": megabyte,
    "health": health,
    "idle": idle,
    "memory": memory,
}


def main() -> int:
    """Measure and print a table; return 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    # argparse checks the default of nargs="*", an empty list, against the choices
    parser.add_argument("names", nargs="*", choices=[*MEASUREMENTS, []], metavar="NAME")
    parser.add_argument("--model", default=None)
    args = parser.parse_args()
    model = args.model or str(pull("smollm2-135m"))
    noise = NoiseMeter()
    rows = [row for name in args.names or MEASUREMENTS for row in MEASUREMENTS[name](model)]

    print(f"{machine()}; other processes used {noise.share():.0%} of it\n\n| | measured | limit |\n|---|---|---|")
    for name, value, limit, unit in rows:
        print(f"| {name} | {value:.2f} {unit} | {limit:g} {unit}{'' if value <= limit else ', exceeded'} |")
    return int(any(value > limit for _, value, limit, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
