"""The architecture ``plamo2``, as the published code of PLaMo 2 computes it.

The windows of its attention have as many tokens as its cache keeps of a text.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from checkpoints import Checkpoint
from checkpoints.with_numpy.decoder import causal, layer_of, published, rms, silu
from checkpoints.with_numpy.encoder import Array, Arrays, by_head, rotated

HEAD_EPS = 1e-6


def config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the config as published ones are."""
    n_layer, windowed = checkpoint.key("block_count"), "plamo2.attention.sliding_window" in checkpoint.metadata
    pattern = checkpoint.key("attention.sliding_window_pattern") if windowed else [False] * n_layer
    return {
        "architectures": ["Plamo2ForCausalLM"],
        "attention_window_size": checkpoint.key("attention.sliding_window") if windowed else 2048,
        "full_attention_idx": [i for i, one in enumerate(pattern) if i % 2 and not one],
        "hidden_size": checkpoint.key("embedding_length"),
        "hidden_size_per_head": checkpoint.key("attention.key_length"),
        "intermediate_size": checkpoint.key("feed_forward_length"),
        "mamba_d_conv": checkpoint.key("ssm.conv_kernel"),
        "mamba_d_state": checkpoint.key("ssm.state_size"),
        "mamba_enabled": True,
        "mamba_num_heads": checkpoint.key("ssm.time_step_rank"),
        "mamba_step": 2,
        "max_position_embeddings": checkpoint.key("context_length"),
        "model_type": "plamo2",
        "num_attention_heads": int(np.max(checkpoint.key("attention.head_count"))),
        "num_hidden_layers": n_layer,
        "num_key_value_heads": max(checkpoint.key("attention.head_count_kv")),
        "rms_norm_eps": checkpoint.key("attention.layer_norm_rms_epsilon"),
        "rope_theta": checkpoint.key("rope.freq_base"),
        "tie_word_embeddings": "output.weight" not in checkpoint.shapes,
        "vocab_size": checkpoint.shapes["token_embd.weight"][0],
    }


def logits(checkpoint: Checkpoint, tensors: Arrays, tokens: Array) -> Array:
    """Return the logits of all tokens of a text."""
    values = config(checkpoint)
    state, eps = published(checkpoint, values, tensors), values["rms_norm_eps"]

    x = state["model.embed_tokens.weight"][tokens]
    for i in range(values["num_hidden_layers"]):
        layer = layer_of(state, f"model.layers.layers.{i}.")
        mixer = layer_of(layer, "mixer.")
        h = rms(x, with_offset(layer, "pre_mixer_norm", 1), eps)
        if "qkv_proj.weight" in mixer:
            window = None if i in values["full_attention_idx"] else values["attention_window_size"]
            y = attention(values, mixer, h, window)
        else:
            y = mamba(values, mixer, h)
        x = x + rms(y, with_offset(layer, "post_mixer_norm", 1 / 5), eps)
        gate, up = np.split(
            rms(x, with_offset(layer, "pre_mlp_norm", 1), eps) @ layer["mlp.gate_up_proj.weight"].T, 2, -1
        )
        y = (silu(gate) * up) @ layer["mlp.down_proj.weight"].T
        x = x + rms(y, with_offset(layer, "post_mlp_norm", 1 / 5**1.5), eps)
    output = state.get("lm_head.weight", state["model.embed_tokens.weight"])
    return rms(x, with_offset(state, "model.norm", 1), eps) @ output.T


def with_offset(tensors: Arrays, name: str, offset: float) -> Array:
    """Return the weight of a norm plus a number that float32 has."""
    return tensors[f"{name}.weight"] + float(np.float32(offset))


def attention(values: dict[str, Any], mixer: Arrays, x: Array, window: int | None) -> Array:
    """Return the attention of a layer."""
    size, n_head, n_kv = (values[key] for key in ("hidden_size_per_head", "num_attention_heads", "num_key_value_heads"))
    rows = x @ mixer["qkv_proj.weight"].T
    q, k, v = np.split(rows, [n_head * size, (n_head + n_kv) * size], -1)
    q, k, v = by_head(q, n_head), by_head(k, n_kv), by_head(v, n_kv)
    q, k = rms(q, mixer["q_weight"][:, None], HEAD_EPS), rms(k, mixer["k_weight"][:, None], HEAD_EPS)
    a = causal(rotated(q, values["rope_theta"]), rotated(k, values["rope_theta"]), v, window=window)
    return a @ mixer["o_proj.weight"].T


def mamba(values: dict[str, Any], mixer: Arrays, x: Array) -> Array:
    """Return the Mamba block of a layer, token by token, with a state ``(n_head, size, n_state)``."""
    n_head, size, n_state = (values[key] for key in ("mamba_num_heads", "hidden_size_per_head", "mamba_d_state"))
    kernel, eps, n = mixer["conv1d.weight"][:, 0], values["rms_norm_eps"], len(x)
    both = (x @ mixer["in_proj.weight"].T).reshape(n, n_head, 2 * size)
    z, inner = both[..., :size], both[..., size:].reshape(n, -1)
    padded = np.concatenate([np.zeros((kernel.shape[1] - 1, inner.shape[1])), inner])
    inner = silu(np.array([(padded[t : t + kernel.shape[1]].T * kernel).sum(-1) for t in range(n)]))

    b, c, rank = np.split(inner @ mixer["bcdt_proj.weight"].T, [n_state, 2 * n_state], -1)
    b, c = rms(b, mixer["B_norm_weight"], eps), rms(c, mixer["C_norm_weight"], eps)
    steps = np.logaddexp(0, rms(rank, mixer["dt_norm_weight"], eps) @ mixer["dt_proj.weight"].T + mixer["dt_bias"])
    decay, state, rows = -np.exp(mixer["A_log"]), np.zeros((n_head, size, n_state)), []
    for t, value in enumerate(inner.reshape(n, n_head, size)):
        state = state * np.exp(steps[t] * decay)[:, None, None]
        state = state + (steps[t][:, None] * value)[..., None] * b[t]
        rows.append((state @ c[t] + mixer["D"][:, None] * value) * silu(z[t]))
    return np.array(rows).reshape(n, -1) @ mixer["out_proj.weight"].T
