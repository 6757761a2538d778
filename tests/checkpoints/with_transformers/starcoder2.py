"""The architecture ``starcoder2`` as transformers' StarCoder2."""

from __future__ import annotations

import torch
from transformers import Starcoder2Config, Starcoder2ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Starcoder2Config(
        **common(checkpoint),
        norm_epsilon=checkpoint.key("attention.layer_norm_epsilon"),
        sliding_window=checkpoint.metadata.get("starcoder2.attention.sliding_window"),
        use_bias="blk.0.attn_q.bias" in tensors,
        bos_token_id=1,
        eos_token_id=2,
    )
    return load_folder(Starcoder2ForCausalLM, config, checkpoint, tensors)
