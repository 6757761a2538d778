"""The architecture ``command-r`` as transformers' Cohere."""

from __future__ import annotations

import torch
from transformers import CohereConfig, CohereForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder
from checkpoints.with_transformers.cohere2 import fields_of


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = fields_of(checkpoint, tensors) | {"use_qk_norm": "blk.0.attn_q_norm.weight" in tensors}
    return load_folder(CohereForCausalLM, CohereConfig(**fields), checkpoint, tensors)
