"""Lowers rotary positions to RotaryEmbedding, and has a tiny model that shows whether a provider has this node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llamafw import graph as g
from llamafw_backends.onnx.lowering import Lowering, lowers
from llamafw_backends.onnx.model_builder import Dimensions, ModelBuilder
from llamafw_backends.onnx.support import Probe, Support


@lowers(g.GroupedPositions)
def lower_grouped_positions(value: g.GroupedPositions, low: Lowering) -> str:
    """Refuse the model: cached keys would have to move."""
    raise low.context.refuse("onnx", value, "self-extend (--grp-attn-n) needs --backend numba")


@lowers(g.Rope)
def lower_rope(value: g.Rope, low: Lowering) -> str:
    """Lower a rotation; its cosines and sines are inputs of the model, computed in float64."""
    b, x, rotation = low.builder, low.of(value.x), value.rotation
    n_head, size = value.shape
    first, last = rotation.offset, rotation.offset + rotation.n_rotated
    if first == 0 and rotates(low.support, last, size, interleaved=rotation.interleaved):
        low.chosen[value] = "RotaryEmbedding"
        return _rotated(low, x, n_head, size, rotation)

    parts = _split(low, x, [first, last - first, size - last])
    if rotates(low.support, last - first, last - first, interleaved=rotation.interleaved):
        low.chosen[value] = "RotaryEmbedding of a part"
        parts[1] = _rotated(low, parts[1], n_head, last - first, rotation)
    else:
        low.chosen[value] = "standard operators, because the provider has no RotaryEmbedding for it"
        parts[1] = _rotated_pairs(low, parts[1], n_head, rotation)
    kept = [part for part in parts if part]
    return kept[0] if len(kept) == 1 else str(b.node("Concat", *kept, axis=-1))


def _rotated(low: Lowering, x: str, n_head: int, size: int, rotation: g.Rotation) -> str:
    """Return heads whose first numbers are rotated by RotaryEmbedding."""
    b, names = low.builder, angles(low, rotation)
    n_pairs = len(rotation.frequencies)
    cos, sin = low.once(("angles", names), lambda: [b.node("Reshape", name, b.ints(1, -1, n_pairs)) for name in names])
    rows = b.node("Reshape", low.reshape(x, n_head * size), b.ints(1, -1, n_head * size))
    y = add_rotation(b, rows, cos, sin, n_head, size, 2 * n_pairs, interleaved=rotation.interleaved)
    return low.reshape(y, n_head, size)


def _rotated_pairs(low: Lowering, x: str, n_head: int, rotation: g.Rotation) -> str:
    """Return heads that are rotated by products and sums."""
    b, n_pairs = low.builder, len(rotation.frequencies)
    cos, sin = angles(low, rotation)
    if rotation.interleaved:
        pairs = low.reshape(x, n_head, n_pairs, 2)
        even, odd = (low.reshape(part, n_head, n_pairs) for part in _split(low, pairs, [1, 1]))
    else:
        even, odd = _split(low, x, [n_pairs, n_pairs])
    new_even = b.node("Sub", b.node("Mul", even, cos), b.node("Mul", odd, sin))
    new_odd = b.node("Add", b.node("Mul", even, sin), b.node("Mul", odd, cos))
    if not rotation.interleaved:
        return str(b.node("Concat", new_even, new_odd, axis=-1))
    columns = [low.reshape(part, n_head, n_pairs, 1) for part in (new_even, new_odd)]
    return low.reshape(b.node("Concat", *columns, axis=-1), n_head, 2 * n_pairs)


def angles(low: Lowering, rotation: g.Rotation) -> tuple[str, str]:
    """Return the inputs of the model that have the cosines and sines of a rotation, ``(n_tokens, 1, n_pairs)``."""
    key = next((name for name, other in low.rotations.items() if _equal(other, rotation, low.n_ctx)), None)
    if key is None:
        key = f"rotation.{len(low.rotations)}"
        low.rotations[key] = rotation
    shape: Dimensions = ["n_tokens", 1, len(rotation.frequencies)]
    cos, sin = (low.builder.input(f"{key}.{part}", low.builder.float_type, shape) for part in ("cos", "sin"))
    return cos, sin


def _equal(a: g.Rotation, b: g.Rotation, n_ctx: int) -> bool:
    """Return whether two rotations have the same angles."""
    one, other = a.frequencies_for(n_ctx), b.frequencies_for(n_ctx)
    return a.magnitude == b.magnitude and np.array_equal(one, other)


def _split(low: Lowering, x: str, sizes: list[int]) -> list[str]:
    """Return the last axis divided into parts; "" for those without numbers."""
    if len([size for size in sizes if size]) == 1:
        return [x if size else "" for size in sizes]
    b, parts, start = low.builder, [], 0
    for size in sizes:
        end = start + size
        parts.append(b.node("Slice", x, b.ints(start), b.ints(end), b.ints(-1)) if size else "")
        start = end
    return parts


def add_rotation(
    b: ModelBuilder,
    x: str,
    cos: str,
    sin: str,
    n_head: int,
    size: int,
    n_rotated: int,
    *,
    interleaved: bool,
    outputs: Sequence[str] = (),
) -> str:
    """Add RotaryEmbedding for rows ``(1, n_tokens, n_head · size)``; cos and sin are ``(1, n_tokens, n_pairs)``."""
    return str(
        b.node(
            "RotaryEmbedding",
            x,
            cos,
            sin,
            outputs=outputs,
            num_heads=n_head,
            interleaved=int(interleaved),
            rotary_embedding_dim=n_rotated if n_rotated < size else None,
        )
    )


def rotates(support: Support, n_rotated: int, size: int, *, interleaved: bool) -> bool:
    """Return whether RotaryEmbedding rotates the first numbers of heads by given cosines and sines."""
    name = f"RotaryEmbedding of {n_rotated} of {size} numbers, interleaved: {interleaved}"
    return support.runs(name, lambda: _rotation(support.float_type, n_rotated, size, interleaved))


def _rotation(dtype: np.dtype[Any], n_rotated: int, size: int, interleaved: bool) -> Probe:
    rng = np.random.default_rng(0)
    n_head, n_tokens, n_pairs = 3, 5, n_rotated // 2
    x = rng.standard_normal((1, n_tokens, n_head * size)).astype(dtype)
    angles = rng.uniform(0, 6, (1, n_tokens, n_pairs))
    cos, sin = (1.3 * function(angles) for function in (np.cos, np.sin))

    def build(b: ModelBuilder) -> None:
        rows = b.input("x", dtype, [1, "n", n_head * size])
        cos_name, sin_name = (b.input(key, dtype, [1, "n", n_pairs]) for key in ("cos", "sin"))
        options: dict[str, Any] = {"interleaved": interleaved, "outputs": ["y"]}
        add_rotation(b, rows, cos_name, sin_name, n_head, size, n_rotated, **options)
        b.output("y", dtype, [1, "n", n_head * size])

    expected = x.reshape(n_tokens, n_head, size).astype(np.float64)
    odd = slice(1, n_rotated, 2) if interleaved else slice(n_pairs, n_rotated)
    even = slice(0, n_rotated, 2) if interleaved else slice(0, n_pairs)
    one, other = expected[..., even].copy(), expected[..., odd].copy()
    c, s = cos[0][:, None], sin[0][:, None]
    expected[..., even], expected[..., odd] = one * c - other * s, one * s + other * c
    feeds = {"x": x, "cos": cos.astype(dtype), "sin": sin.astype(dtype)}
    return Probe(build, feeds, expected.reshape(x.shape))
