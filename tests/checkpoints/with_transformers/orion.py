"""The architecture ``orion`` as transformers' StableLM, which computes the same if heads are rotated completely."""

from __future__ import annotations

import torch
from transformers import StableLmConfig, StableLmForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load, rename


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = common(checkpoint)
    fields["rope_parameters"]["partial_rotary_factor"] = 1.0
    config = StableLmConfig(**fields, layer_norm_eps=checkpoint.key("attention.layer_norm_epsilon"))
    return load(StableLmForCausalLM, config, rename(tensors))
