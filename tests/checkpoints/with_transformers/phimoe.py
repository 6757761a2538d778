"""The architecture ``phimoe`` as transformers' PhiMoE."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import PhimoeConfig, PhimoeForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = common(checkpoint)
    is_long = "rope_factors_long.weight" in tensors
    if is_long:
        rope, factor = fields["rope_parameters"], checkpoint.key("rope.scaling.attn_factor")
        rope["rope_type"] = "longrope"
        for length in ("short", "long"):
            rope[f"{length}_factor"] = tensors[f"rope_factors_{length}.weight"].tolist()
            rope[f"{length}_mscale"] = factor
    config = PhimoeConfig(
        **fields,
        num_local_experts=checkpoint.key("expert_count"),
        num_experts_per_tok=checkpoint.key("expert_used_count"),
        sliding_window=checkpoint.key("attention.sliding_window") or None,
        attention_bias="blk.0.attn_output.bias" in tensors,
        lm_head_bias="output.bias" in tensors,
    )
    model = load_folder(PhimoeForCausalLM, config, checkpoint, tensors)
    if is_long:
        model.model.rotary_emb.register_forward_pre_hook(_use_length, with_kwargs=True)
    return model


def _use_length(rotary: Any, args: Any, kwargs: Any) -> None:
    """Give the length of a text to the function that chooses the short or long factors.

    Microsoft's code and earlier versions of transformers pass it. Version 5.24 does not, and uses only the short ones.
    """
    length = int(kwargs["position_ids"].max()) + 1
    rotary.rope_init_fn = partial(ROPE_INIT_FUNCTIONS["longrope"], seq_len=length)
