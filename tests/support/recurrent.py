"""Runs the Numba kernels of recurrent operators on batches of several slots, cut at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.kernel_records import PLAN, new_records
from llamafw_backends.numba_cpu.memory import Arena, align_up
from llamafw_backends.numba_cpu.recurrence import SPAN, earliest_position
from llamafw_backends.numba_cpu.simd import call_address, load_i64
from llamafw_backends.numba_cpu.threads import Pool

Rows = Mapping[str, Any]
N_SLOTS = 3
_call = call_address(3)


def compiler() -> KernelCompiler:
    """Return a compiler that logs nothing."""
    return KernelCompiler(lambda line: None)


def run_kernel(arguments: int, thread: int) -> int:
    """Call the kernel whose address, plan and record are at ``arguments``."""
    return int(_call(load_i64(arguments), load_i64(arguments + 8), load_i64(arguments + 16), thread))


@cache
def job() -> Any:
    """Return `run_kernel` as a job of a pool."""
    return compiler()("support.run_kernel", 2, run_kernel)


class RecurrentLayer:
    """A recurrent operator with the states of `N_SLOTS` slots, and what these have computed.

    The states are NaN at first. All buffers of a batch are NaN where they are not inputs.

    Parameters
    ----------
    kernel : object
        What the operator's ``build`` returns.
    record : dtype
        The operator's record.
    fields : mapping of str to object
        Fields of the record that are neither rows nor the state. An array stands for its address.
    n_out : int
        How many numbers the operator returns per token.
    state_bytes, scratch_bytes : int
        Sizes of a slot's state and of a thread's scratch memory.
    """

    def __init__(
        self, kernel: Any, record: Any, fields: Rows, n_out: int, state_bytes: int, scratch_bytes: int = 0
    ) -> None:
        assert state_bytes % 64 == 0
        self._kernel, self._n_out, self._scratch_bytes = kernel, n_out, align_up(scratch_bytes)
        self._record, self._plan = new_records(record), new_records(PLAN)
        constants = [value for value in fields.values() if isinstance(value, np.ndarray)]
        self._arena = Arena(N_SLOTS * state_bytes + sum(align_up(value.nbytes) for value in constants))
        for name, value in fields.items():
            self._record[name] = self._arena.store(value) if isinstance(value, np.ndarray) else value

        state = self._arena.allocate(N_SLOTS * state_bytes)
        self._record["state"], self._record["state_slot"] = state, state_bytes
        self.states = self._arena.view(state, (N_SLOTS, state_bytes // 4), np.float32)
        self.states[...] = np.nan
        self.positions, self.earliest = [0] * N_SLOTS, [0] * N_SLOTS

    def truncate(self, slot: int, n: int) -> None:
        """Let a slot go back to position ``n``, which must be one that it can go back to."""
        assert n == 0 or self.earliest[slot] <= n <= self.positions[slot]
        self.positions[slot] = n
        if n == 0:
            self.earliest[slot] = 0

    def run(self, batch: Sequence[tuple[int, Rows]], pool: Pool | None = None) -> list[Any]:
        """Compute the next tokens of some slots.

        Parameters
        ----------
        batch : sequence of (slot, rows)
            The rows are ``(n_tokens, …)`` arrays by their names in the record.
        pool : Pool, optional
            The threads; only this thread by default.

        Returns
        -------
        list of array
            The outputs of each slot, ``(n_tokens, n_out)`` float32.
        """
        sizes = [len(next(iter(rows.values()))) for _, rows in batch]
        n, n_threads = sum(sizes), pool.n_threads if pool else 1
        inputs = {
            name: np.concatenate([np.asarray(rows[name], np.float32).reshape(len(rows[name]), -1) for _, rows in batch])
            for name in batch[0][1]
        }
        inputs["out"] = np.full((n, self._n_out), np.nan, np.float32)
        row_bytes = {name: align_up(4 * array.shape[1]) + 64 for name, array in inputs.items()}  # a gap between rows
        arena = Arena(n * sum(row_bytes.values()) + n_threads * self._scratch_bytes)

        views = {}
        for name, array in inputs.items():
            self._record[name], self._record[f"{name}_stride"] = arena.allocate(n * row_bytes[name]), row_bytes[name]
            memory = arena.view(int(self._record[name][0]), (n, row_bytes[name] // 4), np.float32)
            memory[...] = np.nan
            views[name] = memory[:, : array.shape[1]]
            views[name][...] = array
        scratch = arena.allocate(n_threads * self._scratch_bytes)
        arena.view(scratch, (n_threads * self._scratch_bytes // 4,), np.float32)[...] = np.nan

        spans, firsts = new_records(SPAN, len(batch)), [sum(sizes[:i]) for i in range(len(batch))]
        for i, (slot, _) in enumerate(batch):
            spans[i] = (slot, firsts[i], sizes[i], self.positions[slot])
            self.positions[slot] += sizes[i]
            self.earliest[slot] = earliest_position(self.positions[slot], self.earliest[slot])
        self._plan["spans"], self._plan["n_spans"], self._plan["n_threads"] = spans.ctypes.data, len(batch), n_threads
        self._plan["scratch"], self._plan["scratch_stride"] = scratch, self._scratch_bytes

        arguments = np.array([self._kernel.address, self._plan.ctypes.data, self._record.ctypes.data])
        if pool:
            pool.run(job().address, arguments.ctypes.data, n_threads)
        else:
            job().ctypes(arguments.ctypes.data, 0)
        return [views["out"][first : first + size].copy() for first, size in zip(firsts, sizes, strict=True)]

    def compute(self, rows: Rows, sizes: Sequence[int], slot: int = 0) -> Any:
        """Return the outputs of a text that is computed from position 0 in pieces of some sizes."""
        self.truncate(slot, 0)
        outputs, done = [], 0
        for size in sizes:
            outputs += self.run([(slot, part(rows, slice(done, done + size)))])
            done += size
        return np.concatenate(outputs)

    def compute_at_random(self, rows: Rows, rng: np.random.Generator, pool: Pool | None, max_size: int) -> Any:
        """Return the outputs of a text that is computed from position 0 in some slot.

        The sizes of the pieces are random, up to ``max_size``. Batches have tokens of other slots, too. Before some of
        the pieces, the slot computes other tokens and goes back.
        """
        n, slot = len(next(iter(rows.values()))), int(rng.integers(N_SLOTS))
        self.truncate(slot, 0)
        outputs, done = [], 0
        while done < n:
            draft = int(rng.integers(1, 5))
            if rng.random() < 0.5 and earliest_position(done + draft, self.earliest[slot]) <= done:
                self.run([(slot, part(rows, rng.integers(0, n, draft)))], pool)
                self.truncate(slot, done)

            batch: list[tuple[int, Rows]] = []
            index = own = 0
            for other in rng.permutation(N_SLOTS):
                size = min(int(rng.integers(1, max_size + 1)), n - done)
                if other == slot:
                    index, own = len(batch), size
                    batch.append((slot, part(rows, slice(done, done + size))))
                elif rng.random() < 0.6:
                    if rng.random() < 0.2:
                        self.truncate(int(other), 0)
                    batch.append((int(other), part(rows, rng.integers(0, n, size))))
            outputs.append(self.run(batch, pool)[index])
            done += own
        return np.concatenate(outputs)


def part(rows: Rows, tokens: Any) -> Rows:
    """Return the rows of some tokens."""
    return {name: array[tokens] for name, array in rows.items()}
