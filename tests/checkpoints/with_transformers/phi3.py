"""The architecture ``phi3`` as transformers' Phi-3."""

from __future__ import annotations

import torch
from transformers import Phi3Config, Phi3ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = common(checkpoint)
    size = fields.pop("head_dim")
    original = checkpoint.key("rope.scaling.original_context_length")
    fields["rope_parameters"]["partial_rotary_factor"] = checkpoint.key("rope.dimension_count") / size
    if "rope_factors_short.weight" in tensors:
        factors = {
            f"{length}_factor": tensors[f"rope_factors_{length}.weight"].tolist() for length in ("short", "long")
        }
        fields["rope_parameters"] |= {"rope_type": "longrope", **factors}
    config = Phi3Config(
        **fields,
        original_max_position_embeddings=original,
        sliding_window=checkpoint.key("attention.sliding_window") or None,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return load_folder(Phi3ForCausalLM, config, checkpoint, tensors)
