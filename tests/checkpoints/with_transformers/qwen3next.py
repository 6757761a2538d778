"""The architecture ``qwen3next`` as transformers' Qwen3-Next."""

from __future__ import annotations

import torch
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load
from checkpoints.with_transformers.qwen35 import expert_fields, state_of


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Qwen3NextConfig(**expert_fields(checkpoint), decoder_sparse_step=1)
    return load(Qwen3NextForCausalLM, config, state_of(checkpoint, fuse_inputs(checkpoint, tensors)))


def fuse_inputs(checkpoint: Checkpoint, tensors: Tensors) -> Tensors:
    """Return the tensors with queries, keys, values and z as one, in which the rows of a group are side by side."""
    n_group = checkpoint.key("ssm.group_count")
    n_keys, n_values = n_group * checkpoint.key("ssm.state_size"), checkpoint.key("ssm.inner_size")
    result = {}
    for name, tensor in tensors.items():
        z = tensors.get(name.replace("attn_qkv", "attn_gate"))
        if "attn_qkv" in name and z is not None:
            parts = [*tensor.split([n_keys, n_keys, n_values]), z]
            rows = torch.cat([part.reshape(n_group, -1, tensor.shape[1]) for part in parts], dim=1)
            result[name.replace("attn_qkv", "ssm_in")] = rows.reshape(-1, tensor.shape[1])
        elif "attn_gate" not in name:
            result[name] = tensor
    return result
