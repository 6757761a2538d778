"""The architecture ``falcon`` as transformers' Falcon."""

from __future__ import annotations

import torch
from transformers import FalconConfig, FalconForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder, rope_parameters


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    n_head, n_kv = (checkpoint.key(f"attention.head_count{suffix}") for suffix in ("", "_kv"))
    n_norms = 2 if "blk.0.attn_norm_2.weight" in tensors else 1
    config = FalconConfig(
        vocab_size=checkpoint.shapes["token_embd.weight"][0],
        hidden_size=checkpoint.key("embedding_length"),
        num_hidden_layers=checkpoint.key("block_count"),
        num_attention_heads=n_head,
        num_kv_heads=n_kv,
        layer_norm_epsilon=checkpoint.key("attention.layer_norm_epsilon"),
        new_decoder_architecture=n_kv > 1,
        num_ln_in_parallel_attn=n_norms,
        bias="blk.0.attn_output.bias" in tensors,
        rope_parameters=rope_parameters(checkpoint),
        tie_word_embeddings="output.weight" not in tensors,
    )
    return load_folder(FalconForCausalLM, config, checkpoint, tensors)
