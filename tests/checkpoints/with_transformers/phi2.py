"""The architecture ``phi2`` as transformers' Phi."""

from __future__ import annotations

import torch
from transformers import PhiConfig, PhiForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = common(checkpoint)
    size = fields.pop("head_dim")
    fields["rope_parameters"]["partial_rotary_factor"] = checkpoint.key("rope.dimension_count") / size
    config = PhiConfig(**fields, layer_norm_eps=checkpoint.key("attention.layer_norm_epsilon"))
    return load_folder(PhiForCausalLM, config, checkpoint, tensors)
