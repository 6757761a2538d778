"""The architecture ``qwen35moe`` as transformers' Qwen3.5-MoE."""

from __future__ import annotations

import torch
from transformers import Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder
from checkpoints.with_transformers.qwen35 import expert_fields


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Qwen3_5MoeTextConfig(**expert_fields(checkpoint))
    return load_folder(Qwen3_5MoeForCausalLM, config, checkpoint, tensors)
