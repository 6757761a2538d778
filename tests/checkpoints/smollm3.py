"""Checkpoints of the architecture ``smollm3``."""

from checkpoints import Checkpoint, checkpoint, layers

HEADS = layers.HeadSizes()
KEYS = {
    "block_count": 8,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 5000.0,
    "rope.dimension_count": HEADS.size,
}
NORMS = layers.vectors("attn_norm", "ffn_norm")
LAYER = {**NORMS, **layers.attention(HEADS), **layers.gated_ffn(96)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "smollm3",
        "smollm3",
        KEYS,
        layers.model([LAYER] * 8, tied=True),
        refused={"rope.scaling.type": "cubic", "attention.scale": -1.0},
    ),
    checkpoint(
        "smollm3-biases",
        "smollm3",
        KEYS | {"block_count": 4},
        layers.model([{**LAYER, **layers.biases(LAYER)}] * 4),
    ),
)
