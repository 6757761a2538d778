"""The architecture ``gemma-embedding`` as transformers' Gemma 3 without a causal mask."""

from __future__ import annotations

import torch
from transformers import Gemma3TextConfig, Gemma3TextModel

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = common(checkpoint)
    local = {"rope_type": "default", "rope_theta": checkpoint.key("rope.freq_base_swa")}
    config = Gemma3TextConfig(
        **fields | {"rope_parameters": {"full_attention": fields["rope_parameters"], "sliding_attention": local}},
        query_pre_attn_scalar=fields["head_dim"],
        sliding_window=checkpoint.key("attention.sliding_window"),
        use_bidirectional_attention=True,
    )
    return load_folder(Gemma3TextModel, config, checkpoint, tensors)
