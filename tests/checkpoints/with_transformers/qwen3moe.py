"""The architecture ``qwen3moe`` as transformers' Qwen3-MoE."""

from __future__ import annotations

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Qwen3MoeConfig(
        **common(checkpoint),
        moe_intermediate_size=checkpoint.key("expert_feed_forward_length"),
        num_experts=checkpoint.key("expert_count"),
        num_experts_per_tok=checkpoint.key("expert_used_count"),
        norm_topk_prob=True,
    )
    return load_folder(Qwen3MoeForCausalLM, config, checkpoint, tensors)
