"""Load a server with everything on for hours, kill it again and again, and compare each response with a calm server's.

``python benchmarks/soak.py [--minutes 120] [--clients 6] [--model FILE]`` starts ``llamafw serve`` with several slots,
LoRA adapters, a control vector, self-extend, drafters, a small prompt cache and a cache on disk. Clients complete
prompts and chat, with and without grammars, adapters, streaming and priorities, so that requests interrupt each other;
some disconnect early, some send invalid requests. Every few minutes
the server gets SIGKILL or SIGTERM and starts again.

Another server, with one slot, no drafters and no caches, gets each completed request too. The program fails if a text
differs, if a request ends in a way that neither its client nor a signal explains, if memory, files or threads grow, or
if the folder of the cache is larger than allowed or keeps unfinished files.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from llamafw.testing.adapters import random_factors, write_control_vector, write_lora
from llamafw.testing.process import ServerProcess, running_server
from llamafw.testing.tiny import write_tiny_gguf
from noise import machine

WORDS = ["hello", "world", "the", "é", "🙂", "time", "year", "people", "0", "1", "\n", "{", "}"]
GRAMMARS: list[dict[str, Any]] = [
    {"grammar": 'root ::= [a-z]{1,9} "!" | "no"'},
    {"json_schema": {"type": "object", "properties": {"a": {"enum": [1, "b"]}, "b": {"type": "integer"}}}},
    {"json_schema": {"type": "array", "items": {"type": "boolean"}, "maxItems": 5}},
]
INVALID: list[dict[str, Any]] = [
    {"temperature": "hot"},
    {"n_predict": "many"},
    {"grammar": "root ::= ("},
    {"lora": [{"id": 9, "scale": 1}]},
    {"priority": -21},
    {"json_schema": {"type": "nothing"}},
]
SETTLING = 60.0  # seconds after a start during which memory may grow
MAX_GROWTH = 48.0  # MiB after that, until the server ends
CACHE_MIB = 16
MAX_MORE = 8  # open files, and threads, likewise
GRACE = 1.0  # seconds before SIGTERM: an earlier request must be completed


@dataclass
class Life:
    """One life of the server: its process, what ends it, and samples of its memory, open files and threads."""

    server: ServerProcess
    started: float
    signalled: float | None = None  # when the signal was sent
    signal: signal.Signals | None = None
    samples: list[tuple[float, float, int, int]] = field(default_factory=list)  # seconds, MiB, files, threads

    def sample(self) -> None:
        """Add a sample."""
        process = psutil.Process(self.server.process.pid)
        age, mib = time.monotonic() - self.started, process.memory_info().rss / 2**20
        self.samples.append((age, mib, process.num_fds(), process.num_threads()))

    def growth(self) -> tuple[float, int, int]:
        """Return by how many MiB, files and threads the server has grown since it settled."""
        settled = [sample[1:] for sample in self.samples if sample[0] > SETTLING]
        if len(settled) < 2:
            return 0.0, 0, 0
        half = len(settled) // 2
        (mib, files, threads), (late_mib, late_files, late_threads) = (
            [float(np.median(column)) for column in zip(*part, strict=True)]
            for part in (settled[:half], settled[half:])
        )
        return late_mib - mib, int(late_files - files), int(late_threads - threads)


class Soak:
    """The load, and what has been seen.

    Attributes
    ----------
    counts : Counter of str
        How many requests ended in which way.
    faults : list of str
        What must not happen.
    """

    def __init__(self, until: float, seed: int, pause: float, kill_every: float) -> None:
        self.until, self.pause, self.kill_every = until, pause, kill_every
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.life: Life | None = None
        self.running = asyncio.Event()
        self.completed: asyncio.Queue[tuple[str, dict[str, Any], Any] | None] = asyncio.Queue(5000)  # None: the end

    def is_over(self) -> bool:
        """Return whether the time is up."""
        return time.monotonic() > self.until

    async def serve(self, model: Path, flags: list[str]) -> None:
        """Start the server again and again; end each life with a signal."""
        kinds = [signal.SIGKILL, signal.SIGTERM]
        n_lives, growths = 0, [(0.0, 0, 0)]
        while not self.is_over():
            with contextlib.ExitStack() as stack:
                server = await asyncio.to_thread(stack.enter_context, running_server(model, *flags))
                life = self.life = Life(server, time.monotonic())
                self.running.set()
                end = min(self.until, life.started + self.random.uniform(0.3, 1.7) * self.kill_every)
                while time.monotonic() < end and server.process.poll() is None:
                    life.sample()
                    await asyncio.sleep(min(5, max(0.1, end - time.monotonic())))

                if server.process.poll() is not None:
                    self.faults.append(f"the server ended by itself: {''.join(server.output[-20:])}")
                else:
                    self.counts["interruptions"] += interruptions(server.url)
                self.running.clear()
                life.signal, life.signalled = kinds[n_lives % 2], time.monotonic()
                if self.is_over():
                    life.signal = signal.SIGTERM  # after SIGKILL, an unfinished file stays until the next start
                server.process.send_signal(life.signal)
                code = await asyncio.to_thread(server.process.wait, 120)
                if life.signal is signal.SIGTERM and code:
                    self.faults.append(f"exit code {code} after SIGTERM")

            n_lives += 1
            growths.append(life.growth())
            self._check_output(server)
            print(
                f"{self._clock()} life {n_lives}: {life.signal.name}, {dict(self.counts)}, grown by {growths[-1]}",
                flush=True,
            )
        self.counts["lives of the server"] = n_lives
        mib, files, threads = (max(column) for column in zip(*growths, strict=True))
        print(f"largest growth in one life: {mib:.1f} MiB, {files} files, {threads} threads")
        if mib > MAX_GROWTH or max(files, threads) > MAX_MORE:
            self.faults.append(f"the server has grown: {growths}")

    async def be_client(self, number: int) -> None:
        """Send requests until the time is up."""
        chance = random.Random(f"client {number} {self.random.random()}")
        chat: list[dict[str, str]] = []
        async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_keepalive_connections=0)) as http:
            while not self.is_over():
                await asyncio.wait([asyncio.ensure_future(self.running.wait())], timeout=5)
                if not self.running.is_set():
                    continue
                path, body = make_request(chance, chat)
                outcome = await self._send(http, path, body, chance)
                if outcome is not None and "messages" in body:
                    chat = [*body["messages"], {"role": "assistant", "content": outcome["text"]}]
                    chat = [] if len(json.dumps(chat)) > 2000 else chat
                await asyncio.sleep(chance.expovariate(1 / self.pause))

    async def _send(
        self, http: httpx.AsyncClient, path: str, body: dict[str, Any], chance: random.Random
    ) -> dict[str, Any] | None:
        """Send a request; count its end and return its outcome, or None if there is none to compare."""
        life, sent = self.life, time.monotonic()
        assert life
        cut_after = chance.randint(0, 8) if body.get("stream") and chance.random() < 0.2 else None
        is_invalid = chance.random() < 0.05
        url = f"{life.server.url}{path}"
        try:
            given = {**body, **chance.choice(INVALID)} if is_invalid else body
            outcome = await request(http, url, given, cut_after, self.counts)
        except httpx.TransportError as error:
            if life.signalled is None:
                self.faults.append(f"{error!r} from a server that got no signal: {path} {body}")
            elif life.signal is signal.SIGTERM and sent < life.signalled - GRACE:
                self.faults.append(
                    f"{error!r} after SIGTERM, {life.signalled - sent:.1f} s after the request: {path} {body}"
                )
            self.counts[f"cut by {life.signal.name if life.signal else 'nothing'}"] += 1
            return None
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if not (is_invalid and status == 400) and not (life.signalled and status == 503):
                self.faults.append(f"status {status}: {error.response.text} to {path} {body}")
            self.counts[f"status {status}"] += 1
            return None
        if is_invalid:
            self.faults.append(f"an invalid request was accepted: {path} {body}")
        if outcome is None:
            self.counts["disconnected"] += 1
            return None
        self.counts["completed"] += 1
        try:
            self.completed.put_nowait((path, body, outcome))
        except asyncio.QueueFull:
            self.counts["not repeated"] += 1
        return outcome

    async def repeat(self, url: str) -> None:
        """Send completed requests to the calm server too, and compare."""
        async with httpx.AsyncClient(timeout=300) as http:
            while (completed := await self.completed.get()) is not None:
                path, body, outcome = completed
                calm = await request(http, url + path, body)
                self.counts["repeated"] += 1
                if calm != outcome:
                    self.faults.append(f"another text: {path} {json.dumps(body)}\n  {outcome}\n  {calm}")

    def _check_output(self, server: ServerProcess) -> None:
        for line in server.output:
            if "Traceback" in line or " ERROR " in line or line.startswith("ERROR"):
                self.faults.append(f"the server wrote {line!r}")

    def _clock(self) -> str:
        return f"{(self.until - time.monotonic()) / 60:.0f} min left:"


def interruptions(url: str) -> int:
    """Return how many requests of a server have been interrupted for more urgent ones."""
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("llamafw_preemptions_total{"))


def make_request(chance: random.Random, chat: list[dict[str, str]]) -> tuple[str, dict[str, Any]]:
    """Return a path and a valid body: a completion, or the next question of a chat."""
    text = " ".join(chance.choices(WORDS, k=chance.randint(1, 60)))
    body: dict[str, Any] = {
        "stream": chance.random() < 0.5,
        "seed": chance.randint(0, 2**31),
        "temperature": chance.choice([0, 0, 0.8, 1.5]),
        "lora": chance.choice([[], [{"id": 0, "scale": 1}], [{"id": 0, "scale": 0.5}, {"id": 1, "scale": 1}]]),
        "priority": chance.choice([-5, 0, 0, 5]),
        "control_vectors": chance.choice([[], [], [{"id": 0, "scale": 1}]]),
    }
    if chance.random() < 0.3:
        body |= chance.choice(GRAMMARS)
    if chance.random() < 0.2:
        body["stop"] = [chance.choice("aeiou")]
    if chance.random() < 0.3:  # text that repeats itself, which drafters guess
        text = f"{text} {text} {text}"
    n_predict = chance.choice([1, 8, 30, 80])
    if chance.random() < 0.5:
        question = {"role": "user", "content": text}
        return "/v1/chat/completions", {**body, "messages": [*chat, question], "max_tokens": n_predict}
    return "/completion", {**body, "prompt": text, "n_predict": n_predict, "ignore_eos": chance.random() < 0.5}


async def request(
    http: httpx.AsyncClient,
    url: str,
    body: dict[str, Any],
    cut_after: int | None = None,
    counts: Counter[str] | None = None,
) -> dict[str, Any] | None:
    """Send a request; return its text and finish reason, or None if the client disconnects after some events.

    Tokens that were cached, and those of drafts, are added to ``counts``.

    Raises
    ------
    httpx.HTTPStatusError
        The status is not 200, or a stream has an error.
    httpx.TransportError
        The connection has ended too early.
    """
    if not body.get("stream"):
        response = await http.post(url, json=body)
        return _outcome([response.raise_for_status().json()], counts)
    async with http.stream("POST", url, json=body) as response:
        if response.status_code != 200:
            await response.aread()
            response.raise_for_status()
        events: list[dict[str, Any]] = []
        async for line in _lines(response):
            if line == b"data: [DONE]" or not line.startswith(b"data: "):
                continue
            events.append(json.loads(line.removeprefix(b"data: ")))
            if "error" in events[-1]:
                failed = httpx.Response(events[-1]["error"]["code"], json=events[-1])
                raise httpx.HTTPStatusError("error in a stream", request=response.request, response=failed)
            if cut_after is not None and len(events) > cut_after:
                return None
    outcome = _outcome(events, counts)
    if outcome["finish"] is None:
        raise httpx.RemoteProtocolError("the stream has no end")
    return outcome


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield lines that end with a newline; `aiter_lines` also divides the text at other characters."""
    rest = b""
    async for part in response.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line


def _outcome(events: list[dict[str, Any]], counts: Counter[str] | None) -> dict[str, Any]:
    text, finish = "", None
    for event in events:
        timings = event.get("timings")
        if counts is not None and timings and (event.get("stop") or "choices" in event):
            counts["tokens from caches"] += timings.get("cache_n", 0)
            counts["tokens of drafts"] += timings.get("draft_n", 0)
            counts["tokens of drafts, accepted"] += timings.get("draft_n_accepted", 0)
        if "choices" not in event:
            text += event["content"]
            finish = event.get("stop_type", finish) if event.get("stop") else finish
        elif event["choices"]:
            choice = event["choices"][0]
            text += (choice.get("message") or choice.get("delta") or {}).get("content") or ""
            finish = choice.get("finish_reason") or finish
    return {"text": text, "finish": finish}


def write_files(folder: Path, model: Path | None) -> tuple[Path, list[str]]:
    """Write what the servers load; return the model, and flags that both servers need."""
    path = model or write_tiny_gguf(folder / "tiny.gguf", n_ctx=2048)
    plugins = Plugins()
    read = read_gguf(path, plugins.registry("quant"), ())
    shapes = {name: tensor.shape for name, tensor in read.tensors.items() if ".attn_" in name or ".ffn_" in name}
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    adapters = [
        write_lora(
            folder / f"{i}.gguf",
            random_factors(matrices, 4, i),
            alpha=0.5,
            architecture=read.metadata["general.architecture"],
        )
        for i in range(2)
    ]
    n_embd = read.tensors["token_embd.weight"].shape[1]
    direction = np.random.default_rng(0).normal(0, 0.1, n_embd).astype(np.float32)
    vector = write_control_vector(folder / "vector.gguf", {1: direction})
    flags = [
        "--lora",
        ",".join(map(str, adapters)),
        "--lora-init-without-apply",
        "--control-vector-scaled",
        f"{vector}:0",
        *("-gan", "2", "-gaw", "64"),
    ]
    return path, flags


async def soak(args: argparse.Namespace, folder: Path) -> Soak:
    """Run everything; return what was seen."""
    model, shared = write_files(folder, args.model)
    cache = folder / "cache"
    flags = [
        *("-np", "2", "-c", "4096", "-md", str(model), "--spec-type", "ngram-simple,ngram-map-k,draft-simple"),
        "--no-spec-auto",  # drafts are made even if they do not pay
        *("--cache-ram", "1", "--cache-disk", str(cache), "--cache-disk-mib", str(CACHE_MIB)),
        *("--timeout-graceful-shutdown", "100", "--metrics", "--slots", "-t", str(args.threads)),
    ]
    calm_flags = ["-np", "1", "-c", "2048", "--cache-ram", "0", "--no-cache-prompt", "-t", str(args.threads)]
    seen = Soak(time.monotonic() + 60 * args.minutes, args.seed, args.pause, args.kill_every)
    with running_server(model, *shared, *calm_flags) as calm:
        clients = [seen.be_client(number) for number in range(args.clients)]

        async def load() -> None:
            await asyncio.gather(seen.serve(model, [*shared, *flags]), *clients)
            await seen.completed.put(None)

        await asyncio.gather(load(), seen.repeat(calm.url))
    sizes = {path.name: path.stat().st_size for path in cache.rglob("*") if path.is_file()}
    print(f"the cache has {len(sizes)} files, {sum(sizes.values()) / 2**20:.1f} MiB")
    if sum(sizes.values()) > CACHE_MIB * 2**20:
        seen.faults.append(f"the cache is larger than {CACHE_MIB} MiB: {sizes}")
    seen.faults += [f"an unfinished file: {name}" for name in sizes if name.startswith(".") or name.endswith(".tmp")]
    return seen


def main() -> int:
    """Print what was seen; return 1 if something must not have happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--model", type=Path, help="GGUF file (default: a tiny one with random weights)")
    parser.add_argument("--pause", type=float, default=0.2, help="mean seconds between two requests of a client")
    parser.add_argument("--kill-every", type=float, default=180, help="mean seconds between two signals")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        seen = asyncio.run(soak(args, Path(folder)))
    print(dict(seen.counts))
    print("\n".join(seen.faults[:50]) or "no faults")
    return 1 if seen.faults else 0


if __name__ == "__main__":
    sys.exit(main())
