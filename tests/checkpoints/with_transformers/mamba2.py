"""The architecture ``mamba2`` as transformers' Mamba-2."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Mamba2Config, Mamba2ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    n_head = checkpoint.key("ssm.time_step_rank")
    config = Mamba2Config(
        **recurrent_fields(checkpoint),
        num_heads=n_head,
        head_dim=checkpoint.key("ssm.inner_size") // n_head,
        n_groups=checkpoint.key("ssm.group_count"),
        use_bias="blk.0.ssm_in.bias" in tensors,
    )
    return load_folder(Mamba2ForCausalLM, config, checkpoint, tensors)


def recurrent_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields that the configs of Mamba and Mamba-2 have."""
    n_embd = checkpoint.key("embedding_length")
    return {
        "vocab_size": checkpoint.shapes["token_embd.weight"][0],
        "hidden_size": n_embd,
        "num_hidden_layers": checkpoint.key("block_count"),
        "layer_norm_epsilon": checkpoint.key("attention.layer_norm_rms_epsilon"),
        "state_size": checkpoint.key("ssm.state_size"),
        "conv_kernel": checkpoint.key("ssm.conv_kernel"),
        "expand": checkpoint.key("ssm.inner_size") // n_embd,
        "tie_word_embeddings": "output.weight" not in checkpoint.shapes,
    }
