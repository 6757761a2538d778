"""The architecture ``deepseek2`` as transformers' DeepSeek-V3, DeepSeek-V2 if gating is softmax, or GLM-4.7-Flash."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Glm4MoeLiteConfig,
    Glm4MoeLiteForCausalLM,
)

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    n_layer = checkpoint.key("block_count") - optional(checkpoint, "nextn_predict_layers", 0)
    fields = fields_of(checkpoint) | {"num_hidden_layers": n_layer}
    if checkpoint.name == "deepseek2-glm":
        n_dense = fields.pop("first_k_dense_replace")
        types = ["dense"] * n_dense + ["sparse"] * (n_layer - n_dense)
        return load_folder(
            Glm4MoeLiteForCausalLM, Glm4MoeLiteConfig(**fields, mlp_layer_types=types), checkpoint, tensors
        )
    if optional(checkpoint, "expert_gating_func", 1) == 2:
        return load_folder(DeepseekV3ForCausalLM, DeepseekV3Config(**fields, num_mtp_layers=0), checkpoint, tensors)
    method = "group_limited_greedy" if fields["n_group"] > 1 else "greedy"
    return load_folder(DeepseekV2ForCausalLM, DeepseekV2Config(**fields, topk_method=method), checkpoint, tensors)


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
