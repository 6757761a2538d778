"""The architecture ``nomic-bert-moe`` (arXiv:2502.07972), as ``nomic-ai/nomic-embed-text-v2-moe`` computes it."""

from __future__ import annotations

import numpy as np

from checkpoints import Checkpoint
from checkpoints.with_numpy.encoder import Array, Arrays, affine, attended, by_head, gelu, normed, rotated, softmax


def hidden(checkpoint: Checkpoint, tensors: Arrays, tokens: Array) -> Array:
    """Return the hidden states of all tokens of a text."""
    n_head, eps = checkpoint.key("attention.head_count"), checkpoint.key("attention.layer_norm_epsilon")
    x = tensors["token_embd.weight"][tokens] + tensors["token_types.weight"][0]
    x = normed(x, tensors, "token_embd_norm", eps)

    for i in range(checkpoint.key("block_count")):
        layer = {name.removeprefix(f"blk.{i}."): array for name, array in tensors.items()}
        q, k, v = (by_head(part, n_head) for part in np.split(affine(x, layer, "attn_qkv"), 3, -1))
        base = checkpoint.key("rope.freq_base")
        attention = affine(attended(rotated(q, base), rotated(k, base), v), layer, "attn_output")
        x = normed(x + attention, layer, "attn_output_norm", eps)

        is_plain = i % checkpoint.key("moe_every_n_layers") != 1
        ffn = affine(gelu(affine(x, layer, "ffn_up")), layer, "ffn_down") if is_plain else experts(checkpoint, layer, x)
        x = normed(x + ffn, layer, "layer_output_norm", eps)
    return x


def experts(checkpoint: Checkpoint, layer: Arrays, x: Array) -> Array:
    """Return the sum of each token's experts, weighted by their probabilities."""
    y = np.zeros_like(x)
    for row, out in zip(x, y, strict=True):
        probabilities = softmax(layer["ffn_gate_inp.weight"] @ row)
        for expert in np.argsort(-probabilities)[: checkpoint.key("expert_used_count")]:
            inner = gelu(layer["ffn_up_exps.weight"][expert] @ row)
            out += probabilities[expert] * (layer["ffn_down_exps.weight"][expert] @ inner)
    return y
