"""The architecture ``internlm2`` as transformers' Llama, which computes the same."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, halves, load, rename


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = LlamaConfig(**common(checkpoint), attention_bias="blk.0.attn_q.bias" in tensors)
    return load(LlamaForCausalLM, config, rename(in_halves(checkpoint, tensors)))


def in_halves(checkpoint: Checkpoint, tensors: Tensors) -> Tensors:
    """Return the tensors with the rotated pairs of Q and K in the halves of heads."""
    n_heads = {"attn_q": checkpoint.key("attention.head_count"), "attn_k": checkpoint.key("attention.head_count_kv")}
    roles = {name: name.split(".")[-2] for name in tensors}
    return {
        name: halves(tensor, n_heads[roles[name]]) if roles[name] in n_heads else tensor
        for name, tensor in tensors.items()
    }
