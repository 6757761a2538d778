"""The architecture ``minicpm`` as transformers' Granite, which computes the same."""

from __future__ import annotations

import torch
from transformers import GraniteConfig, GraniteForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load, rename
from checkpoints.with_transformers.granite import fields
from checkpoints.with_transformers.internlm2 import in_halves


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    found, has_biases = fields(checkpoint), "blk.0.ffn_up.bias" in tensors
    if "minicpm.embedding_scale" not in checkpoint.metadata:  # the factors of MiniCPM-2B's config.json
        n_layer, n_embd = checkpoint.key("block_count"), checkpoint.key("embedding_length")
        found["embedding_multiplier"] = 12
        found["residual_multiplier"] = 1.4 / n_layer**0.5
        found["logits_scaling"] = n_embd / 256
    config = GraniteConfig(**found, attention_bias=has_biases, mlp_bias=has_biases)
    return load(GraniteForCausalLM, config, rename(in_halves(checkpoint, tensors)))
