"""Checkpoints of the architecture ``olmoe``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.olmo2 import HEADS, KEYS, joint_norms

EXPERTS = {"expert_count": 8, "expert_used_count": 3, "feed_forward_length": 32}
ATTENTION = {**layers.vectors("attn_norm", "ffn_norm"), **layers.attention(HEADS), **joint_norms(HEADS)}
BIASES = layers.biases(ATTENTION, "attn_q", "attn_k", "attn_v", "attn_output")

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "olmoe",
        "olmoe",
        KEYS | EXPERTS,
        layers.model([{**ATTENTION, **layers.experts(8, 32)}] * 4),
        refused={"rope.scaling.type": "cubic", "expert_gating_func": 9, "expert_used_count": 9},
    ),
    checkpoint(
        "olmoe-normalised-fused",
        "olmoe",
        KEYS | EXPERTS | {"expert_weights_norm": True},
        layers.model([{**ATTENTION, **BIASES, **layers.experts(8, 32, fused=True)}] * 4, tied=True),
    ),
)
