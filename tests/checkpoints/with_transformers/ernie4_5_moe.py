"""The architecture ``ernie4_5-moe`` as transformers' ERNIE 4.5 with experts."""

from __future__ import annotations

import torch
from transformers import Ernie4_5_MoeConfig, Ernie4_5_MoeForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Ernie4_5_MoeConfig(
        **common(checkpoint),
        use_bias="blk.0.attn_q.bias" in tensors,
        moe_intermediate_size=checkpoint.key("expert_feed_forward_length"),
        moe_k=checkpoint.key("expert_used_count"),
        moe_num_experts=checkpoint.key("expert_count"),
        moe_num_shared_experts=checkpoint.key("expert_shared_count"),
        moe_layer_start_index=checkpoint.key("leading_dense_block_count"),
        moe_layer_interval=checkpoint.key("interleave_moe_layer_step"),
    )
    return load_folder(Ernie4_5_MoeForCausalLM, config, checkpoint, tensors)
