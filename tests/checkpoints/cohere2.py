"""Checkpoints of the architecture ``cohere2``."""

from checkpoints import Checkpoint, checkpoint, layers

HEADS = layers.HeadSizes()
KEYS = {
    "block_count": 8,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_epsilon": 1e-5,
    "attention.sliding_window": 16,
    "logit_scale": 0.25,
    "rope.freq_base": 5000.0,
    "rope.dimension_count": HEADS.size,
    "rope.scaling.type": "none",
}
LAYER = {**layers.vectors("attn_norm"), **layers.attention(HEADS), **layers.gated_ffn(96)}
BIASES = layers.biases(LAYER, "attn_q", "attn_k", "attn_v", "attn_output")

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "cohere2",
        "cohere2",
        KEYS,
        layers.model([LAYER] * 8, tied=True),
        refused={"rope.scaling.type": "cubic", "attention.sliding_window": 0},
    ),
    checkpoint(
        "cohere2-biases-listed",
        "cohere2",
        KEYS | {"block_count": 4, "attention.sliding_window_pattern": [True, False, False, True]},
        layers.model([{**LAYER, **BIASES}] * 4),
    ),
)
