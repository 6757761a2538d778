"""Checkpoints of the architecture ``qwen3``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.bert import ranker

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
    "rope.freq_base": 50000.0,
}
YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 64,
}
NORMS = layers.vectors("attn_norm", "ffn_norm")
PLAIN = {**NORMS, **layers.attention(HEADS, norms=True), **layers.gated_ffn(96)}
FUSED = {**NORMS, **layers.attention(HEADS, norms=True, fused=True), **layers.gated_ffn(96)}
BIASES = {**FUSED, **layers.biases(FUSED, "attn_qkv", "attn_output")}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint("qwen3", "qwen3", KEYS, layers.model([PLAIN] * 4), refused={"rope.scaling.type": "cubic"}),
    checkpoint("qwen3-yarn", "qwen3", KEYS | YARN, layers.model([BIASES] * 4, tied=True)),
    ranker(
        "qwen3-reranker",
        "qwen3",
        KEYS,
        {**layers.model([PLAIN] * 4, tied=True), "cls.output.weight": (1, layers.N_EMBD)},
    ),
)
