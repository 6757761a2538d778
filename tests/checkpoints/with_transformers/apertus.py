"""The architecture ``apertus`` as transformers' Apertus."""

from __future__ import annotations

import torch
from transformers import ApertusConfig, ApertusForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    factors = tensors.pop("rope_freqs.weight", None)
    config = ApertusConfig(**common(checkpoint), attention_bias="blk.0.attn_q.bias" in tensors)
    model = load_folder(ApertusForCausalLM, config, checkpoint, tensors)
    if factors is not None:
        model.model.rotary_emb.inv_freq /= factors
    return model
