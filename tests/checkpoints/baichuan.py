"""Checkpoints of the architecture ``baichuan``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.smollm3 import KEYS

HEADS = layers.HeadSizes(n_kv=4)
WIDE = layers.HeadSizes(n=6, n_kv=6)  # not a power of two
SIZES = {"block_count": 3, "attention.head_count_kv": HEADS.n_kv}
LAYER = {**layers.vectors("attn_norm", "ffn_norm"), **layers.attention(HEADS), **layers.gated_ffn(96)}
WIDE_LAYER = {
    **layers.vectors("attn_norm", "ffn_norm", n=96),
    **layers.attention(WIDE, n_embd=96),
    **layers.gated_ffn(96, n_embd=96),
}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "baichuan",
        "baichuan",
        KEYS | SIZES,
        layers.model([LAYER] * 3),
        refused={"rope.scaling.type": "cubic", "rope.dimension_count": 7, "attention.max_alibi_bias": -1.0},
    ),
    checkpoint(
        "baichuan-alibi",
        "baichuan",
        KEYS
        | {"block_count": 2, "embedding_length": 96, "attention.head_count": 6, "attention.head_count_kv": 6}
        | {"attention.max_alibi_bias": 8.0},
        layers.model([WIDE_LAYER] * 2, n_embd=96),
    ),
)
