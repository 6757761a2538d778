"""Checkpoints of the architecture ``seed_oss``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.smollm3 import KEYS

HEADS = layers.HeadSizes(size=32)
SIZES = {"attention.key_length": 32, "attention.value_length": 32, "rope.dimension_count": 32, "block_count": 4}
BLOCKS = {**layers.attention(HEADS), **layers.gated_ffn(96)}
LAYER = {**layers.vectors("attn_norm", "post_attention_norm"), **BLOCKS}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "seed_oss",
        "seed_oss",
        KEYS | SIZES,
        layers.model([{**LAYER, **layers.biases(BLOCKS, "attn_q", "attn_k", "attn_v")}] * 4),
        refused={"rope.scaling.type": "cubic", "rope.dimension_count": 7},
    ),
    checkpoint(
        "seed_oss-biases-tied",
        "seed_oss",
        KEYS | SIZES | {"block_count": 2},
        layers.model([{**LAYER, **layers.biases(BLOCKS)}] * 2, tied=True),
    ),
)
