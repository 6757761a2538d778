"""The architecture ``gemma2`` as transformers' Gemma 2."""

from __future__ import annotations

import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, layer_types, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = common(checkpoint)
    size_of_scale = fields["head_dim"]
    if fields["num_hidden_layers"] == 46:  # as google/gemma-2-27b has it
        size_of_scale = fields["hidden_size"] // fields["num_attention_heads"]
    config = Gemma2Config(
        **fields,
        query_pre_attn_scalar=size_of_scale,
        sliding_window=checkpoint.key("attention.sliding_window"),
        layer_types=layer_types(checkpoint),
        attn_logit_softcapping=checkpoint.key("attn_logit_softcapping"),
        final_logit_softcapping=checkpoint.key("final_logit_softcapping"),
    )
    return load_folder(Gemma2ForCausalLM, config, checkpoint, tensors)
