"""Lowers the KV cache and attention.

Rows of all tokens are packed. Attention needs them by slot: ``padded`` are the indices of the rows of each slot with
tokens, ``(n_active, n_steps)``, and ``unpadded`` those of the rows of the result. `paged_attention` and
`grouped_queries` have the nodes that attention over a cache becomes where it can; here are the standard operators for
everything else.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llamafw import graph as g
from llamafw_backends.onnx.block_table import BLOCK
from llamafw_backends.onnx.grouped_queries import Attend, find_attend, runs_in_place
from llamafw_backends.onnx.lowering import Lowering, StateTensor, lowers
from llamafw_backends.onnx.paged_attention import add_paged, runs_paged

LOWEST = {np.dtype(np.float32): -1e30, np.dtype(np.float16): -60000.0}
"""A score that softmax makes 0, by type; infinities would become NaN if all scores of a row had them."""


@lowers(g.Cache)
def lower_cache(value: g.Cache, low: Lowering) -> str:
    """Lower a cache: two tensors ``(n_slots, n_head, n_positions, size)``, to which the new rows are written.

    If the operator that reads it becomes a node that writes them itself, nothing is left to do here. Otherwise the name
    that it returns is that of the keys; `_keys_and_values` finds the values.
    """
    attend = _find_node(value, low)
    types = low.cache_types if isinstance(attend, str) else [attend.cache_type] * 2
    is_paged = not isinstance(attend, str) and attend.is_paged
    tensors = [
        StateTensor(f"{len(low.states) + i}.{kind}", part.shape, dtype, True, value, turn, is_paged)
        for i, (part, kind, dtype, turn) in enumerate(
            ((value.k, "key", types[0], rotation_of(value.k)), (value.v, "value", types[1], None))
        )
    ]
    low.memo[value] = [(tensor, low.state(tensor, _cache_shape(tensor))) for tensor in tensors]
    if not isinstance(attend, str):
        low.memo["node", value] = attend
        low.chosen[value] = f"part of its attention, as {attend.cache_type}"
        return low.of(value.k)

    low.chosen[value] = "ScatterND, because " + attend
    pairs = zip((value.k, value.v), low.memo[value], strict=True)
    low.memo[value] = names = [_extend(low, rows, *state) for rows, state in pairs]
    return names[0]


def _find_node(value: g.Cache, low: Lowering) -> Attend | str:
    """Return the node that reads and writes a cache, or why there is none."""
    readers = low.readers[value]
    attention = readers[0]
    if not isinstance(attention, g.Attention):
        return f"{type(attention).__name__} reads it"
    is_float32 = low.builder.float_type == np.float32  # then kernels convert a whole cache of another type in each step
    types = (low.builder.float_type, low.builder.float_type) if is_float32 else low.cache_types
    attend = find_attend(attention, types, len(readers))
    if isinstance(attend, str):
        return attend
    if runs_paged(low.support, attend):
        return replace(attend, is_paged=True)
    if runs_in_place(low.support, attend):
        return attend
    return "the provider has no PagedAttention or GroupQueryAttention for it"


def _cache_shape(tensor: StateTensor) -> tuple[int | str, ...]:
    """Return the shape of a cache of all slots."""
    n_head, size = tensor.shape
    if tensor.is_paged:
        return (f"{tensor.name}.n_blocks", BLOCK, n_head, size)
    return ("n_slots", n_head, f"{tensor.name}.n_positions", size)


def _extend(low: Lowering, rows: g.Value, tensor: StateTensor, past: str) -> str:
    """Write rows ``(n_tokens, n_head, size)`` to a state; return the name of the new state."""
    b, n_head = low.builder, rows.shape[0]
    new = low.of(rows)
    if tensor.dtype != b.float_type:
        new = b.node("Cast", new, to=_cast(tensor.dtype))
    return str(b.node("ScatterND", past, _places(low, n_head), new, outputs=[tensor.present]))


def _places(low: Lowering, n_head: int) -> str:
    """Return the indices of new rows in a cache: slot, head and position, ``(n_tokens, n_head, 3)``."""

    def make() -> str:
        b = low.builder
        slots, positions = (b.input(name, np.int64, ["n_tokens"]) for name in ("slots", "positions"))
        heads = b.constant(np.arange(n_head).reshape(1, n_head, 1), np.int64)
        zero = b.node("Mul", heads, b.ints(0))
        parts = [b.node("Add", b.node("Reshape", one, b.ints(-1, 1, 1)), zero) for one in (slots, positions)]
        column = b.node("Add", heads, b.node("Mul", parts[0], b.ints(0)))
        return str(b.node("Concat", parts[0], column, parts[1], axis=-1))

    return str(low.once(("places", n_head), make))


def rotation_of(value: g.Value) -> g.Rotation | None:
    """Return the rotation of keys, which may have parts that are not rotated; None if they have no positions."""
    todo: list[g.Value] = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, g.Rope):
            return one.rotation
        if isinstance(one, g.Reshape | g.Concat | g.Repeat | g.Slice | g.Scale):
            todo += one.inputs()
    return None


@lowers(g.KeyValue)
def lower_key_value(value: g.KeyValue, low: Lowering) -> str:
    """Return the rows of the keys; those of the values are found by the operator."""
    low.memo[value] = low.of(value.k), low.of(value.v)
    return low.of(value.k)


@lowers(g.Attention)
def lower_attention(value: g.Attention, low: Lowering) -> str:
    """Lower attention to a node that also writes the caches, if there is one for it, or to standard operators."""
    attend = low.memo.get(("node", value.past))
    if attend is not None:
        low.chosen[value] = "PagedAttention" if attend.is_paged else "GroupQueryAttention"
        return (_add_paged_node if attend.is_paged else _add_node)(value, attend, low)
    low.chosen[value] = "standard operators"
    return _lower_attention(value, low)


def _add_paged_node(value: g.Attention, attend: Attend, low: Lowering) -> str:
    """Add PagedAttention, which also writes the new keys and values to the caches."""
    b, past = low.builder, value.past
    q, k, v = (low.reshape(low.of(one), g.size_of(one)) for one in (value.q, past.k, past.v))
    if value.temperature is not None:
        factors = _factors(low, value.temperature, value.temperature_offset)
        q = b.node("Mul", q, b.node("Reshape", factors, b.ints(-1, 1)))
    (keys, past_keys), (values, past_values) = low.memo[past]
    outputs = [f"{b.scope}/attn/PagedAttention/{keys.name}", keys.present, values.present]
    y = add_paged(b, attend, (q, k, v), (past_keys, past_values), _sinks(value, low), outputs=outputs)
    return low.reshape(low.rows(y, attend.n_head * attend.size), attend.n_head, attend.size)


def _sinks(value: g.Attention, low: Lowering) -> str:
    """Return the extra scores of attention, ``(n_head,)``; "" if there are none."""
    return "" if value.sinks is None else low.small_weight(value.sinks)


def _add_node(value: g.Attention, attend: Attend, low: Lowering) -> str:
    """Add GroupQueryAttention, which also writes the new keys and values to the caches."""
    b, past = low.builder, value.past
    by_slot = b.input("slot_rows", np.int64, ["n_slots", "n_steps"])
    rows = [
        b.node("Gather", low.reshape(low.of(one), g.size_of(one)), by_slot, axis=0) for one in (value.q, past.k, past.v)
    ]
    if value.temperature is not None:
        factors = b.node("Gather", _factors(low, value.temperature, value.temperature_offset), by_slot, axis=0)
        rows[0] = b.node("Mul", rows[0], b.node("Reshape", factors, b.ints(0, 0, 1)))
    (keys, past_keys), (values, past_values) = low.memo[past]
    outputs = [f"{b.scope}/attn/GroupQueryAttention/{keys.name}", keys.present, values.present]
    y = attend.add(b, (rows[0], rows[1], rows[2]), (past_keys, past_values), _sinks(value, low), outputs=outputs)
    flat = b.node("Reshape", y, b.ints(-1, attend.n_head * attend.size))
    y = b.node("Gather", flat, b.input("slot_unpadded", np.int64, ["n_tokens"]), axis=0)
    return low.reshape(low.rows(y, attend.n_head * attend.size), attend.n_head, attend.size)


def _lower_attention(value: g.Attention, low: Lowering) -> str:
    """Lower attention to products, a mask and Softmax."""
    b, (n_head, size) = low.builder, value.q.shape
    n_head_kv, v_size = value.past.v.shape
    n_group = n_head // n_head_kv
    keys, values = _keys_and_values(value, low)

    q = _by_slot(low, _scaled_query(value, low), n_head, size)  # (n_active, n_head, n_steps, size)
    q = b.node("Reshape", q, b.ints(0, n_head_kv, -1, size))
    scores = b.node("MatMul", q, b.node("Transpose", keys, perm=[0, 1, 3, 2]))
    scores = b.node("Reshape", scores, _score_shape(low, n_head_kv, n_group, cached=isinstance(value.past, g.Cache)))
    if value.softcap is not None:
        cap = b.floats(value.softcap)
        scores = b.node("Mul", b.node("Tanh", b.node("Div", scores, cap)), cap)
    if value.alibi:
        slopes = b.floats(np.array(value.alibi).reshape(1, n_head_kv, n_group, 1, 1))
        far = b.node("Cast", b.node("Abs", _distances(low, value)), to=_cast(b.float_type))
        scores = b.node("Sub", scores, b.node("Mul", far, slopes))
    if value.position_bias is not None:
        scores = b.node("Add", scores, _position_bias(low, value, value.position_bias))
    scores = b.node("Where", _visible(low, value), scores, b.floats(LOWEST[b.float_type]))

    weights = _softmax(low, value, scores, n_head_kv, n_group)
    weights = b.node("Reshape", weights, _flat_score_shape(low, n_head_kv, cached=isinstance(value.past, g.Cache)))
    sums = b.node("Reshape", b.node("MatMul", weights, values), b.ints(0, n_head, -1, v_size))
    rows = b.node("Reshape", b.node("Transpose", sums, perm=[0, 2, 1, 3]), b.ints(-1, n_head, v_size))
    return str(b.node("Gather", rows, b.input("unpadded", np.int64, ["n_tokens"]), axis=0))


def _scaled_query(value: g.Attention, low: Lowering) -> str:
    """Return the queries times the scale, and times the factor of their positions if there is a temperature."""
    b = low.builder
    q = b.node("Mul", low.of(value.q), b.floats(value.scale))
    if value.temperature is None:
        return str(q)
    factors = _factors(low, value.temperature, value.temperature_offset)
    return str(b.node("Mul", q, b.node("Reshape", factors, b.ints(-1, 1, 1))))


def _factors(low: Lowering, temperature: tuple[float, int], offset: int) -> str:
    """Return the factors of the queries at their positions, ``(n_tokens,)``."""
    b, (factor, length) = low.builder, temperature

    def make() -> str:
        positions = b.node("Add", b.input("positions", np.int64, ["n_tokens"]), b.ints(offset))
        steps = b.node("Div", positions, b.ints(length))
        logs = b.node("Log", b.node("Cast", b.node("Add", steps, b.ints(1)), to=1))
        factors = b.node("Add", b.node("Mul", logs, b.constant(factor, np.float32)), b.constant(1, np.float32))
        return str(b.node("Cast", factors, to=_cast(b.float_type)))

    return str(low.once(("factors", temperature, offset), make))


def _by_slot(low: Lowering, rows: str, n_head: int, size: int) -> str:
    """Return packed rows by slot and head, ``(n_active, n_head, n_steps, size)``."""
    b = low.builder
    padded = b.node("Gather", rows, b.input("padded", np.int64, ["n_active", "n_steps"]), axis=0)
    return str(b.node("Transpose", padded, perm=[0, 2, 1, 3]))


def _keys_and_values(value: g.Attention, low: Lowering) -> tuple[str, str]:
    """Return the keys and values of the slots with tokens, ``(n_active, n_head_kv, n_keys, size)``."""

    def make() -> tuple[str, str]:
        b, past = low.builder, value.past
        both = low.memo[past]
        if isinstance(past, g.KeyValue):
            parts = zip(both, (past.k, past.v), strict=True)
            keys, values = (_by_slot(low, rows, *part.shape) for rows, part in parts)
            return keys, values
        end, active = b.input("n_keys", np.int64, [1]), b.input("active", np.int64, ["n_active"])
        found = []
        for name in both:
            part = b.node("Slice", name, b.ints(0), end, b.ints(2))
            part = b.node("Gather", part, active, axis=0)
            found.append(b.node("Cast", part, to=_cast(b.float_type)))
        return found[0], found[1]

    keys, values = low.once(("keys and values", value.past), make)
    return keys, values


def _score_shape(low: Lowering, n_head_kv: int, n_group: int, *, cached: bool) -> str:
    """Return the shape of scores with all axes: ``(n_active, n_head_kv, n_group, n_steps, n_keys)``."""
    b = low.builder
    return str(b.node("Concat", b.ints(0, n_head_kv, n_group), _n_steps(low), _n_keys(low, cached), axis=0))


def _flat_score_shape(low: Lowering, n_head_kv: int, *, cached: bool) -> str:
    """Return the shape of scores for products with values: ``(n_active, n_head_kv, n_group · n_steps, n_keys)``."""
    b = low.builder
    return str(b.node("Concat", b.ints(0, n_head_kv, -1), _n_keys(low, cached), axis=0))


def _n_steps(low: Lowering) -> str:
    b = low.builder
    return str(
        low.once(
            "n_steps",
            lambda: b.node("Shape", b.input("padded", np.int64, ["n_active", "n_steps"]), start=1, end=2),
        )
    )


def _n_keys(low: Lowering, cached: bool) -> str:
    return low.builder.input("n_keys", np.int64, [1]) if cached else _n_steps(low)


def _distances(low: Lowering, value: g.Attention) -> str:
    """Return position of the query − position of the key, ``(n_active, 1, 1, n_steps, n_keys)`` int64."""
    cached = isinstance(value.past, g.Cache)

    def make() -> str:
        b = low.builder
        queries = b.node("Reshape", _query_positions(low), b.node("Concat", b.ints(0, 1, 1, -1, 1), axis=0))
        return str(b.node("Sub", queries, _key_positions(low, cached)))

    return str(low.once(("distances", cached), make))


def _position_bias(low: Lowering, value: g.Attention, table: g.Weight) -> str:
    """Return what is added to scores, ``(n_active, n_head_kv, n_group, n_steps, n_keys)``."""
    cached, n_head_kv = isinstance(value.past, g.Cache), value.past.k.shape[0]
    n_group = table.shape[1] // n_head_kv

    def make() -> str:
        b = low.builder
        biases = g.bias_by_distance(low.tensors.floats(table))[:, ::-1].astype(b.float_type)
        low_end, high_end = (b.constant(end, np.int64) for end in (-g.MAX_DISTANCE, g.MAX_DISTANCE))
        far = b.node("Clip", _distances(low, value), low_end, high_end)
        place = b.node("Add", far, b.ints(g.MAX_DISTANCE))
        found = b.node("Gather", b.weight(f"{table.name} by distance", biases), place, axis=1)
        found = b.node("Transpose", found, perm=[1, 0, 2, 3, 4, 5])
        return str(b.node("Reshape", found, _score_shape(low, n_head_kv, n_group, cached=cached)))

    return str(low.once(("position bias", table, cached, n_head_kv), make))


def _query_positions(low: Lowering) -> str:
    b = low.builder

    def make() -> str:
        positions = b.input("positions", np.int64, ["n_tokens"])
        return str(b.node("Gather", positions, b.input("padded", np.int64, ["n_active", "n_steps"]), axis=0))

    return str(low.once("query positions", make))


def _key_positions(low: Lowering, cached: bool) -> str:
    """Return the positions of keys: all of a cache, or those of the rows of each slot."""
    b = low.builder

    def make() -> str:
        if not cached:
            return str(b.node("Reshape", _query_positions(low), b.ints(0, 1, 1, 1, -1)))
        end = b.node("Squeeze", b.input("n_keys", np.int64, [1]), b.ints(0))
        numbers = b.node("Range", b.constant(0, np.int64), end, b.constant(1, np.int64))
        return str(b.node("Reshape", numbers, b.ints(1, 1, 1, 1, -1)))

    return str(low.once(("key positions", cached), make))


def _visible(low: Lowering, value: g.Attention) -> str:
    """Return which keys each query sees, ``(n_active, 1, 1, n_steps, n_keys)`` bool."""
    cached = isinstance(value.past, g.Cache)

    def make() -> str:
        b, far = low.builder, _distances(low, value)
        seen = [b.node("GreaterOrEqual", far, b.ints(0)) if cached else _real_keys(low)]
        if value.window is not None and value.window_kind == "sliding":
            seen.append(b.node("Less", far, b.ints(value.window)))
        elif value.window is not None and value.window_kind == "chunked":
            queries = b.node("Reshape", _query_positions(low), b.ints(0, 1, 1, -1, 1))
            chunks = [b.node("Div", part, b.ints(value.window)) for part in (queries, _key_positions(low, cached))]
            seen.append(b.node("Equal", *chunks))
        elif value.window is not None:
            seen.append(b.node("LessOrEqual", b.node("Abs", far), b.ints(value.window // 2)))
        return seen[0] if len(seen) == 1 else str(b.node("And", *seen))

    return str(low.once(("visible", cached, value.window, value.window_kind), make))


def _real_keys(low: Lowering) -> str:
    """Return which rows of each slot are tokens and not padding, ``(n_active, 1, 1, 1, n_steps)`` bool."""
    b = low.builder

    def make() -> str:
        lengths = b.node("Reshape", b.input("lengths", np.int64, ["n_active"]), b.ints(-1, 1, 1, 1, 1))
        end = b.node("Squeeze", _n_steps(low), b.ints(0))
        steps = b.node("Range", b.constant(0, np.int64), end, b.constant(1, np.int64))
        return str(b.node("Less", b.node("Reshape", steps, b.ints(1, 1, 1, 1, -1)), lengths))

    return str(low.once("real keys", make))


def _softmax(low: Lowering, value: g.Attention, scores: str, n_head_kv: int, n_group: int) -> str:
    """Return the weights of the values; a sink takes part in the sum and has no value."""
    b = low.builder
    if value.sinks is None:
        return str(b.node("Softmax", scores, axis=-1))
    sinks = b.node("Reshape", low.small_weight(value.sinks), b.ints(1, n_head_kv, n_group, 1, 1))
    highest = b.node("Max", b.node("ReduceMax", scores, b.ints(-1), keepdims=1), sinks)
    weights = b.node("Exp", b.node("Sub", scores, highest))
    total = b.node("ReduceSum", weights, b.ints(-1), keepdims=1)
    return str(b.node("Div", weights, b.node("Add", total, b.node("Exp", b.node("Sub", sinks, highest)))))


def _cast(dtype: np.dtype[np.generic]) -> int:
    return 1 if dtype == np.float32 else 10  # FLOAT, FLOAT16
