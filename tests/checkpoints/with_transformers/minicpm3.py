"""The architecture ``minicpm3`` as transformers' MiniCPM3."""

from __future__ import annotations

import torch
from transformers import MiniCPM3Config, MiniCPM3ForCausalLM

from checkpoints import Checkpoint
from checkpoints.minicpm3 import LATENT, LORA_Q, PLAIN, ROTATED, VALUE
from checkpoints.with_transformers import Tensors, load_folder
from checkpoints.with_transformers.smollm3 import fields


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    found = fields(checkpoint, tensors) | {"attention_bias": "blk.0.attn_q_a.bias" in tensors}
    if "rope_factors_short.weight" in tensors:
        rope = found["rope_parameters"]
        rope |= {f"{name}_factor": tensors[f"rope_factors_{name}.weight"].tolist() for name in ("short", "long")}
        rope["rope_type"] = "longrope"
    config = MiniCPM3Config(
        **found,
        q_lora_rank=LORA_Q,
        kv_lora_rank=LATENT,
        qk_nope_head_dim=PLAIN,
        qk_rope_head_dim=ROTATED,
        v_head_dim=VALUE,
    )
    return load_folder(MiniCPM3ForCausalLM, config, checkpoint, tensors)
