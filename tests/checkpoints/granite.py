"""Checkpoints of the architecture ``granite``."""

from checkpoints import Checkpoint, checkpoint, layers

HEADS = layers.HeadSizes()
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_rms_epsilon": 2**-17,
    "attention.scale": 0.3125,
    "embedding_scale": 1.5,
    "residual_scale": 0.75,
    "logit_scale": 2.0,
    "rope.freq_base": 5000.0,
    "rope.dimension_count": HEADS.size,
}
SCALES = ("attention.scale", "embedding_scale", "residual_scale", "logit_scale")
NORMS = layers.vectors("attn_norm", "ffn_norm")
PLAIN = {**NORMS, **layers.attention(HEADS), **layers.gated_ffn(96)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "granite",
        "granite",
        KEYS,
        layers.model([PLAIN] * 4),
        refused={"rope.scaling.type": "cubic", "attention.scale": -1.0},
    ),
    checkpoint(
        "granite-biases-tied",
        "granite",
        {key: value for key, value in KEYS.items() if key not in SCALES},
        layers.model([{**PLAIN, **layers.biases(PLAIN)}] * 4, tied=True),
    ),
)
