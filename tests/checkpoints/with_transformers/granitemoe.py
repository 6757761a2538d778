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
from checkpoints.with_transformers import Tensors, load
from checkpoints.with_transformers.granite import expert_fields, state_of


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config, state = expert_fields(checkpoint), state_of(checkpoint, tensors)
    if config["shared_intermediate_size"]:
        return load(GraniteMoeSharedForCausalLM, GraniteMoeSharedConfig(**config), state)
    return load(GraniteMoeForCausalLM, GraniteMoeConfig(**config), state)
