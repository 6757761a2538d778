"""Measure what LoRA adapters cost: the time of a decoded token without adapters, and with rank 16 on all matrices.

Passes without adapters, with loaded ones that no request uses, and with one or two that the request uses, run in turn.
Of each kind, the quickest pass counts, because other processes disturb all others.
The models are the default one, and four layers of the size of those of a 1B and of an 8B model, with random weights.

Run it from the repository's root::

    python benchmarks/adapters.py [-m model.gguf] [-t 1,2] [-n 200] [--rank 16]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llamafw import BackendContext, BackendOptions, Batch, Floats
from llamafw import graph as g
from llamafw.models.adapters import adapt_model, read_lora
from llamafw.models.gguf import read_gguf
from llamafw.models.wheels import pull
from llamafw.plugins import Plugins
from llamafw.testing.adapters import random_factors, write_lora
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.numba_cpu.backend import NumbaBackend
from noise import machine

POSITION = 64  # of the tokens that are decoded
N_ROUNDS, WARM_UP = 5, 10
SIZES: dict[str, dict[str, Any]] = {
    "layers of a 1B model": {"n_embd": 2048, "n_head": 32, "n_head_kv": 8, "n_ff": 8192},
    "layers of an 8B model": {"n_embd": 4096, "n_head": 32, "n_head_kv": 8, "n_ff": 14336},
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--model", type=Path, help="GGUF file (default: the default model and random layers)")
    parser.add_argument("-t", "--threads", default="1,2")
    parser.add_argument("-n", type=int, default=200, help="passes of each kind")
    parser.add_argument("--rank", type=int, default=16)
    args = parser.parse_args()

    print(f"{machine()}; rank {args.rank}, F16, on all matrices; the quickest of {args.n} tokens\n")
    print("| model | threads | without | loaded, not used | one used | two used |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, path in models(args.model, Path(folder)):
            for threads in map(int, args.threads.split(",")):
                seconds = measure(path, threads, args.rank, args.n, Path(folder))
                base = seconds[0]
                cells = [f"{base * 1e3:.2f} ms", *(f"{one / base - 1:+.1%}" for one in seconds[1:])]
                print(f"| {name} | {threads} | {' | '.join(cells)} |", flush=True)


def models(path: Path | None, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the models to measure."""
    if path is not None:
        yield path.name, path
        return
    default = pull("smollm2-135m")
    yield default.name, default
    for name, size in SIZES.items():
        file = folder / "layers.gguf"
        yield name, write_tiny_gguf(file, n_layer=4, types={"default": "Q4_1", "token_embd": "Q8_0"}, **size)


def measure(path: Path, n_threads: int, rank: int, n: int, folder: Path) -> list[float]:
    """Return the seconds of the quickest pass of each kind.

    The kinds are: without adapters, with an unused one, with one, with two. All run on the same backend, in rounds.
    """
    plugins = Plugins()
    quants = plugins.registry("quant")
    model = read_gguf(path, quants, ())
    architecture = model.metadata["general.architecture"]
    graph = plugins.registry("architecture")[architecture](model)
    context = BackendContext(model, graph, BackendOptions(n_slots=1, n_ctx=256, n_threads=n_threads), quants)

    products = {value.weight.name for value in graph if isinstance(value, g.Linear)} - {"token_embd.weight"}
    shapes = {name: model.tensors[name].shape for name in sorted(products)}
    files = [
        write_lora(
            folder / f"{i}.gguf",
            random_factors(shapes, rank, i),
            alpha=0.01,  # the model must keep its numbers: random changes of this size would give infinite ones
            architecture=architecture,
            type_name="F16",
        )
        for i in range(2)
    ]
    loaded = [read_lora(file, model, quants, {}) for file in files]
    kinds: list[tuple[BackendContext | None, Floats | None]] = [(None, None)]
    for count, is_used in ((1, False), (1, True), (2, True)):
        adaptation, stacked = adapt_model(model, graph, loaded[:count], quants)
        scales = np.array([[factor for _, factor in adaptation.scales]], np.float32)
        kinds.append((replace(context, model=stacked, graph=adaptation.graph), scales if is_used else None))

    backend = NumbaBackend(context)
    seconds: list[list[float]] = [[] for _ in kinds]
    prompt, one, place, zero = np.arange(POSITION), np.ones(1, int), np.full(1, POSITION), np.zeros(1, int)
    try:
        backend.forward(_batch(prompt, prompt, 0 * prompt, prompt[:0]))
        for _ in range(N_ROUNDS):
            for times, (adapted, row) in zip(seconds, kinds, strict=True):
                backend.set_adapters(adapted)
                for i in range(WARM_UP + n // N_ROUNDS):
                    started = time.perf_counter()
                    backend.forward(replace(_batch(one, place, zero, zero), scales=row))
                    if i >= WARM_UP:
                        times.append(time.perf_counter() - started)
    finally:
        backend.close()
    return [min(times) for times in seconds]


def _batch(*arrays: Any) -> Batch:
    tokens, positions, slots, outputs = (array.astype(np.int32) for array in arrays)
    return Batch(tokens, positions, slots, outputs)


if __name__ == "__main__":
    main()
