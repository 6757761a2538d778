"""Checkpoints of the architecture ``gemma2``."""

from checkpoints import Checkpoint, checkpoint, layers

HEADS = layers.HeadSizes(n=4, n_kv=2, size=32)
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
    "attention.sliding_window": 16,
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 10.0,
}
NORMS = layers.vectors("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
LAYER = {**NORMS, **layers.attention(HEADS), **layers.gated_ffn(96)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint("gemma2", "gemma2", KEYS, layers.model([LAYER] * 4, tied=True), refused={"rope.scaling.type": "cubic"}),
    checkpoint(
        "gemma2-27b",  # has 46 layers, by which its scale of scores is known
        "gemma2",
        {**KEYS, "block_count": 46, "attention.sliding_window_pattern": [True, False, False] * 15 + [True]},
        layers.model([LAYER] * 46, tied=True),
    ),
)
