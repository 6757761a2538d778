"""The architecture ``exaone4`` as transformers' EXAONE 4.0."""

from __future__ import annotations

import torch
from transformers import Exaone4Config, Exaone4ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, layer_types, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = common(checkpoint)
    fields["num_hidden_layers"] -= checkpoint.metadata.get("exaone4.nextn_predict_layers", 0)
    window = checkpoint.metadata.get("exaone4.attention.sliding_window")
    types = layer_types(checkpoint) if window else ["full_attention"] * fields["num_hidden_layers"]
    config = Exaone4Config(**fields, sliding_window=window, layer_types=types)
    return load_folder(Exaone4ForCausalLM, config, checkpoint, tensors)
