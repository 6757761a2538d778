"""The architecture ``eurobert`` as transformers' EuroBERT."""

from __future__ import annotations

import torch
from transformers import EuroBertConfig, EuroBertModel

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load, rename


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    state = rename(tensors, prefix="")
    del state["lm_head.weight"]
    fields = common(checkpoint)
    fields["rope_parameters"] = {"rope_type": "default", "rope_theta": checkpoint.key("rope.freq_base")}
    return load(EuroBertModel, EuroBertConfig(**fields, pad_token_id=0), state)
