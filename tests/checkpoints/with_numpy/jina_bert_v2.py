"""The architecture ``jina-bert-v2`` (arXiv:2310.19923), as its published code computes it."""

from __future__ import annotations

import numpy as np

from checkpoints import Checkpoint
from checkpoints.with_numpy.encoder import Array, Arrays, affine, attended, by_head, gelu, normed


def hidden(checkpoint: Checkpoint, tensors: Arrays, tokens: Array) -> Array:
    """Return the hidden states of all tokens of a text."""
    n_head, eps = checkpoint.key("attention.head_count"), checkpoint.key("attention.layer_norm_epsilon")
    x = tensors["token_embd.weight"][tokens] + tensors["token_types.weight"][0]
    x = normed(x, tensors, "token_embd_norm", eps)

    positions, slopes = np.arange(len(tokens)), {4: [1 / 4, 1 / 16, 1 / 64, 1 / 256]}[n_head]
    bias = -np.array(slopes)[:, None, None] * abs(positions[:, None] - positions)
    for i in range(checkpoint.key("block_count")):
        layer = {name.removeprefix(f"blk.{i}."): array for name, array in tensors.items()}
        q, k, v = (affine(x, layer, f"attn_{name}") for name in "qkv")
        is_code = "attn_norm_2.weight" in layer
        if is_code:
            q, k = normed(q, layer, "attn_q_norm", eps), normed(k, layer, "attn_k_norm", eps)
        q, k, v = (by_head(part, n_head) for part in (q, k, v))
        attention = affine(attended(q, k, v, bias), layer, "attn_output")
        y = normed(x + attention, layer, "attn_output_norm", eps)
        if is_code:
            y = normed(x + y, layer, "attn_norm_2", eps)
        x = normed(y + ffn(checkpoint, layer, y), layer, "layer_output_norm", eps)
    return x


def ffn(checkpoint: Checkpoint, layer: Arrays, x: Array) -> Array:
    """Return the feed-forward block, with a gate or without one."""
    up = affine(x, layer, "ffn_up")
    if "ffn_gate.weight" in layer:
        up = gelu(affine(x, layer, "ffn_gate")) * up
    elif up.shape[-1] == checkpoint.key("feed_forward_length"):
        up = gelu(up)
    else:
        gate, up = np.split(up, 2, -1)
        up = gelu(gate) * up
    return affine(up, layer, "ffn_down")
