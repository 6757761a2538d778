"""The architecture ``gemma3n`` as the text model of transformers' Gemma 3n."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, layer_types, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = common(checkpoint)
    fields["rope_parameters"] = {
        "full_attention": {"rope_type": "default", "rope_theta": checkpoint.key("rope.freq_base")},
        "sliding_attention": {"rope_type": "default", "rope_theta": checkpoint.key("rope.freq_base_swa")},
    }
    config = Gemma3nTextConfig(
        **fields,
        sliding_window=checkpoint.key("attention.sliding_window"),
        layer_types=layer_types(checkpoint),
        num_kv_shared_layers=checkpoint.key("attention.shared_kv_layers"),
        final_logit_softcapping=checkpoint.key("final_logit_softcapping"),
        vocab_size_per_layer_input=fields["vocab_size"],
        hidden_size_per_layer_input=checkpoint.key("embedding_length_per_layer_input"),
        altup_num_inputs=checkpoint.key("altup.num_inputs"),
        altup_active_idx=checkpoint.key("altup.active_idx"),
        laurel_rank=checkpoint.shapes["blk.0.laurel_l.weight"][0],
        activation_sparsity_pattern=[
            0.0 if one == -math.inf else NormalDist().cdf(one) for one in checkpoint.key("activation_sparsity_scale")
        ],
    )
    return load_folder(Gemma3nForCausalLM, config, checkpoint, tensors)
