"""Conversions to the architectures ``nemotron_h`` and ``nemotron_h_moe``."""

from __future__ import annotations

from typing import Any

from llamafw import checkpoints as c

KINDS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
NAMES_OF_KINDS = {"linear_attention": "mamba", "full_attention": "attention"}  # of transformers 5
LAYER = {
    "attn_norm": "norm",
    "attn_q": "mixer.q_proj",
    "attn_k": "mixer.k_proj",
    "attn_v": "mixer.v_proj",
    "attn_output": "mixer.o_proj",
    "ffn_up": "mixer.up_proj",
    "ffn_down": "mixer.down_proj",
    "ffn_gate_inp": "mixer.gate",
    "ffn_up_shexp": "mixer.shared_experts.up_proj",
    "ffn_down_shexp": "mixer.shared_experts.down_proj",
    "ffn_latent_down": "mixer.fc1_latent_proj",
    "ffn_latent_up": "mixer.fc2_latent_proj",
}
EXPERTS = {"ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
BLOCK = "backbone.layers.{i}"


def nemotron_h(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``NemotronHForCausalLM``."""
    config.require("mlp_hidden_act", "relu2", default="relu2")
    kinds, n_group = _kinds(config), config.integer("n_groups")
    has_experts = "moe" in kinds
    return c.Conversion(
        "nemotron_h_moe" if has_experts else "nemotron_h",
        {**_metadata(config, kinds), **(_experts(config) if has_experts else {})},
        [
            *c.ends(root="backbone.", embedding="embeddings", norm="norm_f"),
            *c.mamba2_rules(f"{BLOCK}.mixer", n_group),
            *c.layers(LAYER, layer=BLOCK),
            c.rule("blk.{i}.exp_probs_b.bias", f"{BLOCK}.mixer.gate.e_score_correction_bias"),
            *c.expert_rules(EXPERTS, "mixer.experts.{e}", BLOCK),
            *(c.rule(f"blk.{{i}}.{role}.weight", f"{BLOCK}.mixer.experts.{name}") for role, name in EXPERTS.items()),
        ],
        aliases={"model.": "backbone."},
        skipped=("mtp.*",),
    )


def _kinds(config: c.Config) -> list[str]:
    """Return the kind of each layer: mamba, attention, mlp or moe."""
    if config.has("hybrid_override_pattern"):
        pattern = config.text("hybrid_override_pattern")
        if unknown := set(pattern) - KINDS.keys():
            config.fail("hybrid_override_pattern", f"has {min(unknown)!r}, which is not a kind of layer")
        kinds = [KINDS[letter] for letter in pattern]
    else:
        names = [str(one) for one in config.list("layers_block_type")]
        kinds = [NAMES_OF_KINDS.get(one, one) for one in names]
        if unknown := set(kinds) - set(KINDS.values()):
            config.fail("layers_block_type", f"has {min(unknown)!r}, which is not a kind of layer")
    n_layer = config.integer("num_hidden_layers", default=len(kinds))
    if len(kinds) != n_layer:
        config.fail("num_hidden_layers", f"is {n_layer}, but there are {len(kinds)} kinds of layers")
    return kinds


def _metadata(config: c.Config, kinds: list[str]) -> dict[str, Any]:
    n_head, n_kv = config.integer("num_attention_heads"), config.integer("num_key_value_heads")
    size = config.integer("head_dim", "attention_head_dim")
    n_ff = {
        "mlp": config.integer("intermediate_size", default=0, low=0),
        "moe": config.integer("moe_intermediate_size", default=0, low=0),
    }
    n_ssm = config.integer("mamba_num_heads")
    return {
        "vocab_size": config.integer("vocab_size"),
        "context_length": config.integer("max_position_embeddings"),
        "embedding_length": config.integer("hidden_size"),
        "block_count": len(kinds),
        "feed_forward_length": [n_ff.get(kind, 0) for kind in kinds],
        "attention.head_count": n_head,
        "attention.head_count_kv": [n_kv if kind == "attention" else 0 for kind in kinds],
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.layer_norm_rms_epsilon": config.number("layer_norm_epsilon", "rms_norm_eps"),
        "ssm.conv_kernel": config.integer("conv_kernel"),
        "ssm.group_count": config.integer("n_groups"),
        "ssm.state_size": config.integer("ssm_state_size"),
        "ssm.time_step_rank": n_ssm,
        "ssm.inner_size": n_ssm * config.integer("mamba_head_dim"),
    }


def _experts(config: c.Config) -> dict[str, Any]:
    return {
        "expert_count": config.integer("n_routed_experts"),
        "expert_used_count": config.integer("num_experts_per_tok"),
        "expert_feed_forward_length": config.integer("moe_intermediate_size"),
        "expert_shared_feed_forward_length": config.integer("moe_shared_expert_intermediate_size"),
        "expert_shared_count": config.integer("n_shared_experts", default=1),
        "expert_weights_norm": config.flag("norm_topk_prob", default=True),
        "expert_weights_scale": config.number("routed_scaling_factor", default=1.0),
        "expert_group_count": config.integer("n_group", default=1),
        "moe_latent_size": config.get("moe_latent_size"),
    }
