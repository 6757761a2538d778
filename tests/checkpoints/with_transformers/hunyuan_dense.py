"""The architecture ``hunyuan-dense`` as transformers' Hunyuan."""

from __future__ import annotations

import torch
from transformers import HunYuanDenseV1Config, HunYuanDenseV1ForCausalLM

from checkpoints import Checkpoint
from checkpoints.hunyuan_dense import ALPHA, BASE
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = common(checkpoint)
    if fields["rope_parameters"]["rope_theta"] == BASE:
        fields["rope_parameters"] = {"rope_type": "dynamic", "alpha": ALPHA, "factor": 1.0, "rope_theta": 10_000.0}
    config = HunYuanDenseV1Config(**fields, attention_bias="blk.0.attn_q.bias" in tensors)
    return load_folder(HunYuanDenseV1ForCausalLM, config, checkpoint, tensors)
