"""The architecture ``lfm2moe`` as transformers' LFM2-MoE."""

from __future__ import annotations

import torch
from transformers import Lfm2MoeConfig, Lfm2MoeForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder
from checkpoints.with_transformers.lfm2 import fields


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Lfm2MoeConfig(
        **fields(checkpoint),
        num_dense_layers=checkpoint.key("leading_dense_block_count"),
        moe_intermediate_size=checkpoint.key("expert_feed_forward_length"),
        num_experts=checkpoint.key("expert_count"),
        num_experts_per_tok=checkpoint.key("expert_used_count"),
    )
    return load_folder(Lfm2MoeForCausalLM, config, checkpoint, tensors)
