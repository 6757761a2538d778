"""Checkpoints of the architecture ``ernie4_5-moe``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.granitemoe import shared
from checkpoints.seed_oss import HEADS, SIZES
from checkpoints.smollm3 import KEYS, NORMS

EXPERTS = {
    "block_count": 4,
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_feed_forward_length": 32,
    "expert_shared_count": 2,
    "expert_shared_feed_forward_length": 64,
    "interleave_moe_layer_step": 2,
    "leading_dense_block_count": 2,
}
ATTENTION = {**NORMS, **layers.attention(HEADS)}
DENSE = {**ATTENTION, **layers.gated_ffn(96)}
CHOSEN = {**ATTENTION, **layers.experts(8, 32), "exp_probs_b.bias": (8,)}
SPARSE = {**CHOSEN, **shared(64)}
BIASED = {**SPARSE, **layers.biases(ATTENTION), **layers.biases(shared(64))}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "ernie4_5-moe",
        "ernie4_5-moe",
        KEYS | SIZES | EXPERTS,
        layers.model([DENSE, DENSE, DENSE, SPARSE], tied=True),
        refused={"rope.scaling.type": "cubic", "expert_used_count": 9, "interleave_moe_layer_step": 0},
    ),
    checkpoint(
        "ernie4_5-moe-biases",
        "ernie4_5-moe",
        KEYS | SIZES | EXPERTS | {"block_count": 2, "interleave_moe_layer_step": 1, "leading_dense_block_count": 1},
        layers.model([{**DENSE, **layers.biases(DENSE)}, BIASED]) | {"output.bias": (320,)},
    ),
    checkpoint(
        "ernie4_5-moe-chosen",  # without a shared expert
        "ernie4_5-moe",
        KEYS
        | SIZES
        | EXPERTS
        | {
            "block_count": 2,
            "interleave_moe_layer_step": 1,
            "leading_dense_block_count": 0,
            "expert_shared_count": 0,
            "expert_shared_feed_forward_length": 0,
        },
        layers.model([CHOSEN] * 2),
    ),
)
