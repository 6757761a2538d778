"""The architecture ``gpt2`` as transformers' GPT-2."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = GPT2Config(
        vocab_size=checkpoint.shapes["token_embd.weight"][0],
        n_positions=checkpoint.key("context_length"),
        n_embd=checkpoint.key("embedding_length"),
        n_layer=checkpoint.key("block_count"),
        n_head=checkpoint.key("attention.head_count"),
        n_inner=checkpoint.key("feed_forward_length"),
        layer_norm_epsilon=checkpoint.key("attention.layer_norm_epsilon"),
        tie_word_embeddings="output.weight" not in tensors,
    )
    return load_folder(GPT2LMHeadModel, config, checkpoint, tensors)
