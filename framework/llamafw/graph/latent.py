"""Multi-head latent attention (MLA, arXiv:2405.04434): keys and values come from one small row per token.

Independent of architectures, which compute the queries and the rotations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llamafw.graph.attention import Rotation
from llamafw.graph.builders import attention, cache, concat, flat, heads, linear, rms_norm, rope, split
from llamafw.graph.metadata import Metadata
from llamafw.graph.values import Value
from llamafw.graph.weights import Parameters


class LatentSizes(NamedTuple):
    """Sizes of the heads of latent attention."""

    n_head: int
    plain: int  # numbers of a key that are not rotated
    rotated: int  # numbers of a key that are rotated; all heads share them
    value: int
    latent: int  # numbers from which the plain part of all keys, and all values, are computed

    @property
    def key(self) -> int:
        """The size of one key."""
        return self.plain + self.rotated


def latent_sizes(m: Metadata) -> LatentSizes:
    """Return the sizes that a model's metadata describe.

    In newer files ``attention.key_length`` is the size of a whole latent row, and the sizes of heads have other names.
    """
    suffix = "_mla" if m.has("attention.key_length_mla") else ""
    key, value = m.integer(f"attention.key_length{suffix}"), m.integer(f"attention.value_length{suffix}")
    rotated = m.integer("rope.dimension_count")
    if rotated >= key or rotated % 2:
        m.fail("rope.dimension_count", f"is {rotated}; it must be even and less than the head size, {key}")
    return LatentSizes(
        m.integer("attention.head_count"), key - rotated, rotated, value, m.integer("attention.kv_lora_rank")
    )


def latent_attention(
    x: Value, q: Value, layer: Parameters, sizes: LatentSizes, turn: Rotation, scale: float, eps: float, **options: Any
) -> Value:
    """Return the outputs of all heads as one row, before ``attn_output``.

    A file has ``attn_kv_b``, which computes keys and values from a latent row, or its two halves: ``attn_k_b``, which
    computes queries for latent rows, and ``attn_v_b``, which computes outputs from them. With the halves, a slot keeps
    one latent row per token and its rotated part, which all heads use as key, and the latent row as value.

    Parameters
    ----------
    x : Value
        The input of the block, ``(n_embd,)``.
    q : Value
        The queries before rotation, ``(n_head, plain + rotated)``.
    layer : Parameters
        The layer's parameters: ``attn_kv_a_mqa``, ``attn_kv_a_norm``, and ``attn_kv_b`` or its halves.
    sizes : LatentSizes
        The sizes of the heads.
    turn : Rotation
        The rotary positions of the rotated parts.
    scale, eps : float
        The factor on scores, and the norm's epsilon.
    **options
        More options of `Attention`.
    """
    n_head, plain, rotated, value, latent = sizes
    q_plain, q_turned = split(q, plain, rotated)
    row, k_turned = split(linear(x, layer["attn_kv_a_mqa"]), latent, rotated)
    row = heads(rms_norm(row, layer["attn_kv_a_norm"], eps), 1)
    q_turned, k_turned = rope(q_turned, turn), rope(heads(k_turned, 1), turn)

    if "attn_kv_b" in layer:
        key_value = heads(linear(flat(row), layer["attn_kv_b"]), n_head, plain + value)
        k_plain, v = split(key_value, plain, value)
        past = cache(concat(k_plain, k_turned), v)
        return flat(attention(concat(q_plain, q_turned), past, scale, **options))

    q_latent = linear(q_plain, layer.of_shape("attn_k_b", n_head, latent, plain))
    past = cache(concat(row, k_turned), row)
    a = attention(concat(q_latent, q_turned), past, scale, **options)
    return flat(linear(a, layer.of_shape("attn_v_b", n_head, value, latent)))
