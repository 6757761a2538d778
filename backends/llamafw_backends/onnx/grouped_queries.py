"""Lowers attention over a cache to GroupQueryAttention, which reads and writes the caches of all slots in place.

The node has one row per slot: ``slot_rows``, ``(n_slots, n_steps)``, are the indices of each slot's tokens, padded at
the right. ``query_lengths`` says how many there are, 0 for an idle slot, and ``last_positions`` where they end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llamafw import graph as g
from llamafw_backends.onnx.model_builder import Array, Dimensions, ModelBuilder
from llamafw_backends.onnx.support import Probe, Support

ROWS = "slot_rows"
"""The input of which one size is the number of steps; a cache needs room for all of them behind each slot's end."""


@dataclass(frozen=True, slots=True)
class Attend:
    """The attributes of GroupQueryAttention, or of PagedAttention."""

    n_head: int
    n_head_kv: int
    size: int
    scale: float
    cache_type: np.dtype[Any]
    window: int | None = None
    softcap: float | None = None
    has_sinks: bool = False
    is_paged: bool = False

    def small(self) -> Attend:
        """Return the attributes of a tiny model that shows whether the node works."""
        window = None if self.window is None else 3
        softcap = None if self.softcap is None else 2.0
        return replace(self, n_head=4, n_head_kv=2, window=window, softcap=softcap)

    def describe(self, node: str) -> str:
        """Return what is tried with a tiny model."""
        parts = [f"{node} with heads of {self.size} numbers, a cache of {self.cache_type}"]
        parts += ["a window"] * (self.window is not None) + ["limited scores"] * (self.softcap is not None)
        return ", ".join(parts + ["sinks"] * self.has_sinks)

    def add(self, b: ModelBuilder, rows: tuple[str, str, str], past: tuple[str, str], sinks: str, **names: Any) -> str:
        """Add the node.

        Parameters
        ----------
        b : ModelBuilder
            The model.
        rows : (str, str, str)
            Queries, keys and values by slot, ``(n_slots, n_steps, n_head · size)``.
        past : (str, str)
            The caches of keys and values, ``(n_slots, n_head_kv, n_positions, size)``.
        sinks : str
            The extra scores, ``(n_head,)``; "" if there are none.
        **names
            ``outputs``: the names of the result and of the new caches.
        """
        ends, queries = (b.input(name, np.int32, ["n_slots"]) for name in ("last_positions", "query_lengths"))
        inputs = [*rows, *past, ends, b.input("n_cached", np.int32, []), "", "", "", "", sinks, "", "", "", "", queries]
        return self.add_node(b, "GroupQueryAttention", inputs, **names)

    def add_node(self, b: ModelBuilder, kind: str, inputs: Sequence[str], **names: Any) -> str:
        """Add a node of one of both kinds with these attributes; return the name of its result."""
        outputs = b.node(
            f"com.microsoft.{kind}",
            *inputs,
            num_heads=self.n_head,
            kv_num_heads=self.n_head_kv,
            scale=self.scale,
            local_window_size=self.window,
            softcap=self.softcap,
            **names,
        )
        return str(outputs[0])


def find_attend(value: g.Attention, cache_types: tuple[np.dtype[Any], np.dtype[Any]], n_readers: int) -> Attend | str:
    """Return the attributes of the node for an operator, or why there is none."""
    (n_head, size), (n_head_kv, v_size) = value.q.shape, value.past.v.shape
    if isinstance(value.past, g.KeyValue):
        return "it reads the whole text, which has no cache"
    if n_readers > 1:
        return "several operators read the cache"
    if size != v_size:
        return f"keys have size {size}, values {v_size}"
    if cache_types[0] != cache_types[1]:
        return f"keys are cached as {cache_types[0]}, values as {cache_types[1]}"
    if value.alibi:
        return "scores decrease with distance"
    if value.position_bias is not None:
        return "scores have a bias"
    if value.window is not None and value.window_kind != "sliding":
        return f"the window is {value.window_kind}"
    sinks = value.sinks is not None
    return Attend(n_head, n_head_kv, size, value.scale, cache_types[0], value.window, value.softcap, sinks)


def runs_in_place(support: Support, attend: Attend) -> bool:
    """Return whether the provider has the node for ragged batches with idle slots."""
    small = attend.small()
    return support.runs(small.describe("GroupQueryAttention"), lambda: _ragged(support.float_type, small))


def _ragged(dtype: np.dtype[Any], attend: Attend) -> Probe:
    """Return a batch of four slots: a prompt in two parts, one that starts, an idle one, one that is decoded."""
    rng = np.random.default_rng(0)
    past, n_new = np.array([3, 0, 2, 5]), np.array([4, 2, 0, 1])
    n_slots, n_steps, capacity = len(past), 4, 10
    sizes = [n * attend.size for n in (attend.n_head, attend.n_head_kv, attend.n_head_kv)]
    rows = [rng.standard_normal((n_slots, n_steps, size)).astype(dtype) for size in sizes]
    shape = (n_slots, attend.n_head_kv, capacity, attend.size)
    before = [rng.standard_normal(shape).astype(attend.cache_type) for _ in range(2)]
    sinks = rng.standard_normal(attend.n_head).astype(dtype) if attend.has_sinks else None
    after, expected = [array.copy() for array in before], np.zeros((n_slots, n_steps, sizes[0]))
    for slot in range(n_slots):
        new = slice(past[slot], past[slot] + n_new[slot])
        for array, part in zip(after, rows[1:], strict=True):
            heads = part[slot, : n_new[slot]].reshape(-1, attend.n_head_kv, attend.size)
            array[slot, :, new] = heads.transpose(1, 0, 2)
        q = rows[0][slot, : n_new[slot]].reshape(-1, attend.n_head, attend.size)
        expected[slot, : n_new[slot]] = attend_in_float64(attend, q, after[0][slot], after[1][slot], past[slot], sinks)
    is_token = np.arange(n_steps) < n_new[:, None]

    def build(b: ModelBuilder) -> None:
        names = ("q", "k", "v")
        inputs = [b.input(name, dtype, ["n_slots", "n", size]) for name, size in zip(names, sizes, strict=True)]
        dims: Dimensions = ["n_slots", attend.n_head_kv, "n_positions", attend.size]
        caches = [b.input(name, attend.cache_type, dims) for name in ("past.k", "past.v")]
        sink_name = "" if sinks is None else b.constant(sinks)
        outputs = ["all", "present.k", "present.v"]
        attend.add(b, (inputs[0], inputs[1], inputs[2]), (caches[0], caches[1]), sink_name, outputs=outputs)
        b.node("Where", b.constant(is_token[..., None]), "all", b.floats(0.0), outputs=["y"])
        b.output("y", dtype, ["n_slots", "n", sizes[0]])
        for name in outputs[1:]:
            b.output(name, attend.cache_type, dims)

    feeds: dict[str, Array] = dict(zip(("q", "k", "v"), rows, strict=True))
    total = past + n_new
    feeds["last_positions"] = np.where(n_new > 0, total - 1, 0).astype(np.int32)
    feeds |= {"query_lengths": n_new.astype(np.int32), "n_cached": np.array(total.max(), np.int32)}
    states = {
        (f"past.{x}", f"present.{x}"): pair for x, pair in zip("kv", zip(before, after, strict=True), strict=True)
    }
    return Probe(build, feeds, expected, states)


def attend_in_float64(attend: Attend, q: Array, keys: Array, values: Array, n_past: int, sinks: Array | None) -> Array:
    """Return the attention of the queries of a slot, ``(n, n_head · size)`` float64.

    Queries are ``(n, n_head, size)``, keys and values ``(n_head_kv, n_positions, size)``.
    """
    times, n = attend.n_head // attend.n_head_kv, len(q)
    keys, values = (np.repeat(part, times, 0).astype(np.float64) for part in (keys, values))
    scores = np.einsum("nhs,hps->hnp", q.astype(np.float64), keys) * attend.scale
    if attend.softcap is not None:
        scores = attend.softcap * np.tanh(scores / attend.softcap)
    distance = n_past + np.arange(n)[:, None] - np.arange(keys.shape[1])
    seen = (distance >= 0) & (distance < (attend.window or 2**31))
    weights = np.where(seen, np.exp(scores), 0)
    total = weights.sum(-1, keepdims=True) + (0 if sinks is None else np.exp(sinks.astype(np.float64))[:, None, None])
    sums: Array = np.einsum("hnp,hps->nhs", weights / total, values)
    return sums.reshape(n, attend.n_head * attend.size)
