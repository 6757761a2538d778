"""The architecture ``qwen2`` as transformers' Qwen2."""

from __future__ import annotations

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    return load_folder(Qwen2ForCausalLM, Qwen2Config(**common(checkpoint)), checkpoint, tensors)
