"""Checkpoints of the architecture ``qwen3moe``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.qwen3 import HEADS, KEYS, NORMS

EXPERTS = {"expert_count": 8, "expert_used_count": 3, "expert_feed_forward_length": 32}
ATTENTION = {**NORMS, **layers.attention(HEADS, norms=True)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "qwen3moe",
        "qwen3moe",
        KEYS | EXPERTS,
        layers.model([{**ATTENTION, **layers.experts(8, 32)}] * 4),
        refused={"expert_gating_func": 9, "expert_used_count": 9},
    ),
    checkpoint(
        "qwen3moe-fused",
        "qwen3moe",
        KEYS | EXPERTS | {"block_count": 2},
        layers.model([{**ATTENTION, **layers.experts(8, 32, fused=True)}] * 2),
    ),
)
