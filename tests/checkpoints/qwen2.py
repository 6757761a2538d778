"""Checkpoints of the architecture ``qwen2``."""

from checkpoints import Checkpoint, checkpoint, layers

HEADS = layers.HeadSizes()
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 50000.0,
}
NORMS = layers.vectors("attn_norm", "ffn_norm")
PLAIN = {**NORMS, **layers.attention(HEADS), **layers.gated_ffn(96)}
FUSED = {**NORMS, **layers.attention(HEADS, fused=True), **layers.gated_ffn(96)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "qwen2",
        "qwen2",
        KEYS,
        layers.model([{**PLAIN, **layers.biases(PLAIN, "attn_q", "attn_k", "attn_v")}] * 4),
        refused={"rope.scaling.type": "cubic"},
    ),
    checkpoint(
        "qwen2-fused-tied", "qwen2", KEYS, layers.model([{**FUSED, **layers.biases(FUSED, "attn_qkv")}] * 4, tied=True)
    ),
)
