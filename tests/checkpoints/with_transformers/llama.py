"""The architecture ``llama`` as transformers' Llama."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, halves, load, rename, split_qkv


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = LlamaConfig(
        **common(checkpoint),
        attention_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_up.bias" in tensors,
    )
    tensors = split_qkv(checkpoint, tensors)
    for name, tensor in tensors.items():
        if ".attn_q." in name or ".attn_k." in name:
            tensors[name] = halves(
                tensor, config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
            )
    return load(LlamaForCausalLM, config, rename(tensors))
