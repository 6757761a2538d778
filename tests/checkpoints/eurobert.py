"""Checkpoints of the architecture ``eurobert``."""

from checkpoints import Checkpoint, checkpoint, layers

HEADS = layers.HeadSizes(n=4, n_kv=2, size=16)
KEYS = {
    "block_count": 3,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.causal": False,
    "rope.freq_base": 250000.0,
    "rope.scaling.type": "none",
}
LAYER = {**layers.vectors("attn_norm", "ffn_norm"), **layers.attention(HEADS), **layers.gated_ffn(96)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "eurobert",
        "eurobert",
        KEYS,
        layers.model([LAYER] * 3, tied=True),
        refused={"rope.scaling.type": "cubic"},
        output="hidden",
    ),
)
