"""Lower the operators whose rows depend on other tokens: attention, convolution, linear attention, scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llamafw import ModelError
from llamafw import graph as g
from llamafw_backends.numba_cpu import convolution, linear_attention, selective_scan
from llamafw_backends.numba_cpu.attention import CacheLayout
from llamafw_backends.numba_cpu.convolution import pack_weight
from llamafw_backends.numba_cpu.emit import LANES
from llamafw_backends.numba_cpu.kernel_records import CHUNKED, SLIDING, SYMMETRIC
from llamafw_backends.numba_cpu.key_rotation import KeyRotation
from llamafw_backends.numba_cpu.row_lowering import parts, rotation, unary
from llamafw_backends.numba_cpu.selective_scan import pack_a
from llamafw_backends.numba_cpu.units import AttentionUnit, Buffer, Place, RecurrentUnit, RowUnit

if TYPE_CHECKING:
    from llamafw_backends.numba_cpu.lowering import Lowering

_WINDOW_KINDS = {"sliding": SLIDING, "chunked": CHUNKED, "symmetric": SYMMETRIC}


def lower_attention(low: Lowering, value: g.Attention) -> None:
    """Append attention, with the operators on heads before it."""
    past, whole_text = value.past, isinstance(value.past, g.KeyValue)
    latent = not whole_text and isinstance(past.k, g.Concat) and past.k.parts[0] is past.v
    window = None if whole_text else _window(low, past)
    layout = CacheLayout(past.k.shape[0], past.k.shape[1], past.v.shape[1], latent, window, whole_text)
    for size in (layout.key_size, layout.value_size):
        if size % LANES:
            raise low.refuse(value, f"its head size, {size}, is not a multiple of {LANES}")
    if value.window_kind == "symmetric" and value.window is not None and not whole_text:
        raise low.refuse(value, "its window is symmetric, but later tokens are not in the cache")

    stores = past not in low.cache_numbers
    if stores:
        low.cache_numbers[past] = _cache_number(low, past, layout)
    number = low.cache_numbers[past]
    q, q_ops = _heads(low, value.q)
    (key, k_ops), (v, v_ops) = (_heads(low, part) if stores else (q, []) for part in (past.k, past.v))

    fields: dict[str, Any] = {
        "window": value.window or 0,
        "window_kind": _WINDOW_KINDS[value.window_kind],
        "whole_text": int(whole_text),
        "scale": value.scale,
        "softcap": value.softcap or 0.0,
    }
    if value.temperature is not None:
        fields["temperature"], fields["temperature_length"] = value.temperature
        fields["temperature_offset"] = value.temperature_offset
    if value.sinks is not None:
        fields["sinks"] = low.weights.vector(value.sinks)
    if value.alibi:
        fields["alibi"] = low.weights.numbers(value.alibi)
    if value.position_bias is not None:
        fields["position_bias"] = low.weights.vector(value.position_bias, change=g.bias_by_distance)
    low.units.append(
        AttentionUnit(
            q,
            key,
            v,
            low.new(value),
            q_ops,
            k_ops,
            v_ops,
            value.q.shape[0],
            layout,
            number,
            low.cache_buffers[number],
            stores,
            fields,
            stage=0,
        )
    )


def _cache_number(low: Lowering, past: g.Cache | g.KeyValue, layout: CacheLayout) -> int:
    """Return the number of the cache for keys and values that are stored now.

    Those of a whole text are needed only until attention has read them; then those of another layer take their place.
    """
    if layout.whole_text and low.fusion.n_readers(past) == 1:
        for number, (other, kept) in enumerate(low.caches):
            if kept == layout and low.fusion.n_readers(other) == 1:
                return number
    low.caches.append((past, layout))
    low.cache_buffers.append(Buffer(0))
    return len(low.caches) - 1


def _window(low: Lowering, past: g.Cache | g.KeyValue) -> int | None:
    """Return the largest window through which a cache is read; None if all positions are read."""
    readers = [value for value in low.fusion.order if isinstance(value, g.Attention) and value.past is past]
    windows = [value.window for value in readers if value.window is not None]
    return max(windows) if len(windows) == len(readers) else None


def _heads(low: Lowering, value: g.Value) -> tuple[Place, Sequence[RowUnit]]:
    """Return where the heads of Q, K or V are, and the operators that are still to be applied to each."""
    ops, base = low.fusion.chains[value]
    units = []
    for op in ops:
        order = low.fusion.order_of(base)
        if isinstance(op, g.Rope):
            kernel, fields = rotation(low, op, op.rotation.interleaved and not order)
            fields = parts(op.shape[1], 1) | fields | {"offset": 4 * op.rotation.offset}
        else:
            kernel, fields = unary(low, op, order)
            fields = fields | {"n_parts": 1, "size": op.shape[1]}
        units.append(RowUnit(kernel, None, None, None, fields, stage=0))
    return low.place(base), units


def key_rotations(low: Lowering) -> list[KeyRotation | None] | None:
    """Return how the keys of each cache are rotated; None if they cannot be moved to other positions."""
    try:
        return [_key_rotation(low, cache) for cache, _ in low.caches]
    except ModelError:
        return None


def _key_rotation(low: Lowering, cache: g.Cache | g.KeyValue) -> KeyRotation | None:
    """Return how the keys of a cache are rotated; None if they are not.

    Raises
    ------
    ModelError
        The rotation of cached keys cannot be changed.
    """
    rope, start = g.key_rope(cache.k)
    if rope is None:
        return None
    first, second = rope.rotation.pairs()
    if rope.rotation.interleaved and low.fusion.order_of(low.fusion.chains[cache.k][1]):
        n = len(rope.rotation.frequencies)  # rows are reordered, so pairs are those of halves
        first, second = slice(0, n), slice(n, 2 * n)
    places = (slice(start + one.start, start + one.stop, one.step) for one in (first, second))
    return KeyRotation(low.rotations.frequencies(rope.rotation), *places)


def lower_recurrent(low: Lowering, value: g.Conv | g.LinearAttention | g.SelectiveScan) -> None:
    """Append an operator that reads the tokens of a slot in order."""
    w = low.weights
    match value:
        case g.Conv():
            n_channels, n = value.weight.shape
            silu, bias = value in low.fusion.silu_of, value.bias is not None
            if n_channels % LANES:
                raise low.refuse(value, f"its number of channels, {n_channels}, is not a multiple of {LANES}")
            fields = {"n_channels": n_channels, "weight": w.vector(value.weight, change=pack_weight)}
            if value.bias is not None:
                fields["bias"] = w.vector(value.bias)
            inputs = {"x": low.place(value.x)}
            result = low.fusion.silu_of.get(value, value)
            unit = RecurrentUnit(
                lambda compiler: convolution.build(compiler, n, bias=bias, silu=silu),
                convolution.CONVOLUTION,
                inputs,
                low.new(result),
                fields,
                convolution.state_bytes(n_channels, n),
                convolution.scratch_bytes(n_channels, n),
                stage=0,
            )
        case g.LinearAttention():
            unit = _linear_attention(low, value)
        case g.SelectiveScan():
            n_channels, n_state = value.a.shape
            if n_channels % LANES:
                raise low.refuse(value, f"its number of channels, {n_channels}, is not a multiple of {LANES}")
            fields = {"a": w.vector(value.a, change=pack_a), "d": w.vector(value.d)}
            fields |= {"n_channels": n_channels, "n_state": n_state}
            inputs = {name: low.place(getattr(value, name)) for name in ("x", "delta", "b", "c")}
            unit = RecurrentUnit(
                selective_scan.build,
                selective_scan.SELECTIVE_SCAN,
                inputs,
                low.new(value),
                fields,
                selective_scan.state_bytes(n_channels, n_state),
                0,
                stage=0,
            )
    unit.state, low.state_bytes = low.state_bytes, low.state_bytes + unit.state_bytes
    low.units.append(unit)


def _linear_attention(low: Lowering, value: g.LinearAttention) -> RecurrentUnit:
    """Return the unit of linear attention."""
    n_head, key_size = value.k.shape
    value_size, by_channel = value.v.shape[1], value.gate.shape == value.k.shape
    for size in (key_size, value_size):
        if size % LANES:
            raise low.refuse(value, f"its head size, {size}, is not a multiple of {LANES}")
    q, k, tiled = value.q, value.k, False
    if isinstance(q, g.Repeat) and isinstance(k, g.Repeat) and q in low.fusion.claimed:  # then k is, too
        tiled = q.tiled
        q, k = q.x, k.x

    inputs = {"q": low.place(q), "k": low.place(k)}
    inputs |= {"v": low.place(value.v), "gate": low.place(value.gate)}
    if value.beta is not None:
        inputs["beta"] = low.place(value.beta)
    rule = value.rule
    return RecurrentUnit(
        lambda compiler: linear_attention.build(compiler, rule, key_size, value_size, by_channel=by_channel),
        linear_attention.LINEAR_ATTENTION,
        inputs,
        low.new(value),
        {"n_head": n_head, "n_key_heads": k.shape[0], "tiled": int(tiled), "scale": value.scale},
        linear_attention.state_bytes(n_head, key_size, value_size, by_channel=by_channel),
        linear_attention.scratch_bytes(key_size, value_size),
        stage=0,
    )
