"""Checkpoints of the architecture ``gemma``."""

from checkpoints import Checkpoint, checkpoint, layers

HEADS = layers.HeadSizes(n=4, n_kv=1, size=32)
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.key_length": HEADS.size,
    "attention.value_length": HEADS.size,
    "attention.layer_norm_rms_epsilon": 1e-6,
}
LAYER = {**layers.vectors("attn_norm", "ffn_norm"), **layers.attention(HEADS), **layers.gated_ffn(96)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint("gemma", "gemma", KEYS, layers.model([LAYER] * 4, tied=True), refused={"rope.scaling.type": "cubic"}),
)
