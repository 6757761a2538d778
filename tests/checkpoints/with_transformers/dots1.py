"""The architecture ``dots1`` as transformers' dots.llm1."""

from __future__ import annotations

import torch
from transformers import Dots1Config, Dots1ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Dots1Config(
        **common(checkpoint),
        attention_bias="blk.0.attn_q.bias" in tensors,
        moe_intermediate_size=checkpoint.key("expert_feed_forward_length"),
        first_k_dense_replace=checkpoint.key("leading_dense_block_count"),
        n_routed_experts=checkpoint.key("expert_count"),
        n_shared_experts=checkpoint.key("expert_shared_count"),
        num_experts_per_tok=checkpoint.key("expert_used_count"),
        norm_topk_prob=checkpoint.key("expert_weights_norm"),
        routed_scaling_factor=checkpoint.key("expert_weights_scale"),
        sliding_window=None,
    )
    return load_folder(Dots1ForCausalLM, config, checkpoint, tensors)
