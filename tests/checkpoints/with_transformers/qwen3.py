"""The architecture ``qwen3`` as transformers' Qwen3."""

from __future__ import annotations

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = Qwen3Config(**common(checkpoint), attention_bias="blk.0.attn_output.bias" in tensors)
    if checkpoint.output == "logits":
        return load_folder(Qwen3ForCausalLM, config, checkpoint, tensors)
    config.num_labels = len(tensors["cls.output.weight"])
    return load_folder(Qwen3ForSequenceClassification, config, checkpoint, tensors)
