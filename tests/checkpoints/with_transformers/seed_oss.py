"""The architecture ``seed_oss`` as transformers' Seed-OSS."""

from __future__ import annotations

import torch
from transformers import SeedOssConfig, SeedOssForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder
from checkpoints.with_transformers.smollm3 import fields


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    has_output_bias = "blk.0.attn_output.bias" in tensors
    config = SeedOssConfig(**fields(checkpoint, tensors), attention_out_bias=has_output_bias)
    return load_folder(SeedOssForCausalLM, config, checkpoint, tensors)
