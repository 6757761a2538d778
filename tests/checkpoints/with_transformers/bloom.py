"""The architecture ``bloom`` as transformers' BLOOM."""

from __future__ import annotations

import torch
from transformers import BloomConfig, BloomForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    n_head = checkpoint.key("attention.head_count")
    config = BloomConfig(
        vocab_size=checkpoint.shapes["token_embd.weight"][0],
        hidden_size=checkpoint.key("embedding_length"),
        n_layer=checkpoint.key("block_count"),
        n_head=n_head,
        layer_norm_epsilon=checkpoint.key("attention.layer_norm_epsilon"),
    )
    return load_folder(BloomForCausalLM, config, checkpoint, tensors)
