"""The architecture ``qwen35`` as transformers' Qwen3.5, and what ``qwen35moe`` and ``qwen3next`` share with it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    return load_folder(Qwen3_5ForCausalLM, Qwen3_5TextConfig(**fields(checkpoint)), checkpoint, tensors)


def fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of a config."""
    found, is_recurrent = common(checkpoint), recurrent_layers(checkpoint)
    n_head = checkpoint.key("ssm.time_step_rank")
    found["rope_parameters"] |= {"partial_rotary_factor": checkpoint.key("rope.dimension_count") / found["head_dim"]}
    if sections := checkpoint.metadata.get(f"{checkpoint.architecture}.rope.dimension_sections"):
        found["rope_parameters"] |= {"mrope_section": sections[:3], "mrope_interleaved": True}
    return {
        **found,
        "num_hidden_layers": len(is_recurrent),
        "layer_types": ["linear_attention" if one else "full_attention" for one in is_recurrent],
        "linear_conv_kernel_dim": checkpoint.key("ssm.conv_kernel"),
        "linear_key_head_dim": checkpoint.key("ssm.state_size"),
        "linear_value_head_dim": checkpoint.key("ssm.inner_size") // n_head,
        "linear_num_key_heads": checkpoint.key("ssm.group_count"),
        "linear_num_value_heads": n_head,
    }


def expert_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of a config with experts."""
    return {
        **fields(checkpoint),
        "moe_intermediate_size": checkpoint.key("expert_feed_forward_length"),
        "shared_expert_intermediate_size": checkpoint.key("expert_shared_feed_forward_length"),
        "num_experts": checkpoint.key("expert_count"),
        "num_experts_per_tok": checkpoint.key("expert_used_count"),
    }


def recurrent_layers(checkpoint: Checkpoint) -> list[bool]:
    """Return which layers are delta nets, without the blocks that predict a second token."""
    keys = {key.partition(".")[2]: value for key, value in checkpoint.metadata.items()}
    n_layer, interval = (
        keys["block_count"] - keys.get("nextn_predict_layers", 0),
        keys.get("full_attention_interval", 4),
    )
    listed: list[bool] = keys.get("attention.recurrent_layers", [i % interval < interval - 1 for i in range(n_layer)])
    return listed
