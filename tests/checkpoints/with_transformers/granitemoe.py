"""The architecture ``granitemoe`` as transformers' Granite-MoE, with or without a shared expert."""

from __future__ import annotations

import torch
from transformers import (
    GraniteMoeConfig,
    GraniteMoeForCausalLM,
    GraniteMoeSharedConfig,
    GraniteMoeSharedForCausalLM,
)

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder
from checkpoints.with_transformers.granite import expert_fields


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = expert_fields(checkpoint)
    if config["shared_intermediate_size"]:
        return load_folder(GraniteMoeSharedForCausalLM, GraniteMoeSharedConfig(**config), checkpoint, tensors)
    return load_folder(GraniteMoeForCausalLM, GraniteMoeConfig(**config), checkpoint, tensors)
