"""The architecture ``qwen2moe`` as transformers' Qwen2-MoE."""

from __future__ import annotations

import torch
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Qwen2MoeConfig(
        **common(checkpoint),
        num_experts=checkpoint.key("expert_count"),
        num_experts_per_tok=checkpoint.key("expert_used_count"),
        moe_intermediate_size=checkpoint.key("expert_feed_forward_length"),
        shared_expert_intermediate_size=checkpoint.key("expert_shared_feed_forward_length"),
        norm_topk_prob=checkpoint.metadata.get("qwen2moe.expert_weights_norm", False),
    )
    return load_folder(Qwen2MoeForCausalLM, config, checkpoint, tensors)
