"""Conversions to the architectures ``deepseek2`` and ``mistral4``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamafw import checkpoints as c

GATING = {"softmax": 1, "sigmoid": 2}  # GGUF's numbers
ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_output": "self_attn.o_proj",
}
FEED_FORWARD = {
    "ffn_norm": "post_attention_layernorm",
    **c.FEED_FORWARD,
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}


@dataclass(frozen=True)
class SplitKeysAndValues(c.Change):
    """The matrix that makes keys and values of latent rows, ``(n_head · (n_key + n_value), n_latent)``.

    GGUF has ``attn_k_b`` ``(n_head, n_latent, n_key)`` and ``attn_v_b`` ``(n_head, n_value, n_latent)``.
    """

    n_head: int
    n_key: int
    n_value: int

    def forward(self, arrays: Sequence[c.Array]) -> list[c.Array]:
        """Return the halves."""
        heads = arrays[0].reshape(self.n_head, self.n_key + self.n_value, -1)
        return [heads[:, : self.n_key].swapaxes(1, 2), heads[:, self.n_key :]]

    def backward(self, arrays: Sequence[c.Array]) -> list[c.Array]:
        """Return the matrix."""
        keys, values = arrays
        joined = np.concatenate([keys.swapaxes(1, 2), values], 1)
        return [joined.reshape(-1, joined.shape[-1])]


def deepseek2(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``DeepseekV2ForCausalLM`` or ``DeepseekV3ForCausalLM``."""
    return _conversion(config, "deepseek2", _gating(config), c.experts())


def glm4_moe_lite(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Glm4MoeLiteForCausalLM``, which is DeepSeek-V3 with other defaults."""
    n_layer, n_dense = config.integer("num_hidden_layers"), config.integer("first_k_dense_replace", default=1, low=0)
    usual = ["dense" if i < n_dense else "sparse" for i in range(n_layer)]
    types = config.list("mlp_layer_types", n=n_layer, default=usual)
    n_dense = types.index("sparse") if "sparse" in types else n_layer
    if types != ["dense"] * n_dense + ["sparse"] * (n_layer - n_dense):
        config.fail("mlp_layer_types", "is not supported; it must have dense layers, and sparse ones after them")
    own = {"rms_norm_eps": 1e-5, "routed_scaling_factor": 1.8, "norm_topk_prob": True, "n_shared_experts": 1}
    values = {key: value for key, value in config.values.items() if key != "first_k_dense_replace"}
    config = c.Config(config.path, values | {"first_k_dense_replace": n_dense}, config.prefix).with_defaults(**own)
    return _conversion(config, "deepseek2", _gating(config), c.experts())


def mistral4(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Mistral4ForCausalLM``."""
    section = c.rope_section(config)
    growth = {
        "attention.temperature_scale": section.number("llama_4_scaling_beta"),
        "attention.temperature_length": section.integer("original_max_position_embeddings"),
    }
    return _conversion(config, "mistral4", growth, c.fused_experts())


def _conversion(config: c.Config, architecture: str, more: dict[str, Any], experts: list[c.Rule]) -> c.Conversion:
    config.require("hidden_act", "silu", default="silu")
    config.require("rope_interleave", True, default=True)
    config.require("moe_layer_freq", 1, default=1)
    n_head = config.integer("num_attention_heads")
    plain, rotated = config.integer("qk_nope_head_dim"), config.integer("qk_rope_head_dim")
    value, latent = config.integer("v_head_dim"), config.integer("kv_lora_rank")
    section = c.rope_section(config)
    rope = c.rope(config, n_rotated=rotated)
    return c.Conversion(
        architecture,
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config),
            **rope.metadata,
            **_magnitude(section),
            "attention.head_count_kv": 1,
            "attention.key_length": latent + rotated,
            "attention.value_length": latent,
            "attention.key_length_mla": plain + rotated,
            "attention.value_length_mla": value,
            "attention.kv_lora_rank": latent,
            "attention.q_lora_rank": config.get("q_lora_rank"),
            **_experts(config),
            **more,
        },
        [
            *c.ends(),
            *c.layers({**ATTENTION, **FEED_FORWARD}),
            c.rule(
                ("blk.{i}.attn_k_b.weight", "blk.{i}.attn_v_b.weight"),
                "model.layers.{i}.self_attn.kv_b_proj.weight",
                SplitKeysAndValues(n_head, plain, value),
            ),
            c.rule("blk.{i}.exp_probs_b.bias", "model.layers.{i}.mlp.gate.e_score_correction_bias"),
            *experts,
            *c.prediction_layers(),
        ],
        extra=rope.tensors,
    )


def _magnitude(section: c.Config) -> dict[str, Any]:
    """Return YaRN's factor on scores as GGUF has it, which is equal on both sides of the products."""
    of_all = section.number("mscale_all_dim", default=0.0)
    if not of_all:
        return {}
    section.require("mscale", of_all)
    return {"rope.scaling.yarn_log_multiplier": 0.1 * of_all, "rope.scaling.yarn_attn_factor": None}


def _gating(config: c.Config) -> dict[str, Any]:
    """Return the keys of the choice of experts."""
    is_v3 = config.get("topk_method", default="noaux_tc") == "noaux_tc"
    name = config.text("scoring_func", default="sigmoid" if is_v3 else "softmax")
    if name not in GATING:
        config.fail("scoring_func", f"is {name!r}; it must be softmax or sigmoid")
    return {"expert_gating_func": GATING[name]}


def _experts(config: c.Config) -> dict[str, Any]:
    return {
        "leading_dense_block_count": config.integer("first_k_dense_replace", default=0, low=0),
        "expert_count": config.integer("n_routed_experts"),
        "expert_used_count": config.integer("num_experts_per_tok"),
        "expert_shared_count": config.integer("n_shared_experts", default=0, low=0),
        "expert_feed_forward_length": config.integer("moe_intermediate_size"),
        "expert_weights_scale": config.number("routed_scaling_factor", default=1.0),
        "expert_weights_norm": config.flag("norm_topk_prob", default=False),
        **_expert_groups(config),
    }


def _expert_groups(config: c.Config) -> dict[str, Any]:
    """Return the keys of groups of experts, of which only the best are considered."""
    n_group = config.integer("n_group", default=1)
    if n_group == 1 or config.get("topk_method") == "greedy":
        return {}
    return {"expert_group_count": n_group, "expert_group_used_count": config.integer("topk_group")}
