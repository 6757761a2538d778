"""Conversion to the architecture ``plamo2``."""

from __future__ import annotations

from llamafw import checkpoints as c

BLOCK = "model.layers.layers.{i}"
NORMS = {
    "attn_norm.weight": ("pre_mixer_norm", 1.0),
    "post_attention_norm": ("post_mixer_norm", 1 / 5),
    "ffn_norm.weight": ("pre_mlp_norm", 1.0),
    "post_ffw_norm": ("post_mlp_norm", 5**-1.5),
}
"""GGUF's names of the norms of a layer, those of checkpoints, and the number that the original adds to the weights."""

LAYER = {
    "attn_qkv": "mixer.qkv_proj",
    "attn_output": "mixer.o_proj",
    "ssm_in": "mixer.in_proj",
    "ssm_x": "mixer.bcdt_proj",
    "ssm_out": "mixer.out_proj",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}
TENSORS = {
    "attn_q_norm.weight": "q_weight",
    "attn_k_norm.weight": "k_weight",
    "ssm_dt.weight": "dt_proj.weight",
    "ssm_dt.bias": "dt_bias",
    "ssm_d": "D",
    "ssm_dt_norm": "dt_norm_weight",
    "ssm_b_norm": "B_norm_weight",
    "ssm_c_norm": "C_norm_weight",
}


def plamo2(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Plamo2ForCausalLM``."""
    n_layer, size = config.integer("num_hidden_layers"), config.integer("hidden_size_per_head", default=128)
    n_head, n_kv = config.integer("num_attention_heads"), config.integer("num_key_value_heads", default=4)
    n_mamba_head, rope = config.integer("mamba_num_heads", default=64), c.rope(config, size)
    has_attention = _attention_layers(config, n_layer)
    metadata = {
        "vocab_size": config.integer("vocab_size"),
        "context_length": config.integer("max_position_embeddings", default=2048),
        "embedding_length": config.integer("hidden_size"),
        "block_count": n_layer,
        "feed_forward_length": config.integer("intermediate_size"),
        "attention.head_count": n_head,  # of all layers: llama.cpp rotates nothing if the first layer has no heads
        "attention.head_count_kv": [n_kv if one else 0 for one in has_attention],
        "attention.key_length": size,
        "attention.value_length": size,
        **c.rms_eps(config),
        **rope.metadata,
        **_windows(config, has_attention),
        "ssm.conv_kernel": config.integer("mamba_d_conv", default=4),
        "ssm.inner_size": n_mamba_head * size,
        "ssm.state_size": config.integer("mamba_d_state", default=64),
        "ssm.time_step_rank": n_mamba_head,
        "ssm.group_count": 0,
    }
    rules = [
        c.rule("token_embd.weight", "model.embed_tokens.weight"),
        c.rule("output_norm.weight", "model.norm.weight", c.Add(1)),
        c.rule("output.weight", "lm_head.weight"),
        *(
            c.rule(f"blk.{{i}}.{name}", f"{BLOCK}.{source}.weight", c.Add(number))
            for name, (source, number) in NORMS.items()
        ),
        *c.renames(LAYER, BLOCK),
        *(c.rule(f"blk.{{i}}.{name}", f"{BLOCK}.mixer.{source}") for name, source in TENSORS.items()),
        c.rule("blk.{i}.ssm_conv1d.weight", f"{BLOCK}.mixer.conv1d.weight", c.Squeeze()),
        c.rule("blk.{i}.ssm_a", f"{BLOCK}.mixer.A_log", c.NegativeExp()),
    ]
    return c.Conversion("plamo2", metadata, rules, extra=rope.tensors)


def _attention_layers(config: c.Config, n_layer: int) -> list[bool]:
    """Return which layers have attention: one of each period, or the last one if there is less than half a period."""
    if not config.flag("mamba_enabled", default=True):
        return [True] * n_layer
    period = config.integer("mamba_step", default=2, low=2)
    if n_layer <= period // 2:
        return [i == n_layer - 1 for i in range(n_layer)]
    return [i % period == period // 2 for i in range(n_layer)]


def _windows(config: c.Config, has_attention: list[bool]) -> dict[str, object]:
    """Return the window of attention, and which layers have it: those that ``full_attention_idx`` does not list."""
    full = config.list("full_attention_idx", default=[])
    is_windowed = [one and i not in full for i, one in enumerate(has_attention)]
    if not any(is_windowed):
        return {}
    return {
        "attention.sliding_window": config.integer("attention_window_size", default=2048),
        "attention.sliding_window_pattern": is_windowed,
    }
