"""The architecture ``bitnet`` as transformers' BitNet with SiLU."""

from __future__ import annotations

import torch
from transformers import BitNetConfig, BitNetForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors, function: str = "silu") -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint; scales become part of the matrices."""
    fields = common(checkpoint)
    fields["rope_parameters"] = {"rope_type": "default", "rope_theta": checkpoint.key("rope.freq_base")}
    config = BitNetConfig(**fields, hidden_act=function, attention_bias="blk.0.attn_q.bias" in tensors)
    scaled = {
        name: tensor * tensors.get(f"{name.removesuffix('.weight')}.scale", 1.0)
        for name, tensor in tensors.items()
        if not name.endswith(".scale")
    }
    return load_folder(BitNetForCausalLM, config, checkpoint, scaled)
