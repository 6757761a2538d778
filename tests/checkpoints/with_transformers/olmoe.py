"""The architecture ``olmoe`` as transformers' OLMoE."""

from __future__ import annotations

import torch
from transformers import OlmoeConfig, OlmoeForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = OlmoeConfig(
        **common(checkpoint),
        num_experts=checkpoint.key("expert_count"),
        num_experts_per_tok=checkpoint.key("expert_used_count"),
        norm_topk_prob=checkpoint.metadata.get("olmoe.expert_weights_norm", False),
        attention_bias="blk.0.attn_q.bias" in tensors,
    )
    return load_folder(OlmoeForCausalLM, config, checkpoint, tensors)
