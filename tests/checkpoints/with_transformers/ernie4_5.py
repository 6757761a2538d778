"""The architecture ``ernie4_5`` as transformers' ERNIE 4.5."""

from __future__ import annotations

import torch
from transformers import Ernie4_5Config, Ernie4_5ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Ernie4_5Config(**common(checkpoint), use_bias="blk.0.attn_q.bias" in tensors)
    return load_folder(Ernie4_5ForCausalLM, config, checkpoint, tensors)
