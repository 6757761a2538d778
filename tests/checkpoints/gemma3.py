"""Checkpoints of the architecture ``gemma3``."""

from checkpoints import Checkpoint, checkpoint, layers

HEADS = layers.HeadSizes(n=4, n_kv=2, size=32)
KEYS = {
    "block_count": 8,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.key_length": HEADS.size,
    "attention.value_length": HEADS.size,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.sliding_window": 16,
    "rope.freq_base": 100000.0,
}
SCALED = {
    "rope.scaling.type": "linear",
    "rope.scaling.factor": 8.0,
    "rope.freq_base_swa": 5000.0,
    "final_logit_softcapping": 10.0,
    "attention.sliding_window_pattern": 4,
}
NORMS = layers.vectors("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
LAYER = {**NORMS, **layers.attention(HEADS, norms=True), **layers.gated_ffn(96)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "gemma3",
        "gemma3",
        KEYS,
        layers.model([LAYER] * 8, tied=True),
        refused={"rope.scaling.type": "cubic", "attn_logit_softcapping": 50.0},
    ),
    checkpoint("gemma3-scaled", "gemma3", KEYS | SCALED, layers.model([LAYER] * 8, tied=True)),
    checkpoint(
        "gemma3-27b",  # has 62 layers, by which its scale of scores is known
        "gemma3",
        {**KEYS, "block_count": 62},
        layers.model([LAYER] * 62),
    ),
)
