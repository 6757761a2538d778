"""Checkpoints of the architecture ``qwen2moe``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers
from checkpoints.qwen2 import HEADS, KEYS, NORMS
from checkpoints.qwen35moe import EXPERTS, experts


def layer(*, fused: bool) -> Shapes:
    """Return the shapes of a layer, with fused tensors or without."""
    attention = layers.attention(HEADS, fused=fused)
    names = ["attn_qkv"] if fused else ["attn_q", "attn_k", "attn_v"]
    return {**NORMS, **attention, **layers.biases(attention, *names), **experts(fused=fused, squeezed=not fused)}


CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "qwen2moe",
        "qwen2moe",
        KEYS | EXPERTS,
        layers.model([layer(fused=False)] * 4),
        refused={"rope.scaling.type": "cubic", "expert_gating_func": 9, "attention.sliding_window": 16},
    ),
    checkpoint(
        "qwen2moe-normalised-fused",
        "qwen2moe",
        KEYS | EXPERTS | {"expert_weights_norm": True},
        layers.model([layer(fused=True)] * 4, tied=True),
    ),
)
