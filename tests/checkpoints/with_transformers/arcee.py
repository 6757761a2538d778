"""The architecture ``arcee`` as transformers' Arcee."""

from __future__ import annotations

import torch
from transformers import ArceeConfig, ArceeForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder
from checkpoints.with_transformers.smollm3 import fields


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = ArceeConfig(**fields(checkpoint, tensors), bos_token_id=1, eos_token_id=2)
    return load_folder(ArceeForCausalLM, config, checkpoint, tensors)
