"""The architecture ``olmo2`` as transformers' OLMo 2, or as its OLMo 3 if it has windows."""

from __future__ import annotations

import torch
from transformers import Olmo2Config, Olmo2ForCausalLM, Olmo3Config, Olmo3ForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, layer_types, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    fields = common(checkpoint)
    fields["attention_bias"] = "blk.0.attn_q.bias" in tensors
    if "olmo2.attention.sliding_window" not in checkpoint.metadata:
        return load_folder(Olmo2ForCausalLM, Olmo2Config(**fields), checkpoint, tensors)
    full = fields.pop("rope_parameters")
    base = checkpoint.metadata.get("olmo2.rope.freq_base_swa", full["rope_theta"])
    local = {"rope_type": "default", "rope_theta": base}
    config = Olmo3Config(
        **fields,
        rope_parameters={"full_attention": full, "sliding_attention": local},
        sliding_window=checkpoint.key("attention.sliding_window"),
        layer_types=layer_types(checkpoint),
    )
    return load_folder(Olmo3ForCausalLM, config, checkpoint, tensors)
