"""The architecture ``gemma3`` as transformers' Gemma 3."""

from __future__ import annotations

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, layer_types, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields, keys = common(checkpoint), checkpoint.metadata
    size_of_scale = fields["head_dim"]
    if fields["num_hidden_layers"] == 62:  # as google/gemma-3-27b-it has it
        size_of_scale = fields["hidden_size"] // fields["num_attention_heads"]
    local = {"rope_type": "default"}
    if "gemma3.rope.freq_base_swa" in keys:
        local["rope_theta"] = keys["gemma3.rope.freq_base_swa"]
    config = Gemma3TextConfig(
        **fields | {"rope_parameters": {"full_attention": fields["rope_parameters"], "sliding_attention": local}},
        query_pre_attn_scalar=size_of_scale,
        sliding_window=checkpoint.key("attention.sliding_window"),
        layer_types=layer_types(checkpoint),
        final_logit_softcapping=keys.get("gemma3.final_logit_softcapping"),
    )
    return load_folder(Gemma3ForCausalLM, config, checkpoint, tensors)
