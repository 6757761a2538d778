"""The architecture ``mistral4`` as transformers' Mistral 4."""

from __future__ import annotations

import torch
from transformers import Mistral4Config, Mistral4ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder
from checkpoints.with_transformers.deepseek2 import fields_of


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = fields_of(checkpoint)
    fields["rope_parameters"]["llama_4_scaling_beta"] = checkpoint.key("attention.temperature_scale")
    return load_folder(Mistral4ForCausalLM, Mistral4Config(**fields), checkpoint, tensors)
