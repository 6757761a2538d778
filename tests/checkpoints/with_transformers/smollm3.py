"""The architecture ``smollm3`` as transformers' SmolLM3."""

from __future__ import annotations

from typing import Any

import torch
from transformers import SmolLM3Config, SmolLM3ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = SmolLM3Config(**fields(checkpoint, tensors), pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return load_folder(SmolLM3ForCausalLM, config, checkpoint, tensors)


def fields(checkpoint: Checkpoint, tensors: Tensors) -> dict[str, Any]:
    """Return the fields of a config, with biases if the checkpoint has them."""
    biases = {"attention_bias": "blk.0.attn_q.bias" in tensors, "mlp_bias": "blk.0.ffn_up.bias" in tensors}
    return {**common(checkpoint), **biases}
