"""The architecture ``baichuan`` (arXiv:2309.10305), as its published code computes it."""

from __future__ import annotations

from typing import Any

import numpy as np

from checkpoints import Checkpoint
from checkpoints.with_numpy.decoder import causal, layer_of, published, rms, silu
from checkpoints.with_numpy.encoder import Array, Arrays, by_head, rotated

SLOPES = {6: [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]}


def config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the config as published ones are: only models with rotated heads have ``max_position_embeddings``."""
    is_rotated = "baichuan.attention.max_alibi_bias" not in checkpoint.metadata
    length = "max_position_embeddings" if is_rotated else "model_max_length"
    return {
        "architectures": ["BaichuanForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": checkpoint.key("embedding_length"),
        "intermediate_size": checkpoint.key("feed_forward_length"),
        length: checkpoint.key("context_length"),
        "model_type": "baichuan",
        "num_attention_heads": checkpoint.key("attention.head_count"),
        "num_hidden_layers": checkpoint.key("block_count"),
        "rms_norm_eps": checkpoint.key("attention.layer_norm_rms_epsilon"),
        **({"rope_theta": checkpoint.key("rope.freq_base")} if is_rotated else {}),
        "tie_word_embeddings": False,
        "vocab_size": checkpoint.shapes["token_embd.weight"][0],
    }


def logits(checkpoint: Checkpoint, tensors: Arrays, tokens: Array) -> Array:
    """Return the logits of all tokens of a text."""
    values = config(checkpoint)
    state = published(checkpoint, values, tensors)
    n_head, eps = values["num_attention_heads"], values["rms_norm_eps"]
    distance = abs(np.arange(len(tokens))[:, None] - np.arange(len(tokens)))

    x = state["model.embed_tokens.weight"][tokens]
    for i in range(values["num_hidden_layers"]):
        layer = layer_of(state, f"model.layers.{i}.")
        h = rms(x, layer["input_layernorm.weight"], eps)
        q, k, v = (by_head(part, n_head) for part in np.split(h @ layer["self_attn.W_pack.weight"].T, 3, -1))
        bias: Array | float = 0.0
        if "rope_theta" in values:
            q, k = rotated(q, values["rope_theta"]), rotated(k, values["rope_theta"])
        else:
            bias = -np.array(SLOPES[n_head])[:, None, None] * distance
        x = x + causal(q, k, v, bias) @ layer["self_attn.o_proj.weight"].T

        h = rms(x, layer["post_attention_layernorm.weight"], eps)
        hidden = silu(h @ layer["mlp.gate_proj.weight"].T) * (h @ layer["mlp.up_proj.weight"].T)
        x = x + hidden @ layer["mlp.down_proj.weight"].T
    return rms(x, state["model.norm.weight"], eps) @ state["lm_head.weight"].T
