"""Run a batch: check it, divide it into ubatches, and compute all phases for each of them.

The computation of one ubatch is a *step*: all threads run its phases one after the other, and wait for each other
where a phase needs what others have written. A ubatch may have tokens of several slots at any positions.
"""

from __future__ import annotations

from typing import Any

from llamafw_backends.numba_cpu.kernel_compiler import jit
from llamafw_backends.numba_cpu.kernel_records import (
    BATCH_BARRIER,
    PHASE,
    SELECT_BARRIER,
    SINGLE_BARRIER,
    phase_at,
    plan_at,
)
from llamafw_backends.numba_cpu.simd import call_address, load_i64, prefetch, store_i64
from llamafw_backends.numba_cpu.threads import barrier, run_job

_PHASE_BYTES = PHASE.itemsize
_SPAN_BYTES = 32
_call_phase = call_address(3)

# the faults of a batch that `_check` finds
BAD_TOKEN, BAD_SLOT, BAD_POSITION, BAD_ORDER, BAD_OUTPUT = 1, 2, 3, 4, 5
NOT_WRITABLE = 6  # no fault: a slot needs pages for its tokens first


@jit
def _check(p: Any, n: int, m: int) -> int:
    """Return the number of slots with tokens in the batch, or −8 · index − fault of the first faulty element."""
    n_runs = 0  # a run is the tokens of one slot
    for i in range(n):
        token, position, slot = load_i64(p.tokens + 8 * i), load_i64(p.positions + 8 * i), load_i64(p.slots + 8 * i)
        if token < 0 or token >= p.n_vocab:
            return -8 * i - BAD_TOKEN
        if slot < 0 or slot >= p.n_slots:
            return -8 * i - BAD_SLOT
        if position < 0 or position >= p.n_ctx:
            return -8 * i - BAD_POSITION
        if i > 0 and slot == load_i64(p.slots + 8 * i - 8):
            if position != load_i64(p.positions + 8 * i - 8) + 1:
                return -8 * i - BAD_ORDER
        else:
            if position > load_i64(p.filled + 8 * slot):
                return -8 * i - BAD_ORDER
            for j in range(i):
                if load_i64(p.slots + 8 * j) == slot:
                    return -8 * i - BAD_ORDER
            n_runs += 1

    before = -1
    for i in range(m):
        output = load_i64(p.outputs + 8 * i)
        if output <= before or output >= n:
            return -8 * i - BAD_OUTPUT
        before = output

    for i in range(n):
        position, writable = load_i64(p.positions + 8 * i), p.writable + 16 * load_i64(p.slots + 8 * i)
        if position < load_i64(writable) or position >= load_i64(writable + 8):
            return -8 * i - NOT_WRITABLE
    return n_runs


@jit
def _start_ubatch(p: Any, first: int, last: int) -> None:
    """Find the spans of the tokens ``first`` … ``last - 1``, and record that their slots have them."""
    p.first, p.n_tokens = first, last - first

    n_spans = 0
    i = first
    while i < last:
        slot, position = load_i64(p.slots + 8 * i), load_i64(p.positions + 8 * i)
        count = 1
        while i + count < last and load_i64(p.slots + 8 * (i + count)) == slot:
            count += 1

        span = p.spans + _SPAN_BYTES * n_spans
        store_i64(slot, span)
        store_i64(i - first, span + 8)
        store_i64(count, span + 16)
        store_i64(position, span + 24)
        store_i64(position + count, p.filled + 8 * slot)
        n_spans += 1
        i += count
    p.n_spans = n_spans


def forward(plan: int, n: int, m: int, n_threads: int, n_threads_batch: int) -> int:
    """Run a batch of n tokens and m outputs, ubatch by ubatch.

    ``n_threads`` threads compute it if it continues responses: if each slot has one token, or all tokens have outputs,
    as those of drafts. Return the result of `_check`; if it is negative, nothing was computed.
    """
    p = plan_at(plan)
    n_runs = _check(p, n, m)
    if n_runs <= 0:
        return n_runs
    p.n_threads = n_threads if n_runs == n or m == n else n_threads_batch
    p.n_batch = n

    logits, hidden, done = p.logits, p.hidden, 0
    for first in range(0, n, p.n_ubatch):
        last = min(n, first + p.n_ubatch)
        _start_ubatch(p, first, last)

        p.first_output = done
        while done < m and load_i64(p.outputs + 8 * done) < last:
            done += 1
        p.n_outputs = done - p.first_output

        run_job(p.pool, p.step, plan, p.n_threads)
        p.logits += p.n_outputs * p.logits_stride
        p.hidden += p.n_outputs * p.hidden_stride
    p.logits, p.hidden = logits, hidden
    return n_runs


def step(plan: int, thread: int) -> int:
    """Run one thread's part of all phases for the tokens of a ubatch."""
    p = plan_at(plan)
    for i in range(p.n_phases):
        phase = phase_at(p.phases + i * _PHASE_BYTES)
        n_rows = p.n_tokens if phase.stage == 0 else p.n_outputs
        if n_rows == 0:
            return 0
        waits = phase.barrier & (SINGLE_BARRIER if n_rows == 1 else BATCH_BARRIER)
        if waits == 0 and p.n_outputs != p.n_tokens:
            waits = phase.barrier & SELECT_BARRIER
        if i + 1 < p.n_phases:
            following = phase_at(p.phases + (i + 1) * _PHASE_BYTES)
            for j in range(0, following.n_bytes, 64):
                prefetch(following.record + j)
        if waits != 0:
            barrier(p.pool, p.n_threads)
        _call_phase(phase.kernel, plan, phase.record, thread)
    return 0
