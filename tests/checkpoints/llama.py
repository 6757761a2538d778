"""Checkpoints of the architecture ``llama``."""

from checkpoints import Checkpoint, checkpoint, layers

HEADS = layers.HeadSizes()
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 5000.0,
    "rope.dimension_count": HEADS.size,
}
NORMS = layers.vectors("attn_norm", "ffn_norm")
PLAIN = {**NORMS, **layers.attention(HEADS), **layers.gated_ffn(96)}
FUSED = {**NORMS, **layers.attention(HEADS, fused=True), **layers.gated_ffn(96)}
BIASES = {**PLAIN, **layers.biases(PLAIN)}

EXPERTS = {"expert_count": 4, "expert_used_count": 2}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint("llama", "llama", KEYS, layers.model([PLAIN] * 4), refused={"rope.scaling.type": "cubic"}),
    checkpoint("llama-biases-tied", "llama", KEYS, layers.model([BIASES] * 4, tied=True)),
    checkpoint("llama-fused", "llama", KEYS, layers.model([{**FUSED, **layers.biases(FUSED)}] * 4)),
    checkpoint(
        "llama-factors",  # like Llama 3.1, with another scale of scores
        "llama",
        KEYS | {"attention.scale": 0.125},
        {**layers.model([PLAIN] * 4), "rope_freqs.weight": (HEADS.size // 2,)},
        has_config=False,  # random factors
    ),
    checkpoint(
        "llama-values",  # with values of another size than keys
        "llama",
        KEYS | {"block_count": 2, "attention.key_length": HEADS.size, "attention.value_length": 2 * HEADS.size},
        layers.model([{**PLAIN, **layers.attention(HEADS._replace(value_size=2 * HEADS.size))}] * 2),
        has_config=False,
    ),
    checkpoint(
        "llama-experts",  # like Mixtral
        "llama",
        KEYS | EXPERTS,
        layers.model([{**NORMS, **layers.attention(HEADS), **layers.experts(4, 96)}] * 4),
        refused={"expert_gating_func": 9},
    ),
)
