"""The architecture ``qwen3next`` as transformers' Qwen3-Next."""

from __future__ import annotations

import torch
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder
from checkpoints.with_transformers.qwen35 import expert_fields


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Qwen3NextConfig(**expert_fields(checkpoint), decoder_sparse_step=1)
    return load_folder(Qwen3NextForCausalLM, config, checkpoint, tensors)
