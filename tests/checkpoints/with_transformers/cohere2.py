"""The architecture ``cohere2`` as transformers' Cohere2."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cohere2Config, Cohere2ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, layer_types, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Cohere2Config(
        **fields_of(checkpoint, tensors),
        sliding_window=checkpoint.key("attention.sliding_window"),
        layer_types=layer_types(checkpoint),
    )
    return load_folder(Cohere2ForCausalLM, config, checkpoint, tensors)


def fields_of(checkpoint: Checkpoint, tensors: Tensors) -> dict[str, Any]:
    """Return the fields of a config that all models of Cohere have."""
    fields = common(checkpoint)
    fields["rope_parameters"]["rope_type"] = "default"
    return fields | {
        "layer_norm_eps": checkpoint.key("attention.layer_norm_epsilon"),
        "logit_scale": checkpoint.key("logit_scale"),
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "eos_token_id": 2,
    }
