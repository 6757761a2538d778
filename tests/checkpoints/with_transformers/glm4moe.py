"""The architecture ``glm4moe`` as transformers' GLM-4.5."""

from __future__ import annotations

import torch
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder
from checkpoints.with_transformers.glm4 import fields


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    keys = {key.partition(".")[2]: value for key, value in checkpoint.metadata.items()}
    config = Glm4MoeConfig(
        **fields(checkpoint, tensors),
        moe_intermediate_size=keys["expert_feed_forward_length"],
        num_experts_per_tok=keys["expert_used_count"],
        n_shared_experts=keys["expert_shared_count"],
        n_routed_experts=keys["expert_count"],
        routed_scaling_factor=keys["expert_weights_scale"],
        n_group=keys.get("expert_group_count", 1),
        topk_group=keys.get("expert_group_used_count", 1),
        first_k_dense_replace=keys["leading_dense_block_count"],
        norm_topk_prob=keys["expert_weights_norm"],
        use_qk_norm="blk.0.attn_q_norm.weight" in tensors,
    )
    return load_folder(Glm4MoeForCausalLM, config, checkpoint, tensors)
