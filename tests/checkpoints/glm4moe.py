"""Checkpoints of the architecture ``glm4moe``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers
from checkpoints.glm4 import HEADS, KEYS, prediction
from checkpoints.granitemoe import shared

EXPERTS = {
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_feed_forward_length": 32,
    "expert_weights_scale": 2.5,
    "leading_dense_block_count": 1,
}
NORMS = layers.vectors("attn_norm", "post_attention_norm")


def layer(n_shared: int, *, dense: bool = False, bias: bool = False) -> Shapes:
    """Return the shapes of a layer, with norms of heads and biases or without both."""
    attention = layers.attention(HEADS, norms=bias)
    biases = layers.biases(attention, "attn_q", "attn_k", "attn_v") if bias else {}
    experts = {**layers.experts(8, 32), "exp_probs_b.bias": (8,), **shared(32 * n_shared)}
    return {**NORMS, **attention, **biases, **(layers.gated_ffn(96) if dense else experts)}


RANGES = {"*.exp_probs_b.bias": (-0.2, 0.2)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "glm4moe",
        "glm4moe",
        KEYS | EXPERTS | {"expert_shared_count": 1, "expert_gating_func": 2, "expert_weights_norm": True},
        layers.model([layer(1, dense=True, bias=True), *[layer(1, bias=True)] * 3]),
        ranges=RANGES,
        refused={"rope.scaling.type": "cubic", "expert_gating_func": 9, "expert_used_count": 9},
    ),
    checkpoint(
        "glm4moe-groups-nextn",
        "glm4moe",
        KEYS
        | EXPERTS
        | {
            "expert_shared_count": 2,
            "expert_weights_norm": False,
            "expert_group_count": 4,
            "expert_group_used_count": 2,
            "nextn_predict_layers": 1,
        },
        layers.model([layer(2, dense=True), layer(2), layer(2), prediction(layer(2))]),
        ranges=RANGES,
        optional=("*.bias", "output.weight", "*.nextn.eh_proj.weight", "*.nextn.shared_head_norm.weight"),
    ),
)
