"""The architecture ``deepseek2`` as transformers' DeepSeek-V3, or as its DeepSeek-V2 if gating is softmax."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import EXPERTS, Tensors, common, fuse_experts, load, rename

NAMES = {
    **EXPERTS,
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "exp_probs_b": "mlp.gate.e_score_correction",  # and the suffix _bias
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    n_layer = checkpoint.key("block_count") - optional(checkpoint, "nextn_predict_layers", 0)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"blk.{n_layer}.")}
    state = rename(fuse_experts(join_halves(tensors)), NAMES)
    state = {name.replace("correction.bias", "correction_bias"): tensor for name, tensor in state.items()}
    fields = fields_of(checkpoint) | {"num_hidden_layers": n_layer}
    if optional(checkpoint, "expert_gating_func", 1) == 2:
        return load(DeepseekV3ForCausalLM, DeepseekV3Config(**fields, num_mtp_layers=0), state)
    method = "group_limited_greedy" if fields["n_group"] > 1 else "greedy"
    return load(DeepseekV2ForCausalLM, DeepseekV2Config(**fields, topk_method=method), state)


def fields_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of a config that all versions have."""
    fields = common(checkpoint)
    del fields["head_dim"]
    suffix = "_mla" if optional(checkpoint, "attention.key_length_mla", 0) else ""
    n_rot = checkpoint.key("rope.dimension_count")
    if (multiplier := optional(checkpoint, "rope.scaling.yarn_log_multiplier", 0.0)) > 0:
        fields["rope_parameters"] |= {"mscale": 10 * multiplier, "mscale_all_dim": 10 * multiplier}
    return fields | {
        "num_key_value_heads": fields["num_attention_heads"],
        "q_lora_rank": optional(checkpoint, "attention.q_lora_rank", None),
        "kv_lora_rank": checkpoint.key("attention.kv_lora_rank"),
        "qk_rope_head_dim": n_rot,
        "qk_nope_head_dim": checkpoint.key(f"attention.key_length{suffix}") - n_rot,
        "v_head_dim": checkpoint.key(f"attention.value_length{suffix}"),
        "n_routed_experts": checkpoint.key("expert_count"),
        "num_experts_per_tok": checkpoint.key("expert_used_count"),
        "moe_intermediate_size": checkpoint.key("expert_feed_forward_length"),
        "n_shared_experts": optional(checkpoint, "expert_shared_count", 0),
        "first_k_dense_replace": checkpoint.key("leading_dense_block_count"),
        "norm_topk_prob": optional(checkpoint, "expert_weights_norm", False),
        "routed_scaling_factor": optional(checkpoint, "expert_weights_scale", 1.0),
        "n_group": optional(checkpoint, "expert_group_count", 1),
        "topk_group": optional(checkpoint, "expert_group_used_count", 1),
    }


def optional(checkpoint: Checkpoint, name: str, default: Any) -> Any:
    """Return the value of a metadata key, or a default."""
    return checkpoint.metadata.get(f"{checkpoint.architecture}.{name}", default)


def join_halves(tensors: Tensors) -> Tensors:
    """Return the tensors with ``attn_k_b`` and ``attn_v_b`` joined to ``attn_kv_b``."""
    result = {}
    for name, tensor in tensors.items():
        if ".attn_k_b." in name:
            halves = [tensor.mT, tensors[name.replace(".attn_k_b.", ".attn_v_b.")]]  # (n_head, size, n_latent)
            result[name.replace(".attn_k_b.", ".attn_kv_b.")] = torch.cat(halves, 1).flatten(0, 1)
        elif ".attn_v_b." not in name:
            result[name] = tensor
    return result
