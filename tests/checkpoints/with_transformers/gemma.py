"""The architecture ``gemma`` as transformers' Gemma."""

from __future__ import annotations

import torch
from transformers import GemmaConfig, GemmaForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = GemmaConfig(**common(checkpoint), hidden_act="gelu_pytorch_tanh")
    return load_folder(GemmaForCausalLM, config, checkpoint, tensors)
