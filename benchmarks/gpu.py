"""Check and measure the backend for ONNX Runtime on a GPU, in less than six minutes.

``python benchmarks/gpu.py [--provider cuda]`` prints Markdown tables: how far tiny models of several architectures are
from float64, then the speed of a model with random Q4_K weights, which it writes itself: prompts, one text, and a
server with many clients. With llama.cpp's programs in the folder that LLAMAFW_PEER names, it measures these too. It
exits with 1 if a result is wrong. ``--provider cpu --size tiny`` tries the script on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # for the tiny models

from checkpoints import all_checkpoints, write
from llamafw import Backend, Settings, open_context
from llamafw import graph as g
from llamafw.testing import vocabularies
from llamafw.testing.batches import batch
from llamafw.testing.gguf_file import write_gguf
from llamafw.testing.random_tensors import random_tensor
from llamafw_backends.onnx import open_model
from llamafw_backends.onnx.model_builder import ModelBuilder
from llamafw_backends.onnx.providers import choose
from noise import machine
from peer import folder as peer_folder
from serving import free_port, run_clients, running_server

ARCHITECTURES = ("llama", "gemma3", "gpt-oss", "qwen3moe", "qwen35", "granitehybrid")
"""Tiny models: rotations and norms; windows; sinks; experts; hybrids with a delta net, and with Mamba-2."""

TOLERANCE = 0.03  # keys and values are float16, on GPUs activations too
TOKENS = [(7 * i * i + 3 * i + 1) % 100 for i in range(60)]
CUTS = ([60], [7, 20, 1, 13, 19], [20, *[1] * 40])  # numbers of tokens per batch

PROMPT, N_DECODED = 512, 64
N_CANDIDATES = 40  # per token, as with the default of top_k
N_CTX = 1024  # positions per slot
COPY_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class Size:
    """The numbers of a model."""

    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    n_ff: int
    n_vocab: int


SIZES = {
    "1.5b": Size(1536, 28, 12, 2, 8960, 151_936),
    "8b": Size(4096, 32, 32, 8, 14_336, 128_256),
    "32b": Size(5120, 64, 40, 8, 27_648, 152_064),
    "tiny": Size(256, 4, 4, 2, 768, 2048),
}
"""Those of Qwen 2.5 1.5B, Llama 3.1 8B and Qwen 2.5 32B, and of a model for a first try."""


def main() -> int:
    """Run all checks and measurements; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--provider", default="auto", help="the value of --onnx-provider (default: auto)")
    parser.add_argument("--size", choices=tuple(SIZES), default="1.5b", help="parameters of the model (default: 1.5b)")
    parser.add_argument("--clients", default="1,16,64", help="numbers of clients (default: 1,16,64)")
    parser.add_argument("--skip-checks", action="store_true", help="do not compare tiny models with float64")
    parser.add_argument("--skip-servers", action="store_true", help="do not measure servers")
    parser.add_argument("--skip-peer", action="store_true", help="do not measure llama.cpp")
    args = parser.parse_args()
    counts = [int(n) for n in args.clients.split(",")]

    started = time.monotonic()
    print(f"{machine()}; {gpu_name()}\n", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        wrong = [] if args.skip_checks else check_architectures(Path(scratch), args.provider)
        path = Path(scratch) / "model.gguf"
        write_model(path, SIZES[args.size])
        measure_backend(path, args.provider, max(counts))
        if not args.skip_servers:
            measure_server(path, args.provider, counts)
        if not args.skip_peer:
            measure_peer(path, [] if args.skip_servers else counts)
    print(f"\n{time.monotonic() - started:.0f} s")
    if wrong:
        print(f"WRONG: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


# --- correctness


def check_architectures(scratch: Path, provider: str) -> list[str]:
    """Compare the logits of tiny models with those of the evaluation in float64; return the wrong architectures."""
    print("| model | largest error, part of the largest logit | |\n|---|---|---|")
    wrong = []
    for name in ARCHITECTURES:
        path = write(next(one for one in all_checkpoints() if one.architecture == name), scratch / f"{name}.gguf")
        with opened(path, provider, n_slots=2) as (backend, context):
            evaluator = g.Evaluator(context.graph, g.read_weights(context.model, context.quants))
            (expected,) = evaluator(TOKENS, g.TextState(context.graph, len(TOKENS)), context.graph.logits)
            errors = [np.abs(compute(backend, sizes) - expected).max() for sizes in CUTS]
        error = float(max(errors) / np.abs(expected).max())
        is_right = error < TOLERANCE  # also false for NaN
        print(f"| {name} | {error:.2g} | {'right' if is_right else 'WRONG'} |", flush=True)
        wrong += [] if is_right else [name]
    return wrong


def compute(backend: Backend, sizes: Sequence[int]) -> Any:
    """Return the logits of the text in slot 1, beside another text in slot 0."""
    rows, first = [], 0
    for slot in range(2):
        backend.truncate(slot, 0)
    for size in sizes:
        runs = [(0, first, TOKENS[first : first + 1]), (1, first, TOKENS[first : first + size])]
        if first:
            runs[0] = (0, 0, TOKENS[: min(size, 2)])  # a single token each is a step that a GPU captures
            backend.truncate(0, 0)
        outputs = range(len(runs[0][2]), len(runs[0][2]) + size)
        rows.append(backend.forward(batch(*runs, outputs=outputs)).copy())
        first += size
    return np.concatenate(rows)


@contextmanager
def opened(path: Path, provider: str, n_slots: int) -> Iterator[tuple[Any, Any]]:
    """Open the backend; yield it and its context."""
    extra = {"onnx_provider": provider}
    settings = Settings(model=str(path), parallel=n_slots, ctx_size=N_CTX * n_slots, extra=extra)
    context, _ = open_context(settings, log=lambda line: None)
    backend = open_model(context)
    try:
        yield backend, context
    finally:
        backend.close()


# --- speed


def write_model(path: Path, size: Size) -> None:
    """Write a model of the architecture llama with random Q4_K weights; embeddings are also the logits' matrix."""
    rng, head_size = np.random.default_rng(0), size.n_embd // size.n_head
    shapes = {"token_embd.weight": (size.n_vocab, size.n_embd)}
    for layer in range(size.n_layer):
        shapes |= {
            f"blk.{layer}.attn_q.weight": (size.n_embd, size.n_embd),
            f"blk.{layer}.attn_k.weight": (size.n_head_kv * head_size, size.n_embd),
            f"blk.{layer}.attn_v.weight": (size.n_head_kv * head_size, size.n_embd),
            f"blk.{layer}.attn_output.weight": (size.n_embd, size.n_embd),
            f"blk.{layer}.ffn_gate.weight": (size.n_ff, size.n_embd),
            f"blk.{layer}.ffn_up.weight": (size.n_ff, size.n_embd),
            f"blk.{layer}.ffn_down.weight": (size.n_embd, size.n_ff),
        }
    norms = ["output_norm", *(f"blk.{i}.{kind}_norm" for i in range(size.n_layer) for kind in ("attn", "ffn"))]
    tensors: dict[str, Any] = {f"{name}.weight": (np.ones(size.n_embd, np.float32), "F32") for name in norms}
    made: dict[Any, Any] = {}  # all layers have the same numbers, which are stored, and read, once for each layer
    for name, shape in shapes.items():
        std = 1.0 if name == "token_embd.weight" else shape[1] ** -0.5
        key = (name.rpartition("blk.")[2].partition(".")[2], shape)
        if key not in made:
            made[key] = random_tensor(rng, shape, "Q4_K", std)
        tensors[name] = made[key], "Q4_K"
    metadata = vocabularies.gpt2(size.n_vocab) | {
        "llama.block_count": size.n_layer,
        "llama.context_length": 32_768,
        "llama.embedding_length": size.n_embd,
        "llama.feed_forward_length": size.n_ff,
        "llama.attention.head_count": size.n_head,
        "llama.attention.head_count_kv": size.n_head_kv,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": head_size,
    }
    write_gguf(path, "llama", metadata, tensors)


def measure_backend(path: Path, provider: str, n_slots: int) -> None:
    """Measure prompts, and steps with one and with several texts."""
    n_file, started, before = path.stat().st_size, time.monotonic(), used_memory()
    with opened(path, provider, 1) as (backend, _):
        loaded, facts = time.monotonic() - started, backend.describe()
        bandwidth = measure_bandwidth(provider)
        prompt = [(7 * i) % backend.n_vocab for i in range(PROMPT)]
        prefill = PROMPT / median_time(lambda i: forward(backend, [(0, 0, prompt)]))
        alone = 1 / median_time(lambda i: decode(backend, 1, i), N_DECODED)
        after, resident = used_memory(), own_memory()
    steps = {}
    if n_slots > 1:
        with opened(path, provider, n_slots) as (backend, _):
            for n in sorted({1, min(16, n_slots), n_slots}):
                steps[n] = 1 / median_time(lambda i, n=n: decode(backend, n, i), N_DECODED)

    n_read = facts["weight_bytes"]
    print(f"\n{path.stat().st_size / 2**20:,.0f} MiB of Q4_K, provider {facts['provider']}, {loaded:.1f} s to load\n")
    print("| what | result |\n|---|---|")
    print(f"| prompt of {PROMPT} tokens | {prefill:,.0f} tokens/s |")
    print(f"| one text, in a server with one slot | {alone:,.1f} tokens/s |")
    for n, rate in steps.items():
        print(f"| {n} texts at once, in a server with {n_slots} slots | {n * rate:,.1f} tokens/s |")
    print(f"| memory bandwidth, measured with an addition | {bandwidth / 1e9:,.0f} GB/s |")
    for n_bytes, of in ((n_read, "weights in memory"), (n_file, "the file")):
        share = alone * n_bytes / bandwidth
        print(f"| share of the bandwidth, one text, {of} ({n_bytes / 2**20:,.0f} MiB) | {share:.0%} |")
    if after is not None and before is not None:
        used = after - before
        print(f"| device memory | {used / 2**20:,.0f} MiB, {used / n_file:.2f} of the file |")
    print(f"| memory of this process, without the pages of the file | {resident / 2**20:,.0f} MiB |", flush=True)


def forward(backend: Backend, runs: list[tuple[int, int, list[int]]]) -> None:
    """Compute new texts, with the logits of the last token of each."""
    for slot, first, _ in runs:
        backend.truncate(slot, first)
    ends = np.cumsum([len(tokens) for _, _, tokens in runs]) - 1
    backend.forward(batch(*runs, outputs=ends.tolist()))


def decode(backend: Any, n: int, step: int) -> None:
    """Compute the candidates for one token of each of ``n`` texts; at first, a short prompt of each."""
    if step == 0:
        for slot in range(n):
            forward(backend, [(slot, 0, [1 + slot % 100] * 64)])
    runs = [(slot, 64 + step, [(17 * step + slot) % backend.n_vocab]) for slot in range(n)]
    if hasattr(backend, "top_logits"):
        backend.top_logits(batch(*runs), N_CANDIDATES, backend.n_vocab)
    else:
        forward(backend, runs)


def median_time(call: Any, n: int = 5) -> float:
    """Return the median seconds of a call that gets 0, 1, 2 …; the first ones, which are slower, do not count."""
    seconds = []
    for i in range(n + 2):
        started = time.perf_counter()
        call(i)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def measure_bandwidth(provider: str) -> float:
    """Return the bytes per second that an addition of a number to a large vector reads and writes."""
    device = choose(provider)
    dtype = np.dtype(np.float32)

    def build(b: ModelBuilder) -> None:
        b.node("Add", b.input("x", dtype, ["n"]), b.constant(1, dtype), outputs=["y"])
        b.output("y", dtype, ["n"])

    session = device.session(build, dtype)
    x, y = (device.zeros((COPY_BYTES // dtype.itemsize,), dtype) for _ in range(2))
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", x)
    binding.bind_ortvalue_output("y", y)
    return 2 * COPY_BYTES / median_time(lambda i: session.run_with_iobinding(binding), 10)


def own_memory() -> int:
    """Return the bytes of this process that are not pages of files."""
    info = psutil.Process().memory_info()
    return int(info.rss - getattr(info, "shared", 0))


# --- servers


def measure_server(path: Path, provider: str, counts: Sequence[int]) -> None:
    """Print the rates of a server of this project."""
    flags = ["-np", str(max(counts)), "-c", str(512 * max(counts)), "--backend", "onnx", "--onnx-provider", provider]
    command = [sys.executable, "-m", "llamafw", "serve", "-m", str(path), *flags]
    print_rates("llamafw", command, counts)


def print_rates(name: str, command: list[str], counts: Sequence[int]) -> None:
    """Start a server, and print its tokens per second and the time to the first token, by the number of clients."""
    print(f"\n| clients of {name} | tokens/s | of one client's | ms to the first token |\n|---|---|---|---|")
    port = free_port()
    with running_server([*command, "--port", str(port)], port) as (url, _):
        asyncio.run(run_clients(url, 2))  # warm up
        first = 0.0
        for n in counts:
            rate, wait = asyncio.run(run_clients(url, n))
            first = first or rate
            print(f"| {n} | {rate:,.1f} | {rate / first:.1f} | {wait:,.0f} |", flush=True)


def measure_peer(path: Path, counts: Sequence[int]) -> None:
    """Measure llama.cpp's programs, if they are there."""
    programs = [peer_folder() / name for name in ("llama-bench", "llama-server")]
    if not all(program.is_file() for program in programs):
        print("\nllama.cpp is not there: build it with CUDA, and name the folder of its programs in LLAMAFW_PEER")
        return
    bench, server = map(str, programs)
    command = [bench, "-m", str(path), "-p", str(PROMPT), "-n", str(N_DECODED), "-ngl", "99", "-o", "json"]
    results = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print("\n| llama.cpp | tokens/s |\n|---|---|")
    for one in results:
        what = f"prompt of {one['n_prompt']} tokens" if one["n_prompt"] else "one text"
        print(f"| {what} | {one['avg_ts']:,.1f} |", flush=True)
    if not counts:
        return
    flags = ["-np", str(max(counts)), "-c", str(512 * max(counts)), "-ngl", "99"]
    print_rates("llama.cpp", [server, "-m", str(path), *flags], counts)


# --- the GPU


def query_gpu(field: str) -> str | None:
    """Return what nvidia-smi says of the first GPU; None without it."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.splitlines()[0].strip() if result.returncode == 0 and result.stdout.strip() else None


def gpu_name() -> str:
    """Return the name of the GPU."""
    return query_gpu("name") or "no GPU that nvidia-smi lists"


def used_memory() -> int | None:
    """Return the bytes of the GPU's memory that are used; None if that is unknown."""
    used = query_gpu("memory.used")
    return int(used) * 2**20 if used and used.isdigit() else None


if __name__ == "__main__":
    sys.exit(main())
