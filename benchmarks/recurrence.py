"""Measure the kernels of recurrent operators: µs per token of a prompt, and per token when decoding.

``python benchmarks/recurrence.py [--rounds 7] [--threads 1,2] [--only WORD]`` prints a Markdown table with the median
and the minimum of the rounds. A prompt has 512 tokens of one slot. Decoding computes a token of each of many slots.
Their states do not fit into the caches, as if the weights of a model had passed through them since the last token.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llamafw_backends.numba_cpu import convolution, linear_attention, selective_scan
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.kernel_records import PLAN, new_records
from llamafw_backends.numba_cpu.memory import Arena, align_up
from llamafw_backends.numba_cpu.recurrence import BLOCK, SPAN
from llamafw_backends.numba_cpu.simd import call_address, load_i64
from llamafw_backends.numba_cpu.threads import Pool
from noise import machine

N_PROMPT = 512
COLD_BYTES = 128 << 20  # of all states together: more than the third-level cache
_call = call_address(3)


@dataclass(frozen=True)
class Case:
    """An operator of one layer."""

    name: str
    kernel: Any
    record: Any
    rows: dict[str, int]  # numbers per token, by the rows' names in the record
    fields: dict[str, Any]  # other fields of the record; an array stands for its address
    state_bytes: int
    scratch_bytes: int = 0


def attention_case(
    compiler: KernelCompiler,
    name: str,
    rule: Literal["delta", "decay"],
    key_size: int,
    value_size: int,
    *,
    by_channel: bool = False,
) -> Case:
    """Return linear attention with 16 heads."""
    n_head = 16
    return Case(
        name,
        linear_attention.build(compiler, rule, key_size, value_size, by_channel=by_channel),
        linear_attention.LINEAR_ATTENTION,
        {"q": n_head * key_size, "k": n_head * key_size, "v": n_head * value_size, "out": n_head * value_size}
        | {"gate": n_head * (key_size if by_channel else 1), "beta": n_head},
        {"n_head": n_head, "n_key_heads": n_head, "scale": key_size**-0.5},
        linear_attention.state_bytes(n_head, key_size, value_size, by_channel=by_channel),
        linear_attention.scratch_bytes(key_size, value_size),
    )


def convolution_case(compiler: KernelCompiler, name: str, *, silu: bool) -> Case:
    """Return a convolution of 4 tokens."""
    n_channels, k = 6144, 4
    return Case(
        name,
        convolution.build(compiler, k, silu=silu),
        convolution.CONVOLUTION,
        {"x": n_channels, "out": n_channels},
        {"weight": np.full((k, n_channels), 0.25, np.float32), "n_channels": n_channels},
        convolution.state_bytes(n_channels, k),
        convolution.scratch_bytes(n_channels, k),
    )


def scan_case(compiler: KernelCompiler, name: str) -> Case:
    """Return the selective scan of Mamba 2.8B."""
    n_channels, n_state = 5120, 16
    return Case(
        name,
        selective_scan.build(compiler),
        selective_scan.SELECTIVE_SCAN,
        {"x": n_channels, "delta": n_channels, "out": n_channels, "b": n_state, "c": n_state},
        {"a": np.full((n_channels, n_state), -1.0, np.float32), "d": np.ones(n_channels, np.float32)}
        | {"n_channels": n_channels, "n_state": n_state},
        selective_scan.state_bytes(n_channels, n_state),
    )


def cases(compiler: KernelCompiler) -> Iterator[Case]:
    """Yield the operators to measure."""
    yield attention_case(compiler, "gated delta rule, 16 heads of 128 × 128", "delta", 128, 128)
    yield attention_case(compiler, "gated delta rule with gates by channel", "delta", 128, 128, by_channel=True)
    yield attention_case(compiler, "Mamba-2, 16 heads of 128 × 64", "decay", 128, 64)
    yield convolution_case(compiler, "convolution of 4, 6144 channels", silu=False)
    yield convolution_case(compiler, "convolution of 4 with SiLU", silu=True)
    yield scan_case(compiler, "selective scan, 5120 channels of 16")


class Measurement:
    """The buffers of one operator, with random rows.

    Slot 0 has the prompt; the others decode.
    """

    def __init__(self, case: Case, n_threads: int, pool: Pool, job: Any) -> None:
        self._pool, self._job, self._n_threads = pool, job, n_threads
        self._n_decoding = COLD_BYTES // case.state_bytes + 1
        n_slots, n_rows = 1 + self._n_decoding, max(N_PROMPT, self._n_decoding)
        self._plan, self._record, self._spans = new_records(PLAN), new_records(case.record), new_records(SPAN, n_slots)
        constants = [value for value in case.fields.values() if isinstance(value, np.ndarray)]
        n_bytes = n_slots * case.state_bytes + n_threads * align_up(case.scratch_bytes)
        n_bytes += n_rows * sum(align_up(4 * n) for n in case.rows.values()) + sum(a.nbytes for a in constants)
        self._arena = Arena(n_bytes, huge=True)

        rng = np.random.default_rng(1)
        for name, n in case.rows.items():
            rows = rng.normal(0, 0.1, (n_rows, align_up(4 * n) // 4)).astype(np.float32)
            self._record[name] = self._arena.store({"gate": -abs(rows), "delta": abs(rows)}.get(name, rows))
            self._record[f"{name}_stride"] = rows.strides[0]
        for name, value in case.fields.items():
            self._record[name] = self._arena.store(value) if isinstance(value, np.ndarray) else value
        self._record["state"] = self._arena.allocate(n_slots * case.state_bytes)
        self._record["state_slot"] = case.state_bytes

        self._plan["scratch_stride"] = align_up(case.scratch_bytes)
        self._plan["scratch"] = self._arena.allocate(n_threads * align_up(case.scratch_bytes))
        self._plan["n_threads"], self._plan["spans"] = n_threads, self._spans.ctypes.data
        self._arguments = np.array([case.kernel.address, self._plan.ctypes.data, self._record.ctypes.data])
        self.decode(0)  # touches all pages of the states

    def prompt(self) -> float:
        """Return the µs per token of a prompt."""
        self._spans[0] = (0, 0, N_PROMPT, 0)
        return self._run(1) / N_PROMPT

    def decode(self, position: int) -> float:
        """Return the µs per token when each slot computes its token at ``position``."""
        for i in range(self._n_decoding):
            self._spans[i] = (1 + i, i, 1, position)
        return self._run(self._n_decoding) / self._n_decoding

    def _run(self, n_spans: int) -> float:
        """Return the µs that a batch takes."""
        self._plan["n_spans"] = n_spans
        start = time.perf_counter()
        self._pool.run(self._job.address, self._arguments.ctypes.data, self._n_threads)
        return (time.perf_counter() - start) * 1e6


def run_kernel(arguments: int, thread: int) -> int:
    """Call the kernel whose address, plan and record are at ``arguments``."""
    return int(_call(load_i64(arguments), load_i64(arguments + 8), load_i64(arguments + 16), thread))


def main() -> None:
    """Measure the operators one after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--only", default="", help="measure only operators whose name contains this word")
    args = parser.parse_args()

    compiler = KernelCompiler(lambda line: None)
    threads = [int(n) for n in args.threads.split(",")]
    pool, job = Pool(max(threads), compiler), compiler("benchmark.run_kernel", 2, run_kernel)
    print(f"{machine()}; µs per token, medians (minima) of {args.rounds} rounds\n")
    print("| operator | KiB per slot | threads | prompt | decoding | slowest of a block |\n" + "|---" * 6 + "|")
    for case in cases(compiler):
        if args.only not in case.name:
            continue
        for n_threads in threads:
            measurement = Measurement(case, n_threads, pool, job)
            prompts: list[float] = []
            decoding: list[list[float]] = []
            for first in range(BLOCK, BLOCK * (args.rounds + 1), BLOCK):
                prompts += [measurement.prompt() for _ in range(3)]
                decoding.append([measurement.decode(first + i) for i in range(BLOCK)])
            columns = [prompts, [statistics.mean(block) for block in decoding], [max(block) for block in decoding]]
            cells = [f"{statistics.median(times):.1f} ({min(times):.1f})" for times in columns]
            print(f"| {case.name} | {case.state_bytes / 1024:.0f} | {n_threads} | {' | '.join(cells)} |", flush=True)
    pool.close()


if __name__ == "__main__":
    main()
