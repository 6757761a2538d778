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
from llamafw_backends.numba_cpu.fusion import MIXING, strip
from llamafw_backends.numba_cpu.key_rotation import KeyRotation
from llamafw_backends.numba_cpu.row_lowering import parts, rotation, unary
from llamafw_backends.numba_cpu.selective_scan import pack_a
from llamafw_backends.numba_cpu.units import AttentionUnit, Buffer, Place, RecurrentUnit, RowUnit

if TYPE_CHECKING:
    from llamafw_backends.numba_cpu.lowering import Lowering


def lower_attention(low: Lowering, value: g.Attention) -> None:
    """Append attention, with the operators on heads before it."""
    past = value.past
    assert isinstance(past, g.Cache)  # the only case that is lowered
    latent = isinstance(past.k, g.Concat) and past.k.parts[0] is past.v
    layout = CacheLayout(past.k.shape[0], past.k.shape[1], past.v.shape[1], latent, _window(low, past))
    for size in (layout.key_size, layout.value_size):
        if size % LANES:
            raise low.refuse(value, f"its head size, {size}, is not a multiple of {LANES}")
    if value.window_kind == "symmetric" and value.window is not None:
        raise low.refuse(value, "its window is symmetric, but later tokens are not in the cache")

    stores = past not in low.cache_buffers
    if stores:
        low.cache_buffers[past] = Buffer(0)
        low.caches.append((past, layout))
    number = next(i for i, (cache, _) in enumerate(low.caches) if cache is past)
    q, q_ops = _heads(low, value.q)
    (key, k_ops), (v, v_ops) = (_heads(low, part) if stores else (q, []) for part in (past.k, past.v))

    fields: dict[str, Any] = {
        "window": value.window or 0,
        "chunked": int(value.window_kind == "chunked"),
        "scale": value.scale,
        "softcap": value.softcap or 0.0,
    }
    if value.temperature is not None:
        fields["temperature"], fields["temperature_length"] = value.temperature
    if value.sinks is not None:
        fields["sinks"] = low.weights.vector(value.sinks)
    if value.alibi:
        fields["alibi"] = low.weights.numbers(value.alibi)
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
            low.cache_buffers[past],
            stores,
            fields,
            stage=0,
        )
    )


def _window(low: Lowering, past: g.Cache) -> int | None:
    """Return the largest window through which a cache is read; None if all positions are read."""
    readers = [value for value in low.fusion.order if isinstance(value, g.Attention) and value.past is past]
    windows = [value.window for value in readers if value.window is not None]
    return max(windows) if len(windows) == len(readers) else None


def _heads(low: Lowering, value: g.Value) -> tuple[Place, Sequence[RowUnit]]:
    """Return where the heads of Q, K or V are, and the operators that are still to be applied to each."""
    ops, base = low.fusion.chains[value]
    units = []
    for op in ops:
        source = strip(base)
        order = low.fusion.row_orders.get(source, ()) if isinstance(source, g.Linear) else ()
        if isinstance(op, g.Rope):
            kernel, fields = rotation(low, op.rotation, op.rotation.interleaved and not order)
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


def _key_rotation(low: Lowering, cache: g.Cache) -> KeyRotation | None:
    """Return how the keys of a cache are rotated; None if they are not.

    Raises
    ------
    ModelError
        The rotation of cached keys cannot be changed.
    """
    value, offset = cache.k, 0
    if isinstance(value, g.Concat):
        turned = [part for part in value.parts if isinstance(part, g.Rope)]
        if turned:
            offset = sum(part.shape[-1] for part in value.parts[: value.parts.index(turned[0])])
            value = turned[0]
    if not isinstance(value, g.Rope):
        if _contains_rotation(cache.k):
            raise ModelError("the keys of this model cannot be moved to other positions")
        return None

    turn, n = value.rotation, value.rotation.n_rotated
    frequencies = low.rotations.frequencies(turn)
    source = strip(low.fusion.chains[cache.k][1])
    start = offset + turn.offset
    if turn.interleaved and not (isinstance(source, g.Linear) and source in low.fusion.row_orders):
        return KeyRotation(frequencies, slice(start, start + n, 2), slice(start + 1, start + n, 2))
    return KeyRotation(frequencies, slice(start, start + n // 2), slice(start + n // 2, start + n))


def _contains_rotation(keys: g.Value) -> bool:
    """Return whether a rotation is between keys and the products that they are made of."""
    todo = [keys]
    for value in todo:
        if isinstance(value, g.Rope):
            return True
        if not isinstance(value, (g.Linear, g.EmbeddingLookup, *MIXING)):
            todo += value.inputs()
    return False


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
