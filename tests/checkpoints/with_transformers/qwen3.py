"""The architecture ``qwen3`` as transformers' Qwen3."""

from __future__ import annotations

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load, rename, split_qkv


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Qwen3Config(**common(checkpoint), attention_bias="blk.0.attn_output.bias" in tensors)
    return load(Qwen3ForCausalLM, config, rename(split_qkv(checkpoint, tensors)))
