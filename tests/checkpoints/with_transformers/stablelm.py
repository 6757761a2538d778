"""The architecture ``stablelm`` as transformers' StableLM."""

from __future__ import annotations

import torch
from transformers import StableLmConfig, StableLmForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = common(checkpoint)
    fields["rope_parameters"]["partial_rotary_factor"] = checkpoint.key("rope.dimension_count") / fields["head_dim"]
    config = StableLmConfig(
        **fields,
        layer_norm_eps=checkpoint.key("attention.layer_norm_epsilon"),
        use_qkv_bias="blk.0.attn_q.bias" in tensors,
        qk_layernorm="blk.0.attn_q_norm.weight" in tensors,
        use_parallel_residual="blk.0.ffn_norm.weight" not in tensors,
    )
    return load_folder(StableLmForCausalLM, config, checkpoint, tensors)
